//! Interim answers (1xx) on their way from a server to a client.
//!
//! The parser of the server's side tells of them by a callback, which puts them into a slot. An HTTP/2
//! stream sends them as they are. The parser of an HTTP/1 client's side cannot: so they are written out
//! here, and the client's stream empties the slot whenever the parser has nothing of its own to write. The
//! callback must be `Send`, hence a lock, which is only ever taken when an interim answer has come.
//!
//! What this costs a request that gets none: the parser takes a callback from the request's extensions and
//! from nowhere else, and keeps what carried it, so each request to an HTTP/1 server needs a carrier of its
//! own. A clone of one is three small allocations, less than 100 ns in all, and cannot be had for less. It
//! is paid without being asked for because passing interim answers on is no choice of a proxy's (RFC 9110
//! §15.2). Servers of HTTP/2 are never asked, so their requests carry nothing.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, StatusCode, header};

use crate::proxy::headers;

/// Most interim answers to one request; a server that sends more is not trying to answer.
const MOST: usize = 32;
/// Most bytes of them that wait to be taken.
const LARGEST: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Waiting {
    heads: Vec<(StatusCode, HeaderMap)>,
    size: usize,
    count: usize,
    overrun: bool,
}

/// What both sides see of the interim answers to one client.
#[derive(Debug)]
struct Slot {
    /// Whether the lock has anything behind it.
    touched: AtomicBool,
    waiting: Mutex<Waiting>,
    client: Waker,
}

impl Slot {
    fn with<T>(&self, f: impl FnOnce(&mut Waiting) -> T) -> T {
        f(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A server has sent one.
    fn came(&self, status: StatusCode, fields: &HeaderMap) {
        self.with(|waiting| {
            // The parser goes on with what it has read until the alarm is seen: nobody is to get that.
            if waiting.overrun {
                return;
            }
            waiting.count += 1;
            // 100 answers an expectation, which is this hop's own matter.
            if status != StatusCode::CONTINUE {
                waiting.size += fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
                waiting.heads.push((status, for_clients(fields)));
            }
            waiting.overrun |= waiting.count > MOST || waiting.size > LARGEST;
        });
        self.touched.store(true, Ordering::Relaxed);
        self.client.wake_by_ref();
    }
}

/// The interim answers to the requests of one client, one after the other.
pub(super) struct Interim {
    slot: Arc<Slot>,
    /// Whether a request was sent with the callback.
    used: Cell<bool>,
    /// Carries the callback, cloned for each request but the first: most HTTP/2 streams send one only.
    carrier: OnceCell<Extensions>,
}

impl fmt::Debug for Interim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot.fmt(f)
    }
}

impl Interim {
    /// For the client whose connection is served by the task of that waker.
    pub(super) fn new(client: Waker) -> Self {
        let slot = Arc::new(Slot { touched: AtomicBool::new(false), waiting: Mutex::default(), client });
        Self { slot, used: Cell::new(false), carrier: OnceCell::new() }
    }

    /// Makes the parser tell of those to this request.
    pub(super) fn attach<B>(&self, request: &mut Request<B>) {
        if !self.used.replace(true) {
            return self.listen(request);
        }
        let carrier = self.carrier.get_or_init(|| {
            let mut carrier = Request::new(());
            self.listen(&mut carrier);
            std::mem::take(carrier.extensions_mut())
        });
        *request.extensions_mut() = carrier.clone();
    }

    fn listen<B>(&self, request: &mut Request<B>) {
        let slot = Arc::clone(&self.slot);
        hyper::ext::on_informational(request, move |answer| slot.came(answer.status(), answer.headers()));
    }

    /// Forgets those to the request before, or to the try before: each server may send as many as one may.
    pub(super) fn reset(&self) {
        if self.slot.touched.swap(false, Ordering::Relaxed) {
            self.slot.with(|waiting| *waiting = Waiting::default());
        }
    }

    /// Takes those that have come.
    pub(super) fn take(&self) -> Vec<(StatusCode, HeaderMap)> {
        if !self.slot.touched.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.slot.with(|waiting| {
            waiting.size = 0;
            std::mem::take(&mut waiting.heads)
        })
    }

    /// Takes those that have come, as HTTP/1.1 writes them.
    pub(super) fn take_written(&self) -> Option<Bytes> {
        let mut bytes = Vec::new();
        for (status, fields) in self.take() {
            write(status, &fields, &mut bytes);
        }
        (!bytes.is_empty()).then(|| bytes.into())
    }

    /// Whether a server has sent more than anybody would.
    pub(super) fn is_overrun(&self) -> bool {
        self.slot.touched.load(Ordering::Relaxed) && self.slot.with(|waiting| waiting.overrun)
    }
}

/// The fields without what belongs to the server's hop or would announce a body (RFC 9110 §7.6.1, RFC
/// 9112 §6).
fn for_clients(fields: &HeaderMap) -> HeaderMap {
    let mut fields = fields.clone();
    let noted = headers::note(&fields);
    headers::strip_hop_by_hop(&mut fields, noted);
    fields.remove(header::CONTENT_LENGTH);
    fields
}

fn write(status: StatusCode, fields: &HeaderMap, bytes: &mut Vec<u8>) {
    let reason = status.canonical_reason().unwrap_or("");
    bytes.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
    for (name, value) in fields {
        bytes.extend_from_slice(name.as_ref());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
}
