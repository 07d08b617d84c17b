//! What other policies would do with the traffic of an upstream.
//!
//! For each request the policies in its shadow are asked for a server, and what they say is counted and not
//! followed. A request of an upstream without any pays a look at an `Option`. Of those who have some, each
//! core has counts and scratch of its own; what is shared is [`clients`], which tells who moved.
//!
//! What is asked for knows the servers as they are: their states, their weights, who is spare and who is
//! full. What a server would have to do, if this policy sent what it would send there, can only be told by
//! counting that: a request is in flight where a policy would have sent it for as long as it really took. That
//! is an estimate, and [`Shade::approximate`] says so.

mod clients;
mod memory;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Server, Tried, Upstream};
use crate::balance::{HashBy, HotKeys, Input, Pick, Policy, Scratch, Table, View};
use crate::config::plan::{MOST_SHADOWS, ShadowPlan, UpstreamPlan};
use crate::metrics::cells::{ShadowCell, ShadowServerCell};
use clients::{Clients, Place};
pub use memory::Memory;

/// No position of a server.
const NOWHERE: u16 = u16::MAX;

/// What clients are known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownBy {
    /// The session of the upstream's own cookie.
    Session,
    /// A cookie of the application.
    Cookie(String),
    /// Address and User-Agent.
    Address,
}

impl KnownBy {
    fn of(plan: &UpstreamPlan, shadow: &ShadowPlan) -> Self {
        match &shadow.cookie {
            _ if plan.policy.sticky().is_some() => Self::Session,
            Some(name) => Self::Cookie(name.clone()),
            None => Self::Address,
        }
    }

    /// The word in answers.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Cookie(_) => "cookie",
            Self::Address => "address",
        }
    }
}

/// What is counted of one policy.
#[derive(Debug)]
pub struct Tally {
    policy: Policy,
    /// By core.
    cores: Box<[ShadowCell]>,
    /// By uid of the server, then by core. Only the control plane looks in here.
    servers: Mutex<HashMap<u32, Arc<[ShadowServerCell]>>>,
}

impl Tally {
    fn new(policy: &Policy, cores: usize) -> Self {
        let cells = (0..cores).map(|_| ShadowCell::default()).collect();
        Self { policy: policy.clone(), cores: cells, servers: Mutex::default() }
    }

    /// The cells of these servers, by position. Those of others are given up.
    fn of(&self, servers: &[Arc<Server>]) -> Box<[Arc<[ShadowServerCell]>]> {
        let mut known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|uid, _| servers.iter().any(|server| server.uid == *uid));
        let new = || self.cores.iter().map(|_| ShadowServerCell::default()).collect();
        servers.iter().map(|server| Arc::clone(known.entry(server.uid).or_insert_with(new))).collect()
    }

    /// Requests of clients that were followed, and how many of them went to another server than the last one.
    #[must_use]
    pub fn moves(&self) -> (u64, u64) {
        let sum = |of: fn(&ShadowCell) -> u64| self.cores.iter().map(of).fold(0, u64::wrapping_add);
        (sum(|cell| cell.followed.get()), sum(|cell| cell.moves.get()))
    }

    /// Requests for which there was no server.
    #[must_use]
    pub fn unplaced(&self) -> u64 {
        self.cores.iter().map(|cell| cell.unplaced.get()).fold(0, u64::wrapping_add)
    }
}

/// What of an upstream's shadow outlives reloads.
#[derive(Debug)]
pub struct Kept {
    known_by: KnownBy,
    /// First of the upstream's own policy.
    tallies: Vec<Arc<Tally>>,
    clients: Arc<Clients>,
}

impl Kept {
    /// What is kept for a plan, if it wants any. What was counted of a policy that stays goes on; where the
    /// clients were is forgotten if any policy changes.
    #[must_use]
    pub fn new(plan: &UpstreamPlan, cores: usize, seed: u64, before: Option<&Self>) -> Option<Self> {
        let shadow = plan.shadow.as_ref()?;
        let known_by = KnownBy::of(plan, shadow);
        let same = |kept: &&Arc<Tally>, policy: &Policy| kept.policy == *policy;
        let own = before.and_then(|before| before.tallies.first()).filter(|kept| same(kept, &plan.policy));
        let others = before.map_or(&[][..], |before| &before.tallies[1..]);
        let tally = |kept: Option<&Arc<Tally>>, policy: &Policy| match kept {
            Some(kept) => Arc::clone(kept),
            None => Arc::new(Tally::new(policy, cores)),
        };
        let shades = shadow.policies.iter().map(|policy| tally(others.iter().find(|kept| same(kept, policy)), policy));
        let tallies: Vec<Arc<Tally>> = std::iter::once(tally(own, &plan.policy)).chain(shades).collect();
        let stays = |before: &&Self| {
            let mut pairs = before.tallies.iter().zip(&tallies);
            before.known_by == known_by
                && before.tallies.len() == tallies.len()
                && pairs.all(|(old, new)| Arc::ptr_eq(old, new))
        };
        let clients = match before.filter(stays) {
            Some(before) => Arc::clone(&before.clients),
            None => Arc::new(Clients::new(tallies.len(), seed)),
        };
        Some(Self { known_by, tallies, clients })
    }
}

