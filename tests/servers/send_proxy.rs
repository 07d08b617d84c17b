//! Who the client is, said to servers ahead of the first byte.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::fmt::Display;
use std::net::SocketAddr;

use bytes::Bytes;
use evenkeel::proxy_protocol::{Header, Version};
use harness::tls::Authority;
use harness::{
    Call, Client2, Fake, H2Server, ProxiedFront, Proxy, Raw, TlsFront, WebSocket, eventually, origins, send,
};
use http::{HeaderName, Response};

const GET: &[u8] = b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n";

/// `keys` are of the upstream.
fn config(address: impl Display, keys: &str) -> String {
    let check = if keys.contains("check =") { "" } else { "check = \"off\"\n" };
    format!("cores = 1\n[upstream.app]\nservers = [\"{address}\"]\n{check}{keys}\n")
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn own(raw: &Raw) -> SocketAddr {
    raw.stream().local_addr().unwrap()
}

/// A GET over a new connection; the address that it came from.
#[track_caller]
fn get(proxy: &Proxy) -> SocketAddr {
    let mut raw = proxy.raw();
    raw.send(GET);
    assert_eq!(raw.answer().status, 200);
    own(&raw)
}

#[test]
fn a_connection_begins_with_its_client() {
    let origins = origins(1);
    for version in [Version::V1, Version::V2] {
        let front = ProxiedFront::start(origins[0].address());
        let proxy = Proxy::start(&config(front.address(), &format!("send_proxy = \"{}\"", version.name())));
        let source = get(&proxy);
        let introduced = front.introduced();
        let destination = proxy.address;
        assert_eq!(introduced.len(), 1);
        assert_eq!(introduced[0].header, Some(Header::Proxied { source, destination }));
        assert_eq!(introduced[0].bytes, version.encode(&Header::Proxied { source, destination }));
    }
}

#[test]
fn no_two_requests_share_a_connection() {
    let origins = origins(1);
    let front = ProxiedFront::start(origins[0].address());
    let proxy = Proxy::start(&config(front.address(), "send_proxy = \"v2\""));
    let (mut one, mut two) = (proxy.raw(), proxy.raw());
    let ask = |raw: &mut Raw| {
        raw.send(GET);
        assert_eq!(raw.answer().status, 200);
    };
    ask(&mut one);
    ask(&mut two);
    ask(&mut one);
    two.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody");
    assert_eq!(two.answer().json()["body_length"], 4);
    let sources: Vec<_> = front.clients().iter().map(|(source, _)| *source).collect();
    assert_eq!(sources, [own(&one), own(&two), own(&one), own(&two)]);
    assert_eq!(proxy.metric("evenkeel_server_connects_total", &[]), 4.0);
    assert_eq!(proxy.metric("evenkeel_server_idle_connections", &[]), 0.0);
}

#[test]
fn the_server_need_not_keep_the_connection() {
    let fake = Fake::answering(|_, _, _| Some(harness::answer(200, "")));
    let front = ProxiedFront::start(fake.address());
    let proxy = Proxy::start(&config(front.address(), "send_proxy = \"v1\""));
    let mut client = proxy.client();
    assert_eq!(client.get("/").header("connection"), None, "the client's own connection is kept");
    assert!(fake.heads()[0].to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{}", fake.heads()[0]);
}

#[test]
fn the_client_is_the_one_behind_trusted_proxies() {
    let origins = origins(1);
    let front = ProxiedFront::start(origins[0].address());
    let app = config(front.address(), "send_proxy = \"v1\"");
    let proxy = Proxy::start(&format!("trusted_proxies = [\"127.0.0.0/8\"]\n{app}"));
    let said = |forwarded: &str| {
        assert_eq!(proxy.client().with("x-forwarded-for", forwarded).get("/echo").status, 200);
        String::from_utf8(front.introduced().pop().unwrap().bytes).unwrap()
    };
    let port = proxy.address.port();
    // Of those nobody knows the port.
    assert_eq!(said("192.0.2.7"), format!("PROXY TCP4 192.0.2.7 127.0.0.1 0 {port}\r\n"));
    // A header has one family for both ends.
    assert_eq!(said("2001:db8::7"), format!("PROXY TCP6 2001:db8::7 ::ffff:7f00:1 0 {port}\r\n"));
}

#[test]
fn what_a_header_from_in_front_says_is_passed_on() {
    let origins = origins(1);
    let front = ProxiedFront::start(origins[0].address());
    let app = config(front.address(), "send_proxy = \"v2\"");
    let proxy = Proxy::start(&format!("proxy_protocol = {{ from = [\"127.0.0.1\"] }}\n{app}"));
    for (source, destination) in [("192.0.2.7:5000", "198.51.100.1:443"), ("[2001:db8::7]:5000", "[2001:db8::1]:443")]
        .map(|(s, d)| (at(s), at(d)))
    {
        let header = Header::Proxied { source, destination };
        let mut raw = proxy.raw();
        raw.send(&[&Version::V1.encode(&header)[..], GET].concat());
        assert_eq!(raw.answer().status, 200);
        assert_eq!(front.clients().pop(), Some((source, destination)));
    }
    let mut raw = proxy.raw();
    raw.send(&[&Version::V2.encode(&Header::Local)[..], GET].concat());
    assert_eq!(raw.answer().status, 200);
    assert_eq!(front.clients().pop(), Some((own(&raw), proxy.address)), "it speaks for itself");
}

#[test]
fn one_evenkeel_behind_another() {
    let origins = origins(1);
    let app = config(origins[0].address(), "");
    let inner = Proxy::start(&format!("proxy_protocol = {{ from = [\"127.0.0.0/8\"] }}\n{app}"));
    for version in ["v1", "v2"] {
        let keys = format!("send_proxy = \"{version}\"\ncheck = {{ http = {{ path = \"/healthz\" }} }}");
        let outer = Proxy::start(&config(inner.address, &keys));
        for source in [[127, 0, 0, 5], [127, 0, 0, 6], [127, 0, 0, 5]] {
            let answer = outer.client().from(source).get("/echo");
            assert_eq!(answer.echoed("x-forwarded-for"), [SocketAddr::from((source, 0)).ip().to_string()]);
        }
        let mut socket = WebSocket::open(outer.address, "/ws");
        socket.echo("through both").unwrap();
        socket.close();
    }
    assert_eq!(inner.metric("evenkeel_connections_closed_total", &["proxy_protocol"]), 0.0);
}

#[test]
fn a_client_that_speaks_http2_is_named_for_each_request() {
    let origins = origins(1);
    let front = ProxiedFront::start(origins[0].address());
    let proxy = Proxy::start(&config(front.address(), "send_proxy = \"v2\""));
    let client = Client2::to(proxy.address);
    assert_eq!(client.get("/echo").status, 200);
    assert_eq!(client.get("/echo").status, 200);
    let clients = front.clients();
    assert_eq!(clients.len(), 2);
    assert_eq!(clients[0], clients[1], "one connection, and so one port");
    assert_eq!(clients[0].1, proxy.address);
}

#[test]
fn the_address_that_was_connected_to_is_no_wildcard() {
    let origins = origins(1);
    let front = ProxiedFront::start(origins[0].address());
    let listener = "cores = 1\n[[listener]]\nname = \"main\"\nbind = \"0.0.0.0:0\"\n";
    let app = config(front.address(), "send_proxy = \"v2\"").replace("cores = 1\n", "");
    let proxy = Proxy::start(&format!("{listener}{app}"));
    let local = SocketAddr::from(([127, 0, 0, 9], proxy.address.port()));
    let mut raw = Raw::to(local);
    raw.send(GET);
    assert_eq!(raw.answer().status, 200);
    assert_eq!(front.clients(), [(own(&raw), local)]);
}

#[test]
fn the_header_comes_before_tls() {
    let origins = origins(1);
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new("servers"));
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let tls = TlsFront::start(&authority.issue(&["127.0.0.1"]), &["http/1.1"], None, origins[0].address());
    let front = ProxiedFront::start(tls.address);
    let check = "check = { http = { path = \"/healthz\" } }\nfail_open = false";
    let keys = format!("{check}\nsend_proxy = \"v2\"\ntls = {{ ca = {ca:?} }}");
    let proxy = Proxy::start(&config(front.address(), &keys));
    let source = get(&proxy);
    assert_eq!(front.clients(), [(source, proxy.address)]);
    assert!(tls.shaken().len() >= 2, "one of the check, one of the request");
    assert_eq!(front.introduced()[0].header, Some(Header::Local));
}

#[test]
fn servers_on_unix_sockets_are_told_as_well() {
    let origins = origins(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let front = ProxiedFront::at(&path, origins[0].address());
    let proxy = Proxy::start(&config(format!("unix:{}", path.display()), "send_proxy = \"v1\"\ncheck = \"tcp\""));
    let source = get(&proxy);
    assert_eq!(front.clients(), [(source, proxy.address)]);
    assert!(front.introduced().iter().any(|i| i.bytes == b"PROXY UNKNOWN\r\n"), "the check's");
}

#[test]
fn tunnels_begin_with_their_client() {
    let origins = origins(1);
    let front = ProxiedFront::start(origins[0].address());
    let proxy = Proxy::start(&config(front.address(), "send_proxy = \"v2\""));
    let (mut tunnel, _) = proxy.tunnel();
    tunnel.send(b"through");
    assert_eq!(tunnel.read(7), b"through");
    assert_eq!(front.clients(), [(own(&tunnel), proxy.address)]);
    let mut socket = WebSocket::open(proxy.address, "/ws");
    socket.echo("hello").unwrap();
    assert_eq!(front.clients().len(), 2);
    socket.close();
}

#[test]
fn every_try_says_who_the_client_is() {
    let origins = origins(1);
    let breaks = Fake::start(|_, mut conn| drop(conn.head()));
    let fronts = [ProxiedFront::start(breaks.address()), ProxiedFront::start(origins[0].address())];
    let servers = format!("{}\", \"{}", fronts[0].address(), fronts[1].address());
    let proxy = Proxy::start(&config(servers, "send_proxy = \"v2\""));
    // Whichever comes first, one of two begins with the server that breaks.
    let sources = [get(&proxy), get(&proxy)];
    let retries = proxy.metric("evenkeel_server_retries_total", &[]);
    let ends = sources.map(|source| (source, proxy.address));
    assert_eq!(fronts[1].clients(), ends, "both were answered here");
    let failed = fronts[0].clients();
    assert!(retries >= 1.0 && failed.len() as f64 == retries, "{failed:?}");
    assert!(failed.iter().all(|failed| ends.contains(failed)), "{failed:?} {ends:?}");
}

#[test]
fn checks_speak_for_nobody() {
    let origins = origins(1);
    let grpc = H2Server::start(|mut call: Call| async move {
        let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let Ok(stream) = call.respond.send_response(response, false) else { return };
        let serving = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]);
        let Some(mut stream) = send(stream, serving, false).await else { return };
        let _ = stream
            .send_trailers([(HeaderName::from_static("grpc-status"), "0".parse().unwrap())].into_iter().collect());
    });
    for (check, to) in [("tcp", origins[0].address()), ("http", origins[0].address()), ("grpc", grpc.address)] {
        for version in [Version::V1, Version::V2] {
            let front = ProxiedFront::start(to);
            let check = format!("{{ {check} = {{ interval = \"50ms\", timeout = \"5s\" }} }}");
            let keys = format!("fail_open = false\nsend_proxy = \"{}\"\ncheck = {check}", version.name());
            let proxy = Proxy::start(&config(front.address(), &keys));
            assert_eq!(proxy.server("app", &front.address().to_string()).operational, "healthy", "{check}");
            let introduced = eventually("some checks", || Some(front.introduced()).filter(|all| all.len() > 2));
            assert!(introduced.iter().all(|i| i.bytes == version.encode(&Header::Local)), "{introduced:?}");
        }
    }
}

