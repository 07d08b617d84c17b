//! Taking servers out of service: the table of states, row by row, the deadlines, and `drain --wait`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::{Answer, Client, Fake, Origin, Process, Proxy, Raw, eventually, origins, unchecked, upstream};
use serde_json::json;

fn sticky(more: &str, origins: &[Origin]) -> String {
    format!("cores = 2\n{}", upstream("app", "{ sticky_cookie = { new_clients = \"round_robin\" } }", more, origins))
}

fn plain(more: &str, origins: &[Origin]) -> String {
    format!("cores = 2\n{}", upstream("app", "\"round_robin\"", more, origins))
}

fn admin(proxy: &Proxy, server: &str) -> String {
    proxy.server("app", server).admin
}

fn becomes(proxy: &Proxy, server: &str, state: &str) {
    eventually(&format!("{server} is {state}"), || (admin(proxy, server) == state).then_some(()));
    let labels = [format!("server=\"{server}\""), format!("state=\"{state}\"")];
    assert_eq!(proxy.metric("evenkeel_server_admin_state", &[&labels[0], &labels[1]]), 1.0);
}

fn set(proxy: &Proxy, server: &str, state: &str) {
    proxy.change("app", server, &json!({ "admin": state }));
}

/// No new client comes to `server`.
fn takes_nobody_new(proxy: &Proxy, server: &str) {
    for _ in 0..12 {
        assert_ne!(proxy.get("/echo").server(), server);
    }
}

fn takes_new(proxy: &Proxy, server: &str) {
    assert!((0..12).any(|_| proxy.get("/echo").server() == server), "{server} gets no new client");
}

/// A request that is on `origin`; a sticky one with that client's cookie. `rest` is what comes after the cookie.
fn on(proxy: &Proxy, origin: &Origin, client: Option<&Client>, line: &str, rest: &str) -> Raw {
    let before = origin.requests().len();
    for _ in 0..20 {
        let mut raw = proxy.raw();
        let cookie = client.map_or(String::new(), |c| format!("cookie: {}\r\n", c.headers[0].1));
        raw.send(format!("{line} HTTP/1.1\r\nhost: a\r\n{cookie}{rest}").as_bytes());
        let there = eventually("the request in flight", || {
            let status = proxy.status();
            let total: u32 = status.upstreams[0].servers.iter().map(|s| s.in_flight).sum();
            (total > 0).then(|| origin.requests().len() > before && proxy.server("app", origin.name()).in_flight > 0)
        });
        if there {
            return raw;
        }
        drop(raw);
        eventually("the request that went elsewhere is gone", || {
            proxy.status().upstreams[0].servers.iter().all(|s| s.in_flight == 0).then_some(())
        });
    }
    panic!("no request came to {}", origin.name());
}

/// An upload that ends when the test [sends](ended) its last byte.
fn in_flight(proxy: &Proxy, origin: &Origin, client: Option<&Client>) -> Raw {
    on(proxy, origin, client, "POST /sink", "content-length: 2\r\n\r\n1")
}

fn ended(raw: &mut Raw) -> Answer {
    raw.send(b"2");
    raw.answer()
}

/// A request whose answer does not come while a test lasts.
fn stuck(proxy: &Proxy, origin: &Origin) -> Raw {
    on(proxy, origin, None, "GET /slow?ms=60000", "\r\n")
}

#[test]
fn draining_takes_pinned_clients_and_nobody_new() {
    let origins = origins(3);
    let proxy = Proxy::start(&sticky("", &origins));
    let mut client = proxy.pinned_to("a");
    let mut raw = in_flight(&proxy, &origins[0], Some(&client));
    set(&proxy, "a", "draining");
    takes_nobody_new(&proxy, "a");
    for _ in 0..5 {
        let answer = client.get("/echo");
        assert_eq!((answer.server(), answer.cookie("evenkeel")), ("a", None));
    }
    let server = proxy.server("app", "a");
    assert_eq!(
        (server.admin.as_str(), server.operational.as_str(), server.set_by.as_str()),
        ("draining", "healthy", "operator")
    );
    assert_eq!((server.in_flight, server.sessions.is_some_and(|s| s >= 1)), (1, true));
    let drain = server.drain.expect("a drain under way");
    assert_eq!(drain.in_flight, 1);
    assert!(drain.sessions_left >= 1);
    // An hour for sessions and 30 s for what is in flight then.
    assert!((3500.0..=3630.0).contains(&drain.ends_within_seconds), "{drain:?}");
    assert!(drain.seconds < 20.0);
    let answer = ended(&mut raw);
    assert_eq!((answer.status, answer.server()), (200, "a"), "what was in flight has ended well");
    assert_eq!(admin(&proxy, "a"), "draining", "sessions still hold it");
}

