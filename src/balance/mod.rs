//! Policies: which server gets the next request.
//!
//! Pure: no socket, no clock, no lock, no global randomness. Everything that changes is lent by the
//! caller ([`Scratch`], [`View`]), so a policy is tested without a proxy and a seeded simulation can
//! drive it. The configured form and the running form are the same enum; what is derived from the
//! members of an upstream is a [`Table`], built by the control plane whenever a weight or a state
//! changes, never on the path of a request.
//!
//! Adding a policy: one file, one variant here, and the arms that the compiler then asks for.
//! Nothing in this room may import another room of the crate (the leaves [`crate::named`] and
//! [`crate::units`] aside).

pub mod canary;
pub mod first;
pub mod hash;
pub mod hot;
pub mod ip_hash;
pub mod least_requests;
pub mod litmus;
pub mod max_load;
pub mod peak_ewma;
pub mod random_two;
mod rendezvous;
pub mod round_robin;
pub mod shuffle;
pub mod skew;
mod slots;
pub mod split;
pub mod sticky_cookie;

use std::net::IpAddr;
use std::time::Duration;

use serde::de::MapAccess;
use serde::{Deserialize, Deserializer};

pub use first::First;
pub use hash::{Hash, HashBy};
pub use hot::HotKeys;
pub use ip_hash::IpHash;
pub use least_requests::LeastRequests;
pub use max_load::MaxLoad;
pub use peak_ewma::PeakEwma;
pub use random_two::RandomTwo;
pub use round_robin::RoundRobin;
pub use shuffle::Shuffle;
pub use split::{Split, SplitAddress, SplitBy, SplitCookie};
pub use sticky_cookie::StickyCookie;

use crate::named::{self, Named};

/// How a server is picked for a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Policy {
    /// Smooth weighted round robin.
    RoundRobin(RoundRobin),
    /// The same client address, the same server, by a consistent slot table.
    IpHash(IpHash),
    /// A sealed cookie names the server; new clients are placed by an inner policy.
    StickyCookie(StickyCookie),
    /// The least busy of all servers, by weight.
    LeastRequests(LeastRequests),
    /// The less busy of two servers drawn at random by weight.
    RandomTwo(RandomTwo),
    /// Of two servers drawn at random the one that is expected to answer sooner.
    PeakEwma(PeakEwma),
    /// The same key of a request, the same server.
    Hash(Hash),
    /// The first server with room.
    First(First),
    /// Another server than that of the client's last request.
    Shuffle(Shuffle),
}

/// One server as a policy sees it when its [`Table`] is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Stable hash of the server's name ([`key_of`]), the same in every process and version.
    pub key: u64,
    /// Relative share, 0 to 10,000; 0 takes no new clients.
    pub weight: u32,
    /// Whether new clients may be placed here at this moment.
    pub takes_new: bool,
}

/// What a policy may ask about a server at the moment of a pick.
pub trait View {
    /// Whether this request was tried on that server already.
    fn tried(&self, index: usize) -> bool;
    /// Whether that server takes new clients right now.
    fn takes_new(&self, index: usize) -> bool;
    /// Whether that server takes clients that are pinned to it right now.
    fn takes_pinned(&self, index: usize) -> bool;
    /// Requests in flight on that server, over all cores.
    fn in_flight(&self, index: usize) -> u32;
    /// Microseconds that server is expected to take to answer, if it has answered yet; only
    /// [`PeakEwma`] asks.
    fn latency(&self, index: usize) -> Option<f32>;
    /// A request that belongs to that server goes elsewhere, since it has what [`MaxLoad`] allows. `core` is that of
    /// the [`Scratch`].
    fn passes_on(&self, _index: usize, _core: usize) {}
}

