//! Policies beside those of `balancing.rs`, seen from outside: by a key, by latency, with a bound, one after
//! the other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use harness::{Client, Held, Proxy, Raw, eventually, origins, upstream};

/// Behind a proxy that is believed, on one core.
const TRUSTING: &str = "cores = 1\ntrusted_proxies = [\"127.0.0.0/8\"]\n";

fn sent(client: &mut Client, path: &str, headers: &[(&str, &str)]) -> String {
    client.send("GET", path, headers, b"").server().to_owned()
}

fn by(what: &str) -> String {
    format!("{{ hash = {{ by = {what} }} }}")
}

#[test]
fn a_room_has_one_server_whoever_asks() {
    for (what, request) in [
        ("{ header = \"X-Room\" }", 0),
        ("{ query = \"room\" }", 1),
        ("{ cookie = \"room\" }", 2),
        ("{ path_segment = 2 }", 3),
    ] {
        let origins = origins(4);
        let proxy = Proxy::start(&format!("{TRUSTING}{}", upstream("app", &by(what), "", &origins)));
        let mut client = proxy.client();
        let mut home = |room: usize, from: &str| {
            let (room, from) = (room.to_string(), ("x-forwarded-for", from));
            let cookie = format!("a=b; room={room}");
            match request {
                0 => sent(&mut client, "/healthz", &[from, ("x-room", &room)]),
                1 => sent(&mut client, &format!("/healthz?a=1&room={room}"), &[from]),
                2 => sent(&mut client, "/healthz", &[from, ("cookie", &cookie)]),
                _ => sent(&mut client, &format!("/rooms/{room}/enter"), &[from]),
            }
        };
        let homes: Vec<String> = (0..40).map(|room| home(room, "10.0.0.1")).collect();
        assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), 4, "{what}: {homes:?}");
        for (room, server) in homes.iter().enumerate() {
            assert_eq!(home(room, &format!("10.9.8.{room}")), *server, "{what}");
        }
    }
}

#[test]
fn a_path_has_one_server_and_its_query_does_not_count() {
    let origins = origins(4);
    let proxy = Proxy::start(&format!("{TRUSTING}{}", upstream("app", "\"hash\"", "", &origins)));
    let mut client = proxy.client();
    let mut homes = BTreeSet::new();
    for picture in 0..40 {
        let home = sent(&mut client, &format!("/healthz/{picture}"), &[]);
        assert_eq!(sent(&mut client, &format!("/healthz/{picture}?size=2"), &[("x-forwarded-for", "10.1.1.1")]), home);
        homes.insert(home);
    }
    assert_eq!(homes.len(), 4);
}

/// Requests without the key are not one client's: they go by their addresses.
#[test]
fn without_its_key_a_request_goes_by_its_address() {
    let origins = origins(4);
    let proxy = Proxy::start(&format!("{TRUSTING}{}", upstream("app", &by("{ header = \"x-room\" }"), "", &origins)));
    let mut client = proxy.client();
    let home = |client: &mut Client, n: usize| sent(client, "/healthz", &[("x-forwarded-for", &format!("10.0.0.{n}"))]);
    let homes: Vec<String> = (0..40).map(|n| home(&mut client, n)).collect();
    assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), 4);
    assert!((0..40).all(|n| home(&mut client, n) == homes[n]));
}

#[test]
fn new_clients_of_a_sticky_upstream_may_be_placed_by_a_key() {
    let origins = origins(4);
    let policy = "{ sticky_cookie = { new_clients = { hash = { by = { header = \"x-room\" } } } } }";
    let proxy = Proxy::start(&format!("cores = 1\n{}", upstream("app", policy, "", &origins)));
    let enter = || proxy.client().send("GET", "/healthz", &[("x-room", "42")], b"");
    let first = enter();
    assert!((0..20).all(|_| enter().server() == first.server()));
    let cookie = first.cookie("evenkeel").unwrap();
    let mut rooms = (0..40).map(|room| {
        let headers = [("cookie", &*cookie), ("x-room", &room.to_string())];
        proxy.client().send("GET", "/healthz", &headers, b"").server().to_owned()
    });
    assert!(rooms.all(|server| server == first.server()), "a pin goes before the key");
}

fn in_flight(proxy: &Proxy) -> BTreeMap<String, u32> {
    proxy.status().upstreams[0].servers.iter().map(|s| (s.name.clone(), s.in_flight)).collect()
}

