//! The streams of an HTTP/2 connection to a server: what becomes of one that is reset, never answered, malformed or
//! slow, and of those beside it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends so")]

use crate::h2_upstream::before;
use crate::harness;

use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use h2::server::Builder;
use harness::{
    Call, DATA, END_HEADERS, END_STREAM, Fake, GOAWAY, H2Server, HEADERS, Proxy, RST_STREAM, Raw, eventually, frame,
    full_backlog, request,
};
use http::Response;
use tokio::sync::Notify;

/// A server of frames: it reads what the proxy sends, up to the end of a request's head, then does what
/// `script` says on connections by number.
fn framed(script: impl Fn(usize, &mut Raw) + Send + Sync + 'static) -> Fake {
    Fake::start(move |number, mut conn| {
        conn.read(24);
        conn.send(&frame(4, 0, 0, &[]));
        conn.send(&frame(4, 1, 0, &[]));
        script(number, &mut conn);
    })
}

/// Reads frames up to the next of this kind: the number of its stream.
fn read_until(conn: &mut Raw, kind: u8) -> u32 {
    loop {
        let head = conn.read(9);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        conn.read(length as usize);
        if head[3] == kind {
            return u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        }
    }
}

const END_STREAM_AND_HEADERS: u8 = 5;
/// `:status: 200`, in HPACK's static table.
const STATUS_200: &[u8] = &[0x88];

fn goaway(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), 0u32.to_be_bytes()].concat())
}

#[test]
fn what_a_goaway_left_undone_is_sent_again() {
    let server = framed(|number, conn| {
        let first = read_until(conn, HEADERS);
        conn.send(&frame(HEADERS, END_STREAM_AND_HEADERS, first, STATUS_200));
        if number == 0 {
            // The second request crosses with this.
            read_until(conn, HEADERS);
            conn.send(&goaway(first));
        }
        // Until the proxy has seen enough of it.
        let _ = conn.read_some(&mut [0; 1 << 16]);
        let _ = conn.read_some(&mut [0; 1 << 16]);
    });
    let proxy = before(server.address(), "retry = { attempts = 0 }");
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 200);
    // Not a retry of the budget: nothing was wrong but the moment.
    assert_eq!(client.post("/pay", b"ten euros").status, 200);
    assert_eq!(server.accepted(), 2);
}

#[test]
fn what_a_goaway_covers_is_answered_and_the_next_request_goes_over_another_connection() {
    let server = framed(|_, conn| {
        let first = read_until(conn, HEADERS);
        conn.send(&goaway(first));
        conn.send(&frame(HEADERS, END_STREAM_AND_HEADERS, first, STATUS_200));
        let mut sink = [0; 1 << 16];
        while conn.read_some(&mut sink).is_ok_and(|n| n > 0) {}
    });
    let proxy = before(server.address(), "retry = { attempts = 0 }");
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(server.accepted(), 3);
}

#[test]
fn a_client_that_leaves_resets_its_stream_and_no_other() {
    let (reasons, told) = std::sync::mpsc::channel();
    let server = H2Server::start(move |mut call: Call| {
        let reasons = reasons.clone();
        async move {
            if call.request.uri().path() == "/slow" {
                reasons.send(call.until_reset().await).unwrap();
            } else {
                call.reply("hello").await;
            }
        }
    });
    let proxy = before(server.address, "");
    let mut leaving = proxy.raw();
    leaving.send((request("GET", "/slow", "a") + "\r\n").as_bytes());
    eventually("it has arrived", || (server.asked().len() == 1).then_some(()));
    drop(leaving);
    assert_eq!(told.recv_timeout(harness::PATIENCE).unwrap(), Reason::CANCEL);
    assert_eq!(proxy.get("/").text(), "hello");
    assert_eq!(server.accepted(), 1);
    eventually("its claim is free", || (proxy.metric("evenkeel_server_in_flight", &[]) == 0.0).then_some(()));
}

#[test]
fn an_answer_that_is_reset_is_not_passed_on_as_complete() {
    let server = framed(|_, conn| {
        let first = read_until(conn, HEADERS);
        conn.send(&frame(HEADERS, END_HEADERS, first, STATUS_200));
        conn.send(&frame(DATA, 0, first, b"half"));
        conn.send(&frame(RST_STREAM, 0, first, &2u32.to_be_bytes()));
        let _ = conn.read_some(&mut [0; 1 << 16]);
    });
    let proxy = before(server.address(), "");
    let mut conn = proxy.raw();
    conn.send((request("GET", "/", "a") + "\r\n").as_bytes());
    let (bytes, proper) = conn.rest_and_end();
    assert!(!proper && !bytes.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&bytes));
    assert_eq!(proxy.metric("evenkeel_errors_total", &["reason=\"truncated\""]), 1.0);
}

