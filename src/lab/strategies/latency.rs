//! What a way of keeping sessions adds to latency.
//!
//! A look-up takes less than what a machine's mood changes from one minute to the next, so all ways are measured at the
//! same time: requests come at random moments, and of each few in a row every way gets one, in an order drawn anew.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::Scratch;
use crate::lab::arrivals::{Arrival, schedule};
use crate::lab::fleet::Fleet;
use crate::lab::load::{self, Meter, Outcome};
use crate::lab::scenario::{Candidate, Group, Kept, Scenario, Strategies};
use crate::lab::stats::{Difference, quantile_difference};

/// Users of each, who log in at the beginning.
const USERS: u32 = 25;
/// Moments in which requests are looked at together: what holds the machine up in one holds up all of them.
const MOMENT: Duration = Duration::from_millis(500);
/// Between all fleets' being ready and the first request.
const BREATH: Duration = Duration::from_millis(300);

/// What was added to latency, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Added {
    /// Requests that were compared.
    pub requests: usize,
    pub p50: Option<Difference>,
    pub p99: Option<Difference>,
}

/// Milliseconds of each candidate's requests by moment, and in each in the order in which they were due.
#[derive(Debug, Default)]
pub struct Latencies {
    baseline: String,
    by_policy: BTreeMap<String, Vec<Vec<f64>>>,
}

/// Sends all fleets their requests.
pub(super) fn side_by_side(
    scenario: &Scenario,
    strategies: &Strategies,
    fleets: &[(&Candidate, Fleet)],
    meter: &Arc<Meter>,
) -> io::Result<Latencies> {
    let timed = timed(scenario, strategies, fleets.len());
    let shares = deal(&schedule(&timed), fleets.len(), scenario.seed);
    let start = Instant::now() + BREATH;
    let sent: Vec<io::Result<Vec<Outcome>>> = std::thread::scope(|scope| {
        let sending: Vec<_> = fleets
            .iter()
            .zip(&shares)
            .map(|((_, fleet), share)| {
                let (timed, address) = (&timed, fleet.address());
                scope.spawn(move || load::send(address, timed, share, start, meter))
            })
            .collect();
        let gone = || Err(io::Error::other("what sends requests has panicked"));
        sending.into_iter().map(|sender| sender.join().unwrap_or_else(|_| gone())).collect()
    });
    let mut latencies = Latencies::default();
    for ((candidate, _), outcomes) in fleets.iter().zip(sent) {
        // A login is other work, and an error is none.
        let counted = |o: &Outcome| !o.login && o.status == Some(200);
        let count = (timed.duration.as_secs_f64() / MOMENT.as_secs_f64()).ceil() as usize;
        let mut values = vec![Vec::new(); count.max(1)];
        for outcome in outcomes?.iter().filter(|o| counted(o)) {
            let moment = (outcome.at / MOMENT.as_secs_f64()) as usize;
            values[moment.min(count - 1)].push(outcome.latency * 1000.0);
        }
        if candidate.sessions == Some(Kept::None) {
            latencies.baseline.clone_from(&candidate.name);
        }
        latencies.by_policy.insert(candidate.name.clone(), values);
    }
    Ok(latencies)
}

/// A scenario of users who stay, with as many requests as all fleets are to get.
fn timed(scenario: &Scenario, strategies: &Strategies, fleets: usize) -> Scenario {
    let users = Group {
        name: "users".to_owned(),
        users: USERS,
        addresses: None,
        rate: strategies.rate * fleets as f64,
        visits: None,
        path: None,
        from: Duration::ZERO,
        until: None,
    };
    let mut timed = scenario.clone();
    timed.duration = strategies.latency;
    timed.groups = vec![users];
    timed.events.clear();
    timed
}

/// Deals arrivals out: of each few in a row every fleet gets one.
fn deal(all: &[Arrival], fleets: usize, seed: u64) -> Vec<Vec<Arrival>> {
    let mut chance = Scratch::new(0, seed ^ 0x5EA7);
    let mut shares = vec![Vec::with_capacity(all.len() / fleets.max(1)); fleets];
    for few in all.chunks_exact(fleets.max(1)) {
        let mut order: Vec<usize> = (0..fleets).collect();
        for last in (1..fleets).rev() {
            order.swap(last, chance.below(last as u32 + 1) as usize);
        }
        for (arrival, fleet) in few.iter().zip(order) {
            shares[fleet].push(*arrival);
        }
    }
    shares
}

impl Latencies {
    fn of(&self, policy: &str) -> &[Vec<f64>] {
        self.by_policy.get(policy).map_or(&[], Vec::as_slice)
    }

    /// What a candidate adds to the baseline.
    pub(super) fn added(&self, policy: &str, seed: u64) -> Added {
        added(self.of(&self.baseline), self.of(policy), seed)
    }

    /// The baseline's name, and what it adds to itself.
    pub(super) fn noise(&self, seed: u64) -> (String, Added) {
        let of = |moment: &Vec<f64>, odd: usize| moment.iter().skip(odd).step_by(2).copied().collect();
        let every_second =
            |odd: usize| -> Vec<Vec<f64>> { self.of(&self.baseline).iter().map(|moment| of(moment, odd)).collect() };
        (self.baseline.clone(), added(&every_second(0), &every_second(1), seed))
    }
}

fn added(without: &[Vec<f64>], with: &[Vec<f64>], seed: u64) -> Added {
    Added {
        requests: with.iter().map(Vec::len).sum(),
        p50: quantile_difference(without, with, 0.5, seed),
        p99: quantile_difference(without, with, 0.99, seed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_one_of_each_few_and_nothing_twice() {
        let all: Vec<Arrival> =
            (0..103).map(|n| Arrival { at: Duration::from_millis(n), group: 0, user: n as u32, item: 0 }).collect();
        let shares = deal(&all, 5, 1);
        assert!(shares.iter().all(|share| share.len() == 20 && share.is_sorted_by_key(|a| a.at)));
        for (n, few) in all.chunks_exact(5).enumerate() {
            let mut got: Vec<u32> = shares.iter().map(|share| share[n].user).collect();
            got.sort_unstable();
            assert_eq!(got, few.iter().map(|a| a.user).collect::<Vec<_>>());
        }
        // Who is first changes.
        assert!(shares.iter().all(|share| share.iter().any(|a| a.user % 5 == 0)));
    }

    #[test]
    fn what_is_added_is_against_the_baseline_and_noise_is_the_baseline_itself() {
        let by_policy = BTreeMap::from([
            ("none".to_owned(), vec![vec![1.0, 2.0], vec![1.0, 2.0]]),
            ("store".to_owned(), vec![vec![4.0; 2], vec![4.0]]),
        ]);
        let latencies = Latencies { baseline: "none".to_owned(), by_policy };
        let store = latencies.added("store", 1);
        assert_eq!((store.requests, store.p50.unwrap().value), (3, 3.0));
        assert_eq!(latencies.noise(1).1.p50.unwrap().value, 1.0, "1, 1 against 2, 2");
        assert!(latencies.added("nowhere", 1).p50.is_none());
    }
}
