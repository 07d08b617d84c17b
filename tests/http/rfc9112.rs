//! HTTP/1.1 message syntax and routing, section by section, as far as it binds an intermediary. What is
//! said in more detail by another test file is not said again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::mpsc::channel;

use harness::{Answer, Fake, Origin, Proxy, app, forwarded, origins, raw, read_head, unchecked};

fn pair() -> (Vec<Origin>, Proxy) {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("cores = 1\n{}", app("\"round_robin\"", &origins)));
    (origins, proxy)
}

/// Requests that reached the origin, apart from its checks.
fn served(origins: &[Origin]) -> Vec<String> {
    origins[0].requests().into_iter().filter(|r| r.path() != "/healthz").map(|r| r.target).collect()
}

/// The answer to these bytes, which are one request.
#[track_caller]
fn answer_to(proxy: &Proxy, bytes: &[u8]) -> Answer {
    let mut conn = proxy.raw();
    conn.send(bytes);
    conn.answer()
}

/// Each of these is 400 and ends the connection, before a server hears of it.
#[track_caller]
fn all_refused(requests: &[&[u8]]) {
    let (origins, proxy) = pair();
    for request in requests {
        let got = raw(proxy.address, &[*request, b"GET /second HTTP/1.1\r\nhost: a\r\n\r\n"].concat());
        let request = String::from_utf8_lossy(request);
        assert!(got.starts_with("HTTP/1.1 400 "), "{request:?}: {got}");
        assert!(got.contains("\"bad_request\"") && got.matches("HTTP/1.1 ").count() == 1, "{request:?}: {got}");
    }
    assert_eq!(served(&origins), [""; 0]);
}

/// What the client gets for these bytes of a server.
fn passed_on(said: &'static str) -> Answer {
    let fake = Fake::saying_once(said);
    let proxy = Proxy::start(&unchecked(fake.address(), "[upstream.app.retry]\nattempts = 0\n"));
    proxy.get("/")
}

#[test]
fn s2_2_empty_lines_before_the_request_line_are_ignored() {
    let (_origins, proxy) = pair();
    assert_eq!(answer_to(&proxy, b"\r\n\r\n\r\nGET /bytes HTTP/1.1\r\nhost: a\r\n\r\n").status, 200);
}

/// A recipient may take LF alone for the end of a line; one that may stand behind another that does not
/// must not.
#[test]
fn s2_2_a_line_ends_with_cr_and_lf_only() {
    all_refused(&[
        b"GET / HTTP/1.1\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: y\n z: 1\r\n\r\n",
        b"\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\rhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n\rx: y\r\n\r\n",
        b"GET /a\rb HTTP/1.1\r\nhost: a\r\n\r\n",
    ]);
}

#[test]
fn s2_2_nothing_comes_between_the_request_line_and_the_first_header() {
    all_refused(&[
        b"GET / HTTP/1.1\r\n host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\thost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n \r\nhost: a\r\n\r\n",
    ]);
}

/// An intermediary speaks in its own version on either side.
#[test]
fn s2_3_each_hop_has_its_own_version() {
    assert_eq!(forwarded(b"GET /x HTTP/1.0\r\nhost: a\r\n\r\n")[0], "get /x http/1.1");
    let fake = Fake::saying_once("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    assert!(raw(proxy.address, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").starts_with("HTTP/1.1 200"));
    all_refused(&[b"GET / HTTP/0.9\r\nhost: a\r\n\r\n", b"GET / HTTP/1.10\r\nhost: a\r\n\r\n", b"GET /\r\n"]);
}

#[test]
fn s3_a_request_line_has_three_words_with_one_space_between() {
    all_refused(&[
        b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1 \r\nhost: a\r\n\r\n",
        b" GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / x HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET HTTP/1.1\r\nhost: a\r\n\r\n",
        b"/ HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1 x\r\nhost: a\r\n\r\n",
    ]);
}