/// What a policy may know of the request.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    /// The client's address after trusted proxies.
    pub client: IpAddr,
    /// The hash of what [`hash::Hash`] goes by, if the request has it ([`HashBy::key`]).
    pub key: Option<u64>,
    /// What stands for the user instead of the address or the key, where that is [spread](hot).
    pub spread: Option<u64>,
    /// The server that a valid sticky cookie names, if it is still a member.
    pub pinned: Option<usize>,
}

/// The outcome of a pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Position of the server among the members.
    pub index: usize,
    /// Whether the client was pinned to it, so that it may go to a draining server.
    pub pinned: bool,
}

/// What one core remembers between picks of one upstream.
#[derive(Debug, Clone)]
pub struct Scratch {
    /// Where round robin goes on.
    pub cursor: usize,
    /// State of a small random generator; never zero.
    pub rng: u64,
    core: usize,
    load: max_load::Load,
}

impl Scratch {
    /// Scratch for one core. Cores that are given the same seed start their cursors one entry apart:
    /// from one place every core would send its first request to the same server, and from random
    /// places some of them would.
    #[must_use]
    pub fn new(core: usize, seed: u64) -> Self {
        let start = Self { cursor: 0, rng: seed | 1, core, load: max_load::Load::default() }.random() >> 40;
        Self {
            cursor: (start as usize).wrapping_add(core),
            rng: (seed ^ (core as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1,
            core,
            load: max_load::Load::default(),
        }
    }

    /// The next pseudo-random number (xorshift64*, Vigna 2016, <https://arxiv.org/abs/1402.6246>).
    pub fn random(&mut self) -> u64 {
        let mut x = self.rng;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.rng = x;
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number in `0..bound`; `bound` must not be 0 (Lemire's multiply-shift, slightly biased for
    /// bounds near 2^32, which no upstream reaches).
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.random() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// The stable hash of a server's name: XXH3-64 with seed 0.
#[must_use]
pub fn key_of(name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.as_bytes())
}

/// What a [`Policy`] derives from the members of an upstream; immutable.
#[derive(Debug, Clone)]
pub enum Table {
    RoundRobin(round_robin::Table),
    IpHash(ip_hash::Table),
    LeastRequests(least_requests::Table),
    RandomTwo(random_two::Table),
    PeakEwma(peak_ewma::Table),
    Hash(hash::Table),
    First(first::Table),
    Shuffle(shuffle::Table),
}

impl Policy {
    /// The name that the configuration, the status and the metrics use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RoundRobin(_) => "round_robin",
            Self::IpHash(_) => "ip_hash",
            Self::StickyCookie(_) => "sticky_cookie",
            Self::LeastRequests(_) => "least_requests",
            Self::RandomTwo(_) => "random_two",
            Self::PeakEwma(_) => "peak_ewma",
            Self::Hash(_) => "hash",
            Self::First(_) => "first",
            Self::Shuffle(_) => "shuffle",
        }
    }

    /// Builds the table for these members. `previous` is the table it replaces, from which costly
    /// parts are taken over when they did not change.
    #[must_use]
    pub fn table(&self, members: &[Member], previous: Option<&Table>) -> Table {
        match self {
            Self::RoundRobin(policy) => Table::RoundRobin(policy.table(members)),
            Self::IpHash(policy) => {
                let previous = previous.and_then(|t| if let Table::IpHash(t) = t { Some(t) } else { None });
                Table::IpHash(policy.table(members, previous))
            }
            Self::StickyCookie(policy) => policy.new_clients.table(members, previous),
            Self::LeastRequests(policy) => Table::LeastRequests(policy.table(members)),
            Self::RandomTwo(policy) => Table::RandomTwo(policy.table(members)),
            Self::PeakEwma(policy) => Table::PeakEwma(policy.table(members)),
            Self::Hash(policy) => {
                let previous = previous.and_then(|t| if let Table::Hash(t) = t { Some(t) } else { None });
                Table::Hash(policy.table(members, previous))
            }
            Self::First(policy) => Table::First(policy.table(members)),
            Self::Shuffle(policy) => {
                let previous = previous.and_then(|t| if let Table::Shuffle(t) = t { Some(t) } else { None });
                Table::Shuffle(policy.table(members, previous))
            }
        }
    }

    /// Whether new clients are spread anew from pick to pick, so that a weight may change from one moment to
    /// the next and nobody moves by that.
    #[must_use]
    pub fn spreads_anew(&self) -> bool {
        match self {
            Self::RoundRobin(_)
            | Self::LeastRequests(_)
            | Self::RandomTwo(_)
            | Self::PeakEwma(_)
            | Self::Shuffle(_) => true,
            Self::IpHash(_) | Self::Hash(_) | Self::First(_) => false,
            Self::StickyCookie(sticky) => sticky.new_clients.spreads_anew(),
        }
    }

    /// Whether the same client, or user, comes to the same server whatever it asks for. A sticky cookie has its own
    /// place for that.
    #[must_use]
    pub fn has_homes(&self) -> bool {
        match self {
            Self::IpHash(_) => true,
            Self::Hash(hash) => matches!(hash.by, HashBy::Header(_) | HashBy::Cookie(_)),
            Self::StickyCookie(_) => true,
            Self::RoundRobin(_)
            | Self::LeastRequests(_)
            | Self::RandomTwo(_)
            | Self::PeakEwma(_)
            | Self::First(_)
            | Self::Shuffle(_) => false,
        }
    }

    /// Whether a client goes to one server only, so that it would rather wait for it than go elsewhere.
    #[must_use]
    pub fn belongs(&self) -> bool {
        match self {
            Self::IpHash(policy) => policy.max_load.is_none(),
            Self::Hash(policy) => policy.max_load.is_none(),
            Self::StickyCookie(sticky) => sticky.new_clients.belongs(),
            Self::RoundRobin(_)
            | Self::LeastRequests(_)
            | Self::RandomTwo(_)
            | Self::PeakEwma(_)
            | Self::First(_)
            | Self::Shuffle(_) => false,
        }
    }

    /// Whether what it picks depends on what servers have to do at that moment.
    #[must_use]
    pub fn reads_load(&self) -> bool {
        match self {
            Self::RoundRobin(_) | Self::Shuffle(_) => false,
            Self::LeastRequests(_) | Self::RandomTwo(_) | Self::PeakEwma(_) | Self::First(_) => true,
            Self::IpHash(policy) => policy.max_load.is_some(),
            Self::Hash(policy) => policy.max_load.is_some(),
            Self::StickyCookie(sticky) => sticky.new_clients.reads_load(),
        }
    }

    /// What of a request the policy goes by beside its client, if anything.
    #[must_use]
    pub fn keyed(&self) -> Option<&HashBy> {
        match self {
            Self::Hash(hash) => Some(&hash.by),
            Self::Shuffle(shuffle) => shuffle.by.as_ref(),
            Self::StickyCookie(sticky) => sticky.new_clients.keyed(),
            _ => None,
        }
    }

    /// The bound on a server's load, where clients belong to one.
    #[must_use]
    pub fn max_load(&self) -> Option<MaxLoad> {
        match self {
            Self::IpHash(policy) => policy.max_load,
            Self::Hash(policy) => policy.max_load,
            Self::StickyCookie(sticky) => sticky.new_clients.max_load(),
            _ => None,
        }
    }

    /// Whether hot keys are looked for, and what is done about them.
    #[must_use]
    pub fn hot_keys(&self) -> &HotKeys {
        match self {
            Self::IpHash(policy) => &policy.hot_keys,
            Self::Hash(policy) => &policy.hot_keys,
            Self::StickyCookie(sticky) => sticky.new_clients.hot_keys(),
            _ => &HotKeys::Off,
        }
    }

    /// How fast averages of latency fade, if the policy wants to know how long servers take.
    #[must_use]
    pub fn decay(&self) -> Option<Duration> {
        match self {
            Self::PeakEwma(policy) => Some(policy.decay),
            Self::StickyCookie(sticky) => sticky.new_clients.decay(),
            _ => None,
        }
    }

    /// The options of the sticky cookie, if this policy sets one.
    #[must_use]
    pub fn sticky(&self) -> Option<&StickyCookie> {
        if let Self::StickyCookie(sticky) = self { Some(sticky) } else { None }
    }
}

impl Table {
    /// Picks a server, or none when no member can take the request. Allocates nothing, locks nothing.
    pub fn pick(&self, input: &Input, scratch: &mut Scratch, view: &impl View) -> Option<Pick> {
        if let Some(index) = input.pinned
            && !view.tried(index)
            && view.takes_pinned(index)
        {
            return Some(Pick { index, pinned: true });
        }
        let index = match self {
            Self::RoundRobin(table) => table.pick(scratch, view),
            Self::IpHash(table) => match input.spread {
                None => table.pick(input.client, scratch, view),
                Some(user) => table.pick_key(user, scratch, view),
            },
            Self::LeastRequests(table) => table.pick(scratch, view),
            Self::RandomTwo(table) => table.pick(scratch, view),
            Self::PeakEwma(table) => table.pick(scratch, view),
            Self::Hash(table) => match input.spread {
                None => table.pick(input.key, input.client, scratch, view),
                Some(user) => table.pick_key(user, scratch, view),
            },
            Self::First(table) => table.pick(view),
            Self::Shuffle(table) => table.pick(input.key, input.client, scratch, view),
        }?;
        Some(Pick { index, pinned: false })
    }

    /// What a request goes by, where the policy is one by key.
    #[must_use]
    pub fn hot_key(&self, key: Option<u64>, client: IpAddr) -> Option<hot::Key> {
        match self {
            Self::IpHash(table) => Some(table.key(client)),
            Self::Hash(table) => Some(table.key(key, client)),
            _ => None,
        }
    }

    /// The server that a key belongs to among those that are `usable`, whatever its load.
    #[must_use]
    pub fn home(&self, key: hot::Key, usable: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::IpHash(table) => table.home(key, usable),
            Self::Hash(table) => table.home(key, usable),
            _ => None,
        }
    }
}

impl Named for Policy {
    const WHAT: &'static str = "a policy";
    const NAMES: &'static [&'static str] = &[
        "round_robin",
        "ip_hash",
        "sticky_cookie",
        "least_requests",
        "random_two",
        "peak_ewma",
        "hash",
        "first",
        "shuffle",
    ];

    fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "round_robin" => Self::RoundRobin(RoundRobin::default()),
            "ip_hash" => Self::IpHash(IpHash::default()),
            "sticky_cookie" => Self::StickyCookie(StickyCookie::default()),
            "least_requests" => Self::LeastRequests(LeastRequests::default()),
            "random_two" => Self::RandomTwo(RandomTwo::default()),
            "peak_ewma" => Self::PeakEwma(PeakEwma::default()),
            "hash" => Self::Hash(Hash::default()),
            "first" => Self::First(First::default()),
            "shuffle" => Self::Shuffle(Shuffle::default()),
            _ => return None,
        })
    }

    fn with_options<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Self>, A::Error> {
        Ok(Some(match name {
            "round_robin" => Self::RoundRobin(map.next_value()?),
            "ip_hash" => Self::IpHash(map.next_value()?),
            "sticky_cookie" => Self::StickyCookie(map.next_value()?),
            "least_requests" => Self::LeastRequests(map.next_value()?),
            "random_two" => Self::RandomTwo(map.next_value()?),
            "peak_ewma" => Self::PeakEwma(map.next_value()?),
            "hash" => Self::Hash(map.next_value()?),
            "first" => Self::First(map.next_value()?),
            "shuffle" => Self::Shuffle(map.next_value()?),
            _ => return Ok(None),
        }))
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests;
