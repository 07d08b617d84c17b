//! The byte streams of both sides.

mod client;
mod interim;
mod near;
mod wire;

pub(super) use client::Client;
pub(super) use near::Near;
pub(super) use wire::Wire;
