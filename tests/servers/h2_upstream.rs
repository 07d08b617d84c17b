//! HTTP/2 to servers: what they get, how connections are shared, and what becomes of a request that a
//! server refuses, resets or never answers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::Builder;
use harness::{
    Call, Client2, DATA, END_HEADERS, END_STREAM, Fake, Frames, GOAWAY, H2Server, HEADERS, PING, Proxy, RST_STREAM,
    Raw, WINDOW_UPDATE, eventually, frame, full_backlog, request, send,
};
use http::{HeaderMap, HeaderValue, Response};
use tokio::sync::{Barrier, Notify};

/// One core, so one pool, before one server; `more` goes into the upstream's table.
fn before(address: impl std::fmt::Display, more: &str) -> Proxy {
    let protocol = if more.contains("protocol") { "" } else { "protocol = \"h2c\"\n" };
    Proxy::start(&format!("cores = 1\n[upstream.app]\ncheck = \"off\"\nservers = [\"{address}\"]\n{protocol}{more}\n"))
}

/// Asks `count` times at once; statuses in no order.
fn at_once(proxy: &Proxy, count: usize) -> Vec<u16> {
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..count).map(|_| scope.spawn(|| proxy.get("/").status)).collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    })
}

async fn hello(mut call: Call) {
    call.reply("hello").await;
}

#[test]
fn a_server_gets_a_request_as_http2_has_it() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "");
    let headers = [
        ("host", "shop.example:81"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip, trailers"),
        ("x-kept", "yes"),
    ];
    let mut conn = proxy.raw();
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    conn.send(format!("GET /a/b?c=d HTTP/1.1\r\n{lines}\r\n").as_bytes());
    let answer = conn.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let asked = &server.asked()[0];
    assert_eq!((asked.method.as_str(), asked.uri.as_str()), ("GET", "http://shop.example:81/a/b?c=d"));
    for gone in ["host", "connection", "keep-alive", "x-hop", "transfer-encoding"] {
        assert!(!asked.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(asked.headers["te"], "trailers");
    assert_eq!(asked.headers["x-kept"], "yes");
    assert_eq!(asked.headers["x-forwarded-for"], "127.0.0.1");
}

#[test]
fn targets_without_a_path_or_a_host_have_a_form_in_http2() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "");
    let mut conn = proxy.raw();
    conn.send(b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().status, 200);
    let mut conn = proxy.raw();
    conn.send(b"GET /old HTTP/1.0\r\n\r\n");
    assert_eq!(conn.answer().status, 200);
    let asked = server.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].uri.as_str()), ("OPTIONS", "http://a*"));
    assert_eq!(asked[1].uri, format!("http://{}/old", server.address));
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let server = H2Server::start(|mut call: Call| async move {
        let (body, trailers) = call.body().await.unwrap();
        let sum = trailers.and_then(|t| t.get("x-sum").cloned()).unwrap_or(HeaderValue::from_static("none"));
        let response = Response::builder().header("trailer", "x-back").header("x-sum", sum).body(()).unwrap();
        let stream = call.respond.send_response(response, false).unwrap();
        let mut stream = send(stream, Bytes::from(body), false).await.unwrap();
        let back = HeaderMap::from_iter([("x-back".parse().unwrap(), HeaderValue::from_static("7"))]);
        stream.send_trailers(back).unwrap();
    });
    let proxy = before(server.address, "");
    let mut conn = proxy.raw();
    let rest = "transfer-encoding: chunked\r\ntrailer: x-sum\r\nte: trailers\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n";
    conn.send((request("POST", "/", "a") + rest).as_bytes());
    let answer = conn.answer();
    assert_eq!((answer.header("x-sum"), answer.text().as_str()), (Some("42"), "abc"));
    assert_eq!(answer.trailers, [("x-back".to_owned(), "7".to_owned())]);
}

