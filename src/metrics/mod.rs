//! What is counted, by what name, and how it is read.
//!
//! The table below is the only place where a metric has a name: [`export`] fills the rows, the README
//! lists them by [`markdown`], and tests hold the three together. What is counted lives in [`cells`],
//! which the data plane writes; nothing in here runs on the path of a request.
//!
//! Rules for a new row: base units (seconds, bytes), counters end in `_total`, and a label has only
//! values that the configuration or the code bounds: never a path or a client. The one address is that of a hot
//! key, of which the code bounds how many there are at a time.

pub mod cells;
pub mod export;
pub mod skew;
pub mod strangers;

use std::fmt::Write as _;

pub use export::Exporter;

/// What every name begins with.
pub const PREFIX: &str = "evenkeel_";

/// How a metric behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process or what it counts for is gone.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound, with sum and count.
    Histogram,
}

impl Kind {
    /// The name that the exposition format uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Whole name, with [`PREFIX`].
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Labels in the order in which they are written; `le` of histograms aside.
    pub labels: &'static [&'static str],
    /// One sentence for people.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        /// The number of a row: the position of its metric in [`TABLE`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Id { $($id,)* }

        /// Every metric there is.
        pub const TABLE: &[Metric] = &[$(Metric {
            name: concat!("evenkeel_", $name),
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        },)*];

        #[cfg(test)]
        const IDS: &[Id] = &[$(Id::$id,)*];
    };
}

