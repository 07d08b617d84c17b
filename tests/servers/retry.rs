//! What happens to a request whose server fails: another server where that is safe, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::{Client, Fake, Origin, Proxy, WebSocket, answer, eventually, origins, upstream};

/// Every retry that is allowed is made: the budget does not bound it, and who fails is not ejected.
const RICH: &str = "outliers = false\nretry = { attempts = 2, budget_percent = 100, budget_floor = 1000 }\n";

fn config(more: &str, origins: &[Origin]) -> String {
    format!("cores = 1\n{}", upstream("app", "\"round_robin\"", more, origins))
}

fn of_one(more: &str, server: &Fake) -> String {
    format!("{}[[upstream.app.server]]\nname = \"s\"\naddress = \"{}\"\n", config(more, &[]), server.address())
}

fn post(client: &mut Client, id: &str) -> harness::Answer {
    client.send("POST", "/sink", &[("x-request-id", id)], b"pay once")
}

/// How often each request was delivered, over all origins.
fn deliveries(origins: &[Origin], id: &str) -> usize {
    origins.iter().filter_map(|o| o.deliveries().get(id).copied()).sum()
}

/// How often the origins were asked for `path`.
fn asked(origins: &[Origin], path: &str) -> usize {
    origins.iter().map(|o| o.requests().iter().filter(|r| r.path() == path).count()).sum()
}

fn retries(proxy: &Proxy) -> f64 {
    proxy.metric("evenkeel_server_retries_total", &[])
}

#[test]
fn a_failed_get_goes_to_another_server_unseen() {
    let origins = origins(2);
    origins[0].behave(|b| b.hang_up = true);
    let proxy = Proxy::start(&config(RICH, &origins));
    let mut client = proxy.client();
    for _ in 0..20 {
        let answer = client.get("/");
        assert_eq!((answer.status, answer.server(), answer.reason()), (200, "b", None));
    }
    let failed = asked(&origins[..1], "/");
    assert!(failed >= 10, "it was tried");
    assert_eq!(retries(&proxy), failed as f64);
    assert_eq!(proxy.metric("evenkeel_server_failures_total", &["server=\"a\""]), failed as f64);
    assert_eq!(proxy.metric("evenkeel_errors_total", &[]), 0.0);
}

/// A handshake that was not answered has switched nothing.
#[test]
fn a_web_socket_whose_server_fails_is_opened_at_another() {
    let origins = origins(2);
    origins[0].behave(|b| b.hang_up = true);
    let proxy = Proxy::start(&config(RICH, &origins));
    for i in 0..10 {
        let mut socket = WebSocket::open(proxy.address, "/ws");
        assert_eq!(socket.server, "b");
        socket.echo(&format!("message {i}")).unwrap();
    }
    assert_eq!(retries(&proxy), asked(&origins[..1], "/ws") as f64);
    assert!(retries(&proxy) >= 5.0, "it was tried");
}

#[test]
fn every_idempotent_method_may_be_sent_again_and_no_other() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(RICH, &origins));
    let mut client = proxy.client();
    for (method, times) in
        [("GET", 2), ("HEAD", 2), ("OPTIONS", 2), ("DELETE", 2), ("PUT", 2), ("POST", 1), ("PATCH", 1), ("PROPFIND", 1)]
    {
        origins.iter().for_each(Origin::clear);
        assert_eq!(client.send(method, "/drop", &[], b"").status, 502, "{method}");
        assert_eq!(asked(&origins, "/drop"), times, "{method}");
    }
}

#[test]
fn when_every_server_fails_the_client_is_told_why() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(RICH, &origins));
    let answer = proxy.get("/drop");
    assert_eq!((answer.status, answer.reason()), (502, Some("reset")));
    for origin in &origins {
        assert!(!answer.text().contains(&origin.address().to_string()));
    }
}

#[test]
fn a_post_that_may_have_been_sent_is_never_sent_twice() {
    let origins = origins(3);
    origins.iter().for_each(|o| o.behave(|b| b.hang_up = true));
    let proxy = Proxy::start(&config(RICH, &origins));
    let mut client = proxy.client();
    for i in 0..30 {
        let id = format!("post-{i}");
        let body = if i % 2 == 0 { &b"pay once"[..] } else { b"" };
        let answer = client.send("POST", "/sink", &[("x-request-id", &id)], body);
        assert_eq!((answer.status, answer.reason()), (502, Some("reset")));
    }
    // An origin that hangs up has seen the head at most once.
    let seen: Vec<String> = origins.iter().flat_map(Origin::requests).filter_map(|r| r.request_id).collect();
    assert_eq!(seen.len(), 30);
    assert_eq!(retries(&proxy), 0.0);
}