/// A policy and what it says of these servers.
#[derive(Debug)]
pub struct Shade {
    pub tally: Arc<Tally>,
    /// Its name, with a number where it is not the first of that name.
    pub label: Box<str>,
    servers: Box<[Arc<[ShadowServerCell]>]>,
    /// None of the upstream's own, which is not asked twice.
    asked: Option<Tables>,
    /// Whether it goes by what servers have to do.
    reads_load: bool,
    passes_full: bool,
}

#[derive(Debug)]
struct Tables {
    main: Table,
    backups: Option<Table>,
}

impl Shade {
    /// Requests that each server got, or would have got, by position.
    #[must_use]
    pub fn requests(&self) -> Vec<u64> {
        let sum =
            |cells: &Arc<[ShadowServerCell]>| cells.iter().map(|cell| cell.requests.get()).fold(0, u64::wrapping_add);
        self.servers.iter().map(sum).collect()
    }

    /// What of its figures is an estimate: `load`, because what it picks depends on what servers would have to
    /// do; `clients`, because no client has its cookie; `hot_keys`, because none of its keys is spread.
    #[must_use]
    pub fn approximate(&self) -> Vec<&'static str> {
        let load = self.reads_load.then_some("load");
        let clients = (self.asked.is_some() && self.is_sticky()).then_some("clients");
        let hot =
            (self.asked.is_some() && matches!(self.tally.policy.hot_keys(), HotKeys::Spread(_))).then_some("hot_keys");
        [load, clients, hot].into_iter().flatten().collect()
    }

    fn is_sticky(&self) -> bool {
        self.tally.policy.sticky().is_some()
    }

    fn pick(&self, upstream: &Upstream, input: &Input, scratch: &mut Scratch) -> Option<Pick> {
        let (tables, seen) = (self.asked.as_ref()?, Seen { upstream, shade: self });
        let pick = tables.main.pick(input, scratch, &seen);
        match &tables.backups {
            Some(backups) if pick.is_none() && !upstream.has_primary(&Tried::default()) => {
                backups.pick(input, scratch, &seen)
            }
            _ => pick,
        }
    }
}

/// The servers as a policy in the shadow sees them.
struct Seen<'a> {
    upstream: &'a Upstream,
    shade: &'a Shade,
}

impl View for Seen<'_> {
    fn tried(&self, _: usize) -> bool {
        false
    }

    fn takes_new(&self, index: usize) -> bool {
        let server = &self.upstream.servers[index];
        let is_full = || server.gate.limit().is_some_and(|limit| self.in_flight(index) >= limit);
        server.state().takes_new(self.upstream.failing_open) && !(self.shade.passes_full && is_full())
    }

    fn takes_pinned(&self, index: usize) -> bool {
        self.upstream.servers[index].state().takes_pinned(self.upstream.failing_open)
    }

    fn in_flight(&self, index: usize) -> u32 {
        let cells = self.shade.servers[index].iter();
        cells.map(|cell| cell.in_flight.get()).fold(0, u64::wrapping_add) as u32
    }

    fn latency(&self, index: usize) -> Option<f32> {
        self.upstream.servers[index].latency(self.upstream.decay?)
    }
}

/// The shadow of an upstream as it is now; immutable, rebuilt with it.
#[derive(Debug)]
pub struct Shadow {
    pub known_by: KnownBy,
    /// First the upstream's own policy, of which what it really picked is counted.
    pub shades: Box<[Shade]>,
    clients: Arc<Clients>,
    /// By position of the server.
    ids: Box<[u16]>,
    /// Ids, sorted, with the positions.
    by_id: Box<[(u16, u16)]>,
}

/// A request that is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Asked<K> {
    /// After trusted proxies.
    pub client: IpAddr,
    /// Who it is of, if that is known: a hash made by [`Shadow::hash`].
    pub of: Option<u64>,
    /// The hash of what a policy goes by.
    pub key: K,
    /// Seconds of the process's clock.
    pub now: u32,
}

/// What has to be remembered of a request until it has ended.
#[derive(Debug, Clone, Copy)]
pub struct Cast {
    place: Option<Place>,
    /// Where each policy that counts what is in flight has it.
    positions: [u16; MOST_SHADOWS],
}

