//! A spell of HTTP/1 requests: a parser with its buffers runs on the socket until the connection ends, is
//! idle, or switches protocols.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, Connection};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::link::{Conn, Link, Protocol};
use super::{Ended, LINGER, linger, plan_of};
use crate::error::Kind;
use crate::proxy::admit::Entry;
use crate::proxy::answer;
use crate::proxy::body::Body;
use crate::proxy::core::Core;
use crate::proxy::exchange;
use crate::proxy::inbound::Inbound;
use crate::proxy::request::{self, Answering};
use crate::proxy::stream::{Client, Near, Wire};
use crate::proxy::watch::{Alarm, Phase};

/// The most that is read ahead of a body, and so the largest buffer of a client's connection: larger reads
/// make uploads cheaper. Up to four such pieces are on their way to a server that takes nothing: one that is
/// being read, one handed over, and two in its connection's queue.
const READ_AHEAD: usize = 128 * 1024;

/// As many headers the parser takes without memory of their own.
const PARSED_HEADERS: usize = 100;

struct Requests {
    conn: Rc<Conn>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if let Some(wire) = &self.conn.wire {
            wire.begin(request.version() == Version::HTTP_11);
        }
        request::handle(Rc::clone(&self.conn), request.map(Inbound::Http1))
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
pub(super) async fn busy(
    core: &Rc<Core>,
    slot: usize,
    stream: Near,
    rewind: Bytes,
    entry: &Rc<Entry>,
    is_new: bool,
) -> Ended {
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
    let requests = Requests { conn: Rc::clone(&conn) };
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
