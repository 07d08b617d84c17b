use std::time::Duration;

use super::super::plan::*;
use super::super::tests::good;
use super::super::*;
use super::listener::parse_bind;
use super::server::parse_address;
use crate::health::{Check, Hears};

const TOP: &str = "[[listener]]\nbind = ':8080'\n[upstream.shop]\nservers = ['127.0.0.1:9001']\n";

fn warnings(text: &str) -> Vec<String> {
    good(text).warnings.entries().iter().map(|e| e.message.to_owned()).collect()
}

#[test]
fn addresses_to_listen_on_have_short_forms() {
    for (text, address) in [
        ("0.0.0.0:8080", "0.0.0.0:8080"),
        ("[::1]:8080", "[::1]:8080"),
        (":8080", "[::]:8080"),
        ("*:8080", "[::]:8080"),
        ("8080", "[::]:8080"),
        (" 127.0.0.1:0 ", "127.0.0.1:0"),
    ] {
        assert_eq!(parse_bind(text).map(|a| a.to_string()), Ok(address.to_owned()), "{text}");
    }
    for text in ["", ":", "+80", ":+80", "65536", "::1", "1.2.3.4", "host:80", "unix:/a", "1.2.3.4:", "1.2.3:80"] {
        assert!(parse_bind(text).is_err(), "{text}");
    }
    assert_eq!(good(&TOP.replace("':8080'", "8080")).plan.listeners[0].name, ":8080");
}

#[test]
fn addresses_of_servers_are_parsed() {
    for text in ["127.0.0.1:9001", "[::1]:9001", "app.internal:9001", "unix:/run/app.sock", "a_b:1"] {
        assert_eq!(parse_address(text).map(|a| a.to_string()), Ok(text.to_owned()));
    }
    assert_eq!(parse_address("App:1").map(|a| a.to_string()), Ok("app:1".to_owned()));
    for text in
        ["", "app", "app:", "app:0", "app:+1", "::1", "[::1]", "256.0.0.1:1", "-a:1", "a..b:1", "unix:", "unix:a"]
    {
        assert!(parse_address(text).is_err(), "{text}");
    }
}

#[test]
fn a_list_of_hosts_becomes_a_route_each_with_a_name_of_its_own() {
    let plan = good(&format!(
        "{TOP}[[route]]\nname = 'web'\nhost = ['A.example.', '*.b.example', '::1']\npath = '/x'\nupstream = 'shop'\n\
         [[route]]\nhost = 'a.example'\nupstream = 'shop'\n[[route]]\nhost = '*'\nupstream = 'shop'\n"
    ))
    .plan;
    let routes: Vec<_> = plan.routes.iter().map(|r| (&*r.name, r.host.clone(), r.path.to_string())).collect();
    assert_eq!(
        routes,
        [
            ("web@a.example", HostPattern::Exact("a.example".into()), "/x".to_owned()),
            ("web@*.b.example", HostPattern::Suffix(".b.example".into()), "/x".to_owned()),
            ("web@[::1]", HostPattern::Exact("[::1]".into()), "/x".to_owned()),
            ("a.example/", HostPattern::Exact("a.example".into()), "/".to_owned()),
            ("*/", HostPattern::Any, "/".to_owned()),
        ]
    );
}

#[test]
fn the_same_route_on_two_listeners_is_two_routes() {
    let plan = good(&format!(
        "{TOP}[upstream.admin]\nservers = ['a:1']\n[[listener]]\nname = 'inside'\nbind = '127.0.0.1:8081'\n\
         [[route]]\nlistener = ':8080'\nupstream = 'shop'\n[[route]]\nlistener = ['inside']\nupstream = 'admin'\n"
    ))
    .plan;
    let routes: Vec<_> =
        plan.routes.iter().map(|r| (&*r.name, r.listeners.clone(), r.action.upstreams().next().unwrap())).collect();
    assert_eq!(routes, [("*/", vec![0], 0), ("*/#2", vec![1], 1)]);
}

