//! Why a request went where it went: `evenkeel why`, and the header with which an answer says it itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::time::{SystemTime, UNIX_EPOCH};

use evenkeel::control::api::Explained;
use evenkeel::debug_header::Key;
use harness::{Client2, Held, Origin, Proxy, Refusing, Running, eventually, origins, servers, unchecked, upstream};
use serde_json::json;

const KEY: &str = "a key for these tests";
const DEBUG: &str = "x-evenkeel-debug";

fn signed(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    Key::new(KEY).sign(now.checked_add_signed(seconds).unwrap())
}

fn config(debug: &str, policy: &str, more: &str, origins: &[Origin]) -> String {
    format!("cores = 1\n[debug]\n{debug}\n{}", upstream("app", policy, more, origins))
}

fn with_key(policy: &str, more: &str, origins: &[Origin]) -> String {
    config(&format!("key = \"{KEY}\""), policy, more, origins)
}

/// What an answer says of one thing.
fn part(told: &str, name: &str) -> String {
    let part = told.split("; ").find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    part.unwrap_or_else(|| panic!("no {name} in {told}")).to_owned()
}

fn why(proxy: &Proxy, id: &str) -> (u16, String) {
    proxy.admin("GET", &format!("/why/{id}"), "")
}

#[track_caller]
fn explained(proxy: &Proxy, id: &str) -> Explained {
    // It is remembered when the last byte of the answer was handed over, which a client may see before.
    let (_, body) = eventually("it is remembered", || Some(why(proxy, id)).filter(|(status, _)| *status == 200));
    serde_json::from_str::<Vec<Explained>>(&body).unwrap().pop().unwrap()
}

#[test]
fn an_answer_tells_whoever_has_a_signed_header() {
    let origins = origins(4);
    let proxy = Proxy::start(&with_key("\"round_robin\"", "", &origins));
    proxy.change("app", "b", &json!({ "admin": "disabled" }));
    proxy.change("app", "c", &json!({ "weight": 0 }));
    let expected = |server: &str| {
        format!(
            "route=*/; upstream=app; policy=round_robin; server={server}; pin=none; skipped=b:disabled,c:weight_0; \
             tried=none; queue=0ms"
        )
    };
    let answer = proxy.client().with(DEBUG, &signed(60)).get("/echo");
    assert_eq!(answer.header(DEBUG), Some(&*expected(answer.server())));
    assert!(answer.echoed(DEBUG).is_empty(), "the server does not see it");
    // Over HTTP/2 alike.
    let client = Client2::to(proxy.address);
    let request = Client2::request("GET", "/echo").header(DEBUG, signed(60)).body(()).unwrap();
    let answer = client.send(request, None).unwrap();
    assert_eq!(answer.header(DEBUG), Some(&*expected(answer.header("x-server").unwrap())));
    // Without a good signature nothing is told, and the header goes no further.
    let tag = signed(60).split_once('.').unwrap().1.to_owned();
    for bad in [
        signed(-5),
        format!("9999999999.{tag}"),
        Key::new("another key of such length").sign(9_999_999_999),
        "1".into(),
    ] {
        let answer = proxy.client().with(DEBUG, &bad).get("/echo");
        assert_eq!((answer.status, answer.header(DEBUG)), (200, None), "{bad}");
        assert!(answer.echoed(DEBUG).is_empty());
    }
    assert_eq!(proxy.get("/echo").header(DEBUG), None);
    let (status, body) = why(&proxy, "x");
    assert!(status == 409 && body.contains("set `remember`"), "{status} {body}");
}

#[test]
fn where_it_is_not_configured_it_is_a_header_like_any_other() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("cores = 1\n{}", upstream("app", "\"round_robin\"", "", &origins)));
    let answer = proxy.client().with(DEBUG, &signed(60)).get("/echo");
    assert_eq!((answer.header(DEBUG), answer.echoed(DEBUG).len()), (None, 1));
    assert_eq!(why(&proxy, "x").0, 409);
    // A reload turns it on, and off.
    proxy.reload(&with_key("\"round_robin\"", "", &origins)).unwrap();
    assert!(proxy.client().with(DEBUG, &signed(60)).get("/echo").header(DEBUG).is_some());
    let changes = proxy.reload(&config("remember = 5", "\"round_robin\"", "", &origins)).unwrap().changes;
    assert_eq!(changes, ["debug: remember 0 → 5", "debug: key changed"]);
    assert_eq!(proxy.client().with(DEBUG, &signed(60)).get("/echo").header(DEBUG), None);
    assert_eq!(why(&proxy, "x").0, 404);
}

