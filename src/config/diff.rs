//! What changes between two Plans: a value, computed without touching anything.
//!
//! A reload applies it, its answer prints it, and what cannot change in a running process is named
//! here, so that a reload is refused before it begins. Every struct of the Plan is taken apart field
//! by field: a new field does not compile until someone decides here what its change means. Secrets
//! are compared and never shown.

use std::fmt;
use std::time::Duration;

use super::plan::{
    Access, AccessLogPlan, Action, AdminPlan, Branch, DnsPlan, DrainPlan, HostPattern, ListenerPlan, LogPlan,
    MirrorPlan, Plan, PoolPlan, RetryPlan, RouteFilters, RoutePlan, ServerPlan, ShutdownPlan, UpstreamPlan,
    UpstreamTimeouts,
};
use crate::health::Check;
use crate::proxy_protocol::Version;
use crate::units::show_duration;

/// The difference between two Plans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// What a reload can bring about, in the order process, listeners, routes, upstreams.
    pub changes: Vec<Change>,
    /// What only a restart can, by key; the reload is refused when there is any.
    pub needs_restart: Vec<String>,
    /// What happens to listening sockets.
    pub sockets: Sockets,
}

impl Diff {
    /// Whether both Plans are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.needs_restart.is_empty()
    }
}

/// Listening sockets belong to addresses, not to names: a listener that is renamed keeps its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Positions in the new Plan that need a new socket.
    pub open: Vec<usize>,
    /// Positions in the old Plan whose socket is closed.
    pub close: Vec<usize>,
    /// Positions in the old and in the new Plan that share a socket.
    pub keep: Vec<(usize, usize)>,
}

/// One change. Its `Display` is one plain line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub subject: Subject,
    pub what: What,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Process,
    Shutdown,
    Listener(String),
    Route(String),
    Upstream(String),
    Server { upstream: String, server: String },
}

/// How it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Added,
    Removed,
    /// A key with its old and its new value.
    Value {
        key: &'static str,
        old: String,
        new: String,
    },
    /// A key whose values are too long to show, or secret.
    Key(&'static str),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Process => f.write_str("process")?,
            Subject::Shutdown => f.write_str("shutdown")?,
            Subject::Listener(name) => write!(f, "listener {name}")?,
            Subject::Route(name) => write!(f, "route {name}")?,
            Subject::Upstream(name) => write!(f, "upstream {name}")?,
            Subject::Server { upstream, server } => write!(f, "upstream {upstream}: server {server}")?,
        }
        match &self.what {
            What::Added => f.write_str(" added"),
            What::Removed => f.write_str(" removed"),
            What::Value { key, old, new } => write!(f, ": {key} {old} → {new}"),
            What::Key(key) => write!(f, ": {key} changed"),
        }
    }
}

/// Compares two Plans.
#[must_use]
pub fn diff(old: &Plan, new: &Plan) -> Diff {
    let mut diff = Diff { sockets: sockets(&old.listeners, &new.listeners), ..Diff::default() };
    diff.process(old, new);
    pair(&old.listeners, &new.listeners, |l| &l.name, |event| diff.listener(event));
    for (before, now) in &diff.sockets.keep {
        let (before, now) = (&old.listeners[*before], &new.listeners[*now]);
        if before.backlog != now.backlog {
            diff.needs_restart.push(format!("listener {}: backlog", now.name));
        }
    }
    pair(&old.routes, &new.routes, |r| &r.name, |event| diff.route(event, old, new));
    pair(&old.upstreams, &new.upstreams, |u| &u.name, |event| diff.upstream(event));
    diff
}

/// What became of one named thing.
enum Event<'a, T> {
    Removed(&'a T),
    Both(&'a T, &'a T),
    Added(&'a T),
}

fn pair<'a, T>(old: &'a [T], new: &'a [T], name: impl Fn(&T) -> &str, mut tell: impl FnMut(&Event<'a, T>)) {
    for before in old {
        match new.iter().find(|now| name(now) == name(before)) {
            Some(now) => tell(&Event::Both(before, now)),
            None => tell(&Event::Removed(before)),
        }
    }
    new.iter()
        .filter(|now| old.iter().all(|before| name(before) != name(now)))
        .for_each(|now| tell(&Event::Added(now)));
}

