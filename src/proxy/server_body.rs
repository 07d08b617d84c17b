//! The body of a server's answer, whatever the server speaks.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::inbound::Received;
use super::litmus::Watched;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a server's answer.
#[derive(Debug)]
pub(super) enum ServerBody {
    Http1(Incoming),
    /// With the count of small frames that the request's body has sent since this last moved.
    Http2(Received, Option<Rc<Cell<u32>>>),
    /// Either, with a look at what passes.
    Watched(Box<Watched>),
}

impl Body for ServerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Http1(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Self::Http2(received, unheard) => {
                let polled = received.poll(cx);
                if let (Poll::Ready(Some(Ok(_))), Some(unheard)) = (&polled, unheard) {
                    unheard.set(0);
                }
                polled.map_err(Into::into)
            }
            Self::Watched(watched) => watched.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(received, _) => received.has_ended(),
            Self::Watched(watched) => watched.has_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(received, _) => received.size_hint(),
            Self::Watched(watched) => watched.size_hint(),
        }
    }
}
