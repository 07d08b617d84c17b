//! HTTP semantics, section by section, as far as they bind an intermediary. What is said in more detail
//! by another test file is not said again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::mpsc::channel;
use std::time::Duration;

use harness::{Fake, Proxy, Raw, answer, forwarded, raw, read_head, unchecked};

/// A server that says this to every request, and the proxy in front of it.
fn saying(said: &'static str) -> (Fake, Proxy) {
    let fake = Fake::saying(said);
    let proxy =
        Proxy::start(&format!("cores = 1\n{}", unchecked(fake.address(), "[upstream.app.retry]\nattempts = 0\n")));
    (fake, proxy)
}

fn get(proxy: &Proxy) -> Raw {
    let mut conn = proxy.raw();
    conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    conn
}

/// The next head, in lower case.
#[track_caller]
fn head(conn: &mut Raw) -> String {
    conn.head().expect("a head").to_ascii_lowercase()
}

#[test]
fn s5_3_lines_of_one_name_keep_their_order() {
    let lines = forwarded(b"GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\ny: a\r\nX: 2\r\nx: 3, 4\r\n\r\n");
    let x: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("x: ")).collect();
    assert_eq!(x, ["1", "2", "3, 4"]);
    let (_fake, proxy) =
        saying("HTTP/1.1 200 OK\r\nx: 1\r\nset-cookie: a=1\r\nx: 2\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n");
    let answer = proxy.get("/");
    assert_eq!((answer.all("x"), answer.all("set-cookie")), (vec!["1", "2"], vec!["a=1", "b=2"]));
}

#[test]
fn s5_5_values_are_opaque_bytes() {
    let (_fake, proxy) = saying("HTTP/1.1 200 OK\r\nx: \u{e9}\t;\"\r\ncontent-length: 0\r\n\r\n");
    assert!(head(&mut get(&proxy)).contains("x: \u{e9}\t;\"\r\n"));
}

/// Trailers are not merged into the header section, and only reach those who said that they take them.
#[test]
fn s6_5_trailers_stay_trailers() {
    let (_fake, proxy) = saying(
        "HTTP/1.1 200 OK\r\ntrailer: x-t, set-cookie\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-t: 1\r\nset-cookie: a=1\r\n\r\n",
    );
    for te in ["te: trailers\r\n", ""] {
        let got = raw(proxy.address, format!("GET / HTTP/1.1\r\nhost: a\r\n{te}connection: close\r\n\r\n").as_bytes());
        let (head, body) = got.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("x-t: 1") && !head.contains("a=1"), "{got}");
        assert_eq!(body.contains("x-t: 1"), !te.is_empty(), "{got}");
    }
}

