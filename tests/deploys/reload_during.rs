//! What is under way when a configuration is reloaded goes on as it was, and ends when it would have ended.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use harness::{Fake, Held, Proxy, Raw, ServerStatus, eventually, origins, servers};
use serde_json::json;

fn ask(proxy: &Proxy, path: &str) -> Raw {
    let mut conn = proxy.raw();
    conn.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
    conn
}

fn serve(proxy: &Proxy, upstream: &str, change: &serde_json::Value) {
    let (status, body) = proxy.admin("PUT", &format!("/upstreams/{upstream}"), &change.to_string());
    assert_eq!(status, 200, "{body}");
}

fn waiting(proxy: &Proxy, upstream: &str) -> u32 {
    let status = proxy.status();
    let upstream = status.upstreams.iter().find(|u| u.name == upstream).unwrap();
    upstream.queue.as_ref().map_or(0, |queue| queue.waiting)
}

fn table(upstream: &str, keys: &str, servers: &str) -> String {
    format!(
        "[[route]]\npath = \"/{upstream}/\"\nstrip_prefix = true\nupstream = \"{upstream}\"\n[upstream.{upstream}]\n{keys}\n{servers}"
    )
}

fn server(upstream: &str, name: &str, address: impl std::fmt::Display) -> String {
    format!("[[upstream.{upstream}.server]]\nname = \"{name}\"\naddress = \"{address}\"\n")
}

/// What a reload must leave alone, of every server.
fn marks(proxy: &Proxy) -> Vec<impl PartialEq + std::fmt::Debug + use<>> {
    let upstreams = proxy.status().upstreams;
    let all = upstreams.into_iter().flat_map(|upstream| upstream.servers);
    all.map(|server: ServerStatus| {
        let ServerStatus { name, admin, set_by, operational, on_trial, max_requests, .. } = server;
        let slow = server.slow_start.map(|slow| (slow.percent, slow.max_requests));
        let ejection = server.ejection.map(|ejection| (ejection.number, ejection.reason));
        (name, admin, set_by, operational, on_trial, max_requests, slow, ejection)
    })
    .collect()
}

/// When what is under way ends, in the order of the status: seconds from now.
fn ends(proxy: &Proxy) -> Vec<f64> {
    let upstreams = proxy.status().upstreams;
    let mut ends: Vec<f64> = upstreams.iter().filter_map(|u| u.service.as_ref()?.ends_within_seconds).collect();
    for server in upstreams.into_iter().flat_map(|upstream| upstream.servers) {
        let (drain, ejection, slow) = (server.drain, server.ejection, server.slow_start);
        ends.extend(drain.map(|drain| drain.ends_within_seconds));
        ends.extend(ejection.map(|ejection| ejection.ends_within_seconds));
        ends.extend(slow.map(|slow| slow.ends_within_seconds));
    }
    ends
}

