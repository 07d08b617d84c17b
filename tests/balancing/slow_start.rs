//! Servers that come or return get a small part of their share first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;
use crate::shares::{shares, who};

use harness::{Held, Origin, Proxy, Raw, eventually, origins, servers, upstream};
use serde_json::json;

const RR: &str = "\"round_robin\"";

/// One core, so that shares are exact in turn. At "1h" a server has its first tenth for twelve minutes.
fn config(policy: &str, slow_start: &str, more: &str, origins: &[Origin]) -> String {
    let keys = format!("slow_start = \"{slow_start}\"\ncookie_keys = [\"a key for this test\"]\n{more}");
    format!("trusted_proxies = [\"127.0.0.0/8\"]\ncores = 1\n{}", upstream("app", policy, &keys, origins))
}

fn percent(proxy: &Proxy, server: &str) -> Option<u32> {
    let told = proxy.server("app", server).slow_start.map(|s| s.percent);
    let ratio = proxy.metric("evenkeel_server_slow_start_ratio", &[&format!("server=\"{server}\"")]);
    assert_eq!((ratio * 100.0).round(), f64::from(told.unwrap_or(100)));
    told
}

fn set(proxy: &Proxy, server: &str, admin: &str) {
    proxy.change("app", server, &json!({ "admin": admin }));
}

#[test]
fn at_the_start_of_the_process_nobody_starts_slowly() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(RR, "1h", "", &origins));
    assert_eq!((percent(&proxy, "a"), percent(&proxy, "b")), (None, None));
    assert_eq!(who(&proxy, 10), shares(&[("a", 5), ("b", 5)]));
}

#[test]
fn a_server_made_ready_gets_a_tenth_of_its_share_first() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(RR, "1h", "", &origins));
    set(&proxy, "b", "disabled");
    assert_eq!(who(&proxy, 5), shares(&[("a", 5)]));
    set(&proxy, "b", "ready");
    assert_eq!(percent(&proxy, "b"), Some(10));
    assert_eq!(who(&proxy, 22), shares(&[("a", 20), ("b", 2)]));
    let left = proxy.server("app", "b").slow_start.unwrap().ends_within_seconds;
    assert!(left > 3_000.0 && left <= 3_600.0, "{left}");
    // A reload keeps it; what it says of the time holds at once.
    proxy.reload(&config(RR, "1h", "max_sessions = 99\n", &origins)).unwrap();
    assert_eq!(percent(&proxy, "b"), Some(10));
    let reloaded = proxy.reload(&config(RR, "off", "max_sessions = 99\n", &origins)).unwrap();
    assert_eq!(reloaded.changes, ["upstream app: slow_start 1h → off"]);
    eventually("b has its whole share", || percent_now(&proxy, "b").is_none().then_some(()));
    assert_eq!(who(&proxy, 10), shares(&[("a", 5), ("b", 5)]));
    set(&proxy, "b", "disabled");
    set(&proxy, "b", "ready");
    assert_eq!(percent(&proxy, "b"), None, "it is off");
}

#[test]
fn the_share_grows_to_the_whole_by_itself() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(RR, "2s", "", &origins));
    set(&proxy, "b", "disabled");
    set(&proxy, "b", "ready");
    let mut seen = vec![percent_now(&proxy, "b").unwrap_or(100)];
    eventually("b has its whole share", || {
        let now = percent_now(&proxy, "b");
        seen.push(now.unwrap_or(100));
        now.is_none().then_some(())
    });
    assert!(seen.is_sorted() && seen.iter().all(|p| p % 10 == 0), "{seen:?}");
    assert_eq!(who(&proxy, 10), shares(&[("a", 5), ("b", 5)]));
}

/// Without the metric, which would be of another moment.
fn percent_now(proxy: &Proxy, server: &str) -> Option<u32> {
    proxy.server("app", server).slow_start.map(|s| s.percent)
}

