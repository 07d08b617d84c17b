//! Why a request went where it went: what `[debug]` makes cores note down and remember.
//!
//! Nothing of it is there unless the configuration asks for it. Then each core has a ring of its own, of a
//! fixed number of [`Explanation`]s, which it writes without waiting: while somebody reads the ring, what
//! would be written is lost. An explanation names servers, never their addresses, and is bounded: a request
//! id has at most 128 bytes, and of servers that were passed over [`MOST_SKIPPED`] are named.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::server::{Admin, Operational, Server};
use super::{Tried, Upstream};
use crate::debug_header::Key;

/// Servers that one explanation names as passed over.
pub const MOST_SKIPPED: usize = 32;

/// Why a server was not the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// This request had failed on it.
    Tried,
    Draining,
    Drained,
    Disabled,
    Starting,
    Unhealthy,
    Ejected,
    /// Its weight is 0.
    NoWeight,
    /// It has as many requests as it may.
    Full,
    /// Others take what it is the spare for.
    Backup,
}

impl Skip {
    /// The word in headers and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tried => "tried",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Disabled => "disabled",
            Self::Starting => "starting",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::NoWeight => "weight_0",
            Self::Full => "full",
            Self::Backup => "backup",
        }
    }
}

/// What became of a cookie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pinned {
    /// The upstream has no sessions.
    #[default]
    No,
    /// The client came without a pin.
    New,
    /// It came with one of so many seconds, and was kept.
    Kept(u64),
    /// It came with one of so many seconds, to another server; why.
    Moved(u64, &'static str),
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("none"),
            Self::New => f.write_str("new"),
            Self::Kept(age) => write!(f, "kept {age}s"),
            Self::Moved(age, why) => write!(f, "moved {age}s {why}"),
        }
    }
}

/// What a core knows of one request.
#[derive(Debug, Clone, Default)]
pub struct Explanation {
    /// As it is in the header; empty where the listener has none.
    pub request_id: Box<[u8]>,
    pub unix_millis: u64,
    pub route: Option<Box<str>>,
    pub upstream: Option<Box<str>>,
    pub policy: &'static str,
    /// How many servers there were to choose from.
    pub servers: usize,
    /// The last one that was chosen.
    pub server: Option<Arc<str>>,
    pub pin: Pinned,
    /// Whether its key is hot and spread: its user has a place of its own.
    pub spread: bool,
    /// Those that were not in the choice, as of the last one.
    pub skipped: Vec<(Arc<str>, Skip)>,
    /// Those on which it failed, with the reasons.
    pub tried: Vec<(Arc<str>, &'static str)>,
    /// How long it waited for a server.
    pub queued: Duration,
    pub status: u16,
    /// Why there was no answer of a server, if there was none.
    pub reason: Option<&'static str>,
    pub duration: Duration,
}

impl Explanation {
    /// A server was chosen for a try, or none: notes who was not in the choice.
    pub fn choose(&mut self, upstream: &Upstream, chosen: Option<usize>, tried: &Tried) {
        self.upstream = Some(upstream.name().into());
        self.policy = upstream.plan.policy.name();
        self.servers = upstream.servers.len();
        self.server = chosen.map(|index| Arc::clone(&upstream.servers[index].name));
        self.skipped.clear();
        let has_primary = chosen.is_some_and(|index| !upstream.servers[index].is_backup());
        for (index, server) in upstream.servers.iter().enumerate() {
            if Some(index) == chosen || self.skipped.len() == MOST_SKIPPED {
                continue;
            }
            if let Some(why) = why_not(server, upstream.failing_open, tried.has(index), has_primary) {
                self.skipped.push((Arc::clone(&server.name), why));
            }
        }
    }
}

fn why_not(server: &Server, failing_open: bool, was_tried: bool, has_primary: bool) -> Option<Skip> {
    let state = server.state();
    let health = match state.operational {
        Operational::Starting => Some(Skip::Starting),
        Operational::Unhealthy => Some(Skip::Unhealthy),
        Operational::Ejected => Some(Skip::Ejected),
        Operational::Healthy => None,
    };
    let order = match state.admin {
        Admin::Draining => Some(Skip::Draining),
        Admin::Drained => Some(Skip::Drained),
        Admin::Disabled => Some(Skip::Disabled),
        Admin::Ready => None,
    };
    let tried = was_tried.then_some(Skip::Tried);
    let weight = (server.weight() == 0).then_some(Skip::NoWeight);
    let spare = (server.is_backup() && has_primary).then_some(Skip::Backup);
    let full = server.gate.is_full().then_some(Skip::Full);
    tried.or(order).or(health.filter(|_| !failing_open)).or(weight).or(spare).or(full)
}

/// What `[debug]` asks for, as the cores see it.
pub struct Debug {
    /// What debug headers are signed with; none honours no header.
    key: Option<Key>,
    /// One per core; of length 0 where nothing is remembered.
    rings: Box<[Ring]>,
    remember: usize,
}

impl fmt::Debug for Debug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Debug").field("remember", &self.remember).finish_non_exhaustive()
    }
}

