//! Routes that answer themselves, and what routes change of paths, headers and limits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::time::{Duration, Instant};

use harness::{Answer, Fake, Origin, Proxy, origins, unchecked, upstream};

fn one(routes: &str) -> (Vec<Origin>, Proxy) {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("{routes}\n{}", upstream("app", "\"round_robin\"", "", &origins)));
    (origins, proxy)
}

fn ask(proxy: &Proxy, method: &str, target: &str, host: &str) -> Answer {
    let mut conn = proxy.raw();
    conn.send(format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes());
    conn.answer_to(method)
}

#[test]
fn redirects_say_where_to_go() {
    let (origins, proxy) = one(r#"
[[route]]
host = "old.example"
redirect = "https://new.example{path}{query}"
[[route]]
path = { regex = "^/user/([^/]+)/(.*)$" }
redirect = { to = "/u/{1}/x/{2}", status = 308 }
[[route]]
path = { exact = "/secure" }
redirect = { to = "https://{host}{path}", status = 301 }
[[route]]
path = { regex = "^/go(.*)$" }
redirect = { to = "/{1}", status = 307 }
[[route]]
path = "/same"
redirect = { to = "{scheme}://{authority}/{route}", status = 303 }
[[route]]
upstream = "app"
"#);
    for (host, target, status, location) in [
        ("old.example", "/a/../b?c=d", 302, "https://new.example/b?c=d"),
        ("a", "/user/ann/x%20y/z", 308, "/u/ann/x/x%20y/z"),
        ("Shop.Example:8080", "/secure", 301, "https://shop.example/secure"),
        ("a", "/go//evil.example", 307, "/evil.example"),
        ("a", "/go", 307, "/"),
        ("A:81", "/same", 303, "http://A:81/*/same"),
    ] {
        let answer = ask(&proxy, "GET", target, host);
        assert_eq!((answer.status, answer.header("location")), (status, Some(location)), "{target}");
        assert_eq!(answer.header("content-length"), Some("0"));
        assert!(answer.header("x-request-id").is_some());
    }
    // No line can be ended early: what would end it is no path and no host.
    for target in ["/user/a%0d%0aset-cookie:x/y", "/go%0aX"] {
        assert_eq!(ask(&proxy, "GET", target, "a").status, 400);
    }
    assert!(origins[0].requests().is_empty());
}

#[test]
fn fixed_responses_need_no_server() {
    let (origins, proxy) = one(r#"
[[route]]
path = { exact = "/robots.txt" }
respond = { body = "User-agent: *\n" }
[[route]]
path = "/gone"
respond = 410
response_headers = { set = { Cache-Control = "max-age=60", X-Route = "{route}" } }
[[route]]
path = "/json"
respond = { status = 503, body = '{"down":true}', content_type = "application/json" }
[[route]]
path = "/empty"
respond = 204
[[route]]
upstream = "app"
"#);
    let answer = proxy.get("/robots.txt");
    assert_eq!((answer.status, answer.text().as_str()), (200, "User-agent: *\n"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let answer = ask(&proxy, "HEAD", "/robots.txt", "a");
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("14")));
    let answer = proxy.get("/gone/x");
    assert_eq!((answer.status, answer.header("x-route")), (410, Some("*/gone")));
    assert_eq!((answer.header("cache-control"), answer.header("content-type")), (Some("max-age=60"), None));
    let answer = proxy.get("/json");
    assert_eq!((answer.status, answer.text().as_str()), (503, "{\"down\":true}"));
    let answer = proxy.get("/empty");
    assert_eq!((answer.status, answer.header("content-length")), (204, None));
    assert!(origins[0].requests().is_empty());
    assert_eq!(proxy.metric("evenkeel_requests_total", &["route=\"*/gone\"", "code=\"4xx\""]), 1.0);
    assert_eq!(proxy.metric("evenkeel_route_info", &["route=\"*/gone\"", "upstream=\"\""]), 1.0);
}

#[test]
fn an_answered_upload_closes_the_connection_and_an_answered_get_keeps_it() {
    let (_origins, proxy) =
        one("[[route]]\nrespond = { body = \"here\" }\n[[route]]\npath = \"/x\"\nupstream = \"app\"\n");
    let mut conn = proxy.raw();
    for _ in 0..3 {
        conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(conn.answer().text(), "here");
    }
    conn.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n");
    let answer = conn.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(conn.is_closed());
}

#[test]
fn paths_are_rewritten() {
    let (origins, proxy) = one(r#"
[[route]]
path = "/api/v1"
rewrite = { prefix = "/v1/" }
upstream = "app"
[[route]]
path = { regex = "^/files/([a-z]+)/(.*)$" }
rewrite = { to = "/static/{2}/{1}" }
upstream = "app"
[[route]]
path = "/old"
rewrite = { regex = "^/old/x(.*)$", to = "/new/{1}" }
upstream = "app"
"#);
    for (sent, got) in [
        ("/api/v1/x?y=/api/v1", "/v1/x?y=/api/v1"),
        ("/api/v1", "/v1"),
        ("/api;a/v1;b/x;c", "/v1/x;c"),
        ("/files/css/a%20b", "/static/a%20b/css"),
        ("/old/y", "/old/y"),
        ("/old/xy?q", "/new/y?q"),
        ("/old/x//y", "/new/y"),
    ] {
        assert!(ask(&proxy, "GET", sent, "a").status > 0);
        assert_eq!(origins[0].requests().last().unwrap().target, got, "{sent}");
    }
    // A group that took dots would lead out of where it was put.
    let before = origins[0].requests().len();
    for sent in ["/old/x..", "/old/x../y", "/old/x."] {
        assert_eq!(ask(&proxy, "GET", sent, "a").status, 400, "{sent}");
    }
    assert_eq!(origins[0].requests().len(), before);
}

#[test]
fn headers_are_removed_set_and_added() {
    let (_origins, proxy) = one(r#"
[[route]]
name = "web"
upstream = "app"
upstream_host = "app.internal:80"
[route.request_headers]
set = { X-Client = "{client_ip}", X-Seen = "{method} {scheme}://{host}{path}{query} {route}/{upstream}", X-Fixed = "{{1}}" }
add = { Accept = "text/x" }
remove = ["X-Secret", "Cookie"]
[route.response_headers]
set = { X-Server-Name = "{server} of {upstream}", Content-Type = "text/y" }
add = { Vary = "X-Client" }
remove = ["X-Server"]
"#);
    let mut conn = proxy.raw();
    conn.send(
        b"GET /echo?q=1 HTTP/1.1\r\nhost: A.example:80\r\nx-client: me\r\nx-secret: 1\r\ncookie: a=b\r\naccept: */*\r\n\r\n",
    );
    let answer = conn.answer();
    let request: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let headers: Vec<(String, String)> = serde_json::from_value(request["headers"].clone()).unwrap();
    let lines = |name: &str| headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect::<Vec<_>>();
    assert_eq!(lines("host"), ["app.internal:80"]);
    assert_eq!(lines("x-client"), ["127.0.0.1"]);
    assert_eq!(lines("x-seen"), ["GET http://a.example/echo?q=1 web/app"]);
    assert_eq!(lines("x-fixed"), ["{1}"]);
    assert_eq!(lines("accept"), ["*/*", "text/x"]);
    assert_eq!(lines("x-forwarded-host"), ["A.example:80"]);
    assert!(lines("x-secret").is_empty() && lines("cookie").is_empty());
    assert_eq!(answer.header("x-server-name"), Some("a of app"));
    assert_eq!((answer.header("content-type"), answer.header("vary")), (Some("text/y"), Some("X-Client")));
    assert_eq!(answer.header("x-server"), None);
}

#[test]
fn a_route_has_its_own_limits() {
    let (_origins, proxy) = one(
        "max_body = 10\n[[route]]\nupstream = \"app\"\n[[route]]\npath = \"/upload\"\nmax_body = 1000\nupstream = \"app\"\n[[route]]\npath = \"/tiny\"\nmax_body = 5\nupstream = \"app\"\n",
    );
    let mut client = proxy.client();
    assert_eq!(client.post("/upload", &[0; 100]).status, 404);
    assert_eq!(client.post("/sink", &[0; 10]).status, 200);
    assert_eq!(proxy.client().post("/sink", &[0; 11]).status, 413);
    assert_eq!(proxy.client().post("/tiny", &[0; 6]).status, 413);
    assert_eq!(proxy.client().post("/upload", &[0; 1001]).status, 413);
}

#[test]
fn a_route_has_its_own_timeouts() {
    let silent = Fake::start(|_, mut conn| {
        harness::read_head(&mut conn);
        conn.is_closed();
    });
    let proxy = Proxy::start(&format!(
        "[[route]]\nupstream = \"app\"\n[[route]]\npath = \"/fast\"\nupstream = \"app\"\ntimeouts = {{ first_byte = \"200ms\" }}\n\
         [[route]]\npath = \"/total\"\nupstream = \"app\"\ntimeouts = {{ request = \"200ms\" }}\n{}",
        unchecked(silent.address(), "retry = { attempts = 0 }")
    ));
    let began = Instant::now();
    let answer = proxy.get("/fast");
    assert_eq!((answer.status, answer.reason()), (504, Some("first_byte_timeout")));
    let answer = proxy.get("/total");
    assert_eq!((answer.status, answer.reason()), (504, Some("request_timeout")));
    assert!(began.elapsed() < Duration::from_secs(10), "the upstream's own timeout is a minute");
}
