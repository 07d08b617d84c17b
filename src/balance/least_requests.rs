//! The less busy of two servers drawn at random by weight.

use serde::Deserialize;

use super::{Member, Scratch, View};

/// `least_requests`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeastRequests {}

#[derive(Debug, Clone)]
pub struct Table {
    order: Vec<u32>,
}

impl LeastRequests {
    pub(super) fn table(&self, members: &[Member]) -> Table {
        Table { order: (0..members.len() as u32).filter(|i| members[*i as usize].takes_new).collect() }
    }
}

impl Table {
    pub(super) fn pick(&self, _scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        self.order
            .iter()
            .map(|i| *i as usize)
            .filter(|i| !view.tried(*i) && view.takes_new(*i))
            .min_by_key(|i| view.in_flight(*i))
    }
}
