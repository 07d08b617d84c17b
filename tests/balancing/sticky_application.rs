//! `sticky_cookie` that goes by the application's own session cookie.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::{Answer, Client, Fake, Origin, Proxy, eventually, origins, upstream};

fn config(options: &str, more: &str, origins: &[Origin]) -> String {
    let policy = format!("{{ sticky_cookie = {{ new_clients = \"round_robin\", {options} }} }}");
    format!("cores = 1\n{}", upstream("app", &policy, more, origins))
}

/// Logs in, and returns a client with the application's cookie alone, and its server.
fn logged_in(proxy: &Proxy) -> (Client, String) {
    let answer = proxy.get("/login");
    assert_eq!(answer.all("set-cookie").len(), 1, "no cookie but the application's: {:?}", answer.all("set-cookie"));
    (proxy.client().with("cookie", &answer.cookie("sid").unwrap()), answer.server().to_owned())
}

fn asked(client: &mut Client) -> (u16, String) {
    let answer = client.get("/count");
    (answer.status, answer.server().to_owned())
}

#[test]
fn the_server_that_set_the_cookie_is_learned() {
    let origins = origins(3);
    let proxy = Proxy::start(&config("learn = \"sid\"", "", &origins));
    // Nobody's session has begun: spread, request by request, and nothing is counted.
    let mut visitor = proxy.client().with("cookie", "theme=dark");
    let servers: BTreeSet<String> = (0..3).map(|_| visitor.get("/echo").server().to_owned()).collect();
    assert_eq!(servers.len(), 3);
    assert_eq!(proxy.server("app", "a").sessions, Some(0));

    let mut clients: Vec<(Client, String)> = (0..6).map(|_| logged_in(&proxy)).collect();
    for round in 0..4 {
        for (client, server) in &mut clients {
            assert_eq!(asked(client), (200, server.clone()), "round {round}");
            client.hang_up();
        }
    }
    let answer = clients[0].0.get("/echo");
    assert!(
        answer.echoed("cookie")[0].starts_with("sid="),
        "the application gets its cookie: {:?}",
        answer.echoed("cookie")
    );
    assert_eq!(["a", "b", "c"].map(|name| proxy.server("app", name).sessions), [Some(2); 3]);
    assert_eq!(proxy.metric("evenkeel_sticky_sessions_begun_total", &[]), 6.0);
    assert_eq!(proxy.metric("evenkeel_sticky_requests_kept_total", &[]), 25.0);
}

#[test]
fn learned_sessions_outlive_a_reload_hold_a_drain_and_move_once() {
    let mut origins = origins(2);
    let proxy = Proxy::start(&config("learn = \"sid\"", "", &origins));
    let (mut client, own) = logged_in(&proxy);
    proxy.reload(&config("learn = \"sid\"", "max_requests = 100\n", &origins)).unwrap();
    assert_eq!(asked(&mut client), (200, own.clone()));

    proxy.change("app", &own, &serde_json::json!({"admin": "draining"}));
    assert_eq!(asked(&mut client), (200, own.clone()), "a drain lets it go on");
    assert_eq!(proxy.server("app", &own).sessions, Some(1));
    for _ in 0..4 {
        assert_ne!(proxy.get("/echo").server(), own, "but takes nobody new");
    }
    proxy.change("app", &own, &serde_json::json!({"admin": "ready"}));

    let at = usize::from(own == "b");
    origins[at].stop();
    let other = if own == "a" { "b" } else { "a" };
    assert_eq!(asked(&mut client), (401, other.to_owned()), "its memory is gone");
    origins[at].restart().unwrap();
    for _ in 0..4 {
        assert_eq!(asked(&mut client).1, other, "and it stays where it is");
    }
    assert_eq!(proxy.metric("evenkeel_sessions_moved_total", &["reason=\"failed\""]), 1.0);
    assert_eq!(proxy.metric("evenkeel_sessions_lost_total", &["reason=\"failed\""]), 1.0);
}

