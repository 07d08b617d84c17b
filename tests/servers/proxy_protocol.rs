//! Who the client is, as what stands in front says ahead of its first byte.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::time::{Duration, Instant};

use evenkeel::proxy_protocol::{Header, encode_v1, encode_v2};
use harness::{Answer, Proxy, Raw, app, eventually, origins};

const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n";
const EXPECTED: &str = "proxy_protocol = { from = [\"127.0.0.0/8\"], timeout = \"20s\" }";

fn proxied(source: &str) -> Header {
    let destination = if source.starts_with('[') { "[2001:db8::1]:443" } else { "198.51.100.1:443" };
    Header::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn proxy(listener: &str) -> (Proxy, Vec<evenkeel::lab::origin::Origin>) {
    let origins = origins(1);
    (Proxy::start(&format!("{listener}\n{}", app("\"round_robin\"", &origins))), origins)
}

/// The address that servers are told, of a connection that begins with these bytes.
#[track_caller]
fn said(proxy: &Proxy, header: &[u8]) -> String {
    client_of(&ask(proxy, header))
}

/// The client of an answer of `/echo`. A request that had lost its first byte would have another method.
#[track_caller]
fn client_of(answer: &Answer) -> String {
    assert_eq!(answer.json()["method"], "GET");
    answer.echoed("x-forwarded-for").join(" ")
}

#[track_caller]
fn ask(proxy: &Proxy, header: &[u8]) -> Answer {
    let mut raw = proxy.raw();
    raw.send(&[header, REQUEST].concat());
    raw.answer()
}

fn refused(proxy: &Proxy) -> f64 {
    proxy.metric("evenkeel_connections_closed_total", &["proxy_protocol"])
}

#[test]
fn the_client_is_who_the_header_says() {
    let (proxy, _origins) = proxy(EXPECTED);
    for source in ["192.0.2.7:5000", "[2001:db8::7]:5000"] {
        let wanted = proxied(source);
        let Header::Proxied { source, .. } = wanted else { unreachable!() };
        assert_eq!(said(&proxy, &encode_v1(&wanted)), source.ip().to_string());
        assert_eq!(said(&proxy, &encode_v2(&wanted)), source.ip().to_string());
    }
    assert_eq!(said(&proxy, b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n"), "192.0.2.7", "a mapped address is IPv4");
    assert_eq!(refused(&proxy), 0.0);
}

#[test]
fn a_header_that_names_nobody_leaves_the_peer() {
    let (proxy, _origins) = proxy(EXPECTED);
    let mut unix = encode_v2(&Header::Local)[..12].to_vec();
    unix.extend([0x21, 0x31, 0, 216]);
    unix.extend([b'/'; 216]);
    for header in [&encode_v1(&Header::Local), &encode_v2(&Header::Local), &b"PROXY UNKNOWN 1 2 3\r\n"[..], &unix] {
        assert_eq!(said(&proxy, header), "127.0.0.1", "{header:?}");
    }
}

#[test]
fn extensions_are_skipped() {
    let (proxy, _origins) = proxy(EXPECTED);
    let mut header = encode_v2(&proxied("192.0.2.7:5000"));
    let more = [&[0x04, 0x0f, 0x9c][..], &[0xff; 0x0f9c]].concat();
    header.extend(&more);
    header[14..16].copy_from_slice(&(12 + more.len() as u16).to_be_bytes());
    assert_eq!(said(&proxy, &header), "192.0.2.7");
}

/// Not a byte is lost or taken twice, wherever the network cuts: each of these requests is answered.
#[test]
fn what_follows_the_header_is_not_read_with_it() {
    let (proxy, _origins) = proxy(EXPECTED);
    for header in [encode_v1(&proxied("192.0.2.7:5000")), encode_v2(&proxied("192.0.2.7:5000"))] {
        let all = [&header[..], REQUEST].concat();
        for cut in 1..=header.len() + 1 {
            let mut raw = proxy.raw();
            raw.send(&all[..cut]);
            std::thread::yield_now();
            raw.send(&all[cut..]);
            assert_eq!(client_of(&raw.answer()), "192.0.2.7", "cut at {cut}");
        }
        let mut raw = proxy.raw();
        for byte in &all {
            raw.send(&[*byte]);
        }
        assert_eq!(client_of(&raw.answer()), "192.0.2.7", "byte by byte");
    }
}

#[test]
fn a_connection_keeps_its_client() {
    let (proxy, _origins) = proxy(EXPECTED);
    let mut raw = proxy.raw();
    raw.send(&[&encode_v1(&proxied("192.0.2.7:5000"))[..], REQUEST].concat());
    assert_eq!(raw.answer().echoed("x-forwarded-for"), ["192.0.2.7"]);
    eventually("the connection to be parked", || {
        (proxy.metric("evenkeel_connections_parked", &[]) == 1.0).then_some(())
    });
    raw.send(REQUEST);
    assert_eq!(raw.answer().echoed("x-forwarded-for"), ["192.0.2.7"]);
    // It is said once, not with each request.
    raw.send(&[&encode_v1(&proxied("192.0.2.8:5000"))[..], REQUEST].concat());
    assert_eq!(raw.answer().status, 400);
}

#[test]
fn garbage_is_closed_without_an_answer() {
    let (proxy, origins) = proxy(EXPECTED);
    for (n, bytes) in [
        REQUEST,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 999.1.1.1 1.1.1.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c............",
        &[b'P'; 200],
        &[&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut raw = proxy.raw();
        raw.send(bytes);
        assert_eq!(raw.rest(), "");
        assert_eq!(refused(&proxy), n as f64 + 1.0);
    }
    let mut raw = proxy.raw();
    raw.send(b"PROXY TCP4 192.0.2.7");
    raw.shutdown_write();
    assert_eq!(raw.rest(), "", "the end comes before the header's");
    assert!(origins[0].requests().iter().all(|served| served.path() == "/healthz"));
    assert_eq!(proxy.metric("evenkeel_connections_closed_total", &["bad_request"]), 0.0);
}

#[test]
fn a_header_has_its_time() {
    let (proxy, _origins) = proxy("proxy_protocol = { from = [\"127.0.0.1\"], timeout = \"300ms\" }");
    for bytes in [&b""[..], b"PROXY TCP4 192.0", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c12345"] {
        let start = Instant::now();
        let mut raw = proxy.raw();
        raw.send(bytes);
        assert_eq!(raw.rest(), "");
        assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    }
    assert_eq!(refused(&proxy), 3.0);
}

#[test]
fn nobody_else_can_say_who_it_is() {
    let (proxy, _origins) = proxy("proxy_protocol = { from = [\"127.0.0.2\"] }");
    assert_eq!(said(&proxy, b""), "127.0.0.1", "from others no header is waited for");
    assert_eq!(ask(&proxy, &encode_v1(&proxied("192.0.2.7:5000"))).status, 400);
    assert_eq!(ask(&proxy, &encode_v2(&proxied("192.0.2.7:5000"))).status, 400);
    assert_eq!(refused(&proxy), 0.0);
}

#[test]
fn trusted_proxies_are_looked_for_where_the_header_says() {
    let (proxy, _origins) = proxy(&format!("{EXPECTED}\ntrusted_proxies = [\"192.0.2.0/24\"]"));
    let asked = |source: &str| {
        let mut raw: Raw = proxy.raw();
        raw.send(&encode_v2(&proxied(source)));
        raw.send(b"GET /echo HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 203.0.113.9\r\n\r\n");
        raw.answer().echoed("x-forwarded-for").join(", ")
    };
    assert_eq!(asked("192.0.2.7:5000"), "203.0.113.9, 192.0.2.7");
    assert_eq!(asked("203.0.113.7:5000"), "203.0.113.7", "the sender of the header is believed, not its client");
}
