//! What is said of a deploy. Nothing in here names a command to run: hooks are their caller's alone.

use serde::{Deserialize, Serialize};

use super::Deadlines;
use serde_json::Value;

/// `POST /upstreams/{upstream}/deploy`: somebody begins to deploy it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDeploy {
    /// Who, for people.
    pub by: String,
    /// `rolling` or `replace`.
    pub kind: String,
    /// In the order of their turns.
    pub servers: Vec<String>,
    /// Who does not report for this long is taken for dead; 15 s by default, 1 s to 10 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// A server that was left out is complained about when it is not healthy after this time; a minute by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_within: Option<String>,
    /// What another command needs to go on. It is kept and given back, and never looked at.
    #[serde(default)]
    pub notes: Value,
}

/// `PUT /upstreams/{upstream}/deploy`: the one who deploys is alive. A report of a phase comes before what it
/// says is begun.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployReport {
    /// What [`Deploy::id`] said.
    pub id: String,
    /// What has changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<DeployTurn>,
    /// In the place of those before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Value>,
}

/// How far a server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployTurn {
    pub server: String,
    pub phase: DeployPhase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployPhase {
    /// Its turn has not come.
    Waiting,
    Draining,
    /// Its hook has begun.
    Hook,
    /// Its hook has ended well.
    Returning,
    Done,
}

impl DeployPhase {
    /// Whether the deploy has taken the server out, or is about to.
    #[must_use]
    pub fn is_out(self) -> bool {
        matches!(self, Self::Draining | Self::Hook | Self::Returning)
    }
}

/// `POST /upstreams/{upstream}/deploy/attach`: somebody goes on with a deploy whose command has died.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachDeploy {
    pub by: String,
    /// As of [`NewDeploy`]; by default what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

/// `DELETE /upstreams/{upstream}/deploy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndDeploy {
    /// Of the one who deploys, once all is in order. Without it the deploy is abandoned, once its command was
    /// silent for the lease: what it has taken out is made ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// `POST /upstreams/{upstream}/swap`: servers come into service and others go, from one moment to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swap {
    /// Healthy servers that are made ready.
    pub take_in: Vec<String>,
    /// Servers that are drained.
    #[serde(default)]
    pub take_out: Vec<String>,
    /// Whether those are removed once they are drained.
    #[serde(default)]
    pub remove: bool,
    /// Deadlines of the drain instead of the configured ones, such as `"30s"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_idle: Option<String>,
}

impl Swap {
    pub(in crate::control) fn deadlines(&self) -> Deadlines {
        let Self { in_flight, sessions_max, sessions_idle, .. } = self.clone();
        Deadlines { in_flight, sessions_max, sessions_idle }
    }
}

/// `PUT /upstreams/{upstream}/canary`: within a deploy, some users meet new servers. `DELETE` ends it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCanary {
    /// Healthy servers that have had no clients.
    pub servers: Vec<String>,
    /// The share of users, 0 to 100.
    pub percent: f64,
    /// Networks whose clients all meet them, such as `"10.0.0.0/8"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// What users are known by, where they have no sticky cookie: `cookie` by default, or `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What `status` says of a canary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CanaryStatus {
    pub servers: Vec<String>,
    pub percent: f64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// `cookie`, `address` or `sticky_cookie`.
    pub by: String,
}

/// What the proxy knows of a deploy: the answer to all that is said of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    /// What reports have to say; another one after somebody else has attached.
    pub id: String,
    pub kind: String,
    pub turns: Vec<DeployTurn>,
    pub notes: Value,
}

/// What `status` says of a deploy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeployStatus {
    pub kind: String,
    pub by: String,
    /// Since it began.
    pub seconds: u64,
    /// Since its command last reported.
    pub silent_seconds: u64,
    /// Whether the command has not reported for so long that it is taken for dead.
    pub orphaned: bool,
    pub turns: Vec<DeployTurn>,
    /// Servers that are out until somebody sees them healthy, and why they are not, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out: Vec<String>,
}
