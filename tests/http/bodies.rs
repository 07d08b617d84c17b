//! Bodies: streamed both ways, held up by the slow side, never passed on as complete when they are not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use harness::{Fake, PATIENCE, Proxy, Raw, Running, app, eventually, origins, raw, read_head, unchecked};

const RR: &str = "\"round_robin\"";
const MIB: u64 = 1 << 20;
/// What a body of any size may cost, with room for what the allocator keeps.
const CONSTANT_KIB: u64 = 16 * 1024;

fn connect(evenkeel: &Running, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(evenkeel.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Reads to the end; how many bytes there were.
fn drain(stream: &mut TcpStream) -> u64 {
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return bytes,
            n => bytes += n as u64,
        }
    }
}

fn upload(stream: &mut TcpStream, bytes: u64) {
    let block = vec![b'x'; 1 << 18];
    for _ in 0..bytes / block.len() as u64 {
        stream.write_all(&block).unwrap();
    }
}

#[test]
fn a_body_streams_both_ways_at_once() {
    let origins = origins(1);
    let evenkeel = Running::start(&app(RR, &origins));
    evenkeel.client().post("/mirror", &[b'x'; 1_000_000]);
    let before = evenkeel.process.rss_kib();
    let bytes = 256 * MIB;
    let mut stream = connect(
        &evenkeel,
        &format!("POST /mirror HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n"),
    );
    let mut sending = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || upload(&mut sending, bytes));
    let got = drain(&mut stream);
    sender.join().unwrap();
    assert!(got > bytes, "{got}");
    let grown = evenkeel.process.rss_kib().saturating_sub(before);
    assert!(grown < CONSTANT_KIB, "{grown} KiB more");
}

/// Writes until the other side takes nothing more for a while; how many bytes it took.
fn fill(stream: &mut TcpStream, most: u64) -> u64 {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let block = vec![b'x'; 1 << 16];
    let mut bytes = 0;
    while bytes < most {
        match stream.write(&block) {
            Ok(n) => bytes += n as u64,
            Err(_) => break,
        }
    }
    bytes
}

