//! The Plan: what is true once the configuration was read, checked and filled in.
//!
//! No `Option` in here means "default"; every reference is an index that exists; every address is
//! parsed. Only [`super::compile`] makes one. Both planes read these types, neither changes them.

mod access;
mod error_page;
mod filters;
mod litmus;
mod outliers;
mod route;
pub mod template;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use access::{Access, BasicAuthPlan, Users};
pub use error_page::{ErrorPagePlan, Piece, Variable};
pub use filters::{CompressPlan, Encoding, Level, MirrorPlan, RouteFilters};
pub use litmus::{LITMUS_COOKIE, LitmusPlan, MOST_LITMUS_BODIES, MOST_LITMUS_COOKIES};
pub use outliers::OutlierPlan;
pub use tls::{CertificatePlan, Certificates, ClientAuthPlan, Hsts, RedirectToHttps, TlsPlan, UpstreamTls};

pub use super::protocol::{Http2, Protocol};
use crate::balance::Policy;
use crate::health::{Check, Hears};
use crate::proxy_protocol::Version;

pub use route::{
    Action, Branch, Conditions, HeaderEdits, HostPattern, PathPattern, Pattern, Rewrite, RoutePlan, RouteTimeouts,
    Value, ValuePattern,
};

/// A whole, valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Units of the data plane, at least 1.
    pub cores: usize,
    /// Where made keys and run-time state are kept; none keeps them in memory only.
    pub state_dir: Option<PathBuf>,
    /// Most client connections at once, over all listeners.
    pub max_connections: u64,
    pub admin: AdminPlan,
    pub log: LogPlan,
    pub access_log: Option<AccessLogPlan>,
    pub shutdown: ShutdownPlan,
    pub upgrade: UpgradePlan,
    pub debug: DebugPlan,
    pub dns: DnsPlan,
    /// At least one.
    pub listeners: Vec<ListenerPlan>,
    pub routes: Vec<RoutePlan>,
    pub upstreams: Vec<UpstreamPlan>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdminPlan {
    /// Unix socket of the admin API; mode 0660.
    pub socket: Option<PathBuf>,
    /// TCP address of the admin API: loopback, or with a token.
    pub bind: Option<SocketAddr>,
    /// What a TCP client must send as `Authorization: Bearer …`.
    pub token: Option<String>,
}

/// What is noted of requests, so that it can be told why they went where they went.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct DebugPlan {
    /// Requests that each core remembers.
    pub remember: usize,
    /// What the header is signed with by which a client is told; none honours no header.
    pub key: Option<String>,
}

impl std::fmt::Debug for DebugPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DebugPlan").field("remember", &self.remember).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct LogPlan {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `evenkeel=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogPlan {
    /// None is standard output.
    pub file: Option<PathBuf>,
    pub format: AccessLogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogFormat {
    Json,
    Combined,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownPlan {
    /// How long `/readyz` says 503 while listeners still accept, so that an outer balancer sees it.
    pub announce: Duration,
    /// How long idle connections are kept to be told `Connection: close` on a last request.
    pub idle_grace: Duration,
    /// When what is left is cut.
    pub deadline: Duration,
}

/// How another process takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradePlan {
    /// How long the new process has to become ready before it is given up.
    pub ready_within: Duration,
    /// How long idle connections of the old process are kept to be told `Connection: close`.
    pub idle_grace: Duration,
    /// When what is left of the old process is cut.
    pub deadline: Duration,
}

/// How host names of servers are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsPlan {
    /// Name servers to ask; empty: those of the system.
    pub servers: Vec<SocketAddr>,
    /// A shorter TTL is taken for this.
    pub min_ttl: Duration,
    /// A longer TTL is taken for this.
    pub max_ttl: Duration,
}

/// Which headers tell servers about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Rfc7239,
    Both,
    /// None; those of the client are removed unless it is a trusted proxy.
    Off,
}

impl Forwarded {
    #[must_use]
    pub fn x_forwarded(self) -> bool {
        matches!(self, Self::XForwarded | Self::Both)
    }

    #[must_use]
    pub fn rfc7239(self) -> bool {
        matches!(self, Self::Rfc7239 | Self::Both)
    }
}

