//! Limits of servers and the queue in front of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Answer, Client2, Fake, Held, Proxy, Raw, Refusing, Running, eventually, unchecked};
use serde_json::json;

/// Nobody who waits is meant to be given up while a test runs.
const LONG: &str = "queue = { timeout = \"60s\" }";

/// An upstream `app` of these servers, `more` in its table. Nothing is checked.
fn held(more: &str, servers: &[(&str, &Held)]) -> String {
    let table = |(name, server): &(&str, &Held)| {
        format!("[[upstream.app.server]]\nname = \"{name}\"\naddress = \"{}\"\n", server.address())
    };
    format!("[upstream.app]\ncheck = \"off\"\n{more}\n{}", servers.iter().map(table).collect::<String>())
}

fn waiting(proxy: &Proxy, count: u32) {
    let queue = || proxy.status().upstreams[0].queue.clone().expect("a queue");
    eventually("requests that wait", || (queue().waiting == count).then_some(()));
    assert_eq!(proxy.metric("evenkeel_upstream_queued", &[]), f64::from(count));
}

/// A connection with one request on its way.
fn ask(proxy: &Proxy, path: &str) -> Raw {
    let mut conn = proxy.raw();
    conn.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
    conn
}

/// The same with a cookie.
fn ask_with(proxy: &Proxy, path: &str, cookie: &str) -> Raw {
    let mut conn = proxy.raw();
    conn.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\ncookie: {cookie}\r\n\r\n").as_bytes());
    conn
}

