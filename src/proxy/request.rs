//! The story of one request: route, pick, claim, forward, respond.
//!
//! This is the only place that retries. What may be retried is decided in [`super::retry`]; what an
//! error means to the client in [`crate::error`]; everything that has to happen at the end, whichever
//! way it ends, in [`super::exchange`].

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Body as _;

use super::answer::{self, Form};
use super::basic_auth;
use super::body::Body;
use super::connection::{Conn, Protocol};
use super::core::{CoreClaim, ServerRef, View};
use super::error_page;
use super::exchange::Exchange;
use super::explain;
use super::forward::{self, Failure};
use super::https;
use super::inbound::Inbound;
use super::prepare::{Found, Outgoing, Prepared, find, prepare, wrap};
use super::queue;
use super::respond::{Answered, respond};
use super::retry;
use super::shadow;
use super::sticky::Session;
use super::upgrade::{self, Answer};
use crate::balance::Pick;
use crate::error::{Kind, ProxyError, Sent};
use crate::upstream::litmus::Part;
use crate::upstream::{Claim, Refused as Unclaimable, Tried, Upstream, Wish};

/// An answer that is on its way.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

/// Serves one request, whatever becomes of it.
///
/// The size of this future is paid for by every request: it is written when the request begins, and is what is
/// touched whenever it goes on. So it has room for what is sent, once, and for nothing that few requests need.
/// What an `async` block captures and borrows is there once, unlike the arguments of an `async fn`.
pub(super) fn handle(conn: Rc<Conn>, mut request: Request<Inbound>) -> Answering {
    Box::pin(async move {
        let now = conn.core.now();
        conn.linger.set(false);
        conn.entry.count_request();
        let form = Form::of(request.method(), request.headers());
        let mut exchange = Box::new(Exchange::begin(&conn, conn.core.view_of(conn.slot), &request, now));
        exchange.form = form;
        let mut found = find(&mut exchange, &mut request);
        if found.is_ok() && basic_auth::is_asked(&exchange) {
            // Boxed, since most routes ask nobody.
            if let Err(error) = Box::pin(basic_auth::admit(&mut exchange, request.headers_mut())).await {
                found = Err(error);
            }
        }
        let (mut exchange, mut outgoing, session) = match begin(exchange, request, found, now) {
            Ok(begun) => begun,
            Err(over) => return Ok(finish(&conn, *over)),
        };
        let sent = send(&mut exchange, &mut outgoing, session.as_ref()).await;
        let served = match sent {
            Ok(answered) => respond(exchange, answered, session.as_ref()),
            Err(error) => Err((exchange, error)),
        };
        Ok(finish(&conn, served))
    })
}

/// A request that goes to a server, perhaps in a session.
type Begun = (Box<Exchange>, Outgoing, Option<Session>);

/// Makes of the request what is sent, unless the route or an error answers it.
fn begin(
    mut exchange: Box<Exchange>,
    mut request: Request<Inbound>,
    found: Result<Found, ProxyError>,
    now: Instant,
) -> Result<Begun, Box<Result<Response<Body>, Refused>>> {
    let prepared = found.and_then(|found| prepare(&mut exchange, &mut request, &found));
    let (protocol, session) = match prepared {
        Ok(Prepared::Forward(protocol, session)) => (protocol, session),
        Ok(Prepared::Answered(response, bytes)) => {
            exchange.conn.linger.set(!request.body().is_end_stream());
            return Err(Box::new(Ok(reply(exchange, response, bytes))));
        }
        Err(error) => {
            // The body stays unread.
            exchange.conn.linger.set(!request.body().is_end_stream());
            return Err(Box::new(Err((exchange, error))));
        }
    };
    let outgoing = wrap(&mut exchange, request, protocol);
    let own = exchange.upstream_plan().and_then(|plan| plan.timeouts.request);
    let wanted = exchange.wants_within;
    if let Some(limit) = [own, wanted].into_iter().flatten().min() {
        exchange.conn.watch.limit_total(Some(now + limit), own != Some(limit));
    }
    Ok((exchange, outgoing, session))
}