/// The last explanations of one core.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Ring(Mutex<Filled>);

#[derive(Debug, Default)]
struct Filled {
    list: Vec<Explanation>,
    /// Where the oldest is, once the ring is full.
    next: usize,
}

impl Debug {
    /// Remembers `remember` requests of each core, and honours headers that are signed with `key`.
    #[must_use]
    pub fn new(cores: usize, remember: usize, key: Option<&str>) -> Self {
        let key = key.map(Key::new);
        Self { key, rings: (0..cores).map(|_| Ring::default()).collect(), remember }
    }

    /// Whether what is noted is kept.
    #[must_use]
    pub fn remembers(&self) -> bool {
        self.remember > 0
    }

    /// Keeps an explanation in the ring of `core`; lost where somebody reads it now.
    pub fn keep(&self, core: usize, explanation: Explanation) {
        let Some(Ok(mut ring)) = self.rings.get(core).map(|ring| ring.0.try_lock()) else { return };
        if ring.list.len() < self.remember {
            ring.list.push(explanation);
        } else if let next = ring.next
            && let Some(oldest) = ring.list.get_mut(next)
        {
            *oldest = explanation;
            ring.next = (next + 1) % self.remember;
        }
    }

    /// All that is remembered of a request id, the oldest first: a client may send one several times.
    #[must_use]
    pub fn find(&self, request_id: &str) -> Vec<Explanation> {
        let mut found = Vec::new();
        for ring in &self.rings {
            let ring = ring.0.lock().unwrap_or_else(PoisonError::into_inner);
            found.extend(ring.list.iter().filter(|e| *e.request_id == *request_id.as_bytes()).cloned());
        }
        found.sort_by_key(|explanation| explanation.unix_millis);
        found
    }

    /// Whether a debug header is signed with the key and holds at `now`, in Unix seconds.
    #[must_use]
    pub fn honours(&self, header: &[u8], now: u64) -> bool {
        self.key.as_ref().is_some_and(|key| key.honours(header, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: &str, at: u64) -> Explanation {
        Explanation { request_id: id.as_bytes().into(), unix_millis: at, ..Explanation::default() }
    }

    #[test]
    fn a_ring_keeps_the_newest_of_each_core() {
        let debug = Debug::new(2, 3, None);
        (0..5).for_each(|i| debug.keep(0, of(&i.to_string(), i)));
        debug.keep(1, of("4", 3));
        debug.keep(7, of("4", 9));
        let found = |id: &str| debug.find(id).iter().map(|e| e.unix_millis).collect::<Vec<_>>();
        assert_eq!([found("0"), found("1"), found("2"), found("3")], [vec![], vec![], vec![2], vec![3]]);
        assert_eq!(found("4"), [3, 4]);
        let none = Debug::new(1, 0, None);
        none.keep(0, of("1", 1));
        assert!(none.find("1").is_empty() && !none.remembers());
    }

    #[test]
    fn who_reads_makes_nobody_wait() {
        let debug = Debug::new(1, 3, None);
        let reading = debug.rings[0].0.lock().unwrap();
        debug.keep(0, of("1", 1));
        drop(reading);
        assert!(debug.find("1").is_empty(), "it was lost");
    }
}
