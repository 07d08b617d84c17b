//! The WebSocket protocol, section by section, as far as it binds an intermediary: the handshake keeps
//! its headers and its meaning, and everything after it passes untouched.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::mpsc::channel;

use harness::{Fake, Proxy, Raw, WebSocket, eventually, origins, read_head, unchecked};
use tokio_tungstenite::tungstenite::Message;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

const ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

/// A server that accepts and then does as told, and a client that was accepted.
fn accepted(serve: impl Fn(Raw) + Send + Sync + 'static) -> (Fake, Proxy, Raw) {
    let fake = Fake::start(move |_, mut conn| {
        read_head(&mut conn);
        conn.send(ACCEPT.as_bytes());
        serve(conn);
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    conn.send(ASK.as_bytes());
    assert!(conn.head().unwrap().starts_with("HTTP/1.1 101 "));
    (fake, proxy, conn)
}

/// Every opcode, masked and not, short and long, fragmented, with reserved bits and in wrong order: none
/// of it is the proxy's business.
fn frames() -> Vec<u8> {
    let mut bytes = Vec::new();
    for first in [0x81, 0x82, 0x01, 0x00, 0x80, 0x89, 0x8a, 0xf1, 0x8f, 0x03] {
        bytes.extend([first, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        bytes.extend([first, 0x00]);
    }
    bytes.extend([0x82, 0xfe, 0x01, 0x00, 1, 2, 3, 4]);
    bytes.extend((0..=255_u8).rev());
    bytes.extend([0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 9, 8, 7, 6]);
    bytes.extend((0..65_536_u32).map(|n| (n % 251) as u8));
    bytes
}

#[test]
fn s4_1_the_opening_handshake_reaches_the_server_with_all_its_headers() {
    let (tell, told) = channel();
    let fake = Fake::start(move |_, mut conn| {
        tell.send(read_head(&mut conn)).unwrap();
        conn.send(ACCEPT.as_bytes());
        conn.read_some(&mut [0]).unwrap();
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    conn.send(ASK.as_bytes());
    let head = told.recv().unwrap();
    for line in [
        "get /chat http/1.1",
        "host: server.example.com",
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-key: dghlihnhbxbszsbub25jzq==",
        "origin: http://example.com",
        "sec-websocket-protocol: chat, superchat",
        "sec-websocket-extensions: permessage-deflate; client_max_window_bits",
        "sec-websocket-version: 13",
    ] {
        assert_eq!(head.iter().filter(|l| *l == line).count(), 1, "{line}: {head:?}");
    }
}

#[test]
fn s4_2_2_the_servers_acceptance_reaches_the_client_with_all_its_headers() {
    let fake = Fake::start(|_, mut conn| {
        read_head(&mut conn);
        conn.send(ACCEPT.as_bytes());
        conn.read_some(&mut [0]).unwrap();
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    conn.send(ASK.as_bytes());
    let head = conn.head().unwrap().to_ascii_lowercase();
    for line in ACCEPT.to_ascii_lowercase().lines().filter(|line| !line.is_empty()) {
        assert_eq!(head.matches(&format!("{line}\r\n")).count(), 1, "{line}: {head}");
    }
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
}

/// What is not 101 is an ordinary answer, and the connection goes on as HTTP.
#[test]
fn s4_2_2_a_refusal_and_s4_4_a_version_that_is_not_spoken_reach_the_client() {
    let fake = Fake::saying(
        "HTTP/1.1 426 Upgrade Required\r\nsec-websocket-version: 13, 8\r\nsec-websocket-version: 7\r\ncontent-length: 2\r\n\r\nno",
    );
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    for _ in 0..3 {
        conn.send(ASK.replace("Version: 13", "Version: 25").as_bytes());
        let answer = conn.answer();
        assert_eq!((answer.status, answer.text().as_str()), (426, "no"));
        assert_eq!(answer.all("sec-websocket-version"), ["13, 8", "7"]);
    }
}

/// RFC 9110 §7.8: without `Connection: upgrade` the header is of no hop, and nobody is asked.
#[test]
fn s4_2_1_a_handshake_that_is_none_is_not_forwarded_as_one() {
    for (from, to) in [("Connection: keep-alive, Upgrade\r\n", ""), ("HTTP/1.1\r\nHost", "HTTP/1.0\r\nHost")] {
        let (tell, told) = channel();
        let fake = Fake::start(move |_, mut conn| {
            tell.send(read_head(&mut conn)).unwrap();
            conn.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        });
        let proxy = Proxy::start(&unchecked(fake.address(), ""));
        let mut conn = proxy.raw();
        conn.send(ASK.replace(from, to).as_bytes());
        assert_eq!(conn.answer().status, 400);
        let head = told.recv().unwrap();
        assert!(!head.iter().any(|line| line.starts_with("upgrade:") || line.starts_with("connection:")), "{head:?}");
    }
}

#[test]
fn s5_frames_pass_untouched_both_ways_however_they_are_cut() {
    let all = frames();
    let expected = all.clone();
    let (tell, told) = channel();
    let (_fake, _proxy, mut conn) = accepted(move |mut conn| {
        tell.send(conn.read(expected.len())).unwrap();
        for piece in expected.chunks(7777) {
            conn.send(piece);
        }
    });
    for piece in all.chunks(1000) {
        conn.send(piece);
    }
    assert!(told.recv_timeout(harness::PATIENCE).unwrap() == all, "to the server");
    assert!(conn.read(all.len()) == all, "to the client");
}

/// The server may speak first, in the same packet as its acceptance; the client may not wait.
#[test]
fn s5_frames_sent_along_with_the_handshake_are_not_lost() {
    let fake = Fake::start(|_, mut conn| {
        read_head(&mut conn);
        conn.send(&[ACCEPT.as_bytes(), b"\x81\x05Hello"].concat());
        let got = conn.read(11);
        conn.send(&got);
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    conn.send(&[ASK.as_bytes(), masked].concat());
    assert!(conn.head().unwrap().starts_with("HTTP/1.1 101 "));
    assert_eq!(conn.read(7), b"\x81\x05Hello");
    assert_eq!(conn.read(11), masked);
}

/// Frames that look like requests are neither looked at nor refused.
#[test]
fn s5_what_looks_like_http_after_the_handshake_is_not() {
    let evil = b"GET /#x HTTP/1.1\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    let (_fake, _proxy, mut conn) = accepted(move |mut conn| {
        let got = conn.read(evil.len());
        conn.send(&got);
    });
    conn.send(evil);
    assert_eq!(conn.read(evil.len()), evil);
}

#[test]
fn s5_5_1_a_close_passes_with_its_code_and_its_answer() {
    let origins = origins(1);
    let proxy = Proxy::of("\"round_robin\"", &origins);
    let mut socket = WebSocket::open(proxy.address, "/ws");
    socket.echo_message(&Message::text("hello")).unwrap();
    socket.close();
    eventually("the tunnel has ended", || (proxy.server("app", "a").tunnels == 0).then_some(()));

    let close = b"\x88\x82\x00\x00\x00\x00\x03\xe9";
    let (_fake, _proxy, mut conn) = accepted(move |mut conn| {
        assert_eq!(conn.read(close.len()), close);
        conn.send(b"\x88\x02\x03\xe9");
        // The server ends first.
    });
    conn.send(close);
    assert_eq!(conn.rest_and_end(), (b"\x88\x02\x03\xe9".to_vec(), true));
}

/// Either side learns that the other is gone.
#[test]
fn s7_1_7_a_connection_that_fails_ends_on_the_other_side_too() {
    let (_fake, _proxy, conn) = accepted(|mut conn| {
        conn.read(1);
        conn.reset();
    });
    let mut conn = conn;
    conn.send(b"x");
    assert_eq!(conn.rest_and_end().0, b"");

    let (tell, told) = channel();
    let (_fake, _proxy, conn) = accepted(move |conn| tell.send(conn.rest_and_end().0).unwrap());
    conn.reset();
    assert_eq!(told.recv_timeout(harness::PATIENCE).unwrap(), b"");
}
