//! Who gets the request, seen from outside.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use harness::{Client, Origin, Proxy, eventually, origins, upstream};

/// Behind a proxy that is believed, on one core.
const TRUSTING: &str = "cores = 1\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n";

fn counts(servers: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for server in servers {
        *counts.entry(server).or_insert(0) += 1;
    }
    counts
}

fn take(client: &mut Client, n: usize) -> Vec<String> {
    (0..n).map(|_| client.get("/").server().to_owned()).collect()
}

/// Origins with these weights, as one upstream.
fn weighted(policy: &str, origins: &[Origin], weights: &[u32]) -> String {
    let server = |(origin, weight): (&Origin, &u32)| {
        format!(
            "[[upstream.app.server]]\nname = \"{}\"\naddress = \"{}\"\nweight = {weight}\n",
            origin.name(),
            origin.address()
        )
    };
    let servers: String = origins.iter().zip(weights).map(server).collect();
    format!("{}{servers}", upstream("app", policy, "", &[]))
}

/// Where a client is sent by the address that a trusted proxy in front says it has.
fn server_of(client: &mut Client, forwarded_for: &str) -> String {
    client.send("GET", "/healthz", &[("x-forwarded-for", forwarded_for)], b"").server().to_owned()
}

fn addresses(n: u32) -> impl Iterator<Item = IpAddr> {
    (0..n).map(|i| IpAddr::V4(Ipv4Addr::from_bits(0x3B00_0000_u32.wrapping_add(i * 2_654_435))))
}

fn placed(client: &mut Client, n: u32) -> BTreeMap<IpAddr, String> {
    addresses(n).map(|a| (a, server_of(client, &a.to_string()))).collect()
}

#[test]
fn round_robin_takes_turns() {
    let origins = origins(3);
    let proxy = Proxy::start(&format!("cores = 1\n{}", harness::app("\"round_robin\"", &origins)));
    let taken = take(&mut proxy.client(), 30);
    for turn in taken.windows(3) {
        assert_eq!(turn.iter().collect::<BTreeSet<_>>().len(), 3, "{taken:?}");
    }
}

#[test]
fn round_robin_spreads_weights_smoothly() {
    let origins = origins(4);
    let config = weighted("\"round_robin\"", &origins, &[5, 1, 1, 0]);
    let proxy = Proxy::start(&format!("cores = 1\n{config}"));
    let taken = take(&mut proxy.client(), 35);
    for round in taken.windows(7) {
        let counts = counts(round.iter().cloned());
        assert_eq!(counts, [("a".into(), 5), ("b".into(), 1), ("c".into(), 1)].into(), "{taken:?}");
    }
    // Smooth: b and c never come one after the other, with five turns of a to put between them.
    assert!(taken.windows(2).all(|pair| pair.contains(&"a".to_owned())), "{taken:?}");
}

/// Cores that began at one place would all send their first request to the same server.
#[test]
fn cores_start_apart() {
    const CORES: usize = 4;
    let origins = origins(CORES);
    let config = upstream("app", "\"round_robin\"", "", &origins);
    for _ in 0..3 {
        let proxy = Proxy::start(&format!("cores = {CORES}\n{config}"));
        let mut first: BTreeMap<String, String> = BTreeMap::new();
        eventually("a connection on every core", || {
            let answer = proxy.get("/healthz");
            // Ids made by one core begin alike.
            let core = answer.header("x-request-id").unwrap()[..16].to_owned();
            first.entry(core).or_insert_with(|| answer.server().to_owned());
            (first.len() == CORES).then_some(())
        });
        assert_eq!(first.values().collect::<BTreeSet<_>>().len(), CORES, "{first:?}");
    }
}

