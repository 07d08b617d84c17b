//! Smooth weighted round robin.
//!
//! The order in which a server of weight 5 and two of weight 1 are used is `a a b a c a a`, not
//! `a a a a a b c`: each step adds to every server its weight, takes the one that has most and takes
//! the sum of all weights off it. Stepping through all servers for each request would make a pick
//! cost more the more servers there are, so the order is computed once per [`Table`] and a pick reads
//! its next entry.
//!
//! An entry whose server cannot be used now is replaced by entries drawn at random. Taking the next
//! one instead would give the whole share of a server that fails to its follower in the order.

use serde::Deserialize;

use super::{Member, Scratch, View};

/// The longest order, for up to 1,024 servers; beyond that, eight entries per server.
const LONGEST: usize = 8192;
/// Entries per server that the longest order has room for.
const ROOM: usize = 8;
/// Random entries looked at in place of an unusable one before all servers are gone through.
const DRAWS: u32 = 8;

/// `round_robin`: each server in turn, by weight, spread evenly. It has no options.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundRobin {}

/// The order of one round.
///
/// Weights are divided by their greatest common divisor. Where a round would then be longer than
/// *L* = max(8,192, 8 × servers) entries, weights are scaled to *L* entries, at least one per server.
/// With *k* the number of servers lifted to that one entry, a server gets at most 1/*L* of all
/// requests more than its weight says, and at least its share × (1 − *k*/*L*) − 1/*L*.
#[derive(Debug, Clone)]
pub struct Table {
    order: Vec<u32>,
    /// Every server of `order` once.
    servers: Vec<u32>,
}

impl RoundRobin {
    pub(super) fn table(&self, members: &[Member]) -> Table {
        let servers: Vec<u32> = (0u32..)
            .zip(members)
            .filter(|(_, member)| member.takes_new && member.weight > 0)
            .map(|(index, _)| index)
            .collect();
        let weights: Vec<u64> = servers.iter().map(|i| u64::from(members[*i as usize].weight)).collect();
        let longest = LONGEST.max(ROOM * servers.len()) as u64;
        let order = smooth(&shares(&weights, longest)).into_iter().map(|i| servers[i]).collect();
        Table { order, servers }
    }
}

impl Table {
    pub(super) fn pick(&self, scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        if self.order.is_empty() {
            return None;
        }
        let len = self.order.len() as u32;
        // The cursor is never reduced to the length of the order: cores that start apart would fall
        // into step for good while an upstream has but one server.
        scratch.cursor = scratch.cursor.wrapping_add(1);
        let next = self.order[(scratch.cursor as u32 % len) as usize] as usize;
        if usable(view, next) { Some(next) } else { self.replace(scratch, view) }
    }

    /// A usable server in place of one that is not: drawn by weight, or else the first usable one
    /// from a random position.
    #[cold]
    fn replace(&self, scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        for _ in 0..DRAWS {
            let drawn = self.order[scratch.below(self.order.len() as u32) as usize] as usize;
            if usable(view, drawn) {
                return Some(drawn);
            }
        }
        let (before, after) = self.servers.split_at(scratch.below(self.servers.len() as u32) as usize);
        after.iter().chain(before).map(|i| *i as usize).find(|i| usable(view, *i))
    }
}

fn usable(view: &impl View, index: usize) -> bool {
    !view.tried(index) && view.takes_new(index)
}

/// How often each server comes in a round of at most `longest` entries; no weight may be 0.
fn shares(weights: &[u64], longest: u64) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let reduced: Vec<u64> = weights.iter().map(|w| w / divisor).collect();
    if reduced.iter().sum::<u64>() <= longest {
        return reduced;
    }
    scaled(&reduced, longest)
}

/// Scales to exactly `total` entries, at least one each, the rest by largest remainder. `total` must
/// be no less than the number of weights.
fn scaled(weights: &[u64], total: u64) -> Vec<u64> {
    let mut lifted = vec![false; weights.len()];
    loop {
        let rest = |lifted: &[bool]| -> (u64, u64) {
            let taken = lifted.iter().filter(|l| **l).count() as u64;
            (total - taken, weights.iter().zip(lifted).filter(|(_, l)| !**l).map(|(w, _)| w).sum())
        };
        let (entries, sum) = rest(&lifted);
        let below_one = |i: &usize| !lifted[*i] && weights[*i] * entries < sum;
        let more: Vec<usize> = (0..weights.len()).filter(below_one).collect();
        if more.is_empty() {
            return largest_remainder(weights, &lifted, entries, sum);
        }
        more.into_iter().for_each(|i| lifted[i] = true);
    }
}