#[test]
fn a_draining_server_that_fails_loses_its_pinned_clients_too() {
    let origins = origins(2);
    let check = "check = { http = { path = \"/healthz\", interval = \"50ms\", timeout = \"10s\", unhealthy_threshold = 1, healthy_threshold = 1 } }\n";
    let proxy = Proxy::start(&sticky(check, &origins));
    let mut client = proxy.pinned_to("a");
    let mut raw = in_flight(&proxy, &origins[0], Some(&client));
    set(&proxy, "a", "draining");
    assert_eq!(client.get("/echo").server(), "a");
    origins[0].set_healthy(false);
    eventually("it is unhealthy", || (proxy.server("app", "a").operational == "unhealthy").then_some(()));
    let answer = client.get("/echo");
    assert_eq!(answer.server(), "b");
    assert!(answer.cookie("evenkeel").is_some(), "pinned anew");
    assert_eq!(proxy.metric("evenkeel_sessions_moved_total", &[]), 1.0);
    assert_eq!(ended(&mut raw).server(), "a");
}

#[test]
fn an_unhealthy_server_loses_new_and_pinned_clients_and_keeps_what_is_in_flight() {
    let origins = origins(2);
    let check =
        "check = { http = { path = \"/healthz\", interval = \"50ms\", timeout = \"10s\", unhealthy_threshold = 1 } }\n";
    let proxy = Proxy::start(&sticky(check, &origins));
    let mut client = proxy.pinned_to("a");
    let mut raw = in_flight(&proxy, &origins[0], Some(&client));
    origins[0].set_healthy(false);
    eventually("it is unhealthy", || (proxy.server("app", "a").operational == "unhealthy").then_some(()));
    takes_nobody_new(&proxy, "a");
    assert_eq!(client.get("/echo").server(), "b");
    assert_eq!(ended(&mut raw).server(), "a");
}

#[test]
fn a_drained_server_gets_nothing() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("", &origins));
    let mut client = proxy.pinned_to("a");
    proxy.change("app", "a", &json!({ "admin": "draining", "sessions_max": "0s" }));
    becomes(&proxy, "a", "drained");
    let before = proxy.server("app", "a").requests;
    takes_nobody_new(&proxy, "a");
    let answer = client.get("/echo");
    assert_eq!(answer.server(), "b");
    assert!(answer.cookie("evenkeel").is_some());
    assert_eq!(proxy.metric("evenkeel_sessions_moved_total", &[]), 1.0);
    let server = proxy.server("app", "a");
    assert_eq!((server.requests, server.drain.is_none(), server.in_flight), (before, true, 0));
    // All that is left drains, too: then there is no server.
    proxy.change("app", "b", &json!({ "admin": "draining", "sessions_max": "0s" }));
    becomes(&proxy, "b", "drained");
    assert_eq!(client.get("/echo").reason(), Some("no_server"));
}

