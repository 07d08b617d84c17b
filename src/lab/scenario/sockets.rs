//! The part of a scenario that has long connections.

use std::time::Duration;

use serde::Deserialize;

use super::duration;

/// Each user of a group keeps a WebSocket open; `rate` is how many of them come in a second.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebSockets {
    /// How often each says something, which the server says back.
    #[serde(deserialize_with = "duration")]
    pub message: Duration,
    /// Whose connection has ended comes back within this, at a random moment.
    #[serde(deserialize_with = "duration")]
    pub reconnect: Duration,
}

impl WebSockets {
    pub(super) fn check(&self) -> Result<(), String> {
        let is_fine = |time: Duration, least: u64| (least..=60_000).contains(&(time.as_millis() as u64));
        if !is_fine(self.message, 10) {
            return Err("[websocket] message: write \"10ms\" to \"1m\"".to_owned());
        }
        if !is_fine(self.reconnect, 0) {
            return Err("[websocket] reconnect: write \"0s\" to \"1m\"".to_owned());
        }
        Ok(())
    }
}
