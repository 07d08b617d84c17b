//! Where clients were sent last, and where other policies would have sent them: a table of fixed size.
//!
//! All cores share it, since one client comes over connections of several. Every entry is one atomic word
//! that holds a tag of its client, so whatever two cores do to it at once, what is read is that client's or
//! is not used; what may get lost is a single move. Nobody waits, and nothing is allocated.
//!
//! Where more clients come than there is room for, those of half as many hashes are followed, and so on: who
//! is followed does not depend on how often they come. A client that was not seen for half an hour is
//! forgotten and makes room, and when that has been enough for half an hour, more are followed again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// Clients of a set, of which each may be in any place.
const WAYS: usize = 16;
const SETS: usize = 2_048;
/// Seconds of a tick. Ticks wrap after three days.
const TICK: u32 = 4;
/// Ticks after which a client is forgotten.
const FORGOTTEN: u16 = (30 * 60 / TICK) as u16;
/// With so many halvings nobody is followed.
const MOST_HALVINGS: u32 = 16;

/// The table.
#[derive(Debug)]
pub(super) struct Clients {
    /// A word of each client for each policy.
    policies: usize,
    /// Set by set, in it policy by policy, in that place by place: the words that tell who is in a set lie
    /// side by side. Those of the first policy are tag (32 bits), tick of the last request (16) and server
    /// (16); the others have no tick. 0 is nobody.
    words: Box<[AtomicU64]>,
    /// How often the share of hashes that are followed was halved, and at which tick it last changed.
    share: AtomicU64,
    seed: u64,
}

/// What another process has to know of a table of the same size.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Known {
    size: usize,
    seed: u64,
    share: u64,
    /// Positions and words.
    words: Vec<(usize, u64)>,
}

/// Where a client is in the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    at: u32,
    tag: u32,
}

/// The tick of a moment, in seconds of the process's clock.
pub(super) fn tick(seconds: u32) -> u16 {
    (seconds / TICK) as u16
}

impl Clients {
    /// Room for what `policies` would do with each client. `seed` keeps strangers from choosing their places.
    pub(super) fn new(policies: usize, seed: u64) -> Self {
        let words = (0..SETS * policies * WAYS).map(|_| AtomicU64::new(0)).collect();
        Self { policies, words, share: AtomicU64::new(0), seed }
    }

    /// All that is in it.
    pub(super) fn known(&self) -> Known {
        let words = self.words.iter().map(|word| word.load(Relaxed)).enumerate();
        let words = words.filter(|(_, word)| *word != 0).collect();
        Known { size: self.words.len(), seed: self.seed, share: self.share.load(Relaxed), words }
    }

    /// One that goes on with what another process knew. `server` is what stands here for what stood there for a
    /// server; none: it is gone.
    pub(super) fn resumed(policies: usize, known: &Known, server: impl Fn(u16) -> Option<u16>) -> Self {
        let clients = Self::new(policies, known.seed);
        if known.size == clients.words.len() {
            clients.share.store(known.share, Relaxed);
            for (at, word) in &known.words {
                let server = server(*word as u16).unwrap_or(0);
                if let Some(free) = clients.words.get(*at) {
                    free.store(pack(tag_of(*word), tick_of(*word), server), Relaxed);
                }
            }
        }
        clients
    }

    /// What hashes of clients begin with.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// The place of a client, by its hash, from its first request on; none if it is not followed.
    pub(super) fn find(&self, hash: u64, now: u16) -> Option<Place> {
        let tag = (hash >> 32) as u32 | 1;
        let (halvings, since) = self.halvings();
        if !is_followed(tag, halvings) {
            return None;
        }
        let set = (hash as usize % SETS) * self.policies * WAYS;
        let mut free = None;
        for (way, word) in self.words[set..set + WAYS].iter().enumerate() {
            let seen = word.load(Relaxed);
            let is_there = seen != 0 && age(seen, now) <= FORGOTTEN;
            if is_there && tag_of(seen) == tag {
                if tick_of(seen) != now {
                    // Where this crosses another core, that one has noted the tick.
                    let _ = word.compare_exchange(seen, with_tick(seen, now), Relaxed, Relaxed);
                }
                return Some(Place { at: (set + way) as u32, tag });
            }
            if free.is_none() && !(is_there && is_followed(tag_of(seen), halvings)) {
                free = Some((way, seen));
            }
        }
        let Some((way, seen)) = free else {
            self.set_halvings((halvings, since), halvings + 1, now);
            return None;
        };
        self.words[set + way].compare_exchange(seen, pack(tag, now, 0), Relaxed, Relaxed).ok()?;
        let place = Place { at: (set + way) as u32, tag };
        // What is left of the one before, who may have been the same client long ago.
        (1..self.policies).filter_map(|policy| self.word(place, policy)).for_each(|word| word.store(0, Relaxed));
        if halvings > 0 && since_then(since, now) > FORGOTTEN {
            self.set_halvings((halvings, since), halvings - 1, now);
        }
        Some(place)
    }