fn sockets(old: &[ListenerPlan], new: &[ListenerPlan]) -> Sockets {
    let mut sockets = Sockets { close: (0..old.len()).collect(), ..Sockets::default() };
    let mut keep = vec![None; new.len()];
    // The same name first: several listeners may be bound to port 0.
    for same_name in [true, false] {
        for (at, now) in new.iter().enumerate().filter(|(at, _)| keep[*at].is_none()).collect::<Vec<_>>() {
            let matches = |i: &usize| old[*i].bind == now.bind && (!same_name || old[*i].name == now.name);
            if let Some(found) = sockets.close.iter().position(matches) {
                keep[at] = Some(sockets.close.remove(found));
            }
        }
    }
    for (at, kept) in keep.into_iter().enumerate() {
        match kept {
            Some(before) => sockets.keep.push((before, at)),
            None => sockets.open.push(at),
        }
    }
    sockets
}

impl Diff {
    fn process(&mut self, old: &Plan, new: &Plan) {
        let Plan {
            cores,
            state_dir,
            max_connections,
            admin,
            log,
            access_log,
            shutdown,
            dns,
            listeners: _,
            routes: _,
            upstreams: _,
        } = old;
        let AdminPlan { socket, bind, token } = admin;
        let LogPlan { level, format } = log;
        let DnsPlan { servers, min_ttl, max_ttl } = dns;
        let parts =
            |log: &Option<AccessLogPlan>| log.as_ref().map(|AccessLogPlan { file, format }| (file.clone(), *format));
        for (key, same) in [
            ("cores", *cores == new.cores),
            ("state_dir", *state_dir == new.state_dir),
            ("admin.socket", *socket == new.admin.socket),
            ("admin.bind", *bind == new.admin.bind),
            ("admin.token", *token == new.admin.token),
            ("log.level", *level == new.log.level),
            ("log.format", *format == new.log.format),
            ("access_log", parts(access_log) == parts(&new.access_log)),
            ("dns.servers", *servers == new.dns.servers),
            ("dns.min_ttl", *min_ttl == new.dns.min_ttl),
            ("dns.max_ttl", *max_ttl == new.dns.max_ttl),
        ] {
            if !same {
                self.needs_restart.push(key.to_owned());
            }
        }
        let mut fields = self.of(Subject::Process);
        fields.value("max_connections", &count(*max_connections), &count(new.max_connections));
        let ShutdownPlan { announce, idle_grace, deadline } = *shutdown;
        let mut fields = self.of(Subject::Shutdown);
        fields.time("announce", announce, new.shutdown.announce);
        fields.time("idle_grace", idle_grace, new.shutdown.idle_grace);
        fields.time("deadline", deadline, new.shutdown.deadline);
    }

