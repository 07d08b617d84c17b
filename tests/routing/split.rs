//! Routes that split their users between upstreams.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use harness::{Answer, Client2, Fake, Origin, Proxy, Refusing, answer, eventually, origins, upstream};

/// Users that a test looks at.
const USERS: usize = 60;

/// A route `r` with `keys`, to upstreams `new` (origin a) and `old` (origin b).
fn config(keys: &str, origins: &[Origin]) -> String {
    format!(
        "[[route]]\nname = \"r\"\n{keys}\n{}{}",
        upstream("new", "\"round_robin\"", "", &origins[..1]),
        upstream("old", "\"round_robin\"", "", &origins[1..])
    )
}

fn split(new: u32, old: u32) -> String {
    format!("split = [{{ upstream = \"new\", weight = {new} }}, {{ upstream = \"old\", weight = {old} }}]\n")
}

/// The cookie of a user who had none, and where the user was sent.
fn user(proxy: &Proxy) -> (String, String) {
    let answer = proxy.get("/echo");
    (answer.cookie("evenkeel_split").expect("a cookie for a new user"), answer.server().to_owned())
}

fn again(proxy: &Proxy, cookie: &str) -> Answer {
    proxy.client().with("cookie", cookie).get("/echo")
}

/// A user of each upstream.
fn one_of_each(proxy: &Proxy) -> [String; 2] {
    let mut found = [None, None];
    while found.contains(&None) {
        let (cookie, server) = user(proxy);
        found[usize::from(server == "b")] = Some(cookie);
    }
    found.map(Option::unwrap)
}

#[test]
fn a_user_stays_and_the_cookie_is_set_once() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(&split(1, 1), &origins));
    let users: Vec<_> = (0..USERS).map(|_| user(&proxy)).collect();
    let on_new = users.iter().filter(|(_, server)| server == "a").count();
    assert!((10..=50).contains(&on_new), "{on_new} of {USERS}");
    for (cookie, server) in &users {
        for _ in 0..2 {
            let answer = again(&proxy, cookie);
            assert_eq!(answer.server(), server);
            assert_eq!(answer.all("set-cookie"), Vec::<&str>::new());
        }
    }
    // Another process, which shares nothing with the first, sends each of them to the same place.
    let replica = Proxy::start(&config(&split(1, 1), &origins));
    for (cookie, server) in &users {
        assert_eq!(again(&replica, cookie).server(), server);
    }
    let picks = |upstream: &str| {
        let label = format!("upstream=\"{upstream}\"");
        proxy.metric("evenkeel_server_picks_total", &[&label])
    };
    assert_eq!(picks("new"), 3.0 * on_new as f64);
    assert_eq!(picks("old"), 3.0 * (USERS - on_new) as f64);
    for upstream in ["new", "old"] {
        let label = format!("upstream=\"{upstream}\"");
        assert_eq!(proxy.metric("evenkeel_route_info", &["route=\"r\"", &label]), 1.0);
    }
}

#[test]
fn the_cookie_is_a_random_number_that_scripts_and_servers_do_not_see() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(&split(1, 1), &origins));
    let set = proxy.get("/echo").header("set-cookie").unwrap().to_owned();
    let (value, attributes) = set.strip_prefix("evenkeel_split=").unwrap().split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; Max-Age=2592000; SameSite=Lax; HttpOnly");
    assert!(value.len() == 16 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{value}");
    assert_ne!(user(&proxy).0, user(&proxy).0);
    let (cookie, _) = user(&proxy);
    for (sent, left) in [
        (cookie.clone(), vec![]),
        (format!("a=b; {cookie}; c=d"), vec!["a=b; c=d"]),
        (format!("{cookie}; {cookie}"), vec![]),
        (format!("x{cookie}"), vec![&*format!("x{cookie}")]),
    ] {
        assert_eq!(again(&proxy, &sent).echoed("cookie"), left, "{sent}");
    }
    // Several lines.
    let mut conn = proxy.raw();
    conn.send(format!("GET /echo HTTP/1.1\r\nhost: a\r\ncookie: a=b\r\ncookie: {cookie}\r\n\r\n").as_bytes());
    let answer = conn.answer();
    assert_eq!(answer.echoed("cookie"), ["a=b"]);
    assert_eq!(answer.cookie("evenkeel_split"), None, "it was found in the second line");

    // What is not of our making is a new user, and goes no further either.
    for garbage in ["", "1", "0123456789ABCDEF", "0123456789abcdefg", "0123456789abcde", "\"0123456789abcdef\""] {
        let answer = again(&proxy, &format!("evenkeel_split={garbage}; a=b"));
        assert!(answer.cookie("evenkeel_split").is_some(), "{garbage}");
        assert_eq!(answer.echoed("cookie"), ["a=b"], "{garbage}");
    }
}

