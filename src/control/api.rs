//! What the admin API takes and gives, as types. The command line reads the same types.

mod deploy;
mod litmus;
mod plan;
mod shadow;
mod why;

use serde::{Deserialize, Serialize};

pub use deploy::{
    AttachDeploy, CanaryStatus, Deploy, DeployPhase, DeployReport, DeployStatus, DeployTurn, EndDeploy, NewCanary,
    NewDeploy, Swap,
};
pub use litmus::{LitmusCookie, LitmusEvidence, LitmusGroup, LitmusStatus, LitmusSymptomStatus};
pub use plan::{NewPlan, Planned, PlannedClients, PlannedRemoval, PlannedUpstream};
pub use shadow::{ShadowPolicyStatus, ShadowStatus, SkewStatus};
pub use why::Explained;

/// `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    /// `starting`, `serving` or `draining`.
    pub phase: String,
    /// Path of the configuration, where there is one.
    pub config: Option<String>,
    /// The file that what operators say is kept in; none where it is lost at a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The process that gets ready to take over from this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeStatus>,
    /// The process before this one, while it still has connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<PredecessorStatus>,
    /// Generation of the Snapshot in force.
    pub generation: u64,
    pub cores: usize,
    pub connections: u64,
    pub listeners: Vec<ListenerStatus>,
    /// In the order of the listeners; empty without TLS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateStatus>,
    /// The proxy that is in front and is not trusted, if there seems to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten_proxy: Option<ForgottenProxy>,
    pub upstreams: Vec<UpstreamStatus>,
}

/// A peer from which most requests come, and which says for whom it asks though nobody trusts it to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForgottenProxy {
    pub peer: String,
    /// Its part of all requests, of which there were so many.
    pub share_percent: f64,
    pub requests: u64,
}

/// A key that takes more than its share of the requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HotKeyStatus {
    /// An address or a network, or `key` and the hash of what it is.
    pub key: String,
    /// The server that it belongs to.
    pub server: String,
    /// Its part of all requests, and how many that is.
    pub share_percent: f64,
    pub requests_per_second: f64,
    /// Whether its users are spread now.
    pub spread: bool,
    /// Seconds since it is hot.
    pub seconds: f64,
}

/// A process that gets ready to take over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpgradeStatus {
    pub pid: u32,
    /// Seconds since it was started.
    pub seconds: f64,
    /// How long it has, in seconds from now.
    pub ends_within_seconds: f64,
}

/// A process that drains because another has taken over from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredecessorStatus {
    pub pid: u32,
    pub version: String,
    /// Seconds since it was taken over from.
    pub seconds: f64,
    /// What it still has: connections of clients, and of those tunnels, and requests in flight.
    pub connections: u64,
    pub tunnels: u64,
    pub in_flight: u64,
    /// Whether it has heard how servers are by now: a moment after each change.
    #[serde(default)]
    pub in_step: bool,
    /// Latest moment at which it ends, in seconds from now.
    pub ends_within_seconds: f64,
}

/// Answer of `POST /upgrade`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The process that has taken over.
    pub pid: u32,
    pub version: String,
    /// How long that took.
    pub seconds: f64,
    /// Connections that the old process still has.
    pub connections_left: u64,
}

/// A certificate that a listener uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    pub listener: String,
    /// The file of the chain.
    pub certificate: String,
    pub names: Vec<String>,
    /// `ecdsa`, `rsa` or `ed25519`.
    pub algorithm: String,
    /// Unix seconds.
    pub expires: i64,
    /// Why the newest files of this listener are not in use, if they are not.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListenerStatus {
    pub name: String,
    /// The address that is really bound (port 0 resolved).
    pub address: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    pub name: String,
    pub policy: String,
    /// Whether no server is healthy and every ready one gets traffic.
    pub failing_open: bool,
    /// Servers of the configuration that an operator has taken out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// What an operator said of it as a whole; absent while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceStatus>,
    /// Requests that wait for a server, where some may have to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueStatus>,
    /// While somebody deploys it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy: Option<DeployStatus>,
    /// While some users meet new servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryStatus>,
    /// While some users are moved on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub litmus: Option<LitmusStatus>,
    /// Keys that take more than their share, the hottest first, where they are looked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hot_keys: Vec<HotKeyStatus>,
    /// How evenly requests were spread lately; absent before there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skew: Option<SkewStatus>,
    /// What other policies would do, where some are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowStatus>,
    pub servers: Vec<ServerStatus>,
}

