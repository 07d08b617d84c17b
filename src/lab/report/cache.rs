//! How a cache fills, and what the store behind it has to bear meanwhile.
//!
//! The store's load is taken from its own log: of what a server asked for and did not get in time no user hears anything.

use serde::Serialize;

use super::{dash, millis, sorted};
use crate::lab::run::Measured;
use crate::lab::scenario::{Action, Scenario};
use crate::lab::stats;

/// Width of the moments that are compared, in seconds.
const MOMENT: f64 = 1.0;
/// How long before servers are added the store's load is taken, in seconds, and how long after that latencies.
const AROUND: f64 = 4.0;

/// What was seen of the caches of one policy's servers.
#[derive(Debug, Serialize)]
pub struct CacheReport {
    pub hits: u64,
    /// Answers for which a server had to ask the store; what failed meanwhile is none.
    pub misses: u64,
    /// Requests in the store's own log.
    pub store_logged: u64,
    /// Of each server, in their order: answers, and the share of them that its cache had.
    pub servers: Vec<(String, u64, Option<f64>)>,
    /// Requests to the store by second, by its own log.
    pub store_by_second: Vec<u32>,
    /// Requests a second to the store in the seconds before servers were added; none where none were.
    pub store_before: Option<f64>,
    /// In the worst second of these, wherever that begins.
    pub store_peak_before: Option<f64>,
    /// In the worst second after that.
    pub store_peak: Option<f64>,
    /// Milliseconds, before that and in the seconds after it.
    pub p99_before_ms: Option<f64>,
    pub p99_after_ms: Option<f64>,
}

impl CacheReport {
    pub(super) fn of(scenario: &Scenario, measured: &Measured, numbers: &[u32]) -> Option<Self> {
        let logged = measured.items_logged.as_deref()?;
        let outcomes = &measured.outcomes;
        let hits = outcomes.iter().filter(|o| o.hit == Some(true)).count() as u64;
        let misses = outcomes.iter().filter(|o| o.hit == Some(false)).count() as u64;
        let server = |number: &u32| {
            let own = || outcomes.iter().filter(|o| o.server == Some(*number) && o.hit.is_some());
            let (all, hits) = (own().count() as u64, own().filter(|o| o.hit == Some(true)).count() as u64);
            (format!("s{number}"), all, (all > 0).then(|| hits as f64 / all as f64))
        };
        let store_by_second = by_second(logged, scenario.duration.as_secs_f64());
        let mut events = scenario.events.iter().zip(&measured.events);
        let added = events.find(|(planned, _)| matches!(planned.action, Action::Add(_))).map(|(_, event)| event.at);
        let asked = |from: f64, until: f64| logged.iter().filter(|at| (from..until).contains(*at)).count() as f64;
        let p99 = |from: f64, until: f64| {
            stats::quantile(&sorted(outcomes.iter().filter(|o| (from..until).contains(&o.at))), 0.99)
        };
        let before = added.map(|at| (at - AROUND).max(0.0));
        Some(Self {
            hits,
            misses,
            store_logged: logged.len() as u64,
            servers: numbers.iter().map(server).collect(),
            store_before: added.zip(before).map(|(at, from)| asked(from, at) / (at - from).max(MOMENT)),
            store_peak_before: added.zip(before).map(|(at, from)| peak(logged, from, at)),
            store_peak: added.map(|at| peak(logged, at, f64::MAX)),
            p99_before_ms: added.zip(before).and_then(|(at, from)| p99(from, at)),
            p99_after_ms: added.and_then(|at| p99(at, at + AROUND)),
            store_by_second,
        })
    }

    /// The head of the table's columns.
    pub(super) const HEAD: [&str; 7] =
        ["POLICY", "HIT RATE", "STORE BEFORE", "STORE PEAK", "P99 BEFORE", "P99 AFTER", "FAILED"];

    pub(super) fn row(&self, policy: &str, failed: String) -> Vec<String> {
        let rate = |rate: Option<f64>| rate.map_or_else(dash, |rate| format!("{rate:.0}/s"));
        let all = (self.hits + self.misses).max(1) as f64;
        vec![
            policy.to_owned(),
            format!("{:.1} %", self.hits as f64 * 100.0 / all),
            rate(self.store_before),
            rate(self.store_peak),
            self.p99_before_ms.map_or_else(dash, millis),
            self.p99_after_ms.map_or_else(dash, millis),
            failed,
        ]
    }
}

/// Requests to the store by second.
fn by_second(logged: &[f64], duration: f64) -> Vec<u32> {
    let mut seconds = vec![0; (duration / MOMENT).ceil().max(1.0) as usize];
    let last = seconds.len() - 1;
    for at in logged {
        seconds[((at / MOMENT) as usize).min(last)] += 1;
    }
    seconds
}

/// Requests to the store in the worst second between two moments, wherever that second begins.
fn peak(logged: &[f64], from: f64, until: f64) -> f64 {
    let mut asked: Vec<f64> = logged.iter().copied().filter(|at| (from..until).contains(at)).collect();
    asked.sort_unstable_by(f64::total_cmp);
    let within = |(n, at): (usize, &f64)| asked[n..].partition_point(|other| *other < at + MOMENT);
    asked.iter().enumerate().map(within).max().unwrap_or(0) as f64 / MOMENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::load::Outcome;
    use crate::lab::scenario::Limits;

    /// Requests at 0.5, 1.9, 2.0, 2.8 and 3.5: three within the second that begins at 1.9, two in the second from 2 to 3.
    #[test]
    fn seconds_and_peaks_by_hand() {
        let logged = [0.5, 2.0, 1.9, 2.8, 3.5];
        assert_eq!(by_second(&logged, 4.0), [1, 1, 2, 1]);
        assert_eq!(peak(&logged, 0.0, f64::MAX), 3.0);
        assert_eq!(peak(&logged, 1.95, f64::MAX), 2.0);
        assert_eq!(peak(&logged, 0.0, 2.5), 2.0);
        assert_eq!(peak(&logged, 9.0, f64::MAX), 0.0);
    }

    /// A store that is asked too much: nobody gets an answer that says it was a miss, and the load is there all the same.
    #[test]
    fn what_fails_is_load_of_the_store_as_well() {
        let text = include_str!("../../../config/lab/cold-cache.toml");
        let scenario = Scenario::read(text, Limits::REAL).unwrap();
        let failed = Outcome { at: 1.0, status: Some(502), ..Outcome::default() };
        let measured =
            Measured { outcomes: vec![failed; 3], items_logged: Some(vec![1.0, 1.1, 1.2]), ..Measured::default() };
        let report = CacheReport::of(&scenario, &measured, &[]).unwrap();
        assert_eq!((report.misses, report.store_logged, report.store_by_second[1]), (0, 3, 3));
    }
}
