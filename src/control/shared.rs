//! What the supervisor lets others see without asking it: the phase, and that something changed.

use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What the process as a whole is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Servers are being checked for the first time.
    Starting,
    Serving,
    /// It was told to stop.
    Draining,
    /// Another process has taken over, and this one drains.
    HandedOver,
    /// The control plane has ended.
    Stopped,
}

impl Phase {
    /// The name that the status and `/readyz` use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining | Self::HandedOver => "draining",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    phase: Mutex<Phase>,
    phase_changed: Condvar,
    /// Grows whenever a Snapshot is published or a drain ends.
    changes: watch::Sender<u64>,
    addresses: Mutex<Vec<(String, SocketAddr)>>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            phase: Mutex::new(Phase::Starting),
            phase_changed: Condvar::new(),
            changes: watch::channel(0).0,
            addresses: Mutex::default(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        *lock(&self.phase)
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        *lock(&self.phase) = phase;
        self.phase_changed.notify_all();
        self.changed();
    }

    /// Blocks the thread until the phase is another than `Starting`.
    pub(super) fn wait_started(&self) -> Phase {
        let mut phase = lock(&self.phase);
        while *phase == Phase::Starting {
            phase = self.phase_changed.wait(phase).unwrap_or_else(PoisonError::into_inner);
        }
        *phase
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        lock(&self.addresses).clone()
    }

    pub(super) fn set_addresses(&self, addresses: Vec<(String, SocketAddr)>) {
        *lock(&self.addresses) = addresses;
    }
}

/// The values in here are replaced whole: a panic elsewhere cannot leave half of one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
