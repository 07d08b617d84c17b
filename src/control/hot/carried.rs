//! Hot keys on their way to another process: who is hot, whose key is spread, what has come lately, and who was
//! named in the log. Moments are of the clock that the processes of a row share. Servers are named: numbers are of
//! one process.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Watched, shown};
use crate::balance::Policy;
use crate::balance::hot::{Hot, Judge, Key, Summary};

/// What is known of one upstream.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::control) struct CarriedHot {
    /// Keys are of a policy.
    policy: String,
    moments: Vec<Moment>,
    hot: Vec<Known>,
    named: Vec<(CarriedKey, String)>,
}

/// Text of an address, network or hash, and the bits of a network.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct CarriedKey(String, u8);

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Moment {
    at: Duration,
    counts: Vec<(CarriedKey, u64)>,
    error: u64,
    total: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Known {
    key: CarriedKey,
    share: f64,
    rate: f64,
    server: String,
    load: f64,
    since: Duration,
    is_spread: bool,
    crowded: u8,
    easy_since: Option<Duration>,
}

impl CarriedKey {
    fn of(key: Key) -> Self {
        match key {
            Key::V4 { network, bits } => Self(std::net::Ipv4Addr::from_bits(network).to_string(), bits),
            Key::V6 { network, bits } => Self(std::net::Ipv6Addr::from_bits(network).to_string(), bits),
            Key::Value(hash) => Self(format!("{hash:016x}"), 0),
        }
    }

    fn key(&self) -> Option<Key> {
        let Self(text, bits) = self;
        Some(match text.parse() {
            Ok(IpAddr::V4(address)) => Key::V4 { network: address.to_bits(), bits: *bits },
            Ok(IpAddr::V6(address)) => Key::V6 { network: address.to_bits(), bits: *bits },
            Err(_) => Key::Value(u64::from_str_radix(text, 16).ok()?),
        })
    }
}

impl Watched {
    /// All that is known. `name_of` is the name of a server.
    pub(in crate::control) fn carried(&self, policy: &Policy, name_of: impl Fn(u64) -> Option<String>) -> CarriedHot {
        let moment = |(at, came): &(Duration, Summary<Key>)| Moment {
            at: *at,
            counts: came.counts().map(|(key, count)| (CarriedKey::of(key), count)).collect(),
            error: came.error(),
            total: came.total(),
        };
        let known = |hot: &Hot| {
            let Hot { key, share, rate, server, load, since, is_spread, crowded, easy_since } = *hot;
            let (key, server) = (CarriedKey::of(key), name_of(server)?);
            Some(Known { key, share, rate, server, load, since, is_spread, crowded, easy_since })
        };
        let named = self.named.pairs.iter().filter_map(|(key, uid)| Some((CarriedKey::of(*key), name_of(*uid)?)));
        CarriedHot {
            policy: format!("{policy:?}"),
            moments: self.judge.moments().map(moment).collect(),
            hot: self.judge.hot().iter().filter_map(known).collect(),
            named: named.collect(),
        }
    }

    /// Goes on where another process was, if its policy was the same. `uid_of` is the number of a server here.
    pub(in crate::control) fn resume(
        &mut self,
        carried: &CarriedHot,
        policy: &Policy,
        uid_of: impl Fn(&str) -> Option<u64>,
    ) {
        if carried.policy != format!("{policy:?}") {
            return;
        }
        let moment = |moment: &Moment| {
            let counts = moment.counts.iter().filter_map(|(key, count)| Some((key.key()?, *count)));
            (moment.at, Summary::of(counts, moment.error, moment.total))
        };
        let known = |known: &Known| {
            let (key, server) = (known.key.key()?, uid_of(&known.server)?);
            let Known { share, rate, load, since, is_spread, crowded, easy_since, .. } = *known;
            Some(Hot { key, share, rate, server, load, since, is_spread, crowded, easy_since })
        };
        let hot = carried.hot.iter().filter_map(known).collect();
        self.judge = Judge::resumed(carried.moments.iter().map(moment).collect(), hot);
        let named = carried.named.iter().filter_map(|(key, server)| Some((key.key()?, uid_of(server)?)));
        self.named.pairs = named.take(super::REMEMBERED).collect();
        self.settle();
        let names = &carried.hot;
        let name_of = |uid: u64| {
            let known = names.iter().find(|known| uid_of(&known.server) == Some(uid));
            known.map_or_else(|| "?".into(), |known| known.server.as_str().into())
        };
        self.counts.show(self.judge.hot().iter().map(|hot| shown(hot, &name_of)).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_through() {
        for key in [
            Key::V4 { network: 0x7f07_0707, bits: 32 },
            Key::V4 { network: 0x0a00_0000, bits: 8 },
            Key::V6 { network: 0x2001_0db8 << 96, bits: 64 },
            Key::V6 { network: 0xffff_0a00_0001, bits: 128 },
            Key::Value(0),
            Key::Value(u64::MAX),
            Key::Value(0x1234),
        ] {
            assert_eq!(CarriedKey::of(key).key(), Some(key));
        }
        assert_eq!(CarriedKey("whatever".to_owned(), 3).key(), None);
    }
}