#[test]
fn ip_hash_keeps_an_address_on_its_server() {
    let origins = origins(3);
    let proxy = Proxy::start(&upstream("app", "\"ip_hash\"", "", &origins));
    let mut used = BTreeMap::new();
    for i in 1..=40 {
        let source = Ipv4Addr::new(127, 0, i, 200 - i);
        let mut client = proxy.client().from(source);
        let server = client.get("/healthz").server().to_owned();
        for _ in 0..4 {
            client.hang_up();
            // What a stranger says of its address changes nothing.
            let lie = [("x-forwarded-for", format!("192.0.2.{i}"))];
            let lie: Vec<(&str, &str)> = lie.iter().map(|(n, v)| (*n, v.as_str())).collect();
            assert_eq!(client.send("GET", "/healthz", &lie, b"").server(), server);
        }
        *used.entry(server).or_insert(0) += 1;
    }
    assert_eq!(used.len(), 3, "{used:?}");
}

#[test]
fn ip_hash_takes_the_address_that_a_trusted_proxy_names() {
    let origins = origins(4);
    let proxy = Proxy::start(&format!("{TRUSTING}{}", upstream("app", "\"ip_hash\"", "", &origins)));
    let mut client = proxy.client();
    let placed = placed(&mut client, 200);
    assert_eq!(placed.values().collect::<BTreeSet<_>>().len(), 4);
    for (address, server) in placed.iter().take(40) {
        // Another peer, another proxy in between, and an address that the client made up.
        let mut other = proxy.client().from(Ipv4Addr::new(127, 9, 9, 9));
        assert_eq!(server_of(&mut other, &address.to_string()), *server);
        assert_eq!(server_of(&mut other, &format!("{address}, 10.1.2.3")), *server);
        assert_eq!(server_of(&mut other, &format!("198.51.100.7, {address}, 10.1.2.3")), *server);
    }
}

/// Replicas, restarts and another order of the servers agree.
#[test]
fn ip_hash_is_the_same_in_every_process() {
    let mut origins = origins(4);
    let first = Proxy::start(&format!("{TRUSTING}{}", upstream("app", "\"ip_hash\"", "", &origins)));
    let placed_first = placed(&mut first.client(), 100);
    origins.rotate_left(1);
    let second = Proxy::start(&format!("{TRUSTING}{}", upstream("app", "\"ip_hash\"", "", &origins)));
    assert_eq!(placed(&mut second.client(), 100), placed_first);
}

#[test]
fn ip_hash_takes_the_network_of_an_ipv6_address() {
    let origins = origins(4);
    let proxy = Proxy::start(&format!("{TRUSTING}{}", upstream("app", "\"ip_hash\"", "", &origins)));
    let mut client = proxy.client();
    let mut used = BTreeSet::new();
    for network in 0..60_u16 {
        let host = |host: u16| Ipv6Addr::new(0x2001, 0xdb8, 7, network, host, 0, host, 1).to_string();
        let server = server_of(&mut client, &host(1));
        assert_eq!(server_of(&mut client, &host(0xFFFF)), server);
        assert_eq!(server_of(&mut client, &format!("[{}]:4711", host(9))), server);
        used.insert(server);
    }
    assert_eq!(used.len(), 4);
    // An IPv4 address in the clothes of IPv6 is the IPv4 address.
    for address in addresses(20) {
        let plain = server_of(&mut client, &address.to_string());
        assert_eq!(server_of(&mut client, &format!("::ffff:{address}")), plain);
    }
}

#[test]
fn ip_hash_serves_ipv6_clients() {
    let origins = origins(3);
    let listener = "cores = 1\n[[listener]]\nname = \"main\"\nbind = \"[::1]:0\"\n";
    let proxy = Proxy::start(&format!("{listener}{}", upstream("app", "\"ip_hash\"", "", &origins)));
    let server = proxy.get("/healthz").server().to_owned();
    for _ in 0..10 {
        assert_eq!(proxy.get("/healthz").server(), server);
    }
}

#[test]
fn ip_hash_follows_weights() {
    let origins = origins(3);
    let proxy = Proxy::start(&format!("{TRUSTING}{}", weighted("\"ip_hash\"", &origins, &[3, 1, 0])));
    let placed = placed(&mut proxy.client(), 1200);
    let counts = counts(placed.into_values());
    // 900 are due; four standard deviations are 60.
    assert!((840..=960).contains(&counts["a"]), "{counts:?}");
    assert_eq!(counts.get("c"), None);
}

