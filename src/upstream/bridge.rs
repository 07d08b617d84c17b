//! What the two planes say to each other, since neither may import the other.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Sender, UnboundedSender};

use super::Swap;
use crate::metrics::cells::CoreCells;

/// What the control plane orders of one core.
#[derive(Debug)]
pub enum Order {
    /// Accept connections on this socket, which is bound, listening and non-blocking.
    Listen { slot: usize, socket: TcpListener },
    /// Stop accepting on that slot; connections accepted there go on.
    Unlisten { slot: usize },
    /// A new Snapshot was published: let go of the old one, close idle connections to servers gone.
    Look,
    /// End every request and tunnel on these servers, by uid: their deadline has passed.
    Cut { servers: Arc<[u32]> },
    /// Close the WebSockets of these servers, spread over `over`. Whatever is left of them is cut `within`.
    Close { servers: Arc<[u32]>, over: Duration, within: Duration },
    /// What was to be closed on these servers and is still open may go on.
    Stay { servers: Arc<[u32]> },
    /// The process stops: accept no more, tell clients `Connection: close`, close idle connections
    /// after `idle_grace`, and WebSockets `within` the time after which it ends.
    /// What waits in the queue of a slot in `left` is another process's to accept.
    Drain { idle_grace: Duration, within: Duration, left: Arc<[usize]> },
    /// Say where round robin goes on, by slot of the upstream.
    Tell { reply: UnboundedSender<(usize, Vec<usize>)> },
    /// Go on there, by slot of the upstream.
    GoOn { cursors: Vec<(usize, usize)> },
}

/// What a core reports; lost when the control plane is behind, never waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A connection to that server (by uid) could not be opened.
    ConnectFailed { server: u32 },
    /// So many tries on that server (by uid) have failed in a row that it may be an outlier.
    Failing { server: u32, in_a_row: u32 },
    /// An answer of that server (by uid) asks for its drain.
    AsksForDrain { server: u32 },
    /// An answer of that server (by uid), which has asked, does not any more.
    AsksNoMore { server: u32 },
}

/// The control plane's end of the bridge.
#[derive(Debug)]
pub struct DataPlane {
    pub swap: Arc<Swap>,
    /// One sender per core.
    pub orders: Vec<UnboundedSender<Order>>,
    /// One cell per core.
    pub cells: Arc<[CoreCells]>,
}

/// A core's way to report.
pub type Events = Sender<Event>;

impl DataPlane {
    /// Publishes a Snapshot and tells every core to look.
    pub fn publish(&self, snapshot: super::Snapshot) {
        self.swap.publish(snapshot);
        for core in &self.orders {
            let _ = core.send(Order::Look);
        }
    }

    /// Client connections open over all cores.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        self.cells.iter().map(|c| c.connections_open.get()).fold(0, u64::wrapping_add)
    }
}