/// What nobody knows here is placed anew, and stays there: one of a time before, or somebody's invention.
#[test]
fn a_session_that_is_not_known_stays_where_it_came_first() {
    let origins = origins(3);
    let proxy = Proxy::start(&config("learn = \"sid\"", "max_sessions = 1\n", &origins));
    let mut client = proxy.client().with("cookie", "sid=unknown");
    let first = client.get("/echo").server().to_owned();
    for _ in 0..4 {
        assert_eq!(client.get("/echo").server(), first);
    }
    // More than there is room for, made up: who is logged in keeps the place.
    let (mut known, server) = logged_in(&proxy);
    for made_up in 0..200 {
        proxy.client().with("cookie", &format!("sid=made-up-{made_up}")).get("/echo");
    }
    assert_eq!(asked(&mut known), (200, server));
    // Nor does what was not noted count.
    assert!(proxy.metric("evenkeel_sticky_sessions_begun_total", &[]) <= 9.0, "{}", proxy.scrape());
}

#[test]
fn an_idle_session_is_placed_anew() {
    let origins = origins(2);
    let proxy = Proxy::start(&config("learn = \"sid\", idle = \"1s\"", "", &origins));
    let (mut client, own) = logged_in(&proxy);
    // The time itself is what is tested. Whole seconds are counted, and the first two of a process as one.
    std::thread::sleep(Duration::from_millis(3_100));
    proxy.get("/echo");
    let elsewhere = proxy.get("/echo").server().to_owned();
    let next = if elsewhere == "a" { "b" } else { "a" };
    assert_eq!(asked(&mut client).1, next, "in its turn as anybody: it was on {own}");
    assert_eq!(proxy.metric("evenkeel_sticky_cookies_refused_total", &["reason=\"expired\""]), 1.0);
}

/// An application that says what the path asks for: `/set/VALUE` sets the cookie, `/delete` deletes it, `/fail`
/// sets it with a 500.
fn application(name: &'static str, cookie: &'static str) -> Fake {
    let count = AtomicUsize::new(0);
    Fake::answering(move |_, _, head| {
        count.fetch_add(1, Ordering::Relaxed);
        let path = head.split(' ').nth(1)?.to_owned();
        let (status, set) = match path.split('/').collect::<Vec<_>>()[..] {
            [_, "set", value] => (200, format!("set-cookie: {cookie}={value}; Path=/; HttpOnly\r\n")),
            [_, "fail", value] => (500, format!("set-cookie: {cookie}={value}; Path=/\r\n")),
            [_, "delete"] => {
                (200, format!("set-cookie: {cookie}=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT; Max-Age=0\r\n"))
            }
            _ => (200, String::new()),
        };
        Some(format!("HTTP/1.1 {status} Told\r\nx-server: {name}\r\n{set}content-length: 0\r\n\r\n"))
    })
}

fn of(options: &str, servers: &[(&str, &Fake)]) -> String {
    let mut text = config(options, "", &[]);
    for (name, server) in servers {
        text += &format!("[[upstream.app.server]]\nname = \"{name}\"\naddress = \"{}\"\n", server.address());
    }
    text
}

fn with(proxy: &Proxy, cookie: &str, path: &str) -> Answer {
    proxy.client().with("cookie", cookie).get(path)
}

fn sessions(proxy: &Proxy) -> Vec<usize> {
    let status = proxy.status();
    status.upstreams[0].servers.iter().map(|server| server.sessions.unwrap()).collect()
}

