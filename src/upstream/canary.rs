//! The part of an upstream that only some users meet: its new servers, while they are compared with the rest.

use std::sync::Arc;

use crate::balance::canary::Canary;
use crate::balance::{Input, Member, Pick, Policy, Scratch, Table, View};

/// New servers and who meets them. The tables of an upstream that has one are without these servers.
#[derive(Debug)]
pub struct Branch {
    pub canary: Arc<Canary>,
    /// By position of the server.
    is_new: Box<[bool]>,
    table: Table,
}

impl Branch {
    /// `members` of the whole upstream, of which those marked in `is_new` are new. What is left for the
    /// others is in `members` afterwards.
    pub(super) fn new(canary: Arc<Canary>, is_new: Box<[bool]>, policy: &Policy, members: &mut [Member]) -> Self {
        let out = |member: Member| Member { weight: 0, takes_new: false, ..member };
        let new: Vec<Member> =
            members.iter().zip(&is_new).map(|(member, is_new)| if *is_new { *member } else { out(*member) }).collect();
        for (member, is_new) in members.iter_mut().zip(&is_new) {
            if *is_new {
                *member = out(*member);
            }
        }
        Self { canary, is_new, table: policy.table(&new, None) }
    }

    /// Whether one who is pinned to that server, or belongs where `to_new` says, comes to the new servers.
    pub(super) fn is_for(&self, pinned: Option<usize>, to_new: bool) -> bool {
        pinned.map_or(to_new, |index| self.has(index))
    }

    /// Whether the server at that position is new.
    #[must_use]
    pub fn has(&self, index: usize) -> bool {
        self.is_new.get(index).copied().unwrap_or(false)
    }

    pub(super) fn pick(&self, input: &Input, scratch: &mut Scratch, view: &impl View) -> Option<Pick> {
        self.table.pick(input, scratch, view)
    }
}