    fn listener(&mut self, event: &Event<'_, ListenerPlan>) {
        let Some((old, new)) = self.both(event, |l| Subject::Listener(l.name.clone())) else { return };
        let ListenerPlan {
            name,
            bind,
            tls,
            hsts,
            redirect_to_https,
            // Follows from `tls` of any listener.
            hides_client_cert: _,
            // Told by the socket, not by the name.
            backlog: _,
            trusted_proxies,
            forwarded,
            access,
            request_id,
            merge_slashes,
            underscores_in_headers,
            header_timeout,
            idle_timeout,
            between_bytes,
            http2,
            http2_max_streams,
            min_rate,
            max_request_line,
            max_header_bytes,
            max_headers,
            max_body,
            proxy_protocol,
            max_connections_per_client,
            unlimited_clients,
            max_requests_per_connection,
            error_pages,
        } = old;
        let mut fields = self.of(Subject::Listener(name.clone()));
        fields.value("bind", bind, &new.bind);
        fields.key("tls", *tls == new.tls);
        fields.key("hsts", *hsts == new.hsts);
        fields.key("redirect_to_https", *redirect_to_https == new.redirect_to_https);
        fields.key("trusted_proxies", *trusted_proxies == new.trusted_proxies);
        fields.key("forwarded", *forwarded == new.forwarded);
        fields.access(access, &new.access);
        fields.value("request_id", request_id, &new.request_id);
        fields.value("merge_slashes", merge_slashes, &new.merge_slashes);
        fields.key("underscores_in_headers", *underscores_in_headers == new.underscores_in_headers);
        fields.time("header_timeout", *header_timeout, new.header_timeout);
        fields.time("idle_timeout", *idle_timeout, new.idle_timeout);
        fields.time("between_bytes", *between_bytes, new.between_bytes);
        fields.value("http2", http2, &new.http2);
        fields.value("http2_max_streams", http2_max_streams, &new.http2_max_streams);
        fields.value("min_rate", min_rate, &new.min_rate);
        fields.value("max_request_line", max_request_line, &new.max_request_line);
        fields.value("max_header_bytes", max_header_bytes, &new.max_header_bytes);
        fields.value("max_headers", max_headers, &new.max_headers);
        fields.value("max_body", &count(*max_body), &count(new.max_body));
        fields.value(
            "max_connections_per_client",
            &count(*max_connections_per_client),
            &count(new.max_connections_per_client),
        );
        fields.key("unlimited_clients", *unlimited_clients == new.unlimited_clients);
        fields.value(
            "max_requests_per_connection",
            &count(*max_requests_per_connection),
            &count(new.max_requests_per_connection),
        );
        fields.key("error_pages", *error_pages == new.error_pages);
        fields.key("proxy_protocol", *proxy_protocol == new.proxy_protocol);
    }

    fn route(&mut self, event: &Event<'_, RoutePlan>, old_plan: &Plan, new_plan: &Plan) {
        let Some((old, new)) = self.both(event, |r| Subject::Route(r.name.clone())) else { return };
        let RoutePlan {
            name,
            listeners,
            host,
            path,
            conditions,
            access,
            basic_auth,
            allow_escapes,
            action,
            rewrite,
            upstream_host,
            request_headers,
            response_headers,
            timeouts,
            max_body,
            filters,
        } = old;
        // Positions say nothing across two Plans; and a route for all listeners stays one when they change.
        let all = |plan: &Plan, listeners: &[usize]| listeners.len() == plan.listeners.len();
        let names = |plan: &Plan, listeners: &[usize]| {
            let mut names: Vec<_> = listeners.iter().map(|at| plan.listeners[*at].name.clone()).collect();
            names.sort();
            names
        };
        let same_listeners = all(old_plan, listeners) && all(new_plan, &new.listeners)
            || names(old_plan, listeners) == names(new_plan, &new.listeners);
        let mut fields = self.of(Subject::Route(name.clone()));
        fields.key("listener", same_listeners);
        fields.value("host", &show_host(host), &show_host(&new.host));
        fields.value("path", path, &new.path);
        let RouteFilters { compress, mirror, error_pages } = filters;
        // Positions say nothing across two Plans.
        let shown = |plan: &Plan, mirror: &Option<MirrorPlan>| {
            mirror.map(|m| (plan.upstreams[m.upstream].name.clone(), m.percent, m.max_body, m.max_in_flight))
        };
        fields.key("mirror", shown(old_plan, mirror) == shown(new_plan, &new.filters.mirror));
        fields.key("error_pages", *error_pages == new.filters.error_pages);
        fields.key("compress", *compress == new.filters.compress);
        fields.key("conditions", *conditions == new.conditions);
        fields.access(access, &new.access);
        fields.key("basic_auth", *basic_auth == new.basic_auth);
        fields.value("allow_escapes", allow_escapes, &new.allow_escapes);
        let (before, now) = (destination(action, old_plan), destination(&new.action, new_plan));
        if let (Action::Upstream(old), Action::Upstream(new)) = (action, &new.action) {
            fields.value("upstream", &old_plan.upstreams[*old].name, &new_plan.upstreams[*new].name);
        } else if let (
            Action::Split { branches: old_branches, by: old },
            Action::Split { branches: new_branches, by: new },
        ) = (action, &new.action)
        {
            fields.value("split", &shares(old_branches, old_plan), &shares(new_branches, new_plan));
            if old.name() == new.name() {
                fields.key("split_by options", old == new);
            } else {
                fields.value("split_by", &old.name(), &new.name());
            }
        } else if before == now {
            // The same words may stand for another body.
            fields.key("answer", *action == new.action);
        } else {
            fields.value("leads to", &before, &now);
        }
        fields.key("rewrite", *rewrite == new.rewrite);
        fields.key("upstream_host", *upstream_host == new.upstream_host);
        fields.key("request_headers", *request_headers == new.request_headers);
        fields.key("response_headers", *response_headers == new.response_headers);
        fields.key("timeouts", *timeouts == new.timeouts);
        let limit = |bytes: Option<u64>| bytes.map_or_else(|| "the listener's".to_owned(), count);
        fields.value("max_body", &limit(*max_body), &limit(new.max_body));
    }

