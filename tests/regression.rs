//! One test for each fault that was found after the fact, named after what broke.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod harness;

use std::time::{Duration, Instant};

use harness::{Fake, Proxy, Raw, Running, Signal, eventually, origins, read_head, servers};

/// Long enough for an idle connection to be parked, and for its deadlines to be looked at.
const STALL: Duration = Duration::from_millis(2_500);

/// Sizes around what the sockets' buffers take, so that with some of them a tail is left in the proxy.
const SIZES: [usize; 6] = [1 << 20, 3 << 20, 4_390_912, 5 << 20, 6 << 20, 8 << 20];

fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n{more}\r\n").into_bytes()
}

/// Reads an answer of `/bytes?n=size` after not reading for a while; what came after the head.
fn stalled(proxy: &Proxy, size: usize, request: &[u8], meanwhile: impl FnOnce(&mut Raw)) -> usize {
    let mut conn = proxy.raw();
    conn.send(request);
    let head = conn.head().expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // Not reading is what is tested, here and below.
    std::thread::sleep(STALL / 2);
    meanwhile(&mut conn);
    std::thread::sleep(STALL / 2);
    conn.read(size).len()
}

fn each_size(check: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        let check = &check;
        let all: Vec<_> = SIZES.into_iter().map(|size| scope.spawn(move || check(size))).collect();
        for one in all {
            one.join().expect("every size");
        }
    });
}

#[test]
fn the_end_of_an_answer_waits_for_a_client_that_stalls_before_it_closes() {
    let origins = origins(1);
    let proxy = Proxy::of("\"round_robin\"", &origins);
    each_size(|size| {
        let request = get(&format!("/bytes?n={size}"), "connection: close\r\n");
        assert_eq!(stalled(&proxy, size, &request, |_| ()), size);
    });
}

#[test]
fn the_end_of_an_answer_survives_the_end_of_the_process() {
    let origins = origins(1);
    let proxy =
        Proxy::start(&format!("[shutdown]\nidle_grace = \"100ms\"\n{}", harness::app("\"round_robin\"", &origins)));
    let started = Instant::now();
    each_size(|size| {
        let stop = |_: &mut Raw| proxy.stop();
        assert_eq!(stalled(&proxy, size, &get(&format!("/bytes?n={size}"), ""), stop), size);
    });
    assert!(started.elapsed() < Duration::from_secs(25), "within the deadline of the shutdown");
}

#[test]
fn a_late_head_is_not_refused_in_the_middle_of_the_answer_before_it() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("header_timeout = \"300ms\"\n{}", harness::app("\"round_robin\"", &origins)));
    each_size(|size| {
        let mut conn = proxy.raw();
        conn.send(&get(&format!("/bytes?n={size}"), ""));
        let _ = conn.head();
        conn.send(b"GET / HTTP/1.1\r\nho");
        std::thread::sleep(STALL);
        let body = conn.read(size);
        assert!(!body.windows(12).any(|w| w == b"HTTP/1.1 408"), "a 408 inside {size} bytes");
    });
}

#[test]
fn an_exchange_ends_at_its_trailers() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("cores = 1\n{}", harness::app("\"round_robin\"", &origins)));
    let mut conn = proxy.raw();
    let body = "transfer-encoding: chunked\r\ntrailer: x-sum\r\nte: trailers\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n";
    for _ in 0..4 {
        conn.send(format!("POST /mirror HTTP/1.1\r\nhost: a\r\n{body}").as_bytes());
        assert_eq!(conn.answer().trailers.len(), 1);
    }
    assert_eq!(proxy.metric("evenkeel_errors_total", &["reason=\"client_gone\""]), 0.0);
    let connections: std::collections::BTreeSet<_> =
        origins[0].requests().iter().filter(|r| r.path() == "/mirror").map(|r| r.connection).collect();
    assert_eq!(connections.len(), 1, "one connection carries them all");
    eventually("the connection is parked", || (proxy.metric("evenkeel_connections_parked", &[]) == 1.0).then_some(()));
}

