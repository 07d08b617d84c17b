//! Making a client's request into the one that servers get: checked, routed, rewritten, wrapped.
//!
//! Everything here is done once for a request, before the first try; nothing here waits.

use std::rc::Rc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body::Body as _;

use super::body::{Body, RequestBody, RequestLimits};
use super::canary;
use super::check::{self, LONGEST_HOST};
use super::connection::{Conn, Protocol};
use super::edits::{self, Asking, Known};
use super::exchange::Exchange;
use super::headers::{self, Noted, X_REQUEST_ID, X_SESSION_MOVED};
use super::inbound::Inbound;
use super::rewrite::rewrite;
use super::shadow;
use super::sticky::{self, Session};
use super::watch::FOREVER;
use super::{client, compress, explain, grpc, hot, http2, litmus, mirror, reply, request_id, retry, split, upgrade};
use super::{client_cert, https, underscores};
use crate::config::plan::{ListenerPlan, MoveSessions};
use crate::error::{Kind, ProxyError};
use crate::path::{self, Cleaned};
use crate::upstream::Asked;

/// A request as it is sent to servers, and what is needed to send it again.
pub(super) struct Outgoing {
    pub(super) request: Option<Request<RequestBody>>,
    /// A copy of the head of a request that may be sent again after it may have been sent.
    pub(super) replay: Option<(Method, Uri, HeaderMap)>,
    pub(super) idempotent: bool,
    pub(super) protocol: Option<HeaderValue>,
    /// What the server that is tried is told of where the session was.
    pub(super) moved: Option<HeaderValue>,
    /// Whether the request that is left to send says so already.
    was_moved: bool,
}

/// What finding the route has shown.
pub(super) struct Found {
    noted: Noted,
    /// The path as routes see it, where it is not the one that is forwarded.
    compared: Option<String>,
}

/// What a request has become.
pub(super) enum Prepared {
    /// It goes to a server, perhaps to switch to a protocol, perhaps in a session.
    Forward(Option<HeaderValue>, Option<Session>),
    /// The route answers it, with so many bytes.
    Answered(Response<Body>, usize),
}

/// Checks the request and finds its client and its route.
pub(super) fn find(exchange: &mut Exchange, request: &mut Request<Inbound>) -> Result<Found, ProxyError> {
    let conn = Rc::clone(&exchange.conn);
    let view = Rc::clone(&exchange.view);
    let listening = view.listeners.get(conn.slot).and_then(Option::as_ref).ok_or(ProxyError::new(Kind::Stopping))?;
    let noted = headers::note(request.headers());
    exchange.request_id = take_request_id(&conn, &listening.plan, request.headers_mut(), noted);
    if view.debug.is_some() {
        explain::begin(exchange, request.headers_mut());
    }
    if noted.has(Noted::UNDERSCORE) {
        underscores::settle(listening.plan.underscores_in_headers, request.headers_mut(), conn.core.cells())?;
    }
    if conn.protocol == Protocol::Http2 {
        http2::settle(request, &listening.plan)?;
    }
    check::check(request, noted)?;
    if noted.has(Noted::SESSION_MOVED) {
        // Only evenkeel knows that.
        request.headers_mut().remove(X_SESSION_MOVED);
    }
    let cleaned = clean_path(request, listening.plan.merge_slashes)?;
    if let Some(redirect) = &listening.plan.redirect_to_https
        && !client::says_https(&conn.peer, &listening.plan, request.headers(), noted)
        && let Some(error) = https::required(redirect, request)
    {
        return Err(error);
    }
    // Routes may look at headers, so what a stranger says of itself goes first.
    let identity = client::identify(
        &conn.peer,
        &listening.plan,
        conn.secure.is_some(),
        request.headers_mut(),
        noted,
        conn.core.cells(),
    );
    (exchange.client, exchange.is_https) = (identity.address, identity.is_https);
    if !listening.plan.access.admits(identity.address) {
        return Err(ProxyError::new(Kind::Forbidden));
    }
    if listening.plan.hides_client_cert {
        client_cert::hide(request.headers_mut());
        if let Some(told) = conn.secure.as_ref().and_then(|secure| secure.client.as_ref()) {
            told.write(request.headers_mut());
        }
    }

    let mut buffer = [0; LONGEST_HOST + 1];
    let routes = &listening.routes;
    let found = routes.find(&Asked {
        host: if routes.wants_host() { check::routing_host(request.headers(), &mut buffer) } else { "" },
        path: match request.uri().path() {
            "*" => "/",
            path => cleaned.compared.as_deref().unwrap_or(path),
        },
        query: request.uri().query(),
        method: request.method(),
        headers: request.headers(),
        client: identity.address,
    });
    let Some(position) = found else {
        conn.core.cells().no_route.inc();
        return Err(ProxyError::new(Kind::NoRoute));
    };
    exchange.route = Some(position);
    if !routes.all[position].plan.access.admits(identity.address) {
        return Err(ProxyError::new(Kind::Forbidden));
    }
    if !cleaned.escapes.is_within(routes.all[position].plan.allow_escapes) {
        return Err(ProxyError::new(Kind::BadRequest).because("the path has escapes that servers read differently"));
    }
    Ok(Found { noted, compared: cleaned.compared })
}

