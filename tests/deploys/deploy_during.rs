//! What is under way when servers are deployed goes on as it was, and ends when it would have ended.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use harness::{Fake, Held, Process, Proxy, Raw, command, eventually, origins, upstream};
use serde_json::json;

const RR: &str = "\"round_robin\"";

fn ask(proxy: &Proxy) -> Raw {
    let mut conn = proxy.raw();
    conn.send(b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n");
    conn
}

fn waiting(proxy: &Proxy) -> u32 {
    proxy.status().upstreams[0].queue.as_ref().map_or(0, |queue| queue.waiting)
}

fn server(name: &str, address: impl std::fmt::Display) -> String {
    format!("[[upstream.app.server]]\nname = \"{name}\"\naddress = \"{address}\"\n")
}

/// A rolling deploy whose hook does nothing.
fn deploy(proxy: &Proxy, only: &[&str]) -> Process {
    let admin = proxy.socket().to_str().unwrap();
    let proof = proxy.config.with_file_name("proof.json");
    let mut deploy = command(&["deploy", "app", "--each", "true", "--watch", "10ms", "--admin", admin]);
    Process::of(deploy.arg("--proof").arg(proof).args(only.iter().flat_map(|name| ["--only", name])))
}

#[test]
fn of_a_paused_upstream() {
    let origins = origins(2);
    let proxy = Proxy::start(&upstream("app", RR, "queue = { timeout = \"60s\" }\n", &origins));
    let serve = |change: serde_json::Value| {
        let (status, body) = proxy.admin("PUT", "/upstreams/app", &change.to_string());
        assert_eq!(status, 200, "{body}");
    };
    serve(json!({ "service": "paused", "for": "10m" }));
    let mut held: Vec<Raw> = (0..3).map(|_| ask(&proxy)).collect();
    eventually("all wait", || (waiting(&proxy) == 3).then_some(()));
    let done = deploy(&proxy, &[]).wait().ends(0);
    assert!(done.out.contains("2 of 2 servers restarted"), "{}", done.out);
    assert_eq!(waiting(&proxy), 3);
    assert_eq!(proxy.status().upstreams[0].service.as_ref().unwrap().state, "paused");
    assert!(origins.iter().all(|origin| origin.requests().is_empty()), "nobody was let through");
    serve(json!({ "service": "open" }));
    assert!(held.iter_mut().all(|conn| conn.answer().status == 200));
}

#[test]
fn beside_a_server_that_is_ejected() {
    let origins = origins(2);
    let failing = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let bad = Fake::answering(move |_, _, _| Some(harness::answer(if fails.load(Relaxed) { 503 } else { 200 }, "x")));
    let keys = "retry = { attempts = 0 }\n\
                outliers = { consecutive_failures = 2, ejection = \"10m\", max_ejection = \"20m\" }\n";
    let text = format!("{}{}", upstream("app", RR, keys, &origins), server("x", bad.address()));
    let proxy = Proxy::start(&text);
    let before = eventually("x is ejected", || {
        proxy.get("/echo");
        proxy.server("app", "x").ejection
    });
    deploy(&proxy, &["a", "b"]).wait().ends(0);
    let after = proxy.server("app", "x").ejection.unwrap();
    assert_eq!((after.number, &after.reason), (before.number, &before.reason));
    assert!(after.ends_within_seconds < before.ends_within_seconds);
    assert!((0..6).all(|_| proxy.get("/echo").status == 200), "x gets nothing");
    // Its own turn is another matter: what failed was the process before.
    failing.store(false, Relaxed);
    deploy(&proxy, &["x"]).wait().ends(0);
    assert!(proxy.server("app", "x").ejection.is_none());
    eventually("x serves", || (proxy.get("/echo").text() == "x").then_some(()));
}

#[test]
fn while_a_queue_is_waited_in() {
    let (f, g) = (Held::start("f"), Held::start("g"));
    let keys = "max_requests = 1\nqueue = { timeout = \"60s\" }\ndrain = { in_flight = \"60s\" }\n";
    let proxy = Proxy::start(&format!(
        "{}{}{}",
        upstream("app", RR, keys, &[]),
        server("f", f.address()),
        server("g", g.address())
    ));
    let mut conns: Vec<Raw> = (0..5).map(|_| ask(&proxy)).collect();
    eventually("both are full", || (waiting(&proxy) == 3).then_some(()));
    f.has(1);
    g.has(1);
    let deploy = deploy(&proxy, &["g"]);
    eventually("g drains", || (proxy.server("app", "g").admin == "draining").then_some(()));
    assert_eq!(waiting(&proxy), 3, "who waits is not lost with a server");
    f.release(1);
    f.has(2);
    assert_eq!((waiting(&proxy), g.paths().len()), (2, 1), "the other one serves them");
    g.release(1);
    deploy.wait().ends(0);
    g.has(2);
    f.release(usize::MAX);
    g.release(usize::MAX);
    assert!(conns.iter_mut().all(|conn| conn.answer().status == 200));
    assert_eq!((f.most(), g.most()), (1, 1));
}

#[test]
fn beside_a_server_in_its_slow_start() {
    let origins = origins(3);
    let keys = "slow_start = \"1h\"\nmax_requests = 20\n";
    let proxy = Proxy::start(&format!("cores = 1\n{}", upstream("app", RR, keys, &origins)));
    for admin in ["disabled", "ready"] {
        proxy.change("app", "b", &json!({ "admin": admin }));
    }
    let before = proxy.server("app", "b").slow_start.unwrap();
    deploy(&proxy, &["c"]).wait().ends(0);
    let after = proxy.server("app", "b").slow_start.unwrap();
    assert_eq!((after.percent, after.max_requests), (before.percent, before.max_requests));
    assert!(after.ends_within_seconds < before.ends_within_seconds, "it was not begun anew");
    let percents = ["a", "b", "c"].map(|name| proxy.server("app", name).slow_start.map(|slow| slow.percent));
    assert_eq!(percents, [None, Some(10), Some(10)]);
    let answers: Vec<_> = (0..12).map(|_| proxy.get("/echo")).collect();
    let of = |name: &str| answers.iter().filter(|answer| answer.status == 200 && answer.server() == name).count();
    assert_eq!([of("a"), of("b"), of("c")], [10, 1, 1]);
}
