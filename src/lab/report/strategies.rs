//! The ways of keeping sessions side by side: the textbook's table.

use serde::Serialize;

use super::{PolicyReport, dash, millis};
use crate::lab::run::Measured;
use crate::lab::scenario::{Action, Kept, Scenario, Strategies};
use crate::lab::stats::Difference;
use crate::lab::strategies::{Added, Comparison, MemoryAt, Revoked, Way};

/// What was measured of all ways.
#[derive(Debug, Serialize)]
pub struct StrategiesReport {
    pub session_bytes: u64,
    /// Who logged in for the figures of memory.
    pub users: u32,
    /// How long the session was to last whose user was logged out.
    pub life_seconds: f64,
    /// The candidate that keeps no sessions, with which latencies are compared.
    pub baseline: String,
    /// What the baseline adds to itself, every second request against the others.
    pub noise: AddedReport,
    pub ways: Vec<WayReport>,
    /// Whether it was stopped before its end: what is null was not measured.
    pub stopped: bool,
    /// What did not work.
    pub problems: Vec<String>,
}

/// Latency that was added, in milliseconds, with what the middle 95 % of a bootstrap have shown.
///
/// Nominal: p99 of few hundred requests rests on a handful of them, so its brackets hold the true difference less often,
/// and nothing is corrected for how many there are.
#[derive(Debug, Serialize)]
pub struct AddedReport {
    pub requests: usize,
    pub p50_ms: Option<Difference>,
    pub p99_ms: Option<Difference>,
}

/// One way.
#[derive(Debug, Serialize)]
pub struct WayReport {
    pub policy: String,
    pub sessions: &'static str,
    pub not_run: Option<String>,
    pub added: AddedReport,
    pub memory: Vec<MemoryAt>,
    /// From the kill on, until the deploy where one follows; none where nobody was killed.
    pub lost_on_crash: Option<u64>,
    /// From the deploy on.
    pub lost_on_deploy: Option<u64>,
    pub revoked: Option<Revoked>,
    pub other_service: Option<bool>,
    pub cookie_bytes: Option<usize>,
    pub max_over_mean: Option<f64>,
}

impl From<Added> for AddedReport {
    fn from(added: Added) -> Self {
        Self { requests: added.requests, p50_ms: added.p50, p99_ms: added.p99 }
    }
}

impl StrategiesReport {
    /// Puts together what the runs under load and the comparison have shown.
    #[must_use]
    pub fn of(
        scenario: &Scenario,
        strategies: &Strategies,
        measured: &[Measured],
        reports: &[PolicyReport],
        comparison: Comparison,
    ) -> Self {
        let way = |way: Way| {
            let run = measured.iter().find(|m| m.policy == way.policy);
            let (lost_on_crash, lost_on_deploy) = run.map_or((None, None), |run| lost(scenario, run));
            let report = reports.iter().find(|report| report.policy == way.policy);
            WayReport {
                sessions: way.kept.as_str(),
                not_run: way.not_run,
                added: way.added.into(),
                memory: way.memory,
                lost_on_crash,
                lost_on_deploy,
                revoked: way.revoked,
                other_service: way.other_service,
                cookie_bytes: way.cookie_bytes,
                max_over_mean: report.and_then(|report| report.max_over_mean),
                policy: way.policy,
            }
        };
        Self {
            session_bytes: strategies.session,
            users: strategies.users,
            life_seconds: strategies.life.as_secs_f64(),
            baseline: comparison.baseline,
            noise: comparison.noise.into(),
            stopped: comparison.stopped,
            problems: comparison.problems,
            ways: comparison.ways.into_iter().map(way).collect(),
        }
    }

