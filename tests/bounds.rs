//! What one connection can make evenkeel hold, at the worst: the bound that the README states.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod harness;

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::Duration;

use harness::{Fake, Raw, Running, eventually, read_head, unchecked};

const CONNECTIONS: u64 = 100;
/// Of the README, in KiB.
const BOUND: u64 = 1024;

/// Sends `bytes` over and over until nothing more is taken for a while.
fn fill(stream: &TcpStream, bytes: &[u8]) {
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut stream = stream;
    loop {
        match stream.write(bytes) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What each of many connections that do this costs in memory, in KiB.
fn cost(toml: &str, worst: impl Fn(&mut Raw) + Sync) -> u64 {
    let evenkeel = Running::start(toml);
    let before = evenkeel.process.rss_kib();
    let conns: Vec<Raw> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let mut conn = evenkeel.raw();
                let worst = &worst;
                scope.spawn(move || {
                    worst(&mut conn);
                    conn
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    eventually("all are open", || {
        (evenkeel.metric("evenkeel_connections_open", &[]) >= CONNECTIONS as f64).then_some(())
    });
    let cost = evenkeel.process.settled_rss_kib().saturating_sub(before) / CONNECTIONS;
    drop(conns);
    cost
}

#[test]
fn a_connection_holds_no_more_than_it_is_said_to() {
    // Takes a head, then neither reads nor ends; or answers without end.
    let fake = Fake::start(|_, mut conn| {
        let head = read_head(&mut conn);
        if head.first().is_some_and(|line| line.starts_with("get /endless")) {
            conn.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 1 << 16], b"\r\n"].concat();
            while conn.try_send(&chunk).is_ok() {}
        }
        std::thread::park();
    });
    let toml = format!("cores = 1\n{}", unchecked(fake.address(), ""));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes();
    let upload = |framing: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n").into_bytes();
    let costs = [
        (
            "a head without an end",
            cost(&toml, |conn| {
                conn.send(b"GET / HTTP/1.1\r\nhost: a\r\nx: ");
                conn.send(&[b'x'; 32_000]);
            }),
        ),
        (
            "a body that the server does not take",
            cost(&toml, |conn| {
                conn.send(&upload("content-length: 1000000000"));
                fill(conn.stream(), &[b'x'; 1 << 16]);
            }),
        ),
        (
            "the same in tiny chunks",
            cost(&toml, |conn| {
                conn.send(&upload("transfer-encoding: chunked"));
                fill(conn.stream(), &b"1\r\nx\r\n".repeat(10_000));
            }),
        ),
        ("requests behind one that is not answered", cost(&toml, |conn| fill(conn.stream(), &get("/").repeat(1000)))),
        (
            "bytes behind a request to switch protocols",
            cost(&toml, |conn| {
                conn.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n");
                fill(conn.stream(), &[b'x'; 1 << 16]);
            }),
        ),
        (
            "an answer that is not taken",
            cost(&toml, |conn| {
                conn.send(&get("/endless"));
                assert!(conn.head().is_some());
            }),
        ),
    ];
    println!("KiB for each connection: {costs:?}");
    for (what, cost) in costs {
        assert!(cost < BOUND, "{what}: {cost} KiB");
    }
}