    fn upstream(&mut self, event: &Event<'_, UpstreamPlan>) {
        let Some((old, new)) = self.both(event, |u| Subject::Upstream(u.name.clone())) else { return };
        let UpstreamPlan {
            name,
            policy,
            protocol,
            tls,
            send_proxy,
            check,
            fail_open,
            timeouts,
            pool,
            retry,
            drain,
            max_sessions,
            cookie_keys,
            servers,
        } = old;
        let mut fields = self.of(Subject::Upstream(name.clone()));
        if policy.name() == new.policy.name() {
            fields.key("policy options", *policy == new.policy);
        } else {
            fields.value("policy", &policy.name(), &new.policy.name());
        }
        if protocol.name() == new.protocol.name() {
            fields.key("protocol options", *protocol == new.protocol);
        } else {
            fields.value("protocol", &protocol.name(), &new.protocol.name());
        }
        fields.key("tls", *tls == new.tls);
        let version = |version: Option<Version>| version.map_or("off", Version::name);
        fields.value("send_proxy", &version(*send_proxy), &version(new.send_proxy));
        let check_name = |check: &Option<Check>| check.as_ref().map_or("off", Check::name);
        if check_name(check) == check_name(&new.check) {
            fields.key("check options", *check == new.check);
        } else {
            fields.value("check", &check_name(check), &check_name(&new.check));
        }
        fields.value("fail_open", fail_open, &new.fail_open);
        fields.timeouts(*timeouts, new.timeouts);
        fields.pool(*pool, new.pool);
        fields.retry(*retry, new.retry);
        fields.drain(*drain, new.drain);
        fields.value("max_sessions", max_sessions, &new.max_sessions);
        fields.key("cookie_keys", *cookie_keys == new.cookie_keys);
        pair(servers, &new.servers, |s| &s.name, |event| self.server(name, event));
    }

    fn server(&mut self, upstream: &str, event: &Event<'_, ServerPlan>) {
        let subject =
            |server: &ServerPlan| Subject::Server { upstream: upstream.to_owned(), server: server.name.clone() };
        let Some((old, new)) = self.both(event, subject) else { return };
        let ServerPlan { name: _, address, weight } = old;
        let mut fields = self.of(subject(old));
        fields.value("address", address, &new.address);
        fields.value("weight", weight, &new.weight);
    }

    /// Notes what was added or removed; gives back what is in both.
    fn both<'a, T>(&mut self, event: &Event<'a, T>, subject: impl Fn(&T) -> Subject) -> Option<(&'a T, &'a T)> {
        match event {
            Event::Both(old, new) => return Some((*old, *new)),
            Event::Added(new) => self.changes.push(Change { subject: subject(new), what: What::Added }),
            Event::Removed(old) => self.changes.push(Change { subject: subject(old), what: What::Removed }),
        }
        None
    }

    fn of(&mut self, subject: Subject) -> Fields<'_> {
        Fields { diff: self, subject }
    }
}

