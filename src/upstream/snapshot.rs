//! Everything a request needs, immutable, behind one swap.
//!
//! The control plane publishes a whole Snapshot each time anything changes, so a request never sees
//! half of a change. Each core keeps a cached pointer; [`Swap`] also tells it to look again, because a
//! cached pointer keeps the Snapshot before alive until then.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

use arc_swap::ArcSwap;

use super::explain::Debug;
use super::sampler::Sampler;
use super::{Routes, Upstream, clock};
use crate::config::plan::ListenerPlan;
use crate::metrics::skew::{Figures, Looks};
use crate::tls;

/// A listener and the routes it serves.
#[derive(Debug)]
pub struct Listening {
    pub plan: Arc<ListenerPlan>,
    pub routes: Arc<Routes>,
    /// What handshakes are made from; none is plain HTTP.
    pub tls: Option<Arc<tls::Server>>,
}

/// Everything a request needs.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Grows with every publication.
    pub generation: u64,
    /// Most client connections at once.
    pub max_connections: u64,
    /// Whether servers of some upstream are told what address clients have connected to.
    pub tells_local: bool,
    /// By listener slot, which a bound address keeps for the life of the process; none for a slot
    /// that is no longer configured.
    pub listeners: Vec<Option<Listening>>,
    pub upstreams: Vec<Arc<Upstream>>,
    /// Who comes, while somebody wants to know.
    pub sampler: Option<Arc<Sampler>>,
    /// What is noted of requests, where that is asked for.
    pub debug: Option<Arc<Debug>>,
}

/// The one place where Snapshots are published.
#[derive(Debug)]
pub struct Swap {
    /// Read through [`arc_swap::Cache`] by the cores.
    pub current: Arc<ArcSwap<Snapshot>>,
    generation: AtomicU64,
    /// Connections of clients that the process before this one still has.
    predecessor_connections: AtomicU64,
    /// Bits of the part of the requests that come from one untrusted peer with forwarded headers.
    forgotten_share: AtomicU64,
    /// Looks at what servers have got.
    pub looks: Looks,
}

impl Default for Swap {
    fn default() -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            generation: AtomicU64::new(0),
            predecessor_connections: AtomicU64::new(0),
            forgotten_share: AtomicU64::new(0),
            looks: Looks::default(),
        }
    }
}

impl Swap {
    /// Publishes `snapshot` and gives it the next generation.
    pub fn publish(&self, mut snapshot: Snapshot) {
        snapshot.generation = self.generation() + 1;
        let generation = snapshot.generation;
        self.looks.look(&snapshot, clock::elapsed());
        self.current.store(Arc::new(snapshot));
        self.generation.store(generation, Release);
    }

    /// Connections of clients that the process before this one still has, as far as it has said.
    #[must_use]
    pub fn predecessor_connections(&self) -> u64 {
        self.predecessor_connections.load(Acquire)
    }

    /// Notes them. Only the control plane calls this.
    pub fn set_predecessor_connections(&self, connections: u64) {
        self.predecessor_connections.store(connections, Release);
    }

    /// The largest part of the requests, 0 to 1, that came lately from one peer that says for whom it asks though
    /// nobody trusts it to.
    #[must_use]
    pub fn forgotten_share(&self) -> f64 {
        f64::from_bits(self.forgotten_share.load(Acquire))
    }

    /// Notes it. Only the control plane calls this.
    pub fn set_forgotten_share(&self, share: f64) {
        self.forgotten_share.store(share.to_bits(), Release);
    }

    /// What was counted of an upstream lately.
    #[must_use]
    pub fn lately(&self, upstream: &Upstream) -> Option<Figures> {
        self.looks.lately(upstream, clock::elapsed())
    }

    /// The newest generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }
}
