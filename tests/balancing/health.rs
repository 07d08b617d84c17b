//! Which servers count as up, and what follows for traffic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::{Fake, Origin, Proxy, Running, answer, eventually, origins, upstream};
use serde_json::json;

fn config(more: &str, origins: &[Origin]) -> String {
    format!("cores = 1\n{}", upstream("app", "\"round_robin\"", more, origins))
}

fn operational(proxy: &Proxy, server: &str) -> String {
    proxy.server("app", server).operational
}

fn becomes(proxy: &Proxy, server: &str, state: &str) {
    eventually(&format!("{server} is {state}"), || (operational(proxy, server) == state).then_some(()));
    assert_eq!(
        proxy.metric("evenkeel_server_state", &[&format!("server=\"{server}\""), &format!("state=\"{state}\"")]),
        1.0
    );
}

/// Who answers `n` new clients.
fn who(proxy: &Proxy, n: usize) -> BTreeSet<String> {
    (0..n).map(|_| proxy.get("/echo")).map(|a| a.server().to_owned()).collect()
}

fn failing_open(proxy: &Proxy) -> bool {
    let told = proxy.status().upstreams[0].failing_open;
    assert_eq!(proxy.metric("evenkeel_upstream_failing_open", &["upstream=\"app\""]), f64::from(u8::from(told)));
    told
}

/// Probes that this origin was sent.
fn probes(origin: &Origin) -> usize {
    origin.requests().iter().filter(|r| r.path() == "/healthz").count()
}

fn http(options: &str) -> String {
    format!("check = {{ http = {{ path = \"/healthz\", interval = \"50ms\", timeout = \"10s\", {options} }} }}\n")
}

#[test]
fn unknown_is_not_up_and_the_first_check_decides_at_once() {
    let origins = origins(3);
    // Its first probe takes long enough to look at what happens meanwhile; c fails its first.
    origins[0].behave(|b| b.health_delay = Duration::from_secs(3));
    origins[2].set_healthy(false);
    let proxy = Proxy::launch(&config(&http("healthy_threshold = 5, unhealthy_threshold = 5"), &origins));
    becomes(&proxy, "b", "healthy");
    becomes(&proxy, "c", "unhealthy");
    assert_eq!(who(&proxy, 6), ["b".to_owned()].into());
    assert_eq!(operational(&proxy, "a"), "starting", "nobody knows yet");
    assert_eq!(proxy.admin("GET", "/readyz", "").0, 503);
    assert!(proxy.server("app", "c").last_check_error.unwrap().contains("503"));
    assert!(proxy.ready());
    becomes(&proxy, "a", "healthy");
    assert!(probes(&origins[0]) < 5, "one success was enough");
    assert_eq!(proxy.admin("GET", "/readyz", "").0, 200);
    assert_eq!(who(&proxy, 6), ["a".to_owned(), "b".to_owned()].into());
}

#[test]
fn a_server_that_a_reload_adds_is_not_up_before_its_first_check() {
    let mut origins = origins(2);
    let second = origins.pop().unwrap();
    second.behave(|b| b.health_delay = Duration::from_secs(3));
    let proxy = Proxy::start(&config(&http(""), &origins));
    origins.push(second);
    proxy.reload(&config(&http(""), &origins)).unwrap();
    assert_eq!(operational(&proxy, "b"), "starting");
    assert_eq!(who(&proxy, 6), ["a".to_owned()].into());
    becomes(&proxy, "b", "healthy");
    assert_eq!(who(&proxy, 6).len(), 2);
}

/// A server whose probes are answered by number.
fn counted(fails: impl Fn(usize) -> bool + Send + Sync + 'static) -> (Fake, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let server = Fake::answering(move |_, _, head| {
        if !head.starts_with("GET /healthz ") {
            return Some(answer(200, "traffic"));
        }
        let number = counted.fetch_add(1, Relaxed);
        Some(answer(if fails(number) { 500 } else { 200 }, "probe"))
    });
    (server, count)
}

fn table(name: &str, server: &Fake) -> String {
    format!("[[upstream.app.server]]\nname = \"{name}\"\naddress = \"{}\"\n", server.address())
}

