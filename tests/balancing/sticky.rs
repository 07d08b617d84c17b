//! The sticky cookie, as clients and servers see it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use harness::{Answer, Client, Fake, Origin, Proxy, answer, eventually, origins, upstream};

const STICKY: &str = "{ sticky_cookie = { new_clients = \"round_robin\" } }";
const KEYS: &str = "cookie_keys = [\"a key that two replicas share\"]\n";

fn sticky(options: &str, more: &str, origins: &[Origin]) -> String {
    let policy = format!("{{ sticky_cookie = {{ new_clients = \"round_robin\", {options} }} }}");
    format!("cores = 1\n{}", upstream("app", &policy.replace(",  }", " }"), more, origins))
}

/// A client that has a cookie, and the server that it names.
fn pinned(proxy: &Proxy) -> (Client, String) {
    let answer = proxy.get("/echo");
    let cookie = answer.cookie("evenkeel").expect("a cookie for a new client");
    (proxy.client().with("cookie", &cookie), answer.server().to_owned())
}

fn invalid(proxy: &Proxy) -> f64 {
    proxy.metric("evenkeel_sticky_cookies_refused_total", &["reason=\"invalid\""])
}

fn expired(proxy: &Proxy) -> f64 {
    proxy.metric("evenkeel_sticky_cookies_refused_total", &["reason=\"expired\""])
}

fn moved(proxy: &Proxy) -> f64 {
    proxy.metric("evenkeel_sessions_moved_total", &["upstream=\"app\""])
}

fn with_cookie(proxy: &Proxy, cookie: &str) -> Answer {
    proxy.client().with("cookie", cookie).get("/echo")
}

/// The `Cookie` headers that the server was sent.
fn cookies_of(answer: &Answer) -> Vec<String> {
    let headers = answer.json()["headers"].as_array().unwrap().clone();
    let is_cookie = |pair: &&serde_json::Value| pair[0] == "cookie";
    headers.iter().filter(is_cookie).map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}

fn is_down(proxy: &Proxy, server: &str) {
    eventually("it is found out", || (proxy.server("app", server).operational == "unhealthy").then_some(()));
}

#[test]
fn a_pin_is_kept_over_connections_and_new_clients_are_spread() {
    let origins = origins(3);
    let proxy = Proxy::start(&sticky("", "", &origins));
    let mut clients: Vec<_> = (0..9).map(|_| pinned(&proxy)).collect();
    for server in ["a", "b", "c"] {
        assert_eq!(clients.iter().filter(|(_, on)| on == server).count(), 3, "round robin places new clients");
    }
    for _ in 0..5 {
        for (client, server) in &mut clients {
            let answer = client.get("/echo");
            assert_eq!(answer.server(), server);
            assert_eq!(answer.all("set-cookie"), Vec::<&str>::new(), "set only when it changes");
            client.hang_up();
        }
    }
    assert_eq!(proxy.metric("evenkeel_sticky_sessions_begun_total", &[]), 9.0);
    assert_eq!(proxy.metric("evenkeel_sticky_requests_kept_total", &[]), 45.0);
    assert_eq!((moved(&proxy), invalid(&proxy), expired(&proxy)), (0.0, 0.0, 0.0));
    assert_eq!(["a", "b", "c"].map(|s| proxy.server("app", s).sessions), [Some(3); 3]);
}

