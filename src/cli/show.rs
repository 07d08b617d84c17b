//! The effective configuration, written in the words that the configuration reads.
//!
//! The Plan is taken apart field by field, without `..`, so that a new field does not compile before
//! it is shown. Secrets are never shown, not even their length.

mod access;
mod choice;
mod filters;
mod label;
mod listener;
mod litmus;
mod outliers;
mod route;
mod tls;
mod upstream_tls;

pub(super) use label::label;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use choice::Choice;
use listener::ListenerView;
use litmus::LitmusView;
use outliers::OutliersView;
use route::RouteView;
use upstream_tls::UpstreamTlsView;

use crate::config::Plan;
use crate::config::plan::{
    AccessLogFormat, AccessLogPlan, AdminPlan, DebugPlan, DnsPlan, DrainPlan, LogFormat, LogPlan, PoolPlan, QueuePlan,
    RetryPlan, ServerPlan, ShutdownPlan, UpgradePlan, UpstreamPlan, UpstreamTimeouts,
};
use crate::health::Hears;
use crate::proxy_protocol::Version;
use crate::units::show_duration;

/// What stands in the place of a secret.
const MASK: &str = "(secret)";

/// The Plan as TOML.
///
/// # Errors
/// A number too large for TOML.
pub(super) fn toml(plan: &Plan) -> Result<String, toml::ser::Error> {
    toml::to_string(&PlanView::of(plan))
}

/// The Plan as JSON, with the same keys.
///
/// # Errors
/// None that can happen with these types.
pub(super) fn json(plan: &Plan) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&PlanView::of(plan)).map(|text| text + "\n")
}

#[derive(Serialize)]
struct PlanView<'a> {
    cores: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_dir: Option<String>,
    max_connections: Count,
    admin: AdminView,
    log: LogView<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_log: Option<AccessLogView>,
    shutdown: ShutdownView,
    upgrade: UpgradeView,
    debug: DebugView,
    dns: DnsView,
    listener: Vec<ListenerView<'a>>,
    route: Vec<RouteView<'a>>,
    upstream: Upstreams<'a>,
}

impl<'a> PlanView<'a> {
    fn of(plan: &'a Plan) -> Self {
        let Plan {
            cores,
            state_dir,
            max_connections,
            admin,
            log,
            access_log,
            shutdown,
            upgrade,
            debug,
            dns,
            listeners,
            routes,
            upstreams,
        } = plan;
        Self {
            cores: *cores,
            state_dir: state_dir.as_ref().map(|p| p.display().to_string()),
            max_connections: Count(*max_connections),
            admin: AdminView::of(admin),
            log: LogView::of(log),
            access_log: access_log.as_ref().map(AccessLogView::of),
            shutdown: ShutdownView::of(shutdown),
            upgrade: UpgradeView::of(upgrade),
            debug: DebugView::of(debug),
            dns: DnsView::of(dns),
            listener: listeners.iter().map(ListenerView::of).collect(),
            route: routes.iter().map(|route| RouteView::of(route, plan)).collect(),
            upstream: Upstreams(upstreams.iter().map(|u| (u.name.as_str(), UpstreamView::of(u))).collect()),
        }
    }
}

#[derive(Serialize)]
struct DebugView {
    remember: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'static str>,
}

impl DebugView {
    fn of(DebugPlan { remember, key }: &DebugPlan) -> Self {
        Self { remember: *remember, key: key.as_ref().map(|_| MASK) }
    }
}

#[derive(Serialize)]
struct AdminView {
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'static str>,
}

impl AdminView {
    fn of(plan: &AdminPlan) -> Self {
        let AdminPlan { socket, bind, token } = plan;
        Self {
            socket: socket.as_ref().map(|p| p.display().to_string()),
            bind: bind.map(|a| a.to_string()),
            token: token.as_ref().map(|_| MASK),
        }
    }
}

#[derive(Serialize)]
struct LogView<'a> {
    level: &'a str,
    format: &'static str,
}

