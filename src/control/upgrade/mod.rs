//! Another process takes over: a new binary, or the same one with what a reload cannot change.
//!
//! The old process starts the new one and gives it every listening socket and all it knows ([`carried`]) over
//! a channel that is the new one's standard input. The new one does everything that can fail (its configuration,
//! its addresses, the first checks of its servers) while the old one serves, and says that it is ready. Then it
//! is told how things are by now, accepts connections, and says so; only after that the old one lets go of the
//! sockets, drains as it does when it stops, and ends. There is no moment at which nobody accepts, and none at
//! which both write the state file. Whatever goes wrong before that, the old process kills the new one and
//! goes on as if nothing had been.
//!
//! While the old one drains it does as the new one says: what becomes of a server (drained, unhealthy, cut) is
//! decided in one place. It tells what it still has, and a server is drained only once both have nothing on it.
//!
//! Sockets are never shut down here, and never closed with connections waiting in their queues: they are the
//! other process's, too. Threads of the [`channel`] wait for the other process; the supervisor never does.

mod carried;
mod carry;
pub(super) mod channel;
mod following;
pub(super) mod frames;
mod inherited;
mod predecessor;
mod start;
mod successor;

pub use inherited::Inherited;
pub(super) use inherited::Inheriting;
pub use start::Program;
pub(super) use successor::News;

use following::Successor;
use predecessor::Predecessor;
use successor::Rising;

/// Where a process stands in a row of processes.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// How a process like this one is started; none where it was not started by its command line.
    pub(super) program: Option<Program>,
    /// While a process gets ready to take over from this one.
    rising: Option<Rising>,
    attempts: u64,
    /// Once it has taken over.
    successor: Option<Successor>,
    /// Whether there was a process before this one.
    is_later: bool,
    /// While this process gets ready to take over.
    inheriting: Option<Inheriting>,
    /// While the process before this one still has connections.
    predecessor: Option<Predecessor>,
}

impl Row {
    pub(super) fn new(program: Option<Program>, inheriting: Option<Inheriting>) -> Self {
        Self { program, is_later: inheriting.is_some(), inheriting, ..Self::default() }
    }

    /// Whether another process begins or ends, so that it has to be looked after.
    pub(super) fn is_moving(&self) -> bool {
        self.rising.is_some() || self.successor.is_some() || self.predecessor.is_some()
    }

    /// Whether this process has not taken over yet.
    pub(super) fn is_inheriting(&self) -> bool {
        self.inheriting.is_some()
    }

    /// Whether another process knows how things are and is about to take over.
    pub(super) fn is_told(&self) -> bool {
        self.rising.as_ref().is_some_and(|rising| rising.is_told)
    }

    /// The configuration was read again.
    pub(super) fn reloaded(&mut self) {
        if let Some(rising) = &mut self.rising {
            rising.is_outdated = true;
        }
    }

    /// Whether another process has taken over.
    pub(super) fn is_over(&self) -> bool {
        self.successor.is_some()
    }
}