#[test]
fn reloads_in_the_midst_of_everything() {
    let origins = origins(2);
    let (paused, full) = (Held::start("p"), Held::start("f"));
    paused.release(usize::MAX);
    let asks = Arc::new(AtomicBool::new(false));
    let said = Arc::clone(&asks);
    let asking = Fake::answering(move |_, _, head| {
        let is_asking = said.load(Relaxed) && head.starts_with("GET /healthz ");
        Some(harness::answer(if is_asking { 404 } else { 200 }, "x"))
    });
    let failing = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let bad = Fake::answering(move |_, _, _| Some(harness::answer(if fails.load(Relaxed) { 503 } else { 200 }, "x")));

    let two = |upstream: &str| servers(upstream, &origins);
    let text = format!(
        "cores = 2\n{}{}{}{}{}{}{}",
        table("paused", "check = 'off'\nqueue = { timeout = '60s' }", &server("paused", "p", paused.address())),
        table("closed", "check = 'off'", &two("closed")),
        table(
            "full",
            "check = 'off'\nmax_requests = 1\nqueue = { timeout = '60s' }",
            &server("full", "f", full.address())
        ),
        table("slow", "check = 'off'\nslow_start = '1h'\nmax_requests = 20", &two("slow")),
        table(
            "sticky",
            "check = 'off'\nslow_start = 'off'\npolicy = 'sticky_cookie'\ncookie_keys = ['a key for this test']",
            &two("sticky")
        ),
        table(
            "asked",
            "check = { http = { path = '/healthz', interval = '50ms', timeout = '10s' } }\ndrain = { on_check = true }",
            &format!("{}{}", server("asked", "x", asking.address()), servers("asked", &origins[..1]))
        ),
        table(
            "ejected",
            "check = 'off'\nretry = { attempts = 0 }\noutliers = { consecutive_failures = 2, ejection = '10m', max_ejection = '20m' }",
            &format!("{}{}", server("ejected", "x", bad.address()), servers("ejected", &origins[..1]))
        ),
    );
    let proxy = Proxy::start(&text);
    // Everything at once.
    let pinned = eventually("a session on b", || {
        let answer = proxy.get("/sticky/echo");
        (answer.server() == "b").then(|| answer.cookie("evenkeel").unwrap())
    });
    let mut pinned = proxy.client().with("cookie", &pinned);
    proxy.change("sticky", "b", &json!({ "admin": "draining" }));
    serve(&proxy, "paused", &json!({ "service": "paused", "for": "10m" }));
    serve(&proxy, "closed", &json!({ "service": "maintenance", "message": "Back at noon." }));
    let mut held: Vec<Raw> = (0..3).map(|_| ask(&proxy, "/paused/x")).collect();
    let mut runs = ask(&proxy, "/full/first");
    full.has(1);
    let mut queued: Vec<Raw> = (0..3).map(|_| ask(&proxy, "/full/next")).collect();
    proxy.change("slow", "b", &json!({ "admin": "disabled" }));
    proxy.change("slow", "b", &json!({ "admin": "ready" }));
    asks.store(true, Relaxed);
    eventually("x is drained at its own request", || (proxy.server("asked", "x").admin == "drained").then_some(()));
    eventually("x is ejected", || {
        proxy.get("/ejected/x");
        proxy.server("ejected", "x").ejection
    });
    eventually("who waits", || (waiting(&proxy, "paused") == 3 && waiting(&proxy, "full") == 3).then_some(()));

    let (before, until) = (marks(&proxy), ends(&proxy));
    assert_eq!(until.len(), 4, "a pause, a drain, an ejection and a slow start: {until:?}");
    for i in 0..12 {
        // All upstreams change a little.
        let changed = text.replace("]\ncheck = ", &format!("]\nfail_open = {}\ncheck = ", i % 2 == 0));
        assert_eq!(proxy.reload(&changed).unwrap().changes.len(), if i == 0 { 0 } else { 7 }, "reload {i}");
        assert_eq!(marks(&proxy), before, "reload {i}");
        assert_eq!((waiting(&proxy, "paused"), waiting(&proxy, "full")), (3, 3), "reload {i}");
        let closed = proxy.get("/closed/echo");
        assert!(closed.status == 503 && closed.text().contains("Back at noon."), "{}", closed.text());
        assert_eq!(pinned.get("/sticky/echo").server(), "b");
        assert_ne!(proxy.get("/sticky/echo").server(), "b");
        assert_eq!(proxy.get("/ejected/echo").server(), "a");
    }
    let now = ends(&proxy);
    assert!(now.len() == 4 && now.iter().zip(&until).all(|(now, before)| now < before), "{now:?} after {until:?}");

    // Each ends as it would have ended.
    assert!(paused.paths().is_empty());
    serve(&proxy, "paused", &json!({ "service": "open" }));
    assert!(held.iter_mut().all(|conn| conn.answer().status == 200));
    serve(&proxy, "closed", &json!({ "service": "open" }));
    assert_eq!(proxy.get("/closed/echo").status, 200);
    full.release(usize::MAX);
    assert_eq!(runs.answer().status, 200);
    assert!(queued.iter_mut().all(|conn| conn.answer().status == 200));
    asks.store(false, Relaxed);
    eventually("x is back", || (proxy.server("asked", "x").admin == "ready").then_some(()));
    failing.store(false, Relaxed);
    proxy.change("ejected", "x", &json!({ "admin": "ready" }));
    eventually("x answers", || (proxy.get("/ejected/x").server() == "scripted").then_some(()));
    proxy.change("sticky", "b", &json!({ "admin": "ready" }));
    eventually("b takes new clients", || (proxy.get("/sticky/echo").server() == "b").then_some(()));
}

#[test]
fn a_trial_is_still_one_after_a_reload() {
    let origins = origins(2);
    let with = |attempts: u32| {
        format!(
            "cores = 1\n{}",
            table(
                "app",
                &format!(
                    "check = 'off'\nslow_start = 'off'\nretry = {{ attempts = 0, budget_floor = {attempts} }}\n\
                     outliers = {{ consecutive_failures = 5, failure_percent = 0, ejection = '200ms', max_ejection = '20m' }}"
                ),
                &servers("app", &origins)
            )
        )
    };
    let proxy = Proxy::start(&with(1));
    origins[1].behave(|b| b.status = Some(503));
    eventually("b is back from an ejection", || {
        if proxy.server("app", "b").on_trial {
            return Some(());
        }
        proxy.get("/app/echo");
        None
    });
    proxy.reload(&with(2)).unwrap();
    // It may have been asked once more before.
    let number = proxy.server("app", "b").ejection.map_or(2, |ejection| ejection.number);
    eventually("one failure ejects it again", || {
        proxy.get("/app/echo");
        proxy.server("app", "b").ejection.filter(|ejection| ejection.number >= number)
    });
    assert!(proxy.metric("evenkeel_server_ejections_total", &["server=\"b\"", "reason=\"trial\""]) >= 1.0);
    assert_eq!(proxy.metric("evenkeel_server_ejections_total", &["server=\"b\"", "reason=\"consecutive\""]), 1.0);
}
