//! Slots owned by servers: what every hash policy looks a key up in.
//!
//! A hash falls into one of 65,536 slots and each slot is owned by one server, so a pick is one
//! look-up whatever the number of servers. The owner of a slot is the server with the highest random
//! weight there (Thaler and Ravishankar, *Using name-based mappings to increase hit rates*, 1998), its
//! share set by the logarithmic method: the least −log2(u)/weight wins, u a hash of slot and server.
//! Removing a server therefore moves only its own clients and adding the n-th moves 1/n of them.
//!
//! Ownership depends on names and weights and on nothing else: not on health, on the order of the
//! servers, on the process or on the machine. It is computed in integers for that reason, and its
//! hashes may never change: replicas of different versions have to agree.
//!
//! What happens while an owner is down, or has more than [`MaxLoad`] allows, is decided at the moment of
//! the pick, from the same table: its clients go to the owners of other slots, spread by weight, and come
//! back when it does. Nobody else moves. That each goes elsewhere, rather than all to a neighbour, keeps one
//! overloaded server from overloading the next (Chen, Coleman and Shrivastava, *Revisiting Consistent Hashing
//! with Bounded Loads*, 2021, <https://arxiv.org/abs/1908.08762>).

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::max_load::MaxLoad;
use super::rendezvous::{Candidate, Contender, mix, winner};
use super::{Member, Scratch, View};

/// Slots of a table, as a power of two.
const SLOT_BITS: u32 = 16;
const SLOTS: usize = 1 << SLOT_BITS;
/// Seed of the hash of keys and slots.
pub(super) const SEED: u64 = 0x6576_656E_6B65_656C;
/// Other slots asked for their owner before all servers are gone through.
const PROBES: u64 = 16;

/// The owner of every slot, and what bounds the load of one.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    owners: Arc<Owners>,
    max_load: Option<MaxLoad>,
    /// Those that take new clients, where a bound counts what they have; one that drains has what it has.
    open: Arc<[u32]>,
    /// Sum of their weights.
    open_weight: u64,
}

struct Owners {
    /// Names and weights it was built from.
    servers: Vec<Candidate>,
    /// Positions of the owners; empty when no server has a weight.
    slots: Vec<u16>,
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owners").field("servers", &self.servers.len()).finish_non_exhaustive()
    }
}

impl Slots {
    /// The owners are taken over from `previous` while names and weights are the same: a server that
    /// fails or returns costs nothing here.
    ///
    /// Members from the 65,536th on own no slot.
    pub(super) fn new(members: &[Member], max_load: Option<MaxLoad>, previous: Option<&Self>) -> Self {
        let servers = members.iter().take(1 << 16).map(|m| Candidate { key: m.key, weight: m.weight });
        let owners = match previous {
            Some(slots) if servers.clone().eq(slots.owners.servers.iter().copied()) => Arc::clone(&slots.owners),
            _ => Arc::new(Owners::new(servers.collect())),
        };
        let open = || (0u32..).zip(members).filter(|(_, m)| m.takes_new && m.weight > 0);
        let open_weight = open().map(|(_, m)| u64::from(m.weight)).sum();
        let open = if max_load.is_some() { open().map(|(index, _)| index).collect() } else { Arc::default() };
        Self { owners, max_load, open, open_weight }
    }

    /// The owner of the slot that a hash falls into, or the one in its place.
    pub(super) fn pick(&self, hash: u64, scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        let slot = slot_of(hash);
        let owner = usize::from(*self.owners.slots.get(slot)?);
        match self.max_load {
            None if usable(view, owner) => Some(owner),
            None => self.owners.replace(slot, |index| usable(view, index)),
            Some(bound) => self.pick_below(bound, slot, owner, scratch, view),
        }
    }

