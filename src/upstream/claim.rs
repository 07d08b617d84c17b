//! The right to send one request to one server, counted.
//!
//! Where a server has a limit, the claim holds a place behind its [gate](super::gate), too.
//!
//! Taken in one step with the choice and given back when the body of the answer has ended, a claim is
//! what drain, least-requests, rollouts and metrics all read.
//!
//! Invariant *a drained server gets nothing*: the claimer first counts, then reads the state; the
//! drainer first writes the state, then reads the count. Both use sequentially consistent operations,
//! so at least one of them sees the other: either the claim is refused or the drain waits for it.
//! Invariant *a claim is never lost*: only `Drop` gives a claim back, exactly once.

use std::ops::Deref;
use std::sync::atomic::Ordering::SeqCst;

use super::server::{Admin, Cell, Server};

/// A counted right to send one request. Dropping it gives it back.
///
/// It holds its server through whatever handle the caller has, an `Arc` or a per-core reference, so
/// that a claim need not touch a reference count that other cores share.
#[derive(Debug)]
pub struct Claim<H: Deref<Target = Server>> {
    server: H,
    core: usize,
    /// Whether it counts against the server's limit.
    counted: bool,
}

/// Why a server cannot be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its state does not let it take the request.
    Out,
    /// It has as many requests as it may.
    Full,
}

impl<H: Deref<Target = Server>> Claim<H> {
    /// Claims `server` for one request of `core`, or none when it no longer takes it.
    #[must_use]
    pub fn take(server: H, core: usize, pinned: bool, failing_open: bool) -> Option<Self> {
        Self::try_take(server, core, pinned, failing_open).ok()
    }

    /// The same, saying why not.
    ///
    /// # Errors
    /// The server no longer takes it, or is full.
    pub fn try_take(server: H, core: usize, pinned: bool, failing_open: bool) -> Result<Self, Refused> {
        let limit = server.gate.limit_for(pinned);
        server.cells[core].in_flight.fetch_add(1, SeqCst);
        let mut claim = Self { server, core, counted: false };
        let state = claim.server.state();
        let takes = if pinned { state.takes_pinned(failing_open) } else { state.takes_new(failing_open) };
        if !takes {
            return Err(Refused::Out);
        }
        if let Some(limit) = limit {
            claim.counted = claim.server.gate.enter(limit);
            if !claim.counted {
                return Err(Refused::Full);
            }
        }
        Ok(claim)
    }

    /// The server claimed.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The counters of this core for that server.
    #[must_use]
    pub fn cell(&self) -> &Cell {
        &self.server.cells[self.core]
    }
}

impl<H: Deref<Target = Server>> Drop for Claim<H> {
    fn drop(&mut self) {
        self.cell().in_flight.fetch_sub(1, SeqCst);
        if self.counted {
            self.server.gate.leave();
        }
        if self.server.state().admin != Admin::Ready && self.server.in_flight() == 0 {
            self.server.idle.notify_waiters();
        }
    }
}