#[test]
fn the_cookie_has_the_attributes_that_were_asked_for() {
    let origins = origins(1);
    let attributes = |options: &str| {
        let proxy = Proxy::start(&sticky(options, "", &origins));
        let set = proxy.get("/echo").header("set-cookie").unwrap().to_owned();
        let (pair, attributes) = set.split_once("; ").unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        assert_eq!(value.len(), 72, "{value}");
        assert!(value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{value}");
        let mut attributes: Vec<String> = attributes.split("; ").map(str::to_owned).collect();
        attributes.sort();
        (name.to_owned(), attributes.join("; "))
    };
    assert_eq!(attributes(""), ("evenkeel".into(), "HttpOnly; Path=/; SameSite=Lax".into()));
    assert_eq!(
        attributes(
            "name = \"srv\", path = \"/shop\", domain = \"example.com\", same_site = \"none\", http_only = false"
        ),
        ("srv".into(), "Domain=example.com; Path=/shop; SameSite=None; Secure".into())
    );
    assert_eq!(
        attributes("secure = \"always\", same_site = \"strict\"").1,
        "HttpOnly; Path=/; SameSite=Strict; Secure"
    );
}

/// A value says nothing of the server: two for one server have nothing in common.
#[test]
fn the_cookie_is_sealed() {
    let origins = origins(1);
    let proxy = Proxy::start(&sticky("", "", &origins));
    let value = || proxy.get("/echo").cookie("evenkeel").unwrap()["evenkeel=".len()..].to_owned();
    let (one, two) = (value(), value());
    let same = one.bytes().zip(two.bytes()).skip(2).filter(|(a, b)| a == b).count();
    assert!(same < 20, "{one} {two}");
}

#[test]
fn the_server_never_sees_the_cookie() {
    let origins = origins(1);
    let proxy = Proxy::start(&sticky("", "", &origins));
    let cookie = proxy.get("/echo").cookie("evenkeel").unwrap();
    assert_eq!(cookies_of(&with_cookie(&proxy, &cookie)), Vec::<String>::new());
    for (sent, left) in [
        (format!("x=1; {cookie}; y=2"), "x=1; y=2"),
        (format!("{cookie}; y=2"), "y=2"),
        (format!("x=1; {cookie}"), "x=1"),
        ("x=1; evenkeel=garbage; y=2".to_owned(), "x=1; y=2"),
        ("evenkeel=; y=2".to_owned(), "y=2"),
        (format!("x=1; {cookie}; evenkeel=again"), "x=1"),
        ("evenkeelx=1; xevenkeel=2".to_owned(), "evenkeelx=1; xevenkeel=2"),
    ] {
        assert_eq!(cookies_of(&with_cookie(&proxy, &sent)), [left], "{sent}");
    }
    let two = proxy.client().send("GET", "/echo", &[("cookie", "x=1"), ("cookie", &cookie)], b"");
    assert_eq!(cookies_of(&two), ["x=1"]);
    assert!(two.cookie("evenkeel").is_none(), "found in the second line as well");
}

#[test]
fn what_is_not_our_cookie_is_counted_and_its_client_is_new() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("", KEYS, &origins));
    let foreign = Proxy::start(&sticky("", "cookie_keys = [\"another key of another site\"]\n", &origins));
    let good = proxy.get("/echo").cookie("evenkeel").unwrap();
    let foreign = foreign.get("/echo").cookie("evenkeel").unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let first = "evenkeel=".len();
    let mut bad = vec![
        foreign,
        "evenkeel=".to_owned(),
        "evenkeel=garbage".to_owned(),
        format!("{good}x"),
        good[..good.len() - 1].to_owned(),
        format!("evenkeel=\"{}\"", &good[first..]),
        format!("evenkeel={}", "A".repeat(72)),
        format!("evenkeel={}", "\u{e9}".repeat(40)),
        format!("evenkeel={}", "A".repeat(8000)),
    ];
    bad.extend((first..good.len()).step_by(7).map(flipped));
    bad.push(flipped(good.len() - 1));
    for (i, cookie) in bad.iter().enumerate() {
        let answer = with_cookie(&proxy, cookie);
        assert_eq!(answer.status, 200, "{cookie}");
        assert!(answer.cookie("evenkeel").is_some(), "a new client gets a cookie: {cookie}");
        assert_eq!(cookies_of(&answer), Vec::<String>::new(), "{cookie}");
        assert_eq!(invalid(&proxy), (i + 1) as f64, "{cookie}");
    }
    assert_eq!(proxy.metric("evenkeel_sticky_sessions_begun_total", &[]), (bad.len() + 1) as f64);
    assert!(with_cookie(&proxy, &good).cookie("evenkeel").is_none(), "the good one is still good");
}

#[test]
fn a_pin_whose_server_is_down_moves_once() {
    let mut origins = origins(3);
    let proxy = Proxy::start(&sticky("", "", &origins));
    let mut client = proxy.pinned_to("a");
    origins[0].stop();
    // Not yet known to be down: the failed connection is not seen either.
    let answer = client.get("/echo");
    let refuge = answer.server().to_owned();
    assert_ne!(refuge, "a");
    let cookie = answer.cookie("evenkeel").expect("it is pinned anew");
    assert_eq!(moved(&proxy), 1.0);
    for _ in 0..3 {
        let answer = with_cookie(&proxy, &cookie);
        assert_eq!((answer.server(), answer.cookie("evenkeel")), (refuge.as_str(), None));
    }
    let mut other = pinned(&proxy);
    while other.1 != refuge {
        other = pinned(&proxy);
    }
    for _ in 0..3 {
        let _ = client.get("/echo");
    }
    is_down(&proxy, "a");
    origins[0].restart().unwrap();
    eventually("it is back", || (proxy.server("app", "a").operational == "healthy").then_some(()));
    assert_eq!(with_cookie(&proxy, &cookie).server(), refuge, "it does not go back");
}

