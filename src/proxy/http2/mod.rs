//! HTTP/2 with clients (RFC 9113): one connection, many requests at a time.
//!
//! The h2 library speaks the protocol; this room gives every stream a [`Conn`] of its own, so that a
//! request is served by the same story as one of HTTP/1. Nothing is kept of a body but what the
//! client's window lets through: an answer is handed to the library only as far as the client takes it,
//! and an upload is taken from it only as fast as the server does.

mod convert;
mod date;
mod meter;
mod stream;
mod tunnel;
mod wire;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

pub(super) use self::convert::{connect_to_upgrade, settle};
use self::meter::Meter;
use self::wire::Wire;
use super::connection::{Conn, Link};
use super::core::Core;
use super::exchange;
use super::watch::{Alarm, FOREVER, Phase, Watch};
use crate::error::Kind;

/// What a client of HTTP/2 sends first, as far as no HTTP/1 request can begin (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The most of an answer that one stream may have in the library, not yet sent.
const SEND_BUFFER: usize = 128 * 1024;

/// What a client may send of one request's body before a server takes it.
const STREAM_WINDOW: u32 = 512 * 1024;
/// The same of all its requests together, and so the most that is kept of them.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What a small frame of a body costs the library while no server takes it. It counts what each is short of
/// this against a budget, and ends the connection once that is used up.
const FRAME: usize = 256;
/// Messages of this size are the smallest that may fill a stream's window, as those of gRPC do when their
/// server is slow. It also bounds what the frames of one connection cost, at `FRAMES`.
const SMALL: usize = 16;
const FRAMES: usize = STREAM_WINDOW as usize / SMALL * (FRAME - SMALL);

/// How long a client that was told to go may take about it, once nothing is in flight.
const GRACE: Duration = Duration::from_secs(5);

/// What a connection shares with its streams.
struct Shared {
    link: Rc<Link>,
    watch: Rc<Watch>,
    meter: RefCell<Meter>,
    /// Streams that are being served.
    open: Cell<usize>,
    /// Since when there was none.
    idle_since: Cell<Instant>,
    /// Since when the client has been told to go.
    leaving: Cell<Option<Instant>>,
}

impl Shared {
    fn now(&self) -> Instant {
        self.link.core.clock.get()
    }

    /// Enters the phase that fits what is going on between two events.
    fn settle(&self) {
        let (plan, meter) = (&self.link.plan, self.meter.borrow());
        let busy = self.open.get() > 0;
        if meter.is_in_block() || (meter.is_inside() && !busy) {
            if self.watch.phase() != Phase::Head {
                self.watch.enter(Phase::Head, self.now(), plan.header_timeout);
            }
        } else if busy {
            self.watch.enter(Phase::Open, self.now(), FOREVER);
        } else {
            let limit = if self.leaving.get().is_some() { GRACE } else { plan.idle_timeout };
            self.watch.enter(Phase::Open, self.idle_since.get(), limit);
        }
    }

    /// Notes that the client is told to go; false where it was told before.
    fn tell_to_leave(&self) -> bool {
        let first = self.leaving.get().is_none();
        if first {
            self.leaving.set(Some(self.now()));
        }
        first
    }

    /// Whether the client has had the time to go.
    fn is_overdue(&self) -> bool {
        self.leaving.get().is_some_and(|since| self.now() >= since + GRACE)
    }

    fn received(&self, bytes: &[u8]) {
        self.meter.borrow_mut().received(bytes, self.now());
        if matches!(self.watch.phase(), Phase::Open | Phase::Head) {
            self.settle();
        }
    }
}

/// A stream that is being served; dropping it ends that.
struct Serving(Rc<Shared>);

impl Serving {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.open.set(shared.open.get() + 1);
        if shared.watch.phase() == Phase::Open {
            shared.settle();
        }
        Self(Rc::clone(shared))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let shared = &self.0;
        if std::thread::panicking() {
            // Its task ends here, and with it this stream; the connection goes on.
            shared.link.core.cells().panics.inc();
        }
        shared.open.set(shared.open.get() - 1);
        if shared.open.get() == 0 {
            shared.idle_since.set(shared.now());
            if shared.watch.phase() == Phase::Open {
                shared.settle();
            }
        }
    }
}

/// Serves an HTTP/2 connection to its end.
pub(super) async fn serve<S>(link: Rc<Link>, stream: S, rewind: Bytes)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let core = Rc::clone(&link.core);
    let now = core.now();
    let watched = core.watches.add(now, link.plan.idle_timeout);
    core.wake_ticker();
    let shared = Rc::new(Shared {
        watch: Rc::clone(&watched.watch),
        meter: RefCell::new(Meter::new(now)),
        open: Cell::new(0),
        idle_since: Cell::new(now),
        leaving: Cell::new(None),
        link,
    });
    shared.settle();
    core.cells().http2_connections.inc();
    let wire = Wire::new(stream, rewind, &shared);
    let served = run(&shared, builder(&shared).handshake(wire)).await;
    if let Err(error) = served {
        debug!(%error, "an HTTP/2 connection ended with an error");
        if error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
            core.cells().http2_floods.inc();
        } else if error.is_library() {
            exchange::refused_unread(&Conn::new(&shared.link, &shared.watch), Kind::BadRequest, None, 0);
        }
    }
}

