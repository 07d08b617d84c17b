//! A server's body, compressed on its way.
//!
//! Bounds: at most [`OUT`] and one step's yield are made and not handed over; one frame of the server is
//! held while it is worked through. A step is small and after [`SLICE`] bytes the core serves others
//! first, so a large answer holds up nobody. Whenever the server pauses everything that it has said goes
//! out, so what streams keeps streaming.

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body as _, Frame};

use super::encoder::Encoder;
use crate::config::plan::{Encoding, Level};
use crate::error::{Kind, ProxyError, Sent};
use crate::proxy::exchange::Exchange;
use crate::proxy::server_body::ServerBody;
use crate::proxy::trailers;

/// Bytes that are compressed in one go.
const STEP: usize = 8 << 10;
/// Bytes that are compressed before others have their turn.
const SLICE: usize = 32 << 10;
/// Bytes that make a frame.
const OUT: usize = 16 << 10;

type Polled = Poll<Option<Result<Frame<Bytes>, ProxyError>>>;

/// A server's body on its way through an encoder.
#[derive(Debug)]
pub(in crate::proxy) struct Compressed {
    incoming: ServerBody,
    exchange: Box<Exchange>,
    /// None once it has ended.
    encoder: Option<Encoder>,
    /// What the server sent and the encoder did not get yet.
    pending: Bytes,
    /// Whether the encoder holds something back.
    dirty: bool,
    /// Bytes compressed since others had their turn.
    worked: usize,
    /// Whether the server has sent everything.
    complete: bool,
    trailers: Option<HeaderMap>,
}

impl Compressed {
    pub(in crate::proxy) fn new(
        incoming: ServerBody,
        exchange: Box<Exchange>,
        encoding: Encoding,
        level: Level,
    ) -> Result<Self, (Box<Exchange>, io::Error)> {
        let encoder = match Encoder::new(encoding, level) {
            Ok(encoder) => encoder,
            Err(error) => return Err((exchange, error)),
        };
        Ok(Self {
            incoming,
            exchange,
            encoder: Some(encoder),
            pending: Bytes::new(),
            dirty: false,
            worked: 0,
            complete: false,
            trailers: None,
        })
    }

    /// Whether everything was handed over.
    pub(in crate::proxy) fn has_ended(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }

    pub(in crate::proxy) fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        loop {
            let Some(encoder) = &mut self.encoder else { return self.end() };
            if !self.pending.is_empty() {
                if self.worked >= SLICE {
                    self.worked = 0;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let step = self.pending.len().min(STEP);
                if let Err(error) = encoder.write(&self.pending[..step]) {
                    return self.broken(error);
                }
                self.pending.advance(step);
                self.worked += step;
                self.dirty = true;
                if encoder.output().len() >= OUT {
                    let made = mem::take(encoder.output());
                    return self.hand_over(made);
                }
                continue;
            }
            if self.complete {
                match self.encoder.take().map(Encoder::finish) {
                    Some(Ok(rest)) if !rest.is_empty() => {
                        if self.trailers.is_none() {
                            self.exchange.bytes_out += rest.len() as u64;
                            self.exchange.finish();
                            return Poll::Ready(Some(Ok(Frame::data(rest.into()))));
                        }
                        return self.hand_over(rest);
                    }
                    Some(Err(error)) => return self.broken(error),
                    Some(Ok(_)) | None => continue,
                }
            }
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.take(frame),
                Poll::Ready(None) => self.complete = true,
                Poll::Ready(Some(Err(error))) => {
                    let kind = self.exchange.cut_short(Kind::Truncated);
                    return Poll::Ready(Some(Err(ProxyError::sent(kind, Sent::Answered).because(error))));
                }
                Poll::Pending => {
                    self.worked = 0;
                    return self.pause();
                }
            }
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => {
                if let Some(route) = self.exchange.route() {
                    route.cells[self.exchange.conn.core.id].compressed_bytes.add(data.len() as u64);
                }
                self.pending = data;
                self.complete = self.incoming.is_end_stream();
            }
            Err(other) => {
                let trailers = other.into_trailers().ok();
                self.trailers = trailers.and_then(|mut trailers| trailers::filter(&mut trailers).then_some(trailers));
                self.complete = true;
            }
        }
    }

    /// The server pauses: what it has said goes out.
    fn pause(&mut self) -> Polled {
        if let Some(kind) = self.exchange.await_server() {
            self.exchange.cut_short(kind);
            return Poll::Ready(Some(Err(ProxyError::sent(kind, Sent::Answered))));
        }
        let Some(encoder) = self.encoder.as_mut().filter(|_| mem::take(&mut self.dirty)) else { return Poll::Pending };
        if let Err(error) = encoder.flush() {
            return self.broken(error);
        }
        let made = mem::take(encoder.output());
        if made.is_empty() { Poll::Pending } else { self.hand_over(made) }
    }

    fn hand_over(&mut self, made: Vec<u8>) -> Polled {
        self.exchange.bytes_out += made.len() as u64;
        self.exchange.await_client();
        Poll::Ready(Some(Ok(Frame::data(made.into()))))
    }

    fn end(&mut self) -> Polled {
        let trailers = self.trailers.take();
        self.exchange.finish();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn broken(&mut self, error: io::Error) -> Polled {
        self.encoder = None;
        let kind = self.exchange.cut_short(Kind::Internal);
        Poll::Ready(Some(Err(ProxyError::sent(kind, Sent::Answered).because(error))))
    }
}
