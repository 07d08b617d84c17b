//! One client connection: requests in turn, parked in between, closed with care.
//!
//! While requests come, a parser with its buffers runs on the socket. A connection that has been
//! between requests for a second gives both up and waits as a bare socket ("parked"), which is what
//! makes a hundred thousand idle connections cheap.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, Connection};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::admit::{Entry, admit};
use super::answer;
use super::body::Body;
use super::client::Peer;
use super::core::Core;
use super::exchange;
use super::http2;
use super::inbound::Inbound;
use super::request;
use super::stream::{Client, Near, Wire};
use super::tls::{self, Secure};
use super::upgrade::{self, Tunnel};
use super::watch::{Alarm, Phase, Watch};
use crate::config::plan::ListenerPlan;
use crate::error::Kind;
use crate::tls::Server;

/// How long a closed connection is read, so that the client gets the answer before a reset.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it is read.
const LINGER_BYTES: usize = 1 << 20;

/// The most that is read ahead of a body, and so the largest buffer of a client's connection: fewer, larger
/// reads make uploads cheaper.
const READ_AHEAD: usize = 256 * 1024;

/// As many headers the parser takes without memory of their own.
const PARSED_HEADERS: usize = 100;

/// What all requests of one connection share.
pub(super) struct Link {
    pub(super) core: Rc<Core>,
    pub(super) slot: usize,
    pub(super) peer: Peer,
    pub(super) entry: Rc<Entry>,
    pub(super) plan: Arc<ListenerPlan>,
    pub(super) protocol: Protocol,
    /// None in clear.
    pub(super) secure: Option<Rc<Secure>>,
}

impl Link {
    /// Whether the connection is to end when what it carries now has: it has carried as many requests as
    /// one may, its listener was removed or is secured in another way now, or the process stops.
    pub(super) fn is_ending(&self) -> bool {
        let secure = self.secure.as_deref();
        self.entry.is_spent(&self.plan)
            || self.core.is_leaving(self.slot)
            || !self.core.with_listener(self.slot, |plan| tls::is_as_agreed(plan, secure))
    }
}

/// What a client's connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// What requests are served in, one at a time: an HTTP/1 connection, or one stream of an HTTP/2
/// connection.
pub(super) struct Conn {
    pub(super) link: Rc<Link>,
    pub(super) watch: Rc<Watch>,
    /// Set by the request that switched protocols.
    pub(super) tunnel: RefCell<Option<Tunnel>>,
    /// Whether the last request was answered before the end of its body, so that what comes next may
    /// be the rest of it.
    pub(super) linger: Cell<bool>,
    /// What interim answers come by; of an HTTP/1 connection also what its stream and its parser share.
    pub(super) wire: Option<Rc<Wire>>,
}

impl Link {
    fn new(
        core: &Rc<Core>,
        slot: usize,
        entry: &Rc<Entry>,
        plan: &Arc<ListenerPlan>,
        protocol: Protocol,
        secure: Option<Rc<Secure>>,
    ) -> Self {
        let (core, entry, plan) = (Rc::clone(core), Rc::clone(entry), Arc::clone(plan));
        Self { core, slot, peer: Peer::new(entry.peer), entry, plan, protocol, secure }
    }

    /// The same for requests that may outlive the connection, and do not keep its place.
    pub(super) fn aside(&self) -> Self {
        let entry = Rc::new(self.entry.uncounted());
        Self::new(&self.core, self.slot, &entry, &self.plan, self.protocol, self.secure.clone())
    }
}

impl Deref for Conn {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Conn {
    pub(super) fn new(link: &Rc<Link>, watch: &Rc<Watch>) -> Self {
        Self {
            link: Rc::clone(link),
            watch: Rc::clone(watch),
            tunnel: RefCell::new(None),
            linger: Cell::new(false),
            wire: None,
        }
    }