metrics! {
    BuildInfo: Gauge "build_info" ["version"] "Always 1; the version is a label.";
    StartTime: Gauge "process_start_time_seconds" [] "When the process began, in Unix seconds.";
    Cpu: Counter "process_cpu_seconds_total" [] "CPU time of the process, user and system.";
    ResidentMemory: Gauge "process_resident_memory_bytes" [] "Memory of the process that is in RAM.";
    OpenFds: Gauge "process_open_fds" [] "Descriptors the process has open.";
    MaxFds: Gauge "process_max_fds" [] "Descriptors the process may have open.";
    Cores: Gauge "cores" [] "Units of the data plane.";
    Generation: Gauge "generation" [] "Generation of the configuration and server states in force; grows with every change.";

    ConnectionsAccepted: Counter "connections_accepted_total" [] "Client connections accepted.";
    ConnectionsOpen: Gauge "connections_open" [] "Client connections open now.";
    PredecessorConnections: Gauge "predecessor_connections" [] "Client connections that the process from before the last upgrade still has.";
    ConnectionsParked: Gauge "connections_parked" [] "Client connections parked now: open, idle, and without a parser.";
    ConnectionsMax: Gauge "connections_max" [] "Client connections that may be open at once.";
    ConnectionsClosed: Counter "connections_closed_total" ["reason"] "Client connections that evenkeel closed: `bad_request` for a parse error, a time-out or a panic before or between requests, `proxy_protocol` for want of a valid PROXY protocol header, `full` and `client_limit` for the limits of connections in all and of one client, `idle` for being idle too long, `flood` for an HTTP/2 client that sends frames that do nothing.";
    Http2Connections: Counter "http2_connections_total" [] "Client connections on which HTTP/2 was spoken.";
    TlsHandshakes: Counter "tls_handshakes_total" ["kind"] "TLS handshakes with clients: `full`, or `resumed` with a ticket.";
    TlsFailures: Counter "tls_handshake_failures_total" ["reason"] "TLS handshakes with clients that failed: `timeout`, `closed`, `plain_http`, `client_certificate`, `alert` (the client's) or `protocol`.";
    CertificateExpiry: Gauge "certificate_expiry_timestamp_seconds" ["listener", "certificate"] "When a certificate in use expires, in Unix seconds.";
    CertificateProblem: Gauge "certificate_problem" ["listener"] "1 while the newest certificate files of a listener cannot be used and the old ones go on.";
    AcceptErrors: Counter "accept_errors_total" [] "Accept calls that failed for want of descriptors or memory.";
    Panics: Counter "panics_total" [] "Panics caught in a connection; each is a bug.";
    Errors: Counter "errors_total" ["reason"] "Requests that evenkeel itself answered with an error or gave up, by reason.";
    NoRoute: Counter "requests_without_route_total" [] "Requests that no route matched.";
    ForwardedIgnored: Counter "forwarded_headers_ignored_total" ["reason"] "Forwarded headers not believed: `untrusted` peer, or `invalid` address from a trusted one.";
    ForgottenProxy: Gauge "forgotten_proxy_ratio" [] "Largest part of the requests, 0 to 1, that came lately from one peer with `X-Forwarded-For` or `Forwarded` that is not in `trusted_proxies`; above 0.5 it is likely a proxy in front, and `status` names it.";
    UnderscoresDropped: Counter "underscore_headers_dropped_total" [] "Headers of requests taken out because their names have an underscore.";
    LogLinesLost: Counter "access_log_lines_lost_total" [] "Access log lines lost because the log could not be written fast enough, or at all.";

    RouteInfo: Gauge "route_info" ["listener", "route", "upstream"] "Always 1; ties a route to its upstream and to each listener that serves it.";
    Requests: Counter "requests_total" ["route", "code"] "Requests answered, by class of status.";
    RequestDuration: Histogram "request_duration_seconds" ["route"] "Time from a request's head to the last byte of its answer.";
    RequestBytes: Counter "request_body_bytes_total" ["route"] "Bytes of request bodies.";
    ResponseBytes: Counter "response_body_bytes_total" ["route"] "Bytes of response bodies.";
    MirrorsOpen: Gauge "mirrors_open" ["route"] "Copies of requests under way to a second upstream.";
    Mirrored: Counter "mirrored_requests_total" ["route", "outcome"] "Copies of requests for a second upstream: `answered`, `failed`, or `skipped` because the body was too large or too many were under way.";
    Compressed: Counter "responses_compressed_total" ["route"] "Answers that evenkeel compressed.";
    CompressedBytes: Counter "responses_compressed_bytes_total" ["route"] "Bytes of those answers before they were compressed.";

    UpstreamInfo: Gauge "upstream_info" ["upstream", "policy"] "Always 1; the policy is a label.";
    SkewMaxOverMean: Gauge "upstream_skew_max_over_mean" ["upstream"] "How many times its share, by weight, the busiest server got of the requests of the last five minutes, or since servers last came or went; no sample without requests.";
    SkewJain: Gauge "upstream_skew_jain" ["upstream"] "Jain's fairness index of the same requests by server and weight: 1 is even, 1/n is everything on one of n.";
    SkewRequests: Gauge "upstream_skew_requests" ["upstream"] "How many requests these figures are of.";
    ShadowRequests: Counter "shadow_requests_total" ["upstream", "policy", "server"] "Requests that a policy in the upstream's shadow would have sent to the server; with the policy `live`, those that were sent there.";
    ShadowUnplaced: Counter "shadow_unplaced_total" ["upstream", "policy"] "Requests for which a policy in the shadow found no server.";
    ShadowFollowed: Counter "shadow_followed_requests_total" ["upstream", "policy"] "Those requests whose clients are followed.";
    ShadowMoves: Counter "shadow_moves_total" ["upstream", "policy"] "Those of them that went, or would have gone, to another server than the client's last one.";
    ShadowMaxOverMean: Gauge "shadow_skew_max_over_mean" ["upstream", "policy"] "As `evenkeel_upstream_skew_max_over_mean`, for a policy in the shadow.";
    ShadowJain: Gauge "shadow_skew_jain" ["upstream", "policy"] "As `evenkeel_upstream_skew_jain`, for a policy in the shadow.";
    ShadowClients: Gauge "shadow_clients" ["upstream"] "Clients that are followed: those of the last half hour, or some of them.";
    ShadowShare: Gauge "shadow_clients_ratio" ["upstream"] "The part of all clients that is followed: less than 1 once there are more than some ten thousand.";
    FailingOpen: Gauge "upstream_failing_open" ["upstream"] "1 while no server is healthy and every ready one gets traffic.";
    UpstreamService: Gauge "upstream_service" ["upstream", "state"] "1 for what an operator has said of the upstream (`open`, `paused`, `releasing` after a pause, `maintenance`), 0 for the others.";
    Queued: Gauge "upstream_queued" ["upstream"] "Requests that wait for a server now.";
    QueuedTotal: Counter "upstream_queued_total" ["upstream"] "Requests that had to wait for a server.";
    QueueSeconds: Histogram "upstream_queue_seconds" ["upstream"] "How long they waited, however it ended.";
    QueueRefused: Counter "upstream_queue_refused_total" ["upstream", "reason"] "Requests answered with 503 because as many waited as may (`full`) or because they had waited for too long (`timeout`).";
    HotKeyRatio: Gauge "upstream_hot_key_ratio" ["upstream", "key", "server"] "Part of the requests of the last seconds, 0 to 1, that an address (or key) makes which takes more than its share, with the server it belongs to; at most five of an upstream, gone when no longer hot.";
    HotKeySpread: Gauge "upstream_hot_key_spread" ["upstream", "key", "server"] "1 while the users of that address (or key) are spread over all servers, 0 while they are on one.";
    StickyKept: Counter "sticky_requests_kept_total" ["upstream"] "Requests with a valid cookie that reached the server it names.";
    SessionsBegun: Counter "sticky_sessions_begun_total" ["upstream"] "Sticky sessions begun.";
    SessionsMoved: Counter "sessions_moved_total" ["upstream", "reason"] "Sticky sessions pinned to another server, by what became of theirs.";
    SessionsLost: Counter "sessions_lost_total" ["upstream", "reason"] "Those of them that were in use: a request within `sessions_idle`, and any reason but `drain`.";
    CookiesRefused: Counter "sticky_cookies_refused_total" ["upstream", "reason"] "Sticky cookies not honoured: `invalid` (no known key opens it, or the server that it names is not there) or `expired`.";

    LitmusUsers: Gauge "litmus_users" ["upstream", "group"] "Users who take part in the `litmus` of the upstream: `shuffled`, or `control`.";
    LitmusRequests: Counter "litmus_requests_total" ["upstream", "group"] "Answers to them that counted: of another server than the one before, or in the control group of the same.";
    LitmusSymptoms: Counter "litmus_symptoms_total" ["upstream", "group", "symptom"] "Those of them that were 401 or 403 (`refused`), a redirect to the `login`, that set one of the session cookies anew (`reissued`), were 5xx (`failed`), or had another body than the user's first (`body`); those that are looked for.";

    ServerState: Gauge "server_state" ["upstream", "server", "state"] "1 for the state that checks and traffic say the server is in, 0 for the others.";
    ServerAdmin: Gauge "server_admin_state" ["upstream", "server", "state"] "1 for the state that the operator put the server in, 0 for the others.";
    ServerWeight: Gauge "server_weight" ["upstream", "server"] "Share of the server now, 0 to 1000.";
    ServerBackup: Gauge "server_backup" ["upstream", "server"] "1 for a server that gets new clients only where no other server can take them.";
    ServerShare: Gauge "server_slow_start_ratio" ["upstream", "server"] "Part of its share that the server gets: 1, or less in its slow start.";
    ServerInFlight: Gauge "server_in_flight" ["upstream", "server"] "Requests and tunnels on the server now.";
    ServerMaxRequests: Gauge "server_max_requests" ["upstream", "server"] "Requests and tunnels the server may have at once; +Inf without a limit.";
    ServerTunnels: Gauge "server_tunnels" ["upstream", "server"] "Tunnels (WebSockets and other upgrades) open now.";
    WebSocketsClosed: Counter "server_websockets_closed_total" ["upstream", "server"] "WebSockets closed with code 1001 because their server was drained or evenkeel was stopping.";
    ServerSessions: Gauge "server_sessions" ["upstream", "server"] "Live sticky sessions on the server.";
    ServerIdle: Gauge "server_idle_connections" ["upstream", "server"] "Idle connections kept to the server now.";
    ServerPicks: Counter "server_picks_total" ["upstream", "server"] "Times the server was picked, retries included.";
    ServerPassedOn: Counter "server_passed_on_total" ["upstream", "server"] "Requests whose address or key belongs to the server and that went elsewhere, since it had what `max_load` allows.";
    ServerAnswers: Counter "server_answers_total" ["upstream", "server", "code"] "Answers of the server, by class of status.";
    ServerFirstByte: Histogram "server_first_byte_seconds" ["upstream", "server"] "Time from the beginning of a try to the head of its answer, a new connection and the body included.";
    ServerFailures: Counter "server_failures_total" ["upstream", "server"] "Requests that failed after the connection was there, other than by the client's doing.";
    ServerFaults: Counter "server_faults_total" ["upstream", "server"] "Tries that count against the server for outlier ejection: no connection, no answer, or one with a status of `outliers.statuses`.";
    ServerEjections: Counter "server_ejections_total" ["upstream", "server", "reason"] "Times the server was ejected for what live traffic showed: failures in a row (`consecutive`), their share (`rate`), or the first one after its return (`trial`).";
    ServerRetries: Counter "server_retries_total" ["upstream", "server"] "Requests sent again elsewhere after a failure here.";
    ServerConnects: Counter "server_connects_total" ["upstream", "server"] "Connections opened to the server.";
    ServerConnectFailures: Counter "server_connect_failures_total" ["upstream", "server"] "Connections to the server that could not be opened.";
    ServerReused: Counter "server_reused_total" ["upstream", "server"] "Requests sent over a connection that was used before.";
}

