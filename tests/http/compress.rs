//! Compressed answers, as clients see them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use harness::{Answer, Fake, Proxy, Raw, read_head, unchecked};

const COMPRESS: &str = "[[route]]\nname = \"r\"\nupstream = \"app\"\ncompress = true\n";

fn proxy(fake: &Fake) -> Proxy {
    Proxy::start(&format!("cores = 1\n{COMPRESS}{}", unchecked(fake.address(), "")))
}

fn decoded(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    // What was flushed and has not ended can be read up to there.
    let _ = match encoding {
        "zstd" => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut plain),
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain),
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain),
        other => panic!("{other}"),
    };
    plain
}

fn text() -> String {
    (0..2000).map(|n| format!("line {n} of a text that can be made smaller\n")).collect()
}

/// A server that says the text with these further lines of its head.
fn server(lines: &'static str) -> Fake {
    Fake::answering(move |_, _, head| {
        let body = text();
        let length = body.len();
        let body = if head.starts_with("HEAD") { "" } else { &body };
        Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{lines}\r\n{body}"))
    })
}

fn ask(proxy: &Proxy, method: &str, encodings: &str) -> Answer {
    proxy.client().send(method, "/", &[("accept-encoding", encodings)], b"")
}

#[test]
fn answers_are_compressed_with_what_the_client_likes() {
    let fake = server("content-type: text/plain; charset=utf-8\r\netag: \"abc\"\r\naccept-ranges: bytes\r\n");
    let proxy = proxy(&fake);
    let mut client = proxy.client();
    for (said, wanted) in
        [("gzip, deflate, br, zstd", "zstd"), ("gzip, br", "br"), ("gzip", "gzip"), ("br;q=0.1, gzip;q=0.2", "gzip")]
    {
        let answer = client.send("GET", "/", &[("accept-encoding", said)], b"");
        assert_eq!(answer.header("content-encoding"), Some(wanted), "{said}");
        assert_eq!(answer.header("etag"), Some("W/\"abc\""));
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        assert_eq!((answer.header("content-length"), answer.header("accept-ranges")), (None, None));
        assert!(answer.body.len() < text().len() / 5, "{said}: {}", answer.body.len());
        assert!(decoded(wanted, &answer.body) == text().as_bytes(), "{said}");
    }
    for said in ["", "deflate", "gzip;q=0", "identity"] {
        let answer = client.send("GET", "/", &[("accept-encoding", said)], b"");
        assert_eq!((answer.header("content-encoding"), answer.header("etag")), (None, Some("\"abc\"")), "{said}");
        assert_eq!(answer.header("vary"), Some("accept-encoding"), "caches must know");
        assert_eq!(answer.text(), text());
    }
    assert_eq!(fake.accepted(), 1, "connections to servers are kept");
    assert_eq!(proxy.metric("evenkeel_responses_compressed_total", &["r"]), 4.0);
    assert_eq!(proxy.metric("evenkeel_responses_compressed_bytes_total", &["r"]), 4.0 * text().len() as f64);
    let out = proxy.metric("evenkeel_response_body_bytes_total", &["r"]);
    assert!(out < 5.0 * text().len() as f64, "what clients got is what counts: {out}");
}

#[test]
fn a_head_is_told_what_a_get_would_be() {
    let fake = server("content-type: text/plain\r\n");
    let proxy = proxy(&fake);
    let answer = ask(&proxy, "HEAD", "gzip");
    assert_eq!((answer.header("content-encoding"), answer.header("content-length")), (Some("gzip"), None));
    assert_eq!(proxy.metric("evenkeel_responses_compressed_total", &["r"]), 0.0);
    assert_eq!(ask(&proxy, "HEAD", "").header("content-length"), Some(text().len().to_string().as_str()));
}

#[test]
fn what_must_not_be_touched_is_not() {
    for lines in [
        "content-type: image/png\r\n",
        "",
        "content-type: text/plain\r\ncontent-encoding: br\r\n",
        "content-type: text/plain\r\ncache-control: no-transform\r\n",
        "content-type: text/plain\r\nrepr-digest: sha-256=:x:\r\n",
        "content-type: text/plain\r\ncontent-range: bytes 0-9/10\r\n",
    ] {
        let fake = server(lines);
        let answer = ask(&proxy(&fake), "GET", "gzip");
        assert_eq!(answer.text(), text(), "{lines}");
        assert_eq!(answer.header("content-length"), Some(text().len().to_string().as_str()), "{lines}");
    }
    let small = Fake::saying("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nsmall");
    assert_eq!(ask(&proxy(&small), "GET", "gzip").text(), "small");
    let none = Fake::saying("HTTP/1.1 304 Not Modified\r\ncontent-type: text/plain\r\netag: \"a\"\r\n\r\n");
    assert_eq!(ask(&proxy(&none), "GET", "gzip").header("etag"), Some("\"a\""));
}

#[test]
fn a_route_without_it_passes_on() {
    let fake = server("content-type: text/plain\r\n");
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let answer = ask(&proxy, "GET", "gzip");
    assert_eq!((answer.header("content-encoding"), answer.header("vary")), (None, None));
}

