//! How evenly requests are spread, and what other policies would make of them.

use serde::{Deserialize, Serialize};

/// How evenly the requests of the last five minutes were spread, or those since servers last came or went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SkewStatus {
    pub seconds: f64,
    pub requests: u64,
    /// How many times its share, by weight, the busiest server got.
    pub max_over_mean: f64,
    /// Jain's fairness index: 1 is even, 1/n is everything on one of n.
    pub jain: f64,
    pub busiest: String,
}

/// What the policies in an upstream's shadow would have done lately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowStatus {
    pub seconds: f64,
    /// What clients are known by: `session` (of the upstream's own cookie), `cookie` (of the application) or
    /// `address` (and User-Agent).
    pub known_by: String,
    /// Clients that are followed, and the part of all clients that they are.
    pub clients: u64,
    pub clients_ratio: f64,
    /// First the upstream's own.
    pub policies: Vec<ShadowPolicyStatus>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowPolicyStatus {
    /// With a number where it is not the first of its name.
    pub policy: String,
    /// Whether this is what really happened.
    pub live: bool,
    /// What of it is an estimate: `load` (what servers would have to do), `clients` (who would have its cookie),
    /// `hot_keys` (which of them would be spread).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approximate: Vec<String>,
    pub requests: u64,
    /// Requests for which it found no server, since the start.
    pub unplaced: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_over_mean: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jain: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busiest: Option<String>,
    /// Of 1,000 requests of clients that are followed, those that went to another server than the client's last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves_per_thousand: Option<f64>,
}