impl Id {
    /// Its row.
    pub(crate) const fn metric(self) -> &'static Metric {
        &TABLE[self as usize]
    }
}

/// The table as Markdown, for the README.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
    for metric in TABLE {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind.name(),
            labels.join(", "),
            metric.help.replace('|', "\\|")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_the_rules_of_the_table() {
        for (i, metric) in TABLE.iter().enumerate() {
            let name = metric.name;
            assert_eq!(IDS[i].metric().name, name);
            assert!(name.starts_with(PREFIX), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{name}");
            assert_eq!(TABLE.iter().filter(|m| m.name == name).count(), 1, "{name}");
            for unit in ["_ms", "_micros", "_kib", "_kb", "_minutes"] {
                assert!(!name.contains(unit), "{name}: base units only");
            }
        }
    }

    #[test]
    fn the_readme_lists_every_metric() {
        let readme = include_str!("../../README.md");
        let (_, rest) = readme.split_once("<!-- metrics -->\n").unwrap();
        let (listed, _) = rest.split_once("<!-- /metrics -->").unwrap();
        assert_eq!(listed, markdown(), "put this between the markers of README.md:\n\n{}", markdown());
    }

    #[test]
    fn markdown_has_one_row_for_each_metric() {
        let text = markdown();
        assert_eq!(text.lines().count(), TABLE.len() + 2);
        for metric in TABLE {
            assert!(text.contains(&format!("| `{}` | {} |", metric.name, metric.kind.name())));
        }
        for line in text.lines() {
            assert_eq!(line.replace("\\|", "").matches('|').count(), 5, "{line}");
        }
    }
}
