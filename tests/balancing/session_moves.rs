//! Sessions that go to another server: when, what the server is told of it, and how it is counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use harness::{Answer, Client, Origin, Proxy, eventually, origins, upstream};
use serde_json::json;

const STICKY: &str = "{ sticky_cookie = { new_clients = \"round_robin\" } }";
const PAGE: (&str, &str) = ("accept", "text/html,*/*;q=0.8");

fn sticky(more: &str, origins: &[Origin]) -> String {
    upstream("app", STICKY, more, origins)
}

fn with_navigation(origins: &[Origin]) -> Proxy {
    Proxy::start(&sticky("drain = { move_sessions = \"navigation\" }\n", origins))
}

fn drain(proxy: &Proxy, server: &str) {
    proxy.change("app", server, &json!({ "admin": "draining" }));
}

fn navigate(client: &mut Client) -> Answer {
    client.send("GET", "/echo", &[PAGE], b"")
}

/// What the server was told of the session.
fn told(answer: &Answer) -> Vec<String> {
    answer.echoed("x-session-moved")
}

/// Sessions moved and lost for that reason; none was for another.
#[track_caller]
fn counted(proxy: &Proxy, reason: &str, moved: f64, lost: f64) {
    for (name, expected) in [("evenkeel_sessions_moved_total", moved), ("evenkeel_sessions_lost_total", lost)] {
        let of = ["upstream=\"app\"", &format!("reason=\"{reason}\"")];
        assert_eq!((proxy.metric(name, &of), proxy.metric(name, &[])), (expected, expected), "{name} {reason}");
    }
}

#[test]
fn a_session_leaves_a_draining_server_with_a_navigation_and_its_new_server_is_told() {
    let origins = origins(2);
    let proxy = with_navigation(&origins);
    let mut client = proxy.pinned_to("a");
    assert_eq!(navigate(&mut client).server(), "a", "its server does not drain");
    drain(&proxy, "a");
    let script = [PAGE, ("sec-fetch-mode", "cors")];
    for (method, headers) in [("GET", &[][..]), ("POST", &[PAGE]), ("GET", &script)] {
        let answer = client.send(method, "/echo", headers, b"");
        assert_eq!((answer.server(), told(&answer).len()), ("a", 0), "{method} {headers:?}");
    }
    let answer = navigate(&mut client);
    assert_eq!((answer.server(), told(&answer)), ("b", vec!["from=a; reason=drain".to_owned()]));
    counted(&proxy, "drain", 1.0, 0.0);
    let mut client = proxy.client().with("cookie", &answer.cookie("evenkeel").unwrap());
    let answer = client.get("/echo");
    assert_eq!((answer.server(), told(&answer).len(), answer.cookie("evenkeel")), ("b", 0, None), "told once");
}

#[test]
fn it_stays_where_it_is_unless_that_is_configured() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("", &origins));
    let mut client = proxy.pinned_to("a");
    drain(&proxy, "a");
    assert_eq!(navigate(&mut client).server(), "a");
    counted(&proxy, "drain", 0.0, 0.0);
    // A reload is enough.
    proxy.reload(&sticky("drain = { move_sessions = \"navigation\" }\n", &origins)).unwrap();
    assert_eq!(navigate(&mut client).server(), "b");
    counted(&proxy, "drain", 1.0, 0.0);
}

#[test]
fn it_stays_where_no_other_server_takes_it_or_answers_well() {
    let origins = origins(2);
    let proxy = with_navigation(&origins);
    let mut client = proxy.pinned_to("a");
    proxy.change("app", "b", &json!({ "admin": "disabled" }));
    drain(&proxy, "a");
    assert_eq!(navigate(&mut client).server(), "a");
    proxy.change("app", "b", &json!({ "admin": "ready" }));
    let answer = client.send("GET", "/status?code=500", &[PAGE], b"");
    assert_eq!((answer.server(), answer.cookie("evenkeel")), ("b", None));
    assert_eq!(client.get("/echo").server(), "a");
    counted(&proxy, "drain", 0.0, 0.0);
}

#[test]
fn a_client_cannot_say_that_it_was_moved() {
    let origins = origins(2);
    let proxy = with_navigation(&origins);
    let mut client = proxy.pinned_to("a");
    let spoof = ("X-Session-Moved", "from=b; reason=drain");
    let answer = client.send("GET", "/echo", &[spoof, spoof], b"");
    assert_eq!((answer.server(), told(&answer).len()), ("a", 0));
    drain(&proxy, "a");
    let answer = client.send("GET", "/echo", &[spoof, PAGE], b"");
    assert_eq!(told(&answer), ["from=a; reason=drain"]);
    // A trusted proxy in front knows no more, and an upstream without sessions tells nobody anything.
    let proxy = Proxy::start(&format!(
        "trusted_proxies = [\"127.0.0.1\"]\n{}",
        upstream("app", "\"round_robin\"", "", &origins)
    ));
    assert!(told(&proxy.client().send("GET", "/echo", &[spoof], b"")).is_empty());
}

#[test]
fn whatever_moves_a_session_is_told_and_counted() {
    type Act<'a> = &'a dyn Fn(&Proxy, &mut Vec<Origin>);
    let cases: [(&str, &str, &str, Act<'_>); 5] = [
        ("disabled", "", "from=a; reason=disabled", &|proxy, _| {
            proxy.change("app", "a", &json!({ "admin": "disabled" }));
        }),
        ("drained", "", "from=a; reason=drained", &|proxy, _| {
            proxy.change("app", "a", &json!({ "admin": "draining", "sessions_max": "0s" }));
            eventually("it is drained", || (proxy.server("app", "a").admin == "drained").then_some(()));
        }),
        (
            "unhealthy",
            "check = { http = { path = \"/healthz\", interval = \"50ms\", timeout = \"10s\" } }\n",
            "from=a; reason=unhealthy",
            &|proxy, origins| {
                origins[0].set_healthy(false);
                let unhealthy = || proxy.server("app", "a").operational == "unhealthy";
                eventually("it is unhealthy", || unhealthy().then_some(()));
            },
        ),
        ("failed", "", "from=a; reason=failed", &|_, origins| drop(origins.remove(0))),
        ("gone", "", "reason=gone", &|proxy, origins| {
            proxy.reload(&sticky("", &origins[1..])).unwrap();
        }),
    ];
    for (reason, more, says, act) in cases {
        let mut origins = origins(2);
        let proxy = Proxy::start(&sticky(more, &origins));
        let mut client = proxy.pinned_to("a");
        act(&proxy, &mut origins);
        let answer = client.get("/echo");
        assert_eq!((answer.server(), told(&answer)), ("b", vec![says.to_owned()]), "{reason}");
        assert!(answer.cookie("evenkeel").is_some(), "{reason}");
        // It was in use a moment ago: what its server knew of it is lost.
        counted(&proxy, reason, 1.0, 1.0);
    }
}

#[test]
fn a_session_that_has_ended_before_its_server_did_is_not_lost() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("drain = { sessions_idle = \"1s\" }\n", &origins));
    let mut client = proxy.pinned_to("a");
    drain(&proxy, "a");
    eventually("it is drained", || (proxy.server("app", "a").admin == "drained").then_some(()));
    let answer = client.get("/echo");
    assert_eq!((answer.server(), told(&answer)), ("b", vec!["from=a; reason=drained".to_owned()]));
    counted(&proxy, "drained", 1.0, 0.0);
}
