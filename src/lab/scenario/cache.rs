//! The part of a scenario that has servers with a cache.

use std::time::Duration;

use serde::Deserialize;

use super::duration;
use crate::balance::Scratch;

/// Where a server's cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cached {
    /// In its own memory.
    Own,
    /// In one store for all servers.
    Shared,
}

/// Items that users ask for, and what has them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Items {
    pub count: u32,
    /// How uneven they are asked for: the n-th most popular one 1/n to the power of this as often as the first. 0 is all
    /// alike.
    #[serde(default)]
    pub zipf: f64,
    /// How long the store works on one.
    #[serde(deserialize_with = "duration")]
    pub work: Duration,
    /// Requests that the store works on at once; none is no limit.
    pub workers: Option<usize>,
}

impl Items {
    pub(super) fn check(&self) -> Result<(), String> {
        let fail = |what: String| Err(format!("[items] {what}"));
        if !(1..=100_000).contains(&self.count) {
            return fail(format!("count = {}: write 1 to 100000", self.count));
        }
        if !(0.0..=4.0).contains(&self.zipf) {
            return fail(format!("zipf = {}: write 0 (all alike) to 4", self.zipf));
        }
        if self.work.is_zero() || self.work > Duration::from_secs(10) {
            return fail("work: write \"1ms\" to \"10s\"".to_owned());
        }
        if self.workers.is_some_and(|workers| !(1..=65_535).contains(&workers)) {
            return fail("workers: write 1 to 65535, or leave it out".to_owned());
        }
        Ok(())
    }

    /// How likely an item is one of the first n: what [`Items::draw`] draws from.
    #[must_use]
    pub fn likelihoods(&self) -> Vec<f64> {
        let weights = (1..=self.count).map(|rank| f64::from(rank).powf(-self.zipf));
        let mut sums: Vec<f64> = weights
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let all = sums.last().copied().unwrap_or(1.0);
        sums.iter_mut().for_each(|sum| *sum /= all);
        sums
    }

    /// An item, from 0, that somebody asks for.
    #[must_use]
    pub fn draw(likelihoods: &[f64], chance: &mut Scratch) -> u32 {
        let uniform = (chance.random() >> 11) as f64 / (1u64 << 53) as f64;
        likelihoods.partition_point(|sum| *sum <= uniform).min(likelihoods.len().saturating_sub(1)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(count: u32, zipf: f64) -> Items {
        Items { count, zipf, work: Duration::from_millis(1), workers: None }
    }

    /// 1 + 1/2 + 1/3 = 11/6: the first is asked for 6/11 of the time, the second 3/11.
    #[test]
    fn popularity_by_hand() {
        let likelihoods = items(3, 1.0).likelihoods();
        for (likelihood, by_hand) in likelihoods.iter().zip([6.0 / 11.0, 9.0 / 11.0, 1.0]) {
            assert!((likelihood - by_hand).abs() < 1e-9, "{likelihoods:?}");
        }
        let even = items(4, 0.0).likelihoods();
        assert_eq!(even, [0.25, 0.5, 0.75, 1.0]);
        let mut chance = Scratch::new(0, 1);
        let mut counts = [0u32; 4];
        (0..4000).for_each(|_| counts[Items::draw(&even, &mut chance) as usize] += 1);
        // Within five standard deviations of a binomial count: √(4000 · 1/4 · 3/4) is 27.
        assert!(counts.iter().all(|count| (863..1137).contains(count)), "{counts:?}");
    }
}