#[test]
fn upstreams_keep_the_order_of_the_file() {
    let plan = good(&format!(
        "{TOP}[upstream.a]\nservers = ['a:1']\n[[route]]\nupstream = 'shop'\n[[route]]\nupstream = 'a'\npath = '/a'\n"
    ))
    .plan;
    let names: Vec<_> = plan.upstreams.iter().map(|u| &*u.name).collect();
    assert_eq!(names, ["shop", "a"]);
    assert_eq!((&plan.routes[0].action, &plan.routes[1].action), (&Action::Upstream(0), &Action::Upstream(1)));
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    assert_eq!(warnings(TOP), [""; 0]);
    assert_eq!(warnings(&format!("cores = 9\n{TOP}")), ["`cores` is 9, but this process may use 4"]);
    assert_eq!(
        warnings(&format!("{TOP}[upstream.old]\nservers = ['a:1']\n[[route]]\nupstream = 'shop'\n")),
        ["upstream `old` is never used"]
    );
    assert_eq!(
        warnings(&format!(
            "{TOP}[[listener]]\nname = 'x'\nbind = ':1'\n[[route]]\nlistener = ':8080'\nupstream = 'shop'\n"
        )),
        ["no route is for listener `x`: it answers 404 only"]
    );
    assert_eq!(
        warnings("[[listener]]\nbind = ':1'\n[upstream.a]\n[[upstream.a.server]]\naddress = 'a:1'\nweight = 0\n"),
        ["all servers of upstream `a` have weight 0: none takes new clients"]
    );
    for (bind, server, goes_round) in [
        ("127.0.0.1:80", "127.0.0.1:80", true),
        (":80", "127.0.0.1:80", true),
        (":80", "[::1]:80", true),
        (":80", "192.0.2.1:80", false),
        ("127.0.0.2:80", "127.0.0.1:80", false),
        (":81", "127.0.0.1:80", false),
    ] {
        let found = warnings(&format!(
            "[[listener]]\nbind = '{bind}'\n[upstream.a]\nservers = ['{server}']\n[[route]]\nupstream = 'a'\n"
        ));
        let message = format!("server {server} is a listener of this proxy");
        assert_eq!(found, if goes_round { vec![message] } else { Vec::new() }, "{bind} {server}");
    }
    assert_eq!(
        warnings(&format!("{TOP}policy = 'sticky_cookie'\n")),
        ["upstream `shop` seals its cookies with a key that a restart loses"]
    );
    assert_eq!(warnings(&format!("state_dir = '/var/lib/evenkeel'\n{TOP}policy = 'sticky_cookie'\n")), [""; 0]);
    assert_eq!(
        warnings(&format!("{TOP}[admin]\nbind = ':1'\ntoken = 'short'\n")),
        ["the token is shorter than 16 characters"]
    );
    assert_eq!(
        warnings(&format!("{TOP}check = {{ tcp = {{ interval = '1s', timeout = '2s' }} }}\n")),
        ["`timeout` (2s) is longer than `interval` (1s)"]
    );
    assert_eq!(warnings(&format!("{TOP}check = {{ tcp = {{ interval = '1s' }} }}\n")), [""; 0]);
    assert_eq!(
        warnings(&format!("{TOP}[upgrade]\ndeadline = '1s'\n")),
        ["`idle_grace` is longer than `deadline`, which cuts idle connections first"]
    );
    assert_eq!(
        warnings(&format!("{TOP}[shutdown]\nidle_grace = '1m'\n")),
        ["`idle_grace` is longer than `deadline`, which cuts idle connections first"]
    );
}