#[test]
fn a_reset_without_an_error_is_no_end_either() {
    let server = framed(|number, conn| {
        let first = read_until(conn, HEADERS);
        let flags = if number == 0 { 0 } else { END_STREAM };
        conn.send(&frame(HEADERS, END_HEADERS, first, STATUS_200));
        conn.send(&frame(DATA, flags, first, b"half"));
        conn.send(&frame(RST_STREAM, 0, first, &0u32.to_be_bytes()));
        conn.send(&goaway(first));
        let _ = conn.read_some(&mut [0; 1 << 16]);
    });
    let proxy = before(server.address(), "");
    let asked = request("POST", "/", "a") + "connection: close\r\ncontent-length: 9\r\n\r\nbegun";
    let ask = || {
        let mut conn = proxy.raw();
        conn.send(asked.as_bytes());
        conn.rest_and_end()
    };
    let (bytes, proper) = ask();
    assert!(!proper && !bytes.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&bytes));
    // The end of the stream is: then the server only wants no more of the request (RFC 9113 §8.1).
    let (bytes, _) = ask();
    assert!(bytes.ends_with(b"half\r\n0\r\n\r\n"), "{}", String::from_utf8_lossy(&bytes));
}

/// A request waits on a connection while `attack` sends others to `/unread` on the same.
fn shared_with(attack: impl FnOnce(&Proxy)) {
    let done = Arc::new(Notify::new());
    let told = Arc::clone(&done);
    let server = H2Server::start(move |mut call: Call| {
        let done = Arc::clone(&told);
        async move {
            match call.request.uri().path() {
                "/unread" => drop(call.until_reset().await),
                "/wait" => {
                    done.notified().await;
                    call.reply("whole").await;
                }
                _ => call.reply("hello").await,
            }
        }
    });
    let proxy = before(server.address, "retry = { attempts = 0 }");
    let mut waiting = proxy.raw();
    waiting.send((request("POST", "/wait", "a") + "content-length: 0\r\n\r\n").as_bytes());
    eventually("it has arrived", || (server.asked().len() == 1).then_some(()));
    attack(&proxy);
    assert_eq!(proxy.get("/").text(), "hello");
    done.notify_one();
    let answer = waiting.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "whole"));
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_body_in_small_chunks_harms_nobody_else() {
    shared_with(|proxy| {
        let mut conn = proxy.raw();
        conn.send((request("POST", "/unread", "a") + "transfer-encoding: chunked\r\n\r\n").as_bytes());
        for _ in 0..200 {
            conn.send(b"1\r\nx\r\n");
            // So that they come one by one.
            std::thread::sleep(Duration::from_millis(1));
        }
        // Its stream is still there when the others are answered.
        assert_eq!(proxy.get("/").status, 200);
    });
}

#[test]
fn the_deadline_of_one_request_is_no_other_ones() {
    let (listener, _queued) = full_backlog();
    let address = listener.local_addr().unwrap().to_string();
    let proxy = before(&address, "retry = { attempts = 0 }\ntimeouts = { connect = \"2s\" }");
    let (mut hurried, mut patient) = (proxy.raw(), proxy.raw());
    hurried.send((request("GET", "/", "a") + "grpc-timeout: 1S\r\n\r\n").as_bytes());
    eventually("it has come", || (proxy.server("app", &address).in_flight == 1).then_some(()));
    // This one waits for the connection that the other opens.
    patient.send((request("GET", "/", "a") + "\r\n").as_bytes());
    let answer = hurried.answer();
    assert_eq!(answer.reason(), Some("request_timeout"));
    let answer = patient.answer();
    assert_eq!(answer.reason(), Some("connect_timeout"));
}