#[test]
fn servers_that_are_added_healthy_again_or_back_from_an_ejection_start_slowly() {
    let mut origins = origins(3);
    let check = "check = { http = { path = \"/healthz\", interval = \"50ms\", timeout = \"5s\", \
                 healthy_threshold = 1, unhealthy_threshold = 1 } }\n\
                 outliers = { consecutive_failures = 2 }\nretry = { attempts = 0 }\n";
    let last = origins.pop().unwrap();
    let proxy = Proxy::start(&config(RR, "1h", check, &origins));

    origins[1].set_healthy(false);
    eventually("b is unhealthy", || (proxy.server("app", "b").operational == "unhealthy").then_some(()));
    origins[1].set_healthy(true);
    eventually("b starts slowly", || (percent_now(&proxy, "b") == Some(10)).then_some(()));
    assert_eq!(who(&proxy, 11), shares(&[("a", 10), ("b", 1)]));

    origins.push(last);
    proxy.reload(&config(RR, "1h", check, &origins)).unwrap();
    eventually("c starts slowly", || (percent_now(&proxy, "c") == Some(10)).then_some(()));
    assert_eq!(who(&proxy, 24), shares(&[("a", 20), ("b", 2), ("c", 2)]));

    origins[0].behave(|b| b.status = Some(503));
    eventually("a is ejected", || {
        proxy.get("/echo");
        (proxy.server("app", "a").operational == "ejected").then_some(())
    });
    origins[0].behave(|b| b.status = None);
    // An order is as good as time.
    set(&proxy, "a", "ready");
    assert_eq!(percent(&proxy, "a"), Some(10));
    assert_eq!(who(&proxy, 9), shares(&[("a", 3), ("b", 3), ("c", 3)]));
}

#[test]
fn least_requests_and_weights_know_of_it() {
    let origins = origins(2);
    let proxy = Proxy::start(&config("\"least_requests\"", "1h", "", &origins));
    set(&proxy, "b", "disabled");
    set(&proxy, "b", "ready");
    let got = who(&proxy, 300);
    // An eleventh is 27; half would be 150.
    assert!((1..90).contains(&got["b"]), "{got:?}");
    let mut heavy = config(RR, "1h", "", &origins[..1]);
    heavy.push_str(
        &servers("app", &origins[1..]).replace("[[upstream.app.server]]\n", "[[upstream.app.server]]\nweight = 5\n"),
    );
    let proxy = Proxy::start(&heavy);
    set(&proxy, "b", "disabled");
    set(&proxy, "b", "ready");
    assert_eq!(who(&proxy, 15), shares(&[("a", 10), ("b", 5)]), "a tenth of five");
    assert_eq!(proxy.server("app", "b").weight, 5, "its weight is what it was");
}

#[test]
fn pinned_clients_come_at_once() {
    let origins = origins(2);
    let proxy = Proxy::start(&config("\"sticky_cookie\"", "1h", "", &origins));
    let mut client = proxy.pinned_to("b");
    set(&proxy, "b", "disabled");
    set(&proxy, "b", "ready");
    assert_eq!(percent(&proxy, "b"), Some(10));
    for _ in 0..10 {
        assert_eq!(client.get("/echo").server(), "b");
    }
}

