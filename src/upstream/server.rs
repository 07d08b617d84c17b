//! One member of an upstream: identity, state byte, counters.
//!
//! A server outlives reloads and is found again by upstream and name. Its state is two fields that
//! are never merged (design: operational and administrative), packed into one atomic so that a pick
//! reads both at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::clock;
use super::gate::Gate;
use crate::balance::key_of;
use crate::balance::peak_ewma::Average;
use crate::config::plan::Address;
use crate::metrics::cells::{Counter, ServerCell};

/// The share of a server that is not in its slow start, in tenths.
pub const WHOLE_SHARE: u32 = 10;

/// What checks and traffic say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operational {
    /// Not checked yet; unknown is not up.
    Starting = 0,
    Healthy = 1,
    Unhealthy = 2,
    /// Taken out for failures seen in traffic.
    Ejected = 3,
}

/// What an operator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    Ready = 0,
    /// No new clients; pinned ones until their sessions end.
    Draining = 1,
    /// Drained: nothing is left and nothing comes.
    Drained = 2,
    /// Out by order; not checked.
    Disabled = 3,
}

/// Both fields of a server's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub operational: Operational,
    pub admin: Admin,
}

impl State {
    /// Whether new clients may be placed here.
    #[must_use]
    pub fn takes_new(self, failing_open: bool) -> bool {
        self.admin == Admin::Ready && (self.operational == Operational::Healthy || failing_open)
    }

    /// Whether clients pinned here may come. A draining server is never revived by fail_open.
    #[must_use]
    pub fn takes_pinned(self, failing_open: bool) -> bool {
        match self.admin {
            Admin::Ready => self.operational == Operational::Healthy || failing_open,
            Admin::Draining => self.operational == Operational::Healthy,
            Admin::Drained | Admin::Disabled => false,
        }
    }

    fn pack(self) -> u8 {
        self.operational as u8 | (self.admin as u8) << 2
    }

    fn unpack(byte: u8) -> Self {
        let operational = match byte & 3 {
            0 => Operational::Starting,
            1 => Operational::Healthy,
            2 => Operational::Unhealthy,
            _ => Operational::Ejected,
        };
        let admin = match byte >> 2 & 3 {
            0 => Admin::Ready,
            1 => Admin::Draining,
            2 => Admin::Drained,
            _ => Admin::Disabled,
        };
        Self { operational, admin }
    }
}

/// What one core counts for a server.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Cell {
    /// Claims held by this core: requests whose answer has not ended, and tunnels.
    pub(super) in_flight: AtomicU32,
    pub counts: ServerCell,
}

/// One member of an upstream.
#[derive(Debug)]
pub struct Server {
    /// Unique in the process, never used again: the key of per-core pools and of the ledger.
    pub uid: u32,
    pub upstream: Arc<str>,
    pub name: Arc<str>,
    /// Stable hash of the name, which sticky cookies carry.
    pub key: u64,
    pub address: Address,
    /// What the address resolves to; several for a host name. Empty until resolved, and for `unix:`.
    pub resolved: ArcSwap<Vec<SocketAddr>>,
    /// One per core.
    pub cells: Box<[Cell]>,
    /// Told when the last claim of a server that is not ready is released.
    pub idle: Notify,
    /// How many requests it may have at once.
    pub gate: Gate,
    /// Ejections for failures in a row, for their share, and for the first on trial. Only the control plane counts them.
    pub ejections: [Counter; 3],
    state: AtomicU8,
    weight: AtomicU32,
    /// Tenths of its share that it gets now.
    share: AtomicU32,
    outings: AtomicU32,
    faults_in_a_row: AtomicU32,
    is_backup: AtomicBool,
    /// Whether a core has told that the server asks for its drain.
    has_asked: AtomicBool,
    /// An [`Average`], packed; 0 before the first answer.
    average: AtomicU64,
    is_on_trial: AtomicBool,
    /// Requests that another process has in flight.
    elsewhere: AtomicU32,
}

impl Server {
    /// A server that no check has seen yet.
    #[must_use]
    pub fn new(uid: u32, upstream: Arc<str>, name: Arc<str>, address: Address, weight: u32, cores: usize) -> Self {
        let resolved = match &address {
            Address::Socket(address) => vec![*address],
            Address::Host { .. } | Address::Unix(_) => Vec::new(),
        };
        let key = key_of(&name);
        Self {
            uid,
            upstream,
            name,
            key,
            address,
            resolved: ArcSwap::from_pointee(resolved),
            cells: (0..cores).map(|_| Cell::default()).collect(),
            idle: Notify::new(),
            gate: Gate::default(),
            ejections: Default::default(),
            state: AtomicU8::new(State { operational: Operational::Starting, admin: Admin::Ready }.pack()),
            weight: AtomicU32::new(weight),
            share: AtomicU32::new(WHOLE_SHARE),
            outings: AtomicU32::new(0),
            faults_in_a_row: AtomicU32::new(0),
            is_backup: AtomicBool::new(false),
            has_asked: AtomicBool::new(false),
            average: AtomicU64::new(0),
            is_on_trial: AtomicBool::new(false),
            elsewhere: AtomicU32::new(0),
        }
    }

