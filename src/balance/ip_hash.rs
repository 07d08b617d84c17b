//! The same client address, the same server.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Member, View};

/// `ip_hash`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpHash {}

#[derive(Debug, Clone)]
pub struct Table {
    len: usize,
}

impl IpHash {
    pub(super) fn table(&self, members: &[Member], _previous: Option<&Table>) -> Table {
        Table { len: members.len() }
    }
}

impl Table {
    pub(super) fn pick(&self, _client: IpAddr, view: &impl View) -> Option<usize> {
        (0..self.len).find(|i| !view.tried(*i) && view.takes_new(*i))
    }
}
