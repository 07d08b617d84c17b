//! Upstreams: their policy's surroundings, checks and limits.

use std::ops::Range;
use std::time::Duration;

use super::Compiler;
use crate::balance::sticky_cookie::Carrier;
use crate::balance::{HotKeys, Policy};
use crate::config::plan::{
    DrainPlan, MoveSessions, PoolPlan, Protocol, QueuePlan, RetryPlan, ServerPlan, UpstreamPlan, UpstreamTimeouts,
};
use crate::config::read::place_of;
use crate::config::spec::{
    At, DrainSpec, MoveSessionsSpec, PoolSpec, QueueSpec, RetrySpec, Spec, TimeoutsSpec, UpstreamSpec,
};
use crate::health::{Check, Hears};
use crate::proxy_protocol::Version;
use crate::units;

const SHORTEST_KEY: usize = 16;
const MAKE_KEY: &str = "make one with `openssl rand -hex 32`";

/// Upstreams in the order of the file, which the tree does not keep.
pub(super) fn in_order(spec: &Spec) -> Vec<(&At<String>, &UpstreamSpec)> {
    let mut upstreams: Vec<_> = spec.upstream.iter().collect();
    upstreams.sort_by_key(|(name, _)| name.span().start);
    upstreams
}

impl Compiler<'_> {
    pub(super) fn upstreams(&mut self, spec: &Spec) -> Vec<UpstreamPlan> {
        if spec.upstream.is_empty() {
            let hint = "add `[upstream.app]` with `servers = [\"127.0.0.1:9001\"]`";
            self.lack(None, "no upstream", hint);
        }
        in_order(spec).into_iter().map(|(name, upstream)| self.upstream(spec, name, upstream)).collect()
    }

    fn upstream(&mut self, whole: &Spec, name: &At<String>, spec: &UpstreamSpec) -> UpstreamPlan {
        self.name(name, "upstream");
        let check = spec.check.get_ref().0.clone();
        if let Some(check) = &check {
            self.check(name.get_ref(), spec.check.span(), check);
        }
        let max_requests = self.count(&spec.max_requests, "max_requests");
        let servers = self.servers(name, spec, max_requests);
        self.fills(spec, &servers);
        self.spreads(spec);
        UpstreamPlan {
            name: name.get_ref().clone(),
            policy: spec.policy.get_ref().clone(),
            shadow: self.shadow(spec),
            protocol: self.protocol(name.get_ref(), &spec.protocol),
            tls: self.upstream_tls(spec, &servers),
            send_proxy: self.send_proxy(spec),
            check,
            fail_open: spec.fail_open,
            slow_start: self.slow_start(spec),
            max_requests,
            queue: self.queue(&spec.queue),
            timeouts: self.timeouts(&spec.timeouts),
            pool: self.pool(&spec.pool),
            retry: self.retry(&spec.retry),
            outliers: self.outliers(&spec.outliers, servers.len()),
            litmus: self.litmus(spec),
            drain: self.drain(&spec.drain, spec.policy.get_ref().sticky().is_some()),
            drain_on: self.drain_on(spec),
            max_sessions: self.within(&spec.max_sessions, "max_sessions", &(1..=1 << 24)),
            cookie_keys: self.cookie_keys(whole, name, spec),
            servers,
        }
    }

    /// A server that is never full gets everything.
    fn fills(&mut self, spec: &UpstreamSpec, servers: &[ServerPlan]) {
        let policy = spec.policy.get_ref();
        let fills = matches!(policy.sticky().map_or(policy, |sticky| &*sticky.new_clients), Policy::First(_));
        if fills && servers.len() > 1 && servers.iter().all(|server| server.max_requests == u64::MAX) {
            let message = "`first` without `max_requests` sends everything to the first server".to_owned();
            self.warn(spec.policy.span(), message, "set `max_requests` of the upstream or of its servers");
        }
    }

    /// Keys are spread while a server is above its bound.
    fn spreads(&mut self, spec: &UpstreamSpec) {
        let policy = spec.policy.get_ref();
        if matches!(policy.hot_keys(), HotKeys::Spread(_)) && policy.max_load().is_none() {
            let message =
                "`hot_keys = \"spread\"` spreads an address while its server is above `max_load`, and there is none";
            self.error(
                spec.policy.span(),
                message,
                "set `max_load = 1.25` beside it, or write `hot_keys = \"report\"`",
            );
        }
    }

    fn protocol(&mut self, upstream: &str, spec: &At<Protocol>) -> Protocol {
        let protocol = *spec.get_ref();
        if let Some(http2) = protocol.http2() {
            let tree = self.tree;
            let place = |key: &str| {
                place_of(tree, &["upstream", upstream, "protocol", protocol.name(), key]).unwrap_or_else(|| spec.span())
            };
            if !(1..=10_000).contains(&http2.max_streams) {
                let message = format!("`max_streams` is {}, which is out of range", http2.max_streams);
                self.error(place("max_streams"), message, "write a number from 1 to 10000");
            }
            if let Some(ping) = http2.ping.0 {
                self.positive_at(place("ping"), ping, "ping");
            }
        }
        protocol
    }

    fn send_proxy(&mut self, spec: &UpstreamSpec) -> Option<Version> {
        let version = spec.send_proxy.as_ref()?;
        let protocol = spec.protocol.get_ref();
        if protocol.http2().is_some() {
            let name = protocol.name();
            let message = format!("`send_proxy` names one client, and a connection of `{name}` is shared by many");
            self.error(version.span(), message, "remove it, or write `protocol = \"http1\"`");
        }
        Some(*version.get_ref())
    }

    fn slow_start(&mut self, spec: &UpstreamSpec) -> Option<Duration> {
        let window = spec.slow_start.get_ref().0.filter(|window| !window.is_zero())?;
        let policy = spec.policy.get_ref();
        let is_limited =
            spec.max_requests.get_ref().0 != u64::MAX || spec.server.iter().any(|s| s.get_ref().max_requests.is_some());
        let eases = policy.spreads_anew() || (is_limited && !policy.belongs());
        if !eases && spec.slow_start.span() != (0..0) {
            let placing = policy.sticky().map_or(policy, |sticky| &*sticky.new_clients).name();
            let why =
                if placing == "first" { "fills servers in their order" } else { "keeps clients where they belong" };
            let message = format!("`slow_start` does nothing here: `{placing}` {why}");
            self.warn(spec.slow_start.span(), message, "remove it, or choose another policy");
        }
        Some(self.not_too_long(spec.slow_start.span(), window, "slow_start"))
    }

    fn timeouts(&mut self, spec: &TimeoutsSpec) -> UpstreamTimeouts {
        let request = spec.request.get_ref().0;
        UpstreamTimeouts {
            connect: self.positive(&spec.connect, "connect"),
            first_byte: self.positive(&spec.first_byte, "first_byte"),
            between_bytes: self.positive(&spec.between_bytes, "between_bytes"),
            request: request.map(|time| self.positive_at(spec.request.span(), time, "request")),
            tunnel_idle: self.positive(&spec.tunnel_idle, "tunnel_idle"),
            tunnel_half_closed: self.positive(&spec.tunnel_half_closed, "tunnel_half_closed"),
        }
    }

    fn queue(&mut self, spec: &QueueSpec) -> QueuePlan {
        QueuePlan {
            size: self.within(&spec.size, "size", &(0..=1 << 20)),
            timeout: self.positive(&spec.timeout, "timeout"),
        }
    }

    fn pool(&mut self, spec: &PoolSpec) -> PoolPlan {
        let max_requests = spec.max_requests.get_ref().0;
        if max_requests == 0 {
            let hint = "write a whole number from 1, or \"unlimited\"";
            self.error(spec.max_requests.span(), "`max_requests` is 0: no connection could be used", hint);
        }
        PoolPlan {
            max_idle: self.within(&spec.max_idle, "max_idle", &(0..=1 << 20)),
            idle_timeout: self.positive(&spec.idle_timeout, "idle_timeout"),
            max_age: self.positive(&spec.max_age, "max_age"),
            max_requests,
        }
    }

    fn retry(&mut self, spec: &RetrySpec) -> RetryPlan {
        RetryPlan {
            attempts: self.within(&spec.attempts, "attempts", &(0..=8)),
            budget_percent: self.within(&spec.budget_percent, "budget_percent", &(0..=100)),
            budget_floor: self.within(&spec.budget_floor, "budget_floor", &(0..=1_000_000)),
        }
    }

    fn drain(&mut self, spec: &DrainSpec, sticky: bool) -> DrainPlan {
        let plan = DrainPlan {
            in_flight: self.time(&spec.in_flight, "in_flight"),
            sessions_idle: self.time(&spec.sessions_idle, "sessions_idle"),
            sessions_max: self.time(&spec.sessions_max, "sessions_max"),
            close_spread: self.time(&spec.close_spread, "close_spread"),
            move_sessions: match spec.move_sessions.get_ref() {
                MoveSessionsSpec::Never => MoveSessions::Never,
                MoveSessionsSpec::Navigation => MoveSessions::Navigation,
            },
        };
        if plan.move_sessions == MoveSessions::Navigation && !sticky && !self.gaps.any {
            let message = "`move_sessions` is set, and this upstream has no sessions";
            self.warn(spec.move_sessions.span(), message, "set `policy = \"sticky_cookie\"`, or remove it");
        }
        if plan.close_spread > plan.in_flight && spec.close_spread.span() != (0..0) {
            let message = "`close_spread` is longer than `in_flight`, in which it lies";
            self.warn(spec.close_spread.span(), message, "write a shorter one, or raise `in_flight`");
        }
        if plan.sessions_idle > plan.sessions_max && spec.sessions_idle.span() != (0..0) {
            let message = "`sessions_idle` is longer than `sessions_max` and so never matters";
            self.warn(spec.sessions_idle.span(), message, "write a shorter one, or raise `sessions_max`");
        }
        plan
    }

    /// By which words servers may ask for their drain.
    fn drain_on(&mut self, spec: &UpstreamSpec) -> Hears {
        let DrainSpec { on_check, on_header, .. } = &spec.drain;
        let hears = Hears { check: *on_check.get_ref(), header: *on_header.get_ref() };
        let check = spec.check.get_ref().0.as_ref();
        if hears.check && !matches!(check, Some(Check::Http(_))) {
            let message = format!(
                "`on_check` hears what an HTTP check is told, and the check is \"{}\"",
                check.map_or("off", Check::name)
            );
            self.error(on_check.span(), message, "write `check = \"http\"`, or remove it");
        }
        if hears.header && check.is_none() {
            let message = "a server that has asked by its header comes back once its check has failed and passed, and `check` is \"off\"";
            self.warn(on_header.span(), message, "set a check, or take such a server back with `evenkeel ready`");
        }
        hears
    }

    fn check(&mut self, upstream: &str, whole: Range<usize>, check: &Check) {
        // serde reads a check's options without their places.
        let tree = self.tree;
        let place = |key: &str| {
            place_of(tree, &["upstream", upstream, "check", check.name(), key]).unwrap_or_else(|| whole.clone())
        };
        let timing = check.timing();
        self.positive_at(place("interval"), timing.interval, "interval");
        self.positive_at(place("timeout"), timing.timeout, "timeout");
        // A slow check delays the next one. Who has not written for how long knows best how often.
        let timeout = place_of(tree, &["upstream", upstream, "check", check.name(), "timeout"]);
        if let Some(place) = timeout
            && timing.timeout > timing.interval
            && timing.interval > Duration::ZERO
        {
            let (timeout, interval) = (units::show_duration(timing.timeout), units::show_duration(timing.interval));
            let message = format!("`timeout` ({timeout}) is longer than `interval` ({interval})");
            let hint = format!("a slow check delays the next one: set `timeout` to \"{interval}\" or less");
            self.warn(place, message, &hint);
        }
        if timing.jitter > 50 {
            let message = format!("`jitter` is {}, which is out of range", timing.jitter);
            self.error(place("jitter"), message, "write a percentage from 0 to 50");
        }
        for (key, threshold) in
            [("healthy_threshold", timing.healthy_threshold), ("unhealthy_threshold", timing.unhealthy_threshold)]
        {
            if !(1..=1000).contains(&threshold) {
                self.error(
                    place(key),
                    format!("`{key}` is {threshold}, which is out of range"),
                    "write a number from 1 to 1000",
                );
            }
        }
        let port = match check {
            Check::Http(http) => {
                self.check_path(place("path"), &http.path);
                if http.host.as_deref().is_some_and(|host| !is_field_value(host)) {
                    self.error(place("host"), "`host` cannot be sent as a Host header", "write a host name");
                }
                http.port
            }
            Check::Tcp(tcp) => tcp.port,
            Check::Grpc(grpc) => {
                if grpc.host.as_deref().is_some_and(|host| !is_field_value(host)) {
                    self.error(place("host"), "`host` cannot be sent as an authority", "write a host name");
                }
                grpc.port
            }
        };
        if port == Some(0) {
            self.error(place("port"), "a check cannot use port 0", "write a number from 1 to 65535");
        }
    }

    fn check_path(&mut self, place: Range<usize>, path: &str) {
        if !path.starts_with('/') {
            let message = format!("the path `{}` does not start with `/`", path.escape_debug());
            self.error(place, message, &format!("write \"/{}\"", path.escape_debug()));
        } else if !path.bytes().all(|b| b.is_ascii_graphic()) {
            self.error(place, "the path has characters that a URL cannot carry", "write them percent-encoded");
        }
    }

    fn cookie_keys(&mut self, whole: &Spec, name: &At<String>, spec: &UpstreamSpec) -> Vec<String> {
        if let (Some(keys), Some(file)) = (&spec.cookie_keys, &spec.cookie_key_file) {
            let message = "`cookie_keys` and `cookie_key_file` are both set";
            self.twice(file.span(), keys.span(), message, "keep one of them");
        }
        let given = spec.cookie_keys.as_ref().map(At::span).or(spec.cookie_key_file.as_ref().map(At::span));
        let sticky = spec.policy.get_ref().sticky().is_some_and(|sticky| sticky.carrier() == Carrier::Own);
        // Where something was wrong, it may have been the policy.
        if let Some(place) = &given
            && !sticky
            && !self.gaps.any
        {
            let message = format!("upstream `{}` sets no cookie, so its cookie keys are not used", name.get_ref());
            self.warn(place.clone(), message, "set `policy = \"sticky_cookie\"`, or remove the keys");
        }
        let (place, keys) = if let Some(keys) = &spec.cookie_keys {
            (keys.span(), keys.get_ref().iter().map(|key| (key.span(), key.get_ref().0.clone())).collect())
        } else if let Some(file) = &spec.cookie_key_file {
            let Some(text) = self.file(file, "cookie_key_file") else { return Vec::new() };
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            (file.span(), lines.map(|line| (file.span(), line.to_owned())).collect())
        } else if let Some(keys) = self.around.cookie_keys.as_ref().filter(|_| sticky) {
            let place = spec.policy.span();
            (place.clone(), keys.split(',').map(|key| (place.clone(), key.trim().to_owned())).collect())
        } else {
            if sticky && whole.state_dir.is_none() {
                let message =
                    format!("upstream `{}` seals its cookies with a key that a restart loses", name.get_ref());
                self.warn(spec.policy.span(), message, "set `state_dir`, `cookie_keys` or `cookie_key_file`");
            }
            return Vec::new();
        };
        self.judged_keys(place, keys)
    }

    fn judged_keys(&mut self, whole: Range<usize>, keys: Vec<(Range<usize>, String)>) -> Vec<String> {
        if keys.is_empty() {
            self.error(whole, "no cookie key is in here", MAKE_KEY);
        }
        let mut good: Vec<String> = Vec::new();
        for (at, (place, key)) in keys.into_iter().enumerate() {
            if key.len() < SHORTEST_KEY {
                let message = format!("cookie key {} is shorter than {SHORTEST_KEY} characters", at + 1);
                self.error(place, message, MAKE_KEY);
            } else if good.contains(&key) {
                self.error(place, format!("cookie key {} is there twice", at + 1), "remove one");
            } else {
                good.push(key);
            }
        }
        good
    }
}

fn is_field_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}