#[track_caller]
fn is_refused(answer: &Answer, reason: &str) {
    assert_eq!((answer.status, answer.reason()), (503, Some(reason)), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[test]
fn a_server_never_has_more_than_its_limit_over_all_cores() {
    const LIMIT: usize = 3;
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let fake = {
        let (inside, most) = (Arc::clone(&inside), Arc::clone(&most));
        Fake::answering(move |_, _, _| {
            most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
            // Nobody leaves before the limit was reached once; from then on each has a little work to do.
            while most.load(SeqCst) < LIMIT {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(1));
            inside.fetch_sub(1, SeqCst);
            Some(harness::answer(200, "ok"))
        })
    };
    let more = format!("max_requests = {LIMIT}\n{LONG}");
    let proxy = Proxy::start(&format!("cores = 4\n{}", unchecked(fake.address(), &more)));
    let address = proxy.address;
    let clients: Vec<_> = (0..24)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = harness::Client::to(address);
                for i in 0..20 {
                    if i % 5 == 0 {
                        // On another core, perhaps.
                        client.hang_up();
                    }
                    assert_eq!(client.get("/").status, 200);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(most.load(SeqCst), LIMIT);
    let status = proxy.status().upstreams.remove(0);
    let queue = status.queue.unwrap();
    assert_eq!((queue.waiting, queue.timeouts, queue.overflows), (0, 0, 0));
    assert!(queue.queued > 0);
    assert_eq!((status.servers[0].in_flight, status.servers[0].max_requests), (0, Some(LIMIT as u32)));
    assert_eq!(proxy.metric("evenkeel_upstream_queued_total", &[]), queue.queued as f64);
    assert_eq!(proxy.metric("evenkeel_upstream_queue_seconds_count", &[]), queue.queued as f64);
    assert_eq!(proxy.metric("evenkeel_server_max_requests", &[]), LIMIT as f64);
}

#[test]
fn who_came_first_is_served_first() {
    let server = Held::start("a");
    let proxy = Proxy::start(&format!("cores = 1\n{}", held(&format!("max_requests = 1\n{LONG}"), &[("a", &server)])));
    let mut conns = vec![ask(&proxy, "/0")];
    server.has(1);
    for i in 1..6 {
        conns.push(ask(&proxy, &format!("/{i}")));
        waiting(&proxy, i);
    }
    server.release(usize::MAX);
    for conn in &mut conns {
        assert_eq!(conn.answer().status, 200);
    }
    assert_eq!(server.paths(), ["/0", "/1", "/2", "/3", "/4", "/5"]);
    assert_eq!(server.most(), 1);
    waiting(&proxy, 0);
}

#[test]
fn who_has_waited_for_too_long_is_told_so() {
    let server = Held::start("a");
    let proxy = Proxy::start(&held("max_requests = 1\nqueue = { timeout = \"200ms\" }", &[("a", &server)]));
    let mut first = ask(&proxy, "/first");
    server.has(1);
    let began = Instant::now();
    is_refused(&proxy.get("/late"), "queue_timeout");
    assert!(began.elapsed() >= Duration::from_millis(200));
    waiting(&proxy, 0);
    server.release(usize::MAX);
    assert_eq!(first.answer().status, 200);
    assert_eq!(server.paths(), ["/first"]);
    assert_eq!(proxy.metric("evenkeel_upstream_queue_refused_total", &["reason=\"timeout\""]), 1.0);
    assert_eq!(proxy.metric("evenkeel_errors_total", &["reason=\"queue_timeout\""]), 1.0);
    // The next one finds the server free.
    eventually("the server to be free", || (proxy.server("app", "a").in_flight == 0).then_some(()));
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn a_full_queue_refuses_at_once() {
    let server = Held::start("a");
    let proxy = Proxy::start(&held("max_requests = 1\nqueue = { size = 2, timeout = \"60s\" }", &[("a", &server)]));
    let mut conns = vec![ask(&proxy, "/")];
    server.has(1);
    conns.extend([ask(&proxy, "/"), ask(&proxy, "/")]);
    waiting(&proxy, 2);
    is_refused(&proxy.get("/"), "queue_full");
    let answer = proxy.client().with("accept", "text/html").post("/", b"body");
    is_refused(&answer, "queue_full");
    assert!(answer.text().contains("<h1>503"));
    assert_eq!(proxy.metric("evenkeel_upstream_queue_refused_total", &["reason=\"full\""]), 2.0);
    server.release(usize::MAX);
    conns.iter_mut().for_each(|conn| assert_eq!(conn.answer().status, 200));
}

#[test]
fn a_queue_of_size_0_is_a_circuit_breaker_alone() {
    let (a, b) = (Held::start("a"), Held::start("b"));
    let proxy = Proxy::start(&held("max_requests = 1\nqueue = { size = 0 }", &[("a", &a), ("b", &b)]));
    let mut conns = [ask(&proxy, "/"), ask(&proxy, "/")];
    // The full one is passed over.
    a.has(1);
    b.has(1);
    is_refused(&proxy.get("/"), "queue_full");
    a.release(1);
    b.release(1);
    conns.iter_mut().for_each(|conn| assert_eq!(conn.answer().status, 200));
    assert_eq!((a.paths().len(), b.paths().len()), (1, 1));
}

#[test]
fn who_leaves_leaves_the_queue() {
    let server = Held::start("a");
    let proxy = Proxy::start(&held(&format!("max_requests = 1\n{LONG}"), &[("a", &server)]));
    let mut first = ask(&proxy, "/first");
    server.has(1);
    let gone = ask(&proxy, "/gone");
    waiting(&proxy, 1);
    let mut stays = ask(&proxy, "/stays");
    waiting(&proxy, 2);
    drop(gone);
    waiting(&proxy, 1);
    server.release(usize::MAX);
    assert_eq!((first.answer().status, stays.answer().status), (200, 200));
    assert_eq!(server.paths(), ["/first", "/stays"]);
}

#[test]
fn streams_of_http2_wait_and_leave_alike() {
    let server = Held::start("a");
    let proxy = Proxy::start(&format!("cores = 1\n{}", held(&format!("max_requests = 1\n{LONG}"), &[("a", &server)])));
    let client = Client2::to(proxy.address);
    let send = |path: &str| {
        let mut sender = client.sender.clone();
        let request = Client2::request("GET", path).body(()).unwrap();
        client.runtime.block_on(async {
            std::future::poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
            sender.send_request(request, true).unwrap()
        })
    };
    let (first, _) = send("/first");
    server.has(1);
    let (gone, mut stream) = send("/gone");
    waiting(&proxy, 1);
    let (last, _) = send("/last");
    waiting(&proxy, 2);
    client.runtime.block_on(async { stream.send_reset(h2::Reason::CANCEL) });
    drop(gone);
    waiting(&proxy, 1);
    server.release(usize::MAX);
    for answer in [first, last] {
        assert_eq!(client.runtime.block_on(answer).unwrap().status(), 200);
    }
    assert_eq!(server.paths(), ["/first", "/last"]);
}

#[test]
fn a_server_that_is_added_serves_those_who_wait() {
    let (a, b) = (Held::start("a"), Held::start("b"));
    let more = format!("max_requests = 1\n{LONG}");
    let proxy = Proxy::start(&held(&more, &[("a", &a)]));
    let _first = ask(&proxy, "/first");
    a.has(1);
    let mut waits = ask(&proxy, "/waits");
    waiting(&proxy, 1);
    b.release(1);
    proxy.reload(&held(&more, &[("a", &a), ("b", &b)])).unwrap();
    assert_eq!(waits.answer().server(), "b");
}

#[test]
fn a_server_that_an_operator_adds_has_the_limit_of_its_upstream() {
    let (a, b) = (Held::start("a"), Held::start("b"));
    let proxy = Proxy::start(&held(&format!("max_requests = 1\n{LONG}"), &[("a", &a)]));
    let _first = ask(&proxy, "/first");
    a.has(1);
    let mut waits = [ask(&proxy, "/waits"), ask(&proxy, "/waits")];
    waiting(&proxy, 2);
    let added = json!({ "name": "b", "address": b.address().to_string() }).to_string();
    assert_eq!(proxy.admin("POST", "/upstreams/app/servers", &added).0, 201);
    b.has(1);
    waiting(&proxy, 1);
    b.release(2);
    waits.iter_mut().for_each(|conn| assert_eq!(conn.answer().server(), "b"));
    assert_eq!(b.most(), 1);
}

#[test]
fn a_limit_that_is_raised_or_lifted_serves_those_who_wait() {
    let server = Held::start("a");
    let with = |limit: &str| held(&format!("max_requests = {limit}\n{LONG}"), &[("a", &server)]);
    let proxy = Proxy::start(&with("1"));
    let mut conns: Vec<_> = vec![ask(&proxy, "/1")];
    server.has(1);
    conns.extend((2..5).map(|i| ask(&proxy, &format!("/{i}"))));
    waiting(&proxy, 3);
    proxy.reload(&with("2")).unwrap();
    server.has(2);
    waiting(&proxy, 2);
    let changes = proxy.reload(&with("\"unlimited\"")).unwrap().changes;
    assert_eq!(
        changes,
        ["upstream app: max_requests 2 → unlimited", "upstream app: server a: max_requests 2 → unlimited"]
    );
    server.has(4);
    assert_eq!(proxy.status().upstreams[0].queue, None);
    server.release(usize::MAX);
    conns.iter_mut().for_each(|conn| assert_eq!(conn.answer().status, 200));
    assert_eq!(server.most(), 4);
}

#[test]
fn a_server_that_is_made_ready_serves_those_who_wait() {
    let (a, b) = (Held::start("a"), Held::start("b"));
    let proxy = Proxy::start(&held(&format!("max_requests = 1\n{LONG}"), &[("a", &a), ("b", &b)]));
    proxy.change("app", "b", &json!({ "admin": "disabled" }));
    let _first = ask(&proxy, "/first");
    a.has(1);
    let mut waits = ask(&proxy, "/waits");
    waiting(&proxy, 1);
    b.release(1);
    proxy.change("app", "b", &json!({ "admin": "ready" }));
    assert_eq!(waits.answer().server(), "b");
}

#[test]
fn a_server_that_is_out_is_not_waited_for() {
    let (a, b) = (Held::start("a"), Held::start("b"));
    let proxy = Proxy::start(&held(&format!("max_requests = 1\n{LONG}"), &[("a", &a), ("b", &b)]));
    let _conns = [ask(&proxy, "/"), ask(&proxy, "/")];
    a.has(1);
    b.has(1);
    let mut waits = [ask(&proxy, "/waits"), ask(&proxy, "/waits")];
    waiting(&proxy, 2);
    proxy.change("app", "a", &json!({ "admin": "draining" }));
    waiting(&proxy, 2);
    proxy.change("app", "b", &json!({ "admin": "disabled" }));
    for conn in &mut waits {
        is_refused(&conn.answer(), "no_server");
    }
    waiting(&proxy, 0);
}

#[test]
fn who_is_pinned_waits_for_its_server_and_others_pass() {
    let (a, b) = (Held::start("a"), Held::start("b"));
    let more = format!("policy = {{ sticky_cookie = {{ new_clients = \"round_robin\" }} }}\nmax_requests = 1\n{LONG}");
    let proxy = Proxy::start(&format!("cores = 1\n{}", held(&more, &[("a", &a), ("b", &b)])));
    a.release(1);
    b.release(1);
    let cookies: Vec<_> = [proxy.get("/new"), proxy.get("/new")]
        .iter()
        .map(|answer| (answer.server().to_owned(), answer.cookie("evenkeel").unwrap()))
        .collect();
    let cookie = |server: &str| &cookies.iter().find(|(name, _)| name == server).unwrap().1;
    let mut first = ask_with(&proxy, "/a1", cookie("a"));
    a.has(2);
    let mut second = ask_with(&proxy, "/a2", cookie("a"));
    waiting(&proxy, 1);
    // Nobody waits for `b` in front of these.
    b.release(2);
    assert_eq!(ask_with(&proxy, "/b1", cookie("b")).answer().server(), "b");
    assert_eq!(proxy.get("/new").server(), "b");
    waiting(&proxy, 1);
    a.release(2);
    assert_eq!((first.answer().server(), second.answer().server()), ("a", "a"));
    // Drained, it is waited for by its own clients alone; disabled, by nobody.
    let _holds = ask_with(&proxy, "/a3", cookie("a"));
    a.has(4);
    let mut moved = ask_with(&proxy, "/a4", cookie("a"));
    waiting(&proxy, 1);
    proxy.change("app", "a", &json!({ "admin": "draining" }));
    waiting(&proxy, 1);
    b.release(1);
    proxy.change("app", "a", &json!({ "admin": "disabled" }));
    assert_eq!(moved.answer().server(), "b");
}

#[test]
fn clients_of_ip_hash_wait_for_their_server() {
    let (a, b) = (Held::start("a"), Held::start("b"));
    let more = format!("policy = \"ip_hash\"\nmax_requests = 1\n{LONG}");
    let proxy = Proxy::start(&held(&more, &[("a", &a), ("b", &b)]));
    let mut first = ask(&proxy, "/1");
    let mine = eventually("a request", || [&a, &b].into_iter().find(|held| !held.paths().is_empty()));
    let mut second = ask(&proxy, "/2");
    waiting(&proxy, 1);
    mine.release(2);
    assert_eq!(first.answer().server(), second.answer().server());
    assert_eq!(mine.paths(), ["/1", "/2"]);
}

/// Whose server by the address is another one meanwhile goes there, and does not wait for the one before.
#[test]
fn clients_of_ip_hash_look_again_when_servers_change() {
    let (a, b) = (Held::start("a"), Held::start("b"));
    let more = format!("policy = \"ip_hash\"\nmax_requests = 1\n{LONG}");
    let proxy = Proxy::start(&held(&more, &[("a", &a), ("b", &b)]));
    proxy.change("app", "b", &json!({ "weight": 0 }));
    let _first = ask(&proxy, "/1");
    a.has(1);
    let mut second = ask(&proxy, "/2");
    waiting(&proxy, 1);
    b.release(1);
    // By far the most clients are b's now, this one too.
    proxy.change("app", "b", &json!({ "weight": 1000 }));
    assert_eq!(second.answer().server(), "b");
}

#[test]
fn a_request_that_failed_waits_for_another_server() {
    let (a, dead) = (Held::start("a"), Refusing::new());
    let more = format!("max_requests = 1\n{LONG}");
    let text = format!(
        "{}[[upstream.app.server]]\nname = \"dead\"\naddress = \"{}\"\nweight = 1000\n",
        held(&more, &[("a", &a)]),
        dead.address
    );
    let proxy = Proxy::start(&format!("cores = 1\n{text}"));
    let mut conns = vec![ask(&proxy, "/0")];
    a.has(1);
    conns.push(ask(&proxy, "/1"));
    waiting(&proxy, 1);
    a.release(usize::MAX);
    conns.iter_mut().for_each(|conn| assert_eq!(conn.answer().server(), "a"));
    assert_eq!(a.paths(), ["/0", "/1"]);
}

#[test]
fn a_body_waits_with_its_request() {
    let server = Held::start("a");
    let proxy = Proxy::start(&held(&format!("max_requests = 1\n{LONG}"), &[("a", &server)]));
    let mut first = ask(&proxy, "/first");
    server.has(1);
    let mut post = proxy.raw();
    post.send(b"POST /post HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
    waiting(&proxy, 1);
    server.release(usize::MAX);
    assert_eq!((first.answer().status, post.answer().status), (200, 200));
    assert_eq!(server.paths(), ["/first", "/post"]);
}

#[test]
fn a_tunnel_holds_its_place() {
    let origin = harness::Origin::start("a").unwrap();
    let more = "max_requests = 1\nqueue = { timeout = \"60s\" }";
    let proxy = Proxy::start(&harness::upstream("app", "\"round_robin\"", more, std::slice::from_ref(&origin)));
    let (tunnel, _) = proxy.tunnel();
    let mut waits = ask(&proxy, "/echo");
    waiting(&proxy, 1);
    drop(tunnel);
    assert_eq!(waits.answer().status, 200);
}

#[test]
fn no_core_is_forgotten() {
    // Each client waits on the core it came to; all of them get their turn.
    let server = Held::start("a");
    let proxy = Proxy::start(&format!("cores = 4\n{}", held(&format!("max_requests = 1\n{LONG}"), &[("a", &server)])));
    let served = Arc::new(Mutex::new(0));
    let threads: Vec<_> = (0..32)
        .map(|i| {
            let (mut conn, served) = (ask(&proxy, &format!("/{i}")), Arc::clone(&served));
            std::thread::spawn(move || {
                assert_eq!(conn.answer().status, 200);
                *served.lock().unwrap() += 1;
            })
        })
        .collect();
    waiting(&proxy, 31);
    server.release(usize::MAX);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((*served.lock().unwrap(), server.most()), (32, 1));
}

#[test]
fn status_shows_who_waits() {
    let server = Held::start("a");
    let proxy = Running::start(&held(&format!("max_requests = 1\n{LONG}"), &[("a", &server)]));
    let mut first = proxy.raw();
    first.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    server.has(1);
    let mut second = proxy.raw();
    second.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let shown = eventually("the queue in the status", || {
        let shown = proxy.verb(&["status"]).out;
        shown.contains("queue: 1 of 1,024 waiting, 1 queued").then_some(shown)
    });
    assert!(shown.contains("1 of 1 "), "{shown}");
    server.release(usize::MAX);
    assert_eq!((first.answer().status, second.answer().status), (200, 200));
}