#[test]
fn the_cookie_has_the_name_and_the_time_that_were_asked_for_and_is_secure_over_https() {
    let origins = origins(2);
    let by = "split_by = { cookie = { name = \"half\", max_age = \"1h\" } }\n";
    let text = config(&format!("{}{by}", split(1, 1)), &origins);
    let proxy = Proxy::start(&format!("trusted_proxies = [\"127.0.0.0/8\"]\n{text}"));
    let attributes = |answer: &Answer| {
        answer.header("set-cookie").unwrap().strip_prefix("half=").unwrap().split_once("; ").unwrap().1.to_owned()
    };
    assert_eq!(attributes(&proxy.get("/echo")), "Path=/; Max-Age=3600; SameSite=Lax; HttpOnly");
    let answer = proxy.client().with("x-forwarded-proto", "https").get("/echo");
    assert_eq!(attributes(&answer), "Path=/; Max-Age=3600; SameSite=Lax; Secure; HttpOnly");
}

#[test]
fn a_larger_share_moves_users_one_way_and_a_reload_moves_nobody_else() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(&split(20, 80), &origins));
    let users: Vec<_> = (0..USERS).map(|_| user(&proxy)).collect();
    let reloaded = proxy.reload(&config(&split(50, 50), &origins)).unwrap();
    assert_eq!(reloaded.changes, ["route r: split new 20, old 80 → new 50, old 50"]);
    let mut moved = 0;
    for (cookie, before) in &users {
        let now = again(&proxy, cookie).server().to_owned();
        assert!(before == "b" || now == "a", "who was on the new stays there");
        moved += usize::from(*before != now);
    }
    assert!((5..=35).contains(&moved), "{moved} of {USERS}");
    // All the way, and back: everybody is where they were.
    proxy.reload(&config(&split(1, 0), &origins)).unwrap();
    assert!(users.iter().all(|(cookie, _)| again(&proxy, cookie).server() == "a"));
    proxy.reload(&config(&split(20, 80), &origins)).unwrap();
    assert!(users.iter().all(|(cookie, server)| again(&proxy, cookie).server() == server));
}

#[test]
fn by_address_no_cookie_is_set_and_clients_stay() {
    let origins = origins(2);
    let keys = format!("{}split_by = \"address\"\n", split(1, 1));
    let proxy = Proxy::start(&format!("trusted_proxies = [\"127.0.0.1\"]\n{}", config(&keys, &origins)));
    let at = |address: &str| {
        let answer = proxy.client().with("x-forwarded-for", address).get("/echo");
        assert_eq!(answer.header("set-cookie"), None);
        answer.server().to_owned()
    };
    let servers: Vec<_> = (0..40).map(|n| at(&format!("192.0.2.{n}"))).collect();
    assert!(servers.contains(&"a".to_owned()) && servers.contains(&"b".to_owned()));
    assert!((0..40).all(|n| at(&format!("192.0.2.{n}")) == servers[n]));
    let network = |n: u32, host: u32| at(&format!("2001:db8:0:{n:x}::{host:x}"));
    assert!((0..20).all(|n| network(n, 1) == network(n, 77)), "/64 is one client");
    // Nobody chooses a place with a cookie.
    let cookie = "evenkeel_split=0123456789abcdef";
    let answer = proxy.client().with("cookie", cookie).get("/echo");
    assert_eq!(answer.echoed("cookie"), [cookie]);
}

#[test]
fn retries_stay_within_the_upstream_and_errors_set_no_cookie() {
    let (origins, refusing) = (origins(2), Refusing::new());
    let proxy = Proxy::start(&format!(
        "{}[[upstream.old.server]]\nname = \"dead\"\naddress = \"{}\"\n",
        config(&split(1, 1), &origins),
        refusing.address
    ));
    let [new, old] = one_of_each(&proxy);
    for _ in 0..10 {
        assert_eq!(again(&proxy, &new).server(), "a");
        assert_eq!(again(&proxy, &old).server(), "b");
    }
    assert!(proxy.metric("evenkeel_server_retries_total", &["server=\"dead\""]) > 0.0, "it was tried");

    let gone = Refusing::new();
    proxy
        .reload(&format!(
            "[[route]]\nname = \"r\"\n{}[upstream.new]\ncheck = \"off\"\nservers = [\"{}\"]\n{}",
            split(1, 1),
            gone.address,
            upstream("old", "\"round_robin\"", "", &origins[1..])
        ))
        .unwrap();
    for _ in 0..5 {
        assert_eq!(again(&proxy, &new).status, 502, "nobody else serves the users of an upstream that is down");
        assert_eq!(again(&proxy, &old).server(), "b");
    }
    let broken = (0..100).map(|_| proxy.get("/echo")).find(|answer| answer.status == 502).unwrap();
    assert_eq!(broken.header("set-cookie"), None);
}

