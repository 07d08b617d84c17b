//! One request and its answer, from head to last byte: what is held meanwhile and what is counted
//! at the end.
//!
//! Whatever way an exchange ends (answered, refused, cut, left by the client) its `Drop` is the one
//! place that releases the claim, gives the connection back, counts, and writes the log line.

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Request, Version, header};

use super::access_log::Entry;
use super::answer::Form;
use super::body::Flow;
use super::connection::{Conn, Protocol};
use super::core::{CoreClaim, View};
use super::explain::{self, Noting};
use super::fault;
use super::litmus::Taking;
use super::pool::Lease;
use super::shadow::Shaded;
use super::watch::{FOREVER, Phase};
use crate::balance::sticky_cookie::Pin;
use crate::config::plan::{Encoding, UpstreamPlan};
use crate::error::{Kind, ProxyError};
use crate::upstream::{Asker, Route, Upstream};

/// What the access log needs of a request, taken only when there is one.
struct Line {
    unix_millis: u64,
    method: http::Method,
    target: String,
    version: Version,
    host: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
}

/// One request and its answer.
pub(super) struct Exchange {
    pub(super) conn: Rc<Conn>,
    pub(super) view: View,
    pub(super) client: IpAddr,
    /// The hash of what the upstream's policy goes by, where it does and the request has it.
    pub(super) key: Option<u64>,
    /// What stands for the user, where the client's address or that key is spread.
    pub(super) spread: Option<u64>,
    /// Position of the route among those of the listener.
    pub(super) route: Option<usize>,
    /// Position of the upstream among those of the Snapshot, where the route leads to one.
    pub(super) target: Option<usize>,
    /// The number that a new user of a split is known by from now on: the answer sets the cookie.
    pub(super) new_user: Option<u64>,
    /// The same of a canary.
    pub(super) new_canary: Option<u64>,
    /// The same of one whose key is spread.
    pub(super) new_hot: Option<u64>,
    /// The same of one who may take part in an experiment from now on.
    pub(super) new_litmus: Option<u64>,
    /// What is kept of it until the answer comes, where its user takes part.
    pub(super) litmus: Option<Box<Taking>>,
    /// Whether it belongs to the new servers of a canary.
    pub(super) to_new: bool,
    /// Whether the client came over TLS.
    pub(super) is_https: bool,
    pub(super) claim: Option<CoreClaim>,
    pub(super) lease: Option<Lease>,
    /// Whether the server's connection may carry another request.
    pub(super) reusable: bool,
    pub(super) flow: Option<Rc<Flow>>,
    pub(super) request_id: Option<HeaderValue>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) retries: u32,
    /// What became of a sticky session.
    pub(super) sticky: Option<&'static str>,
    /// The deadline that the client has set itself.
    pub(super) wants_within: Option<Duration>,
    pub(super) is_tunnel: bool,
    /// What the client would have its answer compressed with, on a route that does.
    pub(super) encoding: Option<Encoding>,
    /// The form of answers that the proxy makes.
    pub(super) form: Form,
    /// Who has said a name and its password, where there is a log.
    pub(super) user: Option<Box<str>>,
    /// What is noted of it, where that is asked for.
    pub(super) noting: Option<Box<Noting>>,
    /// What other policies would have done with it.
    pub(super) shaded: Option<Box<Shaded>>,
    status: u16,
    reason: Option<Kind>,
    started: Instant,
    /// When the newest try began.
    attempted: Instant,
    first_byte: Option<Duration>,
    line: Option<Box<Line>>,
    ended: bool,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("status", &self.status).field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl Exchange {
    pub(super) fn begin<B>(conn: &Rc<Conn>, view: View, request: &Request<B>, now: Instant) -> Self {
        let line = conn.core.log.is_some().then(|| {
            let text = |name| request.headers().get(name).cloned();
            // HTTP/2 has no `Host` and no target but the parts of a URI (RFC 9113 §8.3.1).
            let over_http2 = conn.protocol == Protocol::Http2;
            let (uri, named) = (request.uri(), text(header::HOST));
            let authority = || uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
            Box::new(Line {
                unix_millis: unix_millis(),
                method: request.method().clone(),
                target: match uri.path_and_query() {
                    Some(path) if over_http2 => path.as_str().to_owned(),
                    _ => uri.to_string(),
                },
                version: if over_http2 { Version::HTTP_2 } else { request.version() },
                host: if over_http2 { authority().or(named) } else { named },
                referer: text(header::REFERER),
                user_agent: text(header::USER_AGENT),
            })
        });
        Self {
            conn: Rc::clone(conn),
            view,
            client: conn.peer.address,
            key: None,
            spread: None,
            route: None,
            target: None,
            new_user: None,
            new_canary: None,
            new_hot: None,
            new_litmus: None,
            litmus: None,
            to_new: false,
            is_https: false,
            claim: None,
            lease: None,
            reusable: false,
            flow: None,
            request_id: None,
            bytes_in: 0,
            bytes_out: 0,
            retries: 0,
            sticky: None,
            wants_within: None,
            is_tunnel: false,
            encoding: None,
            form: Form::default(),
            user: None,
            noting: None,
            shaded: None,
            status: 0,
            reason: None,
            started: now,
            attempted: now,
            first_byte: None,
            line,
            ended: false,
        }
    }

    /// Notes who the client has shown to be.
    pub(super) fn is_from(&mut self, user: &str) {
        self.user = self.line.is_some().then(|| user.into());
    }

    /// Whose request a server is picked for.
    pub(super) fn asker<'a>(&self, pin: Option<&'a Pin>) -> Asker<'a> {
        Asker {
            client: self.client,
            key: self.key,
            spread: self.spread,
            pin,
            to_new: self.to_new,
            litmus: self.litmus.as_ref().map(|taking| taking.part),
        }
    }

    /// The route taken.
    pub(super) fn route(&self) -> Option<&Route> {
        let routes = &self.view.listeners.get(self.conn.slot)?.as_ref()?.routes;
        self.route.map(|index| &*routes.all[index])
    }

    /// The upstream that the request goes to.
    pub(super) fn upstream(&self) -> Option<&Upstream> {
        self.target.map(|position| &*self.view.upstreams[position])
    }

    /// The plan of that upstream, with what the route says in its place.
    pub(super) fn upstream_plan(&self) -> Option<&UpstreamPlan> {
        let position = self.target?;
        let own = self.route().and_then(|route| route.overrides.iter().find(|(at, _)| *at == position));
        own.map(|(_, plan)| plan).or_else(|| self.upstream().map(|upstream| &*upstream.plan))
    }

    /// The largest body that the request may have.
    pub(super) fn max_body(&self) -> u64 {
        self.route().and_then(|route| route.plan.max_body).unwrap_or(self.conn.plan.max_body)
    }

    /// Another try begins, after one that failed.
    pub(super) fn tries_again(&mut self) {
        self.retries += 1;
        self.attempted = self.conn.core.now();
        if let Some(claim) = self.claim.take() {
            claim.cell().counts.retries.inc();
        }
    }

    /// It has waited for a server: what the server takes is counted from now on.
    pub(super) fn has_waited(&mut self) {
        self.attempted = self.conn.core.now();
    }

    /// The head of the answer is there.
    pub(super) fn answered(&mut self, status: u16) {
        let now = self.conn.core.now();
        let waited = now.duration_since(self.started);
        self.status = status;
        self.first_byte = Some(waited);
        if let Some(claim) = &self.claim {
            let counts = &claim.cell().counts;
            counts.answers[class_of(status)].inc();
            counts.first_byte.record(now.duration_since(self.attempted));
            if let Some(upstream) = self.upstream() {
                if let Some(decay) = upstream.decay {
                    // The time that a client takes to send its body is not the server's.
                    let asked = self.flow.as_ref().and_then(|flow| flow.ended_at()).unwrap_or(self.attempted);
                    let took = now.saturating_duration_since(asked.max(self.attempted));
                    claim.server().observe(took, status >= 500, decay);
                }
                fault::answered(&self.conn.core, &upstream.plan, claim, status);
            }
        }
    }

    /// The proxy answers itself.
    pub(super) fn refused(&mut self, error: &ProxyError, bytes: usize) {
        self.status = error.kind.status();
        self.reason = Some(error.kind);
        self.bytes_out = bytes as u64;
        self.ended = true;
    }

    /// The route answers itself.
    pub(super) fn replied(&mut self, status: u16, bytes: usize) {
        self.status = status;
        self.bytes_out = bytes as u64;
        self.ended = true;
    }

    /// A part of the answer was handed over; the client has to take it.
    pub(super) fn await_client(&self) {
        let core = &self.conn.core;
        self.conn.watch.enter(Phase::ClientWrite, core.clock.get(), self.conn.plan.between_bytes);
    }

    /// The server has to send more. Tells what has come up meanwhile, if anything.
    pub(super) fn await_server(&self) -> Option<Kind> {
        let watch = &self.conn.watch;
        if watch.phase() != Phase::UpstreamBody {
            let limit = self.upstream_plan().map_or(FOREVER, |plan| plan.timeouts.between_bytes);
            watch.enter(Phase::UpstreamBody, self.conn.core.clock.get(), limit);
        }
        watch.fault()
    }

    /// The answer ends before its end.
    pub(super) fn cut_short(&mut self, kind: Kind) -> Kind {
        self.reason = Some(kind);
        self.reusable = false;
        self.ended = true;
        kind
    }

    /// The last byte was handed over.
    pub(super) fn finish(&mut self) {
        self.ended = true;
        self.release();
        self.conn.idle();
    }

    /// Gives back the connection and the claim, as early as they can be.
    fn release(&mut self) {
        let lease = self.lease.take();
        if let (Some(claim), Some(Lease::Http1(line))) = (&self.claim, lease)
            && self.reusable
            && self.flow.as_ref().is_none_or(|flow| flow.has_ended())
            && let Some(upstream) = self.upstream()
        {
            let core = &self.conn.core;
            core.pools.give(claim.server(), core.id, &upstream.plan.pool, line, core.clock.get());
        }
        if let Some(flow) = &self.flow
            && !self.is_tunnel
        {
            self.bytes_in = flow.bytes();
            flow.detach();
            if !flow.has_ended() {
                self.conn.linger.set(true);
            }
        }
        self.conn.watch.uses(None);
    }

    fn count(&self, duration: Duration) {
        let core = &self.conn.core;
        if let Some(kind) = self.reason {
            core.cells().errors[kind as usize].inc();
        }
        if let Some(route) = self.route() {
            let cell = &route.cells[core.id];
            if self.status >= 100 {
                cell.answers[class_of(self.status)].inc();
            }
            cell.bytes_in.add(self.bytes_in);
            cell.bytes_out.add(self.bytes_out);
            if !self.is_tunnel {
                cell.duration.record(duration);
            }
        }
    }

    fn log(&self, line: &Line, duration: Duration) {
        let Some(log) = &self.conn.core.log else { return };
        fn bytes(value: &Option<HeaderValue>) -> Option<&[u8]> {
            value.as_ref().map(HeaderValue::as_bytes)
        }
        let (tls, sni) = tls_of(&self.conn);
        log.borrow_mut().write(&Entry {
            unix_millis: line.unix_millis,
            client: self.client,
            user: self.user.as_deref(),
            method: line.method.as_str(),
            target: &line.target,
            version: line.version,
            tls,
            sni,
            host: bytes(&line.host),
            status: self.status,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration,
            first_byte: self.first_byte,
            route: self.route().map(|r| &*r.plan.name),
            upstream: self.upstream().map(Upstream::name),
            server: self.claim.as_ref().map(|c| &*c.server().name),
            retries: self.retries,
            sticky: self.sticky,
            reason: self.reason.map(Kind::reason),
            request_id: bytes(&self.request_id),
            referer: bytes(&line.referer),
            user_agent: bytes(&line.user_agent),
        });
    }
}

