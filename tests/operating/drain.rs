//! Taking servers out of service: the table of states, row by row.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use harness::{Answer, Client, Origin, Proxy, Raw, eventually, origins, upstream};
use serde_json::json;

pub(crate) fn sticky(more: &str, origins: &[Origin]) -> String {
    format!("cores = 2\n{}", upstream("app", "{ sticky_cookie = { new_clients = \"round_robin\" } }", more, origins))
}

pub(crate) fn plain(more: &str, origins: &[Origin]) -> String {
    format!("cores = 2\n{}", upstream("app", "\"round_robin\"", more, origins))
}

pub(crate) fn admin(proxy: &Proxy, server: &str) -> String {
    proxy.server("app", server).admin
}

pub(crate) fn becomes(proxy: &Proxy, server: &str, state: &str) {
    eventually(&format!("{server} is {state}"), || (admin(proxy, server) == state).then_some(()));
    let labels = [format!("server=\"{server}\""), format!("state=\"{state}\"")];
    assert_eq!(proxy.metric("evenkeel_server_admin_state", &[&labels[0], &labels[1]]), 1.0);
}

pub(crate) fn set(proxy: &Proxy, server: &str, state: &str) {
    proxy.change("app", server, &json!({ "admin": state }));
}

/// No new client comes to `server`.
pub(crate) fn takes_nobody_new(proxy: &Proxy, server: &str) {
    for _ in 0..12 {
        assert_ne!(proxy.get("/echo").server(), server);
    }
}

pub(crate) fn takes_new(proxy: &Proxy, server: &str) {
    assert!((0..12).any(|_| proxy.get("/echo").server() == server), "{server} gets no new client");
}

/// A request that is on `origin`; a sticky one with that client's cookie. `rest` is what comes after the cookie.
pub(crate) fn on(proxy: &Proxy, origin: &Origin, client: Option<&Client>, line: &str, rest: &str) -> Raw {
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
pub(crate) fn in_flight(proxy: &Proxy, origin: &Origin, client: Option<&Client>) -> Raw {
    on(proxy, origin, client, "POST /sink", "content-length: 2\r\n\r\n1")
}

pub(crate) fn ended(raw: &mut Raw) -> Answer {
    raw.send(b"2");
    raw.answer()
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
