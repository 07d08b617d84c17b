//! Not the server of the client's last request again: whether a service keeps something of its clients in its servers,
//! shown by doing to all of them what affinity saves them from.
//!
//! The one policy that remembers clients: of each, as far as they fit, the server that it met last. All cores share
//! that, for a client's connections are on several. It holds numbers of a fixed count and takes no lock. Of clients
//! that share a place the last one is remembered, and the others are new; requests of a client at the same time
//! know nothing of each other.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Deserialize;

use super::hash::HashBy;
use super::split::User;
use super::{Member, Scratch, View};

/// Clients that are remembered.
const PLACES: usize = 1 << 14;
/// The part of a client's number that tells it from others of its place.
const TAG: u64 = 0xffff_ffff_0000_0000;

/// `shuffle`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shuffle {
    /// What a client is known by, where its request has it; otherwise by its address.
    pub by: Option<HashBy>,
}

/// The servers that take new clients, and who has met which.
#[derive(Debug, Clone)]
pub struct Table {
    servers: Vec<Entry>,
    /// By client its tag, and below that the mark of the server; 0 is none.
    last: Arc<[AtomicU64]>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    index: u32,
    weight: u32,
    /// What tells the server from others; the same whatever its position is.
    mark: u32,
}

impl Shuffle {
    pub(super) fn table(&self, members: &[Member], previous: Option<&Table>) -> Table {
        let usable = (0u32..).zip(members).filter(|(_, member)| member.takes_new && member.weight > 0);
        let entry =
            |(index, member): (u32, &Member)| Entry { index, weight: member.weight, mark: (member.key as u32).max(1) };
        let last = previous.map_or_else(|| (0..PLACES).map(|_| AtomicU64::new(0)).collect(), |t| Arc::clone(&t.last));
        Table { servers: usable.map(entry).collect(), last }
    }
}

impl Table {
    pub(super) fn pick(
        &self,
        key: Option<u64>,
        client: IpAddr,
        scratch: &mut Scratch,
        view: &impl View,
    ) -> Option<usize> {
        let client = key.unwrap_or_else(|| User::of_address(client).number());
        let place = &self.last[client as usize % PLACES];
        let word = place.load(Relaxed);
        let last = if word & TAG == client & TAG { word as u32 } else { 0 };
        // Where there is no other, the last one is better than none.
        let entry = self.draw(last, scratch, view).or_else(|| self.draw(0, scratch, view))?;
        place.store(client & TAG | u64::from(entry.mark), Relaxed);
        Some(entry.index as usize)
    }

    /// One by lot and weight, but not the one marked so.
    fn draw(&self, not: u32, scratch: &mut Scratch, view: &impl View) -> Option<Entry> {
        let takes = |entry: &&Entry| {
            let index = entry.index as usize;
            entry.mark != not && !view.tried(index) && view.takes_new(index)
        };
        let all = self.servers.iter().filter(takes).map(|entry| entry.weight).sum::<u32>();
        if all == 0 {
            return None;
        }
        let mut left = scratch.below(all);
        let mut found = None;
        for entry in self.servers.iter().filter(takes) {
            found = Some(*entry);
            match left.checked_sub(entry.weight) {
                Some(rest) => left = rest,
                None => break,
            }
        }
        found
    }
}