/// What becomes of requests for an upstream that is not open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// `paused`, `releasing` (those who waited are served at a pace) or `maintenance`.
    pub state: String,
    /// Latest moment at which it is open again, in seconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_within_seconds: Option<f64>,
    /// Requests a second, while it releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// What clients are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// `PUT /upstreams/{upstream}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceChange {
    /// `open`, `paused` or `maintenance`.
    pub service: String,
    /// With `paused`: it ends after this time at the latest, such as `"30s"`.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<String>,
    /// With `open`: how many of those who wait are served in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// With `maintenance`: what clients are told, as plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// With `maintenance`: when they are told to try again, such as `"10m"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
}

/// Who waits, and what became of those who did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Requests that wait now, and the most that may.
    pub waiting: u32,
    pub size: u32,
    /// Requests that had to wait since the start.
    pub queued: u64,
    /// Those that were given up after their time.
    pub timeouts: u64,
    /// Requests that were refused because too many waited.
    pub overflows: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    pub name: String,
    pub address: String,
    /// `starting`, `healthy`, `unhealthy`, `ejected`.
    pub operational: String,
    /// `ready`, `draining`, `drained`, `disabled`.
    pub admin: String,
    /// Who set the administrative state: `operator`, `deploy`, or `server` where it has asked for its drain itself;
    /// empty while it is ready.
    pub set_by: String,
    /// Whether it asks for its drain in its checks or answers, and no operator has said otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks_for_drain: bool,
    /// Share now, and the one configured.
    pub weight: u32,
    pub configured_weight: u32,
    /// Whether it gets new clients only where no other server can take them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
    pub in_flight: u32,
    /// Those of them that the process before this one still has.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub in_flight_of_predecessor: u32,
    /// The most that may be in flight; absent where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    pub tunnels: u64,
    /// Whether its first failure ejects it: it is back from an ejection and has to show that it does well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_trial: bool,
    /// Live sessions of a sticky upstream; none for others.
    pub sessions: Option<usize>,
    pub requests: u64,
    /// Last error of a check, or none.
    pub last_check_error: Option<String>,
    /// Median and 99th percentile from the beginning of a try to the head of its answer, in milliseconds.
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Whether an operator added it: the configuration does not have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub added: bool,
    /// Whether it is taken out once it is drained.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// While it drains.
    pub drain: Option<DrainStatus>,
    /// While it is ejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<EjectionStatus>,
    /// While it is in its slow start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStartStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// Seconds since it began.
    pub seconds: f64,
    pub sessions_left: usize,
    pub in_flight: u32,
    /// Latest moment at which it ends, in seconds from now.
    pub ends_within_seconds: f64,
    /// When the last session will have been idle for long enough if none comes back, in seconds from now;
    /// none where no session holds the drain, or its deadline comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_over_in_seconds: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EjectionStatus {
    /// What live traffic showed, in words.
    pub reason: String,
    /// Seconds since it began.
    pub seconds: f64,
    /// When the server returns, in seconds from now.
    pub ends_within_seconds: f64,
    /// 1 for the first ejection in a row.
    pub number: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlowStartStatus {
    /// Part of its share that the server gets now.
    pub percent: u32,
    /// The most that may be in flight now; absent where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// When it has the whole, in seconds from now.
    pub ends_within_seconds: f64,
}

/// `PUT /upstreams/{upstream}/servers/{server}`: absent fields stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerChange {
    /// `ready`, `draining` or `disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// 0 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Deadlines of this drain instead of the configured ones, such as `"30s"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_idle: Option<String>,
    /// With `ready`: whether what the server asks for itself goes before it. Deploys take back only servers
    /// that want to serve; an operator's own word goes before theirs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub heed: bool,
}

/// When a drain cuts or stops to wait, instead of when the configuration says; such as `"30s"`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadlines {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_idle: Option<String>,
}

impl ServerChange {
    pub(super) fn deadlines(&self) -> Deadlines {
        let Self { admin: _, weight: _, in_flight, sessions_max, sessions_idle, heed: _ } = self.clone();
        Deadlines { in_flight, sessions_max, sessions_idle }
    }
}

/// `POST /upstreams/{upstream}/servers`: a server comes into service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewServer {
    /// The address by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `IP:port`, `host:port` or `unix:/path`. Not needed for one of the configuration that was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// 0 to 1000; by default 1, or what the configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Whether it gets new clients only where no other server can take them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
    /// The most that may be in flight, from 1; that of the upstream by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u64>,
    /// Whether it is only checked, and gets no clients until it is made ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
}

/// Answer of `POST /reload`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    pub generation: u64,
    /// What changed, one line each; empty when nothing did.
    pub changes: Vec<String>,
    pub warnings: Vec<String>,
}

/// Every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// `invalid_config`, `needs_restart`, `not_found`, `bad_request`, `unauthorized`, `forbidden`,
    /// `cannot_bind`, `busy`, `conflict`, `upgrade_failed`, `handed_over`, `internal`.
    pub error: String,
    /// One sentence for people.
    pub message: String,
    /// The rendered report of an invalid configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}