#[test]
fn a_post_goes_elsewhere_when_no_connection_was_there() {
    let mut origins = origins(2);
    let proxy = Proxy::start(&config(
        &format!("{RICH}check = {{ tcp = {{ interval = \"1h\", unhealthy_threshold = 1000 }} }}\n"),
        &origins,
    ));
    origins[0].stop();
    let mut client = proxy.client();
    for i in 0..20 {
        let id = format!("post-{i}");
        assert_eq!(post(&mut client, &id).status, 200);
        assert_eq!(deliveries(&origins, &id), 1);
    }
    assert!(proxy.metric("evenkeel_server_connect_failures_total", &["server=\"a\""]) >= 10.0);
    let sent = origins[1].requests();
    assert!(sent.iter().all(|r| r.body == 8), "the whole body");
}

/// How many sockets of this machine are connected to `address`, half closed ones included.
fn connections_to(address: SocketAddr) -> usize {
    let (port, table) = (format!(":{:04X}", address.port()), std::fs::read_to_string("/proc/net/tcp").unwrap());
    let is_open = |line: &&str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // Established, or closed by the other side only.
        fields[2].ends_with(&port) && ["01", "08"].contains(&fields[3])
    };
    table.lines().filter(is_open).count()
}

/// The server has closed what the proxy kept open. Nobody notices.
#[test]
fn a_connection_that_the_server_has_closed_is_not_used() {
    let origins = origins(1);
    let proxy = Proxy::start(&config("retry = { attempts = 0 }\n", &origins));
    let mut client = proxy.client();
    for i in 0..60 {
        let id = format!("post-{i}");
        assert_eq!(client.get("/").status, 200);
        origins[0].close_connections();
        eventually("the connection is closed", || (origins[0].connections() == 0).then_some(()));
        // Its owner has forgotten it; the proxy is only to be asked when the end has reached it, too.
        eventually("the proxy's end is closed", || (connections_to(origins[0].address()) == 0).then_some(()));
        assert_eq!(post(&mut client, &id).status, 200, "nothing was sent over the dead one");
        assert_eq!(deliveries(&origins, &id), 1);
    }
    assert_eq!(retries(&proxy), 0.0);
}

/// It is closed at the very moment of the next request: the server has read it, or not, who knows.
#[test]
fn a_request_that_meets_the_closing_of_its_connection() {
    let server = Fake::answering(|_, request, _| (request == 0).then(|| answer(200, "ok")));
    // Not even counted as a retry: the connection was old, the server is not to blame.
    let proxy = Proxy::start(&of_one("retry = { attempts = 1, budget_percent = 0, budget_floor = 0 }\n", &server));
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/get").status, 200);
    }
    let gets = server.heads().len();
    assert!((30..=40).contains(&gets), "{gets}: each is sent again over a fresh connection");

    assert_eq!(client.get("/get").status, 200);
    let before = server.heads().len();
    let refused = client.post("/post", b"pay once");
    let posts = server.heads().iter().filter(|h| h.starts_with("POST ")).count();
    assert_eq!(posts, 1, "{} {:?}", refused.status, &server.heads()[before..]);
    assert_eq!((refused.status, refused.reason()), (502, Some("reset")));
}

#[test]
fn another_server_comes_first() {
    let origins = origins(3);
    origins[0].behave(|b| b.hang_up = true);
    origins[1].behave(|b| b.hang_up = true);
    let proxy = Proxy::start(&config(RICH, &origins));
    let mut client = proxy.client();
    for _ in 0..30 {
        assert_eq!(client.get("/").server(), "c");
    }
    for origin in &origins {
        let mut ids: Vec<_> = origin.requests().into_iter().map(|r| r.request_id.unwrap()).collect();
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "{} got a request twice", origin.name());
    }
}

#[test]
fn the_attempts_are_bounded() {
    let origins = origins(6);
    for attempts in 0..4 {
        origins.iter().for_each(Origin::clear);
        let retry = format!("retry = {{ attempts = {attempts}, budget_percent = 100, budget_floor = 1000 }}\n");
        let proxy = Proxy::start(&config(&retry, &origins));
        assert_eq!(proxy.get("/drop").status, 502);
        assert_eq!(asked(&origins, "/drop"), attempts + 1);
    }
}

#[test]
fn the_only_server_is_tried_again() {
    let server = Fake::answering(|connection, _, _| (connection % 2 == 1).then(|| answer(200, "ok")));
    let proxy = Proxy::start(&of_one(&format!("{RICH}pool = {{ max_idle = 0 }}\n"), &server));
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(server.heads().len(), 10);
    assert_eq!(client.post("/", b"pay once").status, 502);
    assert_eq!(server.heads().len(), 11);
}