#[test]
fn a_pin_moves_only_after_a_success_elsewhere() {
    let mut origins = origins(2);
    let proxy = Proxy::start(&sticky("", "", &origins));
    let mut client = proxy.pinned_to("a");
    origins[0].stop();
    origins[1].behave(|b| b.status = Some(500));
    for _ in 0..4 {
        let answer = client.get("/echo");
        assert_eq!((answer.status, answer.server()), (500, "b"));
        assert_eq!(answer.cookie("evenkeel"), None, "a failure pins nobody");
    }
    assert_eq!(proxy.get("/echo").cookie("evenkeel"), None, "nor a new client");
    assert_eq!(moved(&proxy), 0.0);
    is_down(&proxy, "a");
    origins[0].restart().unwrap();
    eventually("it is back", || (proxy.server("app", "a").operational == "healthy").then_some(()));
    let answer = client.get("/echo");
    assert_eq!((answer.server(), answer.cookie("evenkeel")), ("a", None), "the pin still names it");

    origins[0].stop();
    origins[1].behave(|b| b.status = Some(404));
    let answer = client.get("/echo");
    assert_eq!((answer.status, answer.server()), (404, "b"));
    assert!(answer.cookie("evenkeel").is_some(), "an answer below 500 is a success");
    assert_eq!(moved(&proxy), 1.0);
}

/// Its own server's failures do not move a client: the session is there and nowhere else.
#[test]
fn a_failing_answer_of_the_pinned_server_moves_nobody() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("", "", &origins));
    let mut client = proxy.pinned_to("a");
    origins[0].behave(|b| b.status = Some(503));
    for _ in 0..5 {
        let answer = client.get("/echo");
        assert_eq!((answer.status, answer.server(), answer.cookie("evenkeel")), (503, "a", None));
    }
    assert_eq!(moved(&proxy), 0.0);
}

/// The only server there is, tried again after a connection broke: nobody has moved.
#[test]
fn a_second_try_on_the_same_server_is_no_move() {
    let server = Fake::answering(|_, request, _| (request != 1).then(|| answer(200, "ok")));
    let config = format!("[[upstream.app.server]]\nname = \"a\"\naddress = \"{}\"\n", server.address());
    let proxy = Proxy::start(&format!("{}{config}", sticky("", "pool = { max_idle = 0 }\n", &[])));
    let cookie = proxy.get("/").cookie("evenkeel").unwrap();
    // A fresh connection that ends at its first request.
    let failing = Fake::answering(|connection, _, _| (connection != 1).then(|| answer(200, "ok")));
    let config = format!("[[upstream.app.server]]\nname = \"a\"\naddress = \"{}\"\n", failing.address());
    proxy.reload(&format!("{}{config}", sticky("", "pool = { max_idle = 0 }\n", &[]))).unwrap();
    for _ in 0..3 {
        let answer = with_cookie(&proxy, &cookie);
        assert_eq!((answer.status, answer.cookie("evenkeel")), (200, None));
    }
    assert_eq!(failing.heads().len(), 4, "one request was sent twice");
    assert_eq!(moved(&proxy), 0.0);
}

#[test]
fn replicas_with_the_same_keys_honour_each_others_cookies() {
    let origins = origins(3);
    let [one, two] = [0; 2].map(|_| Proxy::start(&sticky("", KEYS, &origins)));
    let other = Proxy::start(&sticky("", "cookie_keys = [\"a key that nobody shares\"]\n", &origins));
    for _ in 0..6 {
        let answer = one.get("/echo");
        let cookie = answer.cookie("evenkeel").unwrap();
        let there = with_cookie(&two, &cookie);
        assert_eq!((there.server(), there.cookie("evenkeel")), (answer.server(), None));
        assert!(with_cookie(&other, &cookie).cookie("evenkeel").is_some());
    }
    assert_eq!((invalid(&two), invalid(&other)), (0.0, 6.0));
}

