//! What a test tells an origin to do wrong.

use std::time::Duration;

/// How an origin answers, apart from what the path says. Takes effect from the next request on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// Whether `/healthz` says 200; else 503.
    pub healthy: bool,
    /// How long `/healthz` takes.
    pub health_delay: Duration,
    /// How long every other path takes before its answer begins.
    pub delay: Duration,
    /// The status of every path but `/healthz`; none is what the path says.
    pub status: Option<u16>,
    /// Whether every path but `/healthz` ends the connection without an answer.
    pub hang_up: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { healthy: true, health_delay: Duration::ZERO, delay: Duration::ZERO, status: None, hang_up: false }
    }
}
