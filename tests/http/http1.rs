//! HTTP/1.1 message by message: connections, heads, and what belongs to one hop only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::mpsc::channel;
use std::time::Duration;

use harness::{Fake, Origin, Proxy, app, origins, raw, read_head, unchecked};

const RR: &str = "\"round_robin\"";

/// One core, so that the connections to the server are in one pool.
fn one_core(origins: &[Origin]) -> Proxy {
    Proxy::start(&format!("cores = 1\n{}", app(RR, origins)))
}

/// Connections to the origin that requests for `path` came on.
fn connections_of(origin: &Origin, path: &str) -> Vec<u64> {
    origin.requests().iter().filter(|r| r.path() == path).map(|r| r.connection).collect()
}

#[test]
fn a_connection_carries_many_requests_on_both_sides() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let mut conn = proxy.raw();
    for _ in 0..20 {
        conn.send(b"GET /count HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(conn.answer().status, 401);
    }
    let used = connections_of(&origins[0], "/count");
    assert_eq!(used.len(), 20);
    assert!(used.iter().all(|c| *c == used[0]), "{used:?}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let mut conn = proxy.raw();
    let mut all = Vec::new();
    for n in 1..=50 {
        all.extend_from_slice(
            format!("POST /bytes?n={n} HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").as_bytes(),
        );
        all.extend_from_slice(b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    conn.send(&all);
    for n in 1..=50 {
        assert_eq!(conn.answer().body.len(), n);
        assert_eq!(conn.answer().status, 404);
    }
}

#[test]
fn a_pipelined_half_request_is_waited_for() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let mut conn = proxy.raw();
    conn.send(b"GET /bytes?n=1 HTTP/1.1\r\nhost: a\r\n\r\nGET /bytes?n=2 HT");
    assert_eq!(conn.answer().body.len(), 1);
    // Longer than a connection keeps its parser between requests.
    assert!(conn.is_silent_for(Duration::from_millis(1300)));
    conn.send(b"TP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().body.len(), 2);
}

#[test]
fn a_client_that_says_close_does_not_cost_the_server_its_connection() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    for _ in 0..5 {
        let mut conn = proxy.raw();
        conn.send(b"GET /count HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = conn.answer();
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(conn.is_closed());
    }
    let used = connections_of(&origins[0], "/count");
    assert!(used.iter().all(|c| *c == used[0]), "{used:?}");
}

#[test]
fn http_1_0_clients_are_served_over_kept_connections() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let mut conn = proxy.raw();
    conn.send(b"GET /echo HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n");
    let answer = conn.answer();
    assert_eq!(answer.json()["version"], "HTTP/1.1", "the server is spoken to in our own version");
    assert_eq!(answer.echoed("host"), ["a"]);
    assert!(answer.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("keep-alive")));
    conn.send(b"GET /echo HTTP/1.0\r\n\r\n");
    let answer = conn.answer();
    assert_eq!(answer.status, 200, "Host is optional in HTTP/1.0: {}", answer.text());
    assert!(conn.is_closed(), "without keep-alive the connection ends");
    let used = connections_of(&origins[0], "/echo");
    assert_eq!(used[0], used[1]);
}

#[test]
fn an_http_1_0_client_gets_no_chunks() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let got = raw(proxy.address, b"GET /bytes?n=5000&chunked=1 HTTP/1.0\r\nhost: a\r\n\r\n");
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(body.len(), 5000);
}

#[test]
fn a_server_that_closes_does_not_cost_the_client_its_connection() {
    let fake =
        Fake::saying_once("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\nkeep-alive: x=1\r\n\r\nhi");
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    for _ in 0..3 {
        conn.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
        let answer = conn.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
        assert_eq!(answer.header("connection"), None);
        assert_eq!(answer.header("keep-alive"), None);
    }
    assert_eq!(fake.accepted(), 3);
}

