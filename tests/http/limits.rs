//! Limits of connections: in all, of one client, and of requests on one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::net::SocketAddr;

use evenkeel::lab::origin::Origin;
use evenkeel::proxy_protocol::{Header, encode_v2};
use harness::{Proxy, Raw, eventually, origins, upstream};

const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n";

fn proxy(listener: &str) -> (Proxy, Vec<Origin>) {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("{listener}\n{}", upstream("app", "\"round_robin\"", "", &origins)));
    (proxy, origins)
}

fn closed(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric("evenkeel_connections_closed_total", &[reason])
}

/// A connection that was served, or none if it was closed without an answer.
fn served(proxy: &Proxy, first: &[u8]) -> Option<Raw> {
    let mut raw = proxy.raw();
    // Refused, it may be gone before all of this is sent.
    let _ = raw.try_send(&[first, REQUEST].concat());
    raw.try_answer().ok().map(|answer| {
        assert_eq!(answer.status, 200);
        raw
    })
}

/// What a balancer says of a client.
fn from(client: &str) -> Vec<u8> {
    let source = SocketAddr::new(client.parse().unwrap(), 5000);
    encode_v2(&Header::Proxied { source, destination: "198.51.100.1:443".parse().unwrap() })
}

#[test]
fn connections_in_all_are_limited() {
    let (proxy, origins) = proxy("max_connections = 3");
    assert_eq!(proxy.metric("evenkeel_connections_max", &[]), 3.0);
    let mut open: Vec<Raw> = (0..3).map(|_| served(&proxy, b"").expect("room")).collect();
    for n in 1..=3 {
        assert!(served(&proxy, b"").is_none());
        assert_eq!(closed(&proxy, "full"), f64::from(n));
    }
    for raw in &mut open {
        raw.send(REQUEST);
        assert_eq!(raw.answer().status, 200, "those that are open are served on");
    }
    open.pop();
    open.push(eventually("room for another", || served(&proxy, b"")));

    let more = format!("max_connections = 4\n{}", upstream("app", "\"round_robin\"", "", &origins));
    assert_eq!(proxy.reload(&more).unwrap().changes, ["process: max_connections 3 → 4"]);
    open.push(eventually("the new limit", || served(&proxy, b"")));
    assert!(served(&proxy, b"").is_none());
}

#[test]
fn connections_of_one_client_are_limited() {
    let (proxy, _origins) = proxy(
        "cores = 2\nproxy_protocol = { from = [\"127.0.0.1\"] }\nmax_connections_per_client = 2\n\
         unlimited_clients = [\"203.0.113.0/24\"]\ntrusted_proxies = [\"198.51.100.0/24\"]",
    );
    for (client, same) in [("192.0.2.1", "::ffff:192.0.2.1"), ("2001:db8::1", "2001:db8::ffff:ffff:2")] {
        let refused = closed(&proxy, "client_limit");
        let first = served(&proxy, &from(client)).unwrap();
        let _second = served(&proxy, &from(same)).unwrap();
        // Whichever core accepts it.
        for n in 1..=6 {
            assert!(served(&proxy, &from(client)).is_none());
            assert_eq!(closed(&proxy, "client_limit"), refused + f64::from(n));
        }
        drop(first);
        eventually("room for another", || served(&proxy, &from(client)));
    }
    let _other = served(&proxy, &from("192.0.2.2")).expect("others have their own");
    let _another = served(&proxy, &from("2001:db8:0:1::1")).expect("another /64");
    for free in ["203.0.113.9", "198.51.100.9"] {
        let all: Vec<Raw> = (0..5).filter_map(|_| served(&proxy, &from(free))).collect();
        assert_eq!(all.len(), 5, "{free}");
    }
}

#[test]
fn this_machine_is_not_limited_unless_it_is_said() {
    let (open, _origins) = proxy("max_connections_per_client = 2");
    let all: Vec<Raw> = (0..5).filter_map(|_| served(&open, b"")).collect();
    assert_eq!(all.len(), 5);

    let (strict, _origins) = proxy("max_connections_per_client = 2\nunlimited_clients = []");
    let _both = [served(&strict, b"").unwrap(), served(&strict, b"").unwrap()];
    assert!(served(&strict, b"").is_none());
    let mut elsewhere = strict.client().from([127, 0, 0, 2]);
    assert_eq!(elsewhere.get("/echo").status, 200);
}

/// A header that names nobody leaves the balancer, which is counted as itself.
#[test]
fn what_comes_before_the_header_is_not_counted() {
    let (proxy, _origins) =
        proxy("proxy_protocol = { from = [\"127.0.0.1\"] }\nmax_connections_per_client = 1\nunlimited_clients = []");
    let _silent: Vec<Raw> = (0..4).map(|_| proxy.raw()).collect();
    let _one = served(&proxy, &from("192.0.2.1")).unwrap();
    let _own = served(&proxy, &encode_v2(&Header::Local)).unwrap();
    assert!(served(&proxy, &encode_v2(&Header::Local)).is_none());
}

#[test]
fn a_connection_ends_after_its_requests() {
    let (proxy, _origins) = proxy("max_requests_per_connection = 3");
    let mut raw = served(&proxy, b"").unwrap();
    raw.send(REQUEST);
    assert_eq!(raw.answer().header("connection"), None);
    eventually("the connection to be parked", || {
        (proxy.metric("evenkeel_connections_parked", &[]) == 1.0).then_some(())
    });
    // Two at once: the second is one too many.
    raw.send(&REQUEST.repeat(2));
    assert_eq!(raw.answer().header("connection"), Some("close"), "parking does not start the count anew");
    assert_eq!(raw.rest(), "");
}
