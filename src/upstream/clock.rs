//! The coarse monotonic clock that the ledger counts in.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Time since the process first asked, or since the clock that it [goes on](go_on) with did.
#[must_use]
pub fn elapsed() -> Duration {
    START.get_or_init(Instant::now).elapsed()
}

/// Whole seconds of it.
#[must_use]
pub fn seconds() -> u32 {
    elapsed().as_secs() as u32
}

/// Whole seconds of it at a moment that is known already.
#[must_use]
pub fn seconds_at(now: Instant) -> u32 {
    now.saturating_duration_since(*START.get_or_init(Instant::now)).as_secs() as u32
}

/// Microseconds of it.
#[must_use]
pub fn micros() -> u64 {
    elapsed().as_micros() as u64
}

/// Goes on with the clock of another process, which says `elapsed` now. It does nothing once anybody has asked.
pub fn go_on(elapsed: Duration) {
    let _ = START.set(Instant::now().checked_sub(elapsed).unwrap_or_else(Instant::now));
}