#[test]
fn an_answer_that_is_there_before_the_end_of_the_upload_is_passed_on() {
    let server = H2Server::start(|mut call: Call| async move {
        let response = Response::builder().status(413).body(()).unwrap();
        // What is left of the request is not read: h2 resets the stream with NO_ERROR for that.
        call.respond.send_response(response, true).unwrap();
    });
    let proxy = before(server.address, "");
    let mut conn = proxy.raw();
    conn.send((request("POST", "/", "a") + "content-length: 1000000\r\n\r\nbegun").as_bytes());
    assert_eq!(conn.answer().status, 413);
    // The connection was not harmed.
    let mut conn = proxy.raw();
    conn.send((request("POST", "/", "a") + "content-length: 1000000\r\n\r\nbegun").as_bytes());
    assert_eq!(conn.answer().status, 413);
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_small_window_slows_an_upload_and_breaks_nothing() {
    let mut settings = Builder::new();
    settings.initial_window_size(100).initial_connection_window_size(70_000);
    let server = H2Server::with(settings, |mut call: Call| async move {
        let (body, _) = call.body().await.unwrap();
        let sum: u64 = body.iter().map(|b| u64::from(*b)).sum();
        call.reply(format!("{} {sum}", body.len())).await;
    });
    let proxy = before(server.address, "");
    let body: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    let sum: u64 = body.iter().map(|b| u64::from(*b)).sum();
    assert_eq!(proxy.client().post("/", &body).text(), format!("300000 {sum}"));
}

#[test]
fn a_client_that_takes_nothing_holds_up_nobody_else() {
    let server = H2Server::start(|mut call: Call| async move {
        let size = if call.request.uri().path() == "/large" { 8 << 20 } else { 100_000 };
        call.reply(vec![b'x'; size]).await;
    });
    let proxy = before(server.address, "");
    let mut slow: Vec<Raw> = (0..8).map(|_| proxy.raw()).collect();
    for conn in &mut slow {
        conn.send((request("GET", "/large", "a") + "\r\n").as_bytes());
        conn.head().unwrap();
    }
    for _ in 0..5 {
        assert_eq!(proxy.get("/").body.len(), 100_000);
    }
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_server_of_another_protocol_gets_no_request() {
    let server = Fake::start(|_, mut conn| {
        conn.read(24);
        let _ = conn.try_send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    let proxy = before(server.address(), "");
    let answer = proxy.client().post("/", b"x");
    assert_eq!((answer.status, answer.reason()), (502, Some("connect_failed")));
}

#[test]
fn a_malformed_answer_is_502_and_ends_its_stream_only() {
    let server = framed(|_, conn| {
        let first = read_until(conn, HEADERS);
        // `connection: close`, which HTTP/2 forbids (RFC 9113 §8.2.2).
        let mut block = STATUS_200.to_vec();
        block.extend_from_slice(b"\x00\x0aconnection\x05close");
        conn.send(&frame(HEADERS, END_STREAM_AND_HEADERS, first, &block));
        let second = read_until(conn, HEADERS);
        conn.send(&frame(HEADERS, END_STREAM_AND_HEADERS, second, STATUS_200));
        let _ = conn.read_some(&mut [0; 1 << 16]);
    });
    let proxy = before(server.address(), "");
    let mut client = proxy.client();
    let answer = client.post("/", b"x");
    assert_eq!((answer.status, answer.reason()), (502, Some("bad_answer")));
    assert_eq!(client.get("/").status, 200);
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_server_that_falls_silent_gets_no_further_request_on_that_connection() {
    let server = framed(|number, conn| {
        if number > 0 {
            let first = read_until(conn, HEADERS);
            conn.send(&frame(HEADERS, END_STREAM_AND_HEADERS, first, STATUS_200));
        }
        // Nothing is answered, pings neither.
        let mut sink = [0; 1 << 16];
        while conn.read_some(&mut sink).is_ok_and(|n| n > 0) {}
    });
    let proxy = before(server.address(), "retry = { attempts = 0 }\ntimeouts = { first_byte = \"1500ms\" }");
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 504);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(server.accepted(), 2);
}

#[test]
fn a_slow_server_that_is_there_keeps_its_connection() {
    let server = H2Server::start(|mut call: Call| async move {
        if call.request.uri().path() == "/slow" {
            call.until_reset().await;
        } else {
            call.reply("hello").await;
        }
    });
    let proxy = before(server.address, "retry = { attempts = 0 }\ntimeouts = { first_byte = \"1500ms\" }");
    let mut client = proxy.client();
    assert_eq!(client.get("/slow").status, 504);
    eventually("it has answered the ping", || {
        client.get("/");
        (server.asked().last().unwrap().connection == 1).then_some(())
    });
}