#[test]
fn answers_without_a_body_have_none() {
    let server = H2Server::start(|mut call: Call| async move {
        let status = if call.request.uri().path() == "/none" { 204 } else { 200 };
        let mut response = Response::builder().status(status);
        if status == 200 {
            response = response.header("content-length", 5);
        }
        let is_head = call.request.method() == http::Method::HEAD;
        call.respond.send_response(response.body(()).unwrap(), true).unwrap();
        assert!(is_head || status == 204);
    });
    let proxy = before(server.address, "");
    let mut client = proxy.client();
    assert_eq!(client.send("HEAD", "/", &[], b"").header("content-length"), Some("5"));
    assert_eq!(client.get("/none").status, 204);
    assert_eq!(server.accepted(), 1);
}

#[test]
fn requests_share_a_connection() {
    // No request is answered before all have come.
    let all = Arc::new(Barrier::new(6));
    let server = H2Server::start(move |mut call: Call| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            call.reply("together").await;
        }
    });
    let proxy = before(server.address, "");
    assert_eq!(at_once(&proxy, 6), [200; 6]);
    assert_eq!(server.accepted(), 1);
    eventually("it is idle", || (proxy.metric("evenkeel_server_idle_connections", &[]) == 1.0).then_some(()));
}

#[test]
fn a_connection_carries_no_more_requests_at_once_than_the_server_allows() {
    let all = Arc::new(Barrier::new(6));
    let mut settings = Builder::new();
    settings.max_concurrent_streams(2);
    let server = H2Server::with(settings, move |mut call: Call| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            call.reply("two by two").await;
        }
    });
    // A refused request would be an error, since there is no retry.
    let proxy = before(server.address, "retry = { attempts = 0 }");
    assert_eq!(at_once(&proxy, 6), [200; 6]);
    let mut on: Vec<usize> = server.asked().iter().map(|asked| asked.connection).collect();
    on.sort_unstable();
    assert_eq!(on, [1, 1, 2, 2, 3, 3]);
}

#[test]
fn nor_more_than_the_configuration_says() {
    let all = Arc::new(Barrier::new(4));
    let server = H2Server::start(move |mut call: Call| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            call.reply("one each").await;
        }
    });
    let proxy = before(server.address, "protocol = { h2c = { max_streams = 1 } }");
    assert_eq!(at_once(&proxy, 4), [200; 4]);
    assert_eq!(server.accepted(), 4);
}

#[test]
fn a_connection_is_closed_when_it_has_carried_what_it_may() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "pool = { max_requests = 2 }");
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").status, 200);
    }
    let on: Vec<usize> = server.asked().iter().map(|asked| asked.connection).collect();
    assert_eq!(on, [1, 1, 2, 2, 3]);
    eventually("the used-up ones are closed", || (server.open() == 1).then_some(()));
}

#[test]
fn a_connection_is_idle_no_longer_than_it_may() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "pool = { idle_timeout = \"300ms\" }");
    assert_eq!(proxy.get("/").status, 200);
    eventually("it is closed", || (server.open() == 0).then_some(()));
    assert_eq!(proxy.metric("evenkeel_server_idle_connections", &[]), 0.0);
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(server.accepted(), 2);
}

#[test]
fn a_refused_request_goes_elsewhere_whatever_its_method() {
    let refusing = H2Server::start(|mut call: Call| async move {
        // Even with the body in its hands: RFC 9113 §8.7 says that nothing was done with it.
        call.body().await.unwrap();
        call.reset(Reason::REFUSED_STREAM);
    });
    let taking = H2Server::start(|mut call: Call| async move {
        let (body, _) = call.body().await.unwrap();
        call.reply(body).await;
    });
    let (a, b) = (refusing.address, taking.address);
    let proxy = Proxy::start(&format!(
        "cores = 1\n[upstream.app]\ncheck = \"off\"\noutliers = false\nprotocol = \"h2c\"\nservers = [\"{a}\", \"{b}\"]\n"
    ));
    let mut client = proxy.client();
    for _ in 0..4 {
        let answer = client.post("/pay", b"ten euros");
        assert_eq!((answer.status, answer.text().as_str()), (200, "ten euros"));
    }
    assert!(!refusing.asked().is_empty());
    // More than is kept of a body cannot be sent again.
    let large = vec![b'x'; 200_000];
    let refused = (0..2).map(|_| client.post("/", &large)).find(|answer| answer.status != 200).unwrap();
    assert_eq!((refused.status, refused.reason()), (503, Some("stream_refused")));
    // Nor can very many pieces, however small they are.
    let pieces = "transfer-encoding: chunked\r\n\r\n".to_owned() + &"1\r\nx\r\n".repeat(1000) + "0\r\n\r\n";
    let in_pieces = || {
        let mut conn = proxy.raw();
        conn.send((request("POST", "/", "a") + &pieces).as_bytes());
        conn.answer()
    };
    let refused = (0..2).map(|_| in_pieces()).find(|answer| answer.status != 200).unwrap();
    assert_eq!((refused.status, refused.reason()), (503, Some("stream_refused")));
}