#[test]
fn every_key_reaches_the_plan() {
    let plan = good(
        "cores = 2\nstate_dir = '/s'\nmax_connections = 77\n\
         [admin]\nsocket = '/a.sock'\nbind = 9191\ntoken = '0123456789abcdef'\n\
         [log]\nlevel = 'info,evenkeel=debug'\nformat = 'json'\n[access_log]\nfile = '-'\nformat = 'combined'\n\
         [shutdown]\nannounce = '5s'\nidle_grace = '2s'\ndeadline = '1m'\n[upgrade]\nready_within = '7s'\nidle_grace = '8s'\ndeadline = '9s'\n[debug]\nremember = 5\nkey = '0123456789abcdef'\n[dns]\nservers = ['10.0.0.2', '[::1]:8600']\nmin_ttl = '2s'\nmax_ttl = '4s'\n\
         [[listener]]\nname = 'l'\nbind = '1.2.3.4:80'\nbacklog = 9\ntrusted_proxies = ['10.0.0.0/8', '::1']\n\
         forwarded = 'both'\nallow = '10.2.0.0/16'\ndeny = ['10.2.3.0/24', '::1']\nrequest_id = false\nunderscores_in_headers = 'refuse'\nheader_timeout = '1s'\nidle_timeout = '2s'\nbetween_bytes = '3s'\n\
         http2 = false\nhttp2_max_streams = 7\nmin_rate = 7\nmax_request_line = 8192\nmax_header_bytes = 8192\nmax_headers = 50\nmax_body = '1MiB'\nmax_connections_per_client = 5\nunlimited_clients = []\nmax_requests_per_connection = 6\nproxy_protocol = { from = ['10.1.0.0/16'], timeout = '4s' }\n\
         [[route]]\nname = 'r'\nlistener = 'l'\nhost = 'h'\npath = '/p'\nallow = '10.4.0.0/16'\ndeny = '10.4.3.0/24'\nstrip_prefix = true\nmirror = { to = 'u', percent = 5, max_body = 9, max_in_flight = 3 }\ncompress = { encodings = ['gzip'], level = 'small', min_size = 1, types = ['Text/HTML'] }\nupstream = 'u'\n\
         [upstream.u]\npolicy = 'sticky_cookie'\nshadow = ['round_robin', { ip_hash = { ipv4_prefix = 24 } }]\ncheck = 'http'\nprotocol = { h2c = { max_streams = 5, ping = '1m' } }\nfail_open = false\nslow_start = '9s'\nmax_requests = 8\nmax_sessions = 7\n\
         cookie_keys = ['0123456789abcdef']\nservers = ['a:1']\n[[upstream.u.server]]\nname = 'b'\naddress = 'b:2'\nweight = 5\nmax_requests = 9\nbackup = true\n\
         [upstream.u.timeouts]\nconnect = '1s'\nfirst_byte = '2s'\nbetween_bytes = '3s'\nrequest = '4s'\ntunnel_idle = '5s'\ntunnel_half_closed = '6s'\n\
         [upstream.u.queue]\nsize = 4\ntimeout = '6s'\n\
         [upstream.u.pool]\nmax_idle = 0\nidle_timeout = '1s'\nmax_age = '2s'\nmax_requests = 3\n\
         [upstream.u.retry]\nattempts = 0\nbudget_percent = 1\nbudget_floor = 2\n\
         [upstream.u.outliers]\nconsecutive_failures = 1\nfailure_percent = 2\nmin_requests = 3\nwindow = '4s'\nstatuses = [500]\nejection = '5s'\nmax_ejection = '6s'\nmax_ejected_percent = 70\ntrial_requests = 8\n\
         [upstream.u.drain]\nin_flight = '1s'\nsessions_idle = '2s'\nsessions_max = '3s'\nclose_spread = '500ms'\nmove_sessions = 'navigation'\non_check = true\non_header = true\n",
    )
    .plan;
    let s = Duration::from_secs;
    let expected = Plan {
        cores: 2,
        state_dir: Some("/s".into()),
        max_connections: 77,
        admin: AdminPlan {
            socket: Some("/a.sock".into()),
            bind: "[::]:9191".parse().ok(),
            token: Some("0123456789abcdef".into()),
        },
        log: LogPlan { level: "info,evenkeel=debug".into(), format: LogFormat::Json },
        access_log: Some(AccessLogPlan { file: None, format: AccessLogFormat::Combined }),
        shutdown: ShutdownPlan { announce: s(5), idle_grace: s(2), deadline: s(60) },
        debug: DebugPlan { remember: 5, key: Some("0123456789abcdef".into()) },
        upgrade: UpgradePlan { ready_within: s(7), idle_grace: s(8), deadline: s(9) },
        dns: DnsPlan {
            servers: vec!["10.0.0.2:53".parse().unwrap(), "[::1]:8600".parse().unwrap()],
            min_ttl: s(2),
            max_ttl: s(4),
        },
        listeners: vec![ListenerPlan {
            name: "l".into(),
            bind: "1.2.3.4:80".parse().unwrap(),
            tls: None,
            hsts: None,
            redirect_to_https: None,
            hides_client_cert: false,
            backlog: 9,
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
            forwarded: Forwarded::Both,
            access: Access {
                allow: vec!["10.2.0.0/16".parse().unwrap()],
                deny: vec!["10.2.3.0/24".parse().unwrap(), "::1/128".parse().unwrap()],
            },
            request_id: false,
            merge_slashes: true,
            underscores_in_headers: Underscores::Refuse,
            header_timeout: s(1),
            idle_timeout: s(2),
            between_bytes: s(3),
            http2: false,
            http2_max_streams: 7,
            min_rate: 7,
            max_request_line: 8190,
            max_header_bytes: 8192,
            max_headers: 50,
            max_body: 1 << 20,
            max_connections_per_client: 5,
            unlimited_clients: Vec::new(),
            max_requests_per_connection: 6,
            error_pages: Vec::new(),
            proxy_protocol: Some(ProxyProtocolPlan { from: vec!["10.1.0.0/16".parse().unwrap()], timeout: s(4) }),
        }],
        routes: vec![RoutePlan {
            name: "r".into(),
            listeners: vec![0],
            host: HostPattern::Exact("h".into()),
            path: "/p".into(),
            access: Access { allow: vec!["10.4.0.0/16".parse().unwrap()], deny: vec!["10.4.3.0/24".parse().unwrap()] },
            rewrite: Rewrite::Strip,
            action: Action::Upstream(0),
            filters: RouteFilters {
                compress: Some(CompressPlan {
                    encodings: vec![Encoding::Gzip],
                    level: Level::Small,
                    min_size: 1,
                    types: vec!["text/html".into()],
                }),
                mirror: Some(MirrorPlan { upstream: 0, percent: 5, max_body: 9, max_in_flight: 3 }),
                error_pages: Vec::new(),
            },
            ..RoutePlan::example()
        }],
        upstreams: vec![UpstreamPlan {
            name: "u".into(),
            policy: crate::balance::Policy::StickyCookie(crate::balance::StickyCookie::default()),
            shadow: Some(ShadowPlan {
                policies: vec![
                    crate::balance::Policy::RoundRobin(crate::balance::RoundRobin {}),
                    crate::balance::Policy::IpHash(crate::balance::IpHash { ipv4_prefix: 24, ..Default::default() }),
                ],
                cookie: None,
            }),
            tls: None,
            // Not with HTTP/2.
            send_proxy: None,
            protocol: Protocol::H2c(Http2 { max_streams: 5, ping: spec::TimeOrOff(Some(s(60))) }),
            check: Some(Check::Http(crate::health::HttpCheck::default())),
            fail_open: false,
            slow_start: Some(s(9)),
            max_requests: 8,
            queue: QueuePlan { size: 4, timeout: s(6) },
            timeouts: UpstreamTimeouts {
                connect: s(1),
                first_byte: s(2),
                between_bytes: s(3),
                request: Some(s(4)),
                tunnel_idle: s(5),
                tunnel_half_closed: s(6),
            },
            pool: PoolPlan { max_idle: 0, idle_timeout: s(1), max_age: s(2), max_requests: 3 },
            retry: RetryPlan { attempts: 0, budget_percent: 1, budget_floor: 2 },
            litmus: None,
            outliers: Some(OutlierPlan {
                consecutive_failures: 1,
                failure_percent: 2,
                min_requests: 3,
                window: s(4),
                statuses: vec![500],
                ejection: s(5),
                max_ejection: s(6),
                max_ejected_percent: 70,
                trial_requests: 8,
            }),
            drain: DrainPlan {
                in_flight: s(1),
                sessions_idle: s(2),
                sessions_max: s(3),
                close_spread: Duration::from_millis(500),
                move_sessions: MoveSessions::Navigation,
            },
            drain_on: Hears { check: true, header: true },
            max_sessions: 7,
            cookie_keys: vec!["0123456789abcdef".into()],
            servers: vec![
                ServerPlan {
                    name: "a:1".into(),
                    address: Address::Host { host: "a".into(), port: 1 },
                    weight: 1,
                    max_requests: 8,
                    backup: false,
                },
                ServerPlan {
                    name: "b".into(),
                    address: Address::Host { host: "b".into(), port: 2 },
                    weight: 5,
                    max_requests: 9,
                    backup: true,
                },
            ],
        }],
    };
    assert_eq!(plan, expected);
}