#[test]
fn a_reload_turns_it_on_and_off() {
    let origins = origins(1);
    let plain = config(origins[0].address(), "");
    let proxy = Proxy::start(&plain);
    let mut raw = proxy.raw();
    let mut ask = |connects: f64| {
        raw.send(GET);
        let status = raw.answer().status;
        assert_eq!(proxy.metric("evenkeel_server_connects_total", &[]), connects);
        (status, own(&raw))
    };
    assert_eq!(ask(1.0).0, 200);
    assert_eq!(ask(1.0).0, 200, "the connection is kept");
    // The connection that is kept was opened for nobody: it is not used. The server, which expects no
    // header, takes it for a request.
    let on = config(origins[0].address(), "send_proxy = \"v1\"\nretry = { attempts = 0 }");
    assert_eq!(proxy.reload(&on).unwrap().changes[0], "upstream app: send_proxy off → v1");
    assert_ne!(ask(2.0).0, 200);
    proxy.reload(&plain).unwrap();
    assert_eq!(ask(3.0).0, 200);
    assert_eq!(ask(3.0).0, 200);
}

#[test]
fn copies_name_the_client_of_the_request() {
    let origins = origins(2);
    let front = ProxiedFront::start(origins[1].address());
    let proxy = Proxy::start(&format!(
        "cores = 1\n[[route]]\nname = \"r\"\nupstream = \"app\"\nmirror = {{ to = \"next\" }}\n\
         [upstream.app]\ncheck = \"off\"\nservers = [\"{}\"]\n\
         [upstream.next]\ncheck = \"off\"\nservers = [\"{}\"]\nsend_proxy = \"v2\"\n",
        origins[0].address(),
        front.address()
    ));
    let source = get(&proxy);
    eventually("the copy", || {
        (proxy.metric("evenkeel_mirrored_requests_total", &["r", "answered"]) == 1.0).then_some(())
    });
    assert_eq!(front.clients(), [(source, proxy.address)]);
}