    /// The server that a client was last sent to by a policy.
    pub(super) fn last(&self, place: Place, policy: usize) -> Option<u16> {
        let seen = self.word(place, policy)?.load(Relaxed);
        Some(seen as u16).filter(|server| tag_of(seen) == place.tag && *server != 0)
    }

    /// Notes the server that it is sent to now, which is not 0. The answer is whether that is another one than
    /// before; none if the client is no longer followed.
    pub(super) fn send(&self, place: Place, policy: usize, server: u16) -> Option<bool> {
        let word = self.word(place, policy)?;
        let seen = word.load(Relaxed);
        let is_its = tag_of(seen) == place.tag;
        if policy == 0 && !is_its {
            return None;
        }
        let before = if is_its { seen as u16 } else { 0 };
        if before != server {
            let tick = if policy == 0 { tick_of(seen) } else { 0 };
            word.store(pack(place.tag, tick, server), Relaxed);
        }
        Some(before != 0 && before != server)
    }

    /// How many clients are followed now. It looks at all of them.
    pub(super) fn count(&self, now: u16) -> u64 {
        let (halvings, _) = self.halvings();
        let is_there = |word: &&AtomicU64| {
            let seen = word.load(Relaxed);
            seen != 0 && age(seen, now) <= FORGOTTEN && is_followed(tag_of(seen), halvings)
        };
        let sets = self.words.chunks(self.policies * WAYS).map(|set| &set[..WAYS]);
        sets.flatten().filter(is_there).count() as u64
    }

    /// The share of clients that are followed.
    pub(super) fn share(&self) -> f64 {
        f64::from(1_u32 << (MOST_HALVINGS - self.halvings().0)) / f64::from(1_u32 << MOST_HALVINGS)
    }

    /// None: the place is one of a table that this one has replaced.
    fn word(&self, place: Place, policy: usize) -> Option<&AtomicU64> {
        self.words.get(place.at as usize + policy * WAYS)
    }

    fn halvings(&self) -> (u32, u16) {
        let share = self.share.load(Relaxed);
        (share as u32, (share >> 32) as u16)
    }

    /// Cores that find out at once that there is no room change it once.
    #[cold]
    fn set_halvings(&self, before: (u32, u16), halvings: u32, now: u16) {
        let pack = |(halvings, since): (u32, u16)| u64::from(halvings) | u64::from(since) << 32;
        let after = (halvings.min(MOST_HALVINGS), now);
        let _ = self.share.compare_exchange(pack(before), pack(after), Relaxed, Relaxed);
    }
}

fn is_followed(tag: u32, halvings: u32) -> bool {
    tag >> 16 < (1 << MOST_HALVINGS) >> halvings
}

fn pack(tag: u32, tick: u16, server: u16) -> u64 {
    u64::from(tag) << 32 | u64::from(tick) << 16 | u64::from(server)
}

fn with_tick(word: u64, tick: u16) -> u64 {
    pack(tag_of(word), tick, word as u16)
}

fn tag_of(word: u64) -> u32 {
    (word >> 32) as u32
}

fn tick_of(word: u64) -> u16 {
    (word >> 16) as u16
}

fn age(word: u64, now: u16) -> u16 {
    since_then(tick_of(word), now)
}