#[test]
fn disabled_moves_everyone_at_once_and_is_not_checked() {
    let origins = origins(2);
    let check = "check = { http = { path = \"/healthz\", interval = \"50ms\", timeout = \"10s\" } }\n";
    let proxy = Proxy::start(&sticky(check, &origins));
    let mut client = proxy.pinned_to("a");
    let mut raw = in_flight(&proxy, &origins[0], Some(&client));
    set(&proxy, "a", "disabled");
    assert_eq!(admin(&proxy, "a"), "disabled");
    takes_nobody_new(&proxy, "a");
    let answer = client.get("/echo");
    assert_eq!((answer.server(), answer.cookie("evenkeel").is_some()), ("b", true));
    assert_eq!(ended(&mut raw).server(), "a", "it has until its deadline");
    eventually("nothing is left", || (proxy.server("app", "a").in_flight == 0).then_some(()));
    // A probe may have been under way; b's go on and tell the time.
    let probes = |o: &Origin| o.requests().iter().filter(|r| r.path() == "/healthz").count();
    let (of_a, of_b) = (probes(&origins[0]), probes(&origins[1]));
    eventually("b is probed", || (probes(&origins[1]) >= of_b + 6).then_some(()));
    assert!(probes(&origins[0]) <= of_a + 1, "nobody asks a disabled server");

    // Back, it is unknown until its next check.
    origins[0].behave(|b| b.health_delay = Duration::from_secs(3));
    set(&proxy, "a", "ready");
    assert_eq!(proxy.server("app", "a").operational, "starting");
    takes_nobody_new(&proxy, "a");
    eventually("it is healthy", || (proxy.server("app", "a").operational == "healthy").then_some(()));
    takes_new(&proxy, "a");
}

#[test]
fn what_is_in_flight_is_cut_at_its_deadline_and_not_before() {
    for state in ["draining", "disabled"] {
        let origins = origins(2);
        let proxy = Proxy::start(&plain("", &origins));
        let mut raw = stuck(&proxy, &origins[0]);
        let began = Instant::now();
        proxy.change("app", "a", &json!({ "admin": state, "in_flight": "2s" }));
        assert_eq!(proxy.server("app", "a").in_flight, 1);
        let within = proxy.server("app", "a").drain.expect("a drain").ends_within_seconds;
        assert!(within <= 2.0, "{within}");
        let answer = raw.answer();
        let took = began.elapsed();
        assert_eq!((answer.status, answer.reason()), (502, Some("cut")), "{state}");
        assert!(took >= Duration::from_secs(2), "{state}: {took:?}");
        assert!(took < Duration::from_secs(15), "{state}: {took:?}");
        becomes(&proxy, "a", if state == "draining" { "drained" } else { "disabled" });
        eventually("nothing is left", || (proxy.server("app", "a").in_flight == 0).then_some(()));
        assert_eq!(proxy.metric("evenkeel_errors_total", &["reason=\"cut\""]), 1.0);
    }
}

