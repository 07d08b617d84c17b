//! How many connections each client address has, over all cores.
//!
//! A fixed table of counts, shared by the cores without a lock: a connection costs one atomic exchange
//! when it comes and one when it goes, and a request costs nothing. Addresses fall into buckets of
//! sixteen by a secret hash. Where a bucket is full of other addresses a connection is let in uncounted,
//! which a table of four times the connections there may be makes rarer than one in a hundred thousand.
//! Race: two cores that count an address for the first time at the same moment may, if a place before
//! theirs becomes free between them, use two places for it. Each counts down its own, so nothing is
//! lost; until both are empty the address may have more than its limit.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Places in a bucket: two cache lines.
const PLACES: usize = 16;
/// Fewest and most places: 32 KiB and 2 MiB.
const FEWEST: u64 = 1 << 12;
const MOST: u64 = 1 << 18;
/// Bits of a place that count; the others say for whom.
const COUNT_BITS: u32 = 24;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Bucket([AtomicU64; PLACES]);

/// The counts of all addresses.
#[derive(Debug, Default)]
pub(super) struct Census {
    secret: foldhash::quality::RandomState,
    /// Made when the first connection is counted.
    buckets: OnceLock<Box<[Bucket]>>,
}

/// What became of a connection that asked to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// At this place, until [`Census::leave`].
    At(usize),
    /// There is no room to count it.
    Not,
    /// Its address has as many as it may.
    Full,
}

impl Census {
    /// Counts a connection of `client` to the listener in `slot`, unless there are `limit`. `expected` is
    /// how many connections there may be in all; only the first caller's matters.
    pub(super) fn enter(&self, slot: usize, client: IpAddr, limit: u64, expected: u64) -> Counted {
        let buckets = self.buckets.get_or_init(|| {
            let places = expected.saturating_mul(4).clamp(FEWEST, MOST).next_power_of_two();
            (0..places as usize / PLACES).map(|_| Bucket::default()).collect()
        });
        let hash = self.secret.hash_one((slot, who(client)));
        let bucket = hash as usize % buckets.len();
        // The lowest bits chose the bucket. Never zero, which is an empty place.
        let tag = hash | 1 << COUNT_BITS;
        let limit = limit.min(COUNT);
        'again: loop {
            let mut free = None;
            for (at, place) in buckets[bucket].0.iter().enumerate() {
                let word = place.load(Relaxed);
                if word == 0 {
                    free = free.or(Some(at));
                } else if (word ^ tag) >> COUNT_BITS == 0 {
                    if word & COUNT >= limit {
                        return Counted::Full;
                    }
                    if place.compare_exchange(word, word + 1, Relaxed, Relaxed).is_err() {
                        continue 'again;
                    }
                    return Counted::At(bucket * PLACES + at);
                }
            }
            let Some(at) = free else { return Counted::Not };
            let first = (tag & !COUNT) | 1;
            if buckets[bucket].0[at].compare_exchange(0, first, Relaxed, Relaxed).is_ok() {
                return Counted::At(bucket * PLACES + at);
            }
        }
    }

    /// A connection counted at that place has ended.
    pub(super) fn leave(&self, place: usize) {
        let Some(place) = self.buckets.get().and_then(|b| b.get(place / PLACES)?.0.get(place % PLACES)) else {
            return;
        };
        // The last one frees the place.
        let _ = place.fetch_update(Relaxed, Relaxed, |word| Some(if word & COUNT <= 1 { 0 } else { word - 1 }));
    }
}

/// Whose connections are counted together: an IPv4 address, or the /64 that one IPv6 host has to itself.
pub(super) fn who(client: IpAddr) -> u64 {
    match client.to_canonical() {
        // No /64 that is in use on the internet begins with zeros.
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn places_in_use(census: &Census) -> usize {
        let buckets = census.buckets.get().unwrap();
        buckets.iter().flat_map(|b| &b.0).filter(|place| place.load(Relaxed) != 0).count()
    }

    #[test]
    fn an_address_has_its_limit_and_gives_back() {
        let census = Census::default();
        let Counted::At(first) = census.enter(0, ip("192.0.2.1"), 2, 100) else { panic!("not counted") };
        assert_eq!(census.enter(0, ip("::ffff:192.0.2.1"), 2, 100), Counted::At(first), "a mapped address is IPv4");
        assert_eq!(census.enter(0, ip("192.0.2.1"), 2, 100), Counted::Full);
        assert!(matches!(census.enter(0, ip("192.0.2.2"), 2, 100), Counted::At(_)), "others have their own");
        assert!(matches!(census.enter(1, ip("192.0.2.1"), 2, 100), Counted::At(_)), "each listener has its own");
        census.leave(first);
        assert_eq!(census.enter(0, ip("192.0.2.1"), 2, 100), Counted::At(first));
    }

    #[test]
    fn a_64_is_one_client() {
        let census = Census::default();
        let place = census.enter(0, ip("2001:db8::1"), 2, 100);
        assert_eq!(census.enter(0, ip("2001:db8::ffff:1"), 2, 100), place);
        assert_ne!(census.enter(0, ip("2001:db8:0:1::1"), 2, 100), place);
    }

    #[test]
    fn a_full_table_lets_everybody_in_and_no_more_is_used() {
        let census = Census::default();
        let all: Vec<Counted> =
            (0..3 * FEWEST as u32).map(|n| census.enter(0, Ipv4Addr::from_bits(n).into(), 1, 1)).collect();
        assert!(!all.contains(&Counted::Full), "addresses are told apart");
        assert!(all.contains(&Counted::Not));
        assert_eq!(all.iter().filter(|c| matches!(c, Counted::At(_))).count(), places_in_use(&census));
        for counted in all {
            if let Counted::At(place) = counted {
                census.leave(place);
            }
        }
        assert_eq!(places_in_use(&census), 0);
    }

    #[test]
    fn cores_count_together() {
        const LIMIT: u64 = 5;
        let census = Census::default();
        let most = AtomicU64::new(0);
        let now = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Counted::At(place) = census.enter(0, ip("192.0.2.1"), LIMIT, 1) {
                            most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                            now.fetch_sub(1, Relaxed);
                            census.leave(place);
                        }
                    }
                });
            }
        });
        assert!(most.load(Relaxed) <= LIMIT);
        assert_eq!(places_in_use(&census), 0, "every count was given back");
    }
}
