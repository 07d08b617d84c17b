//! What a run has shown: figures for machines, a table for terminals, a page for people.

mod cache;
mod events;
pub mod html;
pub mod replay;
mod sockets;
mod strategies;
mod svg;
mod warnings;

use std::collections::BTreeMap;

pub use cache::CacheReport;
pub use events::{Carried, EventReport};
use serde::Serialize;
pub use sockets::SocketsReport;
pub use strategies::StrategiesReport;

use super::load::Outcome;
use super::run::Measured;
use super::scenario::{Each, Scenario};
use super::stats;
use crate::balance::skew::Skew;

/// Steps that a run's time is cut into.
const STEPS: usize = 60;
/// Points of a distribution of latencies.
const POINTS: usize = 200;

/// Everything that is known of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of evenkeel.
    pub version: &'static str,
    pub title: String,
    pub about: String,
    pub seed: u64,
    pub duration_seconds: f64,
    /// Whether users logged in.
    pub sessions: bool,
    /// Whether it was stopped before its end.
    pub stopped: bool,
    /// Whether nothing was sent: it was worked out in virtual time.
    pub simulated: bool,
    pub servers: usize,
    /// Of each server; none where they have no limit.
    pub workers: Option<Vec<u32>>,
    pub work_ms: f64,
    pub groups: Vec<GroupPlan>,
    pub policies: Vec<PolicyReport>,
    /// What did not work, and is missing for that reason.
    pub problems: Vec<String>,
    /// What makes the figures doubtful.
    pub warnings: Vec<String>,
    /// The ways of keeping sessions side by side, where the scenario compares them.
    pub strategies: Option<StrategiesReport>,
}

/// Who asked.
#[derive(Debug, Serialize)]
pub struct GroupPlan {
    pub name: String,
    pub users: u32,
    pub addresses: u32,
    /// Requests a second.
    pub rate: f64,
}

/// What was seen of one policy.
#[derive(Debug, Serialize)]
pub struct PolicyReport {
    pub policy: String,
    /// Why nothing was measured, if nothing was.
    pub not_run: Option<String>,
    pub requests: u64,
    /// No answer, or 5xx.
    pub failed: u64,
    /// Where the true share of failures lies with 95 % confidence (Wilson).
    pub failed_share_95: (f64, f64),
    /// Sessions that a server did not know any more; none where nobody logged in.
    pub sessions_lost: Option<u64>,
    /// How many times its fair share, by weight, the busiest server got; none without any request.
    pub max_over_mean: Option<f64>,
    /// Of what servers got for each unit of weight.
    pub jain: Option<f64>,
    pub latency: Latency,
    pub servers: Vec<ServerReport>,
    pub groups: Vec<GroupReport>,
    pub over_time: OverTime,
    /// Milliseconds, and the share of answers that took no longer.
    pub cdf: Vec<(f64, f64)>,
    pub events: Vec<EventReport>,
    /// Where servers have a cache.
    pub cache: Option<CacheReport>,
    /// Where users keep connections open.
    pub sockets: Option<SocketsReport>,
}

/// Milliseconds from when a request was due to the last byte of its answer. Failures that were answered count.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Latency {
    pub p50_ms: Option<f64>,
    pub p90_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
}

/// One server's part.
#[derive(Debug, Serialize)]
pub struct ServerReport {
    pub server: String,
    /// Answers that named it.
    pub requests: u64,
    /// Requests in its own log: more than it has answered where some were given up or tried again elsewhere.
    pub logged: u64,
    pub share: f64,
    pub weight: u32,
    /// Its load divided by its fair share, which goes by weight; none without any request.
    pub of_fair_share: Option<f64>,
    /// 5xx that named it.
    pub failed: u64,
    pub latency: Latency,
}

/// One group's part.
#[derive(Debug, Serialize)]
pub struct GroupReport {
    pub group: String,
    pub requests: u64,
    pub failed: u64,
    pub sessions_lost: u64,
    pub latency: Latency,
}

/// Counts by step of time.
#[derive(Debug, Serialize)]
pub struct OverTime {
    pub step_seconds: f64,
    /// Requests of each server, in the order of the servers.
    pub servers: Vec<Vec<u32>>,
    pub failed: Vec<u32>,
    pub sessions_lost: Vec<u32>,
}

