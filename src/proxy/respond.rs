//! Turning a server's answer into the client's: judged, noted, stripped, with the cookies of whoever sets one, and
//! its body through the filters of the route.
//!
//! Nothing here waits, and nothing is sent again.

use std::rc::Rc;
use std::time::Duration;

use http::response::Parts;
use http::{Response, Version, header};
use http_body::Body as _;

use super::asked;
use super::body::Body;
use super::canary;
use super::check;
use super::compress;
use super::edits::{self, Known};
use super::error_page;
use super::exchange::Exchange;
use super::explain;
use super::headers::{self, Noted, X_REQUEST_ID, has_token};
use super::hot;
use super::litmus;
use super::pool::Lease;
use super::prepare::content_length;
use super::request::Refused;
use super::server_body::ServerBody;
use super::split;
use super::sticky::{self, Session};
use super::upgrade::{self, Answer, Tunnel};
use super::watch::Phase;
use crate::error::{Kind, ProxyError, Sent};
use crate::metrics::cells::MoveReason;

/// The head of an answer and where it came from.
pub(super) struct Answered {
    pub(super) answer: Answer,
    /// Why the session that it belongs to comes to another server.
    pub(super) moved: Option<MoveReason>,
}

/// Turns a server's answer into the client's.
pub(super) fn respond(
    mut exchange: Box<Exchange>,
    answered: Answered,
    session: Option<&Session>,
) -> Result<Response<Body>, Refused> {
    let Answered { answer, moved } = answered;
    let (response, far, lease) = match answer {
        Answer::Ordinary(response, lease) => (response, None, Some(lease)),
        Answer::Switched(response, far) => (response, Some(far), None),
    };
    let (mut head, mut incoming) = response.into_parts();
    // A fault where it hurts: with a claim and a connection in hand.
    #[cfg(test)]
    assert!(!head.headers.contains_key("x-fault"), "a fault in one request");
    let noted = headers::note(&head.headers);
    if noted.has(Noted::TRANSFER_ENCODING) && !check::is_framed_once(&head, noted) {
        let error = ProxyError::sent(Kind::BadAnswer, Sent::Answered);
        return Err((exchange, error.because("Transfer-Encoding is not a single `chunked` without a length")));
    }
    let closes = noted.has(Noted::CONNECTION) && has_token(head.headers.get_all(header::CONNECTION), "close");
    keep(&mut exchange, lease, &head, noted, closes);
    asked::hear(&exchange, &mut head.headers);
    if let Some(taking) = &exchange.litmus {
        incoming = litmus::note(&exchange, taking, &head, incoming);
    }
    let protocol = far.as_ref().and_then(|_| head.headers.get(header::UPGRADE).cloned());
    headers::strip_hop_by_hop(&mut head.headers, noted);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    if let Some(id) = &exchange.request_id {
        head.headers.insert(X_REQUEST_ID, id.clone());
    }
    if let (Some(session), Some(upstream), Some(claim)) = (session, exchange.upstream(), &exchange.claim)
        && let Some(settled) = sticky::settle(
            upstream,
            exchange.conn.core.id,
            session,
            moved,
            [litmus::home(&exchange, session).unwrap_or(claim.server()), claim.server()],
            &head,
        )
    {
        exchange.sticky = Some(settled.outcome);
        if let Some(cookie) = settled.cookie {
            head.headers.append(header::SET_COOKIE, cookie);
        }
    }
    for cookie in
        [split::cookie(&exchange), canary::cookie(&exchange), hot::cookie(&exchange), litmus::cookie(&exchange)]
            .into_iter()
            .flatten()
    {
        head.headers.append(header::SET_COOKIE, cookie);
    }
    explain::tell(&exchange, &mut head.headers, None);
    if let Some(route) = exchange.route()
        && !route.plan.response_headers.is_empty()
    {
        let known = Known { exchange: &exchange, request: None, captures: None };
        edits::make(&route.plan.response_headers, &known).apply(&mut head.headers);
    }
    exchange.answered(head.status.as_u16());
    let Some(far) = far else {
        let body = filtered(&mut head, incoming, exchange)?;
        return Ok(Response::from_parts(head, body));
    };
    let is_web_socket = protocol.as_ref().is_some_and(|protocol| has_token([protocol], "websocket"));
    upgrade::accept(&mut head, protocol);
    let conn = Rc::clone(&exchange.conn);
    conn.watch.enter(Phase::Tunnel, conn.core.clock.get(), Duration::ZERO);
    *conn.tunnel.borrow_mut() = Some(Tunnel { far, exchange, is_web_socket });
    Ok(Response::from_parts(head, Body::Empty))
}

/// The body for the client, through the filters of the route.
fn filtered(head: &mut Parts, incoming: ServerBody, mut exchange: Box<Exchange>) -> Result<Body, Refused> {
    if error_page::intercepts(&exchange, head.status) {
        return Ok(error_page::intercept(head, &incoming, &mut exchange));
    }
    let Some(route) = exchange.route() else { return Ok(Body::passing(incoming, exchange)) };
    let Some(plan) = &route.plan.filters.compress else { return Ok(Body::passing(incoming, exchange)) };
    // An empty answer has nothing to encode; that to a HEAD tells what a GET would get.
    if incoming.is_end_stream() && !exchange.form.is_head() {
        return Ok(Body::passing(incoming, exchange));
    }
    // What a HEAD is told of the length is in its head alone.
    let length = incoming.size_hint().exact().filter(|length| *length > 0).or_else(|| content_length(&head.headers));
    let wanted = exchange.encoding;
    if !compress::apply(plan, wanted, head, length) {
        return Ok(Body::passing(incoming, exchange));
    }
    if !incoming.is_end_stream() {
        route.cells[exchange.conn.core.id].compressed.inc();
    }
    let level = plan.level;
    match wanted {
        Some(encoding) => Body::compressed(incoming, exchange, encoding, level),
        None => Ok(Body::passing(incoming, exchange)),
    }
}

/// Notes whether the server's connection may carry another request.
fn keep(exchange: &mut Exchange, lease: Option<Lease>, head: &Parts, noted: Noted, closes: bool) {
    let old = head.version < Version::HTTP_11
        && !(noted.has(Noted::CONNECTION) && has_token(head.headers.get_all(header::CONNECTION), "keep-alive"));
    exchange.reusable = !closes && !old;
    exchange.lease = lease;
}
