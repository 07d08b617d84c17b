//! What an operator sees and does: admin API, metrics, logs, reload, drain, members.

#[path = "../harness/mod.rs"]
mod harness;

mod access_log;
mod admin;
mod asked_drain;
mod drain;
mod drain_deadlines;
mod drain_websockets;
mod membership;
mod metrics;
mod plan;
mod reload;
mod secrets;
mod shutdown;
mod why;
