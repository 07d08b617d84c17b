//! The ledger: which sticky sessions are alive, and on which server.
//!
//! evenkeel's own cookies alone keep clients on their servers. The ledger is there to answer *how many sessions
//! would be cut if this server stopped now*, so it is bounded and approximate where a cookie is exact, and
//! nothing about where a request goes may depend on it. Where the cookie is the application's, there is no
//! other memory than this: what it forgets is a session that begins anew.
//!
//! # Memory and error
//!
//! An entry is two words, the session and what was last noted of it. Entries lie in buckets of four,
//! one cache line, and a session may be in the bucket of its hash only; where that is full, the entry
//! seen longest ago is given up. There are twice as many entries as sessions asked for, rounded up to
//! a power of two: 32 to 64 bytes per session, allocated at once.
//!
//! With hashes spread evenly, sessions that find no room and so are not counted are, by how many live
//! ones there are compared to the entries: 0.02 % at 1/8, 0.4 % at 1/4, 3.8 % at 1/2 (the number asked
//! for, at worst), 20 % when as many as entries. An entry given up within the idle time is counted in
//! [`Ledger::evicted`]; while that stands still, the counts are complete.
//!
//! # Races
//!
//! All cores write, without locks. A session's word is written only by compare-and-swap from what was
//! read; so is the note, or else by the core that has just taken the entry. Hence:
//!
//! - Of two updates at once of one entry, one may be lost. The session's next request repeats it.
//! - A reader may meet an entry between its two writes: a session just come is then missing, or, where
//!   it replaced another, counted under that one's server and time. Never longer than those writes take.
//! - Two cores that note the same new session at once while entries of its bucket are freed may both
//!   keep it. It counts twice until the entry that is no longer found first is idle.
//! - Words are whole: a server and a time that a reader sees together were noted together.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use hashbrown::HashMap;

const ENTRIES: usize = 4;
/// No session is written as this; a session of that number goes by another.
const EMPTY: u64 = 0;

/// One cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    sessions: [AtomicU64; ENTRIES],
    notes: [AtomicU64; ENTRIES],
}

/// On which server a session was last seen, and when; never 0, which stands for nothing noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Note {
    server: u32,
    seen: u32,
}

impl Note {
    fn new(server: u32, now: u32) -> Self {
        Self { server, seen: now.max(1) }
    }

    fn pack(self) -> u64 {
        u64::from(self.server) << 32 | u64::from(self.seen)
    }

    fn unpack(word: u64) -> Option<Self> {
        (word != 0).then_some(Self { server: (word >> 32) as u32, seen: word as u32 })
    }
}

/// Remembers sessions in bounded memory. Times are seconds since the process began; 0 counts as 1.
#[derive(Debug)]
pub struct Ledger {
    buckets: Box<[Bucket]>,
    idle: AtomicU32,
    evicted: AtomicU64,
}

