//! What is counted agrees with what happened, and is written as Prometheus wants it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::{BTreeMap, BTreeSet};

use evenkeel::metrics::{Kind, TABLE, markdown};
use harness::{Proxy, WebSocket, app, eventually, origins, servers};
use serde_json::json;

/// Waits until the sum of a metric is `value`: what ends with a request is counted after its last byte.
#[track_caller]
fn is(proxy: &Proxy, name: &str, labels: &[&str], value: f64) {
    let mut last = f64::NAN;
    let wanted = format!("{name} {labels:?} = {value}");
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(&wanted, || {
            last = proxy.metric(&format!("evenkeel_{name}"), labels);
            (last == value).then_some(())
        });
    }));
    assert!(found.is_ok(), "{wanted}, but it is {last}");
}

/// Labels of a sample, without quotes.
fn labels(key: &str) -> Vec<(String, String)> {
    let Some((_, rest)) = key.split_once('{') else { return Vec::new() };
    let inside = rest.strip_suffix('}').unwrap();
    let pairs = inside.split("\",").map(|pair| pair.split_once("=\"").unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned())).collect()
}

/// Holds a scrape to the text format 0.0.4 and to the table.
fn validate(text: &str) -> BTreeSet<&'static str> {
    assert!(text.ends_with('\n'));
    let mut families: BTreeSet<&'static str> = BTreeSet::new();
    let mut samples = BTreeSet::new();
    let mut current = None;
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts: BTreeMap<String, f64> = BTreeMap::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            let metric = TABLE.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("{name} is in no table"));
            assert_eq!(help, metric.help);
            assert!(families.insert(metric.name), "{name} comes twice");
            current = Some(metric);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let metric = current.unwrap();
            assert_eq!(kind, format!("{} {}", metric.name, metric.kind.name()));
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
            let metric = current.unwrap_or_else(|| panic!("{line} without a head"));
            assert!(samples.insert(key), "{key} comes twice");
            let name = key.split('{').next().unwrap();
            let (mut names, all): (Vec<String>, Vec<String>) = labels(key).into_iter().unzip();
            if metric.kind == Kind::Histogram {
                let series = format!("{} {:?}", metric.name, &all[..metric.labels.len()]);
                match name.strip_prefix(metric.name).unwrap() {
                    "_bucket" => {
                        assert_eq!(names.pop().as_deref(), Some("le"), "{line}");
                        buckets.entry(series).or_default().push((all.last().unwrap().parse().unwrap(), value));
                    }
                    "_count" => assert!(counts.insert(series, value).is_none()),
                    other => assert_eq!(other, "_sum"),
                }
            } else {
                assert_eq!(name, metric.name);
            }
            assert_eq!(names, metric.labels, "{line}");
            assert!(value >= 0.0, "{line}");
        }
    }
    assert_eq!(buckets.len(), counts.len());
    for (series, buckets) in &buckets {
        assert!(buckets.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1), "{series}: {buckets:?}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, counts[series])), "{series}");
    }
    families
}

