//! HTTP/2 connections to servers, per core, each shared by many requests.
//!
//! Requests go to the oldest connection that has room, so that the others fall idle and go. A
//! connection has room for as many requests as its server allows, which is known before the first one
//! is sent, and for no more than the configuration says. While one is being opened, requests that
//! would fit on it wait for it instead of opening their own.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong};
use hashbrown::HashMap;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::{Security, is_out, is_secured};
use crate::config::plan::{Http2, UpstreamPlan};
use crate::error::Kind;
use crate::proxy::core::View;
use crate::server_stream::ServerStream;
use crate::upstream::Server;

/// What one answer may have on its way to us. RFC 9113's 64 KiB would make distant servers slow.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The most of a request's body that waits for its server.
const SEND_BUFFER: usize = 256 * 1024;
/// The largest head of an answer.
const HEADER_LIST: u32 = 64 * 1024;
/// Until a server has told its limits: no number that it could tell.
const UNTOLD: usize = usize::MAX - 1;
/// A server that does not answer a ping for this long is gone.
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// Whether the server was asked for a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    None,
    /// To be sent. `suspect`: a request has waited in vain, so no further one is sent before the answer.
    Wanted {
        suspect: bool,
    },
    Sent {
        suspect: bool,
        at: Instant,
    },
}

/// A connection that requests share.
#[derive(Debug)]
struct Shared {
    /// None once no further request may be sent.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// The task that drives it.
    driver: RefCell<Option<Waker>>,
    /// Requests that are on it now.
    streams: Cell<usize>,
    /// Requests at once that the server allows.
    allowed: Cell<usize>,
    requests: Cell<u64>,
    born: Instant,
    /// When its last request ended.
    since: Cell<Instant>,
    /// When the server was last known to be there.
    heard: Cell<Instant>,
    /// [`Server::outings`] before it was opened.
    outings: u32,
    tls: Security,
    probe: Cell<Probe>,
    killed: Cell<bool>,
}

impl Shared {
    fn has_room(&self, server: &Server, plan: &UpstreamPlan, http2: &Http2, now: Instant) -> bool {
        let suspect = matches!(self.probe.get(), Probe::Wanted { suspect: true } | Probe::Sent { suspect: true, .. });
        !suspect
            && self.sender.borrow().is_some()
            && self.streams.get() < self.allowed.get().min(http2.max_streams as usize)
            && self.requests.get() < plan.pool.max_requests
            && now.duration_since(self.born) < plan.pool.max_age
            && self.outings == server.outings()
            && is_secured(&self.tls, plan)
    }

    /// Takes no further request; it is closed when those on it have ended.
    fn retire(&self) {
        drop(self.sender.take());
        self.wake();
    }

    fn kill(&self) {
        self.killed.set(true);
        self.retire();
    }

    fn ask(&self, suspect: bool) {
        let probe = match self.probe.get() {
            Probe::None => Probe::Wanted { suspect },
            Probe::Wanted { suspect: before } => Probe::Wanted { suspect: before || suspect },
            Probe::Sent { suspect: before, at } => Probe::Sent { suspect: before || suspect, at },
        };
        self.probe.set(probe);
        self.wake();
    }

    fn wake(&self) {
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    /// Sends the ping that is wanted and takes the answer.
    fn probe(&self, pings: &mut PingPong, cx: &mut std::task::Context<'_>) {
        if let Probe::Wanted { suspect } = self.probe.get()
            && pings.send_ping(Ping::opaque()).is_ok()
        {
            self.probe.set(Probe::Sent { suspect, at: Instant::now() });
        }
        if matches!(self.probe.get(), Probe::Sent { .. }) && pings.poll_pong(cx).is_ready() {
            self.probe.set(Probe::None);
            self.heard.set(Instant::now());
        }
    }
}

/// One request's place on a connection. Dropping it frees the place; what of the request is still
/// under way is reset.
#[derive(Debug)]
pub(in crate::proxy) struct Place {
    shared: Rc<Shared>,
    /// The number of this request on its connection, from 1.
    number: u64,
    /// Sends the rest of the request's body.
    sending: Option<AbortHandle>,
}

impl Place {
    fn take(shared: &Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        shared.requests.set(shared.requests.get() + 1);
        Self { shared: Rc::clone(shared), number: shared.requests.get(), sending: None }
    }

    /// Whether the connection carried a request before.
    pub(in crate::proxy) fn is_reused(&self) -> bool {
        self.number > 1
    }

    /// The sender of the connection, unless it was closed meanwhile.
    pub(in crate::proxy) fn sender(&self) -> Option<SendRequest<Bytes>> {
        self.shared.sender.borrow().clone()
    }

