//! TLS with servers: whom the proxy believes, what it says of itself, and what follows from a failure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::path::Path;

use harness::tls::Authority;
use harness::{Call, H2Server, Origin, Proxy, TlsFront, eventually, origins};

const CHECK: &str = "check = { http = { path = \"/healthz\", interval = \"100ms\", timeout = \"5s\" } }\n";

struct Setting {
    dir: tempfile::TempDir,
    authority: Authority,
    origins: Vec<Origin>,
}

impl Setting {
    fn new() -> Self {
        let setting =
            Self { dir: tempfile::tempdir().unwrap(), authority: Authority::new("servers"), origins: origins(1) };
        std::fs::write(setting.ca(), setting.authority.pem()).unwrap();
        setting
    }

    fn ca(&self) -> std::path::PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A server with a certificate for these names.
    fn server(&self, names: &[&str]) -> TlsFront {
        TlsFront::start(&self.authority.issue(names), &["http/1.1"], None, self.origins[0].address())
    }

    fn ca_is(&self) -> String {
        format!("ca = {:?}", self.ca())
    }
}

/// `keys` are of the upstream.
fn config(address: impl std::fmt::Display, keys: &str) -> String {
    let check = if keys.contains("check =") { "" } else { "check = \"off\"\n" };
    format!("cores = 1\n[upstream.app]\nservers = [\"{address}\"]\n{check}{keys}\n")
}

/// What a client gets without a chance of another server.
fn refused(address: impl std::fmt::Display, tls: &str) -> (u16, Option<String>) {
    let proxy = Proxy::start(&config(address, &format!("retry = {{ attempts = 0 }}\ntls = {tls}")));
    let answer = proxy.get("/");
    assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    (answer.status, answer.reason().map(str::to_owned))
}

#[test]
fn requests_and_checks_go_over_tls() {
    let setting = Setting::new();
    let server = setting.server(&["127.0.0.1"]);
    let tls = format!("{CHECK}fail_open = false\ntls = {{ {} }}", setting.ca_is());
    let proxy = Proxy::start(&config(server.address, &tls));
    assert_eq!(proxy.get("/echo").status, 200);
    assert_eq!(proxy.server("app", &server.address.to_string()).operational, "healthy");
    let shaken = server.shaken();
    assert!(shaken.len() >= 2, "one of the check, one of the request");
    assert!(shaken.iter().all(|s| s.name.is_none() && s.alpn.as_deref() == Some("http/1.1")), "{shaken:?}");
    // The connection is kept like any other.
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.post("/echo", b"over tls").status, 200);
    }
    assert_eq!(proxy.metric("evenkeel_server_connects_total", &[]), 1.0);
}

#[test]
fn the_name_is_that_of_the_address_or_the_one_that_is_set() {
    let setting = Setting::new();
    let server = setting.server(&["app.internal"]);
    assert_eq!(refused(server.address, &format!("{{ {} }}", setting.ca_is())), (502, Some("upstream_tls".into())));
    let named = format!("tls = {{ {}, server_name = \"app.internal\" }}", setting.ca_is());
    assert_eq!(Proxy::start(&config(server.address, &named)).get("/").status, 200);
    assert_eq!(server.shaken().last().unwrap().name.as_deref(), Some("app.internal"));

    let local = setting.server(&["localhost"]);
    let by_name = format!("localhost:{}", local.address.port());
    let tls = format!("tls = {{ {} }}", setting.ca_is());
    assert_eq!(Proxy::start(&config(by_name, &tls)).get("/").status, 200);
    assert_eq!(local.shaken()[0].name.as_deref(), Some("localhost"));
}

#[test]
fn a_certificate_of_somebody_else_is_not_believed() {
    let setting = Setting::new();
    let stranger = Authority::new("somebody else");
    let origin = setting.origins[0].address();
    let server = TlsFront::start(&stranger.issue(&["127.0.0.1"]), &[], None, origin);
    let expired = setting.authority.issue_with(&["127.0.0.1"], &rcgen::KeyPair::generate().unwrap(), |params| {
        params.not_after = harness::tls::from_now(-60).into();
    });
    let late = TlsFront::start(&expired, &[], None, origin);
    let tls = format!("{{ {} }}", setting.ca_is());
    let unbelieved = (502, Some("upstream_tls".to_owned()));
    assert_eq!(refused(server.address, &tls), unbelieved);
    assert_eq!(refused(late.address, &tls), unbelieved);
    // The system does not know this authority either.
    assert_eq!(refused(setting.server(&["127.0.0.1"]).address, "true"), unbelieved);
    assert!(setting.origins[0].requests().is_empty());
    // A server that does not speak TLS at all.
    assert_eq!(refused(origin, &tls), unbelieved);
    // Asked for in as many words, nobody is verified.
    let anyone = Proxy::start(&config(server.address, "tls = { verify = false }"));
    assert_eq!(anyone.get("/").status, 200);
}