#[test]
fn ip_hash_moves_only_the_clients_of_the_server_that_goes() {
    let mut origins = origins(5);
    let fifth = origins.pop().unwrap();
    let config = |origins: &[Origin]| format!("{TRUSTING}{}", upstream("app", "\"ip_hash\"", "", origins));
    let proxy = Proxy::start(&config(&origins));
    let mut client = proxy.client();
    let before = placed(&mut client, 600);

    let gone = origins.remove(1);
    proxy.reload(&config(&origins)).unwrap();
    let without = placed(&mut client, 600);
    for (address, server) in &before {
        assert!(if server == "b" { without[address] != "b" } else { without[address] == *server }, "{address}");
    }
    let heirs: BTreeSet<_> = before.iter().filter(|(_, s)| *s == "b").map(|(a, _)| &without[a]).collect();
    assert_eq!(heirs.len(), 3, "its clients are spread");

    origins.insert(1, gone);
    proxy.reload(&config(&origins)).unwrap();
    assert_eq!(placed(&mut client, 600), before);

    origins.push(fifth);
    proxy.reload(&config(&origins)).unwrap();
    let with = placed(&mut client, 600);
    let moved: Vec<_> = before.iter().filter(|(address, server)| with[*address] != **server).collect();
    assert!(moved.iter().all(|(address, _)| with[*address] == "e"));
    // 120 are due; four standard deviations are 40.
    assert!((80..=160).contains(&moved.len()), "{} moved", moved.len());
}

#[test]
fn ip_hash_moves_only_the_clients_of_a_server_that_is_down_and_takes_them_back() {
    let mut origins = origins(3);
    // Failed connections alone take it out: no check runs.
    let proxy = Proxy::start(&format!("{TRUSTING}{}", upstream("app", "\"ip_hash\"", "", &origins)));
    let mut client = proxy.client();
    let before = placed(&mut client, 200);
    origins[0].stop();
    let during = placed(&mut client, 200);
    for (address, server) in &before {
        assert!(if server == "a" { during[address] != "a" } else { during[address] == *server }, "{address}");
    }
    eventually("it is found out", || (proxy.server("app", "a").operational == "unhealthy").then_some(()));
    assert_eq!(placed(&mut client, 200), during, "clients without a server stay where they went");
    origins[0].restart().unwrap();
    eventually("it is back", || (proxy.server("app", "a").operational == "healthy").then_some(()));
    assert_eq!(placed(&mut client, 200), before);
}

#[test]
fn least_requests_avoids_a_slow_server() {
    let origins = origins(3);
    origins[1].behave(|b| b.delay = Duration::from_millis(400));
    let proxy = Proxy::start(&format!("cores = 2\n{}", upstream("app", "\"least_requests\"", "", &origins)));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| take(&mut proxy.client(), 40));
        }
    });
    let slow = origins[1].requests().len();
    assert_eq!(origins.iter().map(|o| o.requests().len()).sum::<usize>(), 320);
    // A third is due without looking; a server that is picked only against another that is as busy
    // gets one now and then.
    assert!(slow < 50, "{slow} of 320");
}

#[test]
fn least_requests_sends_nothing_to_a_busy_server_while_another_is_idle() {
    let origins = origins(2);
    let proxy = Proxy::start(&format!("cores = 1\n{}", upstream("app", "\"least_requests\"", "", &origins)));
    let mut raw = proxy.raw();
    raw.send(b"GET /slow?ms=30000 HTTP/1.1\r\nhost: a\r\n\r\n");
    let busy = eventually("the slow request", || origins.iter().position(|o| !o.requests().is_empty()));
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.get("/").server(), origins[1 - busy].name());
    }
}

#[test]
fn least_requests_follows_weights() {
    let origins = origins(3);
    let proxy = Proxy::start(&format!("cores = 1\n{}", weighted("\"least_requests\"", &origins, &[3, 1, 0])));
    let counts = counts(take(&mut proxy.client(), 800));
    // 600 are due; five standard deviations are 61.
    assert!((539..=661).contains(&counts["a"]), "{counts:?}");
    assert_eq!(counts.get("c"), None);
}