/// Servers that keep requests, and their tables.
fn held(names: &[&'static str]) -> (Vec<Held>, String) {
    let servers: Vec<Held> = names.iter().map(|name| Held::start(name)).collect();
    let table = |(name, held): (&&str, &Held)| {
        format!("[[upstream.app.server]]\nname = \"{name}\"\naddress = \"{}\"\n", held.address())
    };
    let tables = names.iter().zip(&servers).map(table).collect();
    (servers, tables)
}

/// An office of forty behind one address, all of whom wait for an answer at once.
fn office(policy: &str) -> BTreeMap<String, u32> {
    let (_servers, table) = held(&["a", "b", "c", "d"]);
    let proxy = Proxy::start(&format!("cores = 1\n[upstream.app]\ncheck = \"off\"\npolicy = {policy}\n{table}"));
    let clients: Vec<Raw> = (0..40)
        .map(|n| {
            let mut conn = proxy.raw();
            conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            eventually("it is on its way", || (in_flight(&proxy).values().sum::<u32>() == n + 1).then_some(()));
            conn
        })
        .collect();
    let counts = in_flight(&proxy);
    drop(clients);
    counts
}

#[test]
fn a_bound_spreads_an_office_behind_one_address() {
    let free = office("\"ip_hash\"");
    assert_eq!(free.values().filter(|n| **n > 0).count(), 1, "{free:?}");
    // Each may have ⌈1.25 · 40 / 4⌉ of them.
    let bounded = office("{ ip_hash = { max_load = 1.25 } }");
    assert!(bounded.values().all(|n| *n <= 13), "{bounded:?}");
    let by_key = office("{ hash = { by = { header = \"x-room\" }, max_load = 1.25 } }");
    assert!(by_key.values().all(|n| *n <= 13), "{by_key:?}");
}

#[test]
fn peak_ewma_goes_where_answers_are_quick() {
    let origins = origins(3);
    origins[1].behave(|b| b.delay = Duration::from_secs(1));
    let proxy = Proxy::start(&format!("cores = 2\n{}", upstream("app", "\"peak_ewma\"", "", &origins)));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = proxy.client();
                (0..50).for_each(|_| assert_eq!(client.get("/").status, 200));
            });
        }
    });
    let slow = origins[1].requests().len();
    assert!(slow < 20, "{slow} of 200 to the slow one");
    // Once it is quick again it is found out: what is remembered of it fades.
    assert!(origins[0].requests().len() > 20 && origins[2].requests().len() > 20, "both quick ones are used");
}

#[test]
fn what_was_slow_is_forgotten() {
    let origins = origins(2);
    origins[1].behave(|b| b.delay = Duration::from_millis(300));
    let policy = "{ peak_ewma = { decay = \"100ms\" } }";
    let proxy = Proxy::start(&format!("cores = 1\n{}", upstream("app", policy, "", &origins)));
    let mut client = proxy.client();
    eventually("the slow one has answered", || {
        client.get("/");
        (!origins[1].requests().is_empty()).then_some(())
    });
    origins[1].behave(|b| b.delay = Duration::ZERO);
    let before = origins[1].requests().len();
    eventually("it is used again", || {
        client.get("/");
        (origins[1].requests().len() > before + 20).then_some(())
    });
}

#[test]
fn random_two_avoids_a_slow_server() {
    let origins = origins(3);
    origins[1].behave(|b| b.delay = Duration::from_millis(400));
    let proxy = Proxy::start(&format!("cores = 2\n{}", upstream("app", "\"random_two\"", "", &origins)));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..40).for_each(|_| drop(proxy.client().get("/"))));
        }
    });
    let slow = origins[1].requests().len();
    // A third is due without looking.
    assert!(slow < 60, "{slow} of 320");
}

#[test]
fn first_uses_the_next_server_when_one_is_full() {
    let (_servers, table) = held(&["a", "b", "c"]);
    let config = format!("cores = 1\n[upstream.app]\ncheck = \"off\"\npolicy = \"first\"\nmax_requests = 2\n{table}");
    let proxy = Proxy::start(&config);
    let mut clients = Vec::new();
    for expected in [[1, 0, 0], [2, 0, 0], [2, 1, 0], [2, 2, 0], [2, 2, 1]] {
        let mut conn = proxy.raw();
        conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        clients.push(conn);
        eventually("it is on its way", || {
            (in_flight(&proxy).into_values().collect::<Vec<_>>() == expected).then_some(())
        });
    }
}

/// Over two cores, which share what they know of clients, and connections that come and go.
#[test]
fn who_is_shuffled_never_meets_the_server_of_the_last_request() {
    let origins = origins(3);
    let trusting = TRUSTING.replace("cores = 1", "cores = 2");
    let by_cookie = "{ shuffle = { by = { cookie = \"user\" } } }";
    for policy in ["\"shuffle\"", by_cookie] {
        let proxy = Proxy::start(&format!("{trusting}{}", upstream("app", policy, "", &origins)));
        let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
        let mut last = vec![String::new(); 10];
        let mut seen = BTreeSet::new();
        for turn in 0..200 {
            let user = turn * 3 % 10;
            let (address, cookie) = (format!("10.0.0.{user}"), format!("a=b; user={user}"));
            let header = if policy == by_cookie { ("cookie", &*cookie) } else { ("x-forwarded-for", &*address) };
            let server = sent(&mut clients[turn % 4], "/healthz", &[header]);
            assert_ne!(server, last[user], "{policy}: user {user}");
            last[user].clone_from(&server);
            seen.insert(server);
        }
        assert_eq!(seen.len(), 3, "{policy}");
        // The only server that is left is better than none.
        for name in ["a", "b"] {
            proxy.change("app", name, &serde_json::json!({ "admin": "disabled" }));
        }
        for _ in 0..3 {
            assert_eq!(sent(&mut clients[0], "/healthz", &[]), "c");
        }
    }
}
