//! The sticky cookie on the request's path: read, hidden from the server, set only when it changes. One that is
//! the application's is only read ([`borrowed`]).

mod borrowed;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, header};

use super::headers::Noted;
use crate::balance::sticky_cookie::{self, Carrier, Pin, Refused};
use crate::metrics::cells::MoveReason;
use crate::upstream::{Server, Sticky, Upstream, clock};

/// What a client's cookie said.
#[derive(Debug)]
pub(super) struct Session {
    pin: Option<Pin>,
    /// The number of the application's session, where it is the application's cookie that says so.
    borrowed: Option<u64>,
    now: u64,
    is_https: bool,
    /// Whether the request may take the session to another server, where its own drains.
    navigates: bool,
}

/// What an answer does to a session.
pub(super) struct Settled {
    /// For the log: `kept`, `new`, `moved`, or `over` where the application ends the session.
    pub(super) outcome: &'static str,
    pub(super) cookie: Option<HeaderValue>,
}

impl Session {
    /// The server that the client is pinned to.
    pub(super) fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }

    /// Seconds since the client was pinned, if it is.
    pub(super) fn age(&self) -> Option<u64> {
        self.pin.as_ref().map(|pin| self.now.saturating_sub(pin.issued))
    }

    /// Whether this request takes the session away from its server.
    pub(super) fn leaves(&self, upstream: &Upstream) -> bool {
        self.navigates && self.pin.as_ref().is_some_and(|pin| upstream.may_leave(pin))
    }

    /// Why the session comes to `server`, if that is not its own. `leaves` as before the server was picked.
    pub(super) fn moved(&self, upstream: &Upstream, server: &Server, leaves: bool) -> Option<Moved> {
        let pin = self.pin.as_ref().filter(|pin| pin.server != server.key)?;
        let reason = if leaves { MoveReason::Drain } else { upstream.why_moved(pin) };
        let told = match upstream.pinned(pin) {
            Some(from) => format!("from={}; reason={}", from.name, reason.name()),
            None => format!("reason={}", reason.name()),
        };
        Some(Moved { reason, told: HeaderValue::try_from(told).ok() })
    }
}

/// A session on its way to another server.
pub(super) struct Moved {
    pub(super) reason: MoveReason,
    /// What that server is told.
    pub(super) told: Option<HeaderValue>,
}

/// Whether a request asks for a page in the place of the one before: nothing is under way that a move could
/// tear apart.
pub(super) fn navigates<B>(request: &Request<B>) -> bool {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return false;
    }
    match request.headers().get("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => request.headers().get_all(header::ACCEPT).iter().any(|accept| {
            let mut types = accept.as_bytes().split(|byte| *byte == b',');
            types.any(|name| {
                let name = name.split(|byte| *byte == b';').next().unwrap_or_default();
                name.trim_ascii().eq_ignore_ascii_case(b"text/html")
            })
        }),
    }
}

/// Reads the cookie and takes it out of what the server gets.
pub(super) fn read(
    upstream: &Upstream,
    core: usize,
    headers: &mut HeaderMap,
    noted: Noted,
    is_https: bool,
    navigates: bool,
) -> Session {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let nobody = Session { pin: None, borrowed: None, now, is_https, navigates };
    let (Some(sticky), Some(options)) = (&upstream.sticky, upstream.plan.policy.sticky()) else { return nobody };
    if !noted.has(Noted::COOKIE) {
        return nobody;
    }
    let carrier = options.carrier();
    let name = carrier.borrowed().unwrap_or(&options.name);
    let lines = headers.get_all(header::COOKIE);
    let Some(value) = sticky_cookie::find(lines.iter().map(HeaderValue::as_bytes), name) else { return nobody };
    if carrier != Carrier::Own {
        let (borrowed, pin) = borrowed::pin(upstream, sticky, options, core, value, now);
        return Session { pin, borrowed: Some(borrowed), ..nobody };
    }
    let opened = sticky.keys.load().open(options, upstream.name(), value, now);
    let cell = &sticky.cells[core];
    let pin = match opened {
        Ok(pin) => Some(pin),
        Err(Refused::Invalid) => {
            cell.invalid.inc();
            None
        }
        Err(Refused::Expired) => {
            cell.expired.inc();
            None
        }
    };
    hide(headers, &options.name);
    Session { pin, ..nobody }
}