/// The answer as it leaves: with what is said of an error, and of the connection.
fn finish(conn: &Conn, served: Result<Response<Body>, Refused>) -> Response<Body> {
    let mut response = match served {
        Ok(response) => response,
        Err(refused) => {
            let (mut exchange, error) = refused;
            let (mut response, mut bytes) = answer::error(&error, exchange.form, exchange.request_id.as_ref());
            explain::tell(&exchange, response.headers_mut(), Some(&error));
            https::tell(&error, &mut response);
            basic_auth::tell(&error, &exchange, response.headers_mut());
            let kind = error.kind;
            if let Some(length) = error_page::dress(&mut response, &exchange, kind.reason(), answer::message(&error)) {
                bytes = length;
            }
            exchange.refused(&error, bytes);
            drop(exchange);
            conn.idle();
            if conn.linger.get() && conn.protocol == Protocol::Http1 {
                // A body is left unread, so no further request can be.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    if let Some(hsts) = conn.secure.as_ref().and_then(|secure| secure.hsts.as_ref()) {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    if conn.protocol == Protocol::Http1 && conn.is_ending() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(wire) = &conn.wire {
        wire.answer();
    }
    response
}

/// An exchange that the proxy has to answer itself, and why.
pub(super) type Refused = (Box<Exchange>, ProxyError);

/// Ends an exchange with the answer of its route.
fn reply(mut exchange: Box<Exchange>, mut response: Response<Body>, bytes: usize) -> Response<Body> {
    explain::tell(&exchange, response.headers_mut(), None);
    exchange.replied(response.status().as_u16(), bytes);
    let conn = Rc::clone(&exchange.conn);
    drop(exchange);
    conn.idle();
    if conn.linger.get() {
        // A body is left unread, so no further request can be.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Picks, claims and sends until there is an answer or no further try is allowed.
async fn send(
    exchange: &mut Exchange,
    outgoing: &mut Outgoing,
    session: Option<&Session>,
) -> Result<Answered, ProxyError> {
    let conn = Rc::clone(&exchange.conn);
    let view = Rc::clone(&exchange.view);
    let mut view = view;
    let mut tried = Tried::default();
    let mut last = ProxyError::new(Kind::NoServer);
    if let (Some(sampler), Some(upstream)) = (&view.sampler, exchange.upstream()) {
        sampler.note(conn.core.id, upstream.slot, exchange.client, exchange.key);
    }
    loop {
        let position = exchange.target.ok_or(ProxyError::new(Kind::Internal))?;
        let upstream = &view.upstreams[position];
        if tried.count() == 0 {
            conn.core.with_scratch(upstream.slot, |s| s.budget.earn(&upstream.plan.retry));
        }
        let away = if session.is_some_and(|session| session.leaves(upstream))
            && upstream.service.is_open()
            && !conn.core.lines.has_waiters(upstream)
        {
            claim(exchange, upstream, position, None, &mut tried).ok()
        } else {
            None
        };
        let leaves = away.is_some();
        let claimed = match away {
            Some(claimed) => Ok(claimed),
            None if upstream.is_gated => Err(Unclaimed::Full(Wish::default())),
            None => claim(exchange, upstream, position, session, &mut tried),
        };
        let (pick, claim) = match claimed {
            Ok(claimed) => claimed,
            Err(Unclaimed::Nobody) => {
                explain::chosen(exchange, None, &tried, session, None);
                view = newer(exchange, &view, &mut tried, &mut last)?;
                continue;
            }
            Err(Unclaimed::Full(_)) => {
                let since = explain::waits(exchange);
                // Boxed, since most upstreams have no limit.
                let claimed = Box::pin(queue::claim(exchange, session, &mut tried)).await;
                explain::has_waited(exchange, since);
                if !matches!(claimed, Ok(Some(_))) {
                    explain::chosen(exchange, None, &tried, session, None);
                }
                let Some(claimed) = claimed? else {
                    view = newer(exchange, &view, &mut tried, &mut last)?;
                    continue;
                };
                view = Rc::clone(&exchange.view);
                claimed
            }
        };
        let position = exchange.target.ok_or(ProxyError::new(Kind::Internal))?;
        let upstream = &view.upstreams[position];
        // Who is moved on purpose for one request does not move.
        let on_purpose = exchange.litmus.as_ref().is_some_and(|taking| taking.part.is_moved());
        let moved = session.filter(|_| !on_purpose);
        let moved = moved.and_then(|session| session.moved(upstream, claim.server(), leaves));
        outgoing.moved = moved.as_ref().and_then(|moved| moved.told.clone());
        explain::chosen(exchange, Some(pick), &tried, session, moved.as_ref().map(|moved| moved.reason.name()));
        if exchange.shaded.is_some() && exchange.retries == 0 {
            shadow::sent(exchange, pick);
        }
        exchange.claim = Some(claim);
        let error = match attempt(&conn, exchange, upstream, outgoing, false).await {
            Ok(answer) => return Ok(Answered { answer, moved: moved.map(|moved| moved.reason) }),
            Err(error) => error,
        };
        explain::failed(exchange, pick.index, error.kind);
        tried.add(pick.index);
        let again = exchange.retries < upstream.plan.retry.attempts
            && retry::allowed(error.sent, outgoing.idempotent)
            && (outgoing.request.is_some() || outgoing.replay.is_some())
            && error.kind.side() == crate::error::Side::Upstream
            && !matches!(error.kind, Kind::RequestTimeout | Kind::Cut)
            && conn.core.with_scratch(upstream.slot, |s| s.budget.take());
        last = error;
        if !again {
            return Err(last);
        }
        exchange.tries_again();
        // Servers may have come and gone meanwhile.
        view = refreshed(exchange, view, &mut tried);
    }
}

/// A Snapshot that has come since the one in which nobody takes the request: all its servers may have been
/// swapped for others. Where there is none, or a server has failed it before, the error is the last word.
#[cold]
fn newer(exchange: &mut Exchange, view: &View, tried: &mut Tried, last: &mut ProxyError) -> Result<View, ProxyError> {
    let found = (last.kind == Kind::NoServer).then(|| refreshed(exchange, Rc::clone(&exchange.view), tried));
    let found = found.filter(|newest| newest.generation != view.generation);
    found.ok_or_else(|| std::mem::replace(last, ProxyError::new(Kind::NoServer)))
}

/// The newest Snapshot, where this request's listener, route and upstream are still the same.
pub(super) fn refreshed(exchange: &mut Exchange, view: View, tried: &mut Tried) -> View {
    let newest = exchange.conn.core.view();
    if newest.generation == view.generation {
        return view;
    }
    let slot = exchange.conn.slot;
    let name = exchange.route().map(|r| r.plan.name.clone());
    let upstream = exchange.upstream().map(|u| (u.slot, u.servers.iter().map(|s| s.uid).collect::<Vec<_>>()));
    let found = newest.listeners.get(slot).and_then(Option::as_ref).and_then(|listening| {
        let index = listening.routes.all.iter().position(|r| Some(&r.plan.name) == name.as_ref())?;
        let (slot, uids) = upstream.as_ref()?;
        let mut targets = listening.routes.all[index].plan.action.upstreams();
        let target = targets.find(|position| newest.upstreams[*position].slot == *slot)?;
        let mut again = Tried::default();
        for (position, server) in newest.upstreams[target].servers.iter().enumerate() {
            let before = uids.iter().position(|uid| *uid == server.uid);
            if before.is_some_and(|before| tried.has(before)) {
                again.add(position);
            }
        }
        Some((index, target, again))
    });
    match found {
        Some((index, target, again)) => {
            (exchange.route, exchange.target) = (Some(index), Some(target));
            exchange.view = Rc::clone(&newest);
            *tried = again;
            newest
        }
        None => view,
    }
}

/// Why no server was claimed.
pub(super) enum Unclaimed {
    /// None takes the request.
    Nobody,
    /// Some would take it, but have as many requests as they may.
    Full(Wish),
}

/// Picks servers until one can be claimed. Where every server was tried, the one that failed gets a
/// second chance only if it is the only one.
pub(super) fn claim(
    exchange: &Exchange,
    upstream: &Upstream,
    position: usize,
    session: Option<&Session>,
    tried: &mut Tried,
) -> Result<(Pick, CoreClaim), Unclaimed> {
    let core = &exchange.conn.core;
    let pin = session.and_then(Session::pin);
    let take = |pick: Pick, failing_open: bool| {
        let server = ServerRef::new(&exchange.view, position, pick.index);
        let claim = Claim::try_take(server, core.id, pick.pinned, failing_open)?;
        claim.cell().counts.picks.inc();
        exchange.conn.watch.uses(Some(claim.server().uid));
        Ok((pick, claim))
    };
    let full = |insists, tried: &Tried| Err(Unclaimed::Full(upstream.wish(insists, tried)));
    let mut asker = exchange.asker(pin);
    for _ in 0..=upstream.servers.len() {
        let pick = core.with_scratch(upstream.slot, |s| upstream.pick(&asker, tried, &mut s.policy));
        let Some(pick) = pick else { break };
        match take(pick, upstream.failing_open) {
            Ok(claimed) => return Ok(claimed),
            // Who is moved on purpose does not wait for where it was moved to.
            Err(Unclaimable::Full) if asker.litmus.is_some_and(|part| part.is_moved()) => {
                asker.litmus = asker.litmus.map(Part::stays);
            }
            Err(Unclaimable::Full) if upstream.insists(pick) => return full(Some(pick), tried),
            // Somebody was faster; the next pick passes it over.
            Err(Unclaimable::Full) => {}
            Err(Unclaimable::Out) => tried.add(pick.index),
        }
    }
    if upstream.may_wait(tried) {
        return full(None, tried);
    }
    let settled = |taken| match taken {
        Ok(claimed) => Ok(claimed),
        Err(Unclaimable::Full) => full(None, &Tried::default()),
        Err(Unclaimable::Out) => Err(Unclaimed::Nobody),
    };
    if upstream.servers.len() == 1 && tried.count() == 1 {
        *tried = Tried::default();
        // A client that is pinned to it still is.
        let pinned = pin.is_some_and(|pin| pin.server == upstream.servers[0].key);
        return settled(take(Pick { index: 0, pinned }, upstream.failing_open));
    }
    let index = core.with_scratch(upstream.slot, |s| upstream.last_resort(tried, &mut s.policy));
    let index = index.ok_or(Unclaimed::Nobody)?;
    settled(take(Pick { index, pinned: false }, true))
}

/// One try on the claimed server. A connection that was kept open and turned out to be closed does not
/// count against the server: the request goes out again at once on a fresh one, where it may.
async fn attempt(
    conn: &Conn,
    exchange: &mut Exchange,
    upstream: &Upstream,
    outgoing: &mut Outgoing,
    fresh: bool,
) -> Result<Answer, ProxyError> {
    let mut fresh = fresh;
    loop {
        let Some(request) = outgoing.ready() else { return Err(ProxyError::new(Kind::Internal)) };
        let Some(claim) = &exchange.claim else { return Err(ProxyError::new(Kind::Internal)) };
        let plan = exchange.upstream_plan().unwrap_or(&upstream.plan);
        if let Some(wire) = &conn.wire
            && plan.protocol.http2().is_none()
        {
            wire.hear_interim(request, || conn.watch.waker());
        }
        let flow = exchange.flow.as_deref();
        let outcome = match &outgoing.protocol {
            // Boxed, since most requests switch to nothing.
            Some(protocol) => {
                Box::pin(upgrade::send(conn, plan, claim, &mut outgoing.request, flow, protocol, exchange.client)).await
            }
            None => forward::send(conn, plan, claim, &mut outgoing.request, flow, !fresh, exchange.client)
                .await
                .map(|(response, lease)| Answer::Ordinary(response, lease)),
        };
        match outcome {
            Ok(Answer::Ordinary(response, _)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                return Err(ProxyError::sent(Kind::BadAnswer, Sent::Answered).because("a 101 that nobody asked for"));
            }
            Ok(answer) => return Ok(answer),
            Err(Failure::Returned(error)) => return Err(error),
            Err(Failure::Lost { error, stale }) => {
                if stale && !fresh && error.kind == Kind::Reset && outgoing.replay.is_some() {
                    fresh = true;
                    continue;
                }
                return Err(error);
            }
        }
    }
}