#[test]
fn a_refused_request_is_sent_again_with_its_trailers() {
    let refusing = H2Server::start(|mut call: Call| async move {
        call.body().await.unwrap();
        call.reset(Reason::REFUSED_STREAM);
    });
    let silent = H2Server::start(|mut call: Call| async move {
        let (_, trailers) = call.body().await.unwrap();
        assert_eq!(trailers.unwrap()["x-sum"], "42");
        call.until_reset().await;
    });
    let (a, b) = (refusing.address, silent.address);
    let timeouts = "timeouts = { first_byte = \"300ms\", between_bytes = \"20s\" }\nretry = { attempts = 1 }";
    let proxy = Proxy::start(&format!(
        "cores = 1\n[upstream.app]\ncheck = \"off\"\nprotocol = \"h2c\"\nservers = [\"{a}\", \"{b}\"]\n{timeouts}\n"
    ));
    let rest = "transfer-encoding: chunked\r\ntrailer: x-sum\r\nte: trailers\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n";
    for _ in 0..2 {
        let mut conn = proxy.raw();
        conn.send((request("POST", "/", "a") + rest).as_bytes());
        let answer = conn.answer();
        // All was sent, so it is the answer that is waited for, and the connection serves on.
        assert_eq!((answer.status, answer.reason()), (504, Some("first_byte_timeout")));
        assert_ne!(answer.header("connection"), Some("close"));
    }
    assert!(!refusing.asked().is_empty());
}

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

#[test]
fn a_drained_server_keeps_no_connection() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "");
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(server.open(), 1);
    proxy.change("app", &server.address.to_string(), &serde_json::json!({ "admin": "disabled" }));
    eventually("it is closed", || (server.open() == 0).then_some(()));
}

#[test]
fn requests_that_come_while_a_connection_is_refused_do_not_wait_for_each_other() {
    let refusing = harness::Refusing::new();
    let proxy = before(refusing.address, "retry = { attempts = 0 }");
    assert_eq!(at_once(&proxy, 8), [502; 8]);
}

#[test]
fn an_upgrade_is_an_ordinary_request_to_a_server_that_knows_none() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "");
    let mut conn = proxy.raw();
    conn.send((request("GET", "/", "a") + "connection: upgrade\r\nupgrade: websocket\r\n\r\n").as_bytes());
    assert_eq!(conn.answer().status, 200);
    assert!(!server.asked()[0].headers.contains_key("upgrade"));
}

#[test]
fn the_protocol_changes_by_a_reload() {
    let server = H2Server::start(hello);
    let old = format!("[upstream.app]\ncheck = \"off\"\nservers = [\"{}\"]\n", server.address);
    let proxy = Proxy::start(&old);
    assert_eq!(proxy.get("/").status, 502);
    proxy.reload(&format!("{old}protocol = \"h2c\"\n")).unwrap();
    assert_eq!(proxy.get("/").status, 200);
}

