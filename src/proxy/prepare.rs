//! Making a client's request into the one that servers get: checked, routed, rewritten, wrapped.
//!
//! Everything here is done once for a request, before the first try; nothing here waits.

use std::rc::Rc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use http_body::Body as _;

use super::body::{RequestBody, RequestLimits};
use super::check::{self, LONGEST_HOST};
use super::connection::Conn;
use super::exchange::Exchange;
use super::headers::{self, Noted, X_REQUEST_ID};
use super::inbound::Inbound;
use super::sticky::{self, Session};
use super::watch::FOREVER;
use super::{client, compress, grpc, http2, mirror, request_id, retry, upgrade};
use super::{client_cert, https};
use crate::config::plan::{ListenerPlan, RoutePlan};
use crate::error::{Kind, ProxyError};
use crate::path::{self, Cleaned};

/// A request as it is sent to servers, and what is needed to send it again.
pub(super) struct Outgoing {
    pub(super) request: Option<Request<RequestBody>>,
    /// A copy of the head of a request that may be sent again after it may have been sent.
    pub(super) replay: Option<(Method, Uri, HeaderMap)>,
    pub(super) idempotent: bool,
    pub(super) protocol: Option<HeaderValue>,
}

/// Checks the request, finds its route and its client, and rewrites its head for the server.
pub(super) fn prepare(
    exchange: &mut Exchange,
    request: &mut Request<Inbound>,
) -> Result<(Option<HeaderValue>, Option<Session>), ProxyError> {
    let conn = Rc::clone(&exchange.conn);
    let view = Rc::clone(&exchange.view);
    let listening = view.listeners.get(conn.slot).and_then(Option::as_ref).ok_or(ProxyError::new(Kind::Stopping))?;
    let noted = headers::note(request.headers());
    exchange.request_id = take_request_id(&conn, &listening.plan, request.headers_mut(), noted);
    if request.version() == Version::HTTP_2 {
        http2::settle(request)?;
    }
    check::check(request, noted)?;

    let mut buffer = [0; LONGEST_HOST + 1];
    let cleaned = clean_path(request, listening.plan.merge_slashes)?;
    if let Some(redirect) = &listening.plan.redirect_to_https
        && !client::says_https(&conn.peer, &listening.plan, request.headers(), noted)
        && let Some(error) = https::required(redirect, request)
    {
        return Err(error);
    }
    let host = if listening.routes.wants_host() { check::routing_host(request.headers(), &mut buffer) } else { "" };
    let path = match request.uri().path() {
        "*" => "/",
        path => cleaned.compared.as_deref().unwrap_or(path),
    };
    let Some(route) = listening.routes.find(host, path) else {
        conn.core.cells().no_route.inc();
        return Err(ProxyError::new(Kind::NoRoute));
    };
    exchange.route = Some(route);
    let route = &listening.routes.all[route];
    if !cleaned.escapes.is_within(route.plan.allow_escapes) {
        return Err(ProxyError::new(Kind::BadRequest).because("the path has escapes that servers read differently"));
    }
    if let Some(plan) = &route.plan.filters.compress {
        exchange.encoding = compress::negotiate(plan, request.headers());
    }
    let upstream = &view.upstreams[route.upstream];

    if let Some(length) = content_length(request.headers())
        && length > listening.plan.max_body
    {
        return Err(ProxyError::new(Kind::BodyTooLarge));
    }
    exchange.wants_within = if noted.has(Noted::GRPC_TIMEOUT) { grpc::timeout(request.headers()) } else { None };
    // HTTP/2 has no Upgrade (RFC 9113 §8.6): such a server gets a request without it, as from a proxy that
    // knows of none.
    let may_switch = noted.has(Noted::UPGRADE) && upstream.plan.protocol.http2().is_none();
    let protocol = if may_switch { upgrade::asks(request) } else { None };
    headers::strip_hop_by_hop(request.headers_mut(), noted);
    if noted.has(Noted::EXPECT) {
        // Answered on this hop: the parser says 100 when the server begins to take the body.
        request.headers_mut().remove(header::EXPECT);
    }
    let identity = client::identify(
        &conn.peer,
        &listening.plan,
        conn.secure.is_some(),
        request.headers_mut(),
        noted,
        conn.core.cells(),
    );
    if listening.plan.hides_client_cert {
        client_cert::hide(request.headers_mut());
        if let Some(told) = conn.secure.as_ref().and_then(|secure| secure.client.as_ref()) {
            told.write(request.headers_mut());
        }
    }
    exchange.client = identity.address;
    if !noted.has(Noted::HOST) && !request.headers().contains_key(header::HOST) {
        // HTTP/1.0 without Host: RFC 9112 §3.2 wants an empty one where the target has no authority.
        request.headers_mut().insert(header::HOST, HeaderValue::from_static(""));
    }
    let session = upstream
        .sticky
        .as_ref()
        .map(|_| sticky::read(upstream, conn.core.id, request.headers_mut(), noted, identity.is_https));
    if route.plan.strip_prefix {
        strip_prefix(request.uri_mut(), &route.plan);
    }
    *request.version_mut() = Version::HTTP_11;
    Ok((protocol, session))
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

/// Takes the route's prefix off the target: as many segments as it has, since they may be spelled in
/// another way than the route spells them.
fn strip_prefix(uri: &mut Uri, route: &RoutePlan) {
    let segments = route.path.split('/').filter(|segment| !segment.is_empty()).count();
    let Some(target) = uri.path_and_query() else { return };
    let path_ends = target.path().len();
    let rest = match target.path().match_indices('/').nth(segments) {
        Some((at, _)) => &target.as_str()[at..],
        None => &target.as_str()[path_ends..],
    };
    let stripped =
        if rest.starts_with('/') { PathAndQuery::try_from(rest) } else { PathAndQuery::try_from(format!("/{rest}")) };
    if let Ok(stripped) = stripped {
        *uri = Uri::from(stripped);
    }
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
    let timeouts = exchange.upstream().map(|u| u.plan.timeouts);
    let limits = RequestLimits {
        max: conn.plan.max_body,
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
    let replay = (idempotent && body.is_empty() && protocol.is_none())
        .then(|| (parts.method.clone(), parts.uri.clone(), parts.headers.clone()));
    exchange.flow = flow;
    Outgoing { request: Some(Request::from_parts(parts, body)), replay, idempotent, protocol }
}

impl Outgoing {
    /// The request for the next try, if there is one left to send.
    pub(super) fn take(&mut self) -> Option<Request<RequestBody>> {
        self.request.take().or_else(|| {
            let (method, uri, headers) = self.replay.clone()?;
            let mut request = Request::new(RequestBody::default());
            (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
            Some(request)
        })
    }
}
