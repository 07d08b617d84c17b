//! Bodies that are to be the same for the same user: a digest of each is made as it streams through.
//!
//! Nothing of a body is kept, and nobody waits for it: an answer counts when its body has ended. One that was not
//! sent or read to its end is neither the same nor another, and does not count.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use xxhash_rust::xxh3::Xxh3;

use crate::metrics::cells::LitmusSymptom;
use crate::proxy::connection::Conn;
use crate::proxy::server_body::{BoxError, ServerBody};
use crate::upstream::litmus::{Experiment, Part, Told};

/// An answer of which all is known but what its body may add.
pub(super) struct Judged {
    pub(super) experiment: Arc<Experiment>,
    pub(super) conn: Rc<Conn>,
    /// That of the upstream.
    pub(super) slot: usize,
    pub(super) part: Part,
    pub(super) counts: bool,
    pub(super) symptoms: u8,
    /// What is told of it, if it has symptoms.
    pub(super) told: Option<Told>,
}

impl Judged {
    /// Looks at the body before the answer is counted. `path` is its position in the plan.
    pub(super) fn watch(self, path: usize, body: ServerBody) -> ServerBody {
        let mut watched = Box::new(Watched { body, path, digest: Xxh3::new(), judged: Some(self) });
        watched.look_for_the_end();
        ServerBody::Watched(watched)
    }

    /// Counts the answer.
    pub(super) fn settle(self) {
        let Self { experiment, conn, slot, part, counts, symptoms, told } = self;
        if !counts {
            return;
        }
        let core = &conn.core;
        experiment.count(&part, symptoms, core.id, |of| core.with_scratch(slot, |s| s.policy.below(of.max(1))));
        if let (Some(told), 1..) = (told, symptoms) {
            let has = |symptom: &LitmusSymptom| symptoms & symptom.bit() != 0;
            let symptoms = LitmusSymptom::ALL.into_iter().filter(has).collect();
            experiment.tell(core.id, Told { symptoms, ..told });
        }
    }
}

/// The body of a server's answer, with a digest of what has passed.
pub(in crate::proxy) struct Watched {
    body: ServerBody,
    path: usize,
    digest: Xxh3,
    /// Until it has ended.
    judged: Option<Judged>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("body", &self.body).finish_non_exhaustive()
    }
}

impl Watched {
    pub(in crate::proxy) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.digest.update(data);
                }
                // Nobody asks for more after trailers.
                if frame.is_trailers() { self.end() } else { self.look_for_the_end() }
            }
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    pub(in crate::proxy) fn has_ended(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// A body whose length is known is not asked for its end.
    fn look_for_the_end(&mut self) {
        if self.body.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        let Some(mut judged) = self.judged.take() else { return };
        if judged.experiment.is_other_body(&judged.part, self.path, self.digest.digest()) {
            judged.symptoms |= LitmusSymptom::Body.bit();
        }
        judged.settle();
    }
}
