//! What a client's stream and those who serve its connection tell each other.

use std::cell::{Cell, OnceCell};
use std::task::Waker;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};

use super::interim::Interim;
use crate::error::Kind;

/// How far the request that runs has come, as far as the parser is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// No request runs, and everything is written.
    #[default]
    Between,
    /// A request was parsed and is being served.
    Serving,
    /// The parser was given the answer, and has written nothing of it yet.
    Answered,
    /// A part of the answer was written; the parser may hold the rest.
    Writing,
}

/// Why the parser gets no more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Refusal {
    pub(in crate::proxy) kind: Kind,
    /// Whether it is the body of a request that is being served, rather than the next head.
    pub(in crate::proxy) in_body: bool,
}

/// The state of one spell of requests on a client's connection.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Wire {
    stage: Cell<Stage>,
    refusal: Cell<Option<Refusal>>,
    /// Whether the stream kept bytes from the parser, which will not ask again by itself.
    stalled: Cell<bool>,
    /// Whether the client knows interim answers.
    takes_interim: Cell<bool>,
    interim: OnceCell<Interim>,
}

impl Wire {
    /// A request was parsed, of a client that knows interim answers or not (RFC 9110 §15.2).
    pub(in crate::proxy) fn begin(&self, takes_interim: bool) {
        self.stage.set(Stage::Serving);
        self.takes_interim.set(takes_interim);
        if let Some(interim) = self.interim.get() {
            interim.reset();
        }
    }

    /// The parser is given the answer.
    pub(in crate::proxy) fn answer(&self) {
        self.stage.set(Stage::Answered);
    }

    /// The parser has nothing left to write, and the exchange is over.
    pub(super) fn flushed(&self) {
        if matches!(self.stage.get(), Stage::Answered | Stage::Writing) {
            self.stage.set(Stage::Between);
        }
    }

    /// Whether no request runs and every answer is written.
    pub(in crate::proxy) fn is_between(&self) -> bool {
        self.stage.get() == Stage::Between
    }

    pub(super) fn refuse(&self, kind: Kind, in_body: bool) {
        self.refusal.set(Some(Refusal { kind, in_body }));
    }

    pub(in crate::proxy) fn refusal(&self) -> Option<Refusal> {
        self.refusal.get()
    }

    pub(super) fn stall(&self) {
        self.stalled.set(true);
    }

    /// Whether the parser waits for bytes that were kept from it, and no longer need to be.
    pub(in crate::proxy) fn take_stall(&self) -> bool {
        self.is_between() && self.stalled.take()
    }

    /// Has the server's interim answers to this try of the request come here, and none to a try before it.
    /// `client` wakes the connection's task.
    pub(in crate::proxy) fn hear_interim<B>(&self, request: &mut Request<B>, client: impl FnOnce() -> Option<Waker>) {
        if let Some(interim) = self.interim.get() {
            interim.reset();
            interim.attach(request);
        } else if let Some(client) = client() {
            self.interim.get_or_init(|| Interim::new(client)).attach(request);
        }
    }

    /// Whether a server has sent more interim answers than anybody would.
    pub(in crate::proxy) fn is_overrun(&self) -> bool {
        self.stage.get() == Stage::Serving && self.interim.get().is_some_and(Interim::is_overrun)
    }

    /// The interim answers to the request of an HTTP/2 stream that have come.
    pub(in crate::proxy) fn take_interim(&self) -> Vec<(StatusCode, HeaderMap)> {
        self.interim.get().map_or_else(Vec::new, Interim::take)
    }

    /// The interim answers to write when the parser has nothing to write.
    pub(super) fn interim_at_rest(&self) -> Option<Bytes> {
        let interim = self.interim.get()?;
        let bytes = if self.stage.get() == Stage::Serving { interim.take_written() } else { None };
        bytes.filter(|_| self.takes_interim.get())
    }

    /// The interim answers to write before what the parser is about to write. `fresh` tells that it is
    /// not the rest of something.
    pub(super) fn interim_before(&self, fresh: bool) -> Option<Bytes> {
        let stage = self.stage.get();
        if stage == Stage::Answered {
            self.stage.set(Stage::Writing);
        }
        let interim = self.interim.get()?;
        let bytes =
            if fresh && matches!(stage, Stage::Serving | Stage::Answered) { interim.take_written() } else { None };
        bytes.filter(|_| self.takes_interim.get())
    }
}
