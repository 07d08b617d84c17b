//! When servers are taken out for what live traffic shows of them.

use std::time::Duration;

/// Outlier ejection of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierPlan {
    /// Failures in a row that eject; 0 is none.
    pub consecutive_failures: u32,
    /// Share of failures within the window that ejects, in percent; 0 is none.
    pub failure_percent: u32,
    /// With fewer requests in the window the share says nothing.
    pub min_requests: u64,
    pub window: Duration,
    /// Statuses of answers that count as failures of the server, 500 to 599.
    pub statuses: Vec<u16>,
    /// How long the first ejection in a row lasts; the n-th lasts n times as long.
    pub ejection: Duration,
    /// None lasts longer. A server that does well for so long starts anew.
    pub max_ejection: Duration,
    /// Share of the ready servers that may be ejected at once, in percent.
    pub max_ejected_percent: u32,
    /// Successes that a server that returns has to show before a failure is one of several again; 0 is none.
    pub trial_requests: u64,
}

impl OutlierPlan {
    /// Whether an answer with this status counts as a failure of its server.
    #[must_use]
    pub fn blames(&self, status: u16) -> bool {
        status >= 500 && self.statuses.contains(&status)
    }
}