#[test]
fn sessions_tries_and_errors_are_told_and_addresses_are_not() {
    let mut origins = origins(2);
    let refusing = Refusing::new();
    let keys = "cookie_keys = [\"a key for this test\"]\n";
    let dead = format!("[[upstream.app.server]]\nname = \"x\"\naddress = \"{}\"\n", refusing.address);
    let proxy = Proxy::start(&format!("{}{dead}", with_key("\"sticky_cookie\"", keys, &origins)));
    let ask = |cookie: Option<&str>| {
        let client = proxy.client().with(DEBUG, &signed(60));
        let mut client = if let Some(cookie) = cookie { client.with("cookie", cookie) } else { client };
        client.get("/echo")
    };
    // Some new client is tried on x first.
    let (told, answer) = eventually("a try that failed", || {
        let answer = ask(None);
        let told = answer.header(DEBUG).unwrap().to_owned();
        (part(&told, "tried") != "none").then_some((told, answer))
    });
    assert_eq!((part(&told, "tried"), part(&told, "skipped")), ("x:connect_refused".into(), "x:tried".into()));
    assert_eq!((part(&told, "pin"), part(&told, "server")), ("new".into(), answer.server().to_owned()));
    let cookie = answer.cookie("evenkeel").unwrap();
    let kept = ask(Some(&cookie)).header(DEBUG).unwrap().to_owned();
    assert!(part(&kept, "pin").starts_with("kept ") && part(&kept, "pin").ends_with('s'), "{kept}");
    proxy.change("app", answer.server(), &json!({ "admin": "disabled" }));
    let moved = ask(Some(&cookie)).header(DEBUG).unwrap().to_owned();
    assert!(part(&moved, "pin").starts_with("moved ") && part(&moved, "pin").ends_with(" disabled"), "{moved}");
    for name in ["a", "b", "x"] {
        proxy.change("app", name, &json!({ "admin": "disabled" }));
    }
    let refused = ask(Some(&cookie));
    let told = refused.header(DEBUG).unwrap();
    assert_eq!((refused.status, part(told, "server"), part(told, "error")), (503, "none".into(), "no_server".into()));
    assert_eq!(part(told, "skipped"), "a:disabled,b:disabled,x:disabled");
    // A server without a name is called by its address: it is told by its place.
    origins.truncate(1);
    let text =
        unchecked(origins[0].address(), "").replace("[upstream", &format!("[debug]\nkey = \"{KEY}\"\n[upstream"));
    let proxy = Proxy::start(&text);
    let answer = proxy.client().with(DEBUG, &signed(60)).get("/echo");
    assert_eq!(part(answer.header(DEBUG).unwrap(), "server"), "#1");
    assert!(!answer.header(DEBUG).unwrap().contains("127.0.0.1"));
}

#[test]
fn the_newest_requests_are_remembered_by_their_ids() {
    let origins = origins(2);
    let proxy = Proxy::start(&config("remember = 3", "\"round_robin\"", "", &origins));
    proxy.change("app", "b", &json!({ "admin": "draining" }));
    for i in 0..5 {
        assert_eq!(proxy.client().with("x-request-id", &format!("id-{i}")).get("/echo").status, 200);
        explained(&proxy, &format!("id-{i}"));
    }
    let told = explained(&proxy, "id-4");
    assert_eq!((told.status, told.server.as_deref(), told.servers), (200, Some("a"), 2));
    assert_eq!((told.route.as_deref(), told.policy.as_deref()), (Some("*/"), Some("round_robin")));
    let (name, why_not) = &told.skipped[0];
    assert!(name == "b" && ["draining", "drained"].contains(&why_not.as_str()), "{told:?}");
    assert!(told.seconds_ago < 60.0 && told.tried.is_empty() && told.pin == "none", "{told:?}");
    explained(&proxy, "id-2");
    for gone in ["id-1", "id-0", "never"] {
        let (status, body) = why(&proxy, gone);
        assert!(status == 404 && body.contains("newest 3"), "{status} {body}");
    }
    // Its own ids, with whatever they hold; and requests that no server saw.
    let made = proxy.get("/echo").header("x-request-id").unwrap().to_owned();
    assert_eq!(explained(&proxy, &made).request_id, made);
    proxy.client().with("x-request-id", "a/b+c").get("/echo");
    assert_eq!(explained(&proxy, "a%2Fb%2Bc").request_id, "a/b+c");
    proxy.change("app", "a", &json!({ "admin": "disabled" }));
    proxy.client().with("x-request-id", "lost").get("/echo");
    let lost = explained(&proxy, "lost");
    assert_eq!((lost.status, lost.reason.as_deref(), lost.server), (503, Some("no_server"), None));
    // A reload that says the same forgets nothing, and another number forgets all.
    proxy.reload(&config("remember = 3", "\"round_robin\"", "fail_open = false\n", &origins)).unwrap();
    explained(&proxy, "lost");
    proxy.reload(&config("remember = 4", "\"round_robin\"", "fail_open = false\n", &origins)).unwrap();
    assert_eq!(why(&proxy, "lost").0, 404);
}

