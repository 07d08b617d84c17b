//! Accepting connections.
//!
//! Each core has its own socket of each listener (SO_REUSEPORT), so accepting crosses no thread. A
//! full descriptor table makes the core pause and go on, never spin and never give up the socket.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::connection;
use super::core::Core;

/// How long accepting pauses when descriptors or memory have run out.
const BACK_OFF: Duration = Duration::from_millis(50);

/// How an accepting task is told to end.
#[derive(Debug, Default)]
pub(super) struct Stop {
    told: Notify,
    /// Whether another process accepts from the same socket.
    left: Cell<bool>,
}

impl Stop {
    /// Ends it. What waits in the queue is `left` to another process, or served.
    pub(super) fn tell(&self, left: bool) {
        self.left.set(left);
        self.told.notify_one();
    }
}

/// Takes over a bound, listening, non-blocking socket.
pub(super) fn adopt(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    // Accepted sockets inherit it on Linux, which saves a call per connection.
    SockRef::from(&socket).set_tcp_nodelay(true)?;
    TcpListener::from_std(socket)
}

/// Accepts until told to stop; then serves those that had connected by then, unless somebody else does, and
/// closes the socket. It is never shut down: others may have it, too.
pub(super) async fn accept(core: Rc<Core>, slot: usize, socket: TcpListener, stop: Rc<Stop>) {
    let mut starved = false;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            () = stop.told.notified() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                if starved {
                    starved = false;
                    info!("accepting connections again");
                }
                tokio::task::spawn_local(connection::serve(Rc::clone(&core), slot, stream, peer));
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                core.cells().accept_errors.inc();
                if !starved {
                    starved = true;
                    warn!(%error, "cannot accept connections; trying again until it works");
                }
                tokio::select! {
                    () = tokio::time::sleep(BACK_OFF) => {}
                    () = stop.told.notified() => break,
                }
            }
        }
    }
    if stop.left.get() {
        return;
    }
    if let Err(error) = accept_queued(&core, slot, socket) {
        warn!(%error, "connections that waited to be accepted are lost");
    }
}

/// Closing a listening socket resets what waits in its queue: to those clients the connection was
/// there, so they are served.
fn accept_queued(core: &Rc<Core>, slot: usize, socket: TcpListener) -> io::Result<()> {
    let socket = socket.into_std()?;
    loop {
        match socket.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                let stream = TcpStream::from_std(stream)?;
                tokio::task::spawn_local(connection::serve(Rc::clone(core), slot, stream, peer));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Errors that belong to the connection that was about to be accepted, not to the socket (accept(2)).
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