#[test]
fn a_new_value_takes_the_pin_over_and_a_deleted_cookie_ends_it() {
    let (a, b) = (application("a", "sid"), application("b", "sid"));
    let proxy = Proxy::start(&of("learn = \"sid\"", &[("a", &a), ("b", &b)]));
    assert_eq!(proxy.get("/fail/x").status, 500);
    assert_eq!(sessions(&proxy), [0, 0], "a failure pins nobody");
    let own = proxy.get("/set/before-login").server().to_owned();
    for _ in 0..3 {
        assert_eq!(with(&proxy, "sid=before-login", "/").server(), own);
    }
    assert_eq!(with(&proxy, "sid=before-login", "/set/after-login").server(), own);
    assert_eq!(sessions(&proxy).iter().sum::<usize>(), 1, "one session, not two");
    for _ in 0..3 {
        assert_eq!(with(&proxy, "sid=after-login; theme=dark", "/").server(), own);
    }
    assert_eq!(with(&proxy, "sid=after-login", "/delete").server(), own);
    assert_eq!(sessions(&proxy), [0, 0]);
}

#[test]
fn a_route_that_the_application_names_is_honoured_by_every_replica() {
    let (a, b) = (application("a", "JSESSIONID"), application("b", "JSESSIONID"));
    let text = of("route = { cookie = \"JSESSIONID\" }", &[("a", &a), ("b", &b)]);
    let proxies = [Proxy::start(&text), Proxy::start(&text)];
    for proxy in &proxies {
        for _ in 0..3 {
            assert_eq!(with(proxy, "JSESSIONID=4F2A.b", "/").server(), "b");
            assert_eq!(with(proxy, "x=1; JSESSIONID=\"9C.7D.a\"", "/").server(), "a");
        }
        assert_eq!(sessions(proxy), [1, 1]);
    }
    let proxy = &proxies[0];
    // Whoever names a server that is not there, or none, is placed as anybody.
    let placed = with(proxy, "JSESSIONID=1.nowhere", "/").server().to_owned();
    assert_eq!(with(proxy, "JSESSIONID=1.nowhere", "/").server(), placed);
    assert_eq!(proxy.metric("evenkeel_sticky_cookies_refused_total", &["reason=\"invalid\""]), 1.0);
    // The application sends a session to another server.
    assert_eq!(with(proxy, "JSESSIONID=4F2A.b", "/set/4F2A.a").server(), "b");
    for _ in 0..3 {
        assert_eq!(with(proxy, "JSESSIONID=4F2A.a", "/").server(), "a");
    }
}

#[test]
fn a_named_session_whose_server_is_out_moves_once_and_stays() {
    let (a, b) = (application("a", "JSESSIONID"), application("b", "JSESSIONID"));
    let proxy = Proxy::start(&of("route = { cookie = \"JSESSIONID\", after = \"!\" }", &[("a", &a), ("b", &b)]));
    assert_eq!(with(&proxy, "JSESSIONID=77!a", "/").server(), "a");
    proxy.change("app", "a", &serde_json::json!({"admin": "disabled"}));
    eventually("it is out", || (proxy.server("app", "a").admin == "disabled").then_some(()));
    for _ in 0..3 {
        assert_eq!(with(&proxy, "JSESSIONID=77!a", "/").server(), "b");
    }
    proxy.change("app", "a", &serde_json::json!({"admin": "ready"}));
    assert_eq!(with(&proxy, "JSESSIONID=77!a", "/").server(), "b", "it has a session there now");
    assert_eq!(with(&proxy, "JSESSIONID=78!a", "/").server(), "a", "others come as ever");
    assert_eq!(proxy.metric("evenkeel_sessions_moved_total", &["reason=\"disabled\""]), 1.0);
}

/// A server that comes back at another address is the one that the cookie names.
#[test]
fn a_name_is_honoured_at_another_address() {
    let (a, b) = (application("a", "JSESSIONID"), application("b", "JSESSIONID"));
    let proxy = Proxy::start(&of("route = { cookie = \"JSESSIONID\" }", &[("a", &a), ("b", &b)]));
    assert_eq!(with(&proxy, "JSESSIONID=1.b", "/").server(), "b");
    let anew = application("b again", "JSESSIONID");
    proxy.reload(&of("route = { cookie = \"JSESSIONID\" }", &[("a", &a), ("b", &anew)])).unwrap();
    for _ in 0..3 {
        assert_eq!(with(&proxy, "JSESSIONID=1.b", "/").server(), "b again");
    }
}
