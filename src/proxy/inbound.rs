//! The body of a client's request, whatever the client speaks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::mirror::Teed;
use crate::error::{Kind, ProxyError, Sent};

/// The body of a client's request.
pub(super) enum Inbound {
    Http1(Incoming),
    Http2(Received),
    /// That of a request whose stream becomes a tunnel.
    Empty,
    /// Copied as it passes.
    Teed(Box<Teed>),
    /// The copy.
    Copy(Bytes),
}

/// The body of one HTTP/2 stream, a client's or a server's. What is read of it is given back to its sender's window as it is
/// taken, so a slow receiver holds up the sender and nothing is kept but the window.
#[derive(Debug)]
pub(super) struct Received {
    stream: RecvStream,
    /// Bytes still to come, where the client announced a length.
    left: Option<u64>,
    ended: bool,
}

impl Received {
    /// Wraps a stream. `length` is its `Content-Length`, which h2 holds the sender to.
    pub(super) fn new(stream: RecvStream, length: Option<u64>) -> Self {
        let ended = stream.is_end_stream();
        Self { stream, left: if ended { Some(0) } else { length }, ended }
    }

    /// Whether nothing more comes.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(data) = ready!(self.stream.poll_data(cx)) {
            return Poll::Ready(Some(data.and_then(|data| self.taken(data))));
        }
        self.ended = true;
        let trailers: Option<HeaderMap> = match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn taken(&mut self, data: Bytes) -> Result<Frame<Bytes>, h2::Error> {
        self.stream.flow_control().release_capacity(data.len())?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(data.len() as u64);
        }
        // After the last byte there may still be trailers, which only the end of the stream rules out.
        self.ended = self.stream.is_end_stream();
        Ok(Frame::data(data))
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        match self.get_mut() {
            Self::Teed(teed) => teed.poll(cx),
            Self::Copy(copy) if copy.is_empty() => Poll::Ready(None),
            Self::Copy(copy) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(copy))))),
            Self::Http1(incoming) => Pin::new(incoming).poll_frame(cx).map_err(|error| {
                let kind = broken(&error);
                ProxyError::sent(kind, Sent::Maybe).because(error)
            }),
            Self::Http2(received) => received.poll(cx).map_err(|error| {
                // A body that does not keep to its announced length is malformed (RFC 9113 §8.1.1).
                let malformed = error.reason() == Some(h2::Reason::PROTOCOL_ERROR) && !error.is_remote();
                let kind = if malformed { Kind::BadRequest } else { Kind::ClientGone };
                ProxyError::sent(kind, Sent::Maybe).because(error)
            }),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Teed(teed) => teed.is_end_stream(),
            Self::Copy(copy) => copy.is_empty(),
            Self::Http2(received) => received.ended,
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Teed(teed) => teed.size_hint(),
            Self::Copy(copy) => SizeHint::with_exact(copy.len() as u64),
            Self::Http2(received) => received.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// Why a client's body cannot be read on: malformed chunks are told apart from a client that left,
/// because one that is still there is owed a 400.
fn broken(error: &hyper::Error) -> Kind {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    match source.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Kind::BadRequest,
        _ => Kind::ClientGone,
    }
}
