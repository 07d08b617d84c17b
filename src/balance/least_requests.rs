//! The least busy of all servers.
//!
//! Load is requests in flight for each unit of weight. Among equally busy servers the choice is random, by
//! weight, so that idle servers are used by their weights and cores do not all choose the same one. A server
//! with nothing to do comes before one that has something, whatever their weights. Every server is looked at:
//! for many hundreds of them [`super::random_two`] costs less and is nearly as even.

use serde::Deserialize;

use super::{Member, Scratch, View};

/// `least_requests`: it has no options.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeastRequests {}

/// Servers with a weight.
#[derive(Debug, Clone)]
pub struct Table {
    /// Their positions among the members, and their weights.
    servers: Vec<(u32, u32)>,
}

impl LeastRequests {
    pub(super) fn table(&self, members: &[Member]) -> Table {
        let usable = (0u32..).zip(members).filter(|(_, member)| member.takes_new && member.weight > 0);
        Table { servers: usable.map(|(index, member)| (index, member.weight)).collect() }
    }
}

impl Table {
    pub(super) fn pick(&self, scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        let mut best: Option<(usize, u64, u64)> = None;
        // The weights of those that are as busy as the best.
        let mut equal = 0;
        for &(index, weight) in &self.servers {
            let index = index as usize;
            if view.tried(index) || !view.takes_new(index) {
                continue;
            }
            let (load, weight) = (u64::from(view.in_flight(index)), u64::from(weight));
            let order = best.map(|(_, least, of)| (load * of).cmp(&(least * weight)));
            match order {
                Some(std::cmp::Ordering::Greater) => {}
                Some(std::cmp::Ordering::Equal) => {
                    equal += weight;
                    // Each of the equal ones is kept with the chance of its weight (reservoir sampling).
                    if u64::from(scratch.below(u32::try_from(equal).unwrap_or(u32::MAX))) < weight {
                        best = Some((index, load, weight));
                    }
                }
                Some(std::cmp::Ordering::Less) | None => {
                    equal = weight;
                    best = Some((index, load, weight));
                }
            }
        }
        best.map(|(index, _, _)| index)
    }
}