#[test]
fn a_get_with_a_chunked_body_keeps_it() {
    let origins = origins(1);
    let proxy = Proxy::of("\"round_robin\"", &origins);
    let mut conn = proxy.raw();
    conn.send(&get("/echo", "transfer-encoding: chunked\r\n"));
    conn.send(b"5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(conn.answer().json()["body_length"], 5);
}

#[test]
fn connections_of_a_removed_listener_get_one_more_answer() {
    let origins = origins(1);
    let listener = |name: &str, bind: &str| format!("[[listener]]\nname = \"{name}\"\nbind = \"{bind}\"\n");
    let rest = format!("[upstream.app]\n{}", servers("app", &origins));
    let (main, other) = (listener("main", "127.0.0.1:0"), listener("other", "127.0.0.2:0"));
    let proxy = Proxy::start(&format!("{main}{other}{rest}"));
    let address = proxy.status().listeners.iter().find(|l| l.name == "other").expect("other").address.parse().unwrap();
    let mut busy = Raw::to(address);
    busy.send(&get("/", ""));
    assert_eq!(busy.answer().status, 200);
    let mut parked = Raw::to(address);
    parked.send(&get("/", ""));
    assert_eq!(parked.answer().status, 200);
    eventually("it is parked", || (proxy.metric("evenkeel_connections_parked", &[]) >= 1.0).then_some(()));
    busy.send(&get("/", ""));
    assert_eq!(busy.answer().status, 200);
    proxy.reload(&format!("{main}{rest}")).unwrap();
    for conn in [&mut busy, &mut parked] {
        conn.send(&get("/", ""));
        let answer = conn.answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
}

/// A deadline that passes in the same moment in which the answer ends belongs to that answer: the next
/// request on the connection is not hit. The process is stopped for that moment, so that it finds both when
/// it goes on.
#[test]
fn an_alarm_for_an_exchange_that_is_over_does_not_hit_the_next() {
    let (finish, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let fake = Fake::start(move |_, mut conn| {
        while let Some(first) = read_head(&mut conn).into_iter().next() {
            conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nx");
            if first.contains("/held") {
                wait.lock().unwrap().recv().unwrap();
            }
            conn.send(b"y");
        }
    });
    let limit = Duration::from_millis(700);
    let evenkeel = Running::start(&format!(
        "cores = 1\n{}",
        harness::unchecked(fake.address(), "timeouts = { request = \"700ms\" }")
    ));
    let mut whole = 0;
    for _ in 0..4 {
        let mut conn = evenkeel.raw();
        let began = Instant::now();
        conn.send(&get("/held", ""));
        assert!(conn.head().expect("a head").starts_with("HTTP/1.1 200"));
        assert_eq!(conn.read(1), b"x");
        evenkeel.process.signal(Signal::STOP);
        finish.send(()).unwrap();
        std::thread::sleep((limit + Duration::from_millis(300)).saturating_sub(began.elapsed()));
        evenkeel.process.signal(Signal::CONT);
        // On a busy machine the deadline may have passed before the stop.
        if conn.try_read(1).is_err() {
            continue;
        }
        whole += 1;
        conn.send(&get("/next", ""));
        let next = conn.try_answer().unwrap_or_else(|error| panic!("the next request was hit: {error}"));
        assert_eq!((next.status, next.text().as_str()), (200, "xy"));
    }
    assert!(whole > 0, "no answer ended in time");
}

#[test]
fn an_upload_that_moves_is_not_cut_because_its_answer_has_begun() {
    let origins = origins(1);
    let timeouts = "timeouts = { between_bytes = \"2s\" }";
    let proxy = Proxy::start(&harness::upstream("app", "\"round_robin\"", timeouts, &origins));
    let mut conn = proxy.raw();
    conn.send(b"POST /mirror HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\n");
    for _ in 0..6 {
        conn.send(b"x");
        // Slow, but never slower than the limit.
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(conn.answer().text(), "xxxxxx");
}
