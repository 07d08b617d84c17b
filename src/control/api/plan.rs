//! What `POST /plan` takes and gives.

use serde::{Deserialize, Serialize};

/// `POST /plan`: what would a reload of this do?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPlan {
    /// What reports call the file.
    pub name: String,
    /// The whole of it.
    pub text: String,
    /// How long clients are looked at, such as `"10s"`, at most five minutes. `"0s"`: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
}

/// Its answer. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// What would change, one line each; empty when nothing would.
    pub changes: Vec<String>,
    /// What cannot change while evenkeel runs. Where there is any of it, a reload is refused as a whole.
    pub needs_restart: Vec<String>,
    pub warnings: Vec<String>,
    /// Seconds for which clients were looked at; 0 where that would have told nothing.
    pub sample_seconds: f64,
    /// Upstreams whose clients or servers it concerns.
    pub upstreams: Vec<PlannedUpstream>,
}

/// What would become of one upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedUpstream {
    pub name: String,
    /// The policy now, and then, where that is another.
    pub policy: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_policy: Option<String>,
    /// Servers that come, and those whose weight changes.
    pub added: Vec<String>,
    pub weighed: Vec<String>,
    /// Servers that go, those among them in whose place another one comes.
    pub removed: Vec<PlannedRemoval>,
    /// Of a policy that keeps each client on a server of its own; none for others, whose clients have none.
    pub clients: Option<PlannedClients>,
    /// Of a sticky upstream: live sessions, and how many of them would come to another server.
    pub sessions: Option<usize>,
    pub sessions_moved: Option<usize>,
}

/// A server that would go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedRemoval {
    pub name: String,
    /// The address of the new server in its place, where only that changes: nobody is there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
    /// Requests and tunnels that are under way now, ...
    pub in_flight: u32,
    pub tunnels: u64,
    /// ... and the seconds after which what is left of them would be cut.
    pub cut_after_seconds: f64,
    /// Live sessions, of a sticky upstream.
    pub sessions: Option<usize>,
}

/// How many clients would come to another server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedClients {
    /// `live`, or `synthetic`: made-up addresses, each with one request, because nobody came.
    pub source: String,
    /// How many were seen, roughly where they were too many to count, ...
    pub clients: u64,
    pub requests: u64,
    /// ... the part of them that would move, ...
    pub moved_percent: f64,
    /// ... how far that may be off in 95 of 100 samples, ...
    pub margin_percent: f64,
    /// ... and the part of the requests that they make.
    pub requests_moved_percent: f64,
}
