//! The same client address, the same server.
//!
//! An address falls into one of 65,536 slots and each slot is owned by one server, so a pick is one
//! look-up whatever the number of servers. The owner of a slot is the server with the highest random
//! weight there (Thaler and Ravishankar, *Using name-based mappings to increase hit rates*, 1998), its
//! share set by the logarithmic method: the least −log2(u)/weight wins, u a hash of slot and server.
//! Removing a server therefore moves only its own clients and adding the n-th moves 1/n of them.
//!
//! Ownership depends on names and weights and on nothing else: not on health, on the order of the
//! servers, on the process or on the machine. It is computed in integers for that reason, and its
//! hashes may never change: replicas of different versions have to agree.
//!
//! What happens while an owner is down is decided at the moment of the pick, from the same table: its
//! clients go to the owners of other slots, spread by weight, and come back when it does. Nobody else
//! moves.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::rendezvous::{Candidate, Contender, mix, winner};
use super::{Member, View};

/// Slots of a table, as a power of two.
const SLOT_BITS: u32 = 16;
const SLOTS: usize = 1 << SLOT_BITS;
/// Seed of the hash of addresses and slots.
const SEED: u64 = 0x6576_656E_6B65_656C;
/// Other slots asked for their owner before all servers are gone through.
const PROBES: u64 = 16;

/// `ip_hash`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IpHash {
    /// Leading bits of an IPv4 address that count, 1 to 32.
    #[serde(deserialize_with = "ipv4_prefix")]
    pub ipv4_prefix: u8,
    /// Leading bits of an IPv6 address that count, 1 to 128. 64 by default, because one client
    /// changes the lower half of its address as it likes (RFC 8981).
    #[serde(deserialize_with = "ipv6_prefix")]
    pub ipv6_prefix: u8,
}

impl Default for IpHash {
    fn default() -> Self {
        Self { ipv4_prefix: 32, ipv6_prefix: 64 }
    }
}

fn ipv4_prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    prefix(deserializer, 32)
}

fn ipv6_prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    prefix(deserializer, 128)
}

fn prefix<'de, D: Deserializer<'de>>(deserializer: D, most: u8) -> Result<u8, D::Error> {
    let bits = i64::deserialize(deserializer)?;
    u8::try_from(bits)
        .ok()
        .filter(|bits| (1..=most).contains(bits))
        .ok_or_else(|| de::Error::custom(format!("a prefix of {bits} bits: write 1 to {most}")))
}

/// The owner of every slot, and which bits of an address count.
#[derive(Debug, Clone)]
pub struct Table {
    ipv4_mask: u32,
    ipv6_mask: u128,
    owners: Arc<Owners>,
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

impl IpHash {
    /// The owners are taken over from `previous` while names and weights are the same: a server that
    /// fails or returns costs nothing here.
    ///
    /// Members from the 65,536th on own no slot.
    pub(super) fn table(&self, members: &[Member], previous: Option<&Table>) -> Table {
        let servers = members.iter().take(1 << 16).map(|m| Candidate { key: m.key, weight: m.weight });
        let owners = match previous {
            Some(table) if servers.clone().eq(table.owners.servers.iter().copied()) => Arc::clone(&table.owners),
            _ => Arc::new(Owners::new(servers.collect())),
        };
        let ipv4_mask = u32::MAX.checked_shl(32 - u32::from(self.ipv4_prefix)).unwrap_or(0);
        let ipv6_mask = u128::MAX.checked_shl(128 - u32::from(self.ipv6_prefix)).unwrap_or(0);
        Table { ipv4_mask, ipv6_mask, owners }
    }
}

impl Table {
    pub(super) fn pick(&self, client: IpAddr, view: &impl View) -> Option<usize> {
        let slot = self.slot(client);
        let owner = usize::from(*self.owners.slots.get(slot)?);
        if usable(view, owner) { Some(owner) } else { self.owners.replace(slot, view) }
    }

    /// The slot of an address. An IPv4 address written as IPv6 (RFC 4291 §2.5.5.2) is the IPv4 address.
    fn slot(&self, client: IpAddr) -> usize {
        let hash = match client.to_canonical() {
            IpAddr::V4(address) => {
                let masked = Ipv4Addr::from_bits(address.to_bits() & self.ipv4_mask);
                xxh3_64_with_seed(&masked.octets(), SEED)
            }
            IpAddr::V6(address) => {
                let masked = Ipv6Addr::from_bits(address.to_bits() & self.ipv6_mask);
                xxh3_64_with_seed(&masked.octets(), SEED)
            }
        };
        (hash >> (64 - SLOT_BITS)) as usize
    }
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

    /// A usable server for a slot whose owner is not: the same one each time while nothing changes.
    #[cold]
    fn replace(&self, slot: usize, view: &impl View) -> Option<usize> {
        let slot_hash = hash_of(slot);
        for attempt in 1..=PROBES {
            let other = mix(slot_hash.wrapping_add(attempt)) >> (64 - SLOT_BITS);
            let owner = usize::from(self.slots[other as usize]);
            if usable(view, owner) {
                return Some(owner);
            }
        }
        let mut best: Option<(usize, Contender)> = None;
        for (index, server) in self.servers.iter().enumerate() {
            if server.weight > 0 && usable(view, index) {
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
