//! Servers that are host names: resolved as DNS says, all addresses used, kept while DNS fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::{NameServer, Origin, Proxy, eventually, local};

/// Origins on one port at `127.0.0.first`, `127.0.0.first + 1`, … named `o1`, `o2`, …
fn at_one_port(first: u8, count: u8) -> (u16, Vec<Origin>) {
    'port: loop {
        let one = Origin::start_at(SocketAddr::from((local(first), 0)), "o1").unwrap();
        let port = one.address().port();
        let mut all = vec![one];
        for i in 1..count {
            match Origin::start_at(SocketAddr::from((local(first + i), port)), &format!("o{}", i + 1)) {
                Ok(origin) => all.push(origin),
                // Somebody else has that port at that address.
                Err(_) => continue 'port,
            }
        }
        return (port, all);
    }
}

/// A proxy whose only server is a name, and that keeps no connection, so that each request resolves.
fn proxy(dns: &NameServer, port: u16, ttls: &str, more: &str) -> Proxy {
    Proxy::start(&format!(
        "cores = 1\n{}[upstream.app]\ncheck = \"off\"\npool = {{ max_idle = 0 }}\n{more}\n\
         servers = [\"app.test:{port}\"]\n",
        dns.toml(ttls)
    ))
}

fn who(proxy: &Proxy) -> String {
    proxy.get("/echo").server().to_owned()
}

#[test]
fn an_answer_is_believed_for_its_ttl_and_no_longer() {
    let (port, _origins) = at_one_port(11, 2);
    let dns = NameServer::start(&[local(11)], 2);
    let began = Instant::now();
    let proxy = proxy(&dns, port, "", "");
    assert_eq!(who(&proxy), "o1");
    dns.knows(&[local(12)], 3600);
    eventually("the other address", || {
        let server = who(&proxy);
        // Asked for before the answer could be old.
        assert!(server == "o1" || began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
        (server == "o2").then_some(())
    });
    let asked = dns.queries();
    dns.knows(&[local(11)], 1);
    // Longer than the first answer held, and than this one would.
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        assert_eq!(who(&proxy), "o2");
    }
    assert_eq!(dns.queries(), asked, "an answer with a long TTL is not asked for again");
}

#[test]
fn a_ttl_has_the_bounds_that_were_configured() {
    let (port, _origins) = at_one_port(21, 2);
    // Without a TTL of its own, an answer is good for the shortest time.
    let dns = NameServer::start(&[local(21)], 0);
    let short = proxy(&dns, port, "min_ttl = \"100ms\"", "");
    assert_eq!(who(&short), "o1");
    dns.knows(&[local(22)], 0);
    eventually("the other address", || (who(&short) == "o2").then_some(()));
    drop(short);
    let dns = NameServer::start(&[local(21)], 3600);
    let long = proxy(&dns, port, "min_ttl = \"100ms\"\nmax_ttl = \"200ms\"", "");
    assert_eq!(who(&long), "o1");
    dns.knows(&[local(22)], 3600);
    eventually("the other address", || (who(&long) == "o2").then_some(()));
}

#[test]
fn addresses_are_kept_while_dns_fails() {
    let (port, _origins) = at_one_port(31, 2);
    let dns = NameServer::start(&[local(31)], 0);
    let proxy = proxy(&dns, port, "min_ttl = \"50ms\"", "");
    for fail in [NameServer::fails, NameServer::forgets] {
        dns.knows(&[local(31)], 0);
        eventually("the address", || (who(&proxy) == "o1").then_some(()));
        fail(&dns);
        let asked = dns.queries();
        eventually("several failures", || {
            assert_eq!(who(&proxy), "o1");
            (dns.queries() >= asked + 4).then_some(())
        });
        assert_eq!(who(&proxy), "o1");
        assert_eq!(proxy.status().upstreams[0].servers[0].operational, "healthy");
        dns.knows(&[local(32)], 0);
        eventually("the new address", || (who(&proxy) == "o2").then_some(()));
    }
}

#[test]
fn all_addresses_of_a_name_are_used() {
    let (port, _origins) = at_one_port(41, 4);
    let dns = NameServer::start(&[local(41), local(42), local(43), local(44)], 60);
    let proxy = proxy(&dns, port, "", "");
    let seen: BTreeSet<String> = (0..8).map(|_| who(&proxy)).collect();
    assert_eq!(seen.len(), 4, "{seen:?}");
}

/// One address of three takes no connection. Only the requests whose turn it is wait, and only for its
/// share of the time; none fails.
#[test]
fn a_silent_address_leaves_time_for_the_others() {
    let (port, _origins) = at_one_port(51, 2);
    let (_full, _queue) = harness::full_backlog_at(SocketAddr::from((local(53), port)));
    let dns = NameServer::start(&[local(53), local(51), local(52)], 60);
    let proxy = proxy(&dns, port, "", "timeouts = { connect = \"3s\" }");
    let mut waited = Duration::ZERO;
    let mut seen = BTreeSet::new();
    for _ in 0..6 {
        let began = Instant::now();
        let answer = proxy.client().post("/sink", b"x");
        assert_eq!(answer.status, 200, "{}", answer.text());
        seen.insert(answer.server().to_owned());
        waited = waited.max(began.elapsed());
    }
    assert_eq!(seen.len(), 2, "the addresses that answer take turns");
    assert!(waited >= Duration::from_millis(900), "it was tried: {waited:?}");
    assert!(waited < Duration::from_millis(2800), "it had a share of the time: {waited:?}");
    assert_eq!(proxy.metric("evenkeel_errors_total", &[]), 0.0);
    assert_eq!(proxy.server("app", &format!("app.test:{port}")).operational, "healthy");
}

/// The same with one that refuses.
#[test]
fn a_refusing_address_costs_nothing() {
    let (port, _origins) = at_one_port(61, 1);
    let dns = NameServer::start(&[local(63), local(61)], 60);
    let proxy = proxy(&dns, port, "", "");
    for _ in 0..4 {
        assert_eq!(proxy.client().post("/sink", b"x").status, 200);
    }
    assert_eq!(proxy.metric("evenkeel_server_connect_failures_total", &[]), 0.0, "the server was reached");
}

/// A name that DNS does not know at the start is a server that is down, until it is known.
#[test]
fn a_name_that_becomes_known_comes_into_service() {
    let (port, _origins) = at_one_port(71, 1);
    let dns = NameServer::start(&[], 0);
    dns.forgets();
    let proxy = proxy(&dns, port, "min_ttl = \"50ms\"", "");
    let answer = proxy.get("/echo");
    assert!(matches!(answer.status, 502 | 503), "{}", answer.status);
    dns.knows(&[local(71)], 1);
    eventually("it is served", || (proxy.get("/echo").status == 200).then_some(()));
}
