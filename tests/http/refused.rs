//! Requests that are refused before there is a request: the client gets the same answer as for every
//! other error, the operator a line and a number, and what came before on the connection is not touched.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use harness::{Answer, Fake, Origin, Proxy, Raw, app, asked, eventually, origins, unchecked};

fn pair(keys: &str) -> (Vec<Origin>, Proxy) {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("cores = 1\n{keys}\n{}", app("\"round_robin\"", &origins)));
    (origins, proxy)
}

/// Requests that reached the origin, apart from its checks.
fn served(origins: &[Origin]) -> Vec<String> {
    asked(&origins[0]).into_iter().map(|r| r.target).collect()
}

/// The answer is evenkeel's own, whole, and the last on the connection.
#[track_caller]
fn is_own(conn: &mut Raw, status: u16, reason: &str) -> Answer {
    let answer = conn.answer();
    assert_eq!((answer.status, answer.reason()), (status, Some(reason)), "{}", answer.text());
    assert_eq!(answer.json()["error"], reason);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")), "{:?}", answer.headers);
    assert!(answer.header("x-request-id").is_some_and(|id| id.len() > 10));
    assert!(conn.is_closed());
    answer
}

/// What the parser refuses and what is refused before it look the same from outside.
#[test]
fn what_is_not_http_gets_an_answer_that_says_why() {
    let (origins, proxy) = pair("max_header_bytes = \"8KiB\"\nmax_request_line = \"2KiB\"");
    let long = "x".repeat(4000);
    for (head, status, reason) in [
        // Found by the parser.
        ("nonsense\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/3.0\r\nhost: a\r\n\r\n".to_owned(), 400, "bad_request"),
        (format!("GET / HTTP/1.1\r\nx: {long}\r\nx: {long}\r\nx: {long}\r\n\r\n"), 431, "headers_too_large"),
        // Found before it.
        ("GET / HTTP/1.1\nhost: a\n\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx".to_owned(), 400, "bad_request"),
        (format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), 414, "uri_too_long"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101)), 431, "headers_too_large"),
    ] {
        let counted = proxy.metric("evenkeel_errors_total", &[&format!("reason=\"{reason}\"")]);
        let mut conn = proxy.raw();
        conn.send(head.as_bytes());
        is_own(&mut conn, status, reason);
        let counts = proxy.metric("evenkeel_errors_total", &[&format!("reason=\"{reason}\"")]);
        assert_eq!(counts, counted + 1.0, "{}", &head[..20.min(head.len())]);
    }
    assert_eq!(served(&origins), [""; 0]);
}

#[test]
fn a_refused_head_may_come_in_pieces() {
    let (_origins, proxy) = pair("");
    for pieces in [
        &["GET / HTTP/1.1\r\nho", "st: a\r\ncontent-le", "ngth: 1\r\nCONTENT-", "LENGTH: 1", "\r", "\n"][..],
        &["GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chun", "ked\r\ncontent-length:", " 3\r\n\r\n0\r\n\r\n"],
        &["GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nx: y", "\n"],
        &["no", "nsense\r\n\r\n"],
    ] {
        let mut conn = proxy.raw();
        for piece in pieces {
            conn.send(piece.as_bytes());
            // Nothing tells when it was read; where two are read at once the test is only weaker.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        if pieces[0].contains("\r\n\r\n") {
            assert_eq!(conn.answer().status, 200);
        }
        is_own(&mut conn, 400, "bad_request");
    }
}

#[test]
fn requests_before_a_refused_one_are_answered_first() {
    let (origins, proxy) = pair("");
    for bad in ["nonsense\r\n\r\n", "GET /bad HTTP/1.1\nhost: a\n\n"] {
        let mut conn = proxy.raw();
        let good = "GET /slow?ms=50 HTTP/1.1\r\nhost: a\r\n\r\nPOST /mirror HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
        conn.send(format!("{good}{bad}").as_bytes());
        assert_eq!(conn.answer().status, 200);
        assert_eq!(conn.answer().text(), "hello");
        is_own(&mut conn, 400, "bad_request");
    }
    assert_eq!(served(&origins).len(), 4);
}

