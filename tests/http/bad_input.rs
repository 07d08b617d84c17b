//! What strangers send: refused with the right status, and never passed on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::time::Duration;

use harness::{Answer, Origin, Proxy, Raw, Running, app, asked, eventually, origins, raw, under};

const RR: &str = "\"round_robin\"";

fn pair(head: &str) -> (Vec<Origin>, Proxy) {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("{head}\n{}", app(RR, &origins)));
    (origins, proxy)
}

/// Requests that reached the origin, apart from its checks.
fn served(origins: &[Origin]) -> Vec<String> {
    asked(&origins[0]).into_iter().map(|r| r.target).collect()
}

#[test]
fn malformed_and_ambiguous_requests_are_refused_and_reach_nobody() {
    let (origins, proxy) = pair("");
    let lines: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost:\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a, b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: u@a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: \"a\"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a:x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a:70000\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\x7f\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\xe9\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx y: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nno-colon\r\n\r\n",
        b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / a HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n",
        b"G@T / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.2\r\nhost: a\r\n\r\n",
        b"GET / HTTP/3.0\r\nhost: a\r\n\r\n",
        b"GET / HTTPS/1.1\r\nhost: a\r\n\r\n",
        b"GET / http/1.1\r\nhost: a\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET * HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET a HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET http://u@a/ HTTP/1.1\r\nhost: u@a\r\n\r\n",
        b"GET http://u:p@a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x1\r\n\r\na",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: , chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked;x=1\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\r\ncontent-length: 3\r\n\r\nabc",
        b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    for line in lines {
        let got = raw(proxy.address, line);
        let line = String::from_utf8_lossy(line);
        assert!(got.starts_with("HTTP/1.1 400") || got.starts_with("HTTP/1.0 400"), "{line:?}: {got:?}");
        assert_eq!(got.matches("HTTP/1.").count(), 1, "{line:?}: one answer, then the end: {got:?}");
        assert!(!got.contains(&origins[0].address().to_string()));
    }
    assert_eq!(served(&origins), [""; 0]);
}

#[test]
fn a_length_beside_chunks_smuggles_nothing() {
    let (origins, proxy) = pair("");
    let rest = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for (one, other) in [
        ("transfer-encoding: chunked", format!("content-length: {}", rest.len())),
        ("content-length: 5", "transfer-encoding: chunked".to_owned()),
        ("content-length: 5\r\ncontent-length: 6", "transfer-encoding: chunked".to_owned()),
    ] {
        let got =
            raw(proxy.address, format!("POST /echo HTTP/1.1\r\nhost: a\r\n{one}\r\n{other}\r\n\r\n{rest}").as_bytes());
        assert!(got.starts_with("HTTP/1.1 400") && got.matches("HTTP/1.1 ").count() == 1, "{got}");
    }
    assert_eq!(served(&origins), [""; 0]);
}

#[test]
fn what_is_unusual_but_clear_is_served() {
    let (_origins, proxy) = pair("");
    for line in [
        "\r\nGET /echo HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 01\r\n\r\na",
        "POST /echo HTTP/1.1\r\nhost: a\r\nTRANSFER-ENCODING: Chunked\r\n\r\n1;ext=\"x\"\r\na\r\n0\r\n\r\n",
        "GET /echo HTTP/1.1\r\nhost:a\r\nx:  y \t\r\n\r\n",
        "GET http://a HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET http://a?x HTTP/1.1\r\nhost: a\r\n\r\n",
        "REPORT /echo HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
    ] {
        let mut conn = proxy.raw();
        conn.send(line.as_bytes());
        let answer = conn.answer();
        assert_eq!(answer.status, 200, "{line:?}: {}", answer.text());
        if line.contains("/echo") {
            assert!(answer.echoed("content-length").len() <= 1);
        }
    }
}

#[test]
fn connect_and_other_proxies_methods_are_not_served() {
    let (origins, proxy) = pair("");
    let got = raw(proxy.address, b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n");
    assert!(got.starts_with("HTTP/1.1 501"), "{got}");
    assert!(got.contains("method_refused"));
    assert_eq!(served(&origins), [""; 0]);
}

#[test]
fn oversized_heads_are_431_or_414() {
    let (origins, proxy) = pair("max_header_bytes = \"8KiB\"");
    let long = "x".repeat(9000);
    for (head, status) in [
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {long}\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(2000)), "431"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{long}: x\r\n\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), "414"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a:\r\n".repeat(200)), "431"),
    ] {
        let got = raw(proxy.address, head.as_bytes());
        assert!(got.starts_with(&format!("HTTP/1.1 {status}")), "{:?}…: {got}", &head[..40]);
    }
    assert_eq!(served(&origins), [""; 0]);
    let fits = "x".repeat(7000);
    assert_eq!(proxy.client().send("GET", "/bytes", &[("x", &fits)], b"").status, 200);
}

