//! Hot keys: an address, or another key that a policy goes by, that takes more than its share of the requests.
//!
//! One key goes to one server, so an office behind one address makes one server hot. [`space_saving`] finds who
//! comes how often in a fixed room, [`judge`] decides who is hot, and while whose key is no longer one key but one
//! for each user. A user is known by a cookie that evenkeel sets once, or else by the connection: the
//! application's own cookie would not do, since whoever comes for it does not have it yet, and would be sent away
//! from the server that has just made the session.
//!
//! What time it is and what was counted are arguments here.

pub mod judge;
pub mod space_saving;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::de::{self, MapAccess};
use serde::{Deserialize, Deserializer};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use judge::{Change, Hot, Judge, Look, Place};
pub use space_saving::{SpaceSaving, Summary};

use super::SplitCookie;
use super::sticky_cookie;
use crate::named::{self, Named};

/// Seed of the hash of the users of a spread key.
const SEED: u64 = 0x6576_656E_6B68_6F74;
/// Counters of one core for one upstream.
pub const COUNTERS: usize = 256;
/// Keys of one moment that are kept for the window.
pub const KEPT: usize = 4 * COUNTERS;

/// What a policy goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// An IPv4 address, or the network that counts as one.
    V4 { network: u32, bits: u8 },
    /// The same of IPv6.
    V6 { network: u128, bits: u8 },
    /// The hash of a value: what it is may be a secret, so it is not kept.
    Value(u64),
}

impl Key {
    /// What stands for one user of this key, by the user's number.
    #[must_use]
    pub fn of_user(self, user: u64) -> u64 {
        let mut bytes = [0; 25];
        match self {
            Self::V4 { network, .. } => bytes[..4].copy_from_slice(&network.to_be_bytes()),
            Self::V6 { network, .. } => bytes[..16].copy_from_slice(&network.to_be_bytes()),
            Self::Value(hash) => bytes[..8].copy_from_slice(&hash.to_be_bytes()),
        }
        bytes[16..24].copy_from_slice(&user.to_be_bytes());
        xxh3_64_with_seed(&bytes, SEED)
    }
}

/// The number of a user without a cookie: the same for all requests of a connection.
#[must_use]
pub fn number_of_connection(peer: IpAddr, port: u16) -> u64 {
    let mut bytes = [0; 18];
    match peer {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes[..16].copy_from_slice(&address.octets()),
    }
    bytes[16..].copy_from_slice(&port.to_be_bytes());
    xxh3_64_with_seed(&bytes, SEED)
}

/// An address as it is, a network with its prefix, and of a value its hash.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4 { network, bits: 32 } => write!(f, "{}", std::net::Ipv4Addr::from_bits(network)),
            Self::V4 { network, bits } => write!(f, "{}/{bits}", std::net::Ipv4Addr::from_bits(network)),
            Self::V6 { network, bits: 128 } => write!(f, "{}", std::net::Ipv6Addr::from_bits(network)),
            Self::V6 { network, bits } => write!(f, "{}/{bits}", std::net::Ipv6Addr::from_bits(network)),
            Self::Value(hash) => write!(f, "key {hash:016x}"),
        }
    }
}

/// `hot_keys`: whether hot keys are looked for, and what is done about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HotKeys {
    /// Nothing is counted.
    #[default]
    Off,
    /// They are named.
    Report(Report),
    /// They are named, and spread while their server is above `max_load`.
    Spread(Spread),
}

/// `report`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Report {
    /// A key that takes this many times a server's share of all requests is hot.
    pub share: Share,
}

/// `spread`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spread {
    /// A key that takes this many times a server's share of all requests is hot.
    pub share: Share,
    /// Name of the cookie by which the users of a spread key are kept apart: a token (RFC 6265 §4.1.1) of at most
    /// 64 bytes.
    #[serde(deserialize_with = "sticky_cookie::name")]
    pub cookie: String,
    /// A browser forgets the cookie after this time. At least a second.
    #[serde(deserialize_with = "sticky_cookie::lifetime")]
    pub max_age: Duration,
}

impl Default for Spread {
    fn default() -> Self {
        Self { share: Share::default(), cookie: "evenkeel_user".to_owned(), max_age: Duration::from_secs(12 * 60 * 60) }
    }
}

/// Times a server's share, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Default for Share {
    /// Half of a share more than others have: then a server's load is one and a half of the mean.
    fn default() -> Self {
        Self(500)
    }
}