fn builder(shared: &Shared) -> Builder {
    let plan = &shared.link.plan;
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(plan.http2_max_streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(plan.max_header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(FRAMES)
        .enable_connect_protocol();
    builder
}

async fn run<S>(shared: &Rc<Shared>, handshake: h2::server::Handshake<Wire<S>, Bytes>) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut handshake = pin!(handshake);
    let begun = poll_fn(|cx| {
        shared.watch.set_waker(cx.waker());
        if shared.watch.take_alarm().is_some() {
            return Poll::Ready(None);
        }
        handshake.as_mut().poll(cx).map(Some)
    });
    let Some(begun) = begun.await else {
        if shared.watch.phase() == Phase::Head {
            exchange::refused_unread(&Conn::new(&shared.link, &shared.watch), Kind::HeaderTimeout, None, 0);
        }
        return Ok(());
    };
    let mut connection = begun?;
    poll_fn(|cx| poll_connection(&mut connection, shared, cx)).await
}

/// Takes requests until the connection has ended.
fn poll_connection<S>(
    connection: &mut Connection<Wire<S>, Bytes>,
    shared: &Rc<Shared>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    shared.watch.set_waker(cx.waker());
    if let Some(alarm) = shared.watch.take_alarm() {
        match (shared.watch.phase(), alarm) {
            (_, Alarm::Close) => leave(connection, shared),
            (Phase::Open, _) if shared.leaving.get().is_none() => {
                shared.link.core.cells().idle_closed.inc();
                leave(connection, shared);
            }
            (Phase::Head, _) => {
                exchange::refused_unread(&Conn::new(&shared.link, &shared.watch), Kind::HeaderTimeout, None, 0);
                return Poll::Ready(Ok(()));
            }
            // It takes nothing, or has been told to go and does not.
            _ => return Poll::Ready(Ok(())),
        }
    }
    loop {
        let polled = connection.poll_accept(cx);
        if shared.meter.borrow().began_wrong() && shared.tell_to_leave() {
            exchange::refused_unread(&Conn::new(&shared.link, &shared.watch), Kind::BadRequest, None, 0);
            connection.abrupt_shutdown(Reason::PROTOCOL_ERROR);
            shared.watch.enter(Phase::Flush, shared.now(), GRACE);
            continue;
        }
        if shared.meter.borrow().is_spent() && shared.tell_to_leave() {
            shared.link.core.cells().http2_floods.inc();
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            shared.watch.enter(Phase::Flush, shared.now(), GRACE);
            continue;
        }
        match polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(Ok(())),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
            Poll::Ready(Some(Ok((_, mut respond)))) if shared.is_overdue() => {
                // It was told to go long ago, and opens streams all the same (RFC 9113 §8.7).
                respond.send_reset(Reason::REFUSED_STREAM);
            }
            Poll::Ready(Some(Ok((request, respond)))) => {
                begin(shared, request, respond);
                if shared.link.is_ending() {
                    leave(connection, shared);
                }
            }
        }
    }
}

/// Tells the client to send nothing new, in two steps (RFC 9113 §6.8): what it has sent by the time it
/// hears of it is served.
fn leave<S>(connection: &mut Connection<Wire<S>, Bytes>, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if shared.tell_to_leave() {
        connection.graceful_shutdown();
        shared.idle_since.set(shared.now());
        if shared.watch.phase() == Phase::Open {
            shared.settle();
        }
    }
}

fn begin(shared: &Rc<Shared>, request: http::Request<h2::RecvStream>, respond: h2::server::SendResponse<Bytes>) {
    let core: &Rc<Core> = &shared.link.core;
    let watched = core.watches.add(core.clock.get(), FOREVER);
    watched.watch.set_pace(shared.link.plan.min_rate, shared.link.plan.between_bytes);
    watched.watch.enter(Phase::Begun, core.clock.get(), FOREVER);
    let wire = Rc::new(super::stream::Wire::default());
    wire.begin(true);
    let conn = Rc::new(Conn { wire: Some(wire), ..Conn::new(&shared.link, &watched.watch) });
    let serving = Serving::new(shared);
    tokio::task::spawn_local(async move {
        stream::serve(&conn, request, respond, &serving.0).await;
        drop(watched);
        drop(serving);
    });
}

/// An error of a stream, as one of bytes.
fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    } else {
        io::Error::other(error)
    }
}
