//! The bytes of an HTTP/2 connection, on their way between the socket and the protocol library.
//!
//! The watch of the connection is kept here: what is half there has to become whole in time, and what
//! is sent has to be taken.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;
use crate::proxy::watch::Phase;

/// A client's connection while HTTP/2 is spoken on it.
pub(super) struct Wire<S> {
    stream: S,
    /// Bytes read before it was known what is spoken.
    rewind: Bytes,
    shared: Rc<Shared>,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, rewind: Bytes, shared: &Rc<Shared>) -> Self {
        Self { stream, rewind, shared: Rc::clone(shared) }
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        let shared = &self.shared;
        let phase = shared.watch.phase();
        match polled {
            Poll::Pending if phase == Phase::Open => {
                shared.watch.enter(Phase::Flush, shared.now(), shared.link.plan.between_bytes);
            }
            Poll::Ready(Ok(_)) if phase == Phase::Flush => shared.settle(),
            _ => {}
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = if this.rewind.is_empty() {
            Pin::new(&mut this.stream).poll_read(cx, buf)
        } else {
            let n = this.rewind.len().min(buf.remaining());
            buf.put_slice(&this.rewind[..n]);
            this.rewind.advance(n);
            Poll::Ready(Ok(()))
        };
        if polled.is_ready() && buf.filled().len() > before {
            this.shared.received(&buf.filled()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(&polled);
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