#[test]
fn answers_that_end_with_the_connection_arrive_whole_and_the_client_goes_on() {
    let fake = Fake::saying_once("HTTP/1.1 200 OK\r\n\r\nuntil the end");
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    for _ in 0..3 {
        conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = conn.answer();
        assert_eq!(answer.text(), "until the end");
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    }
}

#[test]
fn an_http_1_0_server_is_not_asked_twice_over_one_connection() {
    let fake = Fake::saying("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    let proxy = Proxy::start(&format!("cores = 1\n{}", unchecked(fake.address(), "")));
    let mut client = proxy.client();
    for n in 1..=3 {
        assert_eq!(client.get("/").text(), "hi");
        assert_eq!(fake.accepted(), n);
    }
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let mut conn = proxy.raw();
    conn.send(b"HEAD /bytes?n=5000 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer_to("HEAD").header("content-length"), Some("5000"));
    conn.send(b"HEAD /bytes?n=5000&chunked=1 HTTP/1.1\r\nhost: a\r\n\r\n");
    let answer = conn.answer_to("HEAD");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-length"), None, "the length is not known, so none may be told");
    conn.send(b"GET /bytes?n=7 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().body.len(), 7, "nothing of a body came in between");
    let used = connections_of(&origins[0], "/bytes");
    assert!(used.iter().all(|c| *c == used[0]), "{used:?}");
}

#[test]
fn head_of_a_server_that_announces_chunks_is_not_said_to_be_empty() {
    let fake = Fake::saying("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    for _ in 0..2 {
        conn.send(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(conn.answer_to("HEAD").header("content-length"), None);
    }
    assert_eq!(fake.accepted(), 1);
}

#[test]
fn no_content_and_not_modified_have_no_body() {
    let fake = Fake::start(|_, mut conn| {
        while let head = read_head(&mut conn)
            && !head.is_empty()
        {
            conn.send(match head[0].split(' ').nth(1).unwrap() {
                "/204" => b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n".as_slice(),
                "/304" => b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5000\r\netag: \"x\"\r\n\r\n",
                "/304b" => b"HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
            });
        }
    });
    let proxy = Proxy::start(&format!("cores = 1\n{}", unchecked(fake.address(), "")));
    let mut client = proxy.client();
    let answer = client.get("/204");
    assert_eq!((answer.status, answer.header("content-length"), answer.header("transfer-encoding")), (204, None, None));
    let answer = client.get("/304");
    // The length of what was not sent may be told or left out (RFC 9110 §8.6), but nothing else be said.
    assert_eq!((answer.status, answer.header("etag")), (304, Some("\"x\"")));
    assert!(answer.header("content-length").is_none_or(|length| length == "5000"));
    let answer = client.get("/304b");
    assert_eq!((answer.status, answer.header("content-length"), answer.header("transfer-encoding")), (304, None, None));
    assert_eq!(client.get("/").text(), "x");
    assert_eq!(fake.accepted(), 1);
}

#[test]
fn interim_answers_do_not_pass_for_the_answer() {
    let fake = Fake::saying(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
         HTTP/1.1 199 Whatever\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    );
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut client = proxy.client();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
    }
    // An HTTP/1.0 client must never see one (RFC 9110 §15.2).
    assert!(raw(proxy.address, b"GET / HTTP/1.0\r\nhost: a\r\n\r\n").starts_with("HTTP/1.0 200"));
}

#[test]
fn expect_continue_is_answered_once_the_server_takes_the_body() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let mut conn = proxy.raw();
    conn.send(b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(conn.line(), "HTTP/1.1 100 Continue");
    assert_eq!(conn.line(), "");
    conn.send(b"hello");
    let answer = conn.answer();
    assert_eq!(answer.json()["body_length"], 5);
    assert_eq!(answer.echoed("expect"), [""; 0], "it was answered on this hop");
}

#[test]
fn expect_continue_is_not_answered_when_the_request_is_refused() {
    let origins = origins(1);
    let proxy =
        Proxy::start(&format!("max_body = 1000\n{}[[route]]\npath = \"/a/\"\nupstream = \"app\"\n", app(RR, &origins)));
    for (head, status) in [
        ("POST /nowhere HTTP/1.1\r\nhost: a\r\n", 404),
        ("POST /a/sink HTTP/1.1\r\nhost: a,b\r\n", 400),
        ("POST /a/sink HTTP/1.1\r\nhost: a\r\nx-big: 1\r\n", 413),
    ] {
        let mut conn = proxy.raw();
        conn.send(format!("{head}expect: 100-continue\r\ncontent-length: 5000\r\n\r\n").as_bytes());
        assert!(conn.line().starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    }
    assert!(origins[0].requests().iter().all(|r| r.path() == "/healthz"));
}

#[test]
fn expect_continue_is_not_answered_before_a_server_took_the_connection() {
    let gone = harness::Refusing::new();
    let proxy = Proxy::start(&unchecked(gone.address, ""));
    let got = raw(proxy.address, b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert!(got.starts_with("HTTP/1.1 502"), "{got}");
}

#[test]
fn an_expectation_that_nobody_knows_is_417() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let answer = proxy.client().send("GET", "/echo", &[("expect", "magic")], b"");
    assert_eq!((answer.status, answer.reason()), (417, Some("expectation_failed")));
    assert!(connections_of(&origins[0], "/echo").is_empty());
}

#[test]
fn headers_of_one_hop_stay_on_it() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let headers = [
        ("connection", "keep-alive, X-Mine , x-other"),
        ("x-mine", "1"),
        ("X-Other", "2"),
        ("x-stays", "3"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip, trailers"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
    ];
    let answer = proxy.client().send("GET", "/echo", &headers, b"");
    for name in [
        "connection",
        "x-mine",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
    ] {
        assert_eq!(answer.echoed(name), [""; 0], "{name}");
    }
    assert_eq!(answer.echoed("x-stays"), ["3"]);
    assert_eq!(answer.echoed("te"), ["trailers"]);
}

#[test]
fn a_client_cannot_have_headers_dropped_that_the_request_stands_on() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let headers =
        [("connection", "close, host, content-length, cookie, x-forwarded-for, authorization"), ("cookie", "a=b")];
    let answer = proxy.client().send("POST", "/echo", &headers, b"hello");
    assert_eq!(answer.json()["body_length"], 5);
    assert_eq!(answer.echoed("cookie"), ["a=b"]);
    assert_eq!(answer.echoed("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(answer.echoed("host"), [proxy.address.to_string()]);
}

#[test]
fn headers_of_the_servers_hop_stay_there() {
    let fake = Fake::saying(
        "HTTP/1.1 200 OK\r\nconnection: x-mine\r\nX-Mine: 1\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\n\
         upgrade: h2c\r\nx-stays: 1\r\ncontent-length: 0\r\n\r\n",
    );
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let answer = proxy.get("/");
    for name in ["connection", "x-mine", "keep-alive", "upgrade", "proxy-authenticate"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-stays"), Some("1"));
}

#[test]
fn repeated_and_odd_headers_pass_unchanged() {
    let (tell, told) = channel();
    let fake = Fake::start(move |_, mut conn| {
        tell.send(read_head(&mut conn)).unwrap();
        conn.send(b"HTTP/1.1 299 Fine Really\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-e:\r\nx-l: \xe9\r\ncontent-length: 0\r\n\r\n");
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let headers = [("accept", "a"), ("accept", "b"), ("x-empty", ""), ("cookie", "x=1; y=2"), ("user-agent", "me (1)")];
    let answer = proxy.client().send("PURGE", "/a/b/c?q=%20&r=[1]", &headers, b"");
    let head = told.recv().unwrap();
    assert_eq!(head[0], "purge /a/b/c?q=%20&r=[1] http/1.1");
    for line in ["accept: a", "accept: b", "x-empty:", "cookie: x=1; y=2", "user-agent: me (1)"] {
        assert!(head.iter().any(|l| l == line), "{line}: {head:?}");
    }
    assert_eq!(answer.status, 299);
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.header("x-e"), Some(""));
    assert!(answer.header("date").is_some());
}

#[test]
fn host_is_passed_through() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let mut conn = proxy.raw();
    conn.send(b"GET /echo HTTP/1.1\r\nHost: Shop.example:8080\r\n\r\n");
    assert_eq!(conn.answer().echoed("host"), ["Shop.example:8080"]);
    conn.send(b"GET http://Shop.example/echo?x HTTP/1.1\r\nHost: shop.Example\r\n\r\n");
    let answer = conn.answer();
    assert_eq!(answer.json()["target"], "/echo?x");
    assert_eq!(answer.echoed("host").len(), 1);
}

#[test]
fn a_request_id_goes_in_and_out() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let mut client = proxy.client();
    let mine = client.send("GET", "/echo", &[("x-request-id", "abc-123")], b"");
    assert_eq!(mine.header("x-request-id"), Some("abc-123"));
    assert_eq!(mine.echoed("x-request-id"), ["abc-123"]);
    let (first, second) = (client.get("/echo"), client.get("/echo"));
    let id = first.header("x-request-id").unwrap();
    assert!(id.len() >= 16, "{id}");
    assert_eq!(first.echoed("x-request-id"), [id]);
    assert_ne!(Some(id), second.header("x-request-id"));
    for harmful in ["a b", "<script>", &"x".repeat(1000)] {
        let answer = client.send("GET", "/echo", &[("x-request-id", harmful)], b"");
        assert_ne!(answer.header("x-request-id"), Some(harmful));
        assert_eq!(answer.echoed("x-request-id"), [answer.header("x-request-id").unwrap()]);
    }
    let two = client.send("GET", "/echo", &[("x-request-id", "one"), ("x-request-id", "two")], b"");
    assert_eq!(two.all("x-request-id"), two.echoed("x-request-id"), "one id, the same on both sides");
    let refused = client.send("CONNECT", "a:1", &[("x-request-id", "abc")], b"");
    assert_eq!(refused.header("x-request-id"), Some("abc"), "an answer of the proxy carries it, too");
}

#[test]
fn parked_connections_wake_up() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let mut conns: Vec<_> = (0..200).map(|_| proxy.raw()).collect();
    for conn in &mut conns {
        conn.send(b"GET /bytes?n=3 HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(conn.answer().status, 200);
    }
    for round in 0..2 {
        harness::eventually("all are parked", || {
            (proxy.metric("evenkeel_connections_parked", &[]) == 200.0).then_some(())
        });
        for (n, conn) in conns.iter_mut().enumerate() {
            if round == 0 {
                conn.send(format!("GET /bytes?n={n} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
            } else {
                // In two parts, so that the parser is made before the head is there.
                conn.send(b"POST /mirror HTTP/1.1\r\nhost: a\r\ncontent-le");
                conn.send(format!("ngth: {n}\r\n\r\n{}", "x".repeat(n)).as_bytes());
            }
            assert_eq!(conn.answer().body.len(), n);
        }
    }
}

#[test]
fn a_client_that_leaves_lets_go_of_its_server() {
    let origins = origins(1);
    let proxy = one_core(&origins);
    let mut conn = proxy.raw();
    conn.send(b"GET /slow?ms=60000 HTTP/1.1\r\nhost: a\r\n\r\n");
    harness::eventually("it is in flight", || (proxy.server("app", "a").in_flight == 1).then_some(()));
    drop(conn);
    harness::eventually("the claim is released", || (proxy.server("app", "a").in_flight == 0).then_some(()));
}

#[test]
fn unasked_bytes_of_a_server_never_answer_the_next_request() {
    let fake = Fake::start(|n, mut conn| {
        read_head(&mut conn);
        let poison = if n == 0 { "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison" } else { "" };
        conn.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood{poison}").as_bytes());
        read_head(&mut conn);
    });
    let proxy = Proxy::start(&format!("cores = 1\n{}", unchecked(fake.address(), "")));
    let mut conn = proxy.raw();
    conn.send(b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().text(), "good");
    assert_eq!(conn.answer().text(), "good");
}