impl Report {
    /// Sums up what was measured of a scenario.
    #[must_use]
    pub fn of(scenario: &Scenario, measured: &[Measured]) -> Self {
        let group = |group: &super::scenario::Group| GroupPlan {
            name: group.name.clone(),
            users: group.users,
            addresses: group.addresses(),
            rate: group.rate,
        };
        let each = |workers: &Each| (1..=scenario.servers.count).map(|number| workers.of(number)).collect();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            title: scenario.title.clone(),
            about: scenario.about.clone(),
            seed: scenario.seed,
            duration_seconds: scenario.duration.as_secs_f64(),
            sessions: scenario.has_sessions(),
            simulated: false,
            stopped: measured.iter().any(|m| m.stopped) || measured.len() < scenario.candidates().count(),
            servers: scenario.servers.count,
            workers: scenario.servers.workers.as_ref().filter(|_| !scenario.servers.work.is_zero()).map(each),
            work_ms: scenario.servers.work.as_secs_f64() * 1000.0,
            groups: scenario.groups.iter().map(group).collect(),
            policies: measured.iter().map(|m| PolicyReport::of(scenario, m)).collect(),
            problems: Vec::new(),
            warnings: warnings::of(scenario, measured),
            strategies: None,
        }
    }

    /// The rows of a table: a head, then a row for each policy.
    #[must_use]
    pub fn rows(&self) -> Vec<Vec<String>> {
        let head = ["POLICY", "MAX/MEAN", "JAIN", "BUSIEST", "P50", "P99", "FAILED"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        if self.sessions {
            rows[0].push("SESSIONS LOST".to_owned());
        }
        for policy in &self.policies {
            if let Some(why) = &policy.not_run {
                rows.push(vec![policy.policy.clone(), format!("not run: {why}")]);
                continue;
            }
            let busiest = policy.busiest().map(|at| &policy.servers[at]);
            let mut row = vec![
                policy.policy.clone(),
                policy.max_over_mean.map_or_else(dash, |x| format!("{x:.2}")),
                policy.jain.map_or_else(dash, |x| format!("{x:.3}")),
                busiest.map_or_else(dash, |s| format!("{} {:.0} %", s.server, s.share * 100.0)),
                policy.latency.p50_ms.map_or_else(dash, millis),
                policy.latency.p99_ms.map_or_else(dash, millis),
                percent(policy.failed, policy.requests),
            ];
            row.extend(policy.sessions_lost.map(|lost| lost.to_string()));
            rows.push(row);
        }
        rows
    }
}

impl Report {
    /// What the columns of [`Report::rows`] say, and what is good.
    #[must_use]
    pub fn legend(&self) -> Vec<&'static str> {
        let mut lines = vec![
            "MAX/MEAN: the busiest server's requests over the mean, by weight, 1.00 is even; JAIN: 1.00 is even, 1/n is all on one.",
            "P50, P99: half of all requests, and 99 of 100, took no longer, from when they were due. FAILED: no answer, or 5xx.",
        ];
        if self.sessions {
            lines.push("SESSIONS LOST: how often a user met a server that did not know the session.");
        }
        lines
    }

    /// The rows of the table of caches, where there are any.
    #[must_use]
    pub fn cache_rows(&self) -> Option<Vec<Vec<String>>> {
        self.policies.iter().find(|policy| policy.cache.is_some())?;
        let mut rows = vec![CacheReport::HEAD.map(str::to_owned).to_vec()];
        for policy in &self.policies {
            let failed = percent(policy.failed, policy.requests);
            rows.push(match (&policy.cache, &policy.not_run) {
                (Some(cache), _) => cache.row(&policy.policy, failed),
                (None, why) => vec![policy.policy.clone(), format!("not run: {}", why.as_deref().unwrap_or("stopped"))],
            });
        }
        Some(rows)
    }
}

impl Report {
    /// The rows of the table of long connections, where there are any.
    #[must_use]
    pub fn socket_rows(&self) -> Option<Vec<Vec<String>>> {
        let all = self.policies.iter().filter_map(|policy| Some((policy, policy.sockets.as_ref()?)));
        let rows: Vec<Vec<String>> = all.flat_map(|(policy, sockets)| sockets.rows(&policy.policy)).collect();
        let head = SocketsReport::HEAD.map(str::to_owned).to_vec();
        (!rows.is_empty()).then(|| std::iter::once(head).chain(rows).collect())
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn percent(part: u64, all: u64) -> String {
    if part == 0 { "0".to_owned() } else { format!("{part} ({:.1} %)", part as f64 * 100.0 / all.max(1) as f64) }
}

/// Seconds for people.
fn seconds(seconds: f64) -> String {
    format!("{seconds:.1} s")
}

/// Milliseconds for people.
fn millis(ms: f64) -> String {
    if ms >= 10_000.0 {
        format!("{:.0} s", ms / 1000.0)
    } else if ms >= 1000.0 {
        format!("{:.1} s", ms / 1000.0)
    } else if ms >= 10.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{ms:.1} ms")
    }
}

/// The numbers of all servers of a run.
fn numbers(scenario: &Scenario, measured: &Measured) -> Vec<u32> {
    // One that was to be added and never was has no log.
    (1..=scenario.most_servers() as u32).filter(|number| measured.logged.contains_key(number)).collect()
}

impl PolicyReport {
    fn of(scenario: &Scenario, measured: &Measured) -> Self {
        let Measured { policy, outcomes, logged, not_run, .. } = measured;
        let numbers = numbers(scenario, measured);
        let failed = outcomes.iter().filter(|o| o.failed()).count() as u64;
        let requests = outcomes.len() as u64;
        let servers = servers(&numbers, outcomes, logged, scenario.weights_under(policy));
        let skew = Skew::of(servers.iter().map(|server| (server.requests, server.weight)));
        let lost = outcomes.iter().filter(|o| o.lost).count() as u64;
        Self {
            policy: policy.clone(),
            not_run: not_run.clone(),
            requests,
            failed,
            failed_share_95: stats::wilson(failed, requests),
            sessions_lost: scenario.has_sessions().then_some(lost),
            max_over_mean: skew.map(|skew| skew.max_over_mean),
            jain: skew.map(|skew| skew.jain),
            latency: latency(outcomes.iter()),
            groups: groups(scenario, outcomes),
            over_time: over_time(scenario, outcomes, &numbers),
            cdf: cdf(outcomes),
            cache: CacheReport::of(scenario, measured, &numbers),
            sockets: SocketsReport::of(scenario, measured, &numbers),
            servers,
            events: events::of(scenario, measured),
        }
    }