#[test]
fn a_slow_reader_holds_up_the_server() {
    let most = 256 * MIB;
    let (tell, told) = channel();
    let fake = Fake::start(move |_, mut conn| {
        read_head(&mut conn);
        conn.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {most}\r\n\r\n").as_bytes());
        tell.send(fill(&mut conn.stream().try_clone().unwrap(), most)).unwrap();
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let taken = told.recv_timeout(PATIENCE).unwrap();
    assert!(taken < 64 * MIB, "the proxy took {taken} bytes that nobody reads");
}

#[test]
fn a_slow_server_holds_up_the_client() {
    let most = 256 * MIB;
    let (done, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let fake = Fake::start(move |_, mut conn| {
        read_head(&mut conn);
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut stream = TcpStream::connect(proxy.address).unwrap();
    stream.write_all(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {most}\r\n\r\n").as_bytes()).unwrap();
    let taken = fill(&mut stream, most);
    assert!(taken < 64 * MIB, "the proxy took {taken} bytes that nobody reads");
    done.send(()).unwrap();
}

#[test]
fn parts_of_an_answer_are_passed_on_as_they_come() {
    let (next, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let fake = Fake::start(move |_, mut conn| {
        read_head(&mut conn);
        conn.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for part in [b"4\r\none \r\n".as_slice(), b"3\r\ntwo\r\n", b"0\r\n\r\n"] {
            let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
            conn.send(part);
        }
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    while !conn.line().is_empty() {}
    for part in ["4\r\none \r\n", "3\r\ntwo\r\n", "0\r\n\r\n"] {
        next.send(()).unwrap();
        assert_eq!(conn.read(part.len()), part.as_bytes());
    }
}

#[test]
fn parts_of_a_request_are_passed_on_as_they_come() {
    let (tell, told) = channel();
    let fake = Fake::start(move |_, mut conn| {
        read_head(&mut conn);
        for part in ["4\r\none \r\n", "3\r\ntwo\r\n", "0\r\n\r\n"] {
            tell.send(conn.read(part.len()) == part.as_bytes()).unwrap();
        }
        conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    conn.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    for part in ["4\r\none \r\n", "3\r\ntwo\r\n", "0\r\n\r\n"] {
        conn.send(part.as_bytes());
        assert!(told.recv_timeout(PATIENCE).unwrap(), "{part:?}");
    }
    assert_eq!(conn.answer().status, 200);
}

#[test]
fn trailers_pass_both_ways() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let mut conn = proxy.raw();
    let body = "transfer-encoding: chunked\r\ntrailer: x-sum\r\nte: trailers\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n";
    conn.send(format!("POST /echo HTTP/1.1\r\nhost: a\r\n{body}").as_bytes());
    let answer = conn.answer();
    assert_eq!(answer.json()["body_length"], 3);
    assert_eq!(answer.echoed_trailer("x-sum"), ["42"]);
    conn.send(format!("POST /mirror HTTP/1.1\r\nhost: a\r\n{body}").as_bytes());
    let answer = conn.answer();
    assert_eq!(answer.text(), "abc");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "42".to_owned())]);
}

/// A trailer that `Trailer` did not announce is left out, and so is one that would be read as framing or
/// routing (RFC 9110 §6.5.1). The message ends where it ends, and its connections go on.
#[test]
fn trailers_that_were_not_announced_are_left_out_both_ways() {
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let sent = std::sync::Arc::clone(&seen);
    let fake = Fake::start(move |_, mut conn| {
        while let Some(head) = conn.head() {
            let mut body = String::new();
            if head.to_ascii_lowercase().contains("transfer-encoding") {
                while !body.ends_with("0\r\n\r\n") && !body.contains("\r\n0\r\n") {
                    body += &format!("{}\r\n", conn.line());
                }
                while !body.ends_with("\r\n\r\n") {
                    body += &format!("{}\r\n", conn.line());
                }
            }
            sent.lock().unwrap().push(body);
            conn.send(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-told, content-length\r\n\r\n3\r\nabc\r\n0\r\n\
                  x-told: 1\r\nx-untold: 2\r\ncontent-length: 100\r\n\r\n",
            );
        }
    });
    let proxy = Proxy::start(&format!("cores = 1\n{}", unchecked(fake.address(), "")));
    let mut conn = proxy.raw();
    for _ in 0..3 {
        conn.send(
            b"POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntrailer: x-told, host\r\ntransfer-encoding: chunked\r\n\r\n\
              3\r\nabc\r\n0\r\nx-told: 1\r\nx-untold: 2\r\nhost: evil\r\n\r\n",
        );
        let answer = conn.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
        assert_eq!(answer.trailers, [("x-told".to_owned(), "1".to_owned())], "to the client");
    }
    assert_eq!(fake.accepted(), 1, "one connection carries them all");
    for body in &*seen.lock().unwrap() {
        assert_eq!(body, "3\r\nabc\r\n0\r\nx-told: 1\r\n\r\n", "to the server");
    }
}

#[test]
fn a_request_without_a_body_has_no_framing() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let answer = proxy.get("/echo");
    assert_eq!(answer.echoed("content-length"), [""; 0]);
    assert_eq!(answer.echoed("transfer-encoding"), [""; 0]);
    let answer = proxy.client().post("/echo", b"");
    assert_eq!(answer.echoed("content-length"), ["0"]);
    // The length that the client announced is the length that the server is told.
    assert_eq!(proxy.client().post("/echo", b"12345").echoed("content-length"), ["5"]);
    assert_eq!(proxy.client().send("DELETE", "/echo", &[], b"12345").json()["body_length"], 5);
    assert_eq!(proxy.client().send("GET", "/echo", &[], b"12345").json()["body_length"], 5);
}

/// Answers that break off, however they are framed.
#[test]
fn a_truncated_answer_is_never_passed_on_as_complete() {
    let (passed_on, reset) = channel::<()>();
    let reset = Mutex::new(reset);
    let fake = Fake::start(move |_, mut conn| {
        let head = read_head(&mut conn);
        let path = head.first().and_then(|l| l.split(' ').nth(1)).unwrap_or("").to_owned();
        conn.send(match &*path {
            "/length" => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart".as_slice(),
            "/chunk" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\npart",
            "/chunks" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n",
            "/last" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n",
            "/garbage" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n",
            _ => b"HTTP/1.1 200 OK\r\n\r\npart",
        });
        if path == "/reset" {
            // The part must have been read before the reset takes it away.
            reset.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            conn.reset();
        }
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let begun = |path: &str, conn: &Raw| {
        if path == "/reset" {
            assert_eq!(conn.stream().peek(&mut [0]).unwrap(), 1, "what there is of the answer is passed on");
            passed_on.send(()).unwrap();
        }
    };
    for path in ["/length", "/chunk", "/chunks", "/last", "/garbage", "/reset"] {
        for _ in 0..3 {
            let mut conn = proxy.raw();
            conn.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
            begun(path, &conn);
            match conn.try_answer() {
                Err(_) => {}
                // Nothing of the answer was passed on yet, so it may be an error of its own.
                Ok(answer) => assert_eq!((answer.status, answer.reason()), (502, Some("truncated")), "{path}"),
            }
        }
    }
    // Where only the end of the connection marks the end of the answer, it must not be a proper one.
    for path in ["/length", "/chunks", "/reset"] {
        let mut conn = proxy.raw();
        conn.send(format!("GET {path} HTTP/1.0\r\nhost: a\r\n\r\n").as_bytes());
        begun(path, &conn);
        let (got, proper) = conn.rest_and_end();
        let has_length = String::from_utf8_lossy(&got).contains("content-length: 100");
        assert!(has_length || !proper, "{path}: {:?}", String::from_utf8_lossy(&got));
    }
}

#[test]
fn a_request_that_breaks_off_is_never_passed_on_as_complete() {
    let (tell, told) = channel();
    let fake = Fake::start(move |_, mut conn| {
        read_head(&mut conn);
        tell.send(conn.rest()).unwrap();
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    for framing in ["content-length: 100\r\n\r\npart", "transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"] {
        let mut conn = proxy.raw();
        conn.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}").as_bytes());
        conn.shutdown_write();
        let got = told.recv_timeout(PATIENCE).unwrap();
        assert!(!got.ends_with("0\r\n\r\n") && got.len() < 100, "{got:?}");
    }
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let held = Mutex::new(Vec::new());
    let fake = Fake::start(move |_, mut conn| {
        if !read_head(&mut conn).is_empty() {
            conn.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\n\r\nfull");
            // It neither reads nor closes.
            held.lock().unwrap().push(conn);
        }
    });
    let proxy = Proxy::start(&format!("cores = 1\n{}", unchecked(fake.address(), "")));
    let mut conn = proxy.raw();
    conn.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\nbegin");
    let answer = conn.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "full"));
    // The rest of the upload is in the way of any other request on that connection.
    let mut other = proxy.raw();
    other.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc");
    assert_eq!(other.answer().status, 413);
    assert_eq!(fake.accepted(), 2, "the server's connection was not used again");
}

#[test]
fn an_early_answer_of_a_server_that_closes_is_not_lost() {
    let fake = Fake::start(|_, mut conn| {
        if !read_head(&mut conn).is_empty() {
            conn.send(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 4\r\n\r\nfull");
        }
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    for _ in 0..20 {
        let mut stream = TcpStream::connect(proxy.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n").unwrap();
        let block = [b'x'; 16384];
        // A client that sends first and reads afterwards.
        for _ in 0..64 {
            if stream.write_all(&block).is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        // The server resets what it did not read, so its answer may be gone before the proxy has it.
        assert!(answer.starts_with("HTTP/1.1 413") || answer.starts_with("HTTP/1.1 502"), "{answer:?}");
    }
}

/// The rest of an upload that was answered early must not be read as requests, however long the client
/// waits before it goes on.
#[test]
fn the_rest_of_an_upload_is_never_taken_for_a_request() {
    let fake = Fake::start(|_, mut conn| {
        if !read_head(&mut conn).is_empty() {
            conn.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
            // It gives up the body at a time when the client's connection would be parked.
            std::thread::sleep(Duration::from_millis(1400));
        }
    });
    let proxy = Proxy::start(&format!(
        "max_body = \"1MiB\"\n{}[[route]]\npath = \"/app\"\nupstream = \"app\"\n",
        unchecked(fake.address(), "")
    ));
    for (head, status) in [
        ("POST /app HTTP/1.1\r\nhost: a\r\ncontent-length: 100000", 403),
        ("POST /none HTTP/1.1\r\nhost: a\r\ncontent-length: 100000", 404),
        ("POST /app HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000", 413),
    ] {
        let mut conn = proxy.raw();
        conn.send(format!("{head}\r\n\r\n").as_bytes());
        assert_eq!(conn.answer().status, status);
        // Longer than a connection keeps its parser between requests.
        std::thread::sleep(Duration::from_millis(1600));
        for _ in 0..3 {
            let _ = conn.try_send(b"GET /app HTTP/1.1\r\nhost: a\r\n\r\n");
            // Time for the proxy to take each for itself.
            std::thread::sleep(Duration::from_millis(30));
        }
        let _ = conn.stream().shutdown(Shutdown::Write);
        assert_eq!(conn.rest(), "", "{head}");
    }
    assert_eq!(fake.accepted(), 1);
}

#[test]
fn a_refused_upload_gets_its_answer() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!(
        "max_body = \"1MiB\"\n{}[[route]]\npath = \"/app\"\nupstream = \"app\"\n",
        app(RR, &origins)
    ));
    for (path, host, length, status) in
        [("/nowhere", "a", 3_000_000, "404"), ("/app", "a", 3_000_000, "413"), ("/app", "a,b", 500_000, "400")]
    {
        for _ in 0..10 {
            let mut stream = TcpStream::connect(proxy.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let head = format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            let _ = stream.write_all(&vec![b'x'; 400_000]);
            let _ = stream.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {host}: {answer:?}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer:?}");
        }
    }
}

#[test]
fn a_chunked_body_that_grows_too_large_is_413() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("max_body = 10000\n{}", app(RR, &origins)));
    let mut conn = proxy.raw();
    conn.send(b"POST /sink HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
    for _ in 0..3 {
        conn.send(chunk.as_bytes());
    }
    let answer = conn.answer();
    assert_eq!((answer.status, answer.reason()), (413, Some("body_too_large")));
    assert!(conn.is_closed());
    let sink = || origins[0].requests().into_iter().find(|r| r.path() == "/sink");
    eventually("the server's request broke off", || sink().is_none_or(|r| r.status.is_none()).then_some(()));
}

#[test]
fn malformed_chunks_are_refused_with_400() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "e=f;".repeat(20_000));
    for body in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nx",
        &long,
    ] {
        let mut conn = proxy.raw();
        let _ = conn.try_send(b"POST /sink HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        let _ = conn.try_send(body.as_bytes());
        let got = conn.rest();
        assert!(got.starts_with("HTTP/1.1 400"), "{:?}: {got:?}", &body[..body.len().min(30)]);
        assert_eq!(got.matches("HTTP/1.1").count(), 1);
    }
    assert!(origins[0].requests().iter().filter(|r| r.path() == "/sink").all(|r| r.status.is_none()));
    assert!(
        raw(proxy.address, b"GET /bytes HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").starts_with("HTTP/1.1 200")
    );
}