/// An answer that is cut in its middle must look cut, however it is framed and whoever is slow.
#[test]
fn an_answer_that_is_cut_never_looks_complete() {
    let fake = Fake::start(|_, mut conn| {
        let Some(first) = harness::read_head(&mut conn).into_iter().next() else { return };
        conn.send(match first.split(' ').nth(1).unwrap() {
            "/length" => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart".as_slice(),
            "/chunks" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n",
            _ => b"HTTP/1.1 200 OK\r\n\r\npart",
        });
        if first.contains("/flood") {
            // More than anybody buffers, for a client that does not read.
            while conn.try_send(&[b'x'; 65536]).is_ok() {}
        }
        assert!(conn.is_closed(), "the cut reaches the server");
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let name = fake.address().to_string();
    let mut cut = 0.0;
    for version in ["1.1", "1.0"] {
        for path in ["/length", "/chunks", "/close", "/flood"] {
            let mut conn = proxy.raw();
            conn.send(format!("GET {path} HTTP/{version}\r\nhost: a\r\n\r\n").as_bytes());
            let head = conn.head().expect("the head of an answer");
            assert!(head.contains(" 200 OK\r\n"), "{head}");
            conn.read(1);
            proxy.change("app", &name, &json!({ "admin": "disabled", "in_flight": "200ms" }));
            cut += 1.0;
            eventually("it is cut", || (proxy.metric("evenkeel_errors_total", &[]) == cut).then_some(()));
            let (got, proper) = conn.rest_and_end();
            let framed = head.to_ascii_lowercase().contains("\r\ncontent-length: 100");
            let chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
            assert!(!chunked || !got.ends_with(b"0\r\n\r\n"), "{version} {path}: {:?}", got.len());
            assert!(framed || chunked || !proper, "{version} {path}: only a reset tells that it was cut");
            proxy.change("app", &name, &json!({ "admin": "ready" }));
            eventually("it serves again", || (proxy.server("app", &name).operational == "healthy").then_some(()));
        }
    }
}

#[test]
fn deadlines_come_from_the_configuration() {
    let origins = origins(2);
    let proxy = Proxy::start(&plain("drain = { in_flight = \"500ms\" }\n", &origins));
    let mut raw = stuck(&proxy, &origins[0]);
    let began = Instant::now();
    set(&proxy, "a", "draining");
    assert_eq!(raw.answer().reason(), Some("cut"));
    assert!(began.elapsed() >= Duration::from_millis(500));
}

#[test]
fn a_drain_ends_early_when_nothing_is_left() {
    let origins = origins(2);
    let proxy = Proxy::start(&plain("", &origins));
    let began = Instant::now();
    set(&proxy, "b", "draining");
    becomes(&proxy, "b", "drained");
    set(&proxy, "b", "ready");
    let mut raw = in_flight(&proxy, &origins[0], None);
    set(&proxy, "a", "draining");
    assert_eq!(admin(&proxy, "a"), "draining");
    takes_nobody_new(&proxy, "a");
    assert_eq!(ended(&mut raw).status, 200);
    becomes(&proxy, "a", "drained");
    assert!(began.elapsed() < Duration::from_secs(15), "the deadline of 30 s was not waited for");
}

#[test]
fn sessions_that_go_idle_no_longer_hold_a_drain() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("drain = { sessions_idle = \"2s\" }\n", &origins));
    let mut client = proxy.pinned_to("a");
    set(&proxy, "a", "draining");
    let began = Instant::now();
    // A busy session, which always asks again within its idle time, holds it beyond that.
    while began.elapsed() < Duration::from_secs(5) {
        assert_eq!(client.get("/echo").server(), "a");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(admin(&proxy, "a"), "draining");
    let quiet = Instant::now();
    becomes(&proxy, "a", "drained");
    assert!(quiet.elapsed() >= Duration::from_millis(900), "{:?}", quiet.elapsed());
    assert_eq!(client.get("/echo").server(), "b");
}

#[test]
fn sessions_hold_a_drain_no_longer_than_their_deadline() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("", &origins));
    let mut client = proxy.pinned_to("a");
    let began = Instant::now();
    proxy.change("app", "a", &json!({ "admin": "draining", "sessions_max": "1200ms" }));
    let moved = eventually("the client is moved", || {
        let answer = client.get("/echo");
        (answer.server() == "b").then_some(began.elapsed())
    });
    assert!(moved >= Duration::from_millis(1200), "{moved:?}");
    assert!(moved < Duration::from_secs(15), "{moved:?}");
    becomes(&proxy, "a", "drained");
}

#[test]
fn ready_again_ends_a_drain_and_its_deadline() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("", &origins));
    let mut client = proxy.pinned_to("a");
    let mut raw = on(&proxy, &origins[0], Some(&client), "GET /slow?ms=4000", "\r\n");
    proxy.change("app", "a", &json!({ "admin": "draining", "in_flight": "2s", "sessions_max": "100ms" }));
    becomes(&proxy, "a", "drained");
    set(&proxy, "a", "ready");
    let server = proxy.server("app", "a");
    assert_eq!((server.admin.as_str(), server.set_by.as_str(), server.drain.is_none()), ("ready", "", true));
    assert_eq!(raw.answer().status, 200, "not cut any more");
    assert_eq!(client.get("/echo").server(), "a");
    takes_new(&proxy, "a");
}

#[test]
fn weights_change_at_run_time() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("", &origins).replace("cores = 2", "cores = 1"));
    let mut client = proxy.pinned_to("a");
    proxy.change("app", "a", &json!({ "weight": 0 }));
    takes_nobody_new(&proxy, "a");
    assert_eq!(client.get("/echo").server(), "a", "who is there stays");
    proxy.change("app", "a", &json!({ "weight": 3 }));
    let share = |n: usize| (0..n).filter(|_| proxy.get("/echo").server() == "a").count();
    assert_eq!(share(40), 30);
    let server = proxy.server("app", "a");
    assert_eq!((server.weight, server.configured_weight), (3, 1));
    proxy.reload(&sticky("timeouts = { connect = \"2s\" }\n", &origins).replace("cores = 2", "cores = 1")).unwrap();
    assert_eq!((proxy.server("app", "a").weight, share(40)), (3, 30), "it outlives a reload");
    let (status, body) = proxy.admin("PUT", "/upstreams/app/servers/a", "{\"weight\":1001}");
    assert_eq!(status, 400, "{body}");
    assert_eq!(proxy.server("app", "a").weight, 3);
}