impl Shadow {
    /// The shadow over these servers. `tables` makes the tables of a policy, from those before.
    pub(super) fn new(
        kept: &Kept,
        servers: &[Arc<Server>],
        is_limited: bool,
        before: Option<&Self>,
        tables: impl Fn(&Policy, Option<&Table>, Option<&Table>) -> (Table, Option<Table>),
    ) -> Self {
        let mut shades: Vec<Shade> = Vec::with_capacity(kept.tallies.len());
        for (number, tally) in kept.tallies.iter().enumerate() {
            let policy = &tally.policy;
            let asked = (number > 0).then(|| {
                let same = |shade: &&Shade| shade.asked.is_some() && Arc::ptr_eq(&shade.tally, tally);
                let old = before.and_then(|before| before.shades.iter().find(same)?.asked.as_ref());
                let (main, backups) = tables(policy, old.map(|t| &t.main), old.and_then(|t| t.backups.as_ref()));
                Tables { main, backups }
            });
            let namesakes = shades.iter().skip(1).filter(|shade| shade.tally.policy.name() == policy.name()).count();
            let label = match namesakes {
                0 => policy.name().to_owned(),
                more => format!("{}#{}", policy.name(), more + 1),
            };
            let passes_full = is_limited && !policy.belongs();
            shades.push(Shade {
                tally: Arc::clone(tally),
                label: label.into(),
                servers: tally.of(servers),
                reads_load: asked.is_some() && (policy.reads_load() || passes_full),
                passes_full,
                asked,
            });
        }
        let ids: Box<[u16]> = servers.iter().map(|server| id(server.uid)).collect();
        let mut by_id: Box<[(u16, u16)]> = ids.iter().copied().zip(0..NOWHERE).collect();
        by_id.sort_unstable();
        let (known_by, clients) = (kept.known_by.clone(), Arc::clone(&kept.clients));
        Self { known_by, shades: shades.into(), clients, ids, by_id }
    }

    /// The hash of what a client is known by.
    #[must_use]
    pub fn hash(&self, first: &[u8], second: &[u8]) -> u64 {
        let seed = if second.is_empty() { self.clients.seed() } else { xxh3_64_with_seed(second, self.clients.seed()) };
        xxh3_64_with_seed(first, seed)
    }

    /// How many policies are asked, each of which needs scratch of its own.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shades.len() - 1
    }

    /// Asks every policy about a request and counts what they say.
    pub fn ask<K>(&self, upstream: &Upstream, core: usize, asked: &Asked<K>, scratch: &mut [Scratch]) -> Cast
    where
        K: Fn(&HashBy) -> Option<u64>,
    {
        let place = asked.of.and_then(|of| self.clients.find(of, clients::tick(asked.now)));
        let mut cast = Cast { place, positions: [NOWHERE; MOST_SHADOWS] };
        for (number, (shade, scratch)) in self.shades[1..].iter().zip(scratch).enumerate() {
            let is_sticky = shade.is_sticky();
            if is_sticky && asked.of.is_some() && place.is_none() {
                // Nobody knows where its cookie would send it.
                continue;
            }
            let pinned = place.filter(|_| is_sticky).and_then(|place| self.clients.last(place, number + 1));
            let input = Input {
                client: asked.client,
                key: shade.tally.policy.keyed().and_then(&asked.key),
                spread: None,
                pinned: pinned.and_then(|id| self.position_of(id)),
            };
            let Some(pick) = shade.pick(upstream, &input, scratch) else {
                shade.tally.cores[core].unplaced.inc();
                continue;
            };
            let cell = &shade.servers[pick.index][core];
            cell.requests.inc();
            if shade.reads_load
                && let Ok(position) = u16::try_from(pick.index)
                && position != NOWHERE
            {
                cell.in_flight.inc();
                cast.positions[number] = position;
            }
            self.follow(place, number + 1, core, pick.index);
        }
        cast
    }

    /// Notes where the request has really gone. `cast` may be of the shadow before this one.
    pub fn sent(&self, cast: &Cast, core: usize, position: usize) {
        self.shades[0].servers[position][core].requests.inc();
        self.follow(cast.place, 0, core, position);
    }

    /// The request has ended. This is the shadow that was asked.
    pub fn ended(&self, cast: &Cast, core: usize) {
        for (shade, position) in self.shades[1..].iter().zip(cast.positions) {
            if position != NOWHERE {
                shade.servers[usize::from(position)][core].in_flight.dec();
            }
        }
    }

    /// How many clients are followed at `now`, in seconds of the process's clock, and which share of all that is.
    #[must_use]
    pub fn followed(&self, now: u32) -> (u64, f64) {
        (self.clients.count(clients::tick(now)), self.clients.share())
    }

    fn follow(&self, place: Option<Place>, policy: usize, core: usize, position: usize) {
        let Some(is_moved) = place.and_then(|place| self.clients.send(place, policy, self.ids[position])) else {
            return;
        };
        let cell = &self.shades[policy].tally.cores[core];
        cell.followed.inc();
        if is_moved {
            cell.moves.inc();
        }
    }

    fn position_of(&self, id: u16) -> Option<usize> {
        let found = self.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(usize::from(self.by_id[found].1))
    }
}

/// What stands for a server among clients; never 0.
fn id(uid: u32) -> u16 {
    (uid % u32::from(u16::MAX)) as u16 + 1
}

#[cfg(test)]
mod tests;
