//! Which upstream a request goes to, and where its servers may live.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::io::{BufRead, BufReader, Write};

use harness::{Fake, Proxy, app, origins, servers, unchecked};

fn routed(routes: &str, count: usize) -> (Vec<harness::Origin>, Proxy) {
    let origins = origins(count);
    let upstreams: String = origins
        .iter()
        .map(|o| format!("[upstream.{}]\n{}", o.name(), servers(o.name(), std::slice::from_ref(o))))
        .collect();
    let proxy = Proxy::start(&format!("{routes}\n{upstreams}"));
    (origins, proxy)
}

fn route(host: &str, path: &str, upstream: &str) -> String {
    let host = if host.is_empty() { String::new() } else { format!("host = \"{host}\"\n") };
    format!("[[route]]\n{host}path = \"{path}\"\nupstream = \"{upstream}\"\n")
}

/// The server that answers, or the status where none does.
fn who(proxy: &Proxy, host: &str, path: &str) -> String {
    let mut conn = proxy.raw();
    conn.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes());
    let answer = conn.answer();
    answer.header("x-server").map_or_else(|| answer.status.to_string(), str::to_owned)
}

#[test]
fn the_most_specific_host_then_the_longest_path_wins() {
    let routes = [
        route("", "/", "a"),
        route("", "/api", "b"),
        route("*.example.com", "/", "c"),
        route("*.shop.example.com", "/", "d"),
        route("www.shop.example.com", "/only", "e"),
        route("", "/api/v2/", "f"),
    ]
    .concat();
    let (_origins, proxy) = routed(&routes, 6);
    for (host, path, server) in [
        ("other", "/", "a"),
        ("other:8080", "/apix", "a"),
        ("other", "/api", "b"),
        ("other", "/api/", "b"),
        ("other", "/api?x=/api/v2/", "b"),
        ("other", "/api/v2/x", "f"),
        ("x.example.com", "/api", "c"),
        ("X.Example.COM:80", "/", "c"),
        ("x.example.com.", "/", "c"),
        ("example.com", "/", "a"),
        ("evilexample.com", "/", "a"),
        ("a.b.shop.example.com", "/", "d"),
        ("www.shop.example.com", "/only/this", "e"),
        ("www.shop.example.com", "/else", "d"),
        ("[::1]:80", "/", "a"),
    ] {
        assert_eq!(who(&proxy, host, path), server, "{host} {path}");
    }
}

#[test]
fn no_match_is_404_and_reaches_nobody() {
    let (origins, proxy) = routed(&[route("a.example", "/x/", "a")].concat(), 1);
    for (host, path) in [("a.example", "/"), ("a.example", "/y"), ("b.example", "/x/"), ("xa.example", "/x/")] {
        assert_eq!(who(&proxy, host, path), "404", "{host} {path}");
    }
    assert_eq!(who(&proxy, "a.example", "/x/"), "a");
    let answer = proxy.get("/");
    assert_eq!((answer.status, answer.reason()), (404, Some("no_route")));
    assert_eq!(origins[0].requests().len(), 1);
    assert_eq!(proxy.metric("evenkeel_errors_total", &["reason=\"no_route\""]), 5.0);
}

#[test]
fn the_authority_of_an_absolute_target_routes() {
    let routes = [route("a.example", "/", "a"), route("b.example", "/", "b")].concat();
    let (_origins, proxy) = routed(&routes, 2);
    let mut conn = proxy.raw();
    conn.send(b"GET http://B.example/x HTTP/1.1\r\nhost: b.example\r\n\r\n");
    assert_eq!(conn.answer().server(), "b");
}

#[test]
fn listeners_have_their_own_routes() {
    let origins = origins(2);
    let toml = format!(
        "[[listener]]\nname = \"one\"\nbind = \"127.0.0.1:0\"\n[[listener]]\nname = \"two\"\nbind = \"127.0.0.1:0\"\n\
         [[route]]\nlistener = \"one\"\nupstream = \"a\"\n[[route]]\nlistener = \"two\"\npath = \"/b/\"\nupstream = \"b\"\n\
         [upstream.a]\n{}[upstream.b]\n{}",
        servers("a", &origins[..1]),
        servers("b", &origins[1..])
    );
    let proxy = Proxy::start(&toml);
    let addresses: std::collections::BTreeMap<_, _> = proxy
        .status()
        .listeners
        .into_iter()
        .map(|l| (l.name, l.address.parse::<std::net::SocketAddr>().unwrap()))
        .collect();
    let ask = |listener: &str, path| {
        let answer = harness::Client::to(addresses[listener]).get(path);
        answer.header("x-server").map_or_else(|| answer.status.to_string(), str::to_owned)
    };
    assert_eq!((ask("one", "/"), ask("one", "/b/")), ("a".into(), "a".into()));
    assert_eq!((ask("two", "/"), ask("two", "/b/")), ("404".into(), "b".into()));
}