#[test]
fn drains_outlive_reloads() {
    let origins = origins(3);
    let proxy = Proxy::start(&sticky("", &origins));
    let mut client = proxy.pinned_to("a");
    set(&proxy, "a", "draining");
    set(&proxy, "b", "disabled");
    proxy.reload(&sticky("timeouts = { connect = \"2s\" }\n", &origins)).unwrap();
    assert_eq!((admin(&proxy, "a").as_str(), admin(&proxy, "b").as_str()), ("draining", "disabled"));
    takes_nobody_new(&proxy, "a");
    takes_nobody_new(&proxy, "b");
    assert_eq!(client.get("/echo").server(), "a");
}

#[test]
fn a_tunnel_is_in_flight() {
    let origins = origins(2);
    let proxy = Proxy::start(&plain("", &origins));
    let open = |server: &str| {
        for _ in 0..20 {
            let (raw, answer) = proxy.tunnel();
            if answer.server() == server {
                return raw;
            }
        }
        panic!("no tunnel to {server}");
    };
    let (mut one, mut two) = (open("a"), open("a"));
    eventually("both are counted", || (proxy.server("app", "a").tunnels == 2).then_some(()));
    assert_eq!(proxy.server("app", "a").in_flight, 2);
    proxy.change("app", "a", &json!({ "admin": "draining" }));
    for raw in [&mut one, &mut two] {
        raw.send(b"still there");
        assert_eq!(raw.read(11), b"still there");
    }
    drop(one);
    eventually("one is left", || (proxy.server("app", "a").in_flight == 1).then_some(()));
    assert_eq!(admin(&proxy, "a"), "draining");
    // Less time for the one that stays.
    proxy.change("app", "a", &json!({ "in_flight": "100ms" }));
    assert!(two.is_closed());
    becomes(&proxy, "a", "drained");
    eventually("nothing is left", || (proxy.server("app", "a").tunnels == 0).then_some(()));
    assert_eq!(proxy.server("app", "a").in_flight, 0);
}

#[test]
fn drain_wait_returns_when_it_is_safe_and_not_before() {
    let origins = origins(2);
    let proxy = Proxy::start(&plain("", &origins));
    let mut raw = in_flight(&proxy, &origins[0], None);
    let mut command = Process::spawn(&["--admin", proxy.socket().to_str().unwrap(), "drain", "app/a", "--wait"]);
    becomes(&proxy, "a", "draining");
    (0..20).for_each(|_| assert!(proxy.server("app", "a").in_flight == 1 && command.ended().is_none()));
    raw.send(b"2");
    while proxy.server("app", "a").in_flight > 0 {
        // Looked at first: it may have ended since.
        let ended = command.ended();
        let left = proxy.server("app", "a").in_flight;
        assert!(left == 0 || ended.is_none(), "it returned while {left} were in flight: {}", command.err());
    }
    command.wait().ends(0);
    assert_eq!((admin(&proxy, "a").as_str(), proxy.server("app", "a").in_flight), ("drained", 0));
    assert_eq!(raw.answer().status, 200);
}

#[test]
fn drain_wait_waits_for_sessions() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("", &origins));
    let mut client = proxy.pinned_to("a");
    let args = ["--admin", proxy.socket().to_str().unwrap(), "drain", "a", "--wait", "--sessions-max", "3s"];
    let began = Instant::now();
    let command = Process::spawn(&args);
    becomes(&proxy, "a", "draining");
    assert_eq!(client.get("/echo").server(), "a");
    command.wait().ends(0);
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert_eq!(admin(&proxy, "a"), "drained");
}

#[test]
fn drain_wait_gives_up_in_time_and_says_so() {
    let origins = origins(2);
    let proxy = Proxy::start(&plain("", &origins));
    let _raw = stuck(&proxy, &origins[0]);
    let args = ["--admin", proxy.socket().to_str().unwrap(), "drain", "a", "--wait", "--timeout", "500ms"];
    let command = Process::spawn(&args);
    command.wait().ends(6);
    assert_eq!(admin(&proxy, "a"), "draining", "the drain goes on");
    // A drain that somebody else takes back never ends.
    set(&proxy, "a", "ready");
    let again = Process::spawn(&["--admin", proxy.socket().to_str().unwrap(), "drain", "a", "--wait"]);
    becomes(&proxy, "a", "draining");
    set(&proxy, "a", "ready");
    again.wait().ends(6);
}

