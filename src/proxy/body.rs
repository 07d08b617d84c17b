//! Bodies on their way through, and the end of an exchange.
//!
//! Both wrappers pass frames on as they come, so memory is bounded by what the two parsers buffer and
//! a slow side holds up the other. The answer's wrapper owns the [`Exchange`]: the claim is released,
//! the connection given back and the request counted when the last frame has been handed over, or
//! when the body is dropped because somebody left.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::compress::Compressed;
use super::core::Core;
use super::exchange::Exchange;
use super::inbound::Inbound;
use super::server_body::ServerBody;
use super::trailers;
use super::watch::{Phase, Watch};
use crate::config::plan::{Encoding, Level};
use crate::error::{Kind, ProxyError, Sent};

/// What the exchange must know of a request's body while it is sent.
#[derive(Debug)]
pub(super) struct Flow {
    ended: Cell<bool>,
    /// When the last byte was handed to the server's connection.
    ended_at: Cell<Option<Instant>>,
    /// Whether the exchange is over, so that the watch serves another.
    over: Cell<bool>,
    bytes: Cell<u64>,
    /// Why the proxy or the client ended it early.
    pub(super) fault: Cell<Option<Kind>>,
}

impl Flow {
    /// Whether the last byte has been handed to the server's connection.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// When that was, as the core's clock said.
    pub(super) fn ended_at(&self) -> Option<Instant> {
        self.ended_at.get()
    }

    /// The exchange is over; what is left of the body no longer counts.
    pub(super) fn detach(&self) {
        self.over.set(true);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

/// The body of a request to a server.
#[derive(Default)]
pub(super) struct RequestBody(Option<Box<Sending>>);

struct Sending {
    /// Frames that were taken for a try that failed before the server had seen them.
    again: VecDeque<Frame<Bytes>>,
    incoming: Inbound,
    flow: Rc<Flow>,
    core: Rc<Core>,
    watch: Rc<Watch>,
    limits: RequestLimits,
}

/// Bounds of a request's body.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestLimits {
    pub(super) max: u64,
    /// The longest pause of the client.
    pub(super) between_bytes: Duration,
    /// The longest that the server may take no more of it.
    pub(super) taking: Duration,
    /// From the end of the body to the head of the answer.
    pub(super) first_byte: Duration,
}

impl RequestBody {
    /// Wraps a client's body. None of the bookkeeping is made for a request without one.
    pub(super) fn new(
        incoming: Inbound,
        core: &Rc<Core>,
        watch: &Rc<Watch>,
        limits: RequestLimits,
    ) -> (Self, Option<Rc<Flow>>) {
        if incoming.is_end_stream() {
            return (Self(None), None);
        }
        let flow = Rc::new(Flow {
            ended: Cell::new(false),
            ended_at: Cell::new(None),
            over: Cell::new(false),
            bytes: Cell::new(0),
            fault: Cell::new(None),
        });
        let sending = Sending {
            again: VecDeque::new(),
            incoming,
            flow: Rc::clone(&flow),
            core: Rc::clone(core),
            watch: Rc::clone(watch),
            limits,
        };
        (Self(Some(Box::new(sending))), Some(flow))
    }