#[test]
fn every_metric_of_the_table_is_there_and_the_text_is_valid() {
    let origins = origins(2);
    let listeners = "[[listener]]\nname = \"clear\"\nbind = \"127.0.0.1:0\"\n\
                     [[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\ntls = \"self_signed\"\n";
    let proxy = Proxy::start(&format!(
        "{listeners}{}",
        app("\"sticky_cookie\"\nshadow = [\"ip_hash\"]\nlitmus = { percent = 10 }", &origins)
    ));
    proxy.get("/");
    proxy.raw().send(b"nonsense\r\n\r\n");
    let families = validate(&proxy.scrape());
    // What is there only while an address is hot has its own tests.
    let lasting = TABLE.iter().map(|m| m.name).filter(|name| !name.contains("_hot_key_"));
    let missing: Vec<&str> = lasting.filter(|name| !families.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(proxy.metric("evenkeel_build_info", &[&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert_eq!(proxy.metric("evenkeel_cores", &[]), 2.0);
    assert!(proxy.metric("evenkeel_process_resident_memory_bytes", &[]) > 1e6);
    assert!(proxy.metric("evenkeel_process_open_fds", &[]) > 5.0);
    assert!(proxy.metric("evenkeel_process_max_fds", &[]) >= proxy.metric("evenkeel_process_open_fds", &[]));
    assert_eq!(proxy.metric("evenkeel_upstream_info", &["upstream=\"app\"", "policy=\"sticky_cookie\""]), 1.0);
}

#[test]
fn no_label_is_an_address_of_a_client_or_a_path() {
    let origins = origins(1);
    let proxy = Proxy::of("\"round_robin\"", &origins);
    for i in 0..20 {
        proxy.get(&format!("/status?code=200&secret={i}"));
    }
    let before = proxy.metrics().len();
    for i in 20..60 {
        proxy.get(&format!("/path/{i}?secret={i}"));
    }
    assert_eq!(proxy.metrics().len(), before);
    assert!(!proxy.scrape().contains("secret"));
}

#[test]
fn requests_answers_and_bytes_are_counted_by_route_and_server() {
    let origins = origins(2);
    let route = "[[route]]\nname = \"r\"\npath = \"/r/\"\nstrip_prefix = true\nupstream = \"app\"\n";
    let upstream = format!("[upstream.app]\ncheck = \"off\"\n{}", servers("app", &origins));
    let proxy = Proxy::start(&format!("{route}{upstream}"));
    let mut client = proxy.client();
    for (path, times) in [("/r/", 6), ("/r/status?code=404", 2), ("/r/status?code=503", 1), ("/r/status?code=301", 3)] {
        for _ in 0..times {
            client.get(path);
        }
    }
    client.post("/r/sink", &[b'x'; 700]);
    client.post("/r/sink", &[b'x'; 300]);
    client.get("/r/bytes?n=5000");
    assert_eq!(client.get("/elsewhere").status, 404);
    assert_eq!(harness::raw(proxy.address, b"GET /r/ HTTP/1.1\r\nconnection: close\r\n\r\n").get(9..12), Some("400"));

    let on_route = |class: &str| format!("code=\"{class}\"");
    for (class, count) in [("2xx", 9.0), ("3xx", 3.0), ("4xx", 2.0), ("5xx", 1.0)] {
        is(&proxy, "requests_total", &["route=\"r\"", &on_route(class)], count);
        is(&proxy, "server_answers_total", &["upstream=\"app\"", &on_route(class)], count);
    }
    is(&proxy, "requests_total", &["route=\"r\""], 15.0);
    is(&proxy, "request_duration_seconds_count", &["route=\"r\""], 15.0);
    is(&proxy, "server_first_byte_seconds_count", &["upstream=\"app\""], 15.0);
    is(&proxy, "server_picks_total", &[], 15.0);
    is(&proxy, "request_body_bytes_total", &["route=\"r\""], 1000.0);
    assert!(proxy.metric("evenkeel_response_body_bytes_total", &["route=\"r\""]) >= 5000.0);
    is(&proxy, "requests_without_route_total", &[], 1.0);
    is(&proxy, "errors_total", &["reason=\"no_route\""], 1.0);
    is(&proxy, "errors_total", &["reason=\"bad_request\""], 1.0);
    is(&proxy, "errors_total", &[], 2.0);
    // One client on one core: one connection to each server, and everything else over those again.
    is(&proxy, "server_connects_total", &[], 2.0);
    is(&proxy, "server_reused_total", &[], 13.0);
    is(&proxy, "server_idle_connections", &[], 2.0);
    for (name, served) in [("a", &origins[0]), ("b", &origins[1])] {
        is(&proxy, "server_picks_total", &[&format!("server=\"{name}\"")], served.requests().len() as f64);
    }
    is(&proxy, "route_info", &["listener=\"main\"", "route=\"r\"", "upstream=\"app\""], 1.0);
}

#[test]
fn retries_and_failures_are_counted_where_they_happened() {
    let mut origins = origins(2);
    let upstream = "[upstream.app]\ncheck = \"off\"\nretry = { budget_floor = 100 }\noutliers = false\n";
    let proxy = Proxy::start(&format!("{upstream}{}", servers("app", &origins)));
    origins[1].behave(|b| b.hang_up = true);
    let mut client = proxy.client();
    let mut failed = 0;
    for _ in 0..6 {
        assert_eq!(client.get("/").server(), "a");
        failed = origins[1].requests().len();
    }
    assert!(failed >= 2, "{failed}");
    is(&proxy, "server_failures_total", &["server=\"b\""], failed as f64);
    is(&proxy, "server_retries_total", &["server=\"b\""], failed as f64);
    is(&proxy, "server_retries_total", &["server=\"a\""], 0.0);
    is(&proxy, "server_answers_total", &["server=\"a\""], 6.0);
    is(&proxy, "server_picks_total", &[], (6 + failed) as f64);
    is(&proxy, "requests_total", &["code=\"2xx\""], 6.0);
    is(&proxy, "errors_total", &[], 0.0);

    // A POST that may have been sent is not sent again: an error with its reason.
    let mut refused = 0;
    for _ in 0..2 {
        let answer = client.post("/sink", b"once");
        if answer.status == 502 {
            assert_eq!(answer.reason(), Some("reset"));
            refused += 1;
        }
    }
    assert_eq!(refused, 1);
    is(&proxy, "errors_total", &["reason=\"reset\""], 1.0);
    is(&proxy, "requests_total", &["code=\"5xx\""], 1.0);

    origins[0].stop();
    origins[1].stop();
    assert_eq!(client.get("/").status, 502);
    is(&proxy, "errors_total", &["reason=\"connect_refused\""], 1.0);
    assert!(proxy.metric("evenkeel_server_connect_failures_total", &[]) >= 2.0);
}

#[test]
fn what_is_open_now_is_gauged() {
    let origins = origins(1);
    let proxy = Proxy::of("\"round_robin\"", &origins);
    let mut slow = proxy.raw();
    slow.send(b"POST /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n1");
    let mut socket = WebSocket::open(proxy.address, "/ws");
    socket.echo("x").unwrap();
    let mut idle = proxy.client();
    idle.get("/");
    is(&proxy, "server_in_flight", &[], 2.0);
    is(&proxy, "server_tunnels", &[], 1.0);
    is(&proxy, "connections_open", &[], 3.0);
    is(&proxy, "connections_accepted_total", &[], 3.0);
    is(&proxy, "connections_parked", &[], 1.0);
    assert_eq!(idle.get("/").status, 200);
    slow.send(b"2");
    assert_eq!(slow.answer().status, 200);
    drop((slow, socket, idle));
    for gauge in ["server_in_flight", "server_tunnels", "connections_open", "connections_parked"] {
        is(&proxy, gauge, &[], 0.0);
    }
    is(&proxy, "connections_accepted_total", &[], 3.0);
    // A tunnel's time is not a request's time.
    is(&proxy, "request_duration_seconds_count", &[], 3.0);
    is(&proxy, "requests_total", &["code=\"1xx\""], 1.0);
}

#[test]
fn idle_and_bad_connections_are_counted_by_reason() {
    let origins = origins(1);
    let timeouts = "idle_timeout = \"1s\"\nheader_timeout = \"1s\"\n";
    let proxy = Proxy::start(&format!("{timeouts}{}", app("\"round_robin\"", &origins)));
    let mut idle = proxy.raw();
    idle.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    idle.answer();
    assert!(idle.is_closed());
    is(&proxy, "connections_closed_total", &["reason=\"idle\""], 1.0);
    assert!(harness::raw(proxy.address, b"GET / HTTP/1.1\r\nhost: x").contains("408"));
    is(&proxy, "errors_total", &["reason=\"header_timeout\""], 1.0);
    assert!(harness::raw(proxy.address, b"\x16\x03\x01 hello\r\n\r\n").contains("400"));
    is(&proxy, "errors_total", &["reason=\"bad_request\""], 1.0);
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(40 << 10));
    assert!(harness::raw(proxy.address, long.as_bytes()).contains("431"));
    is(&proxy, "errors_total", &["reason=\"headers_too_large\""], 1.0);
    is(&proxy, "connections_closed_total", &["reason=\"bad_request\""], 3.0);
}

#[test]
fn forwarded_headers_that_are_not_believed_are_counted() {
    let origins = origins(1);
    let proxy = Proxy::of("\"round_robin\"", &origins);
    proxy.client().with("x-forwarded-for", "192.0.2.1").get("/");
    is(&proxy, "forwarded_headers_ignored_total", &["reason=\"untrusted\""], 1.0);
    let listener = "[[listener]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let trusting = Proxy::start(&format!("{listener}{}", app("\"round_robin\"", &origins)));
    trusting.client().with("x-forwarded-for", "not an address").get("/");
    is(&trusting, "forwarded_headers_ignored_total", &["reason=\"invalid\""], 1.0);
    is(&trusting, "forwarded_headers_ignored_total", &["reason=\"untrusted\""], 0.0);
}