    /// The rows of a table: a head with the ways, then a row for each question.
    #[must_use]
    pub fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: String, of: &dyn Fn(&WayReport) -> String| -> Vec<String> {
            let cell = |way: &WayReport| if way.not_run.is_some() { "not run".to_owned() } else { of(way) };
            std::iter::once(name).chain(self.ways.iter().map(cell)).collect()
        };
        let head = std::iter::once(String::new()).chain(self.ways.iter().map(|way| way.policy.to_uppercase()));
        let mut rows = vec![
            head.collect(),
            row("p50 added, ms".to_owned(), &|way| added(way.added.p50_ms)),
            row("p99 added, ms".to_owned(), &|way| added(way.added.p99_ms)),
        ];
        let counts = self.ways.iter().map(|way| way.memory.len()).max().unwrap_or(0);
        for n in 0..counts {
            let servers = self.ways.iter().find_map(|way| way.memory.get(n)).map_or(0, |memory| memory.servers);
            rows.push(row(format!("MiB of each of {servers} servers"), &|way| {
                let of = |m: &MemoryAt| {
                    format!("{} ({})", mib(MemoryAt::mean(&m.grown_bytes)), mib(MemoryAt::mean(&m.held_bytes)))
                };
                way.memory.get(n).map_or_else(dash, of)
            }));
        }
        let most = self.ways.iter().flat_map(|way| &way.memory).map(|m| m.servers).max().unwrap_or(0);
        let last = |way: &WayReport| way.memory.iter().find(|m| m.servers == most).cloned();
        rows.push(row("MiB of the store".to_owned(), &|way| {
            last(way).and_then(|m| m.store_grown_bytes).map_or_else(dash, |bytes| mib(bytes as f64))
        }));
        rows.push(row(format!("sent by {most} servers a login"), &|way| {
            let sent = last(way).map_or(0, |m| m.sent_bytes) as f64;
            if sent > 0.0 { kib(sent / f64::from(self.users.max(1))) } else { dash() }
        }));
        let count = |lost: Option<u64>| lost.map_or_else(dash, |lost| lost.to_string());
        rows.push(row("lost in a crash".to_owned(), &|way| count(way.lost_on_crash)));
        rows.push(row("lost in a deploy".to_owned(), &|way| count(way.lost_on_deploy)));
        rows.push(row("revoked user out after".to_owned(), &|way| way.revoked.as_ref().map_or_else(dash, out)));
        rows.push(row("who must be told".to_owned(), &|way| way.revoked.as_ref().map_or_else(dash, told)));
        rows.push(row("known to another service".to_owned(), &|way| {
            way.other_service.map_or_else(dash, |is| if is { "yes" } else { "no" }.to_owned())
        }));
        rows.push(row("load, max / mean".to_owned(), &|way| {
            way.max_over_mean.map_or_else(dash, |x| format!("{x:.2}"))
        }));
        rows.push(row("the cookie holds".to_owned(), &|way| {
            way.cookie_bytes.map_or_else(dash, |bytes| format!("{bytes} B"))
        }));
        rows
    }

    /// What has to be known about the figures, in sentences.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            format!(
                "Latency is against \"{}\", the same work without a look-up, at the same time; in brackets the middle 95 % of \
                 a bootstrap over its moments. Each is for itself, and of many some miss by chance; p99 rests on the few \
                 slowest requests, so that its brackets are too narrow more often than that. The baseline against itself, \
                 which is noise: p50 {}, p99 {}.",
                self.baseline,
                added(self.noise.p50_ms),
                added(self.noise.p99_ms)
            ),
            format!(
                "Memory is by how much a server's resident memory grew while {} users logged in, on average, with what \
                 connections take; in brackets what of it sessions are made of. A session is {}.",
                self.users,
                kib(self.session_bytes as f64)
            ),
            format!(
                "The session whose user was logged out was to last {}. A token that nobody can take back is good until then.",
                millis(self.life_seconds * 1000.0)
            ),
        ];
        for way in &self.ways {
            if let Some(why) = &way.not_run {
                notes.push(format!("\"{}\" was not run: {why}.", way.policy));
            }
        }
        if self.stopped {
            notes
                .push("It was stopped before its end: what has a dash was not measured, or not to its end.".to_owned());
        }
        notes.extend(self.problems.iter().map(|problem| format!("Not measured: {problem}")));
        notes
    }
}

/// Sessions lost from the first kill on, and from the first deploy on, by when their users were told.
fn lost(scenario: &Scenario, run: &Measured) -> (Option<u64>, Option<u64>) {
    let began = |is: &dyn Fn(Action) -> bool| {
        let mut events = scenario.events.iter().zip(&run.events);
        events.find(|(planned, _)| is(planned.action)).map(|(_, happened)| happened.at)
    };
    let crash = began(&|action| matches!(action, Action::Kill(_)));
    let deploy = began(&|action| action == Action::Deploy);
    let between = |from: f64, until: f64| {
        run.outcomes.iter().filter(|o| o.lost && (from..until).contains(&(o.at + o.latency))).count() as u64
    };
    let after = |at: f64| deploy.filter(|deploy| *deploy > at).unwrap_or(f64::MAX);
    (crash.map(|at| between(at, after(at))), deploy.map(|at| between(at, f64::MAX)))
}

/// A difference of milliseconds for people.
fn added(difference: Option<Difference>) -> String {
    let show = |d: Difference| {
        let value = if d.is_seen() { format!("{:+.2}", d.value) } else { "none seen".to_owned() };
        format!("{value} [{:+.2}, {:+.2}]", d.low, d.high)
    };
    difference.map_or_else(dash, show)
}

fn out(revoked: &Revoked) -> String {
    revoked.out_after_seconds.map_or_else(|| "never".to_owned(), |seconds| millis(seconds * 1000.0))
}

fn told(revoked: &Revoked) -> String {
    match (revoked.could, revoked.told) {
        (false, _) => "nobody can".to_owned(),
        (true, 1) => "one server".to_owned(),
        (true, told) => format!("all {told} servers"),
    }
}

fn mib(bytes: f64) -> String {
    format!("{:.1}", bytes / f64::from(1 << 20))
}

fn kib(bytes: f64) -> String {
    format!("{:.0} KiB", bytes / 1024.0)
}

/// What the report calls a way where there is no room for more.
#[must_use]
pub(super) fn explained(kept: &str) -> &'static str {
    const WAYS: [(Kept, &str); 4] = [
        (Kept::Memory, "in one server's memory"),
        (Kept::Replicated, "in every server's memory"),
        (Kept::Store, "in a Redis that all ask"),
        (Kept::Token, "in a signed token (JWT)"),
    ];
    WAYS.iter().find(|(way, _)| way.as_str() == kept).map_or("not kept", |(_, text)| text)
}
