//! The client's side.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Near;
use super::wire::Wire;
use crate::config::plan::ListenerPlan;
use crate::proxy::core::Core;
use crate::proxy::head::{Inspector, Verdict};
use crate::proxy::http2::PREFACE;
use crate::proxy::watch::{Phase, Watch};

/// A client's connection while a parser runs on it: it tells the watch when a head begins to arrive
/// and when the client takes bytes, and keeps from the parser what must not be served.
pub(in crate::proxy) struct Client {
    stream: Near,
    /// Bytes read before this parser was made, or before it may have them.
    rewind: Bytes,
    inspector: Inspector,
    /// The rest of an interim answer that is being written.
    interim: Bytes,
    /// Whether the parser has nothing half written.
    at_rest: bool,
    core: Rc<Core>,
    watch: Rc<Watch>,
    wire: Rc<Wire>,
    plan: Arc<ListenerPlan>,
    speaks: Speaks,
}

/// So many bytes of the preface are no beginning of a request in HTTP/1: `PRI` is not a method (RFC 9113
/// §3.4).
const DECIDED: usize = 4;

/// What is known of the protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    /// Nothing yet: its first bytes tell.
    Unknown,
    Http1,
    /// HTTP/2 by prior knowledge (RFC 9113 §3.3): nothing here for a parser of HTTP/1.
    Http2,
}

impl Speaks {
    /// What a connection that begins with these bytes speaks.
    fn of(bytes: &[u8]) -> Self {
        let compared = bytes.len().min(PREFACE.len());
        if bytes[..compared] != PREFACE[..compared] {
            Self::Http1
        } else if compared < DECIDED {
            Self::Unknown
        } else {
            Self::Http2
        }
    }
}

impl Client {
    pub(in crate::proxy) fn new(
        stream: Near,
        rewind: Bytes,
        core: &Rc<Core>,
        watch: &Rc<Watch>,
        wire: &Rc<Wire>,
        plan: &Arc<ListenerPlan>,
        is_new: bool,
    ) -> Self {
        let speaks = if is_new && plan.http2 { Speaks::Unknown } else { Speaks::Http1 };
        Self {
            stream,
            rewind,
            inspector: Inspector::new(plan),
            interim: Bytes::new(),
            at_rest: true,
            core: Rc::clone(core),
            watch: Rc::clone(watch),
            wire: Rc::clone(wire),
            plan: Arc::clone(plan),
            speaks,
        }
    }

    /// The socket, and what was read from it and is not the parser's.
    pub(in crate::proxy) fn into_parts(self) -> (Near, Bytes) {
        (self.stream, self.rewind)
    }

    fn arrived(&self) {
        match self.watch.phase() {
            Phase::Idle => self.watch.enter(Phase::Head, self.core.clock.get(), self.plan.header_timeout),
            Phase::ClientBody => self.watch.extend(self.core.clock.get(), self.plan.between_bytes),
            _ => {}
        }
    }

    /// Notes whether the client takes what it is sent. An exchange is over when its last byte was handed
    /// to the parser, which may hold it for as long as the client takes nothing.
    fn wrote(&self, ready: bool) {
        match (self.watch.phase(), ready) {
            (Phase::Idle, false) => {
                self.watch.enter(Phase::Flush, self.core.clock.get(), self.plan.between_bytes);
            }
            (Phase::ClientWrite | Phase::Flush, true) => {
                self.watch.extend(self.core.clock.get(), self.plan.between_bytes);
            }
            _ => {}
        }
    }

    /// What was read of a connection that speaks HTTP/2.
    pub(in crate::proxy) fn take_http2(&mut self) -> Option<Bytes> {
        (self.speaks == Speaks::Http2).then(|| std::mem::take(&mut self.rewind))
    }

    /// Whether nothing has come that tells what is spoken.
    pub(in crate::proxy) fn is_untouched(&self) -> bool {
        self.speaks == Speaks::Unknown
    }