/// What becomes of header names with an underscore, which many servers take for a dash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underscores {
    /// Such headers are taken out.
    Drop,
    /// They go on, except those that a server could take for headers that are not the client's to write.
    Allow,
    /// The request is.
    Refuse,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListenerPlan {
    /// Unique; the address where none was given.
    pub name: String,
    pub bind: SocketAddr,
    /// None is plain HTTP.
    pub tls: Option<TlsPlan>,
    /// `Strict-Transport-Security` of every answer.
    pub hsts: Option<Hsts>,
    pub redirect_to_https: Option<RedirectToHttps>,
    /// Whether what clients say of certificates is taken out: some listener tells servers the truth.
    pub hides_client_cert: bool,
    pub backlog: u32,
    /// Peers whose forwarded headers are believed; empty by default.
    pub trusted_proxies: Vec<IpNet>,
    pub forwarded: Forwarded,
    /// Who may come, whatever the route.
    pub access: Access,
    /// Whether `X-Request-Id` is taken or made, sent to the server and back.
    pub request_id: bool,
    /// Whether empty segments of a path are taken out before it is compared and forwarded.
    pub merge_slashes: bool,
    pub underscores_in_headers: Underscores,
    /// A request's head must be there within this time of its first byte.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this time.
    pub idle_timeout: Duration,
    /// The longest pause within a request's body, and while the client takes its answer.
    pub between_bytes: Duration,
    /// Whether clients may speak HTTP/2.
    pub http2: bool,
    /// Most requests at a time of an HTTP/2 connection.
    pub http2_max_streams: u32,
    /// Bytes per second that a client must send or take while it is waited for; 0 is any.
    pub min_rate: u64,
    /// Longest request line in bytes; below `max_header_bytes`.
    pub max_request_line: usize,
    /// Largest header section in bytes, 8 KiB to 1 MiB.
    pub max_header_bytes: usize,
    /// Most header lines of a request.
    pub max_headers: usize,
    /// Largest request body in bytes; `u64::MAX` is unlimited.
    pub max_body: u64,
    /// Peers that say ahead of each connection who the client is; none where nobody does.
    pub proxy_protocol: Option<ProxyProtocolPlan>,
    /// Most connections of one client address at once.
    pub max_connections_per_client: u64,
    /// Clients to whom that does not apply.
    pub unlimited_clients: Vec<IpNet>,
    /// The answer to this request is the last one of a connection.
    pub max_requests_per_connection: u64,
    /// In the place of the answers that evenkeel makes itself.
    pub error_pages: Vec<ErrorPagePlan>,
}

/// Who sends PROXY protocol headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocolPlan {
    /// Peers that must send one, at least one network; nobody else may.
    pub from: Vec<IpNet>,
    /// A header must be there within this time of the connection.
    pub timeout: Duration,
}

impl ProxyProtocolPlan {
    /// Whether that peer must send a header.
    #[must_use]
    pub fn is_expected_from(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.from.iter().any(|network| network.contains(&peer))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamPlan {
    /// Unique.
    pub name: String,
    pub policy: Policy,
    /// Policies that are asked, too, and not followed; none asks none.
    pub shadow: Option<ShadowPlan>,
    /// What is spoken with its servers.
    pub protocol: Protocol,
    /// None: in clear.
    pub tls: Option<UpstreamTls>,
    /// The PROXY protocol header that begins each connection; none sends none. HTTP/1.1 only.
    pub send_proxy: Option<Version>,
    /// None: servers count as healthy, and only traffic tells otherwise.
    pub check: Option<Check>,
    /// Whether all ready servers get traffic when none is healthy.
    pub fail_open: bool,
    /// How long the share of a server that comes or returns grows; none: it gets the whole at once.
    pub slow_start: Option<Duration>,
    /// Of servers that are added at run time; those of the file have theirs.
    pub max_requests: u64,
    pub queue: QueuePlan,
    pub timeouts: UpstreamTimeouts,
    pub pool: PoolPlan,
    pub retry: RetryPlan,
    /// None: live traffic ejects nobody.
    pub outliers: Option<OutlierPlan>,
    /// None: nobody is moved on purpose.
    pub litmus: Option<LitmusPlan>,
    pub drain: DrainPlan,
    /// By which words its servers may ask for their drain.
    pub drain_on: Hears,
    /// Most sessions the ledger of a sticky upstream remembers.
    pub max_sessions: usize,
    /// Keys that seal the sticky cookie, first the one that seals; empty: made once and kept.
    pub cookie_keys: Vec<String>,
    pub servers: Vec<ServerPlan>,
}

/// What else might pick servers.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowPlan {
    /// 1 to [`MOST_SHADOWS`], each once.
    pub policies: Vec<Policy>,
    /// The application's cookie that clients are known by; none knows them by address and User-Agent. Where the
    /// upstream's own policy has sessions, those are what they are known by.
    pub cookie: Option<String>,
}

/// Most policies in the shadow of an upstream: what each request pays for them is bounded.
pub const MOST_SHADOWS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    pub connect: Duration,
    /// From the end of the request to the head of the answer.
    pub first_byte: Duration,
    /// The longest pause within an answer.
    pub between_bytes: Duration,
    /// The whole request, tunnels aside; none is unlimited.
    pub request: Option<Duration>,
    /// A tunnel without a byte either way is closed after this time.
    pub tunnel_idle: Duration,
    /// The same once one side of it has ended.
    pub tunnel_half_closed: Duration,
}

