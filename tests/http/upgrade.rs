//! Tunnels: WebSocket and every other `Upgrade`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use harness::{Fake, PATIENCE, Proxy, Raw, WebSocket, app, eventually, origins, read_head, unchecked};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

const RR: &str = "\"round_robin\"";
const ASK: &[u8] = b"GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: my-proto\r\n\r\n";

/// A tunnel through `proxy` to `/tunnel`, which echoes.
fn tunnel(proxy: &Proxy) -> Raw {
    let (conn, answer) = proxy.tunnel();
    assert_eq!(answer.header("upgrade"), Some("my-proto"));
    assert!(answer.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    conn
}

#[test]
fn web_socket_messages_pass_both_ways() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let mut socket = WebSocket::open(proxy.address, "/ws");
    assert_eq!(socket.server, "a");
    for message in [Message::text("hello"), Message::binary(vec![7; 3_000_000]), Message::text("")] {
        socket.echo_message(&message).unwrap();
    }
    assert_eq!(proxy.server("app", "a").tunnels, 1, "an open tunnel is counted");
    socket.close();
    eventually("the tunnel has ended", || (proxy.server("app", "a").tunnels == 0).then_some(()));
    eventually("its claim is released", || (proxy.server("app", "a").in_flight == 0).then_some(()));
}

#[test]
fn any_protocol_is_tunnelled_and_may_end_one_way_first() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let mut conn = tunnel(&proxy);
    conn.send(b"no http \0\xff");
    assert_eq!(conn.read(10), b"no http \0\xff");
    let big = vec![b'y'; 200_000];
    conn.send(&big);
    conn.shutdown_write();
    assert_eq!(conn.rest().len(), big.len(), "what was sent before the end comes back after it");
    eventually("the claim is released", || (proxy.server("app", "a").in_flight == 0).then_some(()));
}

#[test]
fn bytes_sent_along_with_the_request_are_not_lost() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let mut conn = proxy.raw();
    conn.send(&[ASK, b"early"].concat());
    assert_eq!(conn.answer().status, 101);
    assert_eq!(conn.read(5), b"early");
}

