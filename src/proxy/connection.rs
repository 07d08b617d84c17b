//! One client connection: requests in turn, parked in between, closed with care.
//!
//! While requests come, a parser with its buffers runs on the socket. A connection that has been
//! between requests for a second gives both up and waits as a bare socket ("parked"), which is what
//! makes a hundred thousand idle connections cheap.

mod http1;
mod link;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::admit::admit;
use super::core::Core;
use super::http2;
use super::stream::Near;
use super::tls;
use super::upgrade::{self, Tunnel};
use crate::config::plan::ListenerPlan;
use crate::tls::Server;

pub(super) use link::{Conn, Link, Protocol};

/// How long a closed connection is read, so that the client gets the answer before a reset.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it is read.
const LINGER_BYTES: usize = 1 << 20;

/// Counts a connection while it is open, and a panic that ends it.
struct Open(Rc<Core>);

impl Open {
    fn new(core: &Rc<Core>) -> Self {
        core.cells().connections_accepted.inc();
        core.cells().connections_open.inc();
        Self(Rc::clone(core))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.cells().connections_open.dec();
        if std::thread::panicking() {
            self.0.cells().panics.inc();
        }
    }
}

/// How a spell of requests ended.
enum Ended {
    Closed,
    /// Idle: the bare socket, what was read of the next request, since when, and whether nothing came at
    /// all.
    Idle(Near, Bytes, Instant, bool),
    /// The client speaks HTTP/2: what was read.
    Http2(Box<(Rc<Link>, Near, Bytes)>),
    Tunnel(Box<(Near, Bytes, Tunnel)>),
}

/// Serves one connection until it ends.
pub(super) async fn serve(core: Rc<Core>, slot: usize, socket: TcpStream, peer: SocketAddr) {
    let _open = Open::new(&core);
    let Some((socket, entry)) = admit(&core, slot, socket, peer).await else { return };
    let mut stream = match tls_of(&core, slot) {
        None => Near::Plain(socket),
        // Boxed, so that no connection holds the room of a handshake for life.
        Some((plan, server)) => match Box::pin(tls::handshake(&core, &plan, socket, server)).await {
            Some(stream) => stream,
            None => return,
        },
    };
    entry.note_local(stream.socket());
    if stream.alpn() == Some(b"h2") {
        let Some(plan) = plan_of(&core, slot) else { return };
        let link = Link::new(&core, slot, &entry, &plan, Protocol::Http2, stream.secure());
        return Box::pin(http2::serve(Rc::new(link), stream, Bytes::new())).await;
    }
    let mut rewind = Bytes::new();
    // Who could have negotiated HTTP/2 and did not speaks HTTP/1.
    let mut is_new = stream.alpn().is_none();
    loop {
        // Boxed, so that a parked connection does not hold the room that a busy one needs.
        match Box::pin(http1::busy(&core, slot, stream, rewind, &entry, is_new)).await {
            Ended::Closed => return,
            Ended::Http2(parts) => {
                let (link, stream, read) = *parts;
                return Box::pin(http2::serve(link, stream, read)).await;
            }
            Ended::Tunnel(parts) => {
                let (stream, read, tunnel) = *parts;
                return Box::pin(upgrade::run(stream, read, tunnel)).await;
            }
            Ended::Idle(mut socket, read, since, untouched) => {
                if read.is_empty() && !parked(&core, slot, &mut socket, since).await {
                    return;
                }
                let secure = socket.secure();
                if !core.with_listener(slot, |plan| tls::is_as_agreed(plan, secure.as_deref())) {
                    // As if it had been idle for too long: no request may come in by rules that are no more.
                    return;
                }
                (stream, rewind, is_new) = (socket, read, untouched);
                // A reload may have made servers want to know.
                entry.note_local(stream.socket());
            }
        }
    }
}

/// What the handshakes of the listener in `slot` are made from, if it has TLS.
fn tls_of(core: &Core, slot: usize) -> Option<(Arc<ListenerPlan>, Arc<Server>)> {
    let view = core.view_of(slot);
    let listening = view.listeners.get(slot)?.as_ref()?;
    Some((Arc::clone(&listening.plan), listening.tls.clone()?))
}

/// The plan of the listener in `slot`, if it is or was lately configured.
pub(super) fn plan_of(core: &Core, slot: usize) -> Option<Arc<ListenerPlan>> {
    core.view_of(slot).listeners.get(slot)?.as_ref().map(|listening| Arc::clone(&listening.plan))
}

/// Waits for the next request without a parser. False when the connection is over.
async fn parked(core: &Rc<Core>, slot: usize, stream: &mut Near, since: Instant) -> bool {
    let Some(limit) = plan_of(core, slot).map(|plan| plan.idle_timeout) else { return false };
    let cells = core.cells();
    cells.connections_parked.inc();
    let alive = tokio::select! {
        // A request that has arrived is served, whatever else has come.
        biased;
        ready = stream.readable() => ready.is_ok(),
        () = tokio::time::sleep_until((since + limit).into()) => {
            cells.idle_closed.inc();
            false
        }
        () = closing(core) => false,
    };
    cells.connections_parked.dec();
    alive
}

/// Resolves when idle connections are to be closed because the process stops.
async fn closing(core: &Core) {
    loop {
        if let Some(at) = core.close_idle_at.get() {
            return tokio::time::sleep_until(at.into()).await;
        }
        core.closing.notified().await;
    }
}

/// Ends our side and reads on for a moment. Closing a socket with unread bytes resets it, and a reset
/// can overtake the answer (RFC 9112 §9.6).
pub(super) async fn linger(stream: &mut Near) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let reading = async {
        let mut sink = vec![0; 8192];
        let mut left = LINGER_BYTES;
        while let Ok(n @ 1..) = stream.read(&mut sink).await {
            left = left.saturating_sub(n);
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, reading).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::core::tests::core;

    #[test]
    fn a_panic_ends_its_connection_and_no_other() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        let core = Rc::new(core());
        runtime.block_on(async {
            let (ended, other) = (Open::new(&core), Open::new(&core));
            let broken = tokio::task::spawn_local(async move {
                let _open = ended;
                panic!("a fault in one connection");
            });
            let goes_on = tokio::task::spawn_local(async move {
                let _open = other;
                tokio::task::yield_now().await;
                "served"
            });
            assert!(broken.await.unwrap_err().is_panic());
            assert_eq!((core.cells().panics.get(), core.cells().connections_open.get()), (1, 1));
            assert_eq!(goes_on.await.unwrap(), "served");
            assert_eq!((core.cells().panics.get(), core.cells().connections_open.get()), (1, 0));
        });
    }
}