#[test]
fn reports_are_readable_by_tools() {
    let report = parse(&format!("{TOP}wieght = 1\n"), "conf/evenkeel.toml").unwrap_err();
    assert_eq!(
        serde_json::to_value(&report).unwrap(),
        serde_json::json!([{
            "severity": "error", "file": "conf/evenkeel.toml", "line": 5, "column": 1,
            "message": "unknown key `wieght`",
            "hint": report.entries()[0].hint,
        }])
    );
    let report = parse("é = 'é' x\n", "e.toml").unwrap_err();
    assert_eq!((report.entries()[0].line, report.entries()[0].column), (Some(1), Some(9)));
    let report = parse(&format!("{TOP}check = {{ 'é' = 1 }}\n"), "e.toml").unwrap_err();
    assert_eq!(report.lines(), ["e.toml:5:11: unknown check `é` (known names: tcp, http, grpc, off)"]);
    assert!(report.render(true).contains("\u{1b}["), "colour was asked for");
    let report = parse(&format!("{TOP}\"\\u001b[2J\\n\" = 1\n"), "e.toml").unwrap_err();
    assert!(report.lines()[0].starts_with("e.toml:5:1: unknown key `\\u{1b}[2J\\n`"), "{:?}", report.lines());
}

#[test]
fn what_leads_nowhere_or_does_nothing_is_told() {
    let redirecting = "redirect_to_https = true\n";
    let with = |more: &str| format!("[[listener]]\nname = 'a'\nbind = ':80'\n{redirecting}{more}");
    let rest = "[upstream.shop]\nservers = ['127.0.0.1:9001']\n";
    let nowhere = "`redirect_to_https` leads to port 443, where no listener has `tls`";
    assert_eq!(warnings(&with(rest)), [nowhere]);
    let other = |port| format!("[[listener]]\nname = 'b'\nbind = ':{port}'\ntls = 'self_signed'\n");
    let route = "[[route]]\nlistener = 'b'\nupstream = 'shop'\n";
    assert_eq!(warnings(&with(&(other(443) + route + rest))), [""; 0], "nor is a route needed to redirect");
    assert_eq!(warnings(&with(&(other(8443) + rest))), [nowhere]);
    assert_eq!(warnings(&with(&format!("trusted_proxies = ['10.0.0.0/8']\n{rest}"))), [""; 0]);
    let strip = "[[route]]\nupstream = 'shop'\nstrip_prefix = true\n";
    assert_eq!(
        warnings(&format!("[[listener]]\nbind = ':80'\n{strip}{rest}")),
        ["`strip_prefix` strips nothing in a route for every path"]
    );
}