    /// Puts frames back that were taken and reached no server: they come first again.
    pub(super) fn put_back(&mut self, frames: VecDeque<Frame<Bytes>>) {
        if let Some(sending) = &mut self.0 {
            sending.again = frames;
        }
    }

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Sending {
    fn end(&self) {
        self.flow.ended.set(true);
        self.flow.ended_at.set(Some(self.core.clock.get()));
        self.enter(Phase::FirstByte, self.limits.first_byte);
    }

    /// Enters a phase of sending, unless the answer has come before the end of the body.
    fn enter(&self, phase: Phase, limit: Duration) {
        if self.flow.over.get() {
            return;
        }
        match self.watch.phase() {
            Phase::FirstByte | Phase::ClientBody | Phase::UpstreamWrite => {
                self.watch.enter(phase, self.core.clock.get(), limit);
            }
            // The answer waits for the rest of the request, which moves.
            Phase::UpstreamBody => self.watch.extend(self.core.clock.get(), limit),
            _ => {}
        }
    }

    fn fail(&self, kind: Kind) -> ProxyError {
        self.flow.fault.set(Some(kind));
        ProxyError::sent(kind, Sent::Maybe)
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let Some(sending) = &mut self.get_mut().0 else { return Poll::Ready(None) };
        if let Some(frame) = sending.again.pop_front() {
            // As below: nobody polls a body again after its trailers.
            if frame.is_trailers() || sending.again.is_empty() && sending.incoming.is_end_stream() {
                sending.end();
            } else {
                sending.enter(Phase::UpstreamWrite, sending.limits.taking);
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        let Poll::Ready(polled) = Pin::new(&mut sending.incoming).poll_frame(cx) else {
            if sending.watch.phase() != Phase::ClientBody {
                sending.enter(Phase::ClientBody, sending.limits.between_bytes);
            }
            return Poll::Pending;
        };
        Poll::Ready(match polled {
            Some(Ok(mut frame)) => {
                if frame.trailers_mut().is_some_and(|trailers| !trailers::filter(trailers)) {
                    sending.end();
                    return Poll::Ready(None);
                }
                if let Some(data) = frame.data_ref() {
                    if matches!(sending.incoming, Inbound::Http2(_)) {
                        // What comes over HTTP/1 is counted where it is read.
                        sending.watch.moved(data.len());
                    }
                    let bytes = sending.flow.bytes.get() + data.len() as u64;
                    sending.flow.bytes.set(bytes);
                    if bytes > sending.limits.max {
                        return Poll::Ready(Some(Err(sending.fail(Kind::BodyTooLarge))));
                    }
                }
                // Nobody polls a body again after its trailers.
                if frame.is_trailers() || sending.incoming.is_end_stream() {
                    sending.end();
                } else {
                    sending.enter(Phase::UpstreamWrite, sending.limits.taking);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                sending.flow.fault.set(Some(error.kind));
                Some(Err(error))
            }
            None => {
                sending.end();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|sending| sending.again.is_empty() && sending.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let Some(sending) = &self.0 else { return SizeHint::with_exact(0) };
        let again: usize = sending.again.iter().filter_map(|frame| Some(frame.data_ref()?.len())).sum();
        match sending.incoming.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + again as u64),
            None => SizeHint::default(),
        }
    }
}

/// The body of an answer to a client.
#[derive(Debug)]
pub(super) enum Body {
    Empty,
    /// An answer that the proxy made.
    Text(Option<Bytes>),
    /// A server's answer.
    Passing {
        incoming: ServerBody,
        exchange: Box<Exchange>,
    },
    /// A server's answer, compressed on its way.
    Compressed(Box<Compressed>),
}

impl Body {
    /// Gives an answer up that the client must not get.
    pub(super) fn give_up(&mut self, kind: Kind) {
        if let Self::Passing { exchange, .. } = self {
            exchange.cut_short(kind);
        }
        *self = Self::Empty;
    }

    /// Passes a server's body on. What has no body ends the exchange at once.
    pub(super) fn passing(incoming: ServerBody, mut exchange: Box<Exchange>) -> Self {
        if incoming.is_end_stream() {
            exchange.finish();
            return Self::Empty;
        }
        Self::Passing { incoming, exchange }
    }

    /// The same compressed, if there is a body.
    pub(super) fn compressed(
        incoming: ServerBody,
        exchange: Box<Exchange>,
        encoding: Encoding,
        level: Level,
    ) -> Result<Self, (Box<Exchange>, ProxyError)> {
        if incoming.is_end_stream() {
            return Ok(Self::passing(incoming, exchange));
        }
        match Compressed::new(incoming, exchange, encoding, level) {
            Ok(body) => Ok(Self::Compressed(Box::new(body))),
            Err((exchange, error)) => Err((exchange, ProxyError::sent(Kind::Internal, Sent::Answered).because(error))),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            Self::Passing { incoming, exchange } => poll_passing(incoming, exchange, cx),
            Self::Compressed(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_none(),
            Self::Passing { incoming, .. } => incoming.is_end_stream(),
            Self::Compressed(body) => body.has_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Text(None) => SizeHint::with_exact(0),
            Self::Text(Some(text)) => SizeHint::with_exact(text.len() as u64),
            Self::Passing { incoming, .. } => incoming.size_hint(),
            Self::Compressed(_) => SizeHint::default(),
        }
    }
}

fn poll_passing(
    incoming: &mut ServerBody,
    exchange: &mut Exchange,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
    match Pin::new(&mut *incoming).poll_frame(cx) {
        Poll::Ready(Some(Ok(mut frame))) => {
            if frame.trailers_mut().is_some_and(|trailers| !trailers::filter(trailers)) {
                exchange.finish();
                return Poll::Ready(None);
            }
            if let Some(data) = frame.data_ref() {
                exchange.bytes_out += data.len() as u64;
            }
            if frame.is_trailers() || incoming.is_end_stream() {
                exchange.finish();
            } else {
                exchange.await_client();
            }
            Poll::Ready(Some(Ok(frame)))
        }
        Poll::Ready(Some(Err(error))) => {
            let kind = exchange.cut_short(Kind::Truncated);
            Poll::Ready(Some(Err(ProxyError::sent(kind, Sent::Answered).because(error))))
        }
        Poll::Ready(None) => {
            exchange.finish();
            Poll::Ready(None)
        }
        Poll::Pending => match exchange.await_server() {
            None => Poll::Pending,
            Some(kind) => {
                exchange.cut_short(kind);
                Poll::Ready(Some(Err(ProxyError::sent(kind, Sent::Answered))))
            }
        },
    }
}