/// Each event arrives while the server waits: the next one is only sent after it was read.
#[test]
fn what_streams_keeps_streaming() {
    for encoding in ["gzip", "br", "zstd"] {
        let (next, wanted) = channel::<()>();
        let wanted = Mutex::new(wanted);
        let fake = Fake::start(move |_, mut conn| {
            read_head(&mut conn);
            conn.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n",
            );
            for n in 0..3 {
                let event = format!("data: {n}\n\n");
                conn.send(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
                wanted.lock().unwrap().recv().unwrap();
            }
            conn.send(b"0\r\nx-t: end\r\n\r\n");
        });
        let proxy = proxy(&fake);
        let mut raw = proxy.raw();
        raw.send(
            format!(
                "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\naccept-encoding: {encoding}\r\n\r\n"
            )
            .as_bytes(),
        );
        let head = raw.head().unwrap().to_ascii_lowercase();
        assert!(head.contains(&format!("content-encoding: {encoding}")), "{head}");
        let mut body = Vec::new();
        for n in 0..3 {
            let so_far: String = (0..=n).map(|n| format!("data: {n}\n\n")).collect();
            while decoded(encoding, &body) != so_far.as_bytes() {
                body.extend(chunk(&mut raw).expect("the event"));
            }
            next.send(()).unwrap();
        }
        while let Some(more) = chunk(&mut raw) {
            body.extend(more);
        }
        assert_eq!(decoded(encoding, &body), b"data: 0\n\ndata: 1\n\ndata: 2\n\n");
        assert_eq!(raw.line(), "x-t: end", "trailers are passed on");
    }
}

/// One chunk; none for the last.
fn chunk(raw: &mut Raw) -> Option<Vec<u8>> {
    let size = usize::from_str_radix(&raw.line(), 16).unwrap();
    let chunk = (size > 0).then(|| raw.read(size));
    if size > 0 {
        raw.read(2);
    }
    chunk
}

#[test]
fn a_truncated_answer_is_not_passed_on_as_complete() {
    for encoding in ["gzip", "br", "zstd"] {
        let fake = Fake::start(|_, mut conn| {
            read_head(&mut conn);
            let body = text();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", body.len() + 1);
            conn.send((head + &body).as_bytes());
        });
        let proxy = proxy(&fake);
        let mut raw = proxy.raw();
        raw.send(format!("GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: {encoding}\r\n\r\n").as_bytes());
        let (got, _) = raw.rest_and_end();
        assert!(!got.ends_with(b"0\r\n\r\n"), "{encoding}");
        assert_eq!(proxy.metric("evenkeel_errors_total", &["truncated"]), 1.0);
    }
}

#[test]
fn a_large_answer_arrives_whole_and_holds_up_nobody() {
    const PIECES: usize = 400;
    let fake = Fake::start(|_, mut conn| {
        while let Some(head) = conn.head() {
            if head.starts_with("GET /small") {
                conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                continue;
            }
            let piece = text();
            let length = piece.len() * PIECES;
            conn.send(
                format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n").as_bytes(),
            );
            for _ in 0..PIECES {
                if conn.try_send(piece.as_bytes()).is_err() {
                    return;
                }
            }
        }
    });
    let route = COMPRESS.replace("compress = true", "compress = { level = \"small\" }");
    let proxy = Proxy::start(&format!("cores = 1\n{route}{}", unchecked(fake.address(), "")));
    let done = Arc::new(AtomicBool::new(false));
    let small = {
        let (done, mut client) = (Arc::clone(&done), proxy.client());
        std::thread::spawn(move || {
            let mut answered = 0;
            while !done.load(SeqCst) {
                assert_eq!(client.get("/small").text(), "ok");
                answered += 1;
            }
            answered
        })
    };
    let answer = ask(&proxy, "GET", "br");
    done.store(true, SeqCst);
    let answered = small.join().unwrap();
    let whole = decoded("br", &answer.body);
    assert_eq!(whole.len(), text().len() * PIECES);
    assert!(whole.chunks(text().len()).all(|piece| piece == text().as_bytes()));
    assert!(answered > 3, "{answered} others were answered meanwhile, on the same core");
}

/// A client that takes nothing stops the server, too: nothing piles up.
#[test]
fn a_slow_client_holds_up_the_server() {
    let (sent, progress) = channel::<usize>();
    let sent = Mutex::new(sent);
    let fake = Fake::start(move |_, mut conn| {
        read_head(&mut conn);
        conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n");
        // Nothing that could be made smaller, or the buffers of the sockets would hold it all.
        let mut state = 88_172_645_463_325_252_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(1 << 16)
        .collect();
        for n in 1..=2000 {
            if conn.try_send(&noise).is_err() {
                return;
            }
            sent.lock().unwrap().send(n).unwrap();
        }
    });
    let proxy = proxy(&fake);
    let mut raw = proxy.raw();
    raw.send(b"GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n");
    let mut most = 0;
    while let Ok(n) = progress.recv_timeout(std::time::Duration::from_millis(1500)) {
        most = n;
    }
    assert!(most < 1000, "{most} pieces of 64 KiB were taken from the server");
}