    /// The server sent nothing for too long: whether it is still there decides about further requests.
    pub(in crate::proxy) fn suspect(&self) {
        self.shared.ask(true);
    }

    /// The rest of the body is sent by this task, for no longer than the place is held.
    pub(in crate::proxy) fn sends_by(&mut self, task: AbortHandle) {
        self.sending = Some(task);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(task) = &self.sending {
            task.abort();
        }
        self.shared.streams.set(self.shared.streams.get() - 1);
        if self.shared.streams.get() == 0 {
            self.shared.since.set(Instant::now());
        }
    }
}

/// A connection that is being opened, and those who wait for it.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Opening {
    /// Requests that wait for it, with the one that opens it.
    waiting: Cell<usize>,
    outcome: Cell<Option<Result<(), Kind>>>,
    told: Notify,
}

impl Opening {
    /// Waits until it is open, or given up: then it is time to look again.
    pub(in crate::proxy) async fn wait(&self) -> Result<(), Kind> {
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome;
            }
            // Nothing can come between the look above and the first poll of this: the core is one thread.
            self.told.notified().await;
        }
    }
}

/// Held by the request that opens a connection. One that is dropped without an outcome, because its
/// client left, lets the others try.
#[derive(Debug)]
pub(in crate::proxy) struct Opener {
    opening: Rc<Opening>,
    uid: u32,
    groups: Rc<RefCell<Groups>>,
}

impl Opener {
    /// It could not be opened.
    pub(in crate::proxy) fn fail(self, kind: Kind) {
        self.opening.outcome.set(Some(Err(kind)));
    }

    /// It is open: adds it to the pool and takes the first place on it.
    pub(in crate::proxy) fn opened(self, open: Open) -> Place {
        let Open { sender, connection, allowed, outings, tls } = open;
        let now = Instant::now();
        let shared = Rc::new(Shared {
            sender: RefCell::new(Some(sender)),
            driver: RefCell::new(None),
            streams: Cell::new(0),
            allowed: Cell::new(allowed),
            requests: Cell::new(0),
            born: now,
            since: Cell::new(now),
            heard: Cell::new(now),
            outings,
            tls,
            probe: Cell::new(Probe::None),
            killed: Cell::new(false),
        });
        let place = Place::take(&shared);
        tokio::task::spawn_local(drive(Rc::clone(&shared), connection));
        self.groups.borrow_mut().entry(self.uid).or_default().open.push(shared);
        self.opening.outcome.set(Some(Ok(())));
        place
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        if let Some(group) = self.groups.borrow_mut().get_mut(&self.uid) {
            group.opening.retain(|opening| !Rc::ptr_eq(opening, &self.opening));
        }
        if self.opening.outcome.get().is_none() {
            self.opening.outcome.set(Some(Ok(())));
        }
        self.opening.told.notify_waiters();
    }
}

/// What a request gets that asks for a place.
pub(in crate::proxy) enum Turn {
    Place(Place),
    Wait(Rc<Opening>),
    Open(Opener),
}

#[derive(Debug, Default)]
struct Group {
    open: Vec<Rc<Shared>>,
    opening: Vec<Rc<Opening>>,
}

type Groups = HashMap<u32, Group, foldhash::fast::RandomState>;

/// The HTTP/2 connections of one core, by server uid.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Connections {
    groups: Rc<RefCell<Groups>>,
}

impl Connections {
    /// A place on a connection to `server`, or what to do to get one. `fresh` asks for a connection that
    /// carried no request before.
    pub(in crate::proxy) fn turn(
        &self,
        server: &Server,
        plan: &UpstreamPlan,
        http2: &Http2,
        now: Instant,
        fresh: bool,
    ) -> Turn {
        let mut groups = self.groups.borrow_mut();
        let group = groups.entry(server.uid).or_default();
        if !fresh {
            if let Some(shared) = group.open.iter().find(|shared| shared.has_room(server, plan, http2, now)) {
                return Turn::Place(Place::take(shared));
            }
            let fits = |opening: &&Rc<Opening>| opening.waiting.get() < http2.max_streams as usize;
            if let Some(opening) = group.opening.iter().find(fits) {
                opening.waiting.set(opening.waiting.get() + 1);
                return Turn::Wait(Rc::clone(opening));
            }
        }
        let opening = Rc::new(Opening { waiting: Cell::new(1), ..Opening::default() });
        group.opening.push(Rc::clone(&opening));
        Turn::Open(Opener { opening, uid: server.uid, groups: Rc::clone(&self.groups) })
    }