    /// The same behind another gate.
    #[must_use]
    pub fn behind(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// Both fields at once.
    #[must_use]
    pub fn state(&self) -> State {
        // SeqCst pairs with the claim's increment: see `Claim::take`.
        State::unpack(self.state.load(SeqCst))
    }

    /// Sets both fields. Only the control plane calls this.
    pub fn set_state(&self, state: State) {
        let is_out = |state: State| matches!(state.admin, Admin::Drained | Admin::Disabled);
        if is_out(state) && !is_out(self.state()) {
            self.outings.fetch_add(1, SeqCst);
        }
        self.state.store(state.pack(), SeqCst);
    }

    /// How often it was drained or disabled. It may have been stopped and started each time, so a
    /// connection from before must not be used again, even where its end was not noticed yet.
    #[must_use]
    pub fn outings(&self) -> u32 {
        self.outings.load(SeqCst)
    }

    /// Relative share now.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Sets the share. Only the control plane calls this, and then publishes a new Snapshot.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    /// Whether it gets new clients only where no other server can take them.
    #[must_use]
    pub fn is_backup(&self) -> bool {
        self.is_backup.load(Relaxed)
    }

    /// Sets whether it is a backup. Only the control plane calls this, and then publishes a new Snapshot.
    pub fn set_backup(&self, is_backup: bool) {
        self.is_backup.store(is_backup, Relaxed);
    }

    /// An answer asks for a drain. The answer is whether that is news: a core tells it once.
    pub fn asks_for_drain(&self) -> bool {
        !self.has_asked.load(Relaxed) && !self.has_asked.swap(true, Relaxed)
    }

    /// Whether a core has told that it asks for a drain.
    #[must_use]
    pub fn has_asked(&self) -> bool {
        self.has_asked.load(Relaxed)
    }

    /// Lets the next answer that asks for a drain be news again.
    pub fn forget_asking(&self) {
        self.has_asked.store(false, Relaxed);
    }

    /// Tenths of its share that it gets: [`WHOLE_SHARE`], or less in its slow start.
    #[must_use]
    pub fn share(&self) -> u32 {
        self.share.load(Relaxed)
    }

    /// Sets the tenths. Only the control plane calls this, and then publishes a new Snapshot.
    pub fn set_share(&self, tenths: u32) {
        self.share.store(tenths, Relaxed);
    }

    /// A try has failed in a way that counts against the server. The answer is how many have in a row.
    pub fn failed(&self) -> u32 {
        self.faults_in_a_row.fetch_add(1, Relaxed).wrapping_add(1)
    }

    /// A try has succeeded. Nearly always none has failed before it: then nothing is written, and the
    /// cache line stays with every core. Where this crosses a failure on another core, either is first.
    pub fn succeeded(&self) {
        if self.faults_in_a_row.load(Relaxed) != 0 {
            self.faults_in_a_row.store(0, Relaxed);
        }
    }

    /// Tries that have failed since the last one that succeeded.
    #[must_use]
    pub fn faults_in_a_row(&self) -> u32 {
        self.faults_in_a_row.load(Relaxed)
    }

    /// Whether a single failure is to be told of: it is back from an ejection.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.is_on_trial.load(Relaxed)
    }

    /// Sets whether it is. Only the control plane calls this.
    pub fn set_on_trial(&self, is_on_trial: bool) {
        if self.is_on_trial() != is_on_trial {
            self.is_on_trial.store(is_on_trial, Relaxed);
        }
    }

    /// Forgets the tries that have failed. Only the control plane calls this.
    pub fn forgive(&self) {
        self.faults_in_a_row.store(0, Relaxed);
    }

    /// Notes how long an answer took. Where two cores cross, one of the two is lost: an average bears that.
    pub fn observe(&self, latency: Duration, is_error: bool, decay: Duration) {
        let before = Average::unpack(self.average.load(Relaxed));
        let after = Average::after(before, latency, is_error, millis(), decay);
        self.average.store(after.pack(), Relaxed);
    }

    /// Microseconds that the next answer is expected to take.
    #[must_use]
    pub fn latency(&self, decay: Duration) -> Option<f32> {
        Some(Average::unpack(self.average.load(Relaxed))?.latency_at(millis(), decay))
    }

    /// Requests that the process before this one still has in flight here.
    #[must_use]
    pub fn elsewhere(&self) -> u32 {
        self.elsewhere.load(Relaxed)
    }

    /// Sets them: what is known of, and what has to be waited for. Only the control plane calls this.
    pub fn set_elsewhere(&self, known: u32, possible: u32) {
        self.elsewhere.store(possible, Relaxed);
        self.gate.set_elsewhere(known);
    }

    /// Claims held over all cores.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.cells.iter().map(|c| c.in_flight.load(SeqCst)).fold(0, u32::wrapping_add)
    }
}

/// Milliseconds; they wrap.
fn millis() -> u32 {
    (clock::micros() / 1000) as u32
}
