//! Servers that are ejected for what live traffic shows of them, and come back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;
use crate::shares::who;

use harness::{Fake, Origin, Proxy, Refusing, eventually, origins, read_head, upstream};
use serde_json::json;

const RR: &str = "\"round_robin\"";

/// One core, so that servers are met in turn; nobody is retried, so that every failure is seen.
fn config(outliers: &str, more: &str, origins: &[Origin]) -> String {
    let keys = format!("outliers = {outliers}\nretry = {{ attempts = 0 }}\n{more}");
    format!("cores = 1\n{}", upstream("app", RR, &keys, origins))
}

fn state(proxy: &Proxy, server: &str) -> String {
    proxy.server("app", server).operational
}

fn is_ejected(proxy: &Proxy, server: &str) -> bool {
    state(proxy, server) == "ejected"
}

fn ejections(proxy: &Proxy, server: &str, reason: &str) -> f64 {
    let labels = [format!("server=\"{server}\""), format!("reason=\"{reason}\"")];
    proxy.metric("evenkeel_server_ejections_total", &[&labels[0], &labels[1]])
}

/// Asks until that server is ejected.
#[track_caller]
fn ask_until_ejected(proxy: &Proxy, server: &str) {
    eventually(&format!("{server} is ejected"), || {
        proxy.get("/echo");
        is_ejected(proxy, server).then_some(())
    });
}

#[test]
fn failures_in_a_row_eject_a_server_that_its_checks_find_healthy() {
    let origins = origins(3);
    let check = "check = { http = { path = \"/healthz\", interval = \"50ms\", timeout = \"5s\" } }";
    let proxy = Proxy::start(&config("true", check, &origins));
    origins[1].behave(|b| b.status = Some(503));
    let statuses: Vec<u16> = (0..12).map(|_| proxy.get("/echo").status).collect();
    // Each third request is b's: five of them fail at most, whichever server comes first.
    assert_eq!(statuses.iter().filter(|s| **s == 503).count(), 4, "{statuses:?}");
    assert!(!is_ejected(&proxy, "b"), "four in a row are not enough");
    ask_until_ejected(&proxy, "b");
    assert_eq!(who(&proxy, 20), [("a".to_owned(), 10), ("c".to_owned(), 10)].into());

    let server = proxy.server("app", "b");
    let ejection = server.ejection.unwrap();
    assert!(ejection.reason.ends_with(" failures in a row") && ejection.number == 1, "{ejection:?}");
    assert!(ejection.ends_within_seconds > 10.0 && ejection.ends_within_seconds <= 33.0, "{ejection:?}");
    assert_eq!(ejections(&proxy, "b", "consecutive"), 1.0);
    assert_eq!(ejections(&proxy, "b", "rate"), 0.0);
    assert!(proxy.metric("evenkeel_server_faults_total", &["server=\"b\""]) >= 5.0);
    assert_eq!(proxy.metric("evenkeel_server_state", &["server=\"b\"", "state=\"ejected\""]), 1.0);
    assert!(!proxy.status().upstreams[0].failing_open);
}

#[test]
fn a_success_in_between_begins_the_row_anew() {
    let origins = origins(2);
    let proxy = Proxy::start(&config("{ failure_percent = 0 }", "", &origins));
    let ask_b = |status: Option<u16>, times: usize| {
        origins[1].behave(|b| b.status = status);
        (0..2 * times).for_each(|_| drop(proxy.get("/echo")));
    };
    for _ in 0..3 {
        ask_b(Some(502), 4);
        ask_b(None, 1);
    }
    assert_eq!(proxy.metric("evenkeel_server_faults_total", &["server=\"b\""]), 12.0);
    ask_b(Some(500), 10);
    assert_eq!(state(&proxy, "b"), "healthy", "500 is not listed");
    ask_b(Some(502), 5);
    eventually("b is ejected", || is_ejected(&proxy, "b").then_some(()));
}

#[test]
fn a_share_of_failures_ejects() {
    let origins = origins(2);
    // Every second request of b fails: never two in a row.
    let fake = Fake::answering(|_, _, head| {
        let number: usize = head.split_whitespace().nth(1)?.strip_prefix("/n/")?.parse().ok()?;
        let status = if number % 4 < 2 { 504 } else { 200 };
        Some(harness::answer(status, "x"))
    });
    let table = format!("[[upstream.app.server]]\nname = \"f\"\naddress = \"{}\"\n", fake.address());
    let outliers = "{ consecutive_failures = 3, min_requests = 20, failure_percent = 40, window = \"60s\" }";
    let proxy = Proxy::start(&format!("{}{table}", config(outliers, "", &origins[..1])));
    let mut number = 0;
    let mut ask = || {
        number += 1;
        // The first server is a, which knows no such path and says so.
        proxy.get(&format!("/n/{number}"));
    };
    (0..20).for_each(|_| ask());
    assert_eq!(state(&proxy, "f"), "healthy", "too few requests to tell");
    eventually("f is ejected", || {
        ask();
        is_ejected(&proxy, "f").then_some(())
    });
    assert_eq!(ejections(&proxy, "f", "rate"), 1.0);
    let reason = proxy.server("app", "f").ejection.unwrap().reason;
    assert!(reason.ends_with("requests failed"), "{reason}");
}