    /// Reads until it is known what is spoken. HTTP/2 ends the parser with an error; what was read is
    /// kept.
    fn poll_decide(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.speaks == Speaks::Unknown {
            let mut more = [0; PREFACE.len()];
            let mut more = ReadBuf::new(&mut more);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut more))?;
            self.rewind = [&self.rewind[..], more.filled()].concat().into();
            // One that ends here was none.
            self.speaks = if more.filled().is_empty() { Speaks::Http1 } else { Speaks::of(&self.rewind) };
        }
        match self.speaks {
            Speaks::Http2 => Poll::Ready(Err(io::Error::other("this is HTTP/2"))),
            Speaks::Unknown | Speaks::Http1 => Poll::Ready(Ok(())),
        }
    }

    fn has_written(&self, polled: &Poll<io::Result<usize>>) {
        self.wrote(polled.is_ready());
        if let Poll::Ready(Ok(bytes)) = polled {
            self.watch.moved(*bytes);
        }
    }

    /// How many of the bytes that have arrived the parser may have.
    fn inspect(&mut self, bytes: &[u8]) -> usize {
        self.arrived();
        self.watch.moved(bytes.len());
        match self.inspector.feed(bytes) {
            Verdict::Pass => bytes.len(),
            Verdict::Refuse { pass, kind, in_body } => {
                self.wire.refuse(kind, in_body);
                pass
            }
            Verdict::Hold { pass } => pass,
        }
    }

    /// Writes what is to come before the next bytes of the parser.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let polled = Pin::new(&mut self.stream).poll_write(cx, &self.interim)?;
            self.wrote(polled.is_ready());
            match ready!(polled) {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.interim.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The parser is about to write.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(bytes) = self.wire.interim_before(self.at_rest && self.interim.is_empty()) {
            self.interim = bytes;
        }
        ready!(self.poll_interim(cx))?;
        self.at_rest = false;
        Poll::Ready(Ok(()))
    }

    /// What the parser gets when it asks for more, if that does not depend on the socket.
    fn withheld(&mut self) -> Option<Poll<io::Result<()>>> {
        let refusal = self.wire.refusal()?;
        if refusal.in_body {
            let error = io::Error::new(io::ErrorKind::InvalidData, "the body is not framed as it must be");
            return Some(Poll::Ready(Err(error)));
        }
        // Requests before it are served first.
        self.wire.stall();
        Some(Poll::Pending)
    }

    /// Reads while a request to switch protocols is served: only the end is passed on.
    fn poll_held(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.rewind.is_empty() {
            let before = buf.filled().len();
            let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
            if buf.filled().len() == before {
                return polled;
            }
            self.rewind = Bytes::copy_from_slice(&buf.filled()[before..]);
            buf.set_filled(before);
        }
        self.wire.stall();
        Poll::Pending
    }
}

/// Whether this is what the parser says when it cannot parse a head: an answer of its own, without a
/// body, to a request that nobody was asked to serve.
fn is_the_parsers_own(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.") && bytes.get(8..10) == Some(b" 4") && bytes.ends_with(b"\r\n\r\n")
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.speaks == Speaks::Unknown && !this.rewind.is_empty() {
            ready!(this.poll_decide(cx))?;
        }
        if let Some(withheld) = this.withheld() {
            return withheld;
        }
        if this.inspector.is_waiting() {
            if !this.wire.is_between() {
                return this.poll_held(cx, buf);
            }
            this.inspector.resume();
        }
        let before = buf.filled().len();
        if this.rewind.is_empty() {
            let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
            let arrived = &buf.filled()[before..];
            if arrived.is_empty() {
                return polled;
            }
            if this.speaks == Speaks::Unknown {
                this.speaks = Speaks::of(arrived);
                if this.speaks != Speaks::Http1 {
                    // Not for this parser, or not known to be.
                    this.rewind = Bytes::copy_from_slice(arrived);
                    buf.set_filled(before);
                    this.arrived();
                    ready!(this.poll_decide(cx))?;
                    return Pin::new(this).poll_read(cx, buf);
                }
            }
            let pass = this.inspect(arrived);
            if pass < arrived.len() {
                this.rewind = Bytes::copy_from_slice(&arrived[pass..]);
                buf.set_filled(before + pass);
            }
        } else {
            let arrived = this.rewind.slice(..this.rewind.len().min(buf.remaining()));
            let pass = this.inspect(&arrived);
            buf.put_slice(&arrived[..pass]);
            this.rewind.advance(pass);
        }
        if buf.filled().len() == before {
            // Nothing of it may be passed on.
            return this.withheld().unwrap_or(Poll::Pending);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.wire.is_between() && is_the_parsers_own(buf) {
            // Taken and dropped: what the client gets says more.
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(this.poll_begin(cx))?;
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.has_written(&polled);
        polled
    }

    /// The parser calls this when it has nothing left to write.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.at_rest = true;
        if this.interim.is_empty()
            && let Some(bytes) = this.wire.interim_at_rest()
        {
            this.interim = bytes;
        }
        ready!(this.poll_interim(cx))?;
        if this.stream.holds_back() {
            let polled = Pin::new(&mut this.stream).poll_flush(cx)?;
            this.wrote(polled.is_ready());
            ready!(polled);
        }
        if this.watch.phase() == Phase::Flush {
            this.watch.enter(Phase::Idle, this.core.clock.get(), this.plan.idle_timeout);
        }
        if this.watch.phase() == Phase::Idle {
            this.wire.flushed();
        }
        Poll::Ready(Ok(()))
    }

    /// Does nothing: what becomes of the socket is decided after the parser has let go of it.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = bufs {
            // One piece is cheaper to send without a list of pieces.
            return self.poll_write(cx, only);
        }
        let this = self.get_mut();
        ready!(this.poll_begin(cx))?;
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.has_written(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
