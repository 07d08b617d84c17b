use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::*;

/// Session numbers as they come: random.
fn session(n: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes())
}

#[test]
fn sessions_are_counted_by_server_and_time() {
    let ledger = Ledger::new(1000);
    for n in 0..100 {
        ledger.touch(session(n), if n < 30 { 1 } else { 2 }, n as u32);
    }
    assert_eq!(ledger.count(0), [(1, 30), (2, 70)]);
    assert_eq!(ledger.count(20), [(1, 10), (2, 70)]);
    assert_eq!(ledger.count_of(2, 90), 10);
    assert_eq!(ledger.last_seen_of(1), Some(29));
    assert_eq!(ledger.last_seen_of(3), None);
    assert_eq!(ledger.evicted(), 0);
}

#[test]
fn a_session_counts_once_and_where_it_was_last() {
    let ledger = Ledger::new(10);
    for now in 0..50 {
        ledger.touch(7, 1, now);
    }
    assert_eq!(ledger.count(0), [(1, 1)]);
    ledger.touch(7, 2, 50);
    assert_eq!(ledger.count(0), [(2, 1)]);
    ledger.touch(7, 2, 40);
    assert_eq!(ledger.last_seen_of(2), Some(50), "a core whose clock is behind");
    ledger.forget(7);
    ledger.forget(8);
    assert_eq!(ledger.count(0), []);
}

#[test]
fn the_first_second_and_session_zero_count() {
    let ledger = Ledger::new(1);
    ledger.touch(0, 0, 0);
    assert_eq!(ledger.count(0), [(0, 1)]);
    ledger.forget(0);
    assert_eq!(ledger.count_of(0, 0), 0);
}

/// When full, the session seen longest ago makes room, and it is counted while it was alive.
#[test]
fn the_oldest_makes_room() {
    let ledger = Ledger::new(2);
    assert_eq!(ledger.capacity(), 4);
    ledger.set_idle(100);
    for n in 1..=4 {
        ledger.touch(n, n as u32, n as u32 * 10);
    }
    ledger.touch(1, 1, 50);
    ledger.touch(5, 5, 60);
    assert_eq!(ledger.count(0), [(1, 1), (3, 1), (4, 1), (5, 1)]);
    assert_eq!(ledger.evicted(), 1);
    ledger.touch(6, 6, 1000);
    assert_eq!(ledger.count_of(3, 0), 0);
    assert_eq!(ledger.evicted(), 1, "one that was idle is no loss");
}

/// What the module says of memory and of the error when as many sessions live as were asked for.
#[test]
fn the_documented_error_holds() {
    let asked = 1 << 15;
    let ledger = Ledger::new(asked);
    assert_eq!(ledger.capacity(), 2 * asked);
    assert_eq!(size_of::<Bucket>(), 64);
    for (live, error) in [(asked / 4, 0.0002), (asked / 2, 0.0044), (asked, 0.038), (2 * asked, 0.195)] {
        (0..live as u64).for_each(|n| ledger.touch(session(n), 1, 1));
        let lost = 1.0 - ledger.count_of(1, 0) as f64 / live as f64;
        assert!((lost - error).abs() < error * 0.1 + 0.0003, "{live} live: {lost} lost");
    }
}

/// Invariant *a session is never on a server it was not noted on*, and no count exceeds the truth
/// when all is quiet again: four threads touch and forget at once.
#[test]
fn concurrent_touches_never_mix_sessions_up() {
    let ledger = Arc::new(Ledger::new(64));
    let server = |session: u64| (session % 13) as u32 + 1;
    let writers: Vec<_> = (0..4u64)
        .map(|core| {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                for n in 0..100_000u64 {
                    let session = (n * 7 + core * 3) % 100 + 1;
                    ledger.touch(session, server(session), 1 + (n / 100) as u32);
                    if n % 64 == 0 {
                        ledger.forget(session);
                    }
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
    let entries = ledger.buckets.iter().flat_map(|b| b.sessions.iter().zip(&b.notes));
    for (held, note) in entries.map(|(s, n)| (s.load(Acquire), n.load(Acquire))).filter(|(s, _)| *s != EMPTY) {
        if let Some(note) = Note::unpack(note) {
            assert_eq!(note.server, server(held));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// With room for all, the ledger is exact.
    #[test]
    fn with_room_it_is_a_map(touches in prop::collection::vec((1u64..8, 1u32..4, any::<bool>()), 0..100)) {
        let ledger = Ledger::new(1 << 12);
        let mut map = std::collections::BTreeMap::new();
        for (now, (n, server, forget)) in (1u32..).zip(touches) {
            if forget {
                ledger.forget(session(n));
                map.remove(&n);
            } else {
                ledger.touch(session(n), server, now);
                map.insert(n, (server, now));
            }
        }
        for server in 1..4 {
            prop_assert_eq!(ledger.count_of(server, 0), map.values().filter(|(s, _)| *s == server).count());
            let last = map.values().filter(|(s, _)| *s == server).map(|(_, now)| *now).max();
            prop_assert_eq!(ledger.last_seen_of(server), last);
        }
        prop_assert_eq!(ledger.evicted(), 0);
    }
}