#[test]
fn a_wait_is_told() {
    let server = Held::start("f");
    let text = unchecked(server.address(), "max_requests = 1\nqueue = { timeout = \"60s\" }\n");
    let proxy = Proxy::start(&format!("cores = 1\n[debug]\nremember = 9\n{text}"));
    let ask = |id: &str| {
        let mut conn = proxy.raw();
        conn.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\n\r\n").as_bytes());
        conn
    };
    let mut first = ask("first");
    server.has(1);
    let mut second = ask("second");
    eventually("it waits", || (proxy.status().upstreams[0].queue.as_ref()?.waiting == 1).then_some(()));
    let began = std::time::Instant::now();
    // A moment that can be told from none.
    std::thread::sleep(std::time::Duration::from_millis(20));
    server.release(usize::MAX);
    assert_eq!((first.answer().status, second.answer().status), (200, 200));
    let most = began.elapsed().as_secs_f64() * 1_000.0 + 20_000.0;
    let told = explained(&proxy, "second");
    assert!(told.queued_ms >= 20.0 && told.queued_ms < most && told.duration_ms >= told.queued_ms, "{told:?}");
    assert!(explained(&proxy, "first").queued_ms < told.queued_ms);
}

#[test]
fn the_verb() {
    let origins = origins(1);
    let text = format!(
        "cores = 1\n[debug]\nremember = 100\nkey = \"{KEY}\"\n[upstream.app]\ncheck = \"off\"\n{}",
        servers("app", &origins)
    );
    let evenkeel = Running::start(&text);
    let config = evenkeel.config.to_str().unwrap();
    let header = evenkeel.verb(&["why", "--sign", "10m", "-c", config]).ends(0).out;
    let (name, value) = header.trim_end().split_once(": ").unwrap();
    assert_eq!(name, "X-Evenkeel-Debug");
    let answer = evenkeel.client().with(name, value).with("x-request-id", "mine").get("/echo");
    assert!(answer.header(DEBUG).unwrap().contains("server=a;"), "{:?}", answer.header(DEBUG));
    let said =
        eventually("it is remembered", || Some(evenkeel.verb(&["why", "mine"])).filter(|done| done.code == Some(0)));
    for row in [
        "request mine, ",
        " ago: status 200 after ",
        "\n  route     */\n  upstream  app (round_robin), 1 server\n  server    a\n  pin       none\n  \
         skipped   none\n  tried     none\n  queued    0.0 ms\n",
    ] {
        assert!(said.out.contains(row), "{}", said.out);
    }
    let json = evenkeel.verb(&["why", "mine", "--output", "json"]).ends(0).json();
    assert_eq!(json[0]["server"], "a");
    let json = evenkeel.verb(&["why", "--sign", "1h", "--output", "json", "-c", config]).ends(0).json();
    assert_eq!(json["header"], "X-Evenkeel-Debug");
    assert!(evenkeel.verb(&["why", "other"]).ends(1).err.contains("no request `other`"));
    evenkeel.verb(&["why"]).ends(2);
    evenkeel.verb(&["why", "mine", "--sign", "1h"]).ends(2);
}
