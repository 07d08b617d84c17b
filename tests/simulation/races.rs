//! Claims and drains on real threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use evenkeel::upstream::server::State;
use evenkeel::upstream::{Admin, Claim, Operational};

use crate::world::{CORES, plan, servers};

/// The claimer counts and then reads the state; the drainer writes the state and then reads the count.
/// One of them sees the other, always: once a drain has read 0, nothing comes.
#[test]
fn a_claim_and_a_drain_never_miss_each_other() {
    /// As many rounds as fit in: on a busy machine a round waits for its threads to get a turn.
    const TIME: Duration = Duration::from_millis(1500);
    let plan = plan(1, "\"round_robin\"", true);
    let server = servers(&plan).remove(0);
    let ready = State { operational: Operational::Healthy, admin: Admin::Ready };
    server.set_state(ready);
    // What the server itself sees: requests that it serves at this moment, and whether it is gone.
    let (serving, gone, over) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for core in 0..CORES {
            let (server, serving, gone, over, served) = (&server, &serving, &gone, &over, &served);
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    let Some(claim) = Claim::take(Arc::clone(server), core, core == 0, false) else {
                        std::thread::yield_now();
                        continue;
                    };
                    serving.fetch_add(1, SeqCst);
                    assert!(!gone.load(SeqCst), "a request reached a server that was safe to stop");
                    served.fetch_add(1, SeqCst);
                    serving.fetch_sub(1, SeqCst);
                    drop(claim);
                }
            });
        }
        let drains = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let began = Instant::now();
            for round in 0.. {
                if began.elapsed() > TIME {
                    break;
                }
                let before = served.load(SeqCst);
                while served.load(SeqCst) == before && !over.load(SeqCst) {
                    std::thread::yield_now();
                }
                server
                    .set_state(State { admin: if round % 2 == 0 { Admin::Drained } else { Admin::Disabled }, ..ready });
                while server.in_flight() > 0 {
                    std::thread::yield_now();
                }
                gone.store(true, SeqCst);
                assert_eq!(serving.load(SeqCst), 0, "round {round}");
                for _ in 0..50 {
                    std::hint::spin_loop();
                }
                gone.store(false, SeqCst);
                server.set_state(ready);
            }
        }));
        over.store(true, SeqCst);
        drains.unwrap();
    });
    assert!(served.load(SeqCst) > 0);
    assert_eq!(server.in_flight(), 0, "a claim is never lost");
}

/// The same, a moment at a time: one claim against one drain, begun together, over and over. Whatever
/// order their steps fall in, a claim that was granted is one that the drain has counted.
#[test]
fn a_granted_claim_was_counted_by_the_drain() {
    const TIME: Duration = Duration::from_millis(1500);
    let plan = plan(1, "\"round_robin\"", true);
    let server = servers(&plan).remove(0);
    let ready = State { operational: Operational::Healthy, admin: Admin::Ready };
    let [begun, claimed, judged, granted] = std::array::from_fn(|_| AtomicUsize::new(0));
    let reach = |counter: &AtomicUsize, round: usize| {
        for spins in 0.. {
            if counter.load(SeqCst) >= round {
                return;
            }
            if spins < 2_000 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    };
    // Both sides come now a little earlier, now a little later.
    let linger = |spins: usize| (0..spins).for_each(|_| std::hint::spin_loop());
    let last = usize::MAX;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                reach(&begun, round);
                if begun.load(SeqCst) == last {
                    return;
                }
                linger(round % 13);
                let claim = Claim::take(Arc::clone(&server), 0, false, false);
                granted.store(usize::from(claim.is_some()), SeqCst);
                claimed.store(round, SeqCst);
                reach(&judged, round);
            }
        });
        let began = Instant::now();
        let (mut both, mut missed) = ([0; 2], 0);
        for round in 1.. {
            server.set_state(ready);
            begun.store(round, SeqCst);
            linger(round / 13 % 17);
            server.set_state(State { admin: Admin::Drained, ..ready });
            let counted = server.in_flight();
            reach(&claimed, round);
            let granted = granted.load(SeqCst);
            both[granted] += 1;
            missed += usize::from(granted == 1 && counted == 0);
            judged.store(round, SeqCst);
            while server.in_flight() > 0 {
                std::thread::yield_now();
            }
            if began.elapsed() > TIME {
                break;
            }
        }
        begun.store(last, SeqCst);
        assert_eq!(missed, 0, "of {} refused and {} granted", both[0], both[1]);
    });
}

/// Claims taken and given back on all cores at once leave nothing behind.
#[test]
fn counts_are_exact_over_threads() {
    let plan = plan(1, "\"round_robin\"", true);
    let server = servers(&plan).remove(0);
    server.set_state(State { operational: Operational::Healthy, admin: Admin::Ready });
    std::thread::scope(|scope| {
        for core in 0..CORES {
            let server = &server;
            scope.spawn(move || {
                for i in 0..20_000 {
                    let claims: Vec<_> =
                        (0..i % 5).map(|_| Claim::take(Arc::clone(server), core, false, false)).collect();
                    assert!(server.in_flight() >= claims.len() as u32);
                }
            });
        }
    });
    assert_eq!(server.in_flight(), 0);
}