impl<'a> LogView<'a> {
    fn of(LogPlan { level, format }: &'a LogPlan) -> Self {
        let format = match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        Self { level, format }
    }
}

#[derive(Serialize)]
struct AccessLogView {
    file: String,
    format: &'static str,
}

impl AccessLogView {
    fn of(AccessLogPlan { file, format }: &AccessLogPlan) -> Self {
        let format = match format {
            AccessLogFormat::Json => "json",
            AccessLogFormat::Combined => "combined",
        };
        Self { file: file.as_ref().map_or_else(|| "-".to_owned(), |p| p.display().to_string()), format }
    }
}

#[derive(Serialize)]
struct ShutdownView {
    announce: String,
    idle_grace: String,
    deadline: String,
}

impl ShutdownView {
    fn of(ShutdownPlan { announce, idle_grace, deadline }: &ShutdownPlan) -> Self {
        Self {
            announce: show_duration(*announce),
            idle_grace: show_duration(*idle_grace),
            deadline: show_duration(*deadline),
        }
    }
}

#[derive(Serialize)]
struct UpgradeView {
    ready_within: String,
    idle_grace: String,
    deadline: String,
}

impl UpgradeView {
    fn of(UpgradePlan { ready_within, idle_grace, deadline }: &UpgradePlan) -> Self {
        Self {
            ready_within: show_duration(*ready_within),
            idle_grace: show_duration(*idle_grace),
            deadline: show_duration(*deadline),
        }
    }
}

#[derive(Serialize)]
struct DnsView {
    servers: Vec<String>,
    min_ttl: String,
    max_ttl: String,
}

impl DnsView {
    fn of(DnsPlan { servers, min_ttl, max_ttl }: &DnsPlan) -> Self {
        Self {
            servers: servers.iter().map(ToString::to_string).collect(),
            min_ttl: show_duration(*min_ttl),
            max_ttl: show_duration(*max_ttl),
        }
    }
}

/// A map in the order of the configuration.
struct Upstreams<'a>(Vec<(&'a str, UpstreamView<'a>)>);

impl Serialize for Upstreams<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, upstream) in &self.0 {
            map.serialize_entry(name, upstream)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct UpstreamView<'a> {
    policy: Choice,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shadow: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow_cookie: Option<&'a str>,
    protocol: Choice,
    tls: UpstreamTlsView,
    #[serde(skip_serializing_if = "Option::is_none")]
    send_proxy: Option<&'static str>,
    check: Choice,
    fail_open: bool,
    slow_start: String,
    max_requests: Count,
    queue: QueueView,
    max_sessions: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookie_keys: Vec<&'static str>,
    timeouts: TimeoutsView,
    pool: PoolView,
    retry: RetryView,
    outliers: OutliersView,
    litmus: LitmusView,
    drain: DrainView,
    server: Vec<ServerView<'a>>,
}

impl<'a> UpstreamView<'a> {
    fn of(plan: &'a UpstreamPlan) -> Self {
        let UpstreamPlan {
            name: _, // the key under which it stands
            policy,
            shadow,
            protocol,
            tls,
            send_proxy,
            check,
            fail_open,
            slow_start,
            max_requests,
            queue,
            timeouts,
            pool,
            retry,
            outliers,
            litmus,
            drain,
            drain_on,
            max_sessions,
            cookie_keys,
            servers,
        } = plan;
        Self {
            policy: choice::policy(policy),
            shadow: shadow.iter().flat_map(|shadow| &shadow.policies).map(choice::policy).collect(),
            shadow_cookie: shadow.as_ref().and_then(|shadow| shadow.cookie.as_deref()),
            protocol: choice::protocol(protocol),
            tls: UpstreamTlsView::of(tls.as_ref()),
            send_proxy: send_proxy.map(Version::name),
            check: check.as_ref().map_or_else(choice::off, choice::check),
            fail_open: *fail_open,
            slow_start: slow_start.map_or_else(|| "off".to_owned(), show_duration),
            max_requests: Count(*max_requests),
            queue: QueueView::of(queue),
            max_sessions: *max_sessions,
            cookie_keys: cookie_keys.iter().map(|_| MASK).collect(),
            timeouts: TimeoutsView::of(timeouts),
            pool: PoolView::of(pool),
            retry: RetryView::of(retry),
            outliers: OutliersView::of(outliers.as_ref()),
            litmus: LitmusView::of(litmus.as_ref()),
            drain: DrainView::of(drain, *drain_on),
            server: servers.iter().map(ServerView::of).collect(),
        }
    }
}

