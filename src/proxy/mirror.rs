//! Copies of requests for a second upstream, whose answers nobody sees.
//!
//! A copy begins when the request has been read in full, runs as a task of its own with a deadline, and is
//! tried once. Nothing here may slow or fail the request that it copies: what does not fit (a body beyond
//! its bound, more copies at once than there may be) is not sent, and counted. The memory of a core is at
//! most its share of `max_in_flight` times `max_body`.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};

use super::body::{RequestBody, RequestLimits};
use super::connection::{Conn, Link};
use super::core::{ServerRef, View};
use super::exchange::Exchange;
use super::fault;
use super::forward::{self, Failure};
use super::headers::{X_MIRRORED_BY, has_token};
use super::inbound::Inbound;
use super::pool::Lease;
use super::watch::{FOREVER, Phase};
use crate::config::plan::MirrorPlan;
use crate::error::ProxyError;
use crate::metrics::cells::RouteCell;
use crate::upstream::{Asker, Claim, Tried};

/// More of an answer is not read: its connection is given up.
const ANSWER: usize = 1 << 20;

/// One of the copies that there may be at once.
struct Place {
    /// The client's connection as servers are told of it, whether it still is or not.
    link: Rc<Link>,
    view: View,
    route: usize,
}

impl Place {
    /// Takes one, unless all are taken.
    fn take(link: &Link, view: &View, route: usize, most: usize) -> Option<Self> {
        let cell = cell_of(link, view, route)?;
        if cell.mirrors_open.get() >= (most / link.core.cores()).max(1) as u64 {
            cell.mirrors_skipped.inc();
            return None;
        }
        cell.mirrors_open.inc();
        Some(Self { link: Rc::new(link.aside()), view: Rc::clone(view), route })
    }

    fn cell(&self) -> Option<&RouteCell> {
        cell_of(&self.link, &self.view, self.route)
    }
}

fn cell_of<'a>(link: &Link, view: &'a View, route: usize) -> Option<&'a RouteCell> {
    let listening = view.listeners.get(link.slot)?.as_ref()?;
    listening.routes.all.get(route)?.cells.get(link.core.id)
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(cell) = self.cell() {
            cell.mirrors_open.dec();
        }
    }
}

/// A copy that is being made.
pub(super) struct Copying {
    place: Place,
    plan: MirrorPlan,
    client: IpAddr,
    key: Option<u64>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

/// Begins a copy of the request, if its route has them and this one is drawn. The head is what the first
/// upstream gets.
pub(super) fn begin(exchange: &Exchange, head: &http::request::Parts) -> Option<Copying> {
    let route = exchange.route()?;
    let plan = route.plan.filters.mirror.as_ref()?;
    let core = &exchange.conn.core;
    let upstream = exchange.view.upstreams.get(plan.upstream)?;
    if plan.percent < 100 && core.with_scratch(upstream.slot, |s| s.policy.below(100)) >= plan.percent {
        return None;
    }
    let place = Place::take(&exchange.conn.link, &exchange.view, exchange.route?, plan.max_in_flight)?;
    let (client, method, uri) = (exchange.client, head.method.clone(), head.uri.clone());
    let by = upstream.plan.policy.keyed();
    let key = by.and_then(|by| by.key(uri.path(), uri.query(), &head.headers));
    Some(Copying { place, plan: *plan, client, key, method, uri, headers: head.headers.clone() })
}

impl Copying {
    /// The body that copies itself while the first upstream takes it.
    pub(super) fn of(self, body: Inbound) -> Inbound {
        let too_long = body.size_hint().lower() > self.plan.max_body;
        let mut teed = Teed { body, copy: Vec::new(), copying: Some(self) };
        if too_long {
            teed.skip();
        }
        Inbound::Teed(Box::new(teed))
    }