#[test]
fn sessions_states_and_drains_are_counted() {
    let origins = origins(2);
    // In turn, so that some of them come to a: a drain without sessions ends at once.
    let policy = "{ sticky_cookie = { name = \"pin\", new_clients = \"round_robin\" } }";
    let proxy = Proxy::of(policy, &origins);
    let first: Vec<_> = (0..4).map(|_| proxy.get("/")).collect();
    let on_a: Vec<_> = first.iter().filter(|answer| answer.server() == "a").collect();
    is(&proxy, "sticky_sessions_begun_total", &[], 4.0);
    is(&proxy, "server_sessions", &["server=\"a\""], on_a.len() as f64);
    for answer in &first {
        let again = proxy.client().with("cookie", &answer.cookie("pin").unwrap()).get("/");
        assert_eq!(again.server(), answer.server());
    }
    is(&proxy, "sticky_requests_kept_total", &["upstream=\"app\""], 4.0);
    let stays = proxy.client().with("cookie", "pin=nonsense").get("/").server() == "a";
    is(&proxy, "sticky_cookies_refused_total", &["reason=\"invalid\""], 1.0);
    is(&proxy, "sticky_sessions_begun_total", &[], 5.0);

    let state = |field: &str, state: &str, value| {
        is(&proxy, field, &["server=\"a\"", &format!("state=\"{state}\"")], value);
        is(&proxy, field, &["server=\"a\""], 1.0);
    };
    state("server_state", "healthy", 1.0);
    state("server_admin_state", "ready", 1.0);
    proxy.change("app", "a", &json!({ "admin": "draining" }));
    state("server_admin_state", "draining", 1.0);
    proxy.change("app", "a", &json!({ "admin": "disabled", "weight": 9 }));
    state("server_admin_state", "disabled", 1.0);
    is(&proxy, "server_weight", &["server=\"a\""], 9.0);
    for answer in &on_a {
        let moved = proxy.client().with("cookie", &answer.cookie("pin").unwrap()).get("/");
        assert_eq!(moved.server(), "b");
    }
    is(&proxy, "sessions_moved_total", &[], on_a.len() as f64);
    is(&proxy, "server_sessions", &["server=\"a\""], f64::from(stays));

    is(&proxy, "upstream_failing_open", &[], 0.0);
    origins[1].set_healthy(false);
    is(&proxy, "server_state", &["server=\"b\"", "state=\"unhealthy\""], 1.0);
    is(&proxy, "upstream_failing_open", &["upstream=\"app\""], 1.0);
    let generation = proxy.metric("evenkeel_generation", &[]);
    assert_eq!(generation, proxy.status().generation as f64);
}