/// Compares the fields of one subject.
struct Fields<'a> {
    diff: &'a mut Diff,
    subject: Subject,
}

impl Fields<'_> {
    fn value<T: PartialEq + fmt::Display>(&mut self, key: &'static str, old: &T, new: &T) {
        if old != new {
            self.push(What::Value { key, old: old.to_string(), new: new.to_string() });
        }
    }

    fn time(&mut self, key: &'static str, old: Duration, new: Duration) {
        self.value(key, &show_duration(old), &show_duration(new));
    }

    fn key(&mut self, key: &'static str, same: bool) {
        if !same {
            self.push(What::Key(key));
        }
    }

    fn access(&mut self, Access { allow, deny }: &Access, new: &Access) {
        self.key("allow", *allow == new.allow);
        self.key("deny", *deny == new.deny);
    }

    fn push(&mut self, what: What) {
        self.diff.changes.push(Change { subject: self.subject.clone(), what });
    }

    fn timeouts(&mut self, old: UpstreamTimeouts, new: UpstreamTimeouts) {
        let UpstreamTimeouts { connect, first_byte, between_bytes, request, tunnel_idle, tunnel_half_closed } = old;
        let limit = |time: Option<Duration>| time.map_or_else(|| "off".to_owned(), show_duration);
        self.time("timeouts.connect", connect, new.connect);
        self.time("timeouts.first_byte", first_byte, new.first_byte);
        self.time("timeouts.between_bytes", between_bytes, new.between_bytes);
        self.value("timeouts.request", &limit(request), &limit(new.request));
        self.time("timeouts.tunnel_idle", tunnel_idle, new.tunnel_idle);
        self.time("timeouts.tunnel_half_closed", tunnel_half_closed, new.tunnel_half_closed);
    }

    fn pool(&mut self, old: PoolPlan, new: PoolPlan) {
        let PoolPlan { max_idle, idle_timeout, max_age, max_requests } = old;
        self.value("pool.max_idle", &max_idle, &new.max_idle);
        self.time("pool.idle_timeout", idle_timeout, new.idle_timeout);
        self.time("pool.max_age", max_age, new.max_age);
        self.value("pool.max_requests", &count(max_requests), &count(new.max_requests));
    }

    fn retry(&mut self, old: RetryPlan, new: RetryPlan) {
        let RetryPlan { attempts, budget_percent, budget_floor } = old;
        self.value("retry.attempts", &attempts, &new.attempts);
        self.value("retry.budget_percent", &budget_percent, &new.budget_percent);
        self.value("retry.budget_floor", &budget_floor, &new.budget_floor);
    }

    fn drain(&mut self, old: DrainPlan, new: DrainPlan) {
        let DrainPlan { in_flight, sessions_idle, sessions_max } = old;
        self.time("drain.in_flight", in_flight, new.in_flight);
        self.time("drain.sessions_idle", sessions_idle, new.sessions_idle);
        self.time("drain.sessions_max", sessions_max, new.sessions_max);
    }
}

fn count(number: u64) -> String {
    if number == u64::MAX { "unlimited".to_owned() } else { number.to_string() }
}

/// Where a route leads, in a word or two.
fn destination(action: &Action, plan: &Plan) -> String {
    match action {
        Action::Upstream(position) => format!("upstream {}", plan.upstreams[*position].name),
        Action::Split { branches, .. } => format!("split {}", shares(branches, plan)),
        Action::Redirect { status, to } => format!("redirect {status} {to}"),
        Action::Respond { status, .. } => format!("respond {status}"),
    }
}

/// The upstreams of a split, each with its weight.
fn shares(branches: &[Branch], plan: &Plan) -> String {
    let share = |branch: &Branch| format!("{} {}", plan.upstreams[branch.upstream].name, branch.weight);
    branches.iter().map(share).collect::<Vec<_>>().join(", ")
}

fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Any => "any".to_owned(),
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

#[cfg(test)]
mod tests;
