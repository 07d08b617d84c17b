//! WebSockets and every other `Upgrade`: a handshake over HTTP, then bytes both ways.
//!
//! A tunnel is counted by its claim like any request, so it holds up a drain until it ends or is cut.
//! Its bytes go through one buffer per core: an idle tunnel owns none. Of a WebSocket the ends of frames
//! are noted, so that it can be closed between two of them ([`super::websocket`]).

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::{Flow, RequestBody};
use super::connection::Conn;
use super::core::{Core, CoreClaim};
use super::exchange::Exchange;
use super::fault;
use super::forward::{self, Failure};
use super::headers::has_token;
use super::pool::{self, Driver, Lease, Line};
use super::server_body::ServerBody;
use super::tunnels::Entry;
use super::watch::{FOREVER, Phase};
use super::websocket::{self, Frames};
use crate::config::plan::{DrainPlan, UpstreamPlan};
use crate::error::{Kind, ProxyError, Sent};
use crate::server_stream::ServerStream;

/// Bytes moved at a time.
const CHUNK: usize = 64 * 1024;

thread_local! {
    static CHUNK_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Lends the buffer of this core.
pub(super) fn with_chunk<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    CHUNK_BUFFER.with_borrow_mut(|chunk| f(chunk))
}

/// The answer to an upgrade request.
pub(super) enum Answer {
    /// The server does not switch: an ordinary answer.
    Ordinary(Response<ServerBody>, Lease),
    /// 101: from here on the bytes are not HTTP.
    Switched(Response<ServerBody>, Far),
}

/// The server's end of a tunnel.
pub(super) struct Far {
    stream: ServerStream,
    read: Bytes,
}

/// A tunnel waiting for the client's parser to let go of its socket.
pub(super) struct Tunnel {
    pub(super) far: Far,
    pub(super) exchange: Box<Exchange>,
    pub(super) is_web_socket: bool,
}

/// The protocol that a request asks to switch to (RFC 9110 §7.8), if it does.
pub(super) fn asks<B>(request: &Request<B>) -> Option<HeaderValue> {
    let protocol = request.headers().get(header::UPGRADE)?;
    let nominated = has_token(request.headers().get_all(header::CONNECTION), "upgrade");
    // Through a tunnel, h2c would take requests past the routes; RFC 9113 §3.1 has given it up.
    let is_h2c = has_token([protocol], "h2c");
    (nominated && !is_h2c && request.version() == http::Version::HTTP_11).then(|| protocol.clone())
}

/// Sends the upgrade request of `client` that is in `place` over a connection of its own.
pub(super) async fn send(
    conn: &Conn,
    plan: &UpstreamPlan,
    claim: &CoreClaim,
    place: &mut Option<Request<RequestBody>>,
    flow: Option<&Flow>,
    protocol: &HeaderValue,
    client: IpAddr,
) -> Result<Answer, Failure> {
    let outings = claim.server().outings();
    let introduction = forward::introduction(conn, plan, client);
    let stream = match forward::connect(conn, plan, claim, introduction).await {
        Ok(stream) => stream,
        Err(error) => return Err(Failure::Returned(error)),
    };
    let (mut line, mut driver) = match pool::handshake(stream, plan, conn.core.now(), outings).await {
        Ok(pair) => pair,
        Err(error) => {
            let error = ProxyError::new(Kind::ConnectFailed).because(error);
            return Err(Failure::Returned(error));
        }
    };
    let Some(mut request) = place.take() else { return Err(Failure::none()) };
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(header::UPGRADE, protocol.clone());
    conn.watch.enter(Phase::FirstByte, conn.core.clock.get(), forward::first_byte(plan));
    let shaken = forward::guarded(&conn.watch, pin!(shake(&mut line, &mut driver, request, flow))).await;
    let response = match shaken {
        Ok(Ok(response)) => response.map(ServerBody::Http1),
        Ok(Err(error)) => {
            if conn.watch.blames_server(error.kind) {
                fault::failed(&conn.core, plan, claim);
            }
            return Err(Failure::Lost { error, stale: false });
        }
        Err(kind) => {
            if conn.watch.blames_server(kind) {
                fault::failed(&conn.core, plan, claim);
            }
            return Err(Failure::Lost { error: ProxyError::sent(kind, Sent::Maybe), stale: false });
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        tokio::task::spawn_local(async move {
            let _ = driver.await;
        });
        return Ok(Answer::Ordinary(response, Lease::Http1(line)));
    }
    let same = response.headers().get(header::UPGRADE).is_some_and(|answered| {
        answered
            .as_bytes()
            .split(|b| *b == b',')
            .all(|a| has_token([protocol], &String::from_utf8_lossy(a.trim_ascii())))
    });
    if !same {
        let error =
            ProxyError::sent(Kind::BadAnswer, Sent::Answered).because("switched to a protocol nobody asked for");
        return Err(Failure::Lost { error, stale: false });
    }
    let parts = driver.into_parts();
    Ok(Answer::Switched(response, Far { stream: parts.io.into_inner(), read: parts.read_buf }))
}

/// Drives the connection until the head of the answer is there, and for a 101 until the parser is done.
async fn shake(
    line: &mut Line,
    driver: &mut Driver,
    request: Request<RequestBody>,
    flow: Option<&Flow>,
) -> Result<Response<Incoming>, ProxyError> {
    let mut answer = pin!(line.sender.try_send_request(request));
    let mut response = None;
    poll_fn(|cx| {
        let driven = driver.poll_without_shutdown(cx);
        if response.is_none()
            && let Poll::Ready(answered) = answer.as_mut().poll(cx)
        {
            let answered = answered.map_err(|refused| forward::lost(refused.into_error(), flow))?;
            if answered.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Ok(answered));
            }
            response = Some(answered);
        }
        match (driven, response.take()) {
            (Poll::Ready(Ok(())), Some(answered)) => Poll::Ready(Ok(answered)),
            (Poll::Ready(Ok(())), None) => Poll::Ready(Err(ProxyError::sent(Kind::Reset, Sent::Maybe))),
            (Poll::Ready(Err(error)), _) => Poll::Ready(Err(forward::lost(error, flow))),
            (Poll::Pending, answered) => {
                response = answered;
                Poll::Pending
            }
        }
    })
    .await
}

