//! Which peers say for whom they ask, though nobody trusts them to.
//!
//! One of them may be a proxy that somebody has forgotten to trust. Unlike a counter that is held for whoever
//! reads it: a core never waits, so while the control plane takes out what was counted nothing is.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::balance::hot::{SpaceSaving, Summary};

/// Peers that are told apart at once: who has more than half of the requests is among any two.
const PEERS: usize = 8;

/// Those that one core has met.
#[derive(Debug)]
pub struct Strangers(Mutex<SpaceSaving<IpAddr>>);

impl Default for Strangers {
    fn default() -> Self {
        Self(Mutex::new(SpaceSaving::new(PEERS)))
    }
}

impl Strangers {
    /// Counts a request.
    pub fn note(&self, peer: IpAddr) {
        if let Ok(mut peers) = self.0.try_lock() {
            peers.add(peer);
        }
    }

    /// What was counted since it was last taken.
    #[must_use]
    pub fn take(&self) -> Summary<IpAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