    /// Everything is there: sends it.
    pub(super) fn start(self, body: Bytes) {
        tokio::task::spawn_local(async move {
            let outcome = Box::pin(send(&self, body)).await;
            if let Some(cell) = self.place.cell() {
                match outcome {
                    Some(()) => cell.mirrors_answered.inc(),
                    None => cell.mirrors_failed.inc(),
                }
            }
        });
    }
}

/// A client's body, copied as it passes.
pub(super) struct Teed {
    body: Inbound,
    copy: Vec<u8>,
    /// None once it has begun or was given up.
    copying: Option<Copying>,
}

impl Teed {
    fn skip(&mut self) {
        if let Some(copying) = self.copying.take()
            && let Some(cell) = copying.place.cell()
        {
            cell.mirrors_skipped.inc();
        }
        self.copy = Vec::new();
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let Some(copying) = &self.copying else { return polled };
        let complete = match &polled {
            Poll::Pending => false,
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    if (self.copy.len() + data.len()) as u64 > copying.plan.max_body {
                        self.skip();
                        return polled;
                    }
                    self.copy.extend_from_slice(data);
                }
                frame.is_trailers() || self.body.is_end_stream()
            }
            // What never became whole is not repeated.
            Poll::Ready(Some(Err(_))) => {
                self.copying = None;
                false
            }
        };
        if complete && let Some(copying) = self.copying.take() {
            copying.start(std::mem::take(&mut self.copy).into());
        }
        polled
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Sends the copy to one server and reads its answer away. None where that failed.
async fn send(copying: &Copying, body: Bytes) -> Option<()> {
    let place = &copying.place;
    let core = &place.link.core;
    let upstream = place.view.upstreams.get(copying.plan.upstream)?;
    if !upstream.service.is_open() {
        return None;
    }
    let timeouts = &upstream.plan.timeouts;
    let watched = core.watches.add(core.now(), FOREVER);
    core.wake_ticker();
    let whole = timeouts.request.unwrap_or(timeouts.first_byte + timeouts.between_bytes);
    watched.watch.limit_total(Some(core.now() + whole), false);
    let conn = Conn::new(&place.link, &watched.watch);
    let mut work = Box::pin(async {
        let mut tried = Tried::default();
        let asker =
            Asker { client: copying.client, key: copying.key, spread: None, pin: None, to_new: false, litmus: None };
        let claim = loop {
            let pick = core.with_scratch(upstream.slot, |s| upstream.pick(&asker, &tried, &mut s.policy))?;
            let server = ServerRef::new(&place.view, copying.plan.upstream, pick.index);
            match Claim::take(server, core.id, false, upstream.failing_open) {
                Some(claim) => break claim,
                None if tried.count() >= upstream.servers.len() => return None,
                None => tried.add(pick.index),
            }
        };
        claim.cell().counts.picks.inc();
        watched.watch.uses(Some(claim.server().uid));
        let mut request = Some(request(copying, &body, &conn, timeouts.between_bytes, timeouts.first_byte));
        let sent = forward::send(&conn, &upstream.plan, &claim, &mut request, None, true, copying.client).await;
        let (response, lease) = match sent {
            Ok(answer) => answer,
            Err(Failure::Returned(_) | Failure::Lost { .. }) => return None,
        };
        let (head, mut answer) = response.into_parts();
        claim.cell().counts.answers[usize::from(head.status.as_u16() / 100).clamp(1, 5) - 1].inc();
        fault::answered(core, &upstream.plan, &claim, head.status.as_u16());
        let mut left = ANSWER;
        while !answer.is_end_stream() {
            watched.watch.enter(Phase::UpstreamBody, core.clock.get(), timeouts.between_bytes);
            let next = poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx));
            match forward::guarded(&watched.watch, next).await {
                Ok(Some(Ok(frame))) => {
                    left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                    if left == 0 {
                        return Some(());
                    }
                }
                Ok(None) => break,
                Ok(Some(Err(_))) | Err(_) => return None,
            }
        }
        let closes = has_token(head.headers.get_all(header::CONNECTION), "close");
        if let Lease::Http1(line) = lease
            && head.version == Version::HTTP_11
            && !closes
        {
            core.pools.give(claim.server(), core.id, &upstream.plan.pool, line, core.clock.get());
        }
        Some(())
    });
    poll_fn(|cx| {
        watched.watch.set_waker(cx.waker());
        work.as_mut().poll(cx)
    })
    .await
}

fn request(
    copying: &Copying,
    body: &Bytes,
    conn: &Conn,
    taking: Duration,
    first_byte: Duration,
) -> Request<RequestBody> {
    let limits = RequestLimits { max: u64::MAX, between_bytes: FOREVER, taking, first_byte };
    let (sent, _) = RequestBody::new(Inbound::Copy(body.clone()), &conn.core, &conn.watch, limits);
    let mut request = Request::new(sent);
    *request.method_mut() = copying.method.clone();
    *request.uri_mut() = copying.uri.clone();
    *request.headers_mut() = copying.headers.clone();
    let headers = request.headers_mut();
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::TRAILER);
    if !body.is_empty() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    // Nobody waits for the answer.
    headers.insert(X_MIRRORED_BY, HeaderValue::from_static("evenkeel"));
    request
}