#[test]
fn a_change_takes_as_many_results_in_a_row_as_its_threshold() {
    // Two failures of three needed, then a success; then four failures; then three successes of four
    // needed and a failure; then successes for good.
    let script = [0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0];
    let (server, count) = counted(move |n| script.get(n).is_some_and(|fails| *fails == 1));
    let config = config(&http("healthy_threshold = 4, unhealthy_threshold = 3"), &[]);
    let proxy = Proxy::start(&format!("{config}{}", table("a", &server)));
    let (mut down, mut up) = (0, 0);
    eventually("the end of the script", || {
        let state = operational(&proxy, "a");
        match state.as_str() {
            "unhealthy" if down == 0 => down = count.load(Relaxed),
            // Read behind the state: the probe that brought it about is counted.
            "healthy" if down > 0 && up == 0 => up = count.load(Relaxed),
            _ => {}
        }
        (up > 0).then_some(())
    });
    // The tenth probe is the third failure in a row, the nineteenth the fourth success.
    assert!((10..=16).contains(&down), "down by probe {down}");
    assert!(up >= 19, "up at probe {up}");
}

#[test]
fn a_check_asks_as_it_was_told() {
    let answers = Arc::new(AtomicBool::new(true));
    let good = Arc::clone(&answers);
    let probed = Fake::answering(move |_, _, head| {
        let fine = good.load(Relaxed) && head.starts_with("GET /live?deep=1 HTTP/1.1\r\n");
        Some(if fine { answer(230, "all is well here") } else { answer(200, "all is well here") })
    });
    let origins = origins(1);
    let port = probed.address().port();
    let check = format!(
        "check = {{ http = {{ path = \"/live?deep=1\", host = \"app.internal\", port = {port}, expect_status = \"230\", \
         expect_body = \"is well\", interval = \"50ms\", timeout = \"10s\", unhealthy_threshold = 1, healthy_threshold = 1 }} }}\nfail_open = false\n"
    );
    let proxy = Proxy::start(&config(&check, &origins));
    assert_eq!(operational(&proxy, "a"), "healthy");
    let head = probed.heads()[0].to_ascii_lowercase();
    assert!(head.contains("\r\nhost: app.internal\r\n"), "{head}");
    assert_eq!(who(&proxy, 3), ["a".to_owned()].into(), "traffic goes to the server's own port");
    assert_eq!(probes(&origins[0]), 0);
    answers.store(false, Relaxed);
    becomes(&proxy, "a", "unhealthy");
    assert!(proxy.server("app", "a").last_check_error.unwrap().contains("200"));
    let refused = proxy.get("/echo");
    assert_eq!((refused.status, refused.reason()), (503, Some("no_server")));
    answers.store(true, Relaxed);
    becomes(&proxy, "a", "healthy");
}

#[test]
fn a_body_without_the_expected_text_is_a_failure() {
    let origins = origins(2);
    let check = |text: &str| http(&format!("expect_body = \"{text}\""));
    let proxy = Proxy::start(&config(&check("ok"), &origins));
    assert_eq!(operational(&proxy, "a"), "healthy");
    proxy.reload(&config(&check("no such text"), &origins)).unwrap();
    becomes(&proxy, "a", "unhealthy");
}

#[test]
fn the_host_of_a_check_is_the_server_by_default() {
    let probed = Fake::answering(|_, _, _| Some(answer(200, "")));
    let proxy = Proxy::start(&format!("{}{}", config(&http(""), &[]), table("a", &probed)));
    let wanted = format!("\r\nhost: {}\r\n", probed.address());
    assert!(probed.heads()[0].to_ascii_lowercase().contains(&wanted), "{:?}", probed.heads());
    assert_eq!(operational(&proxy, "a"), "healthy");
}

#[test]
fn a_probe_without_an_answer_in_time_has_failed() {
    let origins = origins(2);
    origins[0].behave(|b| b.health_delay = Duration::from_secs(600));
    let check = "check = { http = { path = \"/healthz\", interval = \"300ms\", timeout = \"300ms\" } }\n";
    let proxy = Proxy::launch(&config(check, &origins[..1]));
    becomes(&proxy, "a", "unhealthy");
    assert!(proxy.server("app", "a").last_check_error.unwrap().contains("300ms"));
}

#[test]
fn a_tcp_check_wants_a_connection_and_nothing_more() {
    let mut origins = origins(2);
    origins[0].set_healthy(false);
    let check = "check = { tcp = { interval = \"50ms\", timeout = \"10s\" } }\n";
    let proxy = Proxy::start(&config(check, &origins));
    assert_eq!(who(&proxy, 6).len(), 2, "what it says at /healthz is not asked for");
    origins[0].refuse().unwrap();
    becomes(&proxy, "a", "unhealthy");
    assert_eq!(who(&proxy, 6), ["b".to_owned()].into());
    origins[0].accept_again().unwrap();
    becomes(&proxy, "a", "healthy");
    assert_eq!(who(&proxy, 6).len(), 2);
    assert_eq!(probes(&origins[0]) + probes(&origins[1]), 0);
}