/// At least 8,000 bytes are to be taken; above what is taken the answer is 414.
#[test]
fn s3_long_request_lines_are_served_or_414() {
    let (_origins, proxy) = pair();
    let line = |n: usize| format!("GET /bytes?{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(n));
    assert_eq!(answer_to(&proxy, line(8000).as_bytes()).status, 200);
    for length in [17_000, 33_000, 64_000, 100_000] {
        assert_eq!(answer_to(&proxy, line(length).as_bytes()).status, 414, "{length}");
    }
}

#[test]
fn s3_1_any_method_passes_as_it_was_written() {
    assert!(forwarded(b"M-SEARCH /x HTTP/1.1\r\nhost: a\r\n\r\n")[0].starts_with("m-search /x "));
    all_refused(&[b"G(T / HTTP/1.1\r\nhost: a\r\n\r\n", b"G\xc3\x89T / HTTP/1.1\r\nhost: a\r\n\r\n"]);
}

#[test]
fn s3_2_a_target_holds_no_fragment_blank_or_control_byte() {
    all_refused(&[
        b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /?a#b HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET http://a/#b HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /a\0 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /a\x01b HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /a\x7fb HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /a\tb HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
    ]);
}

#[test]
fn s3_2_there_is_one_valid_host() {
    all_refused(&[
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nHOST: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a/\r\n\r\n",
    ]);
    let (_origins, proxy) = pair();
    assert_eq!(answer_to(&proxy, b"GET /echo HTTP/1.0\r\n\r\n").status, 200, "HTTP/1.0 knows no Host");
}

#[test]
fn s3_2_1_a_target_is_forwarded_as_it_came() {
    for target in ["/", "/a%20b/c,d=1?e=f%20g&h=/../%2f", "/?", "/x?"] {
        assert_eq!(
            forwarded(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes())[0],
            format!("get {} http/1.1", target.to_lowercase())
        );
    }
}

/// The target's authority replaces `Host`; where they differ, nobody can say which was meant.
#[test]
fn s3_2_2_an_absolute_target_becomes_a_path_and_a_host() {
    let head = forwarded(b"GET http://Shop.example:80/x?y HTTP/1.1\r\nhost: shop.example:80\r\n\r\n");
    assert_eq!(head[0], "get /x?y http/1.1");
    assert_eq!(head.iter().filter(|line| line.starts_with("host:")).count(), 1);
    assert_eq!(forwarded(b"GET http://a HTTP/1.1\r\nhost: a\r\n\r\n")[0], "get / http/1.1");
    all_refused(&[b"GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n", b"GET http://a:80/ HTTP/1.1\r\nhost: a\r\n\r\n"]);
}

#[test]
fn s3_2_3_and_s3_2_4_authority_and_asterisk_are_for_their_methods_only() {
    assert_eq!(forwarded(b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n")[0], "options * http/1.1");
    all_refused(&[b"GET * HTTP/1.1\r\nhost: a\r\n\r\n", b"GET a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n"]);
}

#[test]
fn s5_a_header_is_a_name_a_colon_and_a_value() {
    all_refused(&[
        b"GET / HTTP/1.1\r\nhost: a\r\nx\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx\0: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx\x7f: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx\xe9: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx\"y: z\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x01b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x7fb\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x0bb\r\n\r\n",
    ]);
}

#[test]
fn s5_1_blanks_around_a_value_are_no_part_of_it_and_none_come_before_the_colon() {
    let head = forwarded(b"GET / HTTP/1.1\r\nhost:a\r\nx: \t a b\t \r\n\r\n");
    assert!(head.contains(&"host: a".to_owned()) && head.contains(&"x: a b".to_owned()), "{head:?}");
    all_refused(&[
        b"GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length : 5\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding\t: chunked\r\n\r\n0\r\n\r\n",
    ]);
    // A server's are to be taken out or refused, too.
    let answer = passed_on("HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nhi");
    assert_eq!((answer.status, answer.reason()), (502, Some("bad_answer")));
}

#[test]
fn s5_2_folded_lines_are_refused_on_both_sides() {
    all_refused(&[
        b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx:\r\n\ty\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    ]);
    let answer = passed_on("HTTP/1.1 200 OK\r\nx: y\r\n z\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!((answer.status, answer.reason()), (502, Some("bad_answer")));
}

#[test]
fn s6_1_a_transfer_coding_stands_alone_and_is_chunked() {
    all_refused(&[
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked,\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunke\xe4\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\r\n\r\n",
        b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n",
    ]);
}

#[test]
fn s6_2_a_length_is_one_decimal_number() {
    all_refused(&[
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5,5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5e0\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: \"5\"\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: five\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9999999999999999999999\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 0\r\n\r\n",
    ]);
}

#[test]
fn s6_3_a_request_without_framing_has_no_body() {
    let (origins, proxy) = pair();
    let mut conn = proxy.raw();
    conn.send(b"POST /mirror HTTP/1.1\r\nhost: a\r\n\r\nPOST /bytes?n=4 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().body.len(), 0);
    assert_eq!(conn.answer().body.len(), 4);
    assert_eq!(served(&origins), ["/mirror", "/bytes?n=4"]);
}

/// The same codings and lengths in an answer make it 502, and the server's connection is not used again.
#[test]
fn s6_3_an_answer_with_two_framings_is_502() {
    for said in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ] {
        let answer = passed_on(said);
        assert_eq!((answer.status, answer.reason()), (502, Some("bad_answer")), "{said:?}: {}", answer.text());
    }
}

#[test]
fn s7_1_chunks_are_read_in_every_legal_form_and_forwarded_in_one() {
    let (origins, proxy) = pair();
    let body = "5\r\nhello\r\n0005;a;b=c;d=\"e;\\\"f\"\r\nworld\r\nA ;x\r\n0123456789\r\n00000\r\n\r\n";
    let mut conn = proxy.raw();
    conn.send(format!("POST /mirror HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}").as_bytes());
    assert_eq!(conn.answer().text(), "helloworld0123456789");
    conn.send(b"GET /bytes?n=1 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().body.len(), 1);
    assert_eq!(served(&origins).len(), 2);
}

/// A body that is malformed somewhere is refused, and never reaches the server as a whole one.
#[test]
fn s7_1_malformed_chunks_are_400_and_end_the_connection() {
    let (origins, proxy) = pair();
    for body in [
        "x\r\n",
        "\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        "1\na\n0\n\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1;\na\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "1\ra\r\n0\r\n\r\n",
        "0\r\nx: y\n\r\n",
        "0\r\n\n",
        "1,\r\na\r\n0\r\n\r\n",
    ] {
        let request = format!("POST /mirror HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let got = raw(proxy.address, format!("{request}GET /second HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
        assert!(got.starts_with("HTTP/1.1 400 ") && got.contains("bad_request"), "{body:?}: {got}");
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{body:?}: {got}");
    }
    assert!(!served(&origins).contains(&"/second".to_owned()));
}

#[test]
fn s7_1_1_extensions_and_s7_1_2_trailers_are_bounded() {
    let (_origins, proxy) = pair();
    let head = "POST /mirror HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for body in [
        format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(100_000)),
        format!("0\r\n{}\r\n", "x: y\r\n".repeat(1000)),
        format!("0\r\nx: {}\r\n\r\n", "y".repeat(100_000)),
    ] {
        let mut conn = proxy.raw();
        let _ = conn.try_send(format!("{head}{body}").as_bytes());
        let answer = conn.answer();
        assert_eq!((answer.status, answer.reason()), (400, Some("bad_request")), "{}", answer.text());
        assert!(conn.is_closed());
    }
}

/// A message is incomplete until all its framing has come: neither side takes it for a whole one.
#[test]
fn s8_an_incomplete_request_is_not_forwarded_as_a_whole_one() {
    for framing in ["content-length: 10\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let (tell, told) = channel();
        let fake = Fake::start(move |_, mut conn| {
            let head = read_head(&mut conn);
            let chunked = head.iter().any(|line| line == "transfer-encoding: chunked");
            let (rest, proper) = conn.rest_and_end();
            tell.send((chunked, String::from_utf8_lossy(&rest).into_owned(), proper)).unwrap();
        });
        let proxy = Proxy::start(&unchecked(fake.address(), ""));
        let mut conn = proxy.raw();
        conn.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}").as_bytes());
        conn.shutdown_write();
        let (chunked, rest, proper) = told.recv().unwrap();
        assert!(if chunked { !rest.contains("0\r\n\r\n") } else { rest.len() < 10 || !proper }, "{rest:?}");
    }
}

#[test]
fn s8_an_incomplete_answer_is_not_passed_on_as_a_whole_one() {
    for said in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\nworld\r\n0\r\n\r\n",
    ] {
        let fake = Fake::saying_once(said);
        let proxy = Proxy::start(&unchecked(fake.address(), ""));
        // HTTP/1.0 has no end of an answer but that of the connection, so that must not be a proper one.
        for version in ["1.1", "1.0"] {
            let mut conn = proxy.raw();
            conn.send(format!("GET / HTTP/{version}\r\nhost: a\r\n\r\n").as_bytes());
            let (got, proper) = conn.rest_and_end();
            let got = String::from_utf8_lossy(&got);
            let refused = got.starts_with(&format!("HTTP/{version} 502"));
            assert!(refused || !proper, "{said:?} {version}: {got}");
            assert!(refused || !got.ends_with("0\r\n\r\n"), "{said:?} {version}: {got}");
        }
    }
}

#[test]
fn s9_2_answers_match_requests_in_their_order_whatever_comes_first() {
    let (_origins, proxy) = pair();
    let mut conn = proxy.raw();
    conn.send(
        b"GET /slow?ms=200 HTTP/1.1\r\nhost: a\r\n\r\nHEAD /bytes?n=9 HTTP/1.1\r\nhost: a\r\n\r\n\
          GET /bytes?n=2 HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    assert_eq!(conn.answer().status, 200);
    assert_eq!(conn.answer_to("HEAD").header("content-length"), Some("9"));
    assert_eq!(conn.answer().body.len(), 2);
}

/// An intermediary does not forward the wish of one hop to the other.
#[test]
fn s9_3_persistence_is_each_hops_own() {
    let head = forwarded(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert!(!head.iter().any(|line| line.starts_with("connection:")), "{head:?}");
    let (_origins, proxy) = pair();
    let mut conn = proxy.raw();
    conn.send(b"GET /bytes HTTP/1.0\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().status, 200);
    assert!(conn.is_closed(), "an HTTP/1.0 client did not ask for it");
}

#[test]
fn s9_6_nothing_is_served_after_close() {
    let (origins, proxy) = pair();
    let two = b"GET /bytes?n=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\nGET /second HTTP/1.1\r\nhost: a\r\n\r\n";
    let got = raw(proxy.address, two);
    assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{got}");
    assert!(got.contains("connection: close"));
    assert_eq!(served(&origins), ["/bytes?n=1"]);
}

/// The rest of what a refused client sends is read for a while, so that the answer is not overtaken by
/// a reset.
#[test]
fn s9_6_a_refused_client_that_goes_on_sending_gets_its_answer() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("max_body = 1000\n{}", app("\"round_robin\"", &origins)));
    let mut conn = proxy.raw();
    conn.send(b"POST /sink HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\n");
    for _ in 0..50 {
        conn.send(&[b'x'; 10_000]);
    }
    let answer = conn.answer();
    assert_eq!((answer.status, answer.reason()), (413, Some("body_too_large")));
    assert_eq!(served(&origins), [""; 0]);
}
