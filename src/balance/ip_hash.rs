//! The same client address, the same server.
//!
//! Which server an address belongs to is looked up in [`super::slots`]; this room says what of an address
//! counts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, de};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::hot::{HotKeys, Key};
use super::max_load::{self, MaxLoad};
use super::slots::{SEED, Slots};
use super::{Member, Scratch, View};

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
    /// A server that would get more than this times its share of the requests in flight passes clients on;
    /// 1 to 100. None is no bound.
    #[serde(deserialize_with = "max_load::read")]
    pub max_load: Option<MaxLoad>,
    /// What is done about an address that takes more than its share of the requests.
    pub hot_keys: HotKeys,
}

impl Default for IpHash {
    fn default() -> Self {
        Self { ipv4_prefix: 32, ipv6_prefix: 64, max_load: None, hot_keys: HotKeys::Off }
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
    ipv4_prefix: u8,
    ipv6_prefix: u8,
    slots: Slots,
}

impl IpHash {
    pub(super) fn table(&self, members: &[Member], previous: Option<&Table>) -> Table {
        let ipv4_mask = u32::MAX.checked_shl(32 - u32::from(self.ipv4_prefix)).unwrap_or(0);
        let ipv6_mask = u128::MAX.checked_shl(128 - u32::from(self.ipv6_prefix)).unwrap_or(0);
        let Self { ipv4_prefix, ipv6_prefix, .. } = *self;
        let slots = Slots::new(members, self.max_load, previous.map(|table| &table.slots));
        Table { ipv4_mask, ipv6_mask, ipv4_prefix, ipv6_prefix, slots }
    }
}

impl Table {
    pub(super) fn pick(&self, client: IpAddr, scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        self.slots.pick(self.hash(client), scratch, view)
    }

    /// The same for a hash that is known already.
    pub(super) fn pick_key(&self, hash: u64, scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        self.slots.pick(hash, scratch, view)
    }

    /// What of an address counts.
    pub(super) fn key(&self, client: IpAddr) -> Key {
        match client.to_canonical() {
            IpAddr::V4(address) => Key::V4 { network: address.to_bits() & self.ipv4_mask, bits: self.ipv4_prefix },
            IpAddr::V6(address) => Key::V6 { network: address.to_bits() & self.ipv6_mask, bits: self.ipv6_prefix },
        }
    }

    /// The server that a key belongs to among those that are `usable`, whatever its load.
    pub(super) fn home(&self, key: Key, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let hash = match key {
            Key::V4 { network, .. } => self.hash(IpAddr::V4(Ipv4Addr::from_bits(network))),
            Key::V6 { network, .. } => self.hash(IpAddr::V6(Ipv6Addr::from_bits(network))),
            Key::Value(hash) => hash,
        };
        self.slots.home(hash, usable)
    }

    /// An IPv4 address written as IPv6 (RFC 4291 §2.5.5.2) is the IPv4 address.
    fn hash(&self, client: IpAddr) -> u64 {
        match client.to_canonical() {
            IpAddr::V4(address) => {
                let masked = Ipv4Addr::from_bits(address.to_bits() & self.ipv4_mask);
                xxh3_64_with_seed(&masked.octets(), SEED)
            }
            IpAddr::V6(address) => {
                let masked = Ipv6Addr::from_bits(address.to_bits() & self.ipv6_mask);
                xxh3_64_with_seed(&masked.octets(), SEED)
            }
        }
    }
}

#[cfg(test)]
mod tests;
