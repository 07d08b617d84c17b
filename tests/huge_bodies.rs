//! Bodies far larger than memory. They take gigabytes through the loopback, so they have a file of their
//! own: nothing runs beside them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;

use harness::{Fake, PATIENCE, Running, read_head, unchecked};

const SIZE: u64 = 10 << 30;
const BLOCK: usize = 1 << 20;
/// What a body of any size may cost, with room for what the allocator keeps.
const CONSTANT_KIB: u64 = 16 * 1024;

fn send(mut stream: &TcpStream, bytes: u64) {
    let block = vec![b'x'; BLOCK];
    for _ in 0..bytes / BLOCK as u64 {
        stream.write_all(&block).unwrap();
    }
}

/// Reads `bytes`, and looks at the memory of evenkeel meanwhile; the most that was seen, in KiB.
fn take(mut stream: &TcpStream, bytes: u64, evenkeel: Option<&Running>) -> u64 {
    let mut buffer = vec![0; BLOCK];
    let (mut left, mut most) = (bytes, 0);
    let mut next_look = bytes;
    while left > 0 {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "{left} bytes are missing");
        assert!(buffer[..n].iter().step_by(4096).all(|b| *b == b'x'));
        left = left.checked_sub(n as u64).expect("no byte too many");
        if left <= next_look {
            most = most.max(evenkeel.map_or(0, |e| e.process.rss_kib()));
            next_look = left.saturating_sub(64 << 20);
        }
    }
    most
}

/// evenkeel before a server that sends `SIZE` bytes to a GET and takes as many of a POST.
fn started() -> (Running, std::sync::mpsc::Receiver<()>) {
    let (tell, told) = channel();
    let fake = Fake::start(move |_, mut conn| {
        while let Some(first) = read_head(&mut conn).into_iter().next() {
            let bytes = if first.contains("/warm") { 16 << 20 } else { SIZE };
            if first.starts_with("get") {
                conn.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n").as_bytes());
                send(conn.stream(), bytes);
            } else {
                let mut left = bytes;
                let mut buffer = vec![0; BLOCK];
                while left > 0 {
                    let n = conn.read_some(&mut buffer).unwrap();
                    assert!(n > 0, "{left} bytes are missing");
                    left = left.checked_sub(n as u64).expect("no byte too many");
                }
                conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
                tell.send(()).unwrap();
            }
        }
    });
    (Running::start(&format!("cores = 1\n{}", unchecked(fake.address(), ""))), told)
}

#[test]
fn ten_gibibytes_go_down_and_up_in_constant_memory() {
    let (evenkeel, told) = started();
    let mut conn = evenkeel.raw();
    let mut ask = |path: &str, bytes: u64| {
        conn.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
        assert!(conn.head().unwrap().contains(&format!("content-length: {bytes}\r\n")));
        // What came along with the head.
        let along = conn.buffered();
        take(conn.stream(), bytes - along as u64, Some(&evenkeel))
    };
    ask("/warm", 16 << 20);
    let before = evenkeel.process.rss_kib();
    let most = ask("/down", SIZE);
    assert!(most < before + CONSTANT_KIB, "down: {before} KiB before, {most} KiB at most");

    let upload = |path: &str, bytes: u64| {
        let mut conn = evenkeel.raw();
        conn.send(format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n").as_bytes());
        let most = std::thread::scope(|scope| {
            let sender = scope.spawn(|| send(conn.stream(), bytes));
            let mut most = 0;
            while !sender.is_finished() {
                most = most.max(evenkeel.process.rss_kib());
                // A sample of memory is all there is to have: no event tells of its peak.
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            most
        });
        told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(conn.answer().text(), "done");
        most
    };
    upload("/warm", 16 << 20);
    let before = evenkeel.process.rss_kib();
    let most = upload("/up", SIZE);
    assert!(most < before + CONSTANT_KIB, "up: {before} KiB before, {most} KiB at most");
}