/// It will be stopped: a connection kept to it would be a dead one when it is back.
#[test]
fn no_connection_is_kept_to_a_server_that_is_out() {
    for state in ["draining", "disabled"] {
        let origins = origins(2);
        let proxy = Proxy::start(&plain("", &origins));
        let mut raw = in_flight(&proxy, &origins[0], None);
        takes_new(&proxy, "a");
        takes_new(&proxy, "b");
        assert!(origins[0].connections() >= 2);
        set(&proxy, "a", state);
        assert_eq!(ended(&mut raw).status, 200);
        eventually("all are closed", || (origins[0].connections() == 0).then_some(()));
        assert!(origins[1].connections() > 0, "those to other servers are kept");
    }
}

/// A server is stopped the moment its drain has ended, under load: nobody notices.
#[test]
fn a_rolling_restart_by_drains_loses_nothing() {
    let mut origins = origins(3);
    let proxy = Proxy::start(&plain("", &origins));
    let stop = AtomicBool::new(false);
    let answers: Vec<(String, u16, Option<String>)> = std::thread::scope(|scope| {
        let load: Vec<_> = (0..4)
            .map(|c| {
                let (mut client, stop) = (proxy.client(), &stop);
                scope.spawn(move || {
                    let mut answers = Vec::new();
                    while !stop.load(Relaxed) {
                        // A POST is never sent again once it may have been sent: a drain that ends too
                        // early shows.
                        let id = format!("{c}-{}", answers.len());
                        let answer = client.send("POST", "/sink", &[("x-request-id", &id)], b"x");
                        answers.push((id, answer.status, answer.reason().map(str::to_owned)));
                    }
                    answers
                })
            })
            .collect();
        for turn in 0..9 {
            let origin = &mut origins[turn % 3];
            let path = format!("/upstreams/app/servers/{}", origin.name());
            set(&proxy, origin.name(), "draining");
            let (status, body) = proxy.admin("GET", &format!("{path}?wait=drained&timeout=10s"), "");
            assert!(status == 200 && body.contains("\"drained\""), "{body}");
            origin.kill();
            origin.restart().unwrap();
            set(&proxy, origin.name(), "ready");
        }
        stop.store(true, Relaxed);
        load.into_iter().flat_map(|l| l.join().unwrap()).collect()
    });
    let deliveries: Vec<_> = origins.iter().map(Origin::deliveries).collect();
    let failed: Vec<_> = answers.iter().filter(|(_, status, _)| *status != 200).collect();
    let delivered = |id: &str| deliveries.iter().filter_map(|d| d.get(id)).sum::<usize>();
    let told: Vec<String> = failed.iter().map(|f| format!("{f:?}, delivered {} times", delivered(&f.0))).collect();
    assert!(failed.is_empty(), "of {}: {told:#?}", answers.len());
    assert!(answers.iter().all(|(id, ..)| delivered(id) == 1));
}

#[test]
fn a_drain_says_when_its_sessions_are_over() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("drain = { sessions_idle = \"60s\" }\n", &origins));
    let mut client = proxy.pinned_to("a");
    let over_in = || proxy.server("app", "a").drain.and_then(|drain| drain.sessions_over_in_seconds);
    assert_eq!(over_in(), None, "it does not drain");
    set(&proxy, "a", "draining");
    let first = over_in().expect("sessions that hold it");
    assert!(first > 0.0 && first <= 61.0, "{first}");
    // The time runs down, and starts again with a request.
    let later = eventually("less time is left", || over_in().filter(|left| *left <= first - 2.0));
    client.get("/echo");
    let again = over_in().unwrap();
    assert!(again > later && again <= 61.0, "{later} {again}");
    // What ends it before that is all that matters.
    proxy.change("app", "a", &json!({ "sessions_max": "1s", "in_flight": "1s" }));
    assert_eq!(over_in(), None);
}