#[test]
fn a_head_without_an_end_is_refused_before_it_fills_memory() {
    let (origins, proxy) = pair("max_header_bytes = \"8KiB\"");
    let mut conn = proxy.raw();
    let _ = conn.try_send(b"GET / HTTP/1.1\r\nhost: a\r\n");
    for _ in 0..10_000 {
        if conn.try_send(b"x-a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").is_err() {
            break;
        }
    }
    let got = conn.rest();
    assert!(got.is_empty() || got.starts_with("HTTP/1.1 431"), "{got}");
    assert_eq!(served(&origins), [""; 0]);
}

#[test]
fn a_body_that_is_announced_too_large_is_413() {
    let (origins, proxy) = pair("max_body = 1000");
    let mut conn = proxy.raw();
    conn.send(b"POST /sink HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\n\r\n");
    let answer = conn.answer();
    assert_eq!((answer.status, answer.reason()), (413, Some("body_too_large")));
    assert!(conn.is_closed());
    assert_eq!(served(&origins), [""; 0]);
    assert_eq!(proxy.client().post("/sink", &[b'x'; 1000]).status, 200);
}

#[test]
fn half_an_http_2_preface_and_a_tls_hello_end_without_harm() {
    let (origins, proxy) = pair("header_timeout = \"300ms\"");
    for bytes in
        [b"PRI * HTTP/2.0\r\n\r\nS".as_slice(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0\0\0\0\0\0"]
    {
        let got = raw(proxy.address, bytes);
        // SETTINGS are what a server of HTTP/2 begins with.
        let settings = got.starts_with("\0\0\u{18}\u{4}");
        assert!(got.is_empty() || settings || got.starts_with("HTTP/1.1 400"), "{got:?}");
    }
    assert_eq!(proxy.get("/bytes").status, 200);
    assert_eq!(served(&origins), ["/bytes"]);
}

/// Every error that can be provoked from outside; none may tell where a server is.
fn errors(origins: &mut [Origin], proxy: &Proxy, headers: &[(&str, &str)]) -> Vec<Answer> {
    let mut client = proxy.client();
    let mut all = vec![
        client.send("GET", "/none", headers, b""),
        client.send("GET", "/app/drop", headers, b""),
        client.send("CONNECT", "a:1", headers, b""),
        client.send("GET", "/app/", &[headers, &[("expect", "x")]].concat(), b""),
    ];
    origins[0].kill();
    all.push(proxy.client().send("GET", "/app/", headers, b""));
    origins[0].restart().unwrap();
    all
}

#[test]
fn errors_say_why_in_the_form_that_the_client_accepts_and_name_no_server() {
    let mut origins = origins(1);
    let proxy = Proxy::start(&format!(
        "cores = 1\n[upstream.app]\ncheck = \"off\"\n{}[[route]]\npath = \"/app/\"\nstrip_prefix = true\nupstream = \"app\"\n",
        harness::servers("app", &origins)
    ));
    let address = origins[0].address();
    for (accept, kind) in [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("text/html,application/xhtml+xml;q=0.9", "text/html; charset=utf-8"),
    ] {
        for answer in errors(&mut origins, &proxy, &[("accept", accept)]) {
            assert!(answer.status >= 400);
            assert_eq!(answer.header("content-type"), Some(kind));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert!(answer.header("x-request-id").is_some());
            let reason = answer.reason().expect("a reason").to_owned();
            assert!(answer.text().contains(&reason), "{}", answer.text());
            if kind == "application/json" {
                assert_eq!(
                    (&answer.json()["status"], &answer.json()["error"]),
                    (&answer.status.into(), &reason.into())
                );
            } else {
                assert!(answer.text().starts_with("<!doctype html>"));
            }
            let all = format!("{:?} {}", answer.headers, answer.text());
            for secret in [address.to_string(), address.ip().to_string(), address.port().to_string()] {
                assert!(!all.replace(&proxy.address.to_string(), "").contains(&secret), "{secret}: {all}");
            }
        }
    }
}

#[test]
fn errors_of_head_have_no_body() {
    let (_origins, proxy) = pair("");
    let mut conn = proxy.raw();
    conn.send(b"HEAD /drop HTTP/1.1\r\nhost: a\r\n\r\n");
    let answer = conn.answer_to("HEAD");
    assert_eq!((answer.status, answer.reason()), (502, Some("reset")));
    assert!(answer.header("content-length").unwrap().parse::<u32>().unwrap() > 0);
    conn.send(b"GET /bytes?n=3 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().body.len(), 3);
}

#[test]
fn an_upstream_without_a_healthy_server_is_503_when_it_may_not_fail_open() {
    let origins = origins(1);
    origins[0].set_healthy(false);
    let proxy = Proxy::start(&app(RR, &origins).replace("[upstream.app]\n", "[upstream.app]\nfail_open = false\n"));
    let answer = proxy.get("/");
    assert_eq!((answer.status, answer.reason()), (503, Some("no_server")));
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn an_unreachable_server_is_502_with_a_reason() {
    let gone = harness::Refusing::new();
    let proxy = Proxy::start(&harness::unchecked(gone.address, ""));
    let answer = proxy.get("/");
    assert_eq!((answer.status, answer.reason()), (502, Some("connect_refused")));
    // The client's connection goes on.
    let mut client = proxy.client();
    for _ in 0..3 {
        let answer = client.post("/", b"abc");
        assert!(matches!(answer.status, 502 | 503) && answer.reason().is_some(), "{}", answer.text());
    }
}

fn with_64_descriptors(origins: &[Origin]) -> Running {
    Running::with(&format!("cores = 1\nmax_connections = 1000\n{}", app(RR, origins)), |command| {
        *command = under("ulimit -n 64", command);
    })
}

#[test]
fn a_full_descriptor_table_backs_off_and_recovers() {
    let origins = origins(1);
    let evenkeel = with_64_descriptors(&origins);
    let conns: Vec<Raw> = (0..100).map(|_| evenkeel.raw()).collect();
    eventually("the table is full", || (evenkeel.process.descriptors() >= 64).then_some(()));
    // Accepting fails all that time: one that tried again at once would use all of it. The process can
    // take no further connection, so its own counters are asked for later.
    let before = evenkeel.process.cpu();
    std::thread::sleep(Duration::from_secs(1));
    let used = evenkeel.process.cpu() - before;
    drop(conns);
    eventually("it serves again", || {
        let answer = evenkeel.client().try_send("GET", "/bytes?n=3", &[], b"").ok()?;
        (answer.status == 200).then_some(())
    });
    assert!(used < Duration::from_millis(300), "it did not spin: {used:?} in a second");
    assert!(evenkeel.metric("evenkeel_accept_errors_total", &[]) > 0.0);
}

/// Running out of our own descriptors says nothing about a server: neither the connections that requests
/// could not open nor the probes that could not run count against it.
#[test]
fn own_shortage_is_not_held_against_a_server() {
    for check in ["\"off\"", "{ tcp = { interval = \"50ms\", timeout = \"5s\", unhealthy_threshold = 1 } }"] {
        let origins = origins(1);
        let toml = format!(
            "cores = 1\nmax_connections = 1000\n[upstream.app]\ncheck = {check}\n{}",
            harness::servers("app", &origins)
        );
        let evenkeel = Running::with(&toml, |command| {
            *command = under("ulimit -n 64", command);
        });
        let mut conns: Vec<Raw> = (0..100).map(|_| evenkeel.raw()).collect();
        eventually("the table is full", || (evenkeel.process.descriptors() >= 64).then_some(()));
        let mut failed = 0;
        // All at once, so that no two go over the one connection that may just have been possible.
        for conn in conns.iter_mut().take(20) {
            conn.send(b"GET /slow?ms=500 HTTP/1.1\r\nhost: a\r\n\r\n");
        }
        for conn in conns.iter_mut().take(20) {
            let answer = conn.answer();
            assert!(matches!(answer.status, 200 | 502 | 503), "{}", answer.status);
            failed += u32::from(answer.status != 200);
        }
        assert!(failed > 10, "there was no descriptor for a server: {failed}");
        // Several probes long.
        std::thread::sleep(Duration::from_millis(300));
        drop(conns);
        eventually("the admin API has descriptors", || {
            std::os::unix::net::UnixStream::connect(evenkeel.socket()).ok()?;
            (evenkeel.process.descriptors() < 40).then_some(())
        });
        assert_eq!(evenkeel.metric("evenkeel_server_connect_failures_total", &[]), 0.0, "{check}");
        assert_eq!(evenkeel.server("app", "a").operational, "healthy", "{check}");
        assert!(!evenkeel.process.err().contains("server is unhealthy"), "{check}: {}", evenkeel.process.err());
        assert_eq!(evenkeel.client().get("/").status, 200);
    }
}

#[test]
fn without_descriptors_for_servers_a_client_gets_an_answer() {
    let origins = origins(1);
    let evenkeel = with_64_descriptors(&origins);
    let mut conns: Vec<Raw> = (0..100).map(|_| evenkeel.raw()).collect();
    eventually("the table is full", || (evenkeel.process.descriptors() >= 64).then_some(()));
    let first = &mut conns[0];
    first.send(b"GET /bytes HTTP/1.1\r\nhost: a\r\n\r\n");
    let status = first.answer().status;
    assert!(matches!(status, 200 | 502 | 503), "{status}");
    drop(conns);
    eventually("it serves again", || {
        let answer = evenkeel.client().try_send("GET", "/bytes?n=3", &[], b"").ok()?;
        (answer.status == 200).then_some(())
    });
    assert_eq!(evenkeel.status().upstreams[0].servers[0].operational, "healthy", "the server was not to blame");
}