    /// The position of the server that has most for its weight.
    #[must_use]
    pub fn busiest(&self) -> Option<usize> {
        Skew::of(self.servers.iter().map(|server| (server.requests, server.weight))).map(|skew| skew.busiest)
    }

    /// Whether all servers have one weight.
    pub(crate) fn is_even(&self) -> bool {
        self.servers.windows(2).all(|pair| pair[0].weight == pair[1].weight)
    }

    /// The requests of a server that has exactly its share.
    pub(crate) fn fair(&self, server: &ServerReport) -> f64 {
        let (requests, weights) =
            self.servers.iter().fold((0, 0), |(r, w), s| (r + s.requests, w + u64::from(s.weight)));
        requests as f64 * f64::from(server.weight) / weights.max(1) as f64
    }
}

fn servers(numbers: &[u32], outcomes: &[Outcome], logged: &BTreeMap<u32, u64>, weights: &Each) -> Vec<ServerReport> {
    let mut own: BTreeMap<u32, Vec<&Outcome>> = numbers.iter().map(|number| (*number, Vec::new())).collect();
    for outcome in outcomes {
        if let Some(answered) = outcome.server.and_then(|server| own.get_mut(&server)) {
            answered.push(outcome);
        }
    }
    let all: usize = own.values().map(Vec::len).sum();
    let weight = |number: u32| weights.of(number as usize);
    let weights: u32 = numbers.iter().map(|number| weight(*number)).sum();
    let fair = |number: u32| all as f64 * f64::from(weight(number)) / f64::from(weights);
    let server = |(number, own): (&u32, &Vec<&Outcome>)| ServerReport {
        server: format!("s{number}"),
        requests: own.len() as u64,
        logged: logged.get(number).copied().unwrap_or(0),
        share: own.len() as f64 / all.max(1) as f64,
        weight: weight(*number),
        of_fair_share: (all > 0).then(|| own.len() as f64 / fair(*number)),
        failed: own.iter().filter(|o| o.failed()).count() as u64,
        latency: latency(own.iter().copied()),
    };
    own.iter().map(server).collect()
}

fn groups(scenario: &Scenario, outcomes: &[Outcome]) -> Vec<GroupReport> {
    let group = |(number, group): (u16, &super::scenario::Group)| {
        let own = || outcomes.iter().filter(|o| o.group == number);
        GroupReport {
            group: group.name.clone(),
            requests: own().count() as u64,
            failed: own().filter(|o| o.failed()).count() as u64,
            sessions_lost: own().filter(|o| o.lost).count() as u64,
            latency: latency(own()),
        }
    };
    (0u16..).zip(&scenario.groups).map(group).collect()
}

fn sorted<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Vec<f64> {
    let mut all: Vec<f64> = outcomes.map(|o| o.latency * 1000.0).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn latency<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Latency {
    let all = sorted(outcomes);
    Latency {
        p50_ms: stats::quantile(&all, 0.5),
        p90_ms: stats::quantile(&all, 0.9),
        p99_ms: stats::quantile(&all, 0.99),
        max_ms: all.last().copied(),
    }
}

fn cdf(outcomes: &[Outcome]) -> Vec<(f64, f64)> {
    let all = sorted(outcomes.iter());
    let point = |i: usize| {
        let share = i as f64 / POINTS as f64;
        stats::quantile(&all, share).map(|ms| (ms, share))
    };
    (0..=POINTS).filter_map(point).collect()
}

fn over_time(scenario: &Scenario, outcomes: &[Outcome], numbers: &[u32]) -> OverTime {
    let step = scenario.duration.as_secs_f64() / STEPS as f64;
    let places: BTreeMap<u32, usize> = numbers.iter().enumerate().map(|(i, number)| (*number, i)).collect();
    let mut told = OverTime {
        step_seconds: step,
        servers: vec![vec![0; STEPS]; numbers.len()],
        failed: vec![0; STEPS],
        sessions_lost: vec![0; STEPS],
    };
    for outcome in outcomes {
        let at = ((outcome.at / step) as usize).min(STEPS - 1);
        if let Some(place) = outcome.server.and_then(|number| places.get(&number)) {
            told.servers[*place][at] += 1;
        }
        told.failed[at] += u32::from(outcome.failed());
        told.sessions_lost[at] += u32::from(outcome.lost);
    }
    told
}

#[cfg(test)]
mod tests;