#[derive(Serialize)]
struct QueueView {
    size: u32,
    timeout: String,
}

impl QueueView {
    fn of(QueuePlan { size, timeout }: &QueuePlan) -> Self {
        Self { size: *size, timeout: show_duration(*timeout) }
    }
}

#[derive(Serialize)]
struct TimeoutsView {
    connect: String,
    first_byte: String,
    between_bytes: String,
    request: String,
    tunnel_idle: String,
    tunnel_half_closed: String,
}

impl TimeoutsView {
    fn of(plan: &UpstreamTimeouts) -> Self {
        let UpstreamTimeouts { connect, first_byte, between_bytes, request, tunnel_idle, tunnel_half_closed } = *plan;
        Self {
            connect: show_duration(connect),
            first_byte: show_duration(first_byte),
            between_bytes: show_duration(between_bytes),
            request: request.map_or_else(|| "off".to_owned(), show_duration),
            tunnel_idle: show_duration(tunnel_idle),
            tunnel_half_closed: show_duration(tunnel_half_closed),
        }
    }
}

#[derive(Serialize)]
struct PoolView {
    max_idle: usize,
    idle_timeout: String,
    max_age: String,
    max_requests: Count,
}

/// A number, or `"unlimited"`, which TOML has no number for.
struct Count(u64);

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == u64::MAX { serializer.serialize_str("unlimited") } else { serializer.serialize_u64(self.0) }
    }
}

impl PoolView {
    fn of(plan: &PoolPlan) -> Self {
        let PoolPlan { max_idle, idle_timeout, max_age, max_requests } = *plan;
        Self {
            max_idle,
            idle_timeout: show_duration(idle_timeout),
            max_age: show_duration(max_age),
            max_requests: Count(max_requests),
        }
    }
}

#[derive(Serialize)]
struct RetryView {
    attempts: u32,
    budget_percent: u32,
    budget_floor: u32,
}

impl RetryView {
    fn of(plan: &RetryPlan) -> Self {
        let RetryPlan { attempts, budget_percent, budget_floor } = *plan;
        Self { attempts, budget_percent, budget_floor }
    }
}

#[derive(Serialize)]
struct DrainView {
    in_flight: String,
    sessions_idle: String,
    sessions_max: String,
    close_spread: String,
    move_sessions: &'static str,
    on_check: bool,
    on_header: bool,
}

impl DrainView {
    fn of(plan: &DrainPlan, drain_on: Hears) -> Self {
        let DrainPlan { in_flight, sessions_idle, sessions_max, close_spread, move_sessions } = *plan;
        Self {
            in_flight: show_duration(in_flight),
            sessions_idle: show_duration(sessions_idle),
            sessions_max: show_duration(sessions_max),
            close_spread: show_duration(close_spread),
            move_sessions: move_sessions.name(),
            on_check: drain_on.check,
            on_header: drain_on.header,
        }
    }
}

#[derive(Serialize)]
struct ServerView<'a> {
    name: &'a str,
    address: String,
    weight: u32,
    max_requests: Count,
    backup: bool,
}

impl<'a> ServerView<'a> {
    fn of(ServerPlan { name, address, weight, max_requests, backup }: &'a ServerPlan) -> Self {
        Self {
            name,
            address: address.to_string(),
            weight: *weight,
            max_requests: Count(*max_requests),
            backup: *backup,
        }
    }
}

#[cfg(test)]
pub(super) mod fixture;
#[cfg(test)]
mod tests;
