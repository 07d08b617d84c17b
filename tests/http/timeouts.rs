//! Every deadline, with short values. One is noticed up to a tenth of a second late and never early.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use harness::{Answer, Fake, PATIENCE, Proxy, app, eventually, full_backlog, origins, read_head, unchecked};

const RR: &str = "\"round_robin\"";
const LIMIT: Duration = Duration::from_millis(300);
/// What is added for a loaded machine before a deadline counts as missed.
const SLACK: Duration = Duration::from_secs(12);

/// Runs `wait` and holds it to the limit.
#[track_caller]
fn timed<T>(wait: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = wait();
    let took = begun.elapsed();
    assert!(took >= LIMIT - Duration::from_millis(10), "too early: {took:?}");
    assert!(took < LIMIT + SLACK, "too late: {took:?}");
    done
}

fn is(answer: &Answer, status: u16, reason: &str) {
    assert_eq!((answer.status, answer.reason()), (status, Some(reason)), "{}", answer.text());
}

/// A server that says nothing but what `said` holds and then waits for the other side to go.
fn silent_after(said: &'static [u8]) -> Fake {
    Fake::start(move |_, mut conn| {
        read_head(&mut conn);
        conn.send(said);
        let _ = conn.read_some(&mut [0; 1024]);
        while conn.read_some(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
    })
}

#[test]
fn a_head_that_does_not_end_is_408() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("header_timeout = \"300ms\"\n{}", app(RR, &origins)));
    let mut conn = proxy.raw();
    let answer = timed(|| {
        conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n");
        conn.answer()
    });
    is(&answer, 408, "header_timeout");
    assert!(conn.is_closed());
}

#[test]
fn a_head_that_drips_gets_no_more_time() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("header_timeout = \"300ms\"\n{}", app(RR, &origins)));
    // As the first and as a later request of a connection.
    for before in [false, true] {
        let mut conn = proxy.raw();
        if before {
            conn.send(b"GET /bytes HTTP/1.1\r\nhost: a\r\n\r\n");
            assert_eq!(conn.answer().status, 200);
        }
        timed(|| {
            for byte in b"GET / HTTP/1.1\r\nx-a: ".iter().chain([b'a'; 1000].iter()) {
                if conn.try_send(&[*byte]).is_err() {
                    return;
                }
                // One drip after the other, each long before the limit.
                std::thread::sleep(Duration::from_millis(20));
            }
            panic!("a whole head of drips was taken");
        });
        let rest = conn.rest();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
    }
    assert!(origins[0].requests().iter().all(|r| r.path() != "/"));
}

#[test]
fn an_idle_client_is_closed() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("idle_timeout = \"300ms\"\n{}", app(RR, &origins)));
    assert!(timed(|| proxy.raw().is_closed()), "one that never said anything");
    let mut used = proxy.raw();
    assert!(timed(|| {
        used.send(b"GET /bytes?n=1 HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(used.answer().status, 200);
        used.is_closed()
    }));
}

#[test]
fn a_parked_client_is_closed_in_time() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("idle_timeout = \"1800ms\"\n{}", app(RR, &origins)));
    let mut conn = proxy.raw();
    conn.send(b"GET /bytes?n=1 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().status, 200);
    let begun = Instant::now();
    eventually("it is parked", || (proxy.metric("evenkeel_connections_parked", &[]) == 1.0).then_some(()));
    assert!(conn.is_closed());
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1700) && took < Duration::from_millis(1800) + SLACK, "{took:?}");
    eventually("its place is free", || (proxy.metric("evenkeel_connections_open", &[]) == 0.0).then_some(()));
}

#[test]
fn an_idle_connection_to_a_server_is_closed() {
    let (tell, told) = channel();
    let fake = Fake::start(move |_, mut conn| {
        read_head(&mut conn);
        conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let begun = Instant::now();
        assert!(conn.is_closed());
        tell.send(begun.elapsed()).unwrap();
    });
    let proxy = Proxy::start(&unchecked(fake.address(), "[upstream.app.pool]\nidle_timeout = \"300ms\"\n"));
    assert_eq!(proxy.get("/").status, 200);
    let idle = told.recv_timeout(PATIENCE).unwrap();
    assert!(idle >= Duration::from_millis(290) && idle < LIMIT + SLACK, "{idle:?}");
}

#[test]
fn a_connection_that_does_not_come_about_is_504() {
    let (listener, _queued) = full_backlog();
    let address = listener.local_addr().unwrap();
    let proxy = Proxy::start(&unchecked(
        address,
        "[upstream.app.timeouts]\nconnect = \"300ms\"\n[upstream.app.retry]\nattempts = 0\n",
    ));
    let answer = timed(|| proxy.get("/"));
    is(&answer, 504, "connect_timeout");
    assert!(!format!("{:?}{}", answer.headers, answer.text()).contains("127.0.0"));
}