    /// Closes connections to servers other than `known`, which is sorted.
    pub(super) fn keep_only(&self, known: &[u32]) {
        self.groups.borrow_mut().retain(|uid, group| {
            let keep = known.binary_search(uid).is_ok();
            if !keep {
                group.open.drain(..).for_each(|shared| shared.retire());
            }
            keep || !group.opening.is_empty()
        });
    }

    /// Closes connections that are too old, were idle for too long or are too many, and those whose
    /// server does not answer; asks servers for a sign of life.
    pub(super) fn expire(&self, now: Instant, view: &View, room: usize, core: usize) {
        let mut groups = self.groups.borrow_mut();
        for upstream in &view.upstreams {
            let (plan, http2) = (&upstream.plan.pool, upstream.plan.protocol.http2());
            for server in &upstream.servers {
                let Some(group) = groups.get_mut(&server.uid) else { continue };
                let room = plan.max_idle.div_ceil(room);
                let mut idle = 0;
                group.open.retain(|shared| {
                    let is_idle = shared.streams.get() == 0;
                    idle += usize::from(is_idle);
                    let over = now.duration_since(shared.born) >= plan.max_age
                        || shared.requests.get() >= plan.max_requests
                        || is_idle && (idle > room || now.duration_since(shared.since.get()) >= plan.idle_timeout)
                        || http2.is_none()
                        || !is_secured(&shared.tls, &upstream.plan)
                        || is_out(server);
                    let silent =
                        matches!(shared.probe.get(), Probe::Sent { at, .. } if now.duration_since(at) >= PONG_WITHIN);
                    match http2.and_then(|http2| http2.ping.0) {
                        Some(ping) if now.duration_since(shared.heard.get()) >= ping => shared.ask(false),
                        _ => {}
                    }
                    if silent {
                        shared.kill();
                    } else if over {
                        shared.retire();
                    }
                    // One that was retired is kept until it is closed, so that its server's silence is noticed.
                    shared.sender.borrow().is_some() || shared.streams.get() > 0 && !silent
                });
                server.cells[core].counts.idle.set(group.open.iter().filter(|s| s.streams.get() == 0).count() as u64);
            }
        }
    }
}

/// A new connection whose server has told its limits.
pub(in crate::proxy) struct Open {
    sender: SendRequest<Bytes>,
    connection: Connection<ServerStream, Bytes>,
    allowed: usize,
    outings: u32,
    tls: Security,
}

/// Speaks HTTP/2 on a new connection and waits for the server's first SETTINGS: without them a request
/// could be one too many, and a server that speaks something else would get it.
pub(in crate::proxy) async fn handshake(
    stream: ServerStream,
    plan: &UpstreamPlan,
    http2: &Http2,
    outings: u32,
) -> Result<Open, h2::Error> {
    // A client that takes its answer slowly must not hold up the others on the connection.
    let window = u64::from(STREAM_WINDOW) * u64::from(http2.max_streams);
    let (sender, mut connection) = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(UNTOLD)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window.min((1 << 31) - 1) as u32)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST)
        .handshake(stream)
        .await?;
    let allowed = poll_fn(|cx| {
        let driven = Pin::new(&mut connection).poll(cx);
        match connection.max_concurrent_send_streams() {
            UNTOLD => driven.map(|ended| Err(ended.err())),
            allowed => Poll::Ready(Ok(allowed)),
        }
    })
    .await
    .map_err(|error| error.unwrap_or_else(|| h2::Reason::NO_ERROR.into()))?;
    let tls = plan.tls.as_ref().map(|tls| Arc::clone(&tls.client));
    Ok(Open { sender, connection, allowed, outings, tls })
}

/// Moves the bytes of a connection until it is closed.
async fn drive(shared: Rc<Shared>, mut connection: Connection<ServerStream, Bytes>) {
    let mut pings = connection.ping_pong();
    poll_fn(|cx| {
        if shared.killed.get() {
            return Poll::Ready(());
        }
        if shared.driver.borrow().as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *shared.driver.borrow_mut() = Some(cx.waker().clone());
        }
        if let Some(pings) = &mut pings {
            shared.probe(pings, cx);
        }
        let driven = Pin::new(&mut connection).poll(cx);
        shared.allowed.set(connection.max_concurrent_send_streams());
        // After a GOAWAY no further stream can be opened; those that are open go on.
        let leaving =
            shared.sender.borrow_mut().as_mut().is_some_and(|s| matches!(s.poll_ready(cx), Poll::Ready(Err(_))));
        if leaving {
            shared.retire();
        }
        driven.map(drop)
    })
    .await;
    drop(shared.sender.take());
}