/// Answers the request where its route does, else rewrites its head for the server.
pub(super) fn prepare(
    exchange: &mut Exchange,
    request: &mut Request<Inbound>,
    found: &Found,
) -> Result<Prepared, ProxyError> {
    let conn = Rc::clone(&exchange.conn);
    let view = Rc::clone(&exchange.view);
    let (noted, compared) = (found.noted, found.compared.as_deref());
    let listening = view.listeners.get(conn.slot).and_then(Option::as_ref).ok_or(ProxyError::new(Kind::Stopping))?;
    let position = exchange.route.ok_or(ProxyError::new(Kind::Internal))?;
    let plan = &listening.routes.all[position].plan;
    if let Some((response, bytes)) = reply::reply(exchange, plan, request, compared)? {
        return Ok(Prepared::Answered(response, bytes));
    }
    let position = split::target(exchange, &listening.routes.all[position], request.headers_mut(), noted)
        .ok_or(ProxyError::new(Kind::Internal))?;
    exchange.target = Some(position);
    let upstream = &view.upstreams[position];
    if let Some(notice) = upstream.service.notice() {
        return Err(ProxyError::closed(&notice.message, notice.retry_after));
    }
    if let Some(options) = &plan.filters.compress {
        exchange.encoding = compress::negotiate(options, request.headers());
    }

    if let Some(length) = content_length(request.headers())
        && length > exchange.max_body()
    {
        return Err(ProxyError::new(Kind::BodyTooLarge));
    }
    exchange.wants_within = if noted.has(Noted::GRPC_TIMEOUT) { grpc::timeout(request.headers()) } else { None };
    // HTTP/2 has no Upgrade (RFC 9113 §8.6): such a server gets a request without it, as from a proxy that
    // knows of none.
    let may_switch = noted.has(Noted::UPGRADE) && upstream.plan.protocol.http2().is_none();
    if noted.has(Noted::UPGRADE) && !may_switch && conn.protocol == Protocol::Http2 {
        // A WebSocket over HTTP/2, whose client would take an answer without it for a tunnel.
        return Err(ProxyError::new(Kind::MethodRefused));
    }
    let protocol = if may_switch { upgrade::asks(request) } else { None };
    headers::strip_hop_by_hop(request.headers_mut(), noted);
    if noted.has(Noted::EXPECT) {
        // Answered on this hop: the parser says 100 when the server begins to take the body.
        request.headers_mut().remove(header::EXPECT);
    }
    if !noted.has(Noted::HOST) && !request.headers().contains_key(header::HOST) {
        // HTTP/1.0 without Host: RFC 9112 §3.2 wants an empty one where the target has no authority.
        request.headers_mut().insert(header::HOST, HeaderValue::from_static(""));
    }
    if let Some(by) = upstream.plan.policy.keyed() {
        let path = compared.unwrap_or(request.uri().path());
        exchange.key = by.key(path, request.uri().query(), request.headers());
    }
    let session = upstream.sticky.as_ref().map(|_| {
        let navigates = upstream.plan.drain.move_sessions == MoveSessions::Navigation && sticky::navigates(request);
        sticky::read(upstream, conn.core.id, request.headers_mut(), noted, exchange.is_https, navigates)
    });
    if let Some(watch) = &upstream.hot {
        hot::note(exchange, upstream, watch, session.as_ref(), request.headers_mut(), noted);
    }
    if let Some(branch) = &upstream.canary {
        canary::draw(exchange, &branch.canary, session.is_some(), request.headers_mut(), noted);
    }
    if let Some(shadow) = &upstream.shadow {
        let path = compared.unwrap_or(request.uri().path());
        shadow::ask(exchange, shadow, session.as_ref(), (path, request.uri().query(), request.headers()));
    }
    if let Some(experiment) = &upstream.litmus {
        litmus::begin(exchange, upstream, experiment, session.as_ref(), request, noted, compared);
    }
    if !plan.request_headers.is_empty() {
        if noted.has(Noted::UNDERSCORE) {
            underscores::yield_to(&plan.request_headers, request.headers_mut(), conn.core.cells());
        }
        let known = Known { exchange, request: Some(Asking::of(request)), captures: None };
        edits::make(&plan.request_headers, &known).apply(request.headers_mut());
    }
    if let Some(host) = &plan.upstream_host {
        request.headers_mut().insert(header::HOST, host.clone());
    }
    rewrite(exchange, plan, request.uri_mut(), compared)?;
    *request.version_mut() = Version::HTTP_11;
    Ok(Prepared::Forward(protocol, session))
}