#[test]
fn a_limit_grows_with_the_share() {
    let mut origins = origins(2);
    let more = "max_requests = 30\nqueue = { size = 9, timeout = \"20s\" }\n";
    for policy in [RR, "\"first\"", "\"sticky_cookie\""] {
        let proxy = Proxy::start(&config(policy, "1h", more, &origins));
        assert_eq!(proxy.server("app", "b").slow_start, None);
        set(&proxy, "b", "disabled");
        set(&proxy, "b", "ready");
        let server = proxy.server("app", "b");
        assert_eq!((server.max_requests, server.slow_start.unwrap().max_requests), (Some(30), Some(3)), "{policy}");
        // A reload keeps it, and what it says of the limit holds for the part of it, too.
        proxy.reload(&config(policy, "1h", &more.replace("30", "41"), &origins)).unwrap();
        let server = proxy.server("app", "b");
        assert_eq!((server.max_requests, server.slow_start.unwrap().max_requests), (Some(41), Some(5)), "{policy}");
        proxy.reload(&config(policy, "off", more, &origins)).unwrap();
        eventually("it has the whole", || percent_now(&proxy, "b").is_none().then_some(()));
    }
    // Who finds it reached waits, and is served when it has grown.
    origins.remove(0);
    origins[0].behave(|b| b.delay = std::time::Duration::from_millis(300));
    let more = more.replace("30", "20");
    let proxy = Proxy::start(&config(RR, "1h", &more, &origins));
    set(&proxy, "b", "disabled");
    set(&proxy, "b", "ready");
    let mut conns: Vec<_> = (0..6).map(|_| proxy.raw()).collect();
    conns.iter_mut().for_each(|conn| conn.send(b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n"));
    eventually("somebody waits", || {
        let queue = proxy.status().upstreams[0].queue.clone().unwrap();
        assert!(proxy.server("app", "b").in_flight <= 20);
        (queue.queued > 0).then_some(())
    });
    proxy.reload(&config(RR, "1s", &more, &origins)).unwrap();
    assert!(conns.iter_mut().all(|conn| conn.answer().status == 200));
}

/// Requests to a server that holds them, with further headers.
fn many(proxy: &Proxy, n: usize, headers: &str) -> Vec<Raw> {
    let one = |_| {
        let mut conn = proxy.raw();
        conn.send(format!("GET /x HTTP/1.1\r\nhost: a\r\n{headers}\r\n").as_bytes());
        conn
    };
    (0..n).map(one).collect()
}

#[test]
fn who_cannot_go_elsewhere_meets_the_whole_limit() {
    for policy in ["\"ip_hash\"", "{ sticky_cookie = { new_clients = \"ip_hash\" } }", "\"sticky_cookie\""] {
        let held = Held::start("b");
        let more = "max_requests = 10\nqueue = { size = 9, timeout = \"20s\" }\n";
        let server = format!("[[upstream.app.server]]\nname = \"b\"\naddress = \"{}\"\n", held.address());
        let proxy = Proxy::start(&format!("{}{server}", config(policy, "1h", more, &[])));
        held.release(1);
        let cookie = proxy.get("/x").cookie("evenkeel").map(|cookie| format!("cookie: {cookie}\r\n"));
        set(&proxy, "b", "disabled");
        set(&proxy, "b", "ready");
        let eases = policy == "\"sticky_cookie\"";
        assert_eq!(percent(&proxy, "b"), eases.then_some(10), "{policy}");
        let mut conns = many(&proxy, 10, cookie.as_deref().unwrap_or_default());
        held.has(11);
        assert_eq!(proxy.server("app", "b").in_flight, 10, "{policy}");
        // Not one more than that.
        let waiting = || proxy.status().upstreams[0].queue.as_ref().unwrap().waiting;
        assert_eq!(waiting(), 0);
        conns.extend(many(&proxy, 1, cookie.as_deref().unwrap_or_default()));
        eventually("one waits", || (waiting() == 1).then_some(()));
        held.release(usize::MAX);
        assert!(conns.iter_mut().all(|conn| conn.answer().status == 200));
        assert_eq!(held.most(), 10);
    }
}

#[test]
fn a_server_whose_clients_never_left_it_has_no_slow_start() {
    let origins = origins(2);
    let check = "check = { http = { path = \"/healthz\", interval = \"50ms\", timeout = \"5s\", \
                 healthy_threshold = 1, unhealthy_threshold = 1 } }\nmax_requests = 100\n";
    let proxy = Proxy::start(&config("\"sticky_cookie\"", "1h", check, &origins));
    let mut client = proxy.pinned_to("b");
    set(&proxy, "b", "draining");
    assert_eq!(proxy.server("app", "b").admin, "draining");
    assert_eq!(client.get("/echo").server(), "b");
    set(&proxy, "b", "ready");
    assert_eq!(percent(&proxy, "b"), None);
    // One that was down meanwhile has lost them.
    set(&proxy, "b", "draining");
    let is = |state: &str| proxy.server("app", "b").operational == state;
    origins[1].set_healthy(false);
    eventually("b is unhealthy", || is("unhealthy").then_some(()));
    origins[1].set_healthy(true);
    eventually("b is healthy", || is("healthy").then_some(()));
    assert_eq!(proxy.server("app", "b").admin, "draining");
    set(&proxy, "b", "ready");
    assert_eq!(percent(&proxy, "b"), Some(10));
}

#[test]
fn addresses_stay_where_they_belong() {
    let origins = origins(3);
    let proxy = Proxy::start(&config("\"ip_hash\"", "10s", "", &origins));
    let owner = |i: usize| {
        let address = format!("192.0.2.{i}");
        proxy.client().with("x-forwarded-for", &address).get("/echo").server().to_owned()
    };
    let before: Vec<String> = (0..40).map(owner).collect();
    assert!(before.iter().any(|server| server == "b"));
    set(&proxy, "b", "disabled");
    assert!((0..40).map(owner).all(|server| server != "b"));
    set(&proxy, "b", "ready");
    assert_eq!(percent(&proxy, "b"), None);
    assert_eq!((0..40).map(owner).collect::<Vec<_>>(), before);
}