#[test]
fn s6_6_1_a_date_is_added_where_there_is_none_and_left_where_there_is_one() {
    let (_fake, proxy) = saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert!(proxy.get("/").header("date").is_some());
    let (_fake, proxy) = saying("HTTP/1.1 200 OK\r\ndate: Tue, 15 Nov 1994 08:12:31 GMT\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(proxy.get("/").all("date"), ["Tue, 15 Nov 1994 08:12:31 GMT"]);
}

#[test]
fn s7_6_1_what_connection_names_goes_no_further() {
    let lines = forwarded(
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: x-a\r\nconnection: x-b, close\r\nx-a: 1\r\nX-B: 2\r\nx-c: 3\r\n\r\n",
    );
    assert!(!lines.iter().any(|l| l.starts_with("x-a:") || l.starts_with("x-b:") || l.starts_with("connection:")));
    assert!(lines.contains(&"x-c: 3".to_owned()));
}

#[test]
fn s7_6_2_max_forwards_is_counted_down_and_zero_goes_no_further() {
    for method in ["OPTIONS", "TRACE"] {
        let lines = forwarded(format!("{method} / HTTP/1.1\r\nhost: a\r\nmax-forwards: 3\r\n\r\n").as_bytes());
        assert!(lines.contains(&"max-forwards: 2".to_owned()), "{lines:?}");
        let (fake, proxy) = saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let answer = proxy.client().send(method, "/", &[("max-forwards", "0")], b"");
        assert_eq!((answer.status, answer.reason(), fake.accepted()), (501, Some("method_refused"), 0));
        for odd in ["-1", "x", "1, 2", ""] {
            assert_eq!(proxy.client().send(method, "/", &[("max-forwards", odd)], b"").status, 400, "{odd}");
        }
    }
    // It means nothing for other methods.
    assert!(forwarded(b"GET / HTTP/1.1\r\nhost: a\r\nmax-forwards: 0\r\n\r\n").contains(&"max-forwards: 0".to_owned()));
}

#[test]
fn s7_7_content_and_its_metadata_are_not_touched() {
    let (_fake, proxy) = saying(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-type: a/b; c=d\r\netag: \"x\"\r\ncache-control: no-transform\r\ncontent-length: 3\r\n\r\n\x01\x02\x03",
    );
    let answer = proxy.get("/");
    assert_eq!(answer.body, [1, 2, 3]);
    for (name, value) in [("content-encoding", "gzip"), ("content-type", "a/b; c=d"), ("etag", "\"x\"")] {
        assert_eq!(answer.all(name), [value]);
    }
}

#[test]
fn s8_6_an_answer_without_content_gets_no_length_of_another() {
    let fake = Fake::start(|_, mut conn| {
        while let head = read_head(&mut conn)
            && !head.is_empty()
        {
            conn.send(if head[0].starts_with("head") {
                b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n".as_slice()
            } else {
                b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1234\r\n\r\n"
            });
        }
    });
    let proxy = Proxy::start(&format!("cores = 1\n{}", unchecked(fake.address(), "")));
    let mut conn = proxy.raw();
    conn.send(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(head(&mut conn).contains("content-length: 1234\r\n"));
    conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(head(&mut conn).starts_with("http/1.1 304"), "no content came in between");
    assert!(conn.is_silent_for(Duration::from_millis(100)));
    assert_eq!(fake.accepted(), 1);
}

#[test]
fn s15_codes_that_nobody_knows_pass_as_they_are() {
    let (_fake, proxy) = saying("HTTP/1.1 299 Odd But Fine\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(proxy.get("/").status, 299);
    let (_fake, proxy) = saying("HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n");
    assert_eq!(proxy.get("/").status, 599);
}

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n\
    connection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=1\r\ncontent-length: 3\r\n\r\n";

/// RFC 8297: hints reach the client before the answer, and when they come, not when the answer does.
#[test]
fn s15_2_interim_answers_are_passed_on_when_they_come() {
    let (go, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let fake = Fake::start(move |_, mut conn| {
        while !read_head(&mut conn).is_empty() {
            conn.send(HINTS.as_bytes());
            let _ = wait.lock().unwrap().recv_timeout(harness::PATIENCE);
            conn.send(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
        }
    });
    let proxy = Proxy::start(&format!("cores = 1\n{}", unchecked(fake.address(), "")));
    let mut conn = proxy.raw();
    for method in ["GET", "POST", "GET"] {
        let body = if method == "POST" { "content-length: 3\r\n\r\nabc" } else { "\r\n" };
        conn.send(format!("{method} / HTTP/1.1\r\nhost: a\r\n{body}").as_bytes());
        assert_eq!(
            head(&mut conn),
            "http/1.1 103 early hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n\r\n"
        );
        assert!(conn.is_silent_for(Duration::from_millis(50)));
        go.send(()).unwrap();
        assert_eq!(head(&mut conn), "http/1.1 102 processing\r\n\r\n");
        assert_eq!(conn.answer().text(), "hi");
    }
    assert_eq!(fake.accepted(), 1, "and the server's connection goes on");
}

#[test]
fn s15_2_interim_answers_come_before_an_answer_that_comes_at_once() {
    let (_fake, proxy) = saying(
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 199 Mine\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    );
    let mut conn = proxy.raw();
    // Pipelined, so that the second is served while the first is written.
    conn.send(&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(20));
    for _ in 0..20 {
        assert_eq!(head(&mut conn), "http/1.1 103 early hints\r\nlink: </a>\r\n\r\n");
        assert_eq!(head(&mut conn), "http/1.1 199 \r\nx: y\r\n\r\n");
        assert_eq!(conn.answer().text(), "hi");
    }
}

#[test]
fn s15_2_an_http_1_0_client_gets_none() {
    let (_fake, proxy) =
        saying("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    let got = raw(proxy.address, b"GET / HTTP/1.0\r\nhost: a\r\n\r\n");
    assert!(got.starts_with("HTTP/1.0 200 ") && got.ends_with("\r\n\r\nhi"), "{got}");
}

/// The expectation was answered on the client's own hop.
#[test]
fn s15_2_1_the_servers_100_is_not_passed_on() {
    let (_fake, proxy) = saying("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
    assert!(head(&mut get(&proxy)).starts_with("http/1.1 200"));
}

#[test]
fn s15_2_interim_answers_without_end_are_502() {
    let fake = Fake::start(|_, mut conn| {
        read_head(&mut conn);
        while conn.try_send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").is_ok() {}
    });
    let proxy = Proxy::start(&unchecked(fake.address(), "[upstream.app.retry]\nattempts = 0\n"));
    for version in ["1.1", "1.0"] {
        let mut conn = proxy.raw();
        conn.send(format!("GET / HTTP/{version}\r\nhost: a\r\n\r\n").as_bytes());
        let mut hints = 0;
        let answer = loop {
            let head = head(&mut conn);
            if head.starts_with("http/1.1 103") {
                hints += 1;
            } else {
                break head;
            }
        };
        assert!(answer.starts_with(&format!("http/{version} 502")) && answer.contains("bad_answer"), "{answer}");
        assert!(hints <= 33 && (hints == 0 || version == "1.1"), "{hints}");
    }
}

/// The answers of a server that was given up do not count against the next.
#[test]
fn s15_2_interim_answers_without_end_are_one_servers_matter() {
    let endless = Fake::start(|_, mut conn| {
        read_head(&mut conn);
        while conn.try_send(b"HTTP/1.1 103 Early Hints\r\n\r\n").is_ok() {}
    });
    let sound = Fake::answering(|_, _, _| Some("HTTP/1.1 103 Early Hints\r\n\r\n".to_owned() + &answer(200, "sound")));
    let proxy = Proxy::start(&format!(
        "cores = 1\n[upstream.app]\ncheck = \"off\"\nservers = [\"{}\", \"{}\"]\nretry = {{ attempts = 1 }}\n",
        endless.address(),
        sound.address()
    ));
    for _ in 0..6 {
        let mut conn = get(&proxy);
        let last = loop {
            let head = head(&mut conn);
            if !head.starts_with("http/1.1 103") {
                break head;
            }
        };
        assert!(last.starts_with("http/1.1 200"), "{last}");
    }
    assert!(endless.accepted() > 0);
}