impl Ledger {
    /// A ledger for about `max_sessions` live sessions; see the module for what happens beyond.
    #[must_use]
    pub fn new(max_sessions: usize) -> Self {
        let buckets = (max_sessions.saturating_mul(2)).div_ceil(ENTRIES).next_power_of_two();
        Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            idle: AtomicU32::new(30 * 60),
            evicted: AtomicU64::new(0),
        }
    }

    /// Sets after how many seconds without a request a session is over, 1,800 at first. It decides
    /// only which evictions are counted.
    pub fn set_idle(&self, seconds: u32) {
        self.idle.store(seconds, Relaxed);
    }

    /// Notes that the session was seen on that server at `now`. Writes nothing when that is known, so
    /// a session costs at most one write a second.
    pub fn touch(&self, session: u64, server_uid: u32, now: u32) {
        let session = name(session);
        let bucket = self.bucket(session);
        let note = Note::new(server_uid, now);
        // Once more where another core took the entry that was to be taken: it may be for this session.
        for _ in 0..2 {
            if bucket.update(session, note) {
                return;
            }
            let Some(replaced) = bucket.insert(session, note) else { continue };
            if replaced.is_some_and(|old| now.saturating_sub(old.seen) <= self.idle.load(Relaxed)) {
                self.evicted.fetch_add(1, Relaxed);
            }
            return;
        }
    }

    /// Notes the session as [`Self::touch`] does, unless another one that was seen within the idle time would
    /// have to go for it: for sessions that anybody could have made up. The answer is whether it is noted.
    pub fn touch_if_room(&self, session: u64, server_uid: u32, now: u32) -> bool {
        let session = name(session);
        let bucket = self.bucket(session);
        let note = Note::new(server_uid, now);
        bucket.update(session, note)
            || bucket.has_room(now.saturating_sub(self.idle.load(Relaxed))) && bucket.insert(session, note).is_some()
    }

    /// When that session was last seen, if it is known.
    #[must_use]
    pub fn last_seen(&self, session: u64) -> Option<u32> {
        self.find(session).map(|(_, seen)| seen)
    }

    /// On which server, by its uid, that session is, and when it was last seen; if it is known.
    #[must_use]
    pub fn find(&self, session: u64) -> Option<(u32, u32)> {
        let session = name(session);
        let bucket = self.bucket(session);
        let mut notes = (0..ENTRIES).filter_map(|i| {
            // As in `update`: read before the session, so that it is not another's.
            let word = bucket.notes[i].load(Acquire);
            let known = Note::unpack(word)?;
            let own = bucket.sessions[i].load(Acquire) == session && bucket.notes[i].load(Acquire) == word;
            own.then_some((known.server, known.seen))
        });
        notes.next()
    }

    /// Forgets the session: its client has left or its cookie is void.
    pub fn forget(&self, session: u64) {
        let session = name(session);
        let bucket = self.bucket(session);
        for i in 0..ENTRIES {
            let known = bucket.notes[i].load(Acquire);
            if bucket.sessions[i].load(Acquire) == session
                && bucket.notes[i].compare_exchange(known, 0, AcqRel, Relaxed).is_ok()
            {
                let _ = bucket.sessions[i].compare_exchange(session, EMPTY, AcqRel, Relaxed);
            }
        }
    }

    /// How many sessions each server holds that were seen at or after `since`, by server uid, in the
    /// order of uids. Reads the whole ledger; for the control plane.
    #[must_use]
    pub fn count(&self, since: u32) -> Vec<(u32, usize)> {
        let mut counts: HashMap<u32, usize, foldhash::fast::RandomState> = HashMap::default();
        for note in self.notes().filter(|note| note.seen >= since) {
            *counts.entry(note.server).or_default() += 1;
        }
        let mut counts: Vec<(u32, usize)> = counts.into_iter().collect();
        counts.sort_unstable();
        counts
    }

    /// How many sessions that server holds that were seen at or after `since`.
    #[must_use]
    pub fn count_of(&self, server_uid: u32, since: u32) -> usize {
        self.notes().filter(|note| note.server == server_uid && note.seen >= since).count()
    }

    /// When any session of that server was last seen. If none comes again, all of them are over once
    /// the idle time after that has passed.
    #[must_use]
    pub fn last_seen_of(&self, server_uid: u32) -> Option<u32> {
        self.notes().filter(|note| note.server == server_uid).map(|note| note.seen).max()
    }

    /// Every session with the uid of its server and when it was seen. For the control plane.
    pub fn entries(&self) -> impl Iterator<Item = (u64, u32, u32)> {
        self.buckets.iter().flat_map(|bucket| {
            let entries = bucket.sessions.iter().zip(&bucket.notes);
            entries.filter_map(|(session, note)| {
                let (session, note) = (session.load(Acquire), Note::unpack(note.load(Acquire))?);
                (session != EMPTY).then_some((session, note.server, note.seen))
            })
        })
    }

    /// How many entries were given up, over the life of the ledger, that had been seen within the idle
    /// time. While it grows the counts are too low and `max_sessions` is too small.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// How many sessions there is room for at the very most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buckets.len() * ENTRIES
    }

    fn bucket(&self, session: u64) -> &Bucket {
        // Session numbers are random already; the multiplication guards against ones that are not.
        let hash = session.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        &self.buckets[hash as usize & (self.buckets.len() - 1)]
    }

    fn notes(&self) -> impl Iterator<Item = Note> {
        self.buckets.iter().flat_map(|bucket| {
            let entries = bucket.sessions.iter().zip(&bucket.notes);
            entries.filter(|(s, _)| s.load(Acquire) != EMPTY).filter_map(|(_, n)| Note::unpack(n.load(Acquire)))
        })
    }
}

impl Bucket {
    /// Updates the entry of the session; false when it has none.
    fn update(&self, session: u64, note: Note) -> bool {
        for i in 0..ENTRIES {
            // The note is read before the session: if the entry changes hands after that, the note
            // changes too and the exchange fails, so no session gets the note of another.
            let known = self.notes[i].load(Acquire);
            if self.sessions[i].load(Acquire) == session {
                let news = Note::unpack(known).is_none_or(|k| k.server != note.server || k.seen < note.seen);
                if news {
                    let _ = self.notes[i].compare_exchange(known, note.pack(), AcqRel, Relaxed);
                }
                return true;
            }
        }
        false
    }

    /// Whether an entry is free, or was not seen since.
    fn has_room(&self, since: u32) -> bool {
        (0..ENTRIES).any(|i| {
            let seen = Note::unpack(self.notes[i].load(Acquire)).map_or(0, |note| note.seen);
            self.sessions[i].load(Acquire) == EMPTY || seen < since
        })
    }

    /// Takes an empty entry, or the one seen longest ago, and says what was noted there; none when
    /// another core was faster.
    fn insert(&self, session: u64, note: Note) -> Option<Option<Note>> {
        let mut oldest = (0, EMPTY, u32::MAX);
        for i in 0..ENTRIES {
            let held = self.sessions[i].load(Acquire);
            let seen = Note::unpack(self.notes[i].load(Acquire)).map_or(0, |n| n.seen);
            if held == EMPTY {
                oldest = (i, EMPTY, 0);
                break;
            }
            if seen < oldest.2 {
                oldest = (i, held, seen);
            }
        }
        let (i, held, _) = oldest;
        self.sessions[i].compare_exchange(held, session, AcqRel, Relaxed).ok()?;
        let before = Note::unpack(self.notes[i].swap(note.pack(), AcqRel));
        Some(if held == EMPTY { None } else { before })
    }
}

fn name(session: u64) -> u64 {
    if session == EMPTY { u64::MAX } else { session }
}

#[cfg(test)]
mod tests;