/// Where requests wait for servers that have as many as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePlan {
    /// Most requests that wait at once, over all cores; 0 lets none wait.
    pub size: u32,
    /// None waits longer.
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolPlan {
    /// Most idle connections per server, over all cores.
    pub max_idle: usize,
    pub idle_timeout: Duration,
    /// A connection older than this is not used again.
    pub max_age: Duration,
    /// A connection is not used for more requests than this.
    pub max_requests: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPlan {
    /// Further tries after the first; 0 turns retries off.
    pub attempts: u32,
    /// Retries may be this share of requests, in percent.
    pub budget_percent: u32,
    /// Retries per second that are always allowed.
    pub budget_floor: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainPlan {
    /// Requests in flight are cut this long after the last session has ended or was given up.
    pub in_flight: Duration,
    /// A session that was idle for this long no longer holds the drain.
    pub sessions_idle: Duration,
    /// Sessions hold the drain no longer than this in all.
    pub sessions_max: Duration,
    /// WebSockets are closed in the last part of `in_flight`, spread over this time.
    pub close_spread: Duration,
    pub move_sessions: MoveSessions,
}

/// When a session leaves a server that drains before it has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveSessions {
    Never,
    /// With a safe request for a whole page.
    Navigation,
}

impl MoveSessions {
    /// The name that the configuration uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Navigation => "navigation",
        }
    }
}

/// How long a WebSocket that was sent a close frame may take to send its own.
pub const CLOSE_WAIT: Duration = Duration::from_secs(1);

impl DrainPlan {
    /// How WebSockets are closed where everything ends `within` that time: when the first may be, and over
    /// what time. The last one has a moment left for its answer.
    #[must_use]
    pub fn closing(&self, within: Duration) -> (Duration, Duration) {
        let window = self.close_spread.saturating_add(CLOSE_WAIT).min(within);
        (within - window, self.close_spread.min(window - CLOSE_WAIT.min(window / 4)))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServerPlan {
    /// Unique within its upstream.
    pub name: String,
    pub address: Address,
    /// 0 to 1000; 0 takes no new clients.
    pub weight: u32,
    /// Most requests and tunnels at once, over all cores, at least 1; `u64::MAX` is unlimited.
    pub max_requests: u64,
    /// Whether it gets new clients only where no other server can take them.
    pub backup: bool,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Socket(SocketAddr),
    /// Resolved off the request's path.
    Host {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl Address {
    /// The host without its port; none of a Unix socket.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        match self {
            Self::Socket(address) => Some(address.ip().to_string()),
            Self::Host { host, .. } => Some(host.clone()),
            Self::Unix(_) => None,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod examples {
    use super::{ListenerPlan, Plan, RoutePlan, UpstreamPlan};

    /// What the shortest configuration means.
    fn smallest() -> Plan {
        let text =
            "[[listener]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\n[upstream.app]\nservers = [\"127.0.0.1:9001\"]\n";
        crate::config::parse(text, "smallest.toml").unwrap_or_else(|report| panic!("{report}")).plan
    }

    impl ListenerPlan {
        /// One with every key at its default, for tests that care about a few.
        pub(crate) fn example() -> Self {
            smallest().listeners.remove(0)
        }
    }

    impl RoutePlan {
        /// One with every key at its default, for tests that care about a few.
        pub(crate) fn example() -> Self {
            smallest().routes.remove(0)
        }
    }

    impl UpstreamPlan {
        /// One with every key at its default, for tests that care about a few.
        pub(crate) fn example() -> Self {
            smallest().upstreams.remove(0)
        }
    }
}