/// What HTTP/1 would not say, HTTP/2 can: all that a trailer may not be is left out (RFC 9110 §6.5.1).
#[test]
fn trailers_that_belong_into_a_head_are_left_out_both_ways() {
    const FORGED: [&str; 7] =
        ["x-client-cert-subject", "x_forwarded_for", "host", "content-length", "x-request-id", "cookie", "x-sum"];
    fn forged() -> HeaderMap {
        FORGED.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("1"))).collect()
    }
    let (tell, told) = std::sync::mpsc::channel();
    let server = H2Server::start(move |mut call: Call| {
        let tell = tell.clone();
        async move {
            let only_forged = call.request.uri().path() == "/none";
            tell.send(call.body().await.unwrap().1).unwrap();
            let stream = call.respond.send_response(Response::new(()), false).unwrap();
            let mut stream = send(stream, Bytes::from_static(b"body"), false).await.unwrap();
            let mut trailers = forged();
            if only_forged {
                trailers.remove("x-sum");
            }
            stream.send_trailers(trailers).unwrap();
        }
    });
    let proxy = before(server.address, "");
    let client = Client2::to(proxy.address);
    let left = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("1"))]);
    let answer = client.send_with_trailers(Client2::request("POST", "/").body(()).unwrap(), b"abc", forged());
    assert_eq!((answer.body.as_slice(), answer.trailers), (&b"body"[..], Some(left.clone())));
    assert_eq!(told.recv().unwrap(), Some(left));
    // Where nothing is left there are none, and both bodies end all the same.
    let mut none = forged();
    none.remove("x-sum");
    let answer = client.send_with_trailers(Client2::request("POST", "/none").body(()).unwrap(), b"abc", none);
    assert_eq!((answer.body.as_slice(), answer.trailers), (&b"body"[..], None));
    assert_eq!(told.recv().unwrap(), None);
}

#[test]
fn an_answer_that_ends_with_its_head_is_not_called_compressed() {
    let server = H2Server::start(|mut call: Call| async move {
        let response = Response::builder().header("content-type", "text/plain").body(()).unwrap();
        call.respond.send_response(response, true).unwrap();
    });
    let proxy = Proxy::start(&format!(
        "[[route]]\nname = \"r\"\nupstream = \"app\"\ncompress = true\n\
         [upstream.app]\ncheck = \"off\"\nservers = [\"{}\"]\nprotocol = \"h2c\"\n",
        server.address
    ));
    let mut client = proxy.client();
    let answer = client.send("GET", "/", &[("accept-encoding", "gzip")], b"");
    assert_eq!((answer.status, answer.header("content-encoding"), answer.body.len()), (200, None, 0));
}

/// As of a client's stream of gRPC: more small messages than the server takes for now.
#[test]
fn many_small_frames_wait_for_a_slow_server() {
    let (let_go, go) = tokio::sync::watch::channel(false);
    let mut settings = Builder::new();
    settings.initial_window_size(1 << 10);
    let server = H2Server::with(settings, move |mut call: Call| {
        let mut go = go.clone();
        async move {
            let _ = go.wait_for(|go| *go).await;
            let length = call.body().await.map_or(0, |(body, _)| body.len());
            call.reply(length.to_string()).await;
        }
    });
    let proxy = before(server.address, "");
    let ask = |frames: &mut Frames| {
        // The connection's window is small until it is said otherwise.
        frames.next_of(&[WINDOW_UPDATE]).unwrap();
        let post = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
        frames.send(HEADERS, END_HEADERS, 1, &Frames::block(&post));
    };
    let mut frames = Frames::to(proxy.address);
    ask(&mut frames);
    let message = Frames::frame(DATA, 0, 1, &[b'x'; 16]);
    // All that the window of a stream lets through.
    frames.raw(&message.repeat(32_000));
    frames.send(PING, 0, 0, &[7; 8]);
    let next = frames.next_of(&[PING, GOAWAY, RST_STREAM]).unwrap();
    assert_eq!((next.kind, next.payload), (PING, vec![7; 8]), "it is there and waits");

    let_go.send(true).unwrap();
    frames.send(DATA, END_STREAM, 1, b"");
    let answer = frames.next_of(&[DATA]).unwrap();
    assert_eq!(answer.payload, b"512000");
}
