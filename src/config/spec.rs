//! The Spec: what the TOML says, key for key, and every default.
//!
//! A default is written here and nowhere else (those of policies and checks stand beside them in
//! their own rooms). Nothing is judged in here beyond its type: [`super::compile`] does that, and
//! needs places to point at, so what can be wrong is wrapped in [`At`]. No `flatten` and no untagged
//! enum may come in: both lose places. Keys that must be given are optional here, so that a file
//! that lacks several is told so at once.

mod access;
mod error_page;
mod filters;
mod litmus;
mod outliers;
mod route;
mod tls;
mod upstream_tls;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use access::BasicAuthSpec;
pub use error_page::ErrorPageSpec;
pub use filters::{CompressSpec, LevelSpec, MirrorSpec};
pub use litmus::{LitmusBySpec, LitmusSpec};
pub use outliers::OutliersSpec;
pub use route::{BranchSpec, Either, HeadersSpec, MatchSpec, RedirectSpec, RespondSpec, RouteSpec, RouteTimeoutsSpec};
pub use tls::{
    CertificateSpec, CertificatesSpec, ClientAuthModeSpec, ClientAuthSpec, HstsSpec, RedirectToHttpsSpec, SELF_SIGNED,
    TlsSpec, TlsVersionSpec,
};
pub use upstream_tls::{TlsOrNot, UpstreamTlsSpec};
pub use values::{BindText, CheckOrOff, Count, OneOrMany, Secret, Size, Switch, Time, TimeOrOff};

use super::protocol::Protocol;
use crate::balance::{Policy, RoundRobin};
use crate::proxy_protocol::Version;

/// A value and the bytes of the file where it stands; `0..0` for a default.
pub type At<T> = toml::Spanned<T>;

/// A default: a value that stands nowhere.
pub(super) fn nowhere<T>(value: T) -> At<T> {
    At::new(0..0, value)
}

const fn seconds(seconds: u64) -> Time {
    Time(Duration::from_secs(seconds))
}

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct Spec {
    /// Absent: as many as the process may use.
    pub cores: Option<At<usize>>,
    pub state_dir: Option<PathBuf>,
    /// Absent: what the descriptors of the process allow.
    pub max_connections: Option<At<Count>>,
    pub admin: AdminSpec,
    pub log: LogSpec,
    pub access_log: Option<AccessLogSpec>,
    pub shutdown: ShutdownSpec,
    pub upgrade: UpgradeSpec,
    pub debug: DebugSpec,
    pub dns: DnsSpec,
    pub listener: Vec<At<ListenerSpec>>,
    pub route: Vec<At<RouteSpec>>,
    pub upstream: BTreeMap<At<String>, UpstreamSpec>,
}

/// `[admin]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct AdminSpec {
    pub socket: Option<At<PathBuf>>,
    pub bind: Option<At<BindText>>,
    pub token: Option<At<Secret>>,
    pub token_file: Option<At<PathBuf>>,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct LogSpec {
    pub level: At<String>,
    pub format: LogFormatSpec,
}

impl Default for LogSpec {
    fn default() -> Self {
        Self { level: nowhere("info".to_owned()), format: LogFormatSpec::Text }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormatSpec {
    Text,
    Json,
}

/// `[access_log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct AccessLogSpec {
    /// Absent or `-`: standard output.
    pub file: Option<PathBuf>,
    pub format: AccessLogFormatSpec,
}

impl Default for AccessLogSpec {
    fn default() -> Self {
        Self { file: None, format: AccessLogFormatSpec::Json }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogFormatSpec {
    Json,
    Combined,
}

/// `[shutdown]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ShutdownSpec {
    pub announce: At<Time>,
    pub idle_grace: At<Time>,
    pub deadline: At<Time>,
}

impl Default for ShutdownSpec {
    fn default() -> Self {
        Self { announce: nowhere(seconds(0)), idle_grace: nowhere(seconds(1)), deadline: nowhere(seconds(30)) }
    }
}

/// `[debug]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct DebugSpec {
    pub remember: At<usize>,
    pub key: Option<At<Secret>>,
    pub key_file: Option<At<PathBuf>>,
}

impl Default for DebugSpec {
    fn default() -> Self {
        Self { remember: nowhere(0), key: None, key_file: None }
    }
}

/// `[upgrade]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct UpgradeSpec {
    pub ready_within: At<Time>,
    pub idle_grace: At<Time>,
    pub deadline: At<Time>,
}

impl Default for UpgradeSpec {
    fn default() -> Self {
        Self { ready_within: nowhere(seconds(60)), idle_grace: nowhere(seconds(10)), deadline: nowhere(seconds(600)) }
    }
}

