//! The coarse monotonic clock that the ledger counts in.

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Whole seconds since the process first asked.
#[must_use]
pub fn seconds() -> u32 {
    START.elapsed().as_secs() as u32
}

/// Microseconds since the process first asked.
#[must_use]
pub fn micros() -> u64 {
    START.elapsed().as_micros() as u64
}