#[test]
fn a_tcp_check_may_have_a_port_of_its_own() {
    let mut origins = origins(2);
    let check = format!(
        "check = {{ tcp = {{ interval = \"50ms\", timeout = \"10s\", port = {} }} }}\n",
        origins[1].address().port()
    );
    let proxy = Proxy::start(&config(&check, &origins[..1]));
    assert_eq!(operational(&proxy, "a"), "healthy");
    origins[1].stop();
    becomes(&proxy, "a", "unhealthy");
}

#[test]
fn without_a_check_nobody_is_asked_and_failed_connections_decide() {
    let mut origins = origins(2);
    origins[0].set_healthy(false);
    let proxy = Proxy::start(&config("check = \"off\"\n", &origins));
    assert_eq!(operational(&proxy, "a"), "healthy");
    origins[0].stop();
    let began = Instant::now();
    let mut client = proxy.client();
    // Nobody notices: each failed connection is followed by a try elsewhere.
    eventually("it is found out", || {
        assert_eq!(client.get("/echo").server(), "b");
        (operational(&proxy, "a") == "unhealthy").then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(proxy.metric("evenkeel_server_connect_failures_total", &["server=\"a\""]) >= 3.0);
    let picks = proxy.server("app", "a").requests;
    assert_eq!(who(&proxy, 10), ["b".to_owned()].into());
    assert_eq!(proxy.server("app", "a").requests, picks, "it is not even tried");
    origins[0].restart().unwrap();
    becomes(&proxy, "a", "healthy");
    assert_eq!(who(&proxy, 6).len(), 2);
    assert_eq!(probes(&origins[0]) + probes(&origins[1]), 0);
}

/// Without a check, one failure now and then is no reason: connections in between count.
#[test]
fn failures_that_are_not_in_a_row_change_nothing() {
    let mut origins = origins(1);
    let config = config("check = \"off\"\npool = { max_idle = 0 }\nretry = { attempts = 0 }\n", &origins);
    let proxy = Proxy::start(&config);
    for _ in 0..6 {
        origins[0].refuse().unwrap();
        assert_eq!(proxy.get("/echo").status, 502);
        origins[0].accept_again().unwrap();
        assert_eq!(proxy.get("/echo").status, 200);
    }
    assert_eq!(operational(&proxy, "a"), "healthy");
}

#[test]
fn failed_connections_find_a_dead_server_before_the_next_check_does() {
    let mut origins = origins(2);
    let check = "check = { http = { path = \"/healthz\", interval = \"1h\", timeout = \"10s\" } }\n";
    let proxy = Proxy::start(&config(check, &origins));
    origins[0].stop();
    let mut client = proxy.client();
    eventually("it is found out", || {
        assert_eq!(client.get("/echo").server(), "b");
        (operational(&proxy, "a") == "unhealthy").then_some(())
    });
    assert_eq!(proxy.metric("evenkeel_server_state", &["server=\"a\"", "state=\"healthy\""]), 0.0);
}

#[test]
fn when_all_are_down_every_ready_server_is_tried() {
    let origins = origins(4);
    let proxy = Proxy::start(&config(&http("unhealthy_threshold = 1, healthy_threshold = 1"), &origins));
    proxy.change("app", "c", &json!({ "admin": "draining" }));
    proxy.change("app", "d", &json!({ "admin": "disabled" }));
    assert!(!failing_open(&proxy));
    for origin in &origins[..3] {
        origin.set_healthy(false);
    }
    becomes(&proxy, "a", "unhealthy");
    becomes(&proxy, "b", "unhealthy");
    eventually("it fails open", || failing_open(&proxy).then_some(()));
    assert_eq!(who(&proxy, 8), ["a".to_owned(), "b".to_owned()].into(), "never one that drains or is disabled");
    origins[1].set_healthy(true);
    becomes(&proxy, "b", "healthy");
    assert!(!failing_open(&proxy));
    assert_eq!(who(&proxy, 8), ["b".to_owned()].into());
}

#[test]
fn failing_open_is_logged_when_it_begins_and_when_it_ends() {
    let origins = origins(2);
    let config = config(&http("unhealthy_threshold = 1, healthy_threshold = 1"), &origins);
    let evenkeel = Running::start(&config);
    let logged = || {
        let log = evenkeel.process.err();
        let count = |text: &str| log.lines().filter(|l| l.contains(text) && l.contains("upstream=\"app\"")).count();
        (count("WARN") - count("server is unhealthy"), count("no server is healthy"), count("no longer failing open"))
    };
    assert_eq!(logged(), (0, 0, 0));
    for times in 1..=3 {
        origins.iter().for_each(|o| o.set_healthy(false));
        eventually("it fails open", || evenkeel.status().upstreams[0].failing_open.then_some(()));
        evenkeel.process.says("no server is healthy: every ready one gets traffic");
        // Neither traffic, nor further failures, nor a reload is news.
        let failed = probes(&origins[0]) + 3;
        eventually("more failures", || (probes(&origins[0]) >= failed).then_some(()));
        for _ in 0..5 {
            assert_eq!(evenkeel.client().get("/echo").status, 200);
        }
        evenkeel.write(&config.replace("cores = 1\n", &format!("cores = 1\nmax_body = {}\n", 1000 + times)));
        evenkeel.reload_file().unwrap();
        eventually("one line for its beginning", || (logged() == (times, times, times - 1)).then_some(()));
        origins.iter().for_each(|o| o.set_healthy(true));
        eventually("it has ended", || (!evenkeel.status().upstreams[0].failing_open).then_some(()));
        eventually("one line for its end", || (logged() == (times, times, times)).then_some(()));
    }
}

/// A healthy server that drains is no reason not to fail open, and gets nothing by it.
#[test]
fn failing_open_never_revives_a_server_that_drains() {
    let origins = origins(2);
    let sticky = "{ sticky_cookie = { new_clients = \"round_robin\" } }";
    let config = upstream("app", sticky, &http("unhealthy_threshold = 1"), &origins);
    let proxy = Proxy::start(&format!("cores = 1\n{config}"));
    // A session holds the drain.
    let mut placed = proxy.get("/echo");
    while placed.server() != "a" {
        placed = proxy.get("/echo");
    }
    let mut pinned = proxy.client().with("cookie", &placed.cookie("evenkeel").unwrap());
    proxy.change("app", "a", &json!({ "admin": "draining" }));
    assert_eq!(proxy.server("app", "a").admin, "draining");
    origins[1].set_healthy(false);
    becomes(&proxy, "b", "unhealthy");
    assert!(failing_open(&proxy));
    assert_eq!(who(&proxy, 6), ["b".to_owned()].into());
    assert_eq!(pinned.get("/echo").server(), "a", "who is there stays while it is healthy");
    origins[0].set_healthy(false);
    becomes(&proxy, "a", "unhealthy");
    assert_eq!(pinned.get("/echo").server(), "b", "not even for a client that is pinned there");
    proxy.change("app", "b", &json!({ "admin": "disabled" }));
    let answer = proxy.get("/echo");
    assert_eq!((answer.status, answer.reason()), (503, Some("no_server")));
}

#[test]
fn without_fail_open_there_is_no_server() {
    let origins = origins(2);
    let check = format!("{}fail_open = false\n", http("unhealthy_threshold = 1, healthy_threshold = 1"));
    let proxy = Proxy::start(&config(&check, &origins));
    origins.iter().for_each(|o| o.set_healthy(false));
    becomes(&proxy, "a", "unhealthy");
    becomes(&proxy, "b", "unhealthy");
    assert!(!failing_open(&proxy));
    let answer = proxy.get("/echo");
    assert_eq!((answer.status, answer.reason()), (503, Some("no_server")));
    assert!(proxy.metric("evenkeel_errors_total", &["reason=\"no_server\""]) >= 1.0);
    origins[0].set_healthy(true);
    becomes(&proxy, "a", "healthy");
    assert_eq!(who(&proxy, 4), ["a".to_owned()].into());
}

#[test]
fn requests_in_flight_go_on_when_their_server_fails_its_checks() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(&http("unhealthy_threshold = 1"), &origins));
    let mut raws: Vec<_> = (0..2).map(|_| proxy.raw()).collect();
    for raw in &mut raws {
        raw.send(b"GET /slow?ms=1500 HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    let slow = |o: &Origin| o.requests().iter().any(|r| r.path() == "/slow");
    eventually("a slow request on each", || origins.iter().all(slow).then_some(()));
    origins[0].set_healthy(false);
    becomes(&proxy, "a", "unhealthy");
    let answers: BTreeSet<_> = raws.iter_mut().map(|r| r.answer()).map(|a| (a.status, a.server().to_owned())).collect();
    assert_eq!(answers, [(200, "a".to_owned()), (200, "b".to_owned())].into());
}

#[test]
fn health_survives_a_reload() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(&http("unhealthy_threshold = 1, healthy_threshold = 1000"), &origins));
    origins[0].set_healthy(false);
    becomes(&proxy, "a", "unhealthy");
    origins[0].set_healthy(true);
    let more = format!("{}retry = {{ attempts = 1 }}\n", http("unhealthy_threshold = 1, healthy_threshold = 1000"));
    proxy.reload(&config(&more, &origins)).unwrap();
    assert_eq!(operational(&proxy, "a"), "unhealthy");
    assert_eq!(who(&proxy, 4), ["b".to_owned()].into());
}
