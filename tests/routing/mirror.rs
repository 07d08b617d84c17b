//! Copies of requests for a second upstream.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use harness::{Fake, Proxy, Raw, Refusing, answer, eventually};

/// A route to `first` whose requests are copied to `second`.
fn proxy(first: impl std::fmt::Display, second: impl std::fmt::Display, options: &str) -> Proxy {
    Proxy::start(&format!(
        "cores = 1\n[[route]]\nname = \"r\"\nupstream = \"app\"\nmirror = {{ to = \"next\"{options} }}\n\
         [upstream.app]\ncheck = \"off\"\nservers = [\"{first}\"]\n\
         [upstream.next]\ncheck = \"off\"\nservers = [\"{second}\"]\n"
    ))
}

fn ok() -> Fake {
    Fake::answering(|_, _, _| Some(answer(200, "first")))
}

/// Heads and bodies, as they came.
type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A server that keeps whole requests.
fn recorder() -> (Fake, Seen) {
    let seen: Seen = Arc::default();
    let kept = Arc::clone(&seen);
    let fake = Fake::start(move |_, mut conn| {
        while let Some(head) = conn.head() {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
            let Ok(body) = conn.try_read(length.unwrap_or(0)) else { return };
            kept.lock().unwrap().push((lower, body));
            if conn.try_send(answer(500, "nobody reads this").as_bytes()).is_err() {
                return;
            }
        }
    });
    (fake, seen)
}

fn counted(proxy: &Proxy, outcome: &str) -> f64 {
    proxy.metric("evenkeel_mirrored_requests_total", &["r", outcome])
}

#[track_caller]
fn until(proxy: &Proxy, outcome: &str, count: f64) {
    eventually(outcome, || (counted(proxy, outcome) == count).then_some(()));
}

#[test]
fn copies_are_sent_with_their_bodies_and_their_answers_are_not_seen() {
    let (first, (second, seen)) = (ok(), recorder());
    let proxy = proxy(first.address(), second.address(), "");
    let mut client = proxy.client();
    assert_eq!(client.get("/a?b=c").text(), "first");
    until(&proxy, "answered", 1.0);
    assert_eq!(client.post("/d", b"the body").text(), "first");
    until(&proxy, "answered", 2.0);
    let mut raw = proxy.raw();
    raw.send(b"PUT /e HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nthe\r\n5\r\n body\r\n0\r\n\r\n");
    assert_eq!(raw.answer().text(), "first");
    until(&proxy, "answered", 3.0);

    let seen = seen.lock().unwrap();
    for ((head, body), (line, wanted)) in seen.iter().zip([
        ("get /a?b=c http/1.1", ""),
        ("post /d http/1.1", "the body"),
        ("put /e http/1.1", "the body"),
    ]) {
        assert!(head.starts_with(line), "{head}");
        assert_eq!(body, wanted.as_bytes());
        assert!(head.contains("\r\nx-mirrored-by: evenkeel\r\n"), "{head}");
        assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(second.accepted(), 1, "connections are kept");
    assert!(first.heads().iter().all(|head| !head.contains("mirrored")), "the original is not marked");
    assert_eq!(proxy.metric("evenkeel_server_answers_total", &["next", &second.address().to_string(), "5xx"]), 3.0);
}

#[test]
fn a_second_upstream_that_is_down_or_silent_changes_nothing() {
    let (first, refusing) = (ok(), Refusing::new());
    let down = proxy(first.address(), refusing.address, "");
    for n in 1..=5 {
        assert_eq!(down.client().post("/", b"x").text(), "first");
        until(&down, "failed", f64::from(n));
    }

    // It never answers: the copies that there may be are used up, the rest are skipped.
    let (hold, held) = channel::<Raw>();
    let hold = Mutex::new(hold);
    let silent = Fake::start(move |_, conn| drop(hold.lock().unwrap().send(conn)));
    let proxy = proxy(first.address(), silent.address(), ", max_in_flight = 2");
    let mut client = proxy.client();
    for _ in 0..6 {
        assert_eq!(client.get("/").text(), "first");
    }
    assert_eq!(counted(&proxy, "skipped"), 4.0);
    drop((held.recv().unwrap(), held.recv().unwrap()));
    until(&proxy, "failed", 2.0);
    assert_eq!(client.get("/").text(), "first");
    drop(held.recv().unwrap());
    until(&proxy, "failed", 3.0);
}

#[test]
fn large_bodies_are_not_copied() {
    let (first, (second, seen)) = (ok(), recorder());
    let proxy = proxy(first.address(), second.address(), ", max_body = 10");
    let mut client = proxy.client();
    assert_eq!(client.post("/", b"0123456789").text(), "first");
    until(&proxy, "answered", 1.0);
    assert_eq!(client.post("/", b"0123456789a").text(), "first");
    until(&proxy, "skipped", 1.0);
    let mut raw = proxy.raw();
    raw.send(
        b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n8\r\n01234567\r\n8\r\n01234567\r\n0\r\n\r\n",
    );
    assert_eq!(raw.answer().text(), "first");
    until(&proxy, "skipped", 2.0);
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[test]
fn a_share_is_drawn() {
    let (first, (second, seen)) = (ok(), recorder());
    let proxy = proxy(first.address(), second.address(), ", percent = 25");
    let mut client = proxy.client();
    for _ in 0..400 {
        assert_eq!(client.get("/").text(), "first");
    }
    eventually("the copies to end", || {
        let (answered, skipped) = (counted(&proxy, "answered"), counted(&proxy, "skipped"));
        (proxy.metric("evenkeel_mirrors_open", &["r"]) == 0.0).then_some(answered + skipped)
    });
    let seen = seen.lock().unwrap().len();
    assert!((40..=170).contains(&seen), "{seen} of 400");
}

/// The connection has ended even where its last copy has not.
#[test]
fn a_client_that_has_left_is_not_counted_for_its_copies() {
    let (tell, told) = channel();
    let (let_go, go) = channel::<()>();
    let go = Mutex::new(go);
    let second = Fake::start(move |_, mut conn| {
        let _ = conn.head();
        tell.send(()).unwrap();
        let _ = go.lock().unwrap().recv();
    });
    let first = ok();
    let proxy = Proxy::start(&format!(
        "cores = 1\n[[listener]]\nbind = \"127.0.0.1:0\"\nmax_connections_per_client = 1\nunlimited_clients = []\n\
         [[route]]\nname = \"r\"\nupstream = \"app\"\nmirror = {{ to = \"next\" }}\n\
         [upstream.app]\ncheck = \"off\"\nservers = [\"{}\"]\n\
         [upstream.next]\ncheck = \"off\"\nservers = [\"{}\"]\n",
        first.address(),
        second.address()
    ));
    assert_eq!(proxy.client().get("/").text(), "first");
    told.recv().unwrap();
    eventually("its place is free", || {
        let mut again = proxy.raw();
        let _ = again.try_send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        again.try_answer().ok()
    });
    assert_eq!(proxy.metric("evenkeel_mirrors_open", &["r"]), 2.0, "the first copy is still under way");
    drop(let_go);
}
