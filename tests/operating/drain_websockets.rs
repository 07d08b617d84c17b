//! WebSockets of a server that is drained, and of a process that stops: closed last, one after the other,
//! with a close frame for both sides (RFC 6455 §7.4.1) and only between two frames.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use harness::{
    DATA, END_HEADERS, END_STREAM, Fake, Frames, HEADERS, Proxy, Raw, Running, Signal, WebSocket, app, eventually,
    origins, read_head, unchecked,
};
use serde_json::json;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

const ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What a server sends to go away, and a client in answer to it.
const AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];
const ANSWER: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// A server and a client with a WebSocket between them, of which the server has `sent` something.
struct Pair {
    proxy: Proxy,
    client: Raw,
    server: Receiver<Raw>,
    _fake: Fake,
}

fn pair(sent: &'static [u8]) -> Pair {
    let (tell, server) = channel();
    let fake = Fake::start(move |_, mut conn| {
        read_head(&mut conn);
        conn.send(ACCEPT.as_bytes());
        conn.send(sent);
        tell.send(conn).unwrap();
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut client = proxy.raw();
    client.send(ASK.as_bytes());
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101 "));
    Pair { proxy, client, server, _fake: fake }
}

impl Pair {
    fn drain(&self, in_flight: &str) {
        let name = self.proxy.status().upstreams[0].servers[0].name.clone();
        self.proxy.change("app", &name, &json!({ "admin": "draining", "in_flight": in_flight }));
    }

    fn closed(&self) -> f64 {
        self.proxy.metric("evenkeel_server_websockets_closed_total", &[])
    }

    fn cut(&self) -> f64 {
        self.proxy.metric("evenkeel_errors_total", &["reason=\"cut\""])
    }
}

/// WebSockets that have carried a message.
fn opened(count: usize, address: SocketAddr) -> Vec<WebSocket> {
    let open = || {
        let mut socket = WebSocket::open(address, "/ws");
        socket.echo("x").unwrap();
        socket
    };
    (0..count).map(|_| open()).collect()
}

/// Reads a client's close frame: masked, as a server may expect, with code 1001.
fn reads_away(server: &mut Raw) {
    let frame = server.read(8);
    assert_eq!(frame[..2], [0x88, 0x82], "{frame:?}");
    assert_eq!([frame[6] ^ frame[2], frame[7] ^ frame[3]], [0x03, 0xe9], "{frame:?}");
}

#[test]
fn both_sides_get_a_close_frame_and_may_answer_it() {
    let mut pair = pair(b"");
    let mut server = pair.server.recv().unwrap();
    // A frame each way, in two pieces, so that both sides are between two frames.
    pair.client.send(&[0x81, 0x82, 0, 0]);
    pair.client.send(&[0, 0, b'h', b'i']);
    assert_eq!(server.read(8)[6..], *b"hi");
    server.send(&[0x81, 2, b'y']);
    server.send(b"o");
    assert_eq!(pair.client.read(4), [0x81, 2, b'y', b'o']);
    pair.drain("3s");
    assert_eq!(pair.client.read(4), AWAY);
    reads_away(&mut server);
    // What comes after the close frame is of no interest to anybody any more.
    server.send(&[0x81, 1, b'x']);
    server.send(&AWAY);
    pair.client.send(&ANSWER);
    assert!(pair.client.is_closed(), "nothing else, then the end");
    assert!(server.is_closed());
    eventually("it is counted", || (pair.closed() == 1.0).then_some(()));
    assert_eq!(pair.cut(), 0.0);
}

#[test]
fn who_does_not_answer_is_not_waited_for() {
    let mut pair = pair(b"");
    let mut server = pair.server.recv().unwrap();
    server.send(b"\x81\0");
    assert_eq!(pair.client.read(2), b"\x81\0");
    pair.drain("3s");
    assert_eq!(pair.client.read(4), AWAY);
    reads_away(&mut server);
    assert!(pair.client.is_closed() && server.is_closed());
    eventually("it is counted", || (pair.closed() == 1.0).then_some(()));
}

#[test]
fn a_frame_of_the_client_is_finished_first() {
    let mut pair = pair(b"");
    let mut server = pair.server.recv().unwrap();
    pair.client.send(&[0x82, 0x83, 0, 0, 0, 0, b'a']);
    assert_eq!(server.read(7)[6], b'a');
    pair.drain("6s");
    assert_eq!(pair.client.read(4), AWAY, "the server is in no frame");
    // What comes behind the frame is too late.
    pair.client.send(b"bc\x82\x81\0\0\0\0d");
    assert_eq!(server.read(2), b"bc");
    reads_away(&mut server);
    pair.client.send(&ANSWER);
    server.send(&AWAY);
    assert!(pair.client.is_closed() && server.is_closed());
    eventually("it is counted", || (pair.closed() == 1.0).then_some(()));
}

#[test]
fn a_frame_of_the_server_is_finished_first() {
    let mut pair = pair(&[0x82, 3, b'a']);
    let mut server = pair.server.recv().unwrap();
    assert_eq!(pair.client.read(3), [0x82, 3, b'a']);
    pair.drain("6s");
    reads_away(&mut server);
    server.send(b"bc\x82\x01d");
    assert_eq!(pair.client.read(2), b"bc");
    assert_eq!(pair.client.read(4), AWAY);
    pair.client.send(&ANSWER);
    server.send(&AWAY);
    assert!(pair.client.is_closed() && server.is_closed());
    eventually("it is counted", || (pair.closed() == 1.0).then_some(()));
}

#[test]
fn half_a_frame_at_the_deadline_is_cut_without_a_word() {
    let mut pair = pair(&[0x82, 3, b'a']);
    let mut server = pair.server.recv().unwrap();
    pair.client.send(&[0x82, 0xfe, 1, 0, 0, 0, 0, 0, b'a']);
    assert_eq!(server.read(9)[8], b'a');
    assert_eq!(pair.client.read(3), [0x82, 3, b'a']);
    pair.drain("500ms");
    assert!(pair.client.is_closed() && server.is_closed(), "not a byte more");
    eventually("it is counted", || (pair.cut() == 1.0).then_some(()));
    assert_eq!(pair.closed(), 0.0);
}

#[test]
fn they_are_closed_one_after_the_other_and_those_of_others_stay() {
    let origins = origins(2);
    let proxy =
        Proxy::start(&format!("{}[upstream.app.drain]\nclose_spread = \"3s\"\n", app("\"round_robin\"", &origins)));
    let sockets = opened(12, proxy.address);
    let (of_a, of_b): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|socket| socket.server == "a");
    assert!(of_a.len() >= 4 && !of_b.is_empty());
    proxy.change("app", "a", &json!({ "admin": "draining", "in_flight": "4s" }));
    let waiting: Vec<_> =
        of_a.into_iter().map(|mut socket| std::thread::spawn(move || (socket.close_code(), Instant::now()))).collect();
    let mut ends: Vec<Instant> = Vec::new();
    for socket in waiting {
        let (code, at) = socket.join().unwrap();
        assert_eq!(code, Some(1001));
        ends.push(at);
    }
    ends.sort_unstable();
    let took = ends[ends.len() - 1] - ends[0];
    assert!(took > Duration::from_millis(800), "all at once: {took:?}");
    eventually("it is drained", || (proxy.server("app", "a").admin == "drained").then_some(()));
    assert_eq!(proxy.metric("evenkeel_errors_total", &["reason=\"cut\""]), 0.0);
    for mut socket in of_b {
        socket.echo("still here").unwrap();
    }
}

#[test]
fn a_web_socket_over_http2_is_closed_too() {
    let origins = origins(1);
    let proxy = Proxy::of("\"round_robin\"", &origins);
    let mut frames = Frames::to(proxy.address);
    let connect = Frames::block(&[
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/ws"),
        (":authority", "a"),
        ("sec-websocket-version", "13"),
    ]);
    frames.send(HEADERS, END_HEADERS, 1, &connect);
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 200);
    proxy.change("app", "a", &json!({ "admin": "draining", "in_flight": "2s" }));
    assert_eq!(frames.next_of(&[DATA]).unwrap().payload, AWAY);
    frames.send(DATA, 0, 1, &ANSWER);
    let end = frames.next_of(&[DATA]).unwrap();
    assert_eq!((end.payload.len(), end.flags & END_STREAM), (0, END_STREAM));
    // Others of the connection are served as before.
    proxy.change("app", "a", &json!({ "admin": "ready" }));
    frames.ask(3, &Frames::get("/"));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 200);
}

#[test]
fn a_process_that_stops_closes_them_before_its_deadline() {
    let origins = origins(1);
    let toml = format!(
        "[shutdown]\nidle_grace = \"10ms\"\ndeadline = \"5s\"\n{}[upstream.app.drain]\nclose_spread = \"3s\"\n",
        app("\"round_robin\"", &origins)
    );
    let evenkeel = Running::start(&toml);
    let mut sockets = opened(4, evenkeel.address);
    evenkeel.process.signal(Signal::TERM);
    for socket in &mut sockets {
        // Each waits for its own turn.
        assert_eq!(socket.close_code(), Some(1001));
    }
    let done = evenkeel.process.wait().ends(0);
    assert!(done.err.contains("every connection has ended"), "{}", done.err);
}