#[test]
fn a_server_that_does_not_connect_in_time_is_not_the_last_word() {
    let (listener, _queued) = full_backlog();
    let origins = origins(1);
    let proxy = Proxy::start(&format!(
        "cores = 1\n[upstream.app]\ncheck = \"off\"\nservers = [\"{}\", \"{}\"]\n[upstream.app.timeouts]\nconnect = \"1s\"\n",
        listener.local_addr().unwrap(),
        origins[0].address()
    ));
    let mut client = proxy.client();
    for _ in 0..2 {
        assert_eq!(client.post("/sink", b"x").status, 200, "nothing was sent, so even a POST may go elsewhere");
    }
}

#[test]
fn an_answer_that_does_not_begin_is_504() {
    let fake = silent_after(b"");
    let proxy = Proxy::start(&unchecked(
        fake.address(),
        "[upstream.app.timeouts]\nfirst_byte = \"300ms\"\n[upstream.app.retry]\nattempts = 0\n",
    ));
    let mut client = proxy.client();
    is(&timed(|| client.get("/")), 504, "first_byte_timeout");
    is(&timed(|| client.post("/", b"hello")), 504, "first_byte_timeout");
    assert_eq!(fake.accepted(), 2, "a connection that owes an answer is not used again");
}

#[test]
fn endless_interim_answers_are_no_first_byte() {
    let fake = Fake::start(|_, mut conn| {
        read_head(&mut conn);
        while conn.try_send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").is_ok() {
            // Never a pause as long as the limit, and not so many that they would be too many.
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let proxy = Proxy::start(&unchecked(
        fake.address(),
        "[upstream.app.timeouts]\nfirst_byte = \"300ms\"\n[upstream.app.retry]\nattempts = 0\n",
    ));
    let mut conn = proxy.raw();
    let answer = timed(|| {
        conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        loop {
            // Those are passed on.
            let head = conn.head().unwrap();
            if !head.starts_with("HTTP/1.1 103 ") {
                return head;
            }
        }
    });
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("first_byte_timeout"), "{answer}");
}

#[test]
fn a_pause_within_an_answer_ends_it() {
    let fake = silent_after(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart");
    let proxy = Proxy::start(&unchecked(fake.address(), "[upstream.app.timeouts]\nbetween_bytes = \"300ms\"\n"));
    let mut conn = proxy.raw();
    let error = timed(|| {
        conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        conn.try_answer().unwrap_err()
    });
    assert!(error.kind() != std::io::ErrorKind::WouldBlock, "it ended: {error}");
    eventually("it is counted", || {
        (proxy.metric("evenkeel_errors_total", &["reason=\"between_bytes_timeout\""]) == 1.0).then_some(())
    });
}

#[test]
fn a_slow_answer_that_does_not_pause_goes_on() {
    let fake = Fake::start(|_, mut conn| {
        read_head(&mut conn);
        conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n");
        for _ in 0..10 {
            // Each pause is shorter than the limits, all together are longer.
            std::thread::sleep(Duration::from_millis(350));
            conn.send(b"x");
        }
    });
    let proxy = Proxy::start(&unchecked(
        fake.address(),
        "[upstream.app.timeouts]\nbetween_bytes = \"2s\"\nfirst_byte = \"2s\"\n",
    ));
    assert_eq!(proxy.get("/").body.len(), 10);
}

#[test]
fn a_client_that_pauses_within_its_body_is_408() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("between_bytes = \"300ms\"\n{}", app(RR, &origins)));
    for framing in ["content-length: 100\r\n\r\npart", "transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"] {
        let mut conn = proxy.raw();
        let answer = timed(|| {
            conn.send(format!("POST /sink HTTP/1.1\r\nhost: a\r\n{framing}").as_bytes());
            conn.answer()
        });
        is(&answer, 408, "body_timeout");
        assert!(conn.is_closed());
    }
    // It was not the server's doing.
    assert_eq!(proxy.metric("evenkeel_server_failures_total", &[]), 0.0);
}

#[test]
fn a_slow_upload_that_does_not_pause_goes_on() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!(
        "between_bytes = \"2s\"\nmin_rate = 1\nheader_timeout = \"2s\"\nidle_timeout = \"2s\"\n{}\
         [upstream.app.timeouts]\nfirst_byte = \"2s\"\nbetween_bytes = \"2s\"\n",
        app(RR, &origins)
    ));
    let mut conn = proxy.raw();
    conn.send(b"POST /sink HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n");
    for _ in 0..8 {
        // Each pause is shorter than the limits, all together are longer.
        std::thread::sleep(Duration::from_millis(350));
        conn.send(b"x");
    }
    assert_eq!(conn.answer().status, 200);
}

