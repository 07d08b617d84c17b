//! The byte streams of both sides.

mod client;
mod upstream;

pub(super) use client::Client;
pub(super) use upstream::Upstream;
