//! A Plan for tests.

use std::time::Duration;

use super::*;
use crate::balance::{Policy, RoundRobin, StickyCookie};
use crate::config::plan::Address;
use crate::health::{Check, HttpCheck};

/// One listener, upstream `shop` (sticky, two servers) and upstream `api` (one server on a socket).
pub(crate) fn plan() -> Plan {
    let seconds = Duration::from_secs;
    let server = |name: &str, address: Address| ServerPlan { name: name.into(), address, weight: 1 };
    let socket = |text: &str| Address::Socket(text.parse().unwrap());
    let upstream = |name: &str, policy: Policy, servers: Vec<ServerPlan>| UpstreamPlan {
        name: name.into(),
        policy,
        check: None,
        fail_open: true,
        timeouts: UpstreamTimeouts {
            connect: seconds(5),
            first_byte: seconds(60),
            between_bytes: seconds(60),
            request: None,
            tunnel_idle: seconds(3600),
        },
        pool: PoolPlan { max_idle: 256, idle_timeout: seconds(55), max_age: seconds(3600), max_requests: u64::MAX },
        retry: RetryPlan { attempts: 2, budget_percent: 20, budget_floor: 3 },
        drain: DrainPlan { in_flight: seconds(30), sessions_idle: seconds(900), sessions_max: seconds(3600) },
        max_sessions: 1 << 17,
        cookie_keys: Vec::new(),
        servers,
    };
    let mut shop = upstream(
        "shop",
        Policy::StickyCookie(StickyCookie::default()),
        vec![server("a", socket("127.0.0.1:9001")), server("b", socket("127.0.0.1:9002"))],
    );
    shop.check = Some(Check::Http(HttpCheck { path: "/healthz".into(), ..HttpCheck::default() }));
    shop.cookie_keys = vec!["this must not be seen".into()];
    let api = upstream(
        "api",
        Policy::RoundRobin(RoundRobin::default()),
        vec![server("x", Address::Unix("/run/x.sock".into()))],
    );
    let route = |name: &str, host: HostPattern, path: &str, upstream| RoutePlan {
        name: name.into(),
        listeners: vec![0],
        host,
        path: path.into(),
        strip_prefix: false,
        upstream,
    };
    Plan {
        cores: 2,
        state_dir: None,
        admin: AdminPlan { socket: None, bind: None, token: None },
        log: LogPlan { level: "info".into(), format: LogFormat::Text },
        access_log: Some(AccessLogPlan { file: None, format: AccessLogFormat::Json }),
        shutdown: ShutdownPlan { announce: seconds(0), idle_grace: seconds(1), deadline: seconds(30) },
        listeners: vec![ListenerPlan {
            name: "main".into(),
            bind: "0.0.0.0:8080".parse().unwrap(),
            backlog: 1024,
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            forwarded: Forwarded::XForwarded,
            request_id: true,
            header_timeout: seconds(10),
            idle_timeout: seconds(60),
            between_bytes: seconds(60),
            max_header_bytes: 32 << 10,
            max_body: u64::MAX,
        }],
        routes: vec![
            route("shop", HostPattern::Suffix(".example.com".into()), "/", 0),
            route("api", HostPattern::Any, "/api/", 1),
        ],
        upstreams: vec![shop, api],
    }
}