#[test]
fn a_server_that_stops_taking_a_body_is_not_the_clients_fault() {
    let (done, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let fake = Fake::start(move |_, mut conn| {
        read_head(&mut conn);
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
    });
    let proxy = Proxy::start(&unchecked(fake.address(), "[upstream.app.timeouts]\nbetween_bytes = \"300ms\"\n"));
    let mut stream = TcpStream::connect(proxy.address).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n").unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    while stream.write(&[b'x'; 65536]).is_ok() {}
    let mut conn = harness::Raw::on(stream);
    let answer = conn.answer();
    assert_eq!(answer.status, 504, "{}", answer.text());
    done.send(()).unwrap();
}

#[test]
fn a_client_that_does_not_take_its_answer_is_given_up() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("between_bytes = \"300ms\"\n{}", app(RR, &origins)));
    let mut conn = proxy.raw();
    // From before it is sent: a busy machine may see late that it is in flight.
    timed(|| {
        conn.send(b"GET /bytes?n=1000000000 HTTP/1.1\r\nhost: a\r\n\r\n");
        eventually("it is in flight", || (proxy.server("app", "a").in_flight == 1).then_some(()));
        eventually("it is given up", || (proxy.server("app", "a").in_flight == 0).then_some(()));
    });
    // The end of what was buffered is never a proper end of the answer.
    assert!(conn.try_answer().is_err());
}

/// Each pause is shorter than `between_bytes`, and yet it would take for ever.
#[test]
fn a_body_that_drips_is_408() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("between_bytes = \"300ms\"\nmin_rate = 1000\n{}", app(RR, &origins)));
    let patient = Proxy::start(&format!("between_bytes = \"2s\"\nmin_rate = 1000\n{}", app(RR, &origins)));
    let drip = |proxy: &Proxy, per_step: &[u8]| {
        let mut conn = proxy.raw();
        // What comes at once is no credit for later.
        conn.send(
            format!("POST /sink HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(5000)).as_bytes(),
        );
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            if !conn.is_silent_for(Duration::from_millis(20)) {
                return Some(conn.answer());
            }
            let _ = conn.try_send(per_step);
        }
        None
    };
    is(&timed(|| drip(&proxy, b"x")).expect("an answer"), 408, "body_timeout");
    // Many times the bytes at the same pauses are fast enough, with time for a machine that stalls.
    assert!(drip(&patient, &[b'x'; 300]).is_none());
}

#[test]
fn a_client_that_takes_its_answer_in_drips_is_given_up() {
    let origins = origins(1);
    // A rate that a client could only reach by taking what was sent, not by a byte now and then.
    let proxy = Proxy::start(&format!("between_bytes = \"1s\"\nmin_rate = \"1GiB\"\n{}", app(RR, &origins)));
    let mut conn = proxy.raw();
    conn.send(b"GET /bytes?n=1000000000 HTTP/1.1\r\nhost: a\r\n\r\n");
    eventually("it is in flight", || (proxy.server("app", "a").in_flight == 1).then_some(()));
    let mut taken = 0;
    let mut block = vec![0; 1 << 20];
    let begun = Instant::now();
    while let Ok(n @ 1..) = conn.read_some(&mut block) {
        taken += n;
        assert!(begun.elapsed() < PATIENCE, "{taken} bytes were taken in drips");
        // Far more often than the longest pause, and enough for the socket to become writable.
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(taken < 1_000_000_000, "it broke off");
    eventually("it is given up", || (proxy.server("app", "a").in_flight == 0).then_some(()));
}

#[test]
fn a_whole_request_has_its_own_deadline() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("{}[upstream.app.timeouts]\nrequest = \"300ms\"\n", app(RR, &origins)));
    let mut client = proxy.client();
    is(&timed(|| client.get("/slow?ms=20000")), 504, "request_timeout");
    assert_eq!(proxy.metric("evenkeel_server_failures_total", &[]), 1.0);
    let mut conn = proxy.raw();
    conn.send(b"POST /sink HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n");
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && conn.is_silent_for(Duration::from_millis(50)) {
        let _ = conn.try_send(b"x");
    }
    is(&conn.answer(), 504, "request_timeout");
    // The next request on a connection begins anew, when the deadline of the last is over.
    std::thread::sleep(LIMIT);
    assert_eq!(client.get("/bytes").status, 200);
}

#[test]
fn the_deadline_of_a_request_ends_an_answer_that_drips() {
    let fake = Fake::start(|_, mut conn| {
        read_head(&mut conn);
        conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n");
        while conn.try_send(b"x").is_ok() {
            // Never a pause, and never the end within the limit.
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let proxy = Proxy::start(&unchecked(fake.address(), "[upstream.app.timeouts]\nrequest = \"300ms\"\n"));
    let mut conn = proxy.raw();
    let cut = timed(|| {
        conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        conn.try_answer().is_err()
    });
    assert!(cut);
}

#[test]
fn an_early_answer_leaves_no_408_behind() {
    let fake = Fake::start(|_, mut conn| {
        read_head(&mut conn);
        conn.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
        while conn.read_some(&mut [0; 65536]).is_ok_and(|n| n > 0) {}
    });
    let proxy = Proxy::start(&format!(
        "header_timeout = \"300ms\"\nbetween_bytes = \"300ms\"\nidle_timeout = \"300ms\"\n{}",
        unchecked(fake.address(), "")
    ));
    let mut conn = proxy.raw();
    conn.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nx");
    assert_eq!(conn.answer().status, 403);
    for _ in 0..20 {
        if conn.try_send(b"x").is_err() {
            break;
        }
        // Goes on sending until far beyond every limit.
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(conn.rest(), "", "the request was answered already");
}