/// `[dns]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct DnsSpec {
    /// Empty: those of the system.
    pub servers: Vec<At<String>>,
    pub min_ttl: At<Time>,
    pub max_ttl: At<Time>,
}

impl Default for DnsSpec {
    fn default() -> Self {
        // Not zero, or a zero TTL would mean a query without pause; and a change is seen within minutes.
        Self { servers: Vec::new(), min_ttl: nowhere(seconds(1)), max_ttl: nowhere(seconds(300)) }
    }
}

/// A large office behind one address has some hundred; an attacker would have tens of thousands.
pub(super) const CONNECTIONS_PER_CLIENT: u64 = 1000;

/// `[[listener]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ListenerSpec {
    pub name: Option<At<String>>,
    pub bind: Option<At<BindText>>,
    /// Absent: plain HTTP.
    pub tls: Option<At<TlsSpec>>,
    pub hsts: Option<At<HstsSpec>>,
    pub redirect_to_https: At<RedirectToHttpsSpec>,
    pub backlog: At<u32>,
    pub trusted_proxies: Vec<At<String>>,
    pub forwarded: ForwardedSpec,
    /// Absent: everybody.
    pub allow: Option<At<OneOrMany>>,
    /// Absent: nobody.
    pub deny: Option<At<OneOrMany>>,
    pub request_id: bool,
    pub merge_slashes: bool,
    pub underscores_in_headers: UnderscoresSpec,
    pub header_timeout: At<Time>,
    pub idle_timeout: At<Time>,
    pub between_bytes: At<Time>,
    pub http2: bool,
    pub http2_max_streams: At<u32>,
    pub min_rate: Size,
    pub max_request_line: At<Size>,
    pub max_header_bytes: At<Size>,
    pub max_headers: At<usize>,
    pub max_body: Size,
    pub proxy_protocol: Option<At<ProxyProtocolSpec>>,
    /// Absent: [`CONNECTIONS_PER_CLIENT`], or a quarter of `max_connections` where that is less.
    pub max_connections_per_client: Option<At<Count>>,
    pub unlimited_clients: Vec<At<String>>,
    pub max_requests_per_connection: At<Count>,
    pub error_pages: Vec<At<ErrorPageSpec>>,
}

impl Default for ListenerSpec {
    fn default() -> Self {
        Self {
            name: None,
            bind: None,
            tls: None,
            hsts: None,
            redirect_to_https: nowhere(RedirectToHttpsSpec { on: false, ..RedirectToHttpsSpec::default() }),
            backlog: nowhere(1024),
            trusted_proxies: Vec::new(),
            forwarded: ForwardedSpec::XForwarded,
            allow: None,
            deny: None,
            request_id: true,
            merge_slashes: true,
            underscores_in_headers: UnderscoresSpec::Drop,
            header_timeout: nowhere(seconds(10)),
            idle_timeout: nowhere(seconds(60)),
            between_bytes: nowhere(seconds(60)),
            http2: true,
            http2_max_streams: nowhere(100),
            min_rate: Size(240),
            max_request_line: nowhere(Size(16 << 10)),
            max_header_bytes: nowhere(Size(32 << 10)),
            max_headers: nowhere(100),
            max_body: Size(u64::MAX),
            proxy_protocol: None,
            max_connections_per_client: None,
            unlimited_clients: vec![nowhere("127.0.0.0/8".to_owned()), nowhere("::1".to_owned())],
            max_requests_per_connection: nowhere(Count(10_000)),
            error_pages: Vec::new(),
        }
    }
}

/// `[listener.proxy_protocol]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table that says from whom, such as { from = [\"10.0.0.0/8\"] }")]
pub struct ProxyProtocolSpec {
    pub from: Vec<At<String>>,
    pub timeout: At<Time>,
}