    /// The server that a hash belongs to among those that are `usable`, whatever its load.
    pub(super) fn home(&self, hash: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let slot = slot_of(hash);
        let owner = usize::from(*self.owners.slots.get(slot)?);
        if usable(owner) { Some(owner) } else { self.owners.replace(slot, usable) }
    }

    /// The same among servers that have not more than `bound` allows. Where all have, their loads are those
    /// of a moment ago: then the bound is of no use.
    fn pick_below(
        &self,
        bound: MaxLoad,
        slot: usize,
        owner: usize,
        scratch: &mut Scratch,
        view: &impl View,
    ) -> Option<usize> {
        let servers = &self.owners.servers;
        let total = scratch.load.total(&self.open, view);
        let has_room = |index: usize| {
            let most = bound.most(total, servers[index].weight, self.open_weight);
            usable(view, index) && u64::from(view.in_flight(index)) < most
        };
        if has_room(owner) {
            return Some(owner);
        }
        let usable = |index: usize| usable(view, index);
        if usable(owner) {
            view.passes_on(owner, scratch.core);
        }
        self.owners
            .replace(slot, has_room)
            .or_else(|| Some(owner).filter(|owner| usable(*owner)))
            .or_else(|| self.owners.replace(slot, usable))
    }
}

pub(super) fn slot_of(hash: u64) -> usize {
    (hash >> (64 - SLOT_BITS)) as usize
}

impl Owners {
    fn new(servers: Vec<Candidate>) -> Self {
        if servers.iter().all(|s| s.weight == 0) {
            return Self { servers, slots: Vec::new() };
        }
        let mut heaviest_first: Vec<(u16, Candidate)> =
            (0..=u16::MAX).zip(servers.iter().copied()).filter(|(_, s)| s.weight > 0).collect();
        let weight = heaviest_first[0].1.weight;
        let equal = heaviest_first.iter().all(|(_, s)| s.weight == weight);
        // Any order gives the same owners; with a strong contender early, most logarithms are spared.
        heaviest_first.sort_by_key(|(index, s)| (std::cmp::Reverse(s.weight), *index));
        let slots = (0..SLOTS)
            .map(|slot| {
                let slot_hash = hash_of(slot);
                if equal { highest(slot_hash, &heaviest_first) } else { winner(slot_hash, &heaviest_first) }
            })
            .collect();
        Self { servers, slots }
    }

    /// A usable server with a weight, for a slot whose owner is not usable: the same one each time while nothing changes.
    #[cold]
    fn replace(&self, slot: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let slot_hash = hash_of(slot);
        for attempt in 1..=PROBES {
            let other = mix(slot_hash.wrapping_add(attempt)) >> (64 - SLOT_BITS);
            let owner = usize::from(self.slots[other as usize]);
            if usable(owner) {
                return Some(owner);
            }
        }
        let mut best: Option<(usize, Contender)> = None;
        for (index, server) in self.servers.iter().enumerate() {
            if server.weight > 0 && usable(index) {
                let contender = Contender::new(slot_hash, server);
                if best.is_none_or(|(_, other)| contender.beats(&other)) {
                    best = Some((index, contender));
                }
            }
        }
        best.map(|(index, _)| index)
    }
}

fn usable(view: &impl View, index: usize) -> bool {
    !view.tried(index) && view.takes_new(index)
}

fn hash_of(slot: usize) -> u64 {
    xxh3_64_with_seed(&(slot as u64).to_le_bytes(), SEED)
}

/// The owner of a slot among servers of one weight: the same as [`winner`] says, since a higher hash
/// never has a higher logarithm.
fn highest(slot_hash: u64, servers: &[(u16, Candidate)]) -> u16 {
    let (mut owner, first) = servers[0];
    let mut best = mix(slot_hash ^ first.key);
    for (index, server) in &servers[1..] {
        let hash = mix(slot_hash ^ server.key);
        if hash > best {
            (owner, best) = (*index, hash);
        }
    }
    owner
}

#[cfg(test)]
mod tests;
