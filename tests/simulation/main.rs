//! A seeded simulation of what decides, and the race between a claim and a drain on real threads.
//!
//! The rooms that decide take time and chance as arguments, so a world of them can be lived through in a
//! moment. After each step of each world every invariant is looked at. A failure names its seed, and `SEED=n`
//! runs that world alone:
//!
//! ```sh
//! SEED=17 cargo test --test simulation invariants_hold_in_every_simulated_world
//! ```
//!
//! | world | what it drives |
//! |---|---|
//! | [`world`] | checks, ejection, drains and claims together, with cores that hold old Snapshots |
//! | [`outliers`] | ejection alone, by any plan, with reloads |
//! | [`races`] | claims and drains on real threads |
//!
//! Two worlds are made of rooms that are nobody's interface, and are with them: the queue in
//! `src/proxy/queue/tests.rs`, deploys in `src/control/deploys/tests.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod outliers;
mod races;
mod world;

/// Runs a world for each seed, or for the one in `SEED`; what each has done. The seed of a world that fails is
/// printed.
fn for_every_seed<T>(seeds: u64, live: impl Fn(u64) -> T) -> Vec<T> {
    let only: Option<u64> = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let live = |seed| {
        let world = std::panic::AssertUnwindSafe(|| live(seed));
        std::panic::catch_unwind(world).unwrap_or_else(|panic| {
            println!("SEED={seed}");
            std::panic::resume_unwind(panic)
        })
    };
    only.map_or(0..seeds, |seed| seed..seed + 1).map(live).collect()
}

/// Whether all worlds run, so that enough must have happened in them: one in which nothing does proves nothing.
fn all_run() -> bool {
    std::env::var_os("SEED").is_none()
}
