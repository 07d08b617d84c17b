//! The right to send one request to one server, counted.
//!
//! Taken in one step with the choice and given back when the body of the answer has ended, a claim is
//! what drain, least-requests, rollouts and metrics all read.
//!
//! Invariant *a drained server gets nothing*: the claimer first counts, then reads the state; the
//! drainer first writes the state, then reads the count. Both use sequentially consistent operations,
//! so at least one of them sees the other: either the claim is refused or the drain waits for it.
//! Invariant *a claim is never lost*: only `Drop` gives a claim back, exactly once.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::server::{Admin, Cell, Server};

/// A counted right to send one request. Dropping it gives it back.
#[derive(Debug)]
pub struct Claim {
    server: Arc<Server>,
    core: usize,
}

impl Claim {
    /// Claims `server` for one request of `core`, or none when it no longer takes it.
    #[must_use]
    pub fn take(server: &Arc<Server>, core: usize, pinned: bool, failing_open: bool) -> Option<Self> {
        let cell = &server.cells[core];
        cell.in_flight.fetch_add(1, SeqCst);
        let claim = Self { server: Arc::clone(server), core };
        let state = server.state();
        let takes = if pinned { state.takes_pinned(failing_open) } else { state.takes_new(failing_open) };
        takes.then_some(claim)
    }

    /// The server claimed.
    #[must_use]
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The counters of this core for that server.
    #[must_use]
    pub fn cell(&self) -> &Cell {
        &self.server.cells[self.core]
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.cell().in_flight.fetch_sub(1, SeqCst);
        if self.server.state().admin != Admin::Ready && self.server.in_flight() == 0 {
            self.server.idle.notify_waiters();
        }
    }
}
