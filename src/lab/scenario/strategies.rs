//! The part of a scenario that compares ways of keeping sessions.

use std::time::Duration;

use serde::Deserialize;

use super::{Candidate, Limits, duration};
use crate::units;

/// How servers keep sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// Not at all: what the others are compared with.
    None,
    Memory,
    Replicated,
    Store,
    Token,
}

impl Kept {
    /// As `evenkeel origin --sessions` calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Memory => "memory",
            Self::Replicated => "replicated",
            Self::Store => "store",
            Self::Token => "token",
        }
    }
}

/// What is measured of each way of keeping sessions, besides what a run under load shows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strategies {
    /// Bytes that the application has in each session.
    #[serde(deserialize_with = "units::size")]
    pub session: u64,
    /// For how long all of them get requests at the same time, so that their latencies can be compared.
    #[serde(deserialize_with = "duration")]
    pub latency: Duration,
    /// Requests a second of each, meanwhile.
    pub rate: f64,
    /// Numbers of servers with which memory is measured.
    pub servers: Vec<usize>,
    /// Who log in for that.
    pub users: u32,
    /// How long the session lasts whose user is logged out.
    #[serde(deserialize_with = "duration")]
    pub life: Duration,
}

impl Strategies {
    /// How long it takes beside the load: all ways at once, a user who is logged out, and memory, fleet by fleet.
    pub(super) fn planned(&self, candidates: u32, start: Duration) -> Duration {
        let memory = start * self.servers.len() as u32;
        self.latency + start * (candidates + 1) + self.life + memory * candidates
    }

    pub(super) fn check(&self, sessions: bool, policies: &[Candidate], limits: Limits) -> Result<(), String> {
        let fail = |what: String| Err(format!("[strategies] {what}"));
        if !sessions {
            return fail("needs `sessions = true`: there is nothing to compare where nobody logs in".to_owned());
        }
        if let Some(silent) = policies.iter().find(|policy| policy.sessions.is_none()) {
            return fail(format!("policy \"{}\" does not say how `sessions` are kept", silent.name));
        }
        if policies.iter().filter(|policy| policy.sessions == Some(Kept::None)).count() != 1 {
            return fail("compares with one policy that has `sessions = \"none\"`: write exactly one".to_owned());
        }
        if self.session > 64 << 10 {
            return fail(format!("session = \"{}\": 64 KiB at most", units::show_size(self.session)));
        }
        if self.latency < Duration::from_secs(1) || self.latency > Duration::from_secs(120) {
            return fail("latency: write \"1s\" to \"2m\"".to_owned());
        }
        if !self.rate.is_finite() || self.rate <= 0.0 || self.rate > 2000.0 {
            return fail(format!("rate = {}: write the requests of a second, above 0 and up to 2000", self.rate));
        }
        if self.servers.is_empty() || !self.servers.is_sorted() {
            return fail("servers: write at least one number, the smallest first".to_owned());
        }
        if let Some(wrong) = self.servers.iter().find(|count| !(1..=limits.servers).contains(count)) {
            return fail(format!("servers has {wrong}: write 1 to {}", limits.servers));
        }
        if !(1..=20_000).contains(&self.users) {
            return fail(format!("users = {}: write 1 to 20000", self.users));
        }
        if self.life < Duration::from_secs(1) || self.life > Duration::from_secs(60) {
            return fail("life: write \"1s\" to \"1m\"".to_owned());
        }
        Ok(())
    }
}