#[test]
fn strip_prefix_takes_the_route_off_the_path() {
    let strip = |path, upstream| route("", path, upstream) + "strip_prefix = true\n";
    let (_origins, proxy) = routed(&[strip("/app", "a"), strip("/dir/", "b")].concat(), 2);
    let mut client = proxy.client();
    for (path, target) in [
        ("/app/echo", "/echo"),
        ("/app/echo?app=/app/x", "/echo?app=/app/x"),
        ("/app//echo", "/echo"),
        ("/app/echo%20x", "/echo%20x"),
        ("/dir/echo", "/echo"),
    ] {
        let answer = client.get(path);
        match answer.header("content-type") {
            Some("application/json") => assert_eq!(answer.json()["target"], target),
            _ => assert!(answer.text().contains(target), "{path}: {}", answer.text()),
        }
    }
    assert_eq!(client.get("/app").status, 200, "what is left is at least a slash");
    assert_eq!(client.get("/app?x=1").status, 200);
    assert_eq!(client.get("/dir").status, 404);
}

#[test]
fn options_star_goes_where_the_root_goes() {
    let (origins, proxy) = routed(&route("", "/", "a"), 1);
    let mut conn = proxy.raw();
    conn.send(b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().status, 404);
    assert_eq!(origins[0].requests()[0].target, "*");
}

#[test]
fn a_server_may_be_a_host_name() {
    let origins = origins(1);
    let port = origins[0].address().port();
    let proxy = Proxy::start(&unchecked(format!("localhost:{port}"), ""));
    for _ in 0..4 {
        // All addresses are tried: whether ::1 comes first or not, the server listens on 127.0.0.1 only.
        assert_eq!(proxy.client().post("/sink", b"x").server(), "a");
    }
}

#[test]
fn a_name_without_an_address_is_502_and_names_nobody() {
    let proxy = Proxy::start(&unchecked("no-such-host.invalid:80", ""));
    let answer = proxy.get("/");
    assert!(matches!(answer.status, 502 | 503), "{}", answer.status);
    assert!(!format!("{:?} {}", answer.headers, answer.text()).contains("invalid"));
}

#[test]
fn a_server_may_be_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(&stream).lines();
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() {
                        let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nunix");
                    }
                }
            });
        }
    });
    let proxy = Proxy::start(&unchecked(format!("unix:{}", path.display()), ""));
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "unix");
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_unix_socket_that_is_not_there_is_502_and_is_not_named() {
    let proxy = Proxy::start(&unchecked("unix:/nowhere/app.sock", ""));
    let answer = proxy.get("/");
    assert_eq!(answer.status, 502);
    assert!(!format!("{:?} {}", answer.headers, answer.text()).contains("nowhere"));
}

#[test]
fn a_failed_get_goes_to_another_server_and_a_sent_post_does_not() {
    let broken = Fake::start(|_, mut conn| {
        harness::read_head(&mut conn);
    });
    let origins = origins(1);
    let proxy = Proxy::start(&format!(
        "cores = 1\n[upstream.app]\ncheck = \"off\"\nservers = [\"{}\", \"{}\"]\n",
        broken.address(),
        origins[0].address()
    ));
    let mut client = proxy.client();
    // Fewer than the floor of the retry budget.
    for _ in 0..2 {
        assert_eq!(client.get("/bytes").status, 200);
    }
    let statuses: Vec<u16> = (0..4).map(|_| client.post("/sink", b"x").status).collect();
    assert_eq!(statuses.iter().filter(|s| **s == 502).count(), 2, "{statuses:?}");
    assert_eq!(origins[0].requests().iter().filter(|r| r.path() == "/sink").count(), 2);
}

#[test]
fn a_refused_connection_is_no_error_for_a_post_either() {
    let gone = harness::Refusing::new();
    let origins = origins(1);
    let proxy = Proxy::start(&format!(
        "cores = 1\n[upstream.app]\ncheck = \"off\"\nservers = [\"{}\", \"{}\"]\n",
        gone.address,
        origins[0].address()
    ));
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.post("/sink", b"hello").status, 200);
    }
    assert!(origins[0].requests().iter().all(|r| r.body == 5));
}

#[test]
fn a_kept_connection_that_the_server_has_closed_is_no_error() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("cores = 1\n{}", app("\"round_robin\"", &origins)));
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/bytes").status, 200);
        origins[0].close_connections();
    }
}
