//! TLS with clients.

mod harness;

use harness::tls::{Authority, TlsClient};
use harness::*;

/// Keys of a listener that ends TLS with this certificate.
fn listener(certificate: &str, more: &str) -> String {
    format!("tls = {{ certificate = {certificate}{}{more} }}\n", if more.is_empty() { "" } else { ", " })
}

#[test]
fn requests_under_tls() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let proxy = Proxy::start(&(listener(&certificate, "") + &app("\"round_robin\"", &origins)));
    for version in rustls::ALL_VERSIONS {
        let client = TlsClient::of(&ca, &[version], None);
        let mut conn = client.connect(proxy.address, "shop.example.com").unwrap();
        assert_eq!(conn.session().protocol_version(), Some(version.version));
        assert_eq!(conn.get("/echo").server(), "a");
        assert_eq!(conn.get("/bytes?n=1000000").body.len(), 1_000_000);
    }
}

#[test]
fn an_upload_under_tls() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let proxy = Proxy::start(&(listener(&certificate, "") + &app("\"round_robin\"", &origins)));
    let mut conn = TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").unwrap();
    let body: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    for _ in 0..2 {
        conn.send(b"POST /echo HTTP/1.1\r\nhost: shop.example.com\r\ncontent-length: 1000000\r\n\r\n");
        conn.send(&body);
        let answer = conn.answer();
        assert_eq!((answer.status, answer.json()["body_length"].as_u64()), (200, Some(1_000_000)), "{}", answer.text());
    }
}

#[test]
fn a_parked_connection_wakes_up() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let proxy = Proxy::start(&(listener(&certificate, "") + &app("\"round_robin\"", &origins)));
    let mut conn = TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").unwrap();
    for _ in 0..2 {
        assert_eq!(conn.get("/echo").status, 200);
        eventually("parked", || (proxy.metric("evenkeel_connections_parked", &[]) == 1.0).then_some(()));
    }
}

#[test]
fn a_tunnel_under_tls() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let proxy = Proxy::start(&(listener(&certificate, "") + &app("\"round_robin\"", &origins)));
    let mut conn = TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").unwrap();
    conn.send(b"GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: my-proto\r\n\r\n");
    assert_eq!(conn.answer().status, 101);
    for size in [1, 100, 100_000] {
        let sent = vec![b'x'; size];
        conn.send(&sent);
        assert_eq!(conn.read(size), sent);
    }
}

#[test]
fn a_client_that_never_shakes_hands_is_dropped() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let toml = listener(&certificate, "handshake_timeout = \"200ms\"") + &app("\"round_robin\"", &origins);
    let proxy = Proxy::start(&toml);
    let mut silent = proxy.raw();
    assert!(silent.is_closed());
    let mut slow = proxy.raw();
    // The beginning of a ClientHello, and then a byte now and then.
    let _ = slow.try_send(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC]);
    eventually("closed", || slow.try_send(&[3]).is_err().then_some(()));
    assert!(TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").is_ok());
}
