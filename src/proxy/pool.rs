//! Connections to servers, per core.
//!
//! Idle HTTP/1 connections are used newest first. The newest connection is the likeliest to be alive and warm, and lets the rest grow old and go. A
//! connection comes back here only when both bodies of its exchange have ended: one whose answer came
//! early would carry the rest of the old request into the next; one that began with a client's address
//! (`send_proxy`) never does, since the next request may be another client's. HTTP/2 connections are
//! shared: see [`http2`].

pub(super) mod http2;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::body::RequestBody;
use super::core::View;
use crate::config::plan::{Address, PoolPlan, UpstreamPlan};
use crate::server_stream::ServerStream;
use crate::tls::Client;
use crate::upstream::{Admin, Server};

/// What TLS a connection was opened with. Connections of another are not used: a reload may have turned
/// TLS on, or may trust somebody else.
pub(super) type Security = Option<Arc<Client>>;

/// Whether a connection opened with `with` is as `plan` wants it.
fn is_secured(with: &Security, plan: &UpstreamPlan) -> bool {
    match (with, &plan.tls) {
        (None, None) => true,
        (Some(with), Some(now)) => Arc::ptr_eq(with, &now.client),
        _ => false,
    }
}

/// What a request holds of a server's connection until its answer has ended.
#[derive(Debug)]
pub(super) enum Lease {
    /// A connection of its own, which may be given back.
    Http1(Line),
    /// A place on a shared one, which is freed by dropping it.
    Http2(#[expect(dead_code, reason = "held, and freed by its `Drop`")] http2::Place),
}

/// An HTTP/1 connection to a server in somebody's hands.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) sender: SendRequest<RequestBody>,
    born: Instant,
    requests: u64,
    /// [`Server::outings`] before it was opened.
    outings: u32,
    /// What TLS it was opened with.
    tls: Security,
    /// Whether the server was told, ahead of everything else, whose connection it is.
    is_introduced: bool,
}

impl Line {
    /// Whether it carried a request before.
    pub(super) fn is_reused(&self) -> bool {
        self.requests > 1
    }
}

#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
}

/// The connections of one core, by server uid.
#[derive(Debug)]
pub(super) struct Pools {
    by_server: RefCell<HashMap<u32, Vec<Idle>, foldhash::fast::RandomState>>,
    pub(super) http2: http2::Connections,
    cores: usize,
}

/// The most that is read ahead of an answer, and about what is written behind a body: larger reads make
/// answers cheaper, and a client that takes nothing makes evenkeel hold three of them.
const READ_AHEAD: usize = 256 * 1024;

/// An HTTP/1 connection that still has to be driven.
pub(super) type Driver = Connection<TokioIo<ServerStream>, RequestBody>;

impl Pools {
    pub(super) fn new(cores: usize) -> Self {
        Self { by_server: RefCell::default(), http2: http2::Connections::default(), cores }
    }

    /// Takes the newest idle connection to `server` that can be used.
    pub(super) fn take(&self, server: &Server, core: usize, plan: &UpstreamPlan, now: Instant) -> Option<Line> {
        let mut all = self.by_server.borrow_mut();
        let idle = all.get_mut(&server.uid)?;
        let found = loop {
            let Some(Idle { mut line, .. }) = idle.pop() else { break None };
            let usable = !line.sender.is_closed() && line.outings == server.outings() && is_secured(&line.tls, plan);
            // What is kept was opened for nobody in particular, before a reload.
            if usable && plan.send_proxy.is_none() && now.duration_since(line.born) < plan.pool.max_age {
                line.requests += 1;
                break Some(line);
            }
        };
        server.cells[core].counts.idle.set(idle.len() as u64);
        found
    }

    /// Gives a connection back, if it may be used again and there is room.
    pub(super) fn give(&self, server: &Server, core: usize, plan: &PoolPlan, line: Line, now: Instant) {
        if line.is_introduced || line.sender.is_closed() || line.requests >= plan.max_requests || is_out(server) {
            return;
        }
        let mut all = self.by_server.borrow_mut();
        let idle = all.entry(server.uid).or_default();
        if idle.len() < (plan.max_idle / self.cores).max(1) && plan.max_idle > 0 {
            idle.push(Idle { line, since: now });
        }
        server.cells[core].counts.idle.set(idle.len() as u64);
    }

    /// Closes connections to servers that the Snapshot does not hold or that are out of service.
    pub(super) fn keep_only(&self, view: &View) {
        let servers = view.upstreams.iter().flat_map(|u| &u.servers);
        let mut known: Vec<u32> = servers.filter(|s| !is_out(s)).map(|s| s.uid).collect();
        known.sort_unstable();
        self.by_server.borrow_mut().retain(|uid, _| known.binary_search(uid).is_ok());
        self.http2.keep_only(&known);
    }

    /// Closes connections that were idle for too long, are too old, or were closed by their server.
    pub(super) fn expire(&self, now: Instant, view: &View, core: usize) {
        self.http2.expire(now, view, self.cores, core);
        let mut all = self.by_server.borrow_mut();
        for upstream in &view.upstreams {
            let plan = &upstream.plan.pool;
            for server in &upstream.servers {
                let Some(idle) = all.get_mut(&server.uid) else { continue };
                idle.retain(|i| {
                    !i.line.sender.is_closed()
                        && now.duration_since(i.since) < plan.idle_timeout
                        && now.duration_since(i.line.born) < plan.max_age
                });
                server.cells[core].counts.idle.set(idle.len() as u64);
            }
        }
    }
}

/// Whether a server is drained or disabled. Then it may be stopped at any moment, so nothing is kept.
fn is_out(server: &Server) -> bool {
    matches!(server.state().admin, Admin::Drained | Admin::Disabled)
}

/// Opens a connection to `server`, trying each of its addresses, beginning with the `turn`-th; each has
/// its share of `limit`, so that a silent one leaves time for the next.
pub(super) async fn connect(server: &Server, turn: usize, limit: Duration) -> io::Result<ServerStream> {
    if let Address::Unix(path) = &server.address {
        return UnixStream::connect(path).await.map(ServerStream::Unix);
    }
    let addresses = server.resolved.load_full();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for i in 0..addresses.len() {
        let connecting = connect_to(addresses[turn.wrapping_add(i) % addresses.len()]);
        let outcome = match addresses.len() {
            1 => connecting.await,
            several => match tokio::time::timeout(limit / several as u32, connecting).await {
                Ok(outcome) => outcome,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
        };
        match outcome {
            Ok(stream) => return Ok(ServerStream::Tcp(stream)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Speaks HTTP/1 on a new connection. The driver must be polled for anything to move. `outings` are
/// those of the server before the connection was opened.
pub(super) async fn handshake(
    stream: ServerStream,
    plan: &UpstreamPlan,
    now: Instant,
    outings: u32,
) -> hyper::Result<(Line, Driver)> {
    let (sender, driver) = Builder::new().max_buf_size(READ_AHEAD).handshake(TokioIo::new(stream)).await?;
    let tls = plan.tls.as_ref().map(|tls| Arc::clone(&tls.client));
    Ok((Line { sender, born: now, requests: 1, outings, tls, is_introduced: plan.send_proxy.is_some() }, driver))
}