/// Counts and logs a head that was refused before it was a request: nothing of it is known but where
/// it came from.
pub(super) fn refused_unread(conn: &Conn, kind: Kind, request_id: Option<&HeaderValue>, bytes_out: usize) {
    conn.core.cells().bad_requests.inc();
    conn.core.cells().errors[kind as usize].inc();
    let Some(log) = &conn.core.log else { return };
    let (tls, sni) = tls_of(conn);
    log.borrow_mut().write(&Entry {
        unix_millis: unix_millis(),
        client: conn.peer.address,
        user: None,
        method: "",
        target: "",
        version: Version::HTTP_11,
        tls,
        sni,
        host: None,
        status: kind.status(),
        bytes_in: 0,
        bytes_out: bytes_out as u64,
        duration: Duration::ZERO,
        first_byte: None,
        route: None,
        upstream: None,
        server: None,
        retries: 0,
        sticky: None,
        reason: Some(kind.reason()),
        request_id: request_id.map(HeaderValue::as_bytes),
        referer: None,
        user_agent: None,
    });
}

/// What the log says of the client's TLS.
fn tls_of(conn: &Conn) -> (Option<&'static str>, Option<&str>) {
    conn.secure.as_ref().map_or((None, None), |secure| secure.logged())
}

fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.ended {
            // Neither finished nor refused: the client left, or its connection was given up.
            let kind = self.conn.watch.fault().unwrap_or(Kind::ClientGone);
            self.reason = Some(kind);
            self.reusable = false;
            if self.first_byte.is_none() {
                self.status = Kind::ClientGone.status();
            }
        }
        self.release();
        if let Some(shaded) = &self.shaded {
            shaded.ended(self.conn.core.id);
        }
        let duration = self.conn.core.now().duration_since(self.started);
        self.count(duration);
        if self.noting.is_some() {
            explain::end(self, self.status, self.reason, duration);
        }
        if let Some(line) = self.line.take() {
            self.log(&line, duration);
        }
    }
}

fn class_of(status: u16) -> usize {
    usize::from(status / 100).clamp(1, 5) - 1
}