impl Share {
    /// The factor as a number.
    #[must_use]
    pub fn factor(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl de::Visitor<'_> for Number {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0.1 to 10, such as 0.5")
            }

            fn visit_f64<E: de::Error>(self, factor: f64) -> Result<Share, E> {
                let thousandths = (factor * 1000.0).round();
                if !(100.0..=10_000.0).contains(&thousandths) {
                    return Err(E::custom(format!("{factor} times a server's share: write 0.1 to 10, such as 0.5")));
                }
                Ok(Share(thousandths as u32))
            }

            fn visit_i64<E: de::Error>(self, factor: i64) -> Result<Share, E> {
                self.visit_f64(factor as f64)
            }
        }

        deserializer.deserialize_any(Number)
    }
}

impl HotKeys {
    /// The name that the configuration uses.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Report(_) => "report",
            Self::Spread(_) => "spread",
        }
    }

    /// How many times a server's share is hot; none where nothing is counted.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        match self {
            Self::Off => None,
            Self::Report(report) => Some(report.share.factor()),
            Self::Spread(spread) => Some(spread.share.factor()),
        }
    }

    /// The cookie of the users of spread keys, where keys may be spread.
    #[must_use]
    pub fn cookie(&self) -> Option<SplitCookie> {
        match self {
            Self::Spread(Spread { cookie, max_age, .. }) => {
                Some(SplitCookie { name: cookie.clone(), max_age: *max_age })
            }
            Self::Off | Self::Report(_) => None,
        }
    }
}

impl Named for HotKeys {
    const WHAT: &'static str = "`hot_keys`";
    const NAMES: &'static [&'static str] = &["off", "report", "spread"];

    fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "off" => Self::Off,
            "report" => Self::Report(Report::default()),
            "spread" => Self::Spread(Spread::default()),
            _ => return None,
        })
    }

    fn with_options<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Self>, A::Error> {
        Ok(Some(match name {
            "report" => Self::Report(map.next_value()?),
            "spread" => Self::Spread(map.next_value()?),
            _ => return Ok(None),
        }))
    }
}

impl<'de> Deserialize<'de> for HotKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct File {
        hot_keys: HotKeys,
    }

    fn read(text: &str) -> Result<HotKeys, String> {
        toml::from_str::<File>(text).map(|file| file.hot_keys).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_alone_means_defaults() {
        assert_eq!(read("hot_keys = 'off'"), Ok(HotKeys::Off));
        assert_eq!(read("hot_keys = 'report'").unwrap().share(), Some(0.5));
        let spread = read("hot_keys = { spread = { share = 2, cookie = 'who' } }").unwrap();
        assert_eq!((spread.share(), spread.cookie().unwrap().name.as_str()), (Some(2.0), "who"));
        for (text, says) in [
            ("hot_keys = 'on'", "unknown variant `on`"),
            ("hot_keys = true", "`hot_keys`: one of off, report, spread"),
            ("hot_keys = { report = { share = 0.01 } }", "0.01 times a server's share: write 0.1 to 10"),
            ("hot_keys = { report = { cookie = 'a' } }", "unknown field `cookie`"),
            ("hot_keys = { spread = { cookie = 'a b' } }", "`a b` is no name for a cookie"),
            ("hot_keys = { spread = { max_age = '0s' } }", "too short"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn users_of_a_key_differ_and_stay_the_same() {
        let office = Key::V4 { network: 7, bits: 32 };
        let users: std::collections::BTreeSet<u64> = (0..1_000).map(|user| office.of_user(user)).collect();
        assert_eq!(users.len(), 1_000);
        assert_eq!(office.of_user(3), office.of_user(3));
        assert_ne!(office.of_user(3), Key::V4 { network: 8, bits: 32 }.of_user(3));
        let peer = "127.0.0.1".parse().unwrap();
        assert_ne!(number_of_connection(peer, 1), number_of_connection(peer, 2));
    }

    #[test]
    fn values_are_not_shown() {
        let shown = |key: Key| key.to_string();
        assert_eq!(shown(Key::V4 { network: 0xC000_0207, bits: 32 }), "192.0.2.7");
        assert_eq!(shown(Key::V4 { network: 0xC000_0200, bits: 24 }), "192.0.2.0/24");
        assert_eq!(shown(Key::V6 { network: 0x2001_0DB8 << 96, bits: 64 }), "2001:db8::/64");
        assert_eq!(shown(Key::Value(255)), "key 00000000000000ff");
    }
}