#[test]
fn sticky_upstreams_inside_a_split_keep_their_own_cookies() {
    let origins = origins(4);
    let sticky = |name: &str| format!("{{ sticky_cookie = {{ name = \"{name}\", new_clients = \"round_robin\" }} }}");
    let proxy = Proxy::start(&format!(
        "[[route]]\n{}{}{}",
        split(1, 1),
        upstream("new", &sticky("on_new"), "", &origins[..2]),
        upstream("old", &sticky("on_old"), "", &origins[2..])
    ));
    for _ in 0..12 {
        let first = proxy.get("/echo");
        let pin = first.cookie("on_new").or(first.cookie("on_old")).unwrap();
        let both = format!("{}; {pin}", first.cookie("evenkeel_split").unwrap());
        for _ in 0..3 {
            let answer = again(&proxy, &both);
            assert_eq!(answer.server(), first.server());
            assert_eq!(answer.all("set-cookie"), Vec::<&str>::new());
            assert_eq!(answer.echoed("cookie"), Vec::<String>::new());
        }
    }
}

#[test]
fn http2_users_are_split_alike() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(&split(1, 1), &origins));
    let client = Client2::to(proxy.address);
    for _ in 0..10 {
        let first = client.get("/echo");
        let set = first.header("set-cookie").unwrap();
        let cookie = set.split(';').next().unwrap();
        // As crumbs, which HTTP/2 allows (RFC 9113 §8.2.3).
        let request = Client2::request("GET", "/echo").header("cookie", "a=b").header("cookie", cookie);
        let second = client.send(request.body(()).unwrap(), None).unwrap();
        assert_eq!(second.header("x-server"), first.header("x-server"));
        assert_eq!(second.header("set-cookie"), None);
        let headers = second.json()["headers"].to_string();
        assert!(headers.contains("a=b") && !headers.contains("evenkeel_split"), "{headers}");
        assert_eq!(Some(again(&proxy, cookie).server()), first.header("x-server"), "the same over HTTP/1.1");
    }
}

#[test]
fn tunnels_are_split_and_set_the_cookie() {
    let origins = origins(2);
    let proxy = Proxy::start(&config(&split(1, 1), &origins));
    let (mut conn, opened) = proxy.tunnel();
    let cookie = opened.cookie("evenkeel_split").expect("a cookie with the 101");
    conn.send(b"ping");
    assert_eq!(conn.read(4), b"ping");
    assert_eq!(again(&proxy, &cookie).cookie("evenkeel_split"), None);
}

#[test]
fn copies_compression_and_own_timeouts_go_with_a_split() {
    let origins = origins(2);
    let copied = Fake::answering(|_, _, _| Some(answer(200, "copy")));
    let keys = format!(
        "{}mirror = {{ to = \"third\" }}\ncompress = {{ min_size = 0 }}\ntimeouts = {{ first_byte = \"9s\" }}\n\
         request_headers = {{ set = {{ X-Upstream = \"{{upstream}}\" }} }}\n",
        split(1, 1)
    );
    let proxy = Proxy::start(&format!(
        "{}[upstream.third]\ncheck = \"off\"\nservers = [\"{}\"]\n",
        config(&keys, &origins),
        copied.address()
    ));
    let users = one_of_each(&proxy);
    for (cookie, (server, upstream)) in users.iter().zip([("a", "new"), ("b", "old")]) {
        let answer = again(&proxy, cookie);
        assert_eq!((answer.server(), answer.echoed("x-upstream")), (server, vec![upstream.to_owned()]));
        let answer = proxy.client().with("cookie", cookie).with("accept-encoding", "gzip").get("/echo");
        assert_eq!((answer.server(), answer.header("content-encoding")), (server, Some("gzip")));
    }
    eventually("the copies", || (copied.heads().len() >= 4).then_some(()));
    assert!(copied.heads().iter().all(|head| !head.contains("evenkeel_split")), "copies hide the cookie, too");
}

#[test]
fn the_log_names_the_upstream() {
    let origins = origins(2);
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let proxy = Proxy::start(&format!("{}[access_log]\nfile = {log:?}\n", config(&split(1, 1), &origins)));
    let users = one_of_each(&proxy);
    for (cookie, upstream) in users.iter().zip(["new", "old"]) {
        proxy.client().with("cookie", cookie).get(&format!("/echo?{upstream}"));
        let line = eventually("its line", || {
            let text = std::fs::read_to_string(&log).ok()?;
            text.lines().find(|line| line.contains(&format!("\"query\":\"{upstream}\""))).map(str::to_owned)
        });
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((line["route"].as_str(), line["upstream"].as_str()), (Some("r"), Some(upstream)));
    }
}
