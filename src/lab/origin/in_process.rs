//! An origin in this process, on its own thread, that can be made to fail.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::sync::{mpsc, oneshot};

use super::behaviour::Behaviour;
use super::journal::{Journal, Served};
use super::server::{Server, Shared, Workers};
use super::sessions::{SessionOptions, Sessions};

/// Requests remembered before the oldest is forgotten.
const REMEMBERED: usize = 1_000_000;
const BACKLOG: i32 = 1024;

/// A toy server for tests and the demo. Dropped, it is killed.
///
/// Its methods block for moments at most ([`Origin::stop`] for the time that requests in flight
/// take), so they may be called from asynchronous tests as well.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Never listens. It keeps the port from being given to someone else while the origin is down.
    _reserved: Socket,
    running: Option<Running>,
}

struct Running {
    /// Shares the socket with the thread, so that it can be shut down from here at once.
    listener: Socket,
    listeners: mpsc::UnboundedSender<std::net::TcpListener>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin")
            .field("name", &self.shared.name)
            .field("address", &self.address)
            .field("running", &self.running.is_some())
            .finish_non_exhaustive()
    }
}

impl Origin {
    /// Starts an origin on a free port of 127.0.0.1; it serves when this returns.
    ///
    /// # Errors
    /// When no socket or thread is to be had, or the name cannot stand in a header.
    pub fn start(name: &str) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), name)
    }

    /// The same on an address of the caller's choice.
    ///
    /// # Errors
    /// When the address cannot be bound, no thread is to be had, or the name cannot stand in a header.
    pub fn start_at(address: SocketAddr, name: &str) -> io::Result<Self> {
        let sessions = Sessions::new(SessionOptions::default()).map_err(|broken| io::Error::other(broken.0))?;
        let journal = Journal::new(name.to_owned(), REMEMBERED, None, None);
        let shared = Shared::new(name, journal, Workers::default(), sessions, None)?;
        let reserved = bound(address)?;
        let address = reserved
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the system gave an address that is no IP address"))?;
        let mut origin = Self { address, shared, _reserved: reserved, running: None };
        origin.restart()?;
        Ok(origin)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where it listens; the same after every restart.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request it was given since its start or the last [`Origin::clear`], restarts included,
    /// in the order of arrival (the last million).
    #[must_use]
    pub fn requests(&self) -> Vec<Served> {
        self.shared.journal.served()
    }

    /// How often each `X-Request-Id` was delivered to `/sink`, whether or not it was answered.
    #[must_use]
    pub fn deliveries(&self) -> BTreeMap<String, usize> {
        let mut deliveries = BTreeMap::new();
        for served in self.requests().into_iter().filter(|served| served.path() == "/sink") {
            if let Some(id) = served.request_id {
                *deliveries.entry(id).or_default() += 1;
            }
        }
        deliveries
    }

    /// Forgets the requests it was given.
    pub fn clear(&self) {
        self.shared.journal.clear();
    }

    /// How many connections and tunnels are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// How many login sessions it holds.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.sessions.held().sessions
    }

    /// Changes how it answers, from the next request on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Says 503 at `/healthz`, or 200 again.
    pub fn set_healthy(&self, healthy: bool) {
        self.behave(|behaviour| behaviour.healthy = healthy);
    }

    /// Refuses new connections from now on; those that are open go on.
    ///
    /// # Errors
    /// What the socket says.
    pub fn refuse(&self) -> io::Result<()> {
        match &self.running {
            Some(running) => running.listener.shutdown(Shutdown::Both),
            None => Ok(()),
        }
    }

    /// Takes connections again after [`Origin::refuse`]; nothing happens while it is stopped.
    ///
    /// # Errors
    /// What the socket says.
    pub fn accept_again(&mut self) -> io::Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let listener = listening(self.address)?;
        // The thread can only be gone if it panicked, and then nothing is left to accept.
        let _ = running.listeners.send(listener.try_clone()?.into());
        running.listener = listener;
        Ok(())
    }

    /// Closes every open connection, as a server does whose keep-alive time is over, and goes on.
    pub fn close_connections(&self) {
        self.shared.ending.send_modify(|ending| ending.cuts += 1);
    }

    /// Takes no new connection, lets requests in flight end (a second at most), and stops. Sessions
    /// are lost, as with every process that ends.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.listener.shutdown(Shutdown::Both);
            // The thread may have ended by itself; then there is nothing to stop.
            let _ = running.stop.send(());
            let _ = running.thread.join();
        }
        self.shared.sessions.forget();
    }

    /// Ends as a process does that was killed: connections are reset, whatever they were doing.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.listener.shutdown(Shutdown::Both);
            self.shared.reset.store(true, Ordering::Relaxed);
            self.shared.ending.send_modify(|ending| ending.cuts += 1);
            let _ = running.stop.send(());
            let _ = running.thread.join();
            self.shared.reset.store(false, Ordering::Relaxed);
        }
        self.shared.sessions.forget();
    }

    /// Serves again on the same port, with an empty memory but the same log; killed first where it
    /// still runs.
    ///
    /// # Errors
    /// When no socket or thread is to be had.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        let listener = listening(self.address)?;
        let (listeners, following) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        shared.ending.send_modify(|ending| ending.stopping = false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let server = {
            let _within = runtime.enter();
            Server::on(listener.try_clone()?.into(), following, shared, Duration::from_secs(1))?
        };
        let thread = std::thread::Builder::new().name(format!("origin-{}", self.shared.name)).spawn(move || {
            // Dropped with its sender, the origin is gone: that is a stop, too.
            runtime.block_on(server.serve(async {
                let _ = stopped.await;
            }));
        })?;
        self.running = Some(Running { listener, listeners, stop, thread });
        Ok(())
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A bound socket that does not listen. Both sockets of an origin may have the same port, because
/// both say so and only one of them listens.
fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The same, but listening.
fn listening(address: SocketAddr) -> io::Result<Socket> {
    let socket = bound(address)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
