//! What is settled about a connection before its first byte is anybody's: who is at the other end, and
//! whether there is room for them.
//!
//! Runs once for a connection, before TLS and before any parser, and takes from the socket nothing that
//! belongs to them. A connection too many is closed without a word: an answer would have to wait for a
//! request, or for a handshake, and waiting is what there is no room for.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tracing::warn;

use super::census::Counted;
use super::connection::plan_of;
use super::core::Core;
use crate::config::plan::{ListenerPlan, ProxyProtocolPlan};
use crate::proxy_protocol::{self, Header, Parsed};

/// How much of a header is looked at in one go: all of it, if it carries few extensions.
const PEEK: usize = 512;

/// A connection that was let in, from then to its end, parked or not.
pub(super) struct Entry {
    core: Rc<Core>,
    /// Who is at the other end.
    pub(super) peer: SocketAddr,
    /// What it has connected to, where that is known: by a PROXY header, or because servers are told.
    pub(super) local: Cell<Option<SocketAddr>>,
    /// Where the connections of its address are counted.
    place: Option<usize>,
    requests: Cell<u64>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("peer", &self.peer).field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl Entry {
    /// One that no limit counts.
    #[cfg(test)]
    pub(super) fn alone(core: &Rc<Core>) -> Self {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        Self { core: Rc::clone(core), peer, local: Cell::new(None), place: None, requests: Cell::new(0) }
    }

    /// Asks the system, once, what the client has connected to, if there are servers that are told.
    pub(super) fn note_local(&self, socket: &TcpStream) {
        if self.local.get().is_none() && self.core.view().tells_local {
            self.local.set(socket.local_addr().ok());
        }
    }

    /// What is known of the connection, without its place among those that are counted.
    pub(super) fn uncounted(&self) -> Self {
        let (core, local) = (Rc::clone(&self.core), self.local.clone());
        Self { core, peer: self.peer, local, place: None, requests: Cell::new(0) }
    }

    /// Another request has come.
    pub(super) fn count_request(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// Whether the connection has carried as many requests as one may.
    pub(super) fn is_spent(&self, plan: &ListenerPlan) -> bool {
        self.requests.get() >= plan.max_requests_per_connection
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.core.census.leave(place);
        }
    }
}

/// Lets a connection in, unless it is too many or hides who it is: then none, and it is over. The caller
/// has counted it as open.
pub(super) async fn admit(
    core: &Rc<Core>,
    slot: usize,
    mut stream: TcpStream,
    peer: SocketAddr,
) -> Option<(TcpStream, Rc<Entry>)> {
    let most = core.view().max_connections;
    if core.open_connections() > most {
        core.cells().refused_full.inc();
        core.complaints.full.warn(core.now(), |more| {
            warn!(%peer, most, more, "connection closed: as many as `max_connections` are open");
        });
        return None;
    }
    let plan = plan_of(core, slot)?;
    let (peer, local) = match &plan.proxy_protocol {
        Some(expected) if expected.is_expected_from(peer.ip()) => {
            who_is_behind(core, &plan.name, expected, &mut stream, peer).await?
        }
        _ => (peer, None),
    };
    let place = count(core, slot, &plan, peer.ip().to_canonical(), most)?;
    let entry = Entry { core: Rc::clone(core), peer, local: Cell::new(local), place, requests: Cell::new(0) };
    Some((stream, Rc::new(entry)))
}

/// Counts a connection of that client, if its connections are counted. None where it has too many.
fn count(core: &Core, slot: usize, plan: &ListenerPlan, client: IpAddr, most: u64) -> Option<Option<usize>> {
    let limit = plan.max_connections_per_client;
    let is_free = || {
        let mut free = plan.unlimited_clients.iter().chain(&plan.trusted_proxies);
        free.any(|network| network.contains(&client))
    };
    if limit >= most || is_free() {
        return Some(None);
    }
    match core.census.enter(slot, client, limit, most) {
        Counted::At(place) => Some(Some(place)),
        Counted::Not => Some(None),
        Counted::Full => {
            core.cells().refused_client.inc();
            core.complaints.client_limit.warn(core.now(), |more| {
                warn!(listener = plan.name, %client, limit, more, "connection closed: its client has too many");
            });
            None
        }
    }
}

/// The client, as the peer says, and what it has connected to.
async fn who_is_behind(
    core: &Core,
    listener: &str,
    expected: &ProxyProtocolPlan,
    stream: &mut TcpStream,
    peer: SocketAddr,
) -> Option<(SocketAddr, Option<SocketAddr>)> {
    let read = match tokio::time::timeout(expected.timeout, Box::pin(take_header(stream))).await {
        Ok(read) => read,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match read {
        Ok(Header::Proxied { source, destination }) => Some((source, Some(destination))),
        Ok(Header::Local) => Some((peer, None)),
        Err(error) => {
            core.cells().bad_proxy_headers.inc();
            core.complaints.proxy_header.warn(core.now(), |more| {
                warn!(listener, %peer, %error, more, "connection closed: no valid PROXY header");
            });
            None
        }
    }
}

/// Reads one header, and not a byte more.
async fn take_header(stream: &mut TcpStream) -> io::Result<Header> {
    let mut bytes = Vec::with_capacity(PEEK);
    loop {
        let before = bytes.len();
        bytes.resize(before + PEEK, 0);
        let seen = stream.peek(&mut bytes[before..]).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(before + seen);
        let (parsed, ours) = match proxy_protocol::parse(&bytes) {
            // All of it is the header's: taken, or the socket would stay readable and this loop spin.
            Parsed::Partial => (None, bytes.len()),
            Parsed::Complete(header, len) => (Some(header), len),
            Parsed::Invalid(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        };
        stream.read_exact(&mut bytes[before..ours]).await?;
        if let Some(header) = parsed {
            return Ok(header);
        }
    }
}
