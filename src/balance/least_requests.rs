//! The least busy of all servers.
//!
//! Load is requests in flight for each unit of weight. Among equally busy servers the choice is random, by
//! weight, so that idle servers are used by their weights and cores do not all choose the same one. Every
//! server is looked at: for many hundreds of them [`super::random_two`] costs less and is nearly as even.

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
        let mut best: Option<Loaded> = None;
        // The weights of those that are neither busier nor less busy than the best.
        let mut equal = 0;
        for &(index, weight) in &self.servers {
            let index = index as usize;
            if view.tried(index) || !view.takes_new(index) {
                continue;
            }
            let one = Loaded { index, load: u64::from(view.in_flight(index)), weight: u64::from(weight) };
            match &best {
                Some(best) if best.is_less_than(&one) => {}
                Some(other) if !one.is_less_than(other) => {
                    equal += one.weight;
                    // Each of the equal ones is kept with the chance of its weight (reservoir sampling).
                    if u64::from(scratch.below(u32::try_from(equal).unwrap_or(u32::MAX))) < one.weight {
                        best = Some(one);
                    }
                }
                _ => {
                    equal = one.weight;
                    best = Some(one);
                }
            }
        }
        best.map(|best| best.index)
    }
}

/// A server with what it has to do.
#[derive(Debug, Clone, Copy)]
struct Loaded {
    index: usize,
    load: u64,
    weight: u64,
}

impl Loaded {
    /// Whether it has less to do for its weight, both as things are and with one request more. The first alone
    /// would send to a server of weight 1 whenever one of weight 1000 has a single request; the second alone
    /// would starve the light server while little goes on.
    fn is_less_than(&self, other: &Self) -> bool {
        self.load * other.weight < other.load * self.weight
            && (self.load + 1) * other.weight < (other.load + 1) * self.weight
    }
}
