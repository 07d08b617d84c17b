//! The first server that has room: servers are filled one after the other.
//!
//! For servers that cost money while they are in use: with `max_requests` on each, as few are used as the
//! load needs and the last ones can be stopped at night. Without such a limit the first gets everything and
//! the others are spares.

use serde::Deserialize;

use super::{Member, View};

/// `first`: it has no options.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct First {}

/// The servers in their order.
#[derive(Debug, Clone)]
pub struct Table {
    servers: Vec<u32>,
}

impl First {
    pub(super) fn table(&self, members: &[Member]) -> Table {
        let usable = (0u32..).zip(members).filter(|(_, member)| member.takes_new && member.weight > 0);
        Table { servers: usable.map(|(index, _)| index).collect() }
    }
}

impl Table {
    pub(super) fn pick(&self, view: &impl View) -> Option<usize> {
        let mut servers = self.servers.iter().map(|index| *index as usize);
        servers.find(|index| !view.tried(*index) && view.takes_new(*index))
    }
}
