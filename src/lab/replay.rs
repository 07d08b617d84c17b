//! An access log again: what each policy would have done with these requests.
//!
//! Policies are the proxy's own ([`crate::balance`]), servers take as long as the log says, and time is the log's. It is
//! read once, line by line, and what is remembered is bounded: clients up to [`MOST_CLIENTS`], addresses in a sketch.
//! Where a log goes back in time, nothing is in flight any more: what began after that has not happened yet.
//! Servers never fail in here, and a server that would have been overloaded is not slower for it.

pub mod line;
mod reading;
mod summary;
#[cfg(test)]
mod tests;
mod world;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use self::line::Logged;
pub use self::summary::{Bad, BadLine, HotAddress, Outcome, Replayed, Share};
use self::world::World;
use crate::balance::Policy;
use crate::balance::hot::SpaceSaving;

/// Clients of whom it is known where they were last. Of further ones the requests count, and no moves.
pub const MOST_CLIENTS: usize = 1 << 21;
/// Addresses that are counted at once.
const COUNTERS: usize = 1 << 16;
/// Lines of a log are not in order to the second. One that is older than this, and than the request took, is of
/// another log, or of a clock that was wrong.
const SLACK: Duration = Duration::from_secs(60);
/// A line that does not say how long its request took may have the time when that began, hours ago for a tunnel. So
/// many in a row are no accident.
const LATE_IN_A_ROW: u32 = 100;
/// Names of servers in a log that are told.
const MOST_NAMES: usize = 1_000;
/// What clients are hashed with.
const SEED: u64 = 0x6576_656E_6B72_7079;

/// A server to send to.
#[derive(Debug, Clone, Serialize)]
pub struct Server {
    pub name: String,
    pub weight: u32,
}

/// What is wanted to know.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// At least one.
    pub servers: Vec<Server>,
    /// Each with the name it is told by.
    pub policies: Vec<(String, Policy)>,
    /// Only requests for it, where the log names upstreams.
    pub upstream: Option<String>,
    /// How long a request takes of which the log does not say so.
    pub took: Duration,
}

/// A replay under way.
#[derive(Debug)]
pub struct Replay {
    wanted: Wanted,
    worlds: Vec<World>,
    /// By hash, where each was last: by policy, and at the end as logged. 0 is nowhere.
    clients: HashMap<u64, Box<[u16]>>,
    addresses: SpaceSaving<IpAddr>,
    /// By name: its number, from 1, and its requests.
    logged: BTreeMap<String, (u16, u64)>,
    logged_moves: (u64, u64),
    /// The time of the log: the latest since it last went back.
    now: Duration,
    /// What is added to it, so that the time of the worlds never goes back.
    shift: Duration,
    /// Lines in a row that are too old and do not say how long their request took.
    late: u32,
    numbers: u64,
    told: Replayed,
}

impl Replay {
    /// Nothing read yet.
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        Self {
            worlds: wanted.policies.iter().map(|(_, policy)| World::new(policy, &wanted.servers)).collect(),
            clients: HashMap::new(),
            addresses: SpaceSaving::new(COUNTERS),
            logged: BTreeMap::new(),
            logged_moves: (0, 0),
            now: Duration::ZERO,
            shift: Duration::ZERO,
            late: 0,
            numbers: 0,
            told: Replayed {
                version: env!("CARGO_PKG_VERSION"),
                servers: wanted.servers.clone(),
                requests: 0,
                left_out: 0,
                lost: 0,
                bad: Bad::default(),
                back: 0,
                from: None,
                to: None,
                clients: 0,
                all_followed: true,
                without_duration: 0,
                logged: None,
                policies: Vec::new(),
                hottest: Vec::new(),
            },
            wanted,
        }
    }

    /// Sets the time to that of a line. A log has its lines in the order of their ends; time does not go back for
    /// who began before. It does for who ended before, such as in the older log when that comes last.
    fn go_on(&mut self, logged: &Logged<'_>) {
        let latest = logged.at.saturating_add(logged.took.unwrap_or_default()).saturating_add(SLACK);
        let is_late = latest < self.now;
        self.late = if is_late && logged.took.is_none() { self.late + 1 } else { 0 };
        if is_late && (logged.took.is_some() || self.late >= LATE_IN_A_ROW) {
            self.late = 0;
            self.told.back += 1;
            self.worlds.iter_mut().for_each(World::clear);
            self.shift = self.shift.saturating_add(self.now.saturating_sub(logged.at));
            self.now = logged.at;
        }
        self.now = self.now.max(logged.at);
    }

    fn request(&mut self, logged: &Logged<'_>) {
        if let (Some(wanted), Some(upstream)) = (&self.wanted.upstream, &logged.upstream)
            && *wanted != **upstream
        {
            self.told.left_out += 1;
            return;
        }
        self.told.requests += 1;
        self.told.without_duration += u64::from(logged.took.is_none());
        let (at, took) = (logged.at.as_secs_f64(), logged.took.unwrap_or(self.wanted.took));
        self.told.from = Some(self.told.from.map_or(at, |from| from.min(at)));
        self.told.to = Some(self.told.to.map_or(at, |to| to.max(at)));
        self.go_on(logged);
        let now = self.now.saturating_add(self.shift);
        self.addresses.add(logged.client);

        let client = client_of(logged);
        if self.clients.len() < MOST_CLIENTS {
            let nowhere = || vec![0; self.worlds.len() + 1].into_boxed_slice();
            self.clients.entry(client).or_insert_with(nowhere);
        }
        let mut last = self.clients.get_mut(&client);
        self.told.all_followed &= last.is_some();
        for (number, world) in self.worlds.iter_mut().enumerate() {
            let before = last.as_ref().map(|last| usize::from(last[number])).filter(|last| *last > 0);
            let Some(index) = world.send(logged, now, took, before.map(|last| last - 1)) else { continue };
            if let Some(last) = last.as_mut() {
                last[number] = u16::try_from(index + 1).unwrap_or(0);
            }
            if let Some(before) = before {
                world.followed += 1;
                world.moves += u64::from(before != index + 1);
            }
        }
        let Some(server) = &logged.server else { return };
        let next = self.logged.len() + 1;
        if next > MOST_NAMES && !self.logged.contains_key(&**server) {
            return;
        }
        let (number, requests) = self.logged.entry(server.to_string()).or_insert((next as u16, 0));
        *requests += 1;
        if let Some(last) = last.as_mut().and_then(|last| last.last_mut()) {
            if *last > 0 {
                self.logged_moves.0 += 1;
                self.logged_moves.1 += u64::from(*last != *number);
            }
            *last = *number;
        }
    }
}

/// What stands for a client: its address and User-Agent.
fn client_of(logged: &Logged<'_>) -> u64 {
    let seed = xxh3_64_with_seed(logged.agent.as_bytes(), SEED);
    match logged.client {
        IpAddr::V4(address) => xxh3_64_with_seed(&address.octets(), seed),
        IpAddr::V6(address) => xxh3_64_with_seed(&address.octets(), seed ^ xxh3_64(b"6")),
    }
}
