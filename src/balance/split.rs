//! The same user, the same upstream: which of the upstreams of a split a user belongs to.
//!
//! It follows from what the user is known by and from the names and weights of the upstreams, and from
//! nothing else: replicas agree without a shared secret, a restart forgets nothing, and a weight that
//! changes moves only as many users as it has to. No health is looked at: a user who goes where it is
//! broken is not somebody else's to serve.
//!
//! What a user is known by is no secret and proves nothing: whoever makes up a cookie chooses a place.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use serde::de::MapAccess;
use serde::{Deserialize, Deserializer};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::key_of;
use super::rendezvous::{Candidate, winner};
use super::sticky_cookie;
use crate::named::{self, Named};

/// Seed of the hash of users; another than that of `ip_hash`, whose servers have to be spread anew
/// within each upstream.
const SEED: u64 = 0x6576_656E_6B73_706C;
/// Hexadecimal digits of a cookie's value.
const DIGITS: usize = 16;

/// What a user is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SplitBy {
    /// A random cookie that is set once.
    Cookie(SplitCookie),
    /// The client's address after trusted proxies; of an IPv6 address the first 64 bits.
    Address(SplitAddress),
}

/// `cookie`: the one that a user is known by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitCookie {
    /// Name of the cookie: a token (RFC 6265 §4.1.1) of at most 64 bytes.
    #[serde(deserialize_with = "sticky_cookie::name")]
    pub name: String,
    /// A browser forgets the cookie after this time, and its user is new. At least a second.
    #[serde(deserialize_with = "sticky_cookie::lifetime")]
    pub max_age: Duration,
}

impl Default for SplitCookie {
    fn default() -> Self {
        Self { name: "evenkeel_split".to_owned(), max_age: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// `address`. It has no options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitAddress {}

impl Default for SplitBy {
    fn default() -> Self {
        Self::Cookie(SplitCookie::default())
    }
}

impl SplitBy {
    /// The name that the configuration uses.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cookie(_) => "cookie",
            Self::Address(_) => "address",
        }
    }
}

impl Named for SplitBy {
    const WHAT: &'static str = "a key of users";
    const NAMES: &'static [&'static str] = &["cookie", "address"];

    fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "cookie" => Self::Cookie(SplitCookie::default()),
            "address" => Self::Address(SplitAddress::default()),
            _ => return None,
        })
    }

    fn with_options<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Self>, A::Error> {
        Ok(Some(match name {
            "cookie" => Self::Cookie(map.next_value()?),
            "address" => Self::Address(map.next_value()?),
            _ => return Ok(None),
        }))
    }
}

impl<'de> Deserialize<'de> for SplitBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named::deserialize(deserializer)
    }
}

impl SplitCookie {
    /// The value of `Set-Cookie` (RFC 6265 §4.1) that makes a user of a random number.
    #[must_use]
    pub fn set_cookie(&self, number: u64, tls: bool) -> String {
        let secure = if tls { "; Secure" } else { "" };
        let (name, max_age) = (&self.name, self.max_age.as_secs());
        format!("{name}={number:016x}; Path=/; Max-Age={max_age}; SameSite=Lax{secure}; HttpOnly")
    }
}

/// The number in the value of a cookie; none in what [`SplitCookie::set_cookie`] does not write.
#[must_use]
pub fn number_in(value: &[u8]) -> Option<u64> {
    let is_ours = value.len() == DIGITS && value.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_ours {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok()
}

/// One whose requests go to one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User(u64);

impl User {
    /// Who has the cookie with this number.
    #[must_use]
    pub fn of_number(number: u64) -> Self {
        Self(xxh3_64_with_seed(&number.to_be_bytes(), SEED))
    }

    /// What stands for the user.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// Who is at this address. An IPv4 address written as IPv6 (RFC 4291 §2.5.5.2) is the IPv4 address.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => xxh3_64_with_seed(&address.octets(), SEED),
            IpAddr::V6(address) => {
                let network = Ipv6Addr::from_bits(address.to_bits() >> 64 << 64);
                xxh3_64_with_seed(&network.octets(), SEED)
            }
        })
    }
}

/// The upstreams of a split, with their weights.
#[derive(Debug, Clone)]
pub struct Split {
    /// Those that have a weight, with their positions.
    branches: Box<[(u16, Candidate)]>,
}

impl Split {
    /// A split between upstreams of these names and weights.
    #[must_use]
    pub fn new<'a>(upstreams: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let candidates = upstreams.into_iter().map(|(name, weight)| Candidate { key: key_of(name), weight });
        Self { branches: (0..=u16::MAX).zip(candidates).filter(|(_, branch)| branch.weight > 0).collect() }
    }

    /// The position of the upstream that a user belongs to; none where no upstream has a weight.
    #[must_use]
    pub fn pick(&self, user: User) -> Option<usize> {
        (!self.branches.is_empty()).then(|| usize::from(winner(user.0, &self.branches)))
    }
}

#[cfg(test)]
mod tests;