#[test]
fn a_made_key_is_kept_in_the_state_directory_over_a_restart() {
    let origins = origins(3);
    let dir = tempfile::tempdir().unwrap();
    let config = format!("state_dir = {:?}\n{}", dir.path(), sticky("", "", &origins));
    let proxy = Proxy::start(&config);
    let clients: Vec<_> =
        (0..3).map(|_| proxy.get("/echo")).map(|a| (a.cookie("evenkeel"), a.server().to_owned())).collect();
    drop(proxy);
    let again = Proxy::start(&config);
    for (cookie, server) in &clients {
        let answer = with_cookie(&again, cookie.as_ref().unwrap());
        assert_eq!((answer.server(), answer.cookie("evenkeel")), (server.as_str(), None));
    }
    // Without one, the key ends with the process.
    let forgetful = Proxy::start(&sticky("", "", &origins));
    assert!(with_cookie(&forgetful, clients[0].0.as_ref().unwrap()).cookie("evenkeel").is_some());
}

#[test]
fn pins_and_counts_survive_reloads() {
    let mut origins = origins(4);
    let fourth = origins.pop().unwrap();
    // No key is configured: the one made at the start has to stay.
    let proxy = Proxy::start(&sticky("", "", &origins));
    let mut clients: Vec<_> = (0..6).map(|_| pinned(&proxy)).collect();
    origins.push(fourth);
    proxy.reload(&sticky("", "", &origins)).unwrap();
    let gone = origins.remove(0);
    origins.rotate_left(1);
    proxy.reload(&sticky("idle = \"1h\"", "timeouts = { connect = \"3s\" }\n", &origins)).unwrap();
    for (client, server) in &mut clients {
        let answer = client.get("/echo");
        if server == gone.name() {
            assert_ne!(answer.server(), server);
            assert!(answer.cookie("evenkeel").is_some());
        } else {
            assert_eq!((answer.server(), answer.cookie("evenkeel")), (server.as_str(), None));
        }
    }
    assert_eq!(moved(&proxy), 2.0);
    assert_eq!(proxy.metric("evenkeel_sticky_sessions_begun_total", &[]), 6.0);
    let sessions: usize = origins.iter().map(|o| proxy.server("app", o.name()).sessions.unwrap()).sum();
    assert_eq!(sessions, 6);
}

#[test]
fn keys_are_rotated_by_reloads() {
    let origins = origins(2);
    let with = |keys: &str| sticky("", &format!("cookie_keys = [{keys}]\n"), &origins);
    let (old, new) = ("\"the old key of this site\"", "\"the new key of this site\"");
    let proxy = Proxy::start(&with(old));
    let cookie = proxy.get("/echo").cookie("evenkeel").unwrap();
    proxy.reload(&with(&format!("{new}, {old}"))).unwrap();
    assert!(with_cookie(&proxy, &cookie).cookie("evenkeel").is_none(), "the old key still opens");
    let newer = proxy.get("/echo").cookie("evenkeel").unwrap();
    proxy.reload(&with(new)).unwrap();
    assert!(with_cookie(&proxy, &newer).cookie("evenkeel").is_none(), "the first key has sealed");
    assert!(with_cookie(&proxy, &cookie).cookie("evenkeel").is_some(), "the old key is gone");
    assert_eq!(invalid(&proxy), 1.0);
}

#[test]
fn a_pin_by_name_survives_another_address() {
    let mut origins = origins(3);
    let proxy = Proxy::start(&sticky("", "", &origins));
    let mut client = proxy.pinned_to("b");
    let elsewhere = Origin::start("b").unwrap();
    let before = std::mem::replace(&mut origins[1], elsewhere);
    before.clear();
    proxy.reload(&sticky("", "", &origins)).unwrap();
    let answer = client.get("/echo");
    assert_eq!((answer.server(), answer.cookie("evenkeel")), ("b", None));
    assert_eq!((before.requests().len(), origins[1].requests().len()), (0, 1), "at the new address");
    assert_eq!(moved(&proxy), 0.0);
}

#[test]
fn a_session_that_was_idle_for_too_long_is_over() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("idle = \"1s\"", "", &origins));
    let first = proxy.get("/echo");
    let cookie = first.cookie("evenkeel").unwrap();
    let began = Instant::now();
    // This client never takes the renewed cookie, so what it shows says it was seen at the beginning.
    eventually("the end of the session", || {
        let answer = with_cookie(&proxy, &cookie);
        let over = expired(&proxy) > 0.0;
        assert!(over || answer.server() == first.server());
        over.then_some(())
    });
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(invalid(&proxy), 0.0);
    assert_eq!(proxy.metric("evenkeel_sticky_sessions_begun_total", &[]), 2.0);
}