#[test]
fn bytes_sent_along_with_the_101_are_not_lost() {
    let fake = Fake::start(|_, mut conn| {
        read_head(&mut conn);
        conn.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: my-proto\r\n\r\nearly");
        conn.read(4);
        conn.send(b"late");
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    conn.send(ASK);
    assert_eq!(conn.answer().status, 101);
    assert_eq!(conn.read(5), b"early");
    conn.send(b"next");
    assert_eq!(conn.rest(), "late", "the server's end reaches the client");
}

#[test]
fn the_request_reaches_the_server_as_an_upgrade_and_nothing_else_of_the_hop() {
    let (tell, told) = channel();
    let fake = Fake::start(move |_, mut conn| {
        tell.send(read_head(&mut conn)).unwrap();
        conn.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let headers =
        [("connection", "upgrade, x-mine"), ("upgrade", "websocket"), ("x-mine", "1"), ("sec-websocket-key", "k")];
    let answer = proxy.client().send("GET", "/", &headers, b"");
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    let head = told.recv().unwrap();
    assert!(
        head.contains(&"upgrade: websocket".to_owned()) && head.contains(&"connection: upgrade".to_owned()),
        "{head:?}"
    );
    assert!(head.contains(&"sec-websocket-key: k".to_owned()) && !head.iter().any(|l| l.starts_with("x-mine")));
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let mut client = proxy.client().with("connection", "upgrade").with("upgrade", "my-proto");
    for (path, status) in [("/bytes?n=100000", 200), ("/status?code=403", 403), ("/ws", 426)] {
        let answer = client.get(path);
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("connection"), None);
    }
    assert_eq!(client.send("POST", "/mirror", &[], b"hello").text(), "hello", "with a body, too");
}

#[test]
fn a_101_that_nobody_asked_for_is_502() {
    let unasked =
        Fake::saying("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: my-proto\r\n\r\nsmuggled");
    let proxy = Proxy::start(&unchecked(unasked.address(), ""));
    let mut client = proxy.client();
    for headers in [
        &[][..],
        &[("upgrade", "my-proto")],
        &[("connection", "upgrade")],
        &[("connection", "upgrade"), ("upgrade", "another")],
    ] {
        let answer = client.send("GET", "/", headers, b"");
        assert_eq!((answer.status, answer.reason()), (502, Some("bad_answer")), "{headers:?}");
        assert!(!answer.text().contains("smuggled"));
    }
    let bare = Fake::saying("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    let proxy = Proxy::start(&unchecked(bare.address(), ""));
    let answer = proxy.client().send("GET", "/", &[("connection", "upgrade"), ("upgrade", "x")], b"");
    assert_eq!((answer.status, answer.reason()), (502, Some("bad_answer")));
}

#[test]
fn an_http_1_0_client_cannot_switch() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let got = harness::raw(
        proxy.address,
        b"GET /tunnel HTTP/1.0\r\nhost: a\r\nconnection: upgrade\r\nupgrade: my-proto\r\n\r\n",
    );
    assert!(got.starts_with("HTTP/1.0 426"), "{got}");
}

#[test]
fn a_tunnel_is_cut_when_the_drain_of_its_server_is_over() {
    let origins = origins(2);
    let proxy = Proxy::of(RR, &origins);
    let mut tunnels: Vec<_> = (0..4).map(|_| tunnel(&proxy)).collect();
    for conn in &mut tunnels {
        conn.send(b"x");
        assert_eq!(conn.read(1), b"x");
    }
    assert_eq!(proxy.server("app", "a").tunnels + proxy.server("app", "b").tunnels, 4);
    let begun = Instant::now();
    let of_a = proxy.server("app", "a").tunnels;
    proxy.change("app", "a", &json!({"admin": "draining", "in_flight": "500ms"}));
    eventually("its tunnels are cut", || (proxy.server("app", "a").tunnels == 0).then_some(()));
    assert!(begun.elapsed() >= Duration::from_millis(450), "not before the deadline");
    eventually("it is drained", || (proxy.server("app", "a").admin == "drained").then_some(()));
    let open = tunnels.into_iter().filter_map(|mut conn| {
        conn.try_send(b"y").ok()?;
        (conn.read_some(&mut [0]).ok()? == 1).then_some(())
    });
    assert_eq!(open.count() as u64, 4 - of_a, "those of the other server go on");
}

#[test]
fn a_silent_tunnel_is_closed_after_its_idle_time() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("{}[upstream.app.timeouts]\ntunnel_idle = \"2s\"\n", app(RR, &origins)));
    let mut conn = tunnel(&proxy);
    let begun = Instant::now();
    for _ in 0..4 {
        // Well within its idle time, and all together far beyond it.
        std::thread::sleep(Duration::from_millis(700));
        conn.send(b"x");
        assert_eq!(conn.read(1), b"x");
    }
    assert!(conn.is_closed());
    assert!(begun.elapsed() >= Duration::from_millis(4700), "each byte gave it more time");
}

/// What is left of a tunnel when one side has ended is given less time than a whole one, whichever side
/// it is.
#[test]
fn a_tunnel_that_is_half_closed_is_not_kept_for_long() {
    let (tell, told) = channel();
    let fake = Fake::start(move |_, mut conn| {
        let first = read_head(&mut conn).remove(0);
        conn.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: my-proto\r\n\r\n");
        if first.contains("/server-ends") {
            conn.shutdown_write();
        }
        let got = conn.rest();
        tell.send(got).unwrap();
    });
    let limits = "[upstream.app.timeouts]\ntunnel_idle = \"1h\"\ntunnel_half_closed = \"2s\"\n";
    let proxy = Proxy::start(&unchecked(fake.address(), limits));
    let open = |path: &str| {
        let mut conn = proxy.raw();
        conn.send(String::from_utf8_lossy(ASK).replace("/tunnel", path).as_bytes());
        assert_eq!(conn.answer().status, 101);
        conn
    };
    let whole = open("/nobody-ends");
    // The client ends: the server is told so at once, and has its time for an answer.
    let client_ends = open("/client-ends");
    let began = Instant::now();
    client_ends.shutdown_write();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "", "the end of one side reaches the other");
    // This one ends both sides after that, so the next one is a server that does not.
    assert_eq!(client_ends.rest(), "");
    assert!(began.elapsed() < PATIENCE);
    let mut server_ends = open("/server-ends");
    let began = Instant::now();
    for part in [b"a", b"b", b"c", b"d"] {
        // Well within its time, and all together beyond it.
        std::thread::sleep(Duration::from_millis(700));
        server_ends.send(part);
    }
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "abcd", "each byte gave it more time");
    let quiet = began.elapsed();
    assert!(quiet >= Duration::from_millis(4700), "{quiet:?}");
    assert_eq!(server_ends.rest(), "");
    eventually("only the whole one is left", || (proxy.status().upstreams[0].servers[0].tunnels == 1).then_some(()));
    drop(whole);
}

/// Through a tunnel, h2c would take any number of requests past the routes.
#[test]
fn h2c_is_not_tunnelled() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    for upgrade in ["h2c", "H2C", "websocket, h2c", "h2c, websocket"] {
        let mut conn = proxy.raw();
        let settings = "http2-settings: AAMAAABkAAQAAP__\r\n";
        conn.send(
            format!(
                "GET /echo HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: {upgrade}\r\n{settings}\r\n"
            )
            .as_bytes(),
        );
        let answer = conn.answer();
        assert_eq!(answer.status, 200, "an ordinary answer");
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(answer.echoed(name), [""; 0], "the server is not asked either: {upgrade}");
        }
        // The connection goes on as what it was.
        conn.send(b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(conn.answer().status, 200);
    }
    assert_eq!(proxy.server("app", "a").tunnels, 0);
}

#[test]
fn a_tunnel_outlives_the_timeouts_of_requests() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!(
        "idle_timeout = \"1s\"\nheader_timeout = \"1s\"\nbetween_bytes = \"1s\"\n{}\
         [upstream.app.timeouts]\nfirst_byte = \"1s\"\nbetween_bytes = \"1s\"\nrequest = \"1s\"\n",
        app(RR, &origins)
    ));
    let mut conn = tunnel(&proxy);
    assert!(conn.is_silent_for(Duration::from_millis(2500)));
    conn.send(b"x");
    assert_eq!(conn.read(1), b"x");
}

#[test]
fn a_slow_reader_of_a_tunnel_holds_up_the_sender() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let conn = tunnel(&proxy);
    let mut stream = conn.stream();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let block = vec![b'x'; 1 << 16];
    let mut taken = 0;
    while let Ok(n) = std::io::Write::write(&mut stream, &block) {
        taken += n;
        assert!(taken < 100 << 20, "the echo is not read, and yet everything is taken");
    }
}
