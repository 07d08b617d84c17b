//! A stream that has become a tunnel (RFC 8441 §5), as a stream of bytes.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Shared, broken};

/// The most that is copied into the library at once.
const MOST: usize = 16 * 1024;

/// A client's end of a tunnel.
pub(super) struct Channel {
    receive: RecvStream,
    /// Received and not yet read; given back to the window as it is.
    read: Bytes,
    send: SendStream<Bytes>,
    shared: Rc<Shared>,
}

impl Channel {
    pub(super) fn new(receive: RecvStream, send: SendStream<Bytes>, shared: &Rc<Shared>) -> Self {
        Self { receive, read: Bytes::new(), send, shared: Rc::clone(shared) }
    }
}

impl AsyncRead for Channel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.read.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                Some(Ok(data)) => this.read = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = this.read.len().min(buf.remaining());
        buf.put_slice(&this.read[..n]);
        this.read.advance(n);
        this.receive.flow_control().release_capacity(n).map_err(broken)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Channel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.send.capacity() == 0 {
            this.send.reserve_capacity(buf.len().min(MOST));
        }
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let room = this.send.capacity();
        let n = buf.len().min(room).min(MOST);
        this.send.send_data(Bytes::copy_from_slice(&buf[..n]), false).map_err(broken)?;
        let mut meter = this.shared.meter.borrow_mut();
        meter.moved(n);
        if n < room {
            meter.sent();
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().send.send_data(Bytes::new(), true).map_err(broken))
    }
}
