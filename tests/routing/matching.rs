//! What a route may ask of a request beside host and path prefix.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use harness::{Origin, Proxy, origins, upstream};

/// Upstreams `a`, `b`, … of one origin each.
fn routed(routes: &str, count: usize) -> (Vec<Origin>, Proxy) {
    let origins = origins(count);
    let each = |o: &Origin| upstream(o.name(), "\"round_robin\"", "", std::slice::from_ref(o));
    let upstreams: String = origins.iter().map(each).collect();
    let proxy = Proxy::start(&format!("{routes}\n{upstreams}"));
    (origins, proxy)
}

/// The server that answers, or the status where none does.
fn who(proxy: &Proxy, method: &str, target: &str, headers: &str) -> String {
    let mut conn = proxy.raw();
    conn.send(format!("{method} {target} HTTP/1.1\r\nhost: a.example\r\n{headers}\r\n").as_bytes());
    let answer = conn.answer_to(method);
    answer.header("x-server").map_or_else(|| answer.status.to_string(), str::to_owned)
}

#[test]
fn exact_paths_come_before_expressions_and_those_before_prefixes() {
    let (_origins, proxy) = routed(
        r#"
[[route]]
upstream = "a"
[[route]]
path = { regex = '\.php$' }
upstream = "b"
[[route]]
path = { regex = "^/x/[0-9]+/" }
upstream = "c"
[[route]]
path = { exact = "/x/1/y.php" }
upstream = "d"
[[route]]
path = { prefix = "/x/1/long" }
upstream = "e"
"#,
        5,
    );
    for (path, server) in [
        ("/", "a"),
        ("/y.php", "b"),
        ("/y.php/x", "a"),
        ("/x/1/z.php", "b"),
        ("/x/1/z", "c"),
        ("/x/1/long", "c"),
        ("/x/one/z", "a"),
        ("/x/1/y.php", "d"),
        ("/x/1/y.php?q", "d"),
        ("/x//1/%79.php", "d"),
        ("/x/1/y.php/", "c"),
    ] {
        assert_eq!(who(&proxy, "GET", path, ""), server, "{path}");
    }
}

#[test]
fn more_conditions_come_before_fewer_and_what_is_not_met_is_passed_over() {
    let (_origins, proxy) = routed(
        r#"
[[route]]
path = "/api"
upstream = "a"
[[route]]
path = "/api"
method = "POST"
upstream = "b"
[[route]]
path = "/api"
method = ["POST", "PUT"]
header = { X-Beta = "1" }
upstream = "c"
[[route]]
path = "/api/only"
query = { debug = { present = true } }
upstream = "d"
"#,
        4,
    );
    for (method, target, headers, server) in [
        ("GET", "/api/x", "", "a"),
        ("GET", "/api/x", "x-beta: 1\r\n", "a"),
        ("POST", "/api/x", "content-length: 0\r\n", "b"),
        ("POST", "/api/x", "content-length: 0\r\nx-beta: 1\r\n", "c"),
        ("PUT", "/api/x", "content-length: 0\r\nx-beta: 1\r\n", "c"),
        ("PUT", "/api/x", "content-length: 0\r\nx-beta: 2\r\n", "a"),
        ("GET", "/api/only/x?a=1&debug", "", "d"),
        ("GET", "/api/only/x?a=debug", "", "a"),
        ("GET", "/", "", "404"),
    ] {
        assert_eq!(who(&proxy, method, target, headers), server, "{method} {target} {headers}");
    }
}

#[test]
fn headers_and_queries_match_by_presence_value_and_expression() {
    let (_origins, proxy) = routed(
        r#"
[[route]]
upstream = "a"
[[route]]
header = { upgrade = { regex = "(?i)^websocket$" } }
upstream = "b"
[[route]]
header = { user-agent = { regex = "^curl/" }, accept = { present = false } }
upstream = "c"
[[route]]
query = { version = { exact = "2 beta" } }
upstream = "d"
[[route]]
query = { id = { regex = "^[0-9]+$" } }
header = { x-forwarded-proto = "http" }
upstream = "e"
"#,
        5,
    );
    for (target, headers, server) in [
        ("/", "", "a"),
        ("/", "connection: upgrade\r\nupgrade: WebSocket\r\n", "b"),
        ("/", "user-agent: curl/8\r\n", "c"),
        ("/", "user-agent: curl/8\r\naccept: */*\r\n", "a"),
        ("/?version=2+beta", "", "d"),
        ("/?version=2%20b%65ta&x", "", "d"),
        ("/?version=2", "", "a"),
        ("/?id=77", "", "e"),
        // What a stranger says of itself is replaced before it is looked at.
        ("/?id=77", "x-forwarded-proto: https\r\n", "e"),
        ("/?id=x", "", "a"),
    ] {
        assert_eq!(who(&proxy, "GET", target, headers), server, "{target} {headers}");
    }
}

#[test]
fn a_source_network_is_that_of_the_client_behind_trusted_proxies() {
    let (_origins, proxy) = routed(
        r#"
trusted_proxies = ["127.0.0.0/8"]
[[route]]
upstream = "a"
[[route]]
source = ["10.0.0.0/8", "2001:db8::/32"]
upstream = "b"
"#
        .trim_start(),
        2,
    );
    for (headers, server) in [
        ("", "a"),
        ("x-forwarded-for: 10.1.2.3\r\n", "b"),
        ("x-forwarded-for: 10.1.2.3, 192.0.2.1\r\n", "a"),
        ("x-forwarded-for: 2001:db8::7\r\n", "b"),
        ("x-forwarded-for: ::ffff:10.9.9.9\r\n", "b"),
    ] {
        assert_eq!(who(&proxy, "GET", "/", headers), server, "{headers}");
    }
}
