//! Which connection to a server a request goes over.

use crate::harness;

use std::time::Duration;

use harness::{Origin, Proxy, eventually, origins, upstream};

/// One core, so one pool; one server that is not checked, so every connection is a request's.
fn proxy(pool: &str, origins: &[Origin]) -> Proxy {
    let more = format!("pool = {{ {pool} }}");
    Proxy::start(&format!("cores = 1\n{}", upstream("app", "\"round_robin\"", &more, origins)))
}

/// The connections that the origin was asked on, in order.
fn connections(origin: &Origin) -> Vec<u64> {
    origin.requests().iter().map(|served| served.connection).collect()
}

fn ask(proxy: &Proxy, times: usize) {
    let mut client = proxy.client();
    for _ in 0..times {
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn a_connection_is_used_again() {
    let origins = origins(1);
    ask(&proxy("max_idle = 4", &origins), 4);
    assert_eq!(connections(&origins[0]), [1, 1, 1, 1]);
}

#[test]
fn a_connection_carries_no_more_requests_than_it_may() {
    let origins = origins(1);
    ask(&proxy("max_requests = 2", &origins), 5);
    assert_eq!(connections(&origins[0]), [1, 1, 2, 2, 3]);
}

#[test]
fn without_room_for_idle_connections_none_is_kept() {
    let origins = origins(1);
    ask(&proxy("max_idle = 0", &origins), 3);
    assert_eq!(connections(&origins[0]), [1, 2, 3]);
}

#[test]
fn a_connection_grows_no_older_than_it_may() {
    let origins = origins(1);
    let proxy = proxy("max_age = \"2s\", idle_timeout = \"1m\"", &origins);
    ask(&proxy, 2);
    assert_eq!(connections(&origins[0]), [1, 1]);
    // Kept busy, so that it is its age that ends it.
    eventually("a younger connection", || {
        ask(&proxy, 1);
        (connections(&origins[0]).last() > Some(&1)).then_some(())
    });
}

#[test]
fn a_connection_is_idle_no_longer_than_it_may() {
    let origins = origins(1);
    let proxy = proxy("idle_timeout = \"2s\"", &origins);
    ask(&proxy, 1);
    assert_eq!(proxy.metric("evenkeel_server_idle_connections", &[]), 1.0);
    eventually("it is closed", || {
        (proxy.metric("evenkeel_server_idle_connections", &[]) == 0.0 && origins[0].connections() == 0).then_some(())
    });
    ask(&proxy, 1);
    assert_eq!(connections(&origins[0]), [1, 2]);
}

#[test]
fn the_newest_idle_connection_is_used_first() {
    let origins = origins(1);
    let proxy = proxy("max_idle = 8", &origins);
    origins[0].behave(|b| b.delay = Duration::from_millis(200));
    // Two at once need two connections.
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ask(&proxy, 1));
        ask(&proxy, 1);
        assert!(first.join().is_ok());
    });
    origins[0].behave(|b| b.delay = Duration::ZERO);
    ask(&proxy, 3);
    let used = connections(&origins[0]);
    assert_eq!(used[2..], [used[2]; 3], "the same one, while the other grows old: {used:?}");
    assert_eq!(proxy.metric("evenkeel_server_idle_connections", &[]), 2.0);
}