/// The 101 for the client.
pub(super) fn accept(response: &mut http::response::Parts, protocol: Option<HeaderValue>) {
    response.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        response.headers.insert(header::UPGRADE, protocol);
    }
}

/// A tunnel in its core's list while it is open.
struct Listed<'a> {
    core: &'a Core,
    entry: Rc<Entry>,
    claim: &'a CoreClaim,
}

impl<'a> Listed<'a> {
    fn new(core: &'a Core, claim: &'a CoreClaim, closes: Option<DrainPlan>) -> Self {
        claim.cell().counts.tunnels.inc();
        Self { core, entry: core.tunnels.add(claim.server().uid, closes), claim }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.claim.cell().counts.tunnels.dec();
        self.core.tunnels.remove(&self.entry);
    }
}

/// How a tunnel has ended.
enum Outcome {
    /// By one of its sides, properly or not.
    Ended,
    /// With a close frame for both.
    Closed,
    Failed(Kind),
}

/// Moves bytes both ways until both sides have ended, one fails, the tunnel is idle for too long, or
/// it is told to end.
pub(super) async fn run<N: AsyncRead + AsyncWrite + Unpin>(mut near: N, near_read: Bytes, tunnel: Tunnel) {
    let Tunnel { mut far, mut exchange, is_web_socket } = tunnel;
    exchange.is_tunnel = true;
    let core = Rc::clone(&exchange.conn.core);
    let plan = exchange.upstream_plan().map(|plan| (plan.timeouts, plan.drain));
    let (idle, half_closed) = plan.map_or((FOREVER, FOREVER), |(t, _)| (t.tunnel_idle, t.tunnel_half_closed));
    let closes = plan.filter(|_| is_web_socket).map(|(_, drain)| drain);
    let (mut up, mut down) = (Half::new(&near_read, is_web_socket), Half::new(&far.read, is_web_socket));
    let outcome = {
        let Some(claim) = &exchange.claim else { return };
        let listed = Listed::new(&core, claim, closes);
        let mut active = Instant::now();
        let mut limited = idle;
        let mut timer = pin!(tokio::time::sleep(idle));
        let moving = poll_fn(|cx| {
            let before = up.bytes + down.bytes;
            let ended = poll_both(&mut near, &mut far.stream, &mut up, &mut down, cx);
            if up.bytes + down.bytes != before {
                active = Instant::now();
            }
            if ended.is_ready() {
                return Poll::Ready(Outcome::Ended);
            }
            let limit = if up.closed || down.closed { idle.min(half_closed) } else { idle };
            if limit != limited {
                limited = limit;
                timer.as_mut().reset((active + limit).into());
            }
            while timer.as_mut().poll(cx).is_ready() {
                let quiet = active.elapsed();
                if quiet >= limit {
                    return Poll::Ready(Outcome::Failed(Kind::BetweenBytesTimeout));
                }
                timer.as_mut().reset((active + limit).into());
            }
            Poll::Pending
        });
        let told = tokio::select! {
            biased;
            outcome = moving => Err(outcome),
            by = listed.entry.due() => Ok(by),
        };
        match told {
            Err(outcome) => outcome,
            Ok(_) if !is_web_socket => Outcome::Failed(Kind::Cut),
            Ok(by) => {
                let told = tokio::select! {
                    biased;
                    told = websocket::close(&mut near, &mut far.stream, &mut up, &mut down, by) => told,
                    () = listed.entry.cut() => up.is_told() && down.is_told(),
                };
                if told { Outcome::Closed } else { Outcome::Failed(Kind::Cut) }
            }
        }
    };
    (exchange.bytes_in, exchange.bytes_out) = (up.bytes, down.bytes);
    match outcome {
        Outcome::Failed(kind) => {
            exchange.cut_short(kind);
        }
        Outcome::Closed => {
            if let Some(claim) = &exchange.claim {
                claim.cell().counts.websockets_closed.inc();
            }
            exchange.finish();
        }
        Outcome::Ended => exchange.finish(),
    }
}