/// Takes every cookie of that name out of what the server gets.
pub(super) fn hide(headers: &mut HeaderMap, name: &str) {
    let mut all = headers.get_all(header::COOKIE).iter();
    // Nearly always there is one line; it costs no more than what is left of it.
    if let (Some(line), None) = (all.next(), all.next()) {
        match sticky_cookie::strip(line.as_bytes(), name) {
            None => {}
            Some(rest) if rest.is_empty() => drop(headers.remove(header::COOKIE)),
            Some(rest) => {
                if let Ok(rest) = HeaderValue::from_maybe_shared(Bytes::from(rest)) {
                    headers.insert(header::COOKIE, rest);
                }
            }
        }
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for line in lines {
        match sticky_cookie::strip(line.as_bytes(), name) {
            None => {
                headers.append(header::COOKIE, line);
            }
            Some(rest) if rest.is_empty() => {}
            Some(rest) => {
                if let Ok(rest) = HeaderValue::from_bytes(&rest) {
                    headers.append(header::COOKIE, rest);
                }
            }
        }
    }
}

/// Notes in the ledger where the session is now, and returns the `Set-Cookie` that the client needs.
/// A client is pinned anew only by an answer that is not a failure of the server; `moved` says why. The first server
/// is that of the session, the other the one that answered: nearly always the same, but for one who was moved on
/// purpose.
pub(super) fn settle(
    upstream: &Upstream,
    core: usize,
    session: &Session,
    moved: Option<MoveReason>,
    [server, answered]: [&Server; 2],
    answer: &Parts,
) -> Option<Settled> {
    let (sticky, options) = (upstream.sticky.as_ref()?, upstream.plan.policy.sticky()?);
    if options.carrier() != Carrier::Own {
        return borrowed::settle(upstream, sticky, options, core, session, moved, [server, answered], answer);
    }
    let Session { pin, now, is_https, .. } = *session;
    let cell = &sticky.cells[core];
    let (outcome, pin) = match (pin, moved) {
        (Some(pin), None) => {
            cell.kept.inc();
            sticky.ledger.touch(pin.session, server.uid, clock::seconds());
            if !options.needs_renewal(&pin, now) {
                return Some(Settled { outcome: "kept", cookie: None });
            }
            ("kept", Pin { seen: now, ..pin })
        }
        _ if answer.status.is_server_error() => return None,
        (Some(pin), Some(reason)) => {
            cell.moved[reason as usize].inc();
            if reason != MoveReason::Drain && is_in_use(upstream, sticky, &pin, now) {
                cell.lost[reason as usize].inc();
            }
            ("moved", Pin { server: server.key, seen: now, ..pin })
        }
        (None, _) => {
            cell.new.inc();
            let mut random = [0; 8];
            aws_lc_rs::rand::fill(&mut random).ok()?;
            ("new", Pin { server: server.key, session: u64::from_ne_bytes(random), issued: now, seen: now })
        }
    };
    sticky.ledger.touch(pin.session, server.uid, clock::seconds());
    let mut nonce = [0; 12];
    aws_lc_rs::rand::fill(&mut nonce).ok()?;
    let value = sticky.keys.load().seal(options, upstream.name(), &pin, nonce);
    Some(Settled { outcome, cookie: HeaderValue::try_from(options.set_cookie(&value, is_https)).ok() })
}

/// Whether a drain would have waited for the session. The cookie says when it was last seen only roughly,
/// but where the ledger does not know it (it was on another replica, or before a restart) there is no more.
fn is_in_use(upstream: &Upstream, sticky: &Sticky, pin: &Pin, now: u64) -> bool {
    let idle = match sticky.ledger.last_seen(pin.session) {
        Some(seen) => u64::from(clock::seconds().saturating_sub(seen)),
        None => now.saturating_sub(pin.seen),
    };
    idle <= upstream.plan.drain.sessions_idle.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_navigation_is_a_safe_request_for_a_page() {
        let navigation = |method: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            navigates(&request.body(()).unwrap())
        };
        let page = ("accept", "application/xml;q=0.9, TEXT/html;q=0.8");
        assert!(navigation("GET", &[("sec-fetch-mode", "navigate")]));
        assert!(navigation("HEAD", &[page]));
        assert!(navigation("GET", &[("accept", "image/png"), page]));
        assert!(!navigation("POST", &[("sec-fetch-mode", "navigate"), page]));
        // A script of the page asks for a part of it: what a browser says of that goes before what it accepts.
        assert!(!navigation("GET", &[("sec-fetch-mode", "cors"), page]));
        assert!(!navigation("GET", &[("accept", "text/html5, */*")]));
        assert!(!navigation("GET", &[]));
    }
}
