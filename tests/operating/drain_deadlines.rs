//! When a drain ends: with the last request or session, at its deadlines, by order; and `drain --wait`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::drain::{admin, becomes, ended, in_flight, on, plain, set, sticky, takes_new, takes_nobody_new};
use crate::harness;

use std::time::{Duration, Instant};

use harness::{Fake, Origin, Process, Proxy, Raw, eventually, origins, unchecked};
use serde_json::json;

/// A request whose answer does not come while a test lasts.
fn stuck(proxy: &Proxy, origin: &Origin) -> Raw {
    on(proxy, origin, None, "GET /slow?ms=60000", "\r\n")
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
        assert!(answer.text().contains("is being taken out of service"), "{}", answer.text());
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
