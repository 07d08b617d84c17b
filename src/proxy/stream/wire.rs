//! What a client's stream and those who serve its connection tell each other.

use std::cell::Cell;

use crate::error::Kind;

/// How far the request that runs has come, as far as the parser is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// No request runs, and everything is written.
    #[default]
    Between,
    /// A request was parsed and is being served.
    Serving,
    /// The parser was given the answer, and may hold a part of it.
    Answered,
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
}

impl Wire {
    /// A request was parsed.
    pub(in crate::proxy) fn begin(&self) {
        self.stage.set(Stage::Serving);
    }

    /// The parser is given the answer.
    pub(in crate::proxy) fn answer(&self) {
        self.stage.set(Stage::Answered);
    }

    /// The exchange is over and everything is written.
    pub(super) fn flushed(&self) {
        if self.stage.get() == Stage::Answered {
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
}