#[test]
fn series_of_what_a_reload_removed_end() {
    let origins = origins(2);
    let with = |n: usize| format!("[upstream.app]\ncheck = \"off\"\n{}", servers("app", &origins[..n]));
    let proxy = Proxy::start(&with(2));
    (0..4).for_each(|_| drop(proxy.get("/")));
    let total = proxy.metric("evenkeel_server_picks_total", &["server=\"a\""]);
    proxy.reload(&with(1)).unwrap();
    assert!(!proxy.scrape().contains("server=\"b\""));
    is(&proxy, "server_picks_total", &[], total);
    is(&proxy, "requests_total", &[], 4.0);
    validate(&proxy.scrape());
}

#[test]
fn scrapes_while_requests_run_never_disagree_with_themselves() {
    let origins = origins(2);
    let proxy = Proxy::of("\"least_requests\"", &origins);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = proxy.client();
                    (0..200).for_each(|_| assert_eq!(client.get("/bytes?n=10").status, 200));
                })
            })
            .collect();
        let mut before = 0.0;
        while !clients.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            validate(&proxy.scrape());
            let now = proxy.metric("evenkeel_requests_total", &[]);
            assert!(now >= before, "a counter went back from {before} to {now}");
            before = now;
        }
    });
    is(&proxy, "requests_total", &[], 800.0);
    is(&proxy, "response_body_bytes_total", &[], 8000.0);
}

/// The README lists the metrics between two markers, as the code has them.
#[test]
fn the_readme_lists_the_metrics() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("README.md");
    let between = readme.split_once("<!-- metrics -->").and_then(|(_, rest)| rest.split_once("<!-- /metrics -->"));
    let (listed, _) = between.expect("a part between <!-- metrics --> and <!-- /metrics -->");
    assert_eq!(listed.trim(), markdown().trim(), "put this between the markers:\n{}", markdown());
}