/// One direction.
pub(super) struct Half {
    /// Read and not yet written.
    pub(super) pending: BytesMut,
    pub(super) ended: bool,
    pub(super) closed: bool,
    pub(super) bytes: u64,
    /// Of a WebSocket: where its frames end, of all that was read.
    pub(super) frames: Option<Frames>,
    /// Whether the last frame that is sent this way, a close frame, was made or has passed.
    pub(super) told: bool,
}

impl Half {
    pub(super) fn new(read: &[u8], is_web_socket: bool) -> Self {
        let mut frames = is_web_socket.then(Frames::default);
        if let Some(frames) = &mut frames {
            frames.follow(read);
        }
        let pending = BytesMut::from(read);
        Self { bytes: read.len() as u64, pending, ended: false, closed: false, frames, told: false }
    }

    /// Whether the other side has got its last frame.
    pub(super) fn is_told(&self) -> bool {
        self.told && self.pending.is_empty()
    }
}

fn poll_both<N: AsyncRead + AsyncWrite + Unpin>(
    near: &mut N,
    far: &mut ServerStream,
    up: &mut Half,
    down: &mut Half,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let first = poll_half(near, far, up, cx);
    let second = poll_half(far, near, down, cx);
    match (first, second) {
        (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) | (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
            Poll::Ready(())
        }
        _ => Poll::Pending,
    }
}

fn poll_half<R, W>(from: &mut R, to: &mut W, half: &mut Half, cx: &mut Context<'_>) -> Poll<std::io::Result<()>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if half.closed {
        return Poll::Ready(Ok(()));
    }
    loop {
        ready!(poll_written(to, half, cx))?;
        if half.ended {
            ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
            half.closed = true;
            return Poll::Ready(Ok(()));
        }
        ready!(CHUNK_BUFFER.with_borrow_mut(|chunk| poll_move(from, to, half, chunk, cx)))?;
    }
}

/// Writes what was kept.
pub(super) fn poll_written<W>(to: &mut W, half: &mut Half, cx: &mut Context<'_>) -> Poll<std::io::Result<()>>
where
    W: AsyncWrite + Unpin,
{
    while !half.pending.is_empty() {
        let written = ready!(Pin::new(&mut *to).poll_write(cx, &half.pending))?;
        if written == 0 {
            return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
        }
        half.pending.advance(written);
    }
    half.pending = BytesMut::new();
    // TLS may hold back what it has taken.
    Pin::new(to).poll_flush(cx)
}

/// Reads once and writes what was read; the rest is kept.
fn poll_move<R, W>(
    from: &mut R,
    to: &mut W,
    half: &mut Half,
    chunk: &mut [u8],
    cx: &mut Context<'_>,
) -> Poll<std::io::Result<()>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut read = ReadBuf::new(chunk);
    ready!(Pin::new(from).poll_read(cx, &mut read))?;
    let filled = read.filled();
    half.bytes += filled.len() as u64;
    if filled.is_empty() {
        half.ended = true;
        return Poll::Ready(Ok(()));
    }
    if let Some(frames) = &mut half.frames {
        frames.follow(filled);
    }
    let written = match Pin::new(to).poll_write(cx, filled) {
        Poll::Ready(written) => written?,
        Poll::Pending => 0,
    };
    half.pending.extend_from_slice(&filled[written..]);
    Poll::Ready(Ok(()))
}