    /// The exchange is over; the next request may come.
    pub(super) fn idle(&self) {
        // What came up for the exchange that is over must not meet the next one.
        self.watch.take_alarm();
        self.watch.limit_total(None, false);
        match self.protocol {
            Protocol::Http1 => self.watch.enter(Phase::Idle, self.core.clock.get(), self.plan.idle_timeout),
            // A stream has no next request: its client has to take what is left.
            Protocol::Http2 => self.watch.enter(Phase::Flush, self.core.clock.get(), self.plan.between_bytes),
        }
    }
}

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
        match Box::pin(busy(&core, slot, stream, rewind, &entry, is_new)).await {
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

struct Requests {
    conn: Rc<Conn>,
    wire: Rc<Wire>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (conn, wire) = (Rc::clone(&self.conn), Rc::clone(&self.wire));
        wire.begin(request.version() == Version::HTTP_11);
        Box::pin(async move {
            let response = request::handle(conn, request.map(Inbound::Http1)).await;
            wire.answer();
            Ok(response)
        })
    }
}

type Parser = Connection<TokioIo<Client>, Requests>;

/// Why a spell of requests stops being polled.
enum Stop {
    Done(hyper::Result<()>),
    /// What the client sends next is refused.
    Refused(Kind),
    /// The head did not arrive in time.
    HeadLate,
    /// The client did not take its answer, or its server was cut meanwhile.
    Abandon,
}

/// Serves requests until the connection ends, is idle, or switches protocols.
async fn busy(core: &Rc<Core>, slot: usize, stream: Near, rewind: Bytes, entry: &Rc<Entry>, is_new: bool) -> Ended {
    let Some(plan) = plan_of(core, slot) else { return Ended::Closed };
    let watched = core.watches.add(core.now(), plan.idle_timeout);
    watched.watch.set_pace(plan.min_rate, plan.between_bytes);
    core.wake_ticker();
    let wire = Rc::new(Wire::default());
    let secure = stream.secure();
    let client = Client::new(stream, rewind, core, &watched.watch, &wire, &plan, is_new);
    let link = |protocol| Rc::new(Link::new(core, slot, entry, &plan, protocol, secure.clone()));
    let conn = Rc::new(Conn { wire: Some(Rc::clone(&wire)), ..Conn::new(&link(Protocol::Http1), &watched.watch) });
    let mut builder = Builder::new();
    builder.max_buf_size(plan.max_header_bytes.max(READ_AHEAD)).max_header_size(plan.max_header_bytes);
    if plan.max_headers > PARSED_HEADERS {
        builder.max_headers(plan.max_headers);
    }
    let requests = Requests { conn: Rc::clone(&conn), wire: Rc::clone(&wire) };
    let mut parser = builder.serve_connection(TokioIo::new(client), requests);
    let mut parking = None;
    let stop = poll_fn(|cx| poll_parser(&mut parser, &conn, &wire, &mut parking, cx)).await;
    let parts = parser.into_parts();
    let mut client = parts.io.into_inner();
    let (is_http2, untouched) = (client.take_http2(), client.is_untouched());
    let (mut stream, held) = client.into_parts();
    drop(parts.service);
    if let Some(read) = is_http2 {
        return Ended::Http2(Box::new((link(Protocol::Http2), stream, read)));
    }
    let read = if held.is_empty() { parts.read_buf } else { [parts.read_buf, held].concat().into() };
    let tunnel = conn.tunnel.borrow_mut().take();
    if let Some(tunnel) = tunnel {
        return Ended::Tunnel(Box::new((stream, read, tunnel)));
    }
    match stop {
        Stop::Done(Ok(())) => {
            if let Some(since) = parking {
                return Ended::Idle(stream, read, since, untouched);
            }
            if conn.linger.get() {
                linger(&mut stream).await;
            }
        }
        Stop::Done(Err(error)) => {
            if error.is_parse() || error.is_parse_too_large() {
                if wire.is_between() {
                    refuse(&conn, &mut stream, unread(&error)).await;
                } else {
                    // Behind an answer that was not taken yet the parser's own went out.
                    exchange::refused_unread(&conn, unread(&error), None, 0);
                    linger(&mut stream).await;
                }
            } else {
                reset(&stream);
            }
        }
        Stop::Refused(kind) => refuse(&conn, &mut stream, kind).await,
        Stop::HeadLate => refuse(&conn, &mut stream, Kind::HeaderTimeout).await,
        Stop::Abandon => reset(&stream),
    }
    Ended::Closed
}

/// Answers what never became a request, and closes.
async fn refuse(conn: &Conn, stream: &mut Near, kind: Kind) {
    let id = conn.plan.request_id.then(|| conn.core.ids.make());
    let answer = answer::unread(kind, id.as_ref());
    exchange::refused_unread(conn, kind, id.as_ref(), answer.body);
    // Whoever takes nothing of it is not waited for.
    if let Ok(Ok(())) = tokio::time::timeout(LINGER, stream.write_all(&answer.bytes)).await {
        linger(stream).await;
    }
}

/// What the parser found wrong with a head.
fn unread(error: &hyper::Error) -> Kind {
    match error.is_parse_too_large() {
        // The two differ in their words alone.
        true if error.to_string().contains("URI") => Kind::UriTooLong,
        true => Kind::HeadersTooLarge,
        false => Kind::BadRequest,
    }
}

/// Polls the parser, after dealing with what has come up from outside.
fn poll_parser(
    parser: &mut Parser,
    conn: &Conn,
    wire: &Wire,
    parking: &mut Option<Instant>,
    cx: &mut Context<'_>,
) -> Poll<Stop> {
    let watch = &conn.watch;
    watch.set_waker(cx.waker());
    if wire.is_overrun() {
        watch.overrun();
    }
    match (watch.phase(), watch.alarm()) {
        (_, None) => {}
        // What is still to come belongs to a body that nobody wants: another parser, or a 408, would
        // take it for the next request.
        (Phase::Idle, Some(Alarm::Park)) if conn.linger.get() => {
            watch.take_alarm();
        }
        (Phase::Idle | Phase::Head, Some(_)) if conn.linger.get() => return Poll::Ready(Stop::Done(Ok(()))),
        (Phase::Idle, Some(alarm)) => {
            watch.take_alarm();
            // A request may have arrived that the parser has not seen.
            if let Poll::Ready(stop) = drive(parser, wire, cx) {
                return Poll::Ready(stop);
            }
            if watch.phase() != Phase::Idle {
                return Poll::Pending;
            }
            if alarm == Alarm::Park {
                *parking = Some(watch.since());
            }
            if alarm == Alarm::Deadline {
                conn.core.cells().idle_closed.inc();
            }
            // What is still to be flushed has to be taken in time, too.
            watch.enter(Phase::ClientWrite, conn.core.clock.get(), conn.plan.between_bytes);
            Pin::new(&mut *parser).graceful_shutdown();
        }
        (_, Some(Alarm::Park | Alarm::Close)) => {
            // A request came at the same moment.
            watch.take_alarm();
        }
        (Phase::Head, Some(_)) => return Poll::Ready(Stop::HeadLate),
        (Phase::ClientWrite | Phase::Flush, Some(_)) => return Poll::Ready(Stop::Abandon),
        // The request that runs takes it.
        (_, Some(_)) => {}
    }
    drive(parser, wire, cx)
}

/// Polls the parser, again where what was kept from it no longer needs to be. It ends when everything is
/// written; the socket stays open.
fn drive(parser: &mut Parser, wire: &Wire, cx: &mut Context<'_>) -> Poll<Stop> {
    loop {
        let polled = Pin::new(&mut *parser).poll(cx).map(Stop::Done);
        if polled.is_ready() || !wire.take_stall() {
            return polled;
        }
        if let Some(refusal) = wire.refusal() {
            return Poll::Ready(Stop::Refused(refusal.kind));
        }
    }
}

/// Has the connection reset instead of ended, because its answer broke off: for an HTTP/1.0 client,
/// whose answers have no other end, a proper one would make it complete.
fn reset(stream: &Near) {
    // Where it fails the connection is gone already.
    let _ = stream.set_zero_linger();
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
    fn what_came_up_for_an_exchange_that_is_over_does_not_meet_the_next() {
        let core = Rc::new(core());
        let plan = Arc::new(ListenerPlan::example());
        let entry = Rc::new(Entry::alone(&core));
        let (watches, now) = (Rc::clone(&core.watches), core.now());
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let watched = watches.add(now, plan.idle_timeout);
            let link = Rc::new(Link::new(&core, 0, &entry, &plan, protocol, None));
            let conn = Conn::new(&link, &watched.watch);
            watched.watch.limit_total(Some(now), false);
            watched.watch.enter(Phase::FirstByte, now, Duration::ZERO);
            watches.look(now + Duration::from_secs(1), None);
            assert!(watched.watch.alarm().is_some(), "it was raised while the exchange ran");
            conn.idle();
            assert_eq!((watched.watch.alarm(), watched.watch.fault()), (None, None));
            watched.watch.enter(Phase::FirstByte, now, Duration::from_secs(9));
            watches.look(now + Duration::from_secs(1), None);
            assert_eq!(watched.watch.alarm(), None, "nor does the end of the whole request");
        }
    }

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