impl Default for ProxyProtocolSpec {
    fn default() -> Self {
        Self { from: Vec::new(), timeout: nowhere(seconds(5)) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedSpec {
    XForwarded,
    Rfc7239,
    Both,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnderscoresSpec {
    Drop,
    Allow,
    Refuse,
}

/// `[upstream.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct UpstreamSpec {
    pub policy: At<Policy>,
    pub shadow: At<Vec<At<Policy>>>,
    /// Absent: clients without a sticky session are known by address and User-Agent.
    pub shadow_cookie: Option<At<String>>,
    pub protocol: At<Protocol>,
    pub tls: At<TlsOrNot>,
    /// Absent: servers are told of clients in headers only.
    pub send_proxy: Option<At<Version>>,
    pub check: At<CheckOrOff>,
    pub fail_open: bool,
    pub slow_start: At<TimeOrOff>,
    /// Of each server that does not say otherwise.
    pub max_requests: At<Count>,
    pub queue: QueueSpec,
    pub servers: Vec<At<String>>,
    pub server: Vec<At<ServerSpec>>,
    pub max_sessions: At<usize>,
    pub cookie_keys: Option<At<Vec<At<Secret>>>>,
    pub cookie_key_file: Option<At<PathBuf>>,
    pub timeouts: TimeoutsSpec,
    pub pool: PoolSpec,
    pub retry: RetrySpec,
    pub outliers: Switch<OutliersSpec>,
    pub litmus: At<Switch<LitmusSpec>>,
    pub drain: DrainSpec,
}

impl Default for UpstreamSpec {
    fn default() -> Self {
        Self {
            policy: nowhere(Policy::RoundRobin(RoundRobin::default())),
            shadow: nowhere(Vec::new()),
            shadow_cookie: None,
            protocol: nowhere(Protocol::default()),
            tls: nowhere(TlsOrNot::default()),
            send_proxy: None,
            check: nowhere(CheckOrOff::default()),
            fail_open: true,
            slow_start: nowhere(TimeOrOff(Some(Duration::from_secs(10)))),
            max_requests: nowhere(Count(u64::MAX)),
            queue: QueueSpec::default(),
            servers: Vec::new(),
            server: Vec::new(),
            max_sessions: nowhere(1 << 17),
            cookie_keys: None,
            cookie_key_file: None,
            timeouts: TimeoutsSpec::default(),
            pool: PoolSpec::default(),
            retry: RetrySpec::default(),
            outliers: Switch(Some(OutliersSpec::default())),
            litmus: nowhere(Switch(None)),
            drain: DrainSpec::default(),
        }
    }
}

/// `[[upstream.NAME.server]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ServerSpec {
    /// Absent: the address.
    pub name: Option<At<String>>,
    pub address: Option<At<String>>,
    pub weight: At<u32>,
    /// Absent: that of the upstream.
    pub max_requests: Option<At<Count>>,
    pub backup: bool,
}

impl Default for ServerSpec {
    fn default() -> Self {
        Self { name: None, address: None, weight: nowhere(1), max_requests: None, backup: false }
    }
}

/// `[upstream.NAME.queue]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct QueueSpec {
    pub size: At<u32>,
    pub timeout: At<Time>,
}

impl Default for QueueSpec {
    fn default() -> Self {
        Self { size: nowhere(1024), timeout: nowhere(seconds(5)) }
    }
}

/// `[upstream.NAME.timeouts]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct TimeoutsSpec {
    pub connect: At<Time>,
    pub first_byte: At<Time>,
    pub between_bytes: At<Time>,
    pub request: At<TimeOrOff>,
    pub tunnel_idle: At<Time>,
    pub tunnel_half_closed: At<Time>,
}

impl Default for TimeoutsSpec {
    fn default() -> Self {
        Self {
            connect: nowhere(seconds(5)),
            first_byte: nowhere(seconds(60)),
            between_bytes: nowhere(seconds(60)),
            request: nowhere(TimeOrOff(None)),
            tunnel_idle: nowhere(seconds(3600)),
            tunnel_half_closed: nowhere(seconds(60)),
        }
    }
}

/// `[upstream.NAME.pool]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct PoolSpec {
    pub max_idle: At<usize>,
    pub idle_timeout: At<Time>,
    pub max_age: At<Time>,
    pub max_requests: At<Count>,
}

impl Default for PoolSpec {
    fn default() -> Self {
        Self {
            max_idle: nowhere(256),
            // Below the 60 s after which many app servers close an idle connection: the side that
            // closes first must be the one that would otherwise send a request into the closing.
            idle_timeout: nowhere(seconds(55)),
            max_age: nowhere(seconds(3600)),
            max_requests: nowhere(Count(u64::MAX)),
        }
    }
}

/// `[upstream.NAME.retry]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RetrySpec {
    pub attempts: At<u32>,
    pub budget_percent: At<u32>,
    pub budget_floor: At<u32>,
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self { attempts: nowhere(2), budget_percent: nowhere(20), budget_floor: nowhere(3) }
    }
}

/// `[upstream.NAME.drain]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct DrainSpec {
    pub in_flight: At<Time>,
    pub sessions_idle: At<Time>,
    pub sessions_max: At<Time>,
    pub close_spread: At<Time>,
    pub move_sessions: At<MoveSessionsSpec>,
    pub on_check: At<bool>,
    pub on_header: At<bool>,
}

impl Default for DrainSpec {
    fn default() -> Self {
        Self {
            in_flight: nowhere(seconds(30)),
            sessions_idle: nowhere(seconds(15 * 60)),
            sessions_max: nowhere(seconds(3600)),
            close_spread: nowhere(seconds(10)),
            move_sessions: nowhere(MoveSessionsSpec::Never),
            on_check: nowhere(false),
            on_header: nowhere(false),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveSessionsSpec {
    Never,
    Navigation,
}
