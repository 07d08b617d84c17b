//! Smooth weighted round robin.

use serde::Deserialize;

use super::{Member, Scratch, View};

/// `round_robin`: each server in turn, by weight, spread evenly. It has no options.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundRobin {}

#[derive(Debug, Clone)]
pub struct Table {
    order: Vec<u32>,
}

impl RoundRobin {
    pub(super) fn table(&self, members: &[Member]) -> Table {
        Table { order: (0..members.len() as u32).filter(|i| members[*i as usize].takes_new).collect() }
    }
}

impl Table {
    pub(super) fn pick(&self, scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        for _ in 0..self.order.len() {
            scratch.cursor = scratch.cursor.wrapping_add(1);
            let index = self.order[scratch.cursor % self.order.len()] as usize;
            if !view.tried(index) && view.takes_new(index) {
                return Some(index);
            }
        }
        None
    }
}