#[test]
fn connections_that_fail_and_answers_that_never_begin_count() {
    let origins = origins(1);
    let hangs_up = Fake::start(|_, mut conn| drop(read_head(&mut conn)));
    let silent = Fake::start(|_, mut conn| while !read_head(&mut conn).is_empty() {});
    let refusing = Refusing::new();
    let others = [("hangs_up", hangs_up.address()), ("silent", silent.address()), ("refuses", refusing.address)];
    for (name, address) in others {
        let table = format!("[[upstream.app.server]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        let more = "timeouts = { first_byte = \"2s\" }\n";
        // Three failed connections would count as failed checks.
        let proxy = Proxy::start(&format!("{}{table}", config("{ consecutive_failures = 2 }", more, &origins)));
        ask_until_ejected(&proxy, name);
        assert_eq!(who(&proxy, 4), [("a".to_owned(), 4)].into());
        assert!(proxy.metric("evenkeel_server_faults_total", &[&format!("server=\"{name}\"")]) >= 2.0);
    }
}

#[test]
fn an_ejected_server_returns_by_itself_and_a_further_ejection_is_longer() {
    let origins = origins(2);
    let outliers = "{ consecutive_failures = 2, ejection = \"300ms\", max_ejection = \"10m\" }";
    let proxy = Proxy::start(&config(outliers, "", &origins));
    origins[1].behave(|b| b.status = Some(503));
    ask_until_ejected(&proxy, "b");
    eventually("b returns", || (state(&proxy, "b") == "healthy").then_some(()));
    assert_eq!(proxy.server("app", "b").ejection, None);
    eventually("a further ejection", || {
        proxy.get("/echo");
        proxy.server("app", "b").ejection.filter(|e| e.number > 1)
    });
    origins[1].behave(|b| b.status = None);
    eventually("b returns for good", || (state(&proxy, "b") == "healthy").then_some(()));
    assert_eq!(who(&proxy, 10), [("a".to_owned(), 5), ("b".to_owned(), 5)].into());
    assert!(proxy.metric("evenkeel_server_ejections_total", &["server=\"b\""]) >= 2.0);
}

#[test]
fn a_server_that_is_back_is_ejected_by_its_first_failure() {
    let origins = origins(2);
    let outliers = "{ consecutive_failures = 4, ejection = \"1s\", max_ejection = \"10m\", trial_requests = 3 }";
    let proxy = Proxy::start(&config(outliers, "", &origins));
    let faults = || proxy.metric("evenkeel_server_faults_total", &["server=\"b\""]);
    origins[1].behave(|b| b.status = Some(503));
    ask_until_ejected(&proxy, "b");
    eventually("b returns", || proxy.server("app", "b").on_trial.then_some(()));
    let before = faults();
    ask_until_ejected(&proxy, "b");
    assert!(faults() - before < 4.0, "fewer than it takes in a row");
    assert_eq!(ejections(&proxy, "b", "trial"), 1.0);
    let ejection = proxy.server("app", "b").ejection.unwrap();
    assert_eq!((ejection.number, ejection.reason.as_str()), (2, "a failure right after its return"));
    // Three successes end the trial.
    origins[1].behave(|b| b.status = None);
    eventually("b returns again", || proxy.server("app", "b").on_trial.then_some(()));
    assert_eq!(who(&proxy, 6), [("a".to_owned(), 3), ("b".to_owned(), 3)].into());
    eventually("its trial is over", || (!proxy.server("app", "b").on_trial).then_some(()));
    origins[1].behave(|b| b.status = Some(503));
    (0..6).for_each(|_| drop(proxy.get("/echo")));
    assert_eq!(state(&proxy, "b"), "healthy", "three in a row are not four");
}

#[test]
fn no_more_than_half_are_ejected_and_nobody_where_all_fail() {
    let origins = origins(4);
    let proxy = Proxy::start(&config("{ consecutive_failures = 2 }", "", &origins));
    let ejected = || ["a", "b", "c", "d"].into_iter().filter(|s| is_ejected(&proxy, s)).count();
    for origin in &origins {
        origin.behave(|b| b.status = Some(503));
    }
    (0..40).for_each(|_| assert_eq!(proxy.get("/echo").status, 503));
    assert_eq!(proxy.metric("evenkeel_server_faults_total", &[]), 40.0);
    assert_eq!(ejected(), 0, "all fail alike");
    origins[3].behave(|b| b.status = None);
    eventually("two are ejected", || {
        proxy.get("/echo");
        (ejected() == 2).then_some(())
    });
    (0..20).for_each(|_| drop(proxy.get("/echo")));
    assert_eq!(ejected(), 2, "half of four");
    assert!(!is_ejected(&proxy, "d"));
}

#[test]
fn pinned_clients_of_an_ejected_server_move_once_and_stay() {
    let origins = origins(2);
    let keys = "outliers = { consecutive_failures = 2 }\ncookie_keys = [\"a key for this test\"]\n";
    let proxy = Proxy::start(&upstream("app", "\"sticky_cookie\"", keys, &origins));
    let mut client = proxy.pinned_to("a");
    origins[0].behave(|b| b.status = Some(503));
    for _ in 0..2 {
        assert_eq!(client.get("/echo").status, 503, "it is pinned");
    }
    eventually("a is ejected", || is_ejected(&proxy, "a").then_some(()));
    let before = proxy.metric("evenkeel_sessions_moved_total", &[]);
    let moved = client.get("/echo");
    assert_eq!((moved.status, moved.server()), (200, "b"));
    assert_eq!(proxy.metric("evenkeel_sessions_moved_total", &[]) - before, 1.0);
    let mut client = proxy.client().with("cookie", &moved.cookie("evenkeel").unwrap());
    // When a is back, who moved away stays away.
    origins[0].behave(|b| b.status = None);
    proxy.change("app", "a", &json!({ "admin": "ready" }));
    assert_eq!(state(&proxy, "a"), "healthy", "an order brings it back at once");
    assert_eq!(client.get("/echo").server(), "b");
}

#[test]
fn a_reload_keeps_ejections_and_ends_them_where_it_turns_them_off() {
    let origins = origins(3);
    let text = config("{ consecutive_failures = 2 }", "", &origins);
    let proxy = Proxy::start(&text);
    origins[2].behave(|b| b.status = Some(503));
    ask_until_ejected(&proxy, "c");
    let since = proxy.server("app", "c").ejection.unwrap();
    proxy.reload(&text.replace("[upstream.app]\n", "[upstream.app]\nmax_sessions = 99\n")).unwrap();
    let kept = proxy.server("app", "c").ejection.unwrap();
    assert!(kept.seconds >= since.seconds && kept.ends_within_seconds <= since.ends_within_seconds, "{kept:?}");
    assert_eq!(who(&proxy, 10).len(), 2);
    assert_eq!(ejections(&proxy, "c", "consecutive"), 1.0);
    let reloaded = proxy.reload(&config("false", "", &origins)).unwrap();
    assert_eq!(reloaded.changes[0], "upstream app: outliers on → off");
    eventually("c is back", || (state(&proxy, "c") == "healthy").then_some(()));
    (0..30).for_each(|_| drop(proxy.get("/echo")));
    assert_eq!(state(&proxy, "c"), "healthy");
}

#[test]
fn checks_that_find_an_ejected_server_down_decide_when_it_is_back() {
    let origins = origins(2);
    let check = "check = { http = { path = \"/healthz\", interval = \"50ms\", timeout = \"5s\", \
                 healthy_threshold = 1, unhealthy_threshold = 1 } }";
    let proxy = Proxy::start(&config("{ consecutive_failures = 2 }", check, &origins));
    origins[1].behave(|b| b.status = Some(502));
    ask_until_ejected(&proxy, "b");
    origins[1].behave(|b| {
        b.status = None;
        b.healthy = false;
    });
    eventually("b is unhealthy", || (state(&proxy, "b") == "unhealthy").then_some(()));
    assert_eq!(proxy.server("app", "b").ejection, None);
    origins[1].set_healthy(true);
    eventually("b is healthy", || (state(&proxy, "b") == "healthy").then_some(()));
    assert_eq!(who(&proxy, 10).len(), 2);
}

#[test]
fn fail_open_revives_an_ejected_server() {
    let mut origins = origins(3);
    let proxy = Proxy::start(&config("{ consecutive_failures = 2 }", "", &origins));
    origins[0].behave(|b| b.status = Some(503));
    ask_until_ejected(&proxy, "a");
    proxy.change("app", "c", &json!({ "admin": "disabled" }));
    // b dies: a is all there is.
    origins[1].kill();
    eventually("it fails open", || {
        proxy.get("/echo");
        proxy.status().upstreams[0].failing_open.then_some(())
    });
    origins[0].behave(|b| b.status = None);
    eventually("a answers", || (proxy.get("/echo").status == 200).then_some(()));
    assert!(is_ejected(&proxy, "a"), "its time is not over");
}