fn largest_remainder(weights: &[u64], lifted: &[bool], entries: u64, sum: u64) -> Vec<u64> {
    let due = |i: usize| weights[i] * entries;
    let mut shares: Vec<u64> = (0..weights.len()).map(|i| if lifted[i] { 1 } else { due(i) / sum }).collect();
    let mut open: Vec<usize> = (0..weights.len()).filter(|i| !lifted[*i]).collect();
    open.sort_by_key(|i| (std::cmp::Reverse(due(*i) % sum), *i));
    let given: u64 = open.iter().map(|i| shares[*i]).sum();
    for i in open.into_iter().take((entries - given) as usize) {
        shares[i] += 1;
    }
    shares
}

/// One round: positions of `shares`, each as often as its share says, spread evenly.
fn smooth(shares: &[u64]) -> Vec<usize> {
    if shares.iter().all(|share| *share == 1) {
        return (0..shares.len()).collect();
    }
    let total: i64 = shares.iter().sum::<u64>() as i64;
    let mut credit = vec![0i64; shares.len()];
    (0..total)
        .map(|_| {
            let mut best = 0;
            for i in 0..credit.len() {
                credit[i] += shares[i] as i64;
                if credit[i] > credit[best] {
                    best = i;
                }
            }
            credit[best] -= total;
            best
        })
        .collect()
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The order of nginx's documentation of its smooth weighted round robin.
    #[test]
    fn the_order_is_smooth() {
        assert_eq!(smooth(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(smooth(&[3, 2, 1]), [0, 1, 0, 2, 1, 0]);
        assert_eq!(smooth(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(shares(&[300, 200, 100], 8192), [3, 2, 1]);
        assert_eq!(shares(&[7, 7], 8192), [1, 1]);
    }

    #[test]
    fn a_round_never_exceeds_its_bound() {
        let weights: Vec<u64> = (0..1000).map(|i| if i == 0 { 1000 } else { 1 + i % 999 }).collect();
        assert_eq!(shares(&weights, 8192).iter().sum::<u64>(), 8192);
        let members: Vec<Member> =
            weights.iter().map(|w| Member { key: 0, weight: *w as u32, takes_new: true }).collect();
        assert_eq!(RoundRobin {}.table(&members).order.len(), 8192);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Within any prefix of a round no server is a whole request away from its share times the
        /// number of servers; at the end of the round all have theirs.
        #[test]
        fn every_prefix_of_a_round_is_near_the_shares(weights in prop::collection::vec(1u64..40, 1..8)) {
            let order = smooth(&weights);
            let total: u64 = weights.iter().sum();
            prop_assert_eq!(order.len() as u64, total);
            let mut got = vec![0u64; weights.len()];
            for (step, i) in order.iter().enumerate() {
                got[*i] += 1;
                for (got, weight) in got.iter().zip(&weights) {
                    let due = weight * (step as u64 + 1);
                    prop_assert!((got * total).abs_diff(due) < total * weights.len() as u64);
                }
            }
            prop_assert_eq!(got, weights);
        }

        /// The bound that [`Table`] documents.
        #[test]
        fn scaling_keeps_its_bound(weights in prop::collection::vec(prop_oneof![1u64..4, 1u64..1001], 50..200)) {
            let longest = 256u64.max(weights.len() as u64);
            prop_assume!(weights.iter().sum::<u64>() > longest);
            let scaled = scaled(&weights, longest);
            prop_assert_eq!(scaled.iter().sum::<u64>(), longest);
            let sum: u64 = weights.iter().sum();
            let lifted = scaled.iter().filter(|s| **s == 1).count() as f64;
            for (weight, entries) in weights.iter().zip(&scaled) {
                let due = *weight as f64 * longest as f64 / sum as f64;
                prop_assert!(*entries >= 1);
                prop_assert!((*entries as f64) < due + 1.0 + 1e-9);
                prop_assert!(*entries as f64 > due * (1.0 - lifted / longest as f64) - 1.0 - 1e-9);
            }
        }
    }
}
