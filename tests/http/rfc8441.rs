//! RFC 8441: WebSockets over HTTP/2, to servers that speak HTTP/1.1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use harness::{
    DATA, END_HEADERS, END_STREAM, Fake, Frames, HEADERS, Origin, Proxy, RST_STREAM, SETTINGS, asked, eventually,
    origins, read_head, unchecked,
};

fn proxy() -> (Vec<Origin>, Proxy) {
    let origins = origins(1);
    let proxy = Proxy::of("\"round_robin\"", &origins);
    (origins, proxy)
}

fn connect(protocol: &str, path: &str) -> Vec<u8> {
    Frames::block(&[
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
        ("sec-websocket-version", "13"),
    ])
}

/// A client's text frame, masked with zeros (RFC 6455 §5.3).
fn text(message: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | message.len() as u8, 0, 0, 0, 0];
    frame.extend(message.as_bytes());
    frame
}

#[test]
fn section_3_it_is_announced() {
    let (_origins, proxy) = proxy();
    let settings = Frames::to(proxy.address).next_of(&[SETTINGS]).unwrap();
    assert!(settings.payload.chunks(6).any(|s| s == [0, 8, 0, 0, 0, 1]), "{settings:?}");
}

#[test]
fn section_5_messages_pass_both_ways_and_the_stream_ends_with_the_tunnel() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_HEADERS, 1, &connect("websocket", "/ws"));
    let head = frames.next_of(&[HEADERS]).unwrap();
    assert_eq!((head.status(), head.flags & END_STREAM), (200, 0));
    assert_eq!(proxy.server("app", "a").tunnels, 1);
    frames.send(DATA, 0, 1, &text("hello"));
    assert_eq!(frames.next_of(&[DATA]).unwrap().payload, [&[0x81, 5][..], b"hello"].concat());
    // Others are served meanwhile.
    frames.ask(3, &Frames::get("/"));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().stream, 3);
    // Close, 1000.
    frames.send(DATA, 0, 1, &[0x88, 0x82, 0, 0, 0, 0, 3, 0xe8]);
    let mut received = Vec::new();
    loop {
        let data = frames.next_of(&[DATA]).unwrap();
        if data.stream == 1 {
            received.extend(data.payload);
            if data.flags & END_STREAM != 0 {
                break;
            }
        }
    }
    assert_eq!(received, [0x88, 2, 3, 0xe8], "the server's close");
    frames.send(DATA, END_STREAM, 1, &[]);
    eventually("the tunnel has ended", || (proxy.server("app", "a").tunnels == 0).then_some(()));
}

#[test]
fn section_5_a_reset_ends_the_tunnel() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_HEADERS, 1, &connect("websocket", "/ws"));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 200);
    frames.send(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    eventually("the tunnel has ended", || (proxy.server("app", "a").tunnels == 0).then_some(()));
}

#[test]
fn the_handshake_with_the_server_is_that_of_http1() {
    let fake = Fake::start(|_, mut conn| {
        let head = read_head(&mut conn).join("\n").to_lowercase();
        for wanted in
            ["get /chat http/1.1", "upgrade: websocket", "connection: upgrade", "sec-websocket-key: ", "host: a"]
        {
            assert!(head.contains(wanted), "{wanted} in {head}");
        }
        let key = head.lines().find_map(|l| l.strip_prefix("sec-websocket-key: ")).unwrap();
        assert_eq!(key.len(), 24);
        conn.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: wrong\r\n\r\n");
        let _ = conn.read_some(&mut [0; 10]);
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_HEADERS, 1, &connect("websocket", "/chat"));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 502, "an accept that does not fit the key");
}

#[test]
fn a_refusal_is_an_ordinary_answer() {
    let (_origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_HEADERS, 1, &connect("websocket", "/status?code=404"));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 404);
    frames.send(HEADERS, END_HEADERS, 3, &connect("connect-udp", "/ws"));
    let answer = frames.next_of(&[HEADERS]).unwrap();
    assert_eq!((answer.stream, answer.status()), (3, 501));
}

#[test]
fn an_answer_that_does_not_switch_is_never_taken_for_a_tunnel() {
    let (origins, proxy) = proxy();
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_HEADERS, 1, &connect("websocket", "/"));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 502, "the server said 200");
    let requests = asked(&origins[0]).len();
    let toml =
        format!("[upstream.app]\ncheck = \"off\"\nprotocol = \"h2c\"\nservers = [\"{}\"]\n", origins[0].address());
    let proxy = Proxy::start(&toml);
    let mut frames = Frames::to(proxy.address);
    frames.send(HEADERS, END_HEADERS, 1, &connect("websocket", "/ws"));
    assert_eq!(frames.next_of(&[HEADERS]).unwrap().status(), 501, "its server cannot switch");
    assert_eq!(asked(&origins[0]).len(), requests);
}
