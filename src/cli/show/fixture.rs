//! A Plan for tests.

use std::time::Duration;

use super::*;
use crate::balance::{Policy, RoundRobin, StickyCookie};
use crate::config::plan::{Action, Address, DnsPlan, HostPattern, ListenerPlan, RoutePlan};
use crate::health::{Check, HttpCheck};

/// One listener, upstream `shop` (sticky, two servers) and upstream `api` (one server on a socket).
pub(crate) fn plan() -> Plan {
    let seconds = Duration::from_secs;
    let server = |name: &str, address: Address| ServerPlan {
        name: name.into(),
        address,
        weight: 1,
        max_requests: u64::MAX,
        backup: false,
    };
    let socket = |text: &str| Address::Socket(text.parse().unwrap());
    let upstream = |name: &str, policy: Policy, servers: Vec<ServerPlan>| UpstreamPlan {
        name: name.into(),
        policy,
        check: None,
        servers,
        ..UpstreamPlan::example()
    };
    let mut shop = upstream(
        "shop",
        Policy::StickyCookie(StickyCookie::default()),
        vec![server("a", socket("127.0.0.1:9001")), server("b", socket("127.0.0.1:9002"))],
    );
    shop.check = Some(Check::Http(HttpCheck { path: "/healthz".into(), ..HttpCheck::default() }));
    shop.cookie_keys = vec!["this must not be seen".into()];
    let mut api = upstream(
        "api",
        Policy::RoundRobin(RoundRobin::default()),
        vec![server("x", Address::Unix("/run/x.sock".into()))],
    );
    api.send_proxy = Some(Version::V1);
    let route = |name: &str, host: HostPattern, path: &str, upstream| RoutePlan {
        name: name.into(),
        host,
        path: path.into(),
        action: Action::Upstream(upstream),
        ..RoutePlan::example()
    };
    Plan {
        cores: 2,
        state_dir: None,
        max_connections: 8000,
        admin: AdminPlan { socket: None, bind: None, token: None },
        log: LogPlan { level: "info".into(), format: LogFormat::Text },
        access_log: Some(AccessLogPlan { file: None, format: AccessLogFormat::Json }),
        shutdown: ShutdownPlan { announce: seconds(0), idle_grace: seconds(1), deadline: seconds(30) },
        upgrade: UpgradePlan { ready_within: seconds(60), idle_grace: seconds(10), deadline: seconds(600) },
        debug: DebugPlan::default(),
        dns: DnsPlan { servers: vec!["10.0.0.2:53".parse().unwrap()], min_ttl: seconds(1), max_ttl: seconds(300) },
        listeners: vec![ListenerPlan {
            name: "main".into(),
            bind: "0.0.0.0:8080".parse().unwrap(),
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            ..ListenerPlan::example()
        }],
        routes: vec![
            route("shop", HostPattern::Suffix(".example.com".into()), "/", 0),
            route("api", HostPattern::Any, "/api/", 1),
        ],
        upstreams: vec![shop, api],
    }
}
