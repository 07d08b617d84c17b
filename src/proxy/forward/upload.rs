//! A request's body on its way to an HTTP/2 server.
//!
//! Its connection is shared, so what one client does must not cost the others theirs. A server may end a
//! connection that carries many small DATA frames which nobody reads (RFC 9113 §10.5), and a client can
//! make its pieces as small as it likes. So small pieces that are there together are joined, and a body
//! that comes in many small pieces which the server does not answer is sent on a little later.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};

use crate::proxy::body::RequestBody;
use crate::proxy::watch::TICK;

/// The most of a body that is kept to be sent again.
const KEPT: usize = 64 * 1024;
/// What a piece costs that is kept, beyond its bytes.
const PIECE: usize = 128;
/// Pieces are joined until there is as much as this.
const JOINED: usize = 1024;
/// Servers count frames below this as small.
const SMALL: usize = 256;
/// Small frames of one body that the server may leave unanswered before the next ones have to wait.
const UNHEARD: u32 = 32;

/// The beginning of a body, as it was taken.
#[derive(Default)]
struct Kept {
    data: Vec<Bytes>,
    cost: usize,
    trailers: Option<HeaderMap>,
}

/// Pieces that are to be one frame. A single one is not copied.
#[derive(Default)]
struct Held {
    single: Bytes,
    joined: BytesMut,
}

impl Held {
    fn len(&self) -> usize {
        self.single.len() + self.joined.len()
    }

    fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.single = data;
            return;
        }
        if self.joined.is_empty() {
            self.joined.reserve(JOINED.max(self.single.len() + data.len()));
            self.joined.extend_from_slice(&std::mem::take(&mut self.single));
        }
        self.joined.extend_from_slice(&data);
    }

    fn take(&mut self) -> Bytes {
        if self.joined.is_empty() { std::mem::take(&mut self.single) } else { self.joined.split().freeze() }
    }
}

/// A request's body on its way.
pub(super) struct Upload {
    body: RequestBody,
    stream: SendStream<Bytes>,
    held: Held,
    /// Data that waits for the server's window, and whether it is the last.
    chunk: Option<(Bytes, bool)>,
    /// What follows the data.
    trailers: Option<HeaderMap>,
    /// None once too much was taken to keep it.
    kept: Option<Kept>,
    /// Small frames that were sent since the server last sent a part of its answer.
    pub(super) unheard: Rc<Cell<u32>>,
    /// Until when the next small frame has to wait. Only what a client overdoes has this timer.
    pause: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl Upload {
    pub(super) fn new(body: RequestBody, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            held: Held::default(),
            chunk: None,
            trailers: None,
            kept: Some(Kept::default()),
            unheard: Rc::default(),
            pause: None,
            over: false,
        }
    }

    /// Whether nothing more is sent.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The request will not be sent again.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// Moves the body until it has ended, one way or the other.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The server may end the stream at any time; what is wrong with it the answer says.
        while !self.over {
            self.over = self.stream.poll_reset(cx).is_ready() || ready!(self.poll_step(cx));
        }
        Poll::Ready(())
    }

    /// Whether that was the last step.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if let Some((chunk, is_last)) = self.chunk.take() {
            return self.poll_send(cx, chunk, is_last);
        }
        if let Some(trailers) = self.trailers.take() {
            self.stream.reserve_capacity(0);
            let _ = self.stream.send_trailers(trailers);
            return Poll::Ready(true);
        }
        let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(cx) else {
            if self.held.len() == 0 {
                return Poll::Pending;
            }
            // The client pauses, and may wait for what the server says to this.
            ready!(self.poll_pause(cx));
            self.queue(false);
            return Poll::Ready(false);
        };
        match polled {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.keep(|kept| {
                        kept.cost += data.len() + PIECE;
                        kept.data.push(data.clone());
                    });
                    self.held.push(data);
                    let is_last = self.body.is_end_stream();
                    if is_last || self.held.len() >= JOINED {
                        self.queue(is_last);
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    self.keep(|kept| kept.trailers = Some(trailers.clone()));
                    self.trailers = Some(trailers);
                    if self.held.len() > 0 {
                        self.queue(false);
                    }
                }
            },
            Some(Err(_)) => {
                self.stream.send_reset(Reason::CANCEL);
                return Poll::Ready(true);
            }
            None => self.queue(true),
        }
        Poll::Ready(false)
    }

    /// What is held is to be sent next.
    fn queue(&mut self, is_last: bool) {
        let data = self.held.take();
        // No more than a sign of need: what is reserved for long is missing elsewhere.
        self.stream.reserve_capacity(usize::from(!data.is_empty()));
        self.chunk = Some((data, is_last));
    }

    /// Sends a chunk when the server's window is open. Whether it was the last.
    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: Bytes, is_last: bool) -> Poll<bool> {
        // A zero is what was there before: only growth is news.
        while self.stream.capacity() == 0 && !chunk.is_empty() {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(true),
                Poll::Pending => {
                    self.chunk = Some((chunk, is_last));
                    return Poll::Pending;
                }
            }
        }
        if chunk.len() < SMALL && !is_last {
            let unheard = self.unheard.get().saturating_add(1);
            self.unheard.set(unheard);
            if unheard >= UNHEARD {
                self.pause = Some(Box::pin(sleep(TICK)));
            }
        }
        Poll::Ready(self.stream.send_data(chunk, is_last).is_err() || is_last)
    }

    /// Waits until the next small frame may be sent.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause
            && self.unheard.get() >= UNHEARD
        {
            ready!(pause.as_mut().poll(cx));
        }
        self.pause = None;
        Poll::Ready(())
    }

    fn keep(&mut self, note: impl FnOnce(&mut Kept)) {
        if let Some(kept) = &mut self.kept {
            note(kept);
            if kept.cost > KEPT {
                self.kept = None;
            }
        }
    }

    /// The body as it was before any of it was taken.
    pub(super) fn unsent(self) -> Option<RequestBody> {
        let Kept { data, trailers, .. } = self.kept?;
        let mut body = self.body;
        let frames: VecDeque<_> = data.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers)).collect();
        body.put_back(frames);
        Some(body)
    }
}
