//! The client's side.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Near;
use crate::config::plan::ListenerPlan;
use crate::proxy::core::Core;
use crate::proxy::watch::{Phase, Watch};

/// A client's connection while a parser runs on it: it tells the watch when a head begins to arrive
/// and when the client takes bytes.
pub(in crate::proxy) struct Client {
    stream: Near,
    /// Bytes read before this parser was made.
    rewind: Bytes,
    core: Rc<Core>,
    watch: Rc<Watch>,
    plan: Arc<ListenerPlan>,
}

impl Client {
    pub(in crate::proxy) fn new(
        stream: Near,
        rewind: Bytes,
        core: &Rc<Core>,
        watch: &Rc<Watch>,
        plan: &Arc<ListenerPlan>,
    ) -> Self {
        Self { stream, rewind, core: Rc::clone(core), watch: Rc::clone(watch), plan: Arc::clone(plan) }
    }

    pub(in crate::proxy) fn into_stream(self) -> Near {
        self.stream
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
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.rewind.is_empty() {
            let n = this.rewind.len().min(buf.remaining());
            buf.put_slice(&this.rewind[..n]);
            this.rewind.advance(n);
            this.arrived();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if polled.is_ready() && buf.filled().len() > before {
            this.arrived();
        }
        polled
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(polled.is_ready());
        polled
    }

    /// The parser calls this when it has nothing left to write.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.stream.holds_back() {
            let polled = Pin::new(&mut this.stream).poll_flush(cx)?;
            this.wrote(polled.is_ready());
            ready!(polled);
        }
        if this.watch.phase() == Phase::Flush {
            this.watch.enter(Phase::Idle, this.core.clock.get(), this.plan.idle_timeout);
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
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(polled.is_ready());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
