//! Hot keys between the planes: what cores count, what the control plane makes of it.
//!
//! It is there only where the configuration asks for it. Each core has a sketch of its own
//! ([`crate::balance::hot`]) and never waits for it: while the control plane takes out what was counted, about
//! once a second, a request is not counted. Which keys are spread is part of the [`Upstream`] and so of the
//! Snapshot; what is shown of hot keys is not, since it changes with each look.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::Upstream;
use crate::balance::SplitCookie;
use crate::balance::hot::{COUNTERS, Key, Place, SpaceSaving, Summary};

/// What cores count of one upstream; outlives Snapshots.
#[derive(Debug)]
pub struct Counts {
    parts: Box<[Part]>,
    shown: ArcSwap<Vec<Shown>>,
}

/// That of one core.
#[derive(Debug)]
#[repr(align(128))]
struct Part(Mutex<SpaceSaving<Key>>);

/// A hot key, as the status and the metrics show it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// An address or a network, or of a value its hash.
    pub key: String,
    /// Its part of all requests, 0 to 1.
    pub share: f64,
    /// Its requests in a second.
    pub rate: f64,
    pub server: Arc<str>,
    pub is_spread: bool,
    /// By the control plane's clock.
    pub since: Duration,
}

impl Counts {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        let part = || Part(Mutex::new(SpaceSaving::new(COUNTERS)));
        Self { parts: (0..cores).map(|_| part()).collect(), shown: ArcSwap::default() }
    }

    /// Counts one request. Allocates nothing and does not wait.
    pub fn note(&self, core: usize, key: Key) {
        if let Some(Ok(mut part)) = self.parts.get(core).map(|part| part.0.try_lock()) {
            part.add(key);
        }
    }

    /// What was counted since it was last taken.
    #[must_use]
    pub fn take(&self) -> Summary<Key> {
        let mut all = Summary::default();
        for part in &self.parts {
            let taken = part.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            all.merge(&taken);
        }
        all
    }

    /// What is shown of hot keys, the hottest first.
    #[must_use]
    pub fn shown(&self) -> Arc<Vec<Shown>> {
        self.shown.load_full()
    }

    /// Says what is shown. Only the control plane calls this.
    pub fn show(&self, shown: Vec<Shown>) {
        self.shown.store(Arc::new(shown));
    }
}

/// What a request meets of it.
#[derive(Debug, Clone)]
pub struct Watch {
    pub counts: Arc<Counts>,
    /// Keys that are not one key but one for each user: a few at most.
    pub spread: Box<[Key]>,
    /// The cookie that users are known by, where keys may be spread.
    pub cookie: Option<SplitCookie>,
}

impl Upstream {
    /// What a request goes by, where the policy is one by key.
    #[must_use]
    pub fn hot_key(&self, key: Option<u64>, client: IpAddr) -> Option<Key> {
        self.table.hot_key(key, client)
    }

    /// The position of the server that a key belongs to now, whatever its load.
    #[must_use]
    pub fn home(&self, key: Key) -> Option<usize> {
        let takes = |index: usize| self.takes(&self.servers[index]);
        self.table.home(key, takes).or_else(|| self.backups.as_ref()?.home(key, takes))
    }

    /// Its servers as they are weighed against each other now.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        // Backups where nobody else is.
        let spare = !self.servers.iter().any(|server| self.takes(server) && !server.is_backup());
        let place = |server: &Arc<super::Server>| Place {
            server: server.uid.into(),
            weight: server.weight(),
            takes_new: self.takes(server) && server.is_backup() == spare,
            passed_on: server.cells.iter().map(|cell| cell.counts.passed_on.get()).sum(),
        };
        self.servers.iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_put_together_and_begin_anew() {
        let counts = Counts::new(2);
        let key = |network| Key::V4 { network, bits: 32 };
        (0..10).for_each(|n| counts.note(n % 2, key(7)));
        counts.note(1, key(8));
        counts.note(9, key(7));
        let summary = counts.take();
        assert_eq!((summary.count(&key(7)), summary.count(&key(8)), summary.total()), (10, 1, 11));
        assert_eq!(counts.take().total(), 0);
    }

    /// A core never waits: what comes while the part is read is not counted.
    #[test]
    fn while_it_is_read_nobody_waits() {
        let counts = Counts::new(1);
        let held = counts.parts[0].0.lock().unwrap();
        counts.note(0, Key::Value(1));
        drop(held);
        assert_eq!(counts.take().total(), 0);
    }
}
