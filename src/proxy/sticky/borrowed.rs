//! Sessions of the application's own cookie: where they are is in the ledger, and nowhere else.
//!
//! What the ledger knows goes before what a cookie names, so that a session which had to move stays where it is.

use http::response::Parts;
use http::{HeaderValue, header};

use super::{Session, Settled, is_in_use};
use crate::balance::sticky_cookie::{self, Given, Pin, StickyCookie};
use crate::metrics::cells::MoveReason;
use crate::upstream::{Server, Sticky, Upstream, clock};

/// The key of a server that is gone.
const NOBODY: u64 = 0;

/// The session that a client's cookie is of, and the server that it is pinned to, if it is to any.
pub(super) fn pin(
    upstream: &Upstream,
    sticky: &Sticky,
    options: &StickyCookie,
    core: usize,
    value: &[u8],
    now: u64,
) -> (u64, Option<Pin>) {
    let session = sticky_cookie::session_of(value);
    // Its age is not known; since it was last seen is what can be told.
    let pin = |server: u64, idle: u64| {
        let seen = now.saturating_sub(idle);
        Some(Pin { server, session, issued: seen, seen })
    };
    if let Some((uid, seen)) = sticky.ledger.find(session) {
        let idle = u64::from(clock::seconds().saturating_sub(seen));
        let member = upstream.member_by_uid(uid).map(|server| server.key);
        // A server that has another address now is another one, of the same name: a cookie that names it knows
        // better than the ledger.
        let named = || options.carrier().server(value).filter(|key| upstream.member(*key).is_some());
        if idle <= options.idle.as_secs() {
            return (session, pin(member.or_else(named).unwrap_or(NOBODY), idle));
        }
        sticky.cells[core].expired.inc();
    }
    let Some(server) = options.carrier().server(value) else { return (session, None) };
    if upstream.member(server).is_some() {
        return (session, pin(server, 0));
    }
    sticky.cells[core].invalid.inc();
    (session, None)
}

/// Notes where the session is after an answer, which may begin one, give it another value, or end it.
#[expect(clippy::too_many_arguments, reason = "those of `settle`, and what it has looked up")]
pub(super) fn settle(
    upstream: &Upstream,
    sticky: &Sticky,
    options: &StickyCookie,
    core: usize,
    session: &Session,
    moved: Option<MoveReason>,
    [server, answered]: [&Server; 2],
    answer: &Parts,
) -> Option<Settled> {
    let cell = &sticky.cells[core];
    let ledger = &sticky.ledger;
    let now = clock::seconds();
    let set = answer.headers.get_all(header::SET_COOKIE);
    let given = options.carrier().given(set.iter().map(HeaderValue::as_bytes), session.now);
    let failed = answer.status.is_server_error();
    let outcome = match (session.pin, moved) {
        (Some(pin), None) => {
            cell.kept.inc();
            ledger.touch(pin.session, server.uid, now);
            "kept"
        }
        _ if failed => return None,
        (Some(pin), Some(reason)) => {
            cell.moved[reason as usize].inc();
            if reason != MoveReason::Drain && is_in_use(upstream, sticky, &pin, session.now) {
                cell.lost[reason as usize].inc();
            }
            ledger.touch(pin.session, server.uid, now);
            "moved"
        }
        // The server took a session that nobody knows here: of a time before this process, or made up. From now
        // on it goes there, but nobody is put out for it.
        (None, _) => match (session.borrowed, given) {
            (Some(number), None) if ledger.touch_if_room(number, server.uid, now) => {
                cell.new.inc();
                "new"
            }
            (Some(_), None) => return None,
            (_, Some(Given::Session(..))) => {
                cell.new.inc();
                "new"
            }
            (_, Some(Given::Over)) => "over",
            (None, None) => return None,
        },
    };
    let outcome = match given {
        // An error page may begin a session as well, but a pin to a server that fails helps nobody.
        Some(_) if failed => outcome,
        Some(Given::Session(number, named)) => {
            // A session that is new is where it was begun; one that was sent once more stays where it is.
            let begun = if session.borrowed == Some(number) { server.uid } else { answered.uid };
            // Where the application names another server, that is where it has put the session.
            let named = named.and_then(|key| upstream.member(key)).map_or(begun, |server| server.uid);
            if let Some(old) = session.borrowed.filter(|old| *old != number) {
                ledger.forget(old);
            }
            ledger.touch(number, named, now);
            outcome
        }
        Some(Given::Over) => {
            if let Some(old) = session.borrowed {
                ledger.forget(old);
            }
            "over"
        }
        None => outcome,
    };
    Some(Settled { outcome, cookie: None })
}
