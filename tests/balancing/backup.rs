//! Servers that get new clients only where no other server can take them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;
use crate::shares::{shares, who};

use harness::{Origin, Proxy, eventually, origins, servers, upstream};
use serde_json::json;

const RR: &str = "\"round_robin\"";

/// The last `backups` of the origins are backups.
fn config(policy: &str, more: &str, origins: &[Origin], backups: usize) -> String {
    let (primaries, spare) = origins.split_at(origins.len() - backups);
    let keys = format!("cookie_keys = [\"a key for this test\"]\n{more}");
    let tables = servers("app", spare).replace("[[upstream.app.server]]\n", "[[upstream.app.server]]\nbackup = true\n");
    format!("cores = 1\n{}{tables}", upstream("app", policy, &keys, primaries))
}

fn set(proxy: &Proxy, server: &str, admin: &str) {
    proxy.change("app", server, &json!({ "admin": admin }));
}

#[test]
fn backups_come_in_when_every_other_server_is_out_and_go_when_one_is_back() {
    let origins = origins(4);
    let proxy = Proxy::start(&config(RR, "", &origins, 2));
    assert_eq!(who(&proxy, 8), shares(&[("a", 4), ("b", 4)]));
    set(&proxy, "a", "disabled");
    assert_eq!(who(&proxy, 4), shares(&[("b", 4)]));
    set(&proxy, "b", "disabled");
    assert_eq!(who(&proxy, 8), shares(&[("c", 4), ("d", 4)]));
    assert!(!proxy.status().upstreams[0].failing_open);
    set(&proxy, "a", "ready");
    assert_eq!(who(&proxy, 4), shares(&[("a", 4)]));
    assert!(proxy.server("app", "c").backup && !proxy.server("app", "a").backup);
    assert_eq!(proxy.metric("evenkeel_server_backup", &[]), 2.0);
}

#[test]
fn every_policy_knows_of_backups() {
    for policy in [
        RR,
        "\"least_requests\"",
        "\"ip_hash\"",
        "\"sticky_cookie\"",
        "{ sticky_cookie = { new_clients = \"ip_hash\" } }",
    ] {
        let origins = origins(3);
        let proxy = Proxy::start(&config(policy, "", &origins, 1));
        assert!(!who(&proxy, 20).contains_key("c"), "{policy}");
        set(&proxy, "a", "disabled");
        assert_eq!(who(&proxy, 5), shares(&[("b", 5)]), "{policy}");
        set(&proxy, "b", "disabled");
        assert_eq!(who(&proxy, 5), shares(&[("c", 5)]), "{policy}");
        set(&proxy, "b", "ready");
        assert_eq!(who(&proxy, 5), shares(&[("b", 5)]), "{policy}");
    }
}

#[test]
fn a_request_that_failed_on_every_other_server_goes_to_a_backup_at_once() {
    let origins = origins(3);
    let more = "outliers = false\nretry = { attempts = 2, budget_percent = 100, budget_floor = 1000 }\n";
    let proxy = Proxy::start(&config(RR, more, &origins, 1));
    origins[0].behave(|b| b.hang_up = true);
    assert_eq!(who(&proxy, 6), shares(&[("b", 6)]), "another one that is no backup comes first");
    origins[1].behave(|b| b.hang_up = true);
    assert_eq!(who(&proxy, 6), shares(&[("c", 6)]));
}

#[test]
fn an_ejected_server_leaves_its_clients_to_the_backup() {
    let origins = origins(2);
    let proxy =
        Proxy::start(&config(RR, "outliers = { consecutive_failures = 2 }\nretry = { attempts = 0 }\n", &origins, 1));
    origins[0].behave(|b| b.status = Some(503));
    eventually("a is ejected", || {
        proxy.get("/echo");
        (proxy.server("app", "a").operational == "ejected").then_some(())
    });
    assert_eq!(who(&proxy, 5), shares(&[("b", 5)]));
}

#[test]
fn sessions_that_a_backup_has_stay_there() {
    let origins = origins(2);
    let proxy = Proxy::start(&config("\"sticky_cookie\"", "", &origins, 1));
    set(&proxy, "a", "disabled");
    let mut client = proxy.pinned_to("b");
    set(&proxy, "a", "ready");
    assert_eq!(who(&proxy, 5), shares(&[("a", 5)]));
    assert_eq!(client.get("/echo").server(), "b");
}

#[test]
fn a_full_server_is_waited_for() {
    let origins = origins(2);
    origins[0].behave(|b| b.delay = std::time::Duration::from_millis(100));
    let proxy = Proxy::start(&config(RR, "max_requests = 1\n", &origins, 1));
    std::thread::scope(|scope| {
        let ask = || {
            let answer = proxy.get("/echo");
            (answer.status, answer.server().to_owned())
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        for client in clients {
            assert_eq!(client.join().unwrap(), (200, "a".to_owned()));
        }
    });
    set(&proxy, "a", "disabled");
    assert_eq!(who(&proxy, 3), shares(&[("b", 3)]));
}

#[test]
fn a_reload_makes_a_backup_of_a_server_and_the_other_way_round() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(RR, "", &origins, 1));
    assert_eq!(who(&proxy, 4), shares(&[("a", 4)]));
    let reloaded = proxy.reload(&config(RR, "", &origins, 0)).unwrap();
    assert_eq!(reloaded.changes, ["upstream app: server b: backup true → false"]);
    assert_eq!(who(&proxy, 4), shares(&[("a", 2), ("b", 2)]));
    proxy.reload(&config(RR, "", &origins, 1)).unwrap();
    assert_eq!(who(&proxy, 4), shares(&[("a", 4)]));
}
