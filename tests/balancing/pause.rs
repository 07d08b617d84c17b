//! Upstreams that an operator holds or closes: `pause`, `resume`, `maintenance`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::time::{Duration, Instant};

use harness::{Client2, Held, Proxy, Raw, Running, eventually, origins, unchecked, upstream};
use serde_json::{Value, json};

fn ask(proxy: &Proxy, path: &str) -> Raw {
    let mut conn = proxy.raw();
    conn.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
    conn
}

#[track_caller]
fn serve(proxy: &Proxy, change: &Value) -> Value {
    let (status, body) = proxy.admin("PUT", "/upstreams/app", &change.to_string());
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn waiting(proxy: &Proxy, count: u32) {
    eventually("requests that wait", || {
        let queue = proxy.status().upstreams[0].queue.clone();
        (queue.map_or(0, |queue| queue.waiting) == count).then_some(())
    });
}

fn is_open(proxy: &Proxy) {
    eventually("the upstream to be open", || proxy.status().upstreams[0].service.is_none().then_some(()));
}

#[test]
fn a_pause_holds_what_comes_and_lets_go_on_what_runs() {
    let server = Held::start("a");
    let proxy = Proxy::start(&unchecked(server.address(), ""));
    let mut runs = ask(&proxy, "/runs");
    server.has(1);
    let said = serve(&proxy, &json!({ "service": "paused", "for": "10m" }));
    assert_eq!(said["service"]["state"], "paused");
    let mut held = ask(&proxy, "/held");
    let over_http2 = Client2::to(proxy.address);
    let (answer, _) = over_http2.runtime.block_on(async {
        let request = Client2::request("GET", "/held2").body(()).unwrap();
        over_http2.sender.clone().ready().await.unwrap().send_request(request, true).unwrap()
    });
    waiting(&proxy, 2);
    server.release(1);
    assert_eq!(runs.answer().status, 200);
    // The health path answers, and says that all is well.
    for path in ["/livez", "/readyz"] {
        assert_eq!(proxy.admin("GET", path, "").0, 200);
    }
    assert_eq!(proxy.metric("evenkeel_upstream_service", &["state=\"paused\""]), 1.0);
    assert_eq!(server.paths(), ["/runs"]);
    server.release(usize::MAX);
    assert_eq!(serve(&proxy, &json!({ "service": "open" }))["service"], Value::Null);
    assert_eq!(held.answer().status, 200);
    assert_eq!(over_http2.runtime.block_on(answer).unwrap().status(), 200);
    assert_eq!(proxy.metric("evenkeel_upstream_service", &["state=\"open\""]), 1.0);
    assert_eq!(proxy.metric("evenkeel_upstream_queued_total", &[]), 2.0);
}

#[test]
fn a_pause_ends_by_itself() {
    let server = Held::start("a");
    server.release(usize::MAX);
    // The time of the queue begins when the pause is over.
    let proxy = Proxy::start(&unchecked(server.address(), "queue = { timeout = \"60s\" }"));
    let began = Instant::now();
    serve(&proxy, &json!({ "service": "paused", "for": "700ms" }));
    assert_eq!(proxy.get("/held").status, 200);
    assert!(began.elapsed() >= Duration::from_millis(700));
    is_open(&proxy);
}

#[test]
fn a_pause_does_not_count_against_the_time_of_the_queue() {
    let server = Held::start("a");
    server.release(usize::MAX);
    let proxy = Proxy::start(&unchecked(server.address(), "queue = { timeout = \"100ms\" }"));
    serve(&proxy, &json!({ "service": "paused", "for": "10m" }));
    let mut held = ask(&proxy, "/held");
    waiting(&proxy, 1);
    // Made shorter: its deadline was that of the first pause, and it is served when the second one ends.
    serve(&proxy, &json!({ "service": "paused", "for": "500ms" }));
    assert_eq!(held.answer().status, 200);
}

#[test]
fn a_pause_holds_no_more_than_the_queue_takes() {
    let server = Held::start("a");
    let proxy = Proxy::start(&unchecked(server.address(), "queue = { size = 2 }"));
    serve(&proxy, &json!({ "service": "paused", "for": "10m" }));
    let mut held = [ask(&proxy, "/"), ask(&proxy, "/")];
    waiting(&proxy, 2);
    let refused = proxy.get("/");
    assert_eq!((refused.status, refused.reason()), (503, Some("queue_full")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    server.release(usize::MAX);
    serve(&proxy, &json!({ "service": "open" }));
    held.iter_mut().for_each(|conn| assert_eq!(conn.answer().status, 200));
}

#[test]
fn those_who_wait_are_released_at_a_pace() {
    let server = Held::start("a");
    server.release(usize::MAX);
    let proxy = Proxy::start(&format!("cores = 2\n{}", unchecked(server.address(), "")));
    serve(&proxy, &json!({ "service": "paused", "for": "10m" }));
    let mut held: Vec<_> = (0..20).map(|i| ask(&proxy, &format!("/{i}"))).collect();
    waiting(&proxy, 20);
    let began = Instant::now();
    let said = serve(&proxy, &json!({ "service": "open", "rate": 40 }));
    assert_eq!((&said["service"]["state"], &said["service"]["rate"]), (&json!("releasing"), &json!(40)));
    held.iter_mut().for_each(|conn| assert_eq!(conn.answer().status, 200));
    // The first at once, the last after nineteen turns of 25 ms, less what may be caught up.
    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
    is_open(&proxy);
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn a_reload_and_a_limit_keep_the_pause_right() {
    let server = Held::start("a");
    let proxy = Proxy::start(&unchecked(server.address(), ""));
    serve(&proxy, &json!({ "service": "paused", "for": "10m" }));
    let mut held = [ask(&proxy, "/1"), ask(&proxy, "/2")];
    waiting(&proxy, 2);
    proxy.reload(&unchecked(server.address(), "max_requests = 1\nqueue = { timeout = \"60s\" }")).unwrap();
    assert_eq!(proxy.status().upstreams[0].service.as_ref().unwrap().state, "paused");
    waiting(&proxy, 2);
    serve(&proxy, &json!({ "service": "open" }));
    server.has(1);
    waiting(&proxy, 1);
    server.release(usize::MAX);
    held.iter_mut().for_each(|conn| assert_eq!(conn.answer().status, 200));
    assert_eq!(server.most(), 1);
}

#[test]
fn maintenance_says_why_and_when_to_come_again() {
    let server = Held::start("a");
    let proxy = Proxy::start(&unchecked(server.address(), ""));
    let mut runs = ask(&proxy, "/runs");
    server.has(1);
    let message = "New engine & \"sails\" <soon>";
    serve(&proxy, &json!({ "service": "maintenance", "message": message, "retry_after": "10m" }));
    let answer = proxy.get("/");
    assert_eq!((answer.status, answer.reason()), (503, Some("maintenance")));
    assert_eq!(answer.header("retry-after"), Some("600"));
    assert_eq!(answer.json()["message"], message);
    let page = proxy.client().with("accept", "text/html").post("/", b"a body that is not read");
    assert_eq!((page.status, page.header("content-type")), (503, Some("text/html; charset=utf-8")));
    assert!(page.text().contains("New engine &amp; \"sails\" &lt;soon&gt;"), "{}", page.text());
    let answer = Client2::to(proxy.address).get("/");
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, Some("600")));
    for path in ["/livez", "/readyz"] {
        assert_eq!(proxy.admin("GET", path, "").0, 200);
    }
    assert_eq!(proxy.metric("evenkeel_upstream_service", &["state=\"maintenance\""]), 1.0);
    assert_eq!(proxy.metric("evenkeel_errors_total", &["reason=\"maintenance\""]), 3.0);
    server.release(usize::MAX);
    assert_eq!(runs.answer().status, 200);
    proxy.reload(&unchecked(server.address(), "fail_open = false")).unwrap();
    assert_eq!(proxy.get("/").status, 503);
    serve(&proxy, &json!({ "service": "open" }));
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(server.paths(), ["/runs", "/"]);
}

#[test]
fn who_waits_when_an_upstream_is_closed_is_told_at_once() {
    let server = Held::start("a");
    let proxy = Proxy::start(&unchecked(server.address(), "max_requests = 1\nqueue = { timeout = \"60s\" }"));
    let mut runs = ask(&proxy, "/runs");
    server.has(1);
    let mut waits = [ask(&proxy, "/"), ask(&proxy, "/")];
    waiting(&proxy, 2);
    serve(&proxy, &json!({ "service": "maintenance", "message": "soon" }));
    for conn in &mut waits {
        let answer = conn.answer();
        assert_eq!((answer.status, answer.reason()), (503, Some("maintenance")));
    }
    server.release(1);
    assert_eq!(runs.answer().status, 200);
}

#[test]
fn other_upstreams_and_fixed_answers_go_on() {
    let origins = origins(2);
    let text = format!(
        "[[route]]\nname = \"a\"\nupstream = \"a\"\n[[route]]\nname = \"b\"\npath = \"/b\"\nstrip_prefix = true\nupstream = \"b\"\n\
         [[route]]\nname = \"fixed\"\npath = {{ exact = \"/ping\" }}\nrespond = 204\n{}{}",
        upstream("a", "\"round_robin\"", "", &origins[..1]),
        upstream("b", "\"round_robin\"", "", &origins[1..]),
    );
    let proxy = Proxy::start(&text);
    let closed = json!({ "service": "maintenance", "message": "soon" }).to_string();
    assert_eq!(proxy.admin("PUT", "/upstreams/a", &closed).0, 200);
    assert_eq!(proxy.get("/echo").status, 503);
    assert_eq!(proxy.get("/b/echo").server(), "b");
    assert_eq!(proxy.get("/ping").status, 204);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let server = Held::start("a");
    let proxy = Proxy::start(&unchecked(server.address(), ""));
    for (body, words) in [
        (json!({ "service": "shut" }), "`shut` is no service"),
        (json!({ "service": "paused", "for": "0s" }), "above zero"),
        (json!({ "service": "paused", "for": "2h" }), "at most 1h"),
        (json!({ "service": "paused", "rate": 5 }), "`rate` belongs to `open`"),
        (json!({ "service": "open", "message": "x" }), "`message` belongs to `maintenance`"),
        (json!({ "service": "open", "rate": 0 }), "rate 0 is out of range"),
        (json!({ "service": "maintenance", "message": " " }), "1 to 2000 characters"),
        (json!({ "service": "maintenance", "retry_after": "2d" }), "at most 1d"),
    ] {
        let (status, text) = proxy.admin("PUT", "/upstreams/app", &body.to_string());
        assert_eq!(status, 400, "{body} {text}");
        assert!(text.contains(words), "{body} {text}");
    }
    let (status, text) = proxy.admin("PUT", "/upstreams/none", "{\"service\": \"open\"}");
    assert_eq!((status, text.contains("there is no upstream `none`")), (404, true), "{text}");
}

#[test]
fn the_verbs() {
    let server = Held::start("a");
    server.release(usize::MAX);
    let evenkeel = Running::start(&unchecked(server.address(), ""));
    assert_eq!(evenkeel.verb(&["resume"]).ends(0).out, "every upstream is open\n");
    let said = evenkeel.verb(&["pause", "app", "--for", "10m"]).ends(0).out;
    assert!(said.starts_with("app is paused, open again within 10 min"), "{said}");
    let mut held = evenkeel.raw();
    held.send(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n");
    eventually("the queue in the status", || {
        let shown = evenkeel.verb(&["status"]).ends(0).out;
        (shown.contains("paused, open again") && shown.contains("queue: 1 of 1,024 waiting")).then_some(())
    });
    let said = evenkeel.verb(&["resume", "app", "--rate", "5"]).ends(0).out;
    assert!(said.starts_with("app is "), "{said}");
    assert_eq!(held.answer().status, 200);
    let said = evenkeel.verb(&["maintenance", "--message", "back at noon", "--retry-after", "2h"]).ends(0).out;
    assert_eq!(said, "app is in maintenance: back at noon\n");
    let answer = evenkeel.client().get("/");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7200")));
    assert!(evenkeel.verb(&["status"]).ends(0).out.contains("in maintenance: back at noon"));
    assert_eq!(evenkeel.verb(&["resume"]).ends(0).out, "app is open\n");
    // Another way to say it, which does not stop evenkeel.
    assert_eq!(evenkeel.verb(&["stop", "app", "--message", "soon"]).ends(0).out, "app is in maintenance: soon\n");
    assert_eq!(evenkeel.verb(&["resume"]).ends(0).out, "app is open\n");
    assert!(evenkeel.verb(&["stop", "app"]).ends(2).err.contains("--message"));
    assert_eq!(evenkeel.client().get("/").status, 200);
    assert!(evenkeel.verb(&["pause", "shop"]).ends(1).err.contains("there is no upstream `shop`; there is app"));
}
