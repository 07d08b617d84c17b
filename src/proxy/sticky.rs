//! The sticky cookie on the request's path: read, hidden from the server, set only when it changes.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::headers::Noted;
use crate::balance::sticky_cookie::{self, Pin, Refused};
use crate::upstream::{Server, Upstream, clock};

/// What a client's cookie said.
#[derive(Debug)]
pub(super) struct Session {
    pin: Option<Pin>,
    now: u64,
    is_https: bool,
}

/// What an answer does to a session.
pub(super) struct Settled {
    /// For the log: `kept`, `new` or `moved`.
    pub(super) outcome: &'static str,
    pub(super) cookie: Option<HeaderValue>,
}

impl Session {
    /// The server that the client is pinned to.
    pub(super) fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }
}

/// Reads the cookie and takes it out of what the server gets.
pub(super) fn read(upstream: &Upstream, core: usize, headers: &mut HeaderMap, noted: Noted, is_https: bool) -> Session {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (Some(sticky), Some(options)) = (&upstream.sticky, upstream.plan.policy.sticky()) else {
        return Session { pin: None, now, is_https };
    };
    if !noted.has(Noted::COOKIE) {
        return Session { pin: None, now, is_https };
    }
    let lines = headers.get_all(header::COOKIE);
    let Some(value) = sticky_cookie::find(lines.iter().map(HeaderValue::as_bytes), &options.name) else {
        return Session { pin: None, now, is_https };
    };
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
    Session { pin, now, is_https }
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
/// A client is pinned anew only by an answer that is not a failure of the server.
pub(super) fn settle(
    upstream: &Upstream,
    core: usize,
    session: &Session,
    kept: bool,
    server: &Server,
    status: StatusCode,
) -> Option<Settled> {
    let (sticky, options) = (upstream.sticky.as_ref()?, upstream.plan.policy.sticky()?);
    let Session { pin, now, is_https } = *session;
    let cell = &sticky.cells[core];
    let (outcome, pin) = match pin {
        Some(pin) if kept => {
            cell.kept.inc();
            sticky.ledger.touch(pin.session, server.uid, clock::seconds());
            if !options.needs_renewal(&pin, now) {
                return Some(Settled { outcome: "kept", cookie: None });
            }
            ("kept", Pin { seen: now, ..pin })
        }
        _ if status.is_server_error() => return None,
        Some(pin) => {
            cell.moved.inc();
            ("moved", Pin { server: server.key, seen: now, ..pin })
        }
        None => {
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
