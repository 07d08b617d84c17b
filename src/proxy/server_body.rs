//! The body of a server's answer, whatever the server speaks.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::inbound::Received;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a server's answer.
#[derive(Debug)]
pub(super) enum ServerBody {
    Http1(Incoming),
    Http2(Received),
}

impl Body for ServerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Http1(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Self::Http2(received) => received.poll(cx).map(|frame| match frame {
                Some(Err(error)) if is_early_end(&error) && received.owes_nothing() => {
                    received.end();
                    None
                }
                frame => frame.map(|frame| frame.map_err(Into::into)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(received) => received.has_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(received) => received.size_hint(),
        }
    }
}

/// Whether the server has answered in full and wants no more of the request (RFC 9113 §8.1).
fn is_early_end(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}
