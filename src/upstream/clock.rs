//! The one clock that the ledger of sessions is kept by.
//!
//! Whole seconds in 32 bits: the ledger stores one per session, and both planes must mean the same
//! moment by it.

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Whole seconds since the process first asked; never goes back, lasts 136 years.
#[must_use]
pub fn seconds() -> u32 {
    START.elapsed().as_secs() as u32
}