#[test]
fn a_busy_session_is_renewed_until_its_age_ends_it() {
    let origins = origins(2);
    let proxy = Proxy::start(&sticky("idle = \"3s\", max_age = \"6s\"", "", &origins));
    let first = proxy.get("/echo");
    let mut cookie = first.cookie("evenkeel").unwrap();
    let (began, mut renewals) = (Instant::now(), 0);
    while expired(&proxy) == 0.0 {
        assert!(began.elapsed() < Duration::from_secs(20), "max_age is not kept");
        let answer = with_cookie(&proxy, &cookie);
        if let Some(renewed) = answer.cookie("evenkeel") {
            assert_ne!(renewed, cookie);
            cookie = renewed;
            renewals += 1;
        }
        // A client that is busy for seconds: only time ends its session.
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(began.elapsed() >= Duration::from_millis(5900), "renewals keep it past idle: {:?}", began.elapsed());
    assert!((2..=8).contains(&renewals), "{renewals} renewals: one a second at most");
    assert_eq!(proxy.metric("evenkeel_sticky_sessions_begun_total", &[]), 2.0);
    assert_eq!(moved(&proxy), 0.0);
}

#[test]
fn two_sticky_upstreams_do_not_confuse_their_cookies() {
    let (shop, blog) = (origins(3), origins(3));
    let policy = |name: &str| format!("{{ sticky_cookie = {{ new_clients = \"round_robin\", name = \"{name}\" }} }}");
    let routes = "[[route]]\npath = \"/echo\"\nupstream = \"shop\"\n[[route]]\npath = \"/blog\"\nupstream = \"blog\"\nstrip_prefix = true\n";
    let config = format!(
        "cores = 1\n{routes}{}{}",
        upstream("shop", &policy("s"), KEYS, &shop),
        upstream("blog", &policy("b"), KEYS, &blog)
    );
    let proxy = Proxy::start(&config);
    let one = proxy.get("/echo");
    let mut two = proxy.get("/blog/echo");
    while two.server() == one.server() {
        two = proxy.get("/blog/echo");
    }
    let (s, b) = (one.cookie("s").unwrap(), two.cookie("b").unwrap());
    for _ in 0..4 {
        let both = format!("{s}; {b}");
        let (shop, blog) = (with_cookie(&proxy, &both), proxy.client().with("cookie", &both).get("/blog/echo"));
        assert_eq!((shop.server(), blog.server()), (one.server(), two.server()));
        assert_eq!((shop.header("set-cookie"), blog.header("set-cookie")), (None, None));
        // Each is hidden from its own servers only.
        assert_eq!((cookies_of(&shop), cookies_of(&blog)), (vec![b.clone()], vec![s.clone()]));
    }
    // The same keys, but sealed for another place.
    let swapped = format!("s={}", &b[2..]);
    assert!(with_cookie(&proxy, &swapped).cookie("s").is_some());
    assert_eq!(proxy.metric("evenkeel_sticky_cookies_refused_total", &["upstream=\"shop\"", "invalid"]), 1.0);
}

/// Cookies whose upstreams differ in nothing but their name.
#[test]
fn a_cookie_is_good_for_its_upstream_only() {
    let origins = origins(2);
    let named = |name: &str| format!("cores = 1\n{}", upstream(name, STICKY, KEYS, &origins));
    let (shop, blog) = (Proxy::start(&named("shop")), Proxy::start(&named("blog")));
    let cookie = shop.get("/echo").cookie("evenkeel").unwrap();
    assert!(with_cookie(&blog, &cookie).cookie("evenkeel").is_some());
    assert_eq!(invalid(&blog), 1.0);
}

#[test]
fn the_application_sees_its_sessions_through() {
    let origins = origins(3);
    let proxy = Proxy::start(&sticky("", "", &origins));
    let login = proxy.get("/login");
    let jar = format!("{}; {}", login.cookie("sid").unwrap(), login.cookie("evenkeel").unwrap());
    for visit in 1..=6 {
        let answer = proxy.client().with("cookie", &jar).get("/count");
        assert_eq!((answer.status, answer.text().trim()), (200, visit.to_string().as_str()));
    }
    let servers: BTreeSet<String> =
        origins.iter().filter(|o| !o.requests().is_empty()).map(|o| o.name().to_owned()).collect();
    assert_eq!(servers.len(), 1);
}