#[test]
fn a_server_that_nobody_reaches_is_told_as_that() {
    let mut origins = origins(1);
    origins[0].stop();
    let proxy = Proxy::start(&config(RICH, &origins));
    let began = Instant::now();
    for method in ["GET", "POST"] {
        let answer = proxy.client().send(method, "/", &[], b"");
        assert_eq!((answer.status, answer.reason()), (502, Some("connect_refused")));
        assert!(!answer.text().contains(&origins[0].address().port().to_string()));
    }
    assert!(began.elapsed() < Duration::from_secs(15), "never a hang");
}

/// A share of the requests and no more, so that retries do not multiply an outage.
#[test]
fn retries_are_a_share_of_the_requests() {
    let origins = origins(2);
    let proxy = Proxy::start(&config("retry = { attempts = 2, budget_percent = 20, budget_floor = 0 }\n", &origins));
    let mut client = proxy.client();
    for _ in 0..100 {
        assert_eq!(client.get("/drop").status, 502);
    }
    assert_eq!(asked(&origins, "/drop"), 120);
    assert_eq!(retries(&proxy), 20.0);
}

#[test]
fn quiet_times_save_up_a_burst_of_retries_and_each_second_adds_a_few() {
    let origins = origins(2);
    let proxy = Proxy::start(&config("retry = { attempts = 1, budget_percent = 0, budget_floor = 3 }\n", &origins));
    let mut client = proxy.client();
    let began = Instant::now();
    for _ in 0..60 {
        assert_eq!(client.get("/drop").status, 502);
    }
    // Ten seconds' worth at first, and the floor of each second that passed.
    let most = 3.0 * (began.elapsed().as_secs_f64().floor() + 11.0);
    assert!((30.0..=most).contains(&retries(&proxy)), "{} retries", retries(&proxy));
    let before = retries(&proxy);
    eventually("the floor comes back", || {
        assert_eq!(client.get("/drop").status, 502);
        (retries(&proxy) > before).then_some(())
    });
}

#[test]
fn an_answer_that_has_begun_is_never_asked_for_again() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(RICH, &origins));
    assert!(proxy.client().try_send("GET", "/bytes?n=100000&cut=50", &[], b"").is_err(), "half an answer is none");
    assert_eq!(asked(&origins, "/bytes"), 1);
    assert_eq!(proxy.metric("evenkeel_errors_total", &["reason=\"truncated\""]), 1.0);
    // What a server says is an answer, whatever it says.
    assert_eq!(proxy.get("/status?code=503").status, 503);
    assert_eq!(asked(&origins, "/status"), 1);
    assert_eq!(retries(&proxy), 0.0);
}

#[test]
fn a_server_that_does_not_answer_in_time() {
    let origins = origins(2);
    origins[0].behave(|b| b.delay = Duration::from_secs(600));
    let proxy = Proxy::start(&config(&format!("{RICH}timeouts = {{ first_byte = \"1s\" }}\n"), &origins));
    let mut client = proxy.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").server(), "b");
    }
    let mut statuses: Vec<_> = (0..2)
        .map(|i| post(&mut client, &format!("post-{i}")))
        .map(|a| (a.status, a.reason().map(str::to_owned)))
        .collect();
    statuses.sort();
    assert_eq!(statuses, [(200, None), (504, Some("first_byte_timeout".to_owned()))]);
    assert_eq!([0, 1].map(|i| deliveries(&origins, &format!("post-{i}"))), [1, 1]);
}

/// A body can be sent once only, so a PUT with one is no GET.
#[test]
fn a_body_is_not_sent_twice() {
    let origins = origins(2);
    origins.iter().for_each(|o| o.behave(|b| b.hang_up = true));
    let proxy = Proxy::start(&config(RICH, &origins));
    assert_eq!(proxy.client().send("PUT", "/sink", &[], b"some").status, 502);
    assert_eq!(asked(&origins, "/sink"), 1);
}

/// Servers die and come back while clients post over kept connections: some posts fail, none comes twice.
#[test]
fn no_post_comes_twice_while_servers_are_killed() {
    let mut origins = origins(3);
    let proxy = Proxy::start(&format!("cores = 2\n{}", upstream("app", "\"round_robin\"", RICH, &origins)));
    let answered: Vec<(String, u16)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|c| {
                let mut client = proxy.client();
                scope.spawn(move || {
                    (0..150)
                        .map(|i| format!("p-{c}-{i}"))
                        .map(|id| (id.clone(), post(&mut client, &id).status))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for round in 0..9 {
            origins[round % 3].kill();
            // Down for a moment that some of the posts fall into.
            std::thread::sleep(Duration::from_millis(20));
            origins[round % 3].restart().unwrap();
        }
        clients.into_iter().flat_map(|c| c.join().unwrap()).collect()
    });
    for (id, status) in &answered {
        let times = deliveries(&origins, id);
        assert!(if *status == 200 { times == 1 } else { times <= 1 }, "{id}: {status}, delivered {times} times");
    }
    assert_eq!(answered.len(), 900);
}
