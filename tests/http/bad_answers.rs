//! What a broken server says: the client gets a status and a reason, never half of it, and the next
//! request is not touched by it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use harness::{Fake, Proxy, unchecked};

#[test]
fn malformed_answers_are_502_and_the_client_goes_on() {
    let fake = Fake::start(|_, mut conn| {
        let head = harness::read_head(&mut conn);
        let Some(n) = head.first().and_then(|l| l.split(['/', ' ']).nth(2)?.parse::<usize>().ok()) else { return };
        let _ = conn.try_send(ANSWERS[n]);
        // What was said must be read before the end of the connection is seen.
        let _ = conn.read_some(&mut [0]);
    });
    let proxy = Proxy::start(&unchecked(fake.address(), "[upstream.app.retry]\nattempts = 0\n"));
    let mut client = proxy.client();
    for (n, said) in ANSWERS.iter().enumerate() {
        let answer = client.get(&format!("/{n}"));
        let said = String::from_utf8_lossy(said);
        assert_eq!((answer.status, answer.reason()), (502, Some("bad_answer")), "{:?}: {}", said, answer.text());
        assert!(!answer.text().contains("hi-there"));
    }
}

const ANSWERS: &[&[u8]] = &[
    b"hi-there\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nx y: 1\r\ncontent-length: 8\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 8\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\ncontent-length: 9\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\ncontent-length: 8, 9\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\ncontent-length: -8\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\ncontent-length: eight\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n8\r\nhi-there\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n8\r\nhi-there\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n8\r\nhi-there\r\n0\r\n\r\n",
    b"HTTP/1.1 099 Low\r\ncontent-length: 8\r\n\r\nhi-there",
    b"HTTP/1.1 2000 Long\r\ncontent-length: 8\r\n\r\nhi-there",
    b"HTTP/1.1 200 O\0K\r\ncontent-length: 8\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 8\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\nx\0: a\r\ncontent-length: 8\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 8\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\n content-length: 8\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\ncontent-length : 8\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\ncontent-length: 0x8\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nhi-there",
    b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\ntransfer-encoding: chunked\r\n\r\n8\r\nhi-there\r\n0\r\n\r\n",
];

#[test]
fn an_answer_without_an_end_of_its_head_is_502() {
    let fake = Fake::start(|_, mut conn| {
        harness::read_head(&mut conn);
        conn.send(b"HTTP/1.1 200 OK\r\n");
        while conn.try_send(b"x-a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").is_ok() {}
    });
    let proxy = Proxy::start(&unchecked(fake.address(), "[upstream.app.retry]\nattempts = 0\n"));
    let answer = proxy.get("/");
    assert_eq!((answer.status, answer.reason()), (502, Some("bad_answer")));
}

#[test]
fn a_server_that_hangs_up_is_502() {
    for (said, reason) in [("", "reset"), ("HTTP/1.1 2", "reset"), ("HTTP/1.1 200 OK\r\ncontent-le", "reset")] {
        let fake = Fake::saying_once(said);
        let proxy = Proxy::start(&unchecked(fake.address(), "[upstream.app.retry]\nattempts = 0\n"));
        let mut client = proxy.client();
        for method in ["GET", "POST"] {
            let answer = client.send(method, "/", &[], b"");
            assert_eq!((answer.status, answer.reason()), (502, Some(reason)), "{said:?} {method}");
        }
    }
}

#[test]
fn a_server_that_frames_twice_is_passed_on_framed_once() {
    let fake = Fake::saying_once(
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n8\r\nhi-there\r\n0\r\n\r\n",
    );
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let answer = proxy.get("/");
    if answer.status == 200 {
        assert_eq!(answer.text(), "hi-there");
        assert_eq!(answer.header("content-length"), None);
    } else {
        assert_eq!(answer.reason(), Some("bad_answer"));
    }
}

/// An answer that has begun is never asked for again.
#[test]
fn a_malformed_answer_is_not_asked_for_again() {
    let fake = Fake::saying_once("nonsense\r\n\r\n");
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    assert_eq!(proxy.get("/").status, 502);
    assert_eq!(fake.accepted(), 1);
}