/// Takes over a harmless id of the client, else makes one; the server and the client both get it.
fn take_request_id(conn: &Conn, plan: &ListenerPlan, headers: &mut HeaderMap, noted: Noted) -> Option<HeaderValue> {
    if !plan.request_id {
        return None;
    }
    if noted.has(Noted::REQUEST_ID) {
        let mut ids = headers.get_all(X_REQUEST_ID).iter();
        // Two ids are none: the log and the server could each believe another.
        if let (Some(id), None) = (ids.next(), ids.next())
            && request_id::is_harmless(id.as_bytes())
        {
            return Some(id.clone());
        }
    }
    let id = conn.core.ids.make();
    headers.insert(X_REQUEST_ID, id.clone());
    Some(id)
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    std::str::from_utf8(headers.get(header::CONTENT_LENGTH)?.as_bytes()).ok()?.parse().ok()
}

/// Brings the target's path to the one form that is compared and forwarded.
pub(super) fn clean_path<B>(request: &mut Request<B>, merge_slashes: bool) -> Result<Cleaned, ProxyError> {
    let uri = request.uri();
    if uri.path() == "*" {
        return Ok(Cleaned::default());
    }
    let bad = |why: &'static str| ProxyError::new(Kind::BadRequest).because(why);
    let mut cleaned = path::clean(uri.path(), merge_slashes).map_err(bad)?;
    if let Some(mut path) = cleaned.path.take() {
        if let Some(query) = uri.query() {
            path.push('?');
            path.push_str(query);
        }
        let target = PathAndQuery::try_from(path).map_err(|_| bad("the path is too long once it is escaped"))?;
        *request.uri_mut() = Uri::from(target);
    }
    Ok(cleaned)
}

/// Wraps the body, and keeps a copy of the head where the request may be sent twice.
pub(super) fn wrap(exchange: &mut Exchange, request: Request<Inbound>, protocol: Option<HeaderValue>) -> Outgoing {
    let (mut parts, mut incoming) = request.into_parts();
    // What the parser left there (the upgrade it offers) is of no use to a server's connection.
    parts.extensions.clear();
    if protocol.is_none()
        && let Some(copying) = mirror::begin(exchange, &parts)
    {
        if incoming.is_end_stream() {
            copying.start(Bytes::new());
        } else {
            incoming = copying.of(incoming);
        }
    }
    let conn = &exchange.conn;
    let timeouts = exchange.upstream_plan().map(|plan| plan.timeouts);
    let limits = RequestLimits {
        max: exchange.max_body(),
        between_bytes: conn.plan.between_bytes,
        taking: timeouts.map_or(FOREVER, |t| t.between_bytes),
        first_byte: timeouts.map_or(FOREVER, |t| t.first_byte),
    };
    let (body, flow) = RequestBody::new(incoming, &conn.core, &conn.watch, limits);
    if !body.is_empty() && body.size_hint().exact().is_none() {
        // Said outright, or the parser would take it that a GET has no body.
        parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let idempotent = retry::is_idempotent(&parts.method);
    let replay =
        (idempotent && body.is_empty()).then(|| (parts.method.clone(), parts.uri.clone(), parts.headers.clone()));
    exchange.flow = flow;
    Outgoing {
        request: Some(Request::from_parts(parts, body)),
        replay,
        idempotent,
        protocol,
        moved: None,
        was_moved: false,
    }
}

impl Outgoing {
    /// Has the request for the next try in its place, if there is one left to send.
    pub(super) fn ready(&mut self) -> Option<&mut Request<RequestBody>> {
        if self.request.is_none() {
            let (method, uri, headers) = self.replay.clone()?;
            let request = self.request.insert(Request::new(RequestBody::default()));
            (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
        }
        let request = self.request.as_mut()?;
        match &self.moved {
            Some(moved) => drop(request.headers_mut().insert(X_SESSION_MOVED, moved.clone())),
            // A try before may have been one to another server.
            None if self.was_moved => drop(request.headers_mut().remove(X_SESSION_MOVED)),
            None => {}
        }
        self.was_moved = self.moved.is_some();
        Some(request)
    }
}
