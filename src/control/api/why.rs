//! What `GET /why/{id}` gives.

use serde::{Deserialize, Serialize};

/// What a core remembers of one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    pub request_id: String,
    pub seconds_ago: f64,
    pub route: Option<String>,
    pub upstream: Option<String>,
    pub policy: Option<String>,
    /// How many servers there were to choose from.
    pub servers: usize,
    /// The last one that was chosen.
    pub server: Option<String>,
    /// `none` (no sessions), `new`, `kept 300s`, or `moved 300s drain`: the age of the pin, and why it moved.
    pub pin: String,
    /// Whether its address or key is hot and spread, so that its user has a place of its own.
    #[serde(default)]
    pub spread: bool,
    /// Servers that were not in the choice, with the reason; as of the last one.
    pub skipped: Vec<(String, String)>,
    /// Servers on which it failed, with the reason.
    pub tried: Vec<(String, String)>,
    pub queued_ms: f64,
    /// 0 where the client had left.
    pub status: u16,
    /// Why there was no answer of a server, if there was none.
    pub reason: Option<String>,
    pub duration_ms: f64,
}