/// RFC 9112 §11.2: a head in the middle of a read, behind a body, is looked at like any other.
#[test]
fn a_head_behind_a_body_is_looked_at_and_a_body_is_not() {
    let (origins, proxy) = pair("");
    let evil = "POST /evil HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    for (framing, body) in [
        (format!("content-length: {}", evil.len()), evil.to_owned()),
        ("transfer-encoding: chunked".to_owned(), format!("{:x};a=b\r\n{evil}\r\n0\r\nx-t: 1\r\n\r\n", evil.len())),
    ] {
        let mut conn = proxy.raw();
        conn.send(format!("POST /mirror HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n{body}{evil}").as_bytes());
        assert_eq!(conn.answer().text(), evil);
        is_own(&mut conn, 400, "bad_request");
    }
    assert_eq!(served(&origins), ["/mirror", "/mirror"]);
}

/// What follows a request to switch protocols is the next request where protocols are not switched.
#[test]
fn what_follows_a_request_to_switch_is_looked_at_when_it_is_a_request() {
    let (origins, proxy) = pair("");
    let ask = "GET /bytes?n=3 HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    let mut conn = proxy.raw();
    conn.send(
        format!("{ask}{ask}GET /bytes?n=4 HTTP/1.1\r\nhost: a\r\n\r\nGET /evil HTTP/1.1\nhost: a\n\n").as_bytes(),
    );
    for length in [3, 3, 4] {
        assert_eq!(conn.answer().body.len(), length);
    }
    is_own(&mut conn, 400, "bad_request");
    assert_eq!(served(&origins).len(), 3);

    // The bytes may come while the first is served, and the client may leave meanwhile.
    let slow = "GET /slow?ms=60000 HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    let mut conn = proxy.raw();
    conn.send(slow.as_bytes());
    eventually("it is in flight", || (proxy.server("app", "a").in_flight == 1).then_some(()));
    drop(conn);
    eventually("it is given up", || (proxy.server("app", "a").in_flight == 0).then_some(()));
    let mut conn = proxy.raw();
    conn.send(slow.replace("60000", "300").as_bytes());
    eventually("it is in flight", || (proxy.server("app", "a").in_flight == 1).then_some(()));
    conn.send(b"GET /bytes?n=7 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().status, 200);
    assert_eq!(conn.answer().body.len(), 7);
}

#[test]
fn limits_of_the_head_are_those_of_the_listener() {
    let (origins, proxy) = pair("max_headers = 5\nmax_request_line = \"1KiB\"");
    let with = |target: usize, headers: usize| {
        let mut conn = proxy.raw();
        let line = format!("GET /{} HTTP/1.1", "x".repeat(target));
        conn.send(format!("{line}\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(headers - 1)).as_bytes());
        conn.answer().status
    };
    let fits = 1024 - "GET / HTTP/1.1".len();
    assert_eq!((with(fits, 5), with(fits + 1, 5), with(fits, 6)), (404, 414, 431));
    assert_eq!(served(&origins).len(), 1);

    let fake = Fake::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let keys = "max_headers = 300\nmax_request_line = \"64KiB\"\nmax_header_bytes = \"128KiB\"\n";
    let proxy = Proxy::start(&format!("{keys}{}", unchecked(fake.address(), "")));
    let with = |target: usize, headers: usize| {
        let mut conn = proxy.raw();
        let line = format!("GET /{} HTTP/1.1", "x".repeat(target));
        conn.send(format!("{line}\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(headers - 1)).as_bytes());
        conn.answer().status
    };
    assert_eq!((with(1, 300), with(1, 301)), (200, 431));
    assert_eq!((with(60_000, 3), with(70_000, 3)), (200, 414));
}

#[test]
fn a_target_that_is_too_long_is_414_as_soon_as_it_is() {
    let (_origins, proxy) = pair("");
    for length in [20_000, 32_768, 50_000, 70_000] {
        let mut conn = proxy.raw();
        // Without an end.
        conn.send(format!("GET /{}", "x".repeat(length)).as_bytes());
        is_own(&mut conn, 414, "uri_too_long");
    }
}

#[test]
fn without_request_ids_there_is_none() {
    let (_origins, proxy) = pair("request_id = false");
    let mut conn = proxy.raw();
    conn.send(b"nonsense\r\n\r\n");
    let answer = conn.answer();
    assert_eq!((answer.status, answer.header("x-request-id")), (400, None));
}