#[test]
fn a_check_sees_what_requests_would() {
    let setting = Setting::new();
    let server = TlsFront::start(
        &Authority::new("somebody else").issue(&["127.0.0.1"]),
        &[],
        None,
        setting.origins[0].address(),
    );
    for check in [CHECK, "check = { tcp = { interval = \"100ms\", timeout = \"5s\" } }\n"] {
        let keys = format!("{check}fail_open = false\ntls = {{ {} }}", setting.ca_is());
        let proxy = Proxy::launch(&config(server.address, &keys));
        let error = eventually("it is found out", || {
            proxy.server("app", &server.address.to_string()).last_check_error.filter(|error| !error.is_empty())
        });
        assert!(error.contains("no TLS") && error.contains("certificate"), "{error}");
    }
}

#[test]
fn the_proxy_shows_its_own_certificate() {
    let setting = Setting::new();
    let clients = Authority::new("clients");
    let own = clients.issue_client("evenkeel", &["evenkeel.internal"]);
    let server =
        TlsFront::start(&setting.authority.issue(&["127.0.0.1"]), &[], Some(&clients), setting.origins[0].address());
    assert_eq!(refused(server.address, &format!("{{ {} }}", setting.ca_is())).0, 502);
    let tls = format!("tls = {{ {}, certificate = {} }}", setting.ca_is(), own.toml(setting.dir.path(), "own"));
    let proxy = Proxy::start(&config(server.address, &tls));
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(server.shaken()[0].client_certificate.as_ref(), Some(&own.der));
}

#[test]
fn sessions_are_resumed() {
    let setting = Setting::new();
    let server = setting.server(&["127.0.0.1"]);
    let keys = format!("pool = {{ max_idle = 0 }}\ntls = {{ {} }}", setting.ca_is());
    let proxy = Proxy::start(&config(server.address, &keys));
    for _ in 0..3 {
        assert_eq!(proxy.get("/").status, 200);
    }
    let resumed: Vec<bool> = server.shaken().iter().map(|s| s.resumed).collect();
    assert_eq!(resumed, [false, true, true]);
}

#[test]
fn files_are_read_again_by_a_reload_and_connections_of_before_are_not_used() {
    let setting = Setting::new();
    let server = setting.server(&["127.0.0.1"]);
    let text = config(server.address, &format!("retry = {{ attempts = 0 }}\ntls = {{ {} }}", setting.ca_is()));
    let proxy = Proxy::start(&text);
    assert_eq!(proxy.get("/").status, 200);
    // Nothing has changed: nothing is done.
    assert!(proxy.reload_file().unwrap().changes.is_empty());
    harness::tls::replace(setting.dir.path(), "ca.pem", &Authority::new("another").pem());
    assert_eq!(proxy.reload_file().unwrap().changes, ["upstream app: tls changed"]);
    assert_eq!(proxy.get("/").reason(), Some("upstream_tls"));
    harness::tls::replace(setting.dir.path(), "ca.pem", "no certificate");
    proxy.reload_file().unwrap_err();
    harness::tls::replace(setting.dir.path(), "ca.pem", &setting.authority.pem());
    proxy.reload_file().unwrap();
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn turning_tls_on_leaves_no_connection_in_clear() {
    let setting = Setting::new();
    let origin = &setting.origins[0];
    let keys = "retry = { attempts = 0 }\n";
    let proxy = Proxy::start(&config(origin.address(), keys));
    assert_eq!(proxy.get("/").status, 200);
    proxy.reload(&config(origin.address(), &format!("{keys}tls = true"))).unwrap();
    assert_eq!(proxy.get("/").reason(), Some("upstream_tls"));
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn http2_over_tls_is_agreed_on() {
    let setting = Setting::new();
    let server = H2Server::start(|mut call: Call| async move { call.reply("hello").await });
    let certificate = setting.authority.issue(&["127.0.0.1"]);
    let front = TlsFront::start(&certificate, &["h2", "http/1.1"], None, server.address);
    let keys = format!("protocol = \"h2\"\n{CHECK}tls = {{ {} }}", setting.ca_is());
    let proxy = Proxy::start(&config(front.address, &keys));
    assert_eq!(proxy.get("/").text(), "hello");
    assert!(front.shaken().iter().all(|s| s.alpn.as_deref() == Some("h2")));
    // The check was a request over HTTP/2, too.
    let asked = server.asked();
    assert_eq!(asked[0].uri, format!("https://{}/healthz", front.address));
    assert!(asked.last().unwrap().uri.starts_with("https://"));

    let old = TlsFront::start(&certificate, &["http/1.1"], None, setting.origins[0].address());
    let keys = format!("retry = {{ attempts = 0 }}\nprotocol = \"h2\"\ntls = {{ {} }}", setting.ca_is());
    assert_eq!(Proxy::start(&config(old.address, &keys)).get("/").reason(), Some("upstream_tls"));
    assert!(Path::new(&setting.ca()).exists());
}

#[test]
fn websockets_go_over_tls() {
    let setting = Setting::new();
    let server = setting.server(&["127.0.0.1"]);
    let proxy = Proxy::start(&config(server.address, &format!("tls = {{ {} }}", setting.ca_is())));
    let (mut tunnel, _) = proxy.tunnel();
    tunnel.send(b"hello");
    assert_eq!(tunnel.read(5), b"hello");
}