/// Ticks from one moment to another. Cores may cross by some.
fn since_then(then: u16, now: u16) -> u16 {
    let passed = now.wrapping_sub(then);
    if passed > u16::MAX - 16 { 0 } else { passed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::key_of;

    fn hash(client: usize) -> u64 {
        key_of(&format!("client {client}"))
    }

    #[test]
    fn it_is_known_where_a_client_was_last() {
        let clients = Clients::new(3, 7);
        let place = clients.find(hash(1), 5).unwrap();
        assert_eq!((clients.last(place, 0), clients.last(place, 2)), (None, None));
        assert_eq!([1, 1, 2, 2].map(|server| clients.send(place, 0, server)), [false, false, true, false].map(Some));
        assert_eq!([9, 9].map(|server| clients.send(place, 2, server)), [Some(false); 2]);
        let other = clients.find(hash(2), 5).unwrap();
        assert_eq!(clients.send(other, 0, 1), Some(false));
        let again = clients.find(hash(1), 6).unwrap();
        let last = [0, 1, 2].map(|policy| clients.last(again, policy));
        assert_eq!((again.at, last), (place.at, [Some(2), None, Some(9)]));
        assert_eq!((clients.count(6), clients.share()), (2, 1.0));
    }

    #[test]
    fn another_process_knows_where_clients_were() {
        let before = Clients::new(2, 7);
        for client in 0..1_000 {
            let place = before.find(hash(client), 5).unwrap();
            before.send(place, 0, 1 + client as u16 % 2);
            before.send(place, 1, 3);
        }
        let known = serde_json::to_string(&before.known()).unwrap();
        let known: Known = serde_json::from_str(&known).unwrap();
        // The first server has another number there, the second is gone.
        let after = Clients::resumed(2, &known, |old| {
            [(1, 9), (3, 3)].into_iter().find(|(id, _)| *id == old).map(|(_, new)| new)
        });
        assert_eq!((after.seed(), after.count(5)), (7, 1_000));
        for client in 0..1_000 {
            let place = after.find(hash(client), 6).unwrap();
            let was = if client % 2 == 0 { Some(9) } else { None };
            assert_eq!([0, 1].map(|policy| after.last(place, policy)), [was, Some(3)]);
        }
        assert_eq!(after.count(6), 1_000);
        assert_eq!(Clients::resumed(3, &known, Some).count(5), 0, "another table");
    }

    #[test]
    fn who_was_away_for_half_an_hour_is_new() {
        let clients = Clients::new(2, 7);
        for now in [5, 5 + FORGOTTEN, u16::MAX] {
            let place = clients.find(hash(1), now).unwrap();
            let known = clients.last(place, 1).is_some();
            assert_eq!(known, now == 5 + FORGOTTEN, "at {now}");
            clients.send(place, 0, 3);
            clients.send(place, 1, 4);
        }
        assert_eq!((clients.count(u16::MAX), clients.count(FORGOTTEN)), (1, 0));
    }

    #[test]
    fn of_too_many_some_are_followed_from_first_to_last() {
        let clients = Clients::new(1, 7);
        let mut moves = 0;
        for round in 0..4 {
            for client in 0..100_000 {
                if let Some(place) = clients.find(hash(client), round) {
                    moves += u32::from(clients.send(place, 0, 1 + client as u16 % 7) == Some(true));
                }
            }
        }
        let (count, share) = (clients.count(4), clients.share());
        assert_eq!(moves, 0, "nobody is taken for another");
        assert!(count > 4_000 && share < 0.5, "{count} {share}");
        assert!((count as f64 / (share * 100_000.0) - 1.0).abs() < 0.1, "{count} are a share of {share}");
        // Once they are gone, more of those who come are followed.
        let mut now = 4;
        for client in 0..20 {
            now += FORGOTTEN + 1;
            clients.find(hash(client + 7_000_000), now);
        }
        assert_eq!(clients.share(), 1.0);
    }

    #[test]
    fn cores_do_no_harm_to_each_other() {
        let clients = Clients::new(2, 7);
        std::thread::scope(|scope| {
            for core in 0..4 {
                let clients = &clients;
                scope.spawn(move || {
                    for turn in 0..20_000 {
                        let client = (turn * 7 + core) % 3_000;
                        let Some(place) = clients.find(hash(client), 0) else { continue };
                        // Each client has a server of its own: nobody ever moves.
                        let server = 1 + client as u16;
                        assert_ne!(clients.send(place, 0, server), Some(true));
                        assert_ne!(clients.send(place, 1, server), Some(true));
                    }
                });
            }
        });
        assert_eq!((clients.count(0), clients.share()), (3_000, 1.0));
    }
}
