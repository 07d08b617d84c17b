//! TLS with clients.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on ends so")]

use crate::harness;

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
    let toml = listener(&certificate, "handshake_timeout = \"2s\"") + &app("\"round_robin\"", &origins);
    let proxy = Proxy::start(&toml);
    let mut silent = proxy.raw();
    assert!(silent.is_closed());
    let mut slow = proxy.raw();
    // The beginning of a ClientHello, and then a byte now and then.
    let _ = slow.try_send(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC]);
    eventually("closed", || slow.try_send(&[3]).is_err().then_some(()));
    assert!(TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").is_ok());
}

/// A proxy in front of one origin that ends TLS with these keys of its table.
fn proxy(tls: &str, origins: &[Origin]) -> Proxy {
    Proxy::start(&(format!("tls = {{ {tls} }}\n") + &app("\"round_robin\"", origins)))
}

#[test]
fn a_client_gets_the_certificate_for_the_name_it_asks_for() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let issued = [
        ca.issue(&["default.example"]),
        ca.issue(&["shop.example.com", "www.example.com"]),
        ca.issue(&["*.example.com"]),
        ca.issue(&["*.api.example.com"]),
    ];
    let list: Vec<String> = issued.iter().enumerate().map(|(i, one)| one.toml(dir.path(), &i.to_string())).collect();
    let proxy = proxy(&format!("certificate = [{}]", list.join(", ")), &origins);
    for (name, expected) in [
        ("default.example", 0),
        ("shop.example.com", 1),
        ("SHOP.example.com", 1),
        ("www.example.com", 1),
        ("blog.example.com", 2),
        ("v1.api.example.com", 3),
        // A star is one label, and an unknown name gets the first.
        ("a.b.example.com", 0),
        ("example.com", 0),
    ] {
        let sent = openssl(&["-connect", &proxy.address.to_string(), "-servername", name, "-showcerts"], "");
        let pem = issued[expected].chain.lines().nth(3).unwrap();
        assert!(sent.contains(pem), "{name}: {sent}");
    }
    let nameless = openssl(&["-connect", &proxy.address.to_string(), "-noservername", "-showcerts"], "");
    assert!(nameless.contains(issued[0].chain.lines().nth(3).unwrap()), "{nameless}");
}

/// What `openssl s_client` has to say.
fn openssl(arguments: &[&str], input: &str) -> String {
    use std::io::Write;
    let mut child = std::process::Command::new("openssl")
        .arg("s_client")
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn ecdsa_and_rsa_side_by_side() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let rsa = ca.issue_rsa(&["shop.example.com"]).toml(dir.path(), "rsa");
    let ecdsa = ca.issue(&["shop.example.com"]).toml(dir.path(), "ecdsa");
    let proxy = proxy(&format!("certificate = [{rsa}, {ecdsa}]"), &origins);
    let address = proxy.address.to_string();
    let base = ["-connect", &address, "-servername", "shop.example.com"];
    for (more, expected) in [
        (&["-tls1_3"][..], "Peer signature type: ECDSA"),
        (&["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"][..], "Peer signature type: RSA-PSS"),
        (&["-tls1_2"][..], "Peer signature type: ECDSA"),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"][..], "Peer signature type: RSA"),
    ] {
        let said = openssl(&[&base[..], more].concat(), "");
        assert!(said.contains(expected), "{more:?}: {said}");
    }
}

#[test]
fn tls_1_2_can_be_refused() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let proxy = proxy(&format!("certificate = {certificate}, min_version = \"1.3\""), &origins);
    let old = TlsClient::of(&ca, &[&rustls::version::TLS12], None);
    assert!(old.connect(proxy.address, "shop.example.com").is_err());
    assert!(TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").is_ok());
}

#[test]
fn post_quantum_key_exchange_is_preferred() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let proxy = proxy(&format!("certificate = {certificate}"), &origins);
    let conn = TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").unwrap();
    let group = conn.session().negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

#[test]
fn changed_files_are_taken_and_broken_ones_are_not() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let first = ca.issue(&["shop.example.com"]);
    let proxy = proxy(&format!("certificate = {}", first.toml(dir.path(), "shop")), &origins);
    let client = TlsClient::trusting(&ca);
    let mut before = client.connect(proxy.address, "shop.example.com").unwrap();
    assert_eq!(before.certificate(), first.der);

    let second = ca.issue(&["shop.example.com"]);
    second.write(dir.path(), "shop");
    // Each look needs a handshake of its own: a resumed one shows the old certificate.
    let served = || TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").unwrap().certificate();
    eventually("the new certificate", || (served() == second.der).then_some(()));

    // A key that does not belong to it.
    let third = ca.issue(&["shop.example.com"]);
    tls::replace(dir.path(), "shop.key", &third.key);
    eventually("a metric", || (proxy.metric("evenkeel_certificate_problem", &["main"]) == 1.0).then_some(()));
    assert_eq!(served(), second.der);
    let status = proxy.status();
    let told = status.certificates.iter().find(|c| c.listener == "main").unwrap();
    assert!(told.problem.as_deref().unwrap().contains("does not belong to the certificate"), "{told:?}");
    // A reload refuses it with the same words.
    let refused = format!("{:?}", proxy.reload_file().unwrap_err());
    assert!(refused.contains("does not belong to the certificate"), "{refused}");

    // The other half arrives.
    third.write(dir.path(), "shop");
    eventually("the third certificate", || (served() == third.der).then_some(()));
    eventually("no problem", || (proxy.metric("evenkeel_certificate_problem", &["main"]) == 0.0).then_some(()));
    let expiry = proxy.metric("evenkeel_certificate_expiry_timestamp_seconds", &["main"]);
    let days = (expiry - std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()) / 86_400.0;
    assert!((89.0..91.0).contains(&days), "{days}");
    // Who was there has noticed nothing.
    assert_eq!(before.get("/echo").status, 200);
}

#[test]
fn a_swapped_link_is_a_change() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let versions: Vec<_> = (0..2)
        .map(|i| {
            let issued = ca.issue(&["shop.example.com"]);
            let place = dir.path().join(format!("..{i}"));
            std::fs::create_dir(&place).unwrap();
            issued.write(&place, "tls");
            issued
        })
        .collect();
    // As Kubernetes lays out a mounted secret.
    let link = |to: &str| {
        std::os::unix::fs::symlink(to, dir.path().join("..new")).unwrap();
        std::fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    };
    link("..0");
    for name in ["tls.pem", "tls.key"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), dir.path().join(name)).unwrap();
    }
    let (chain, key) = (dir.path().join("tls.pem"), dir.path().join("tls.key"));
    let proxy = proxy(&format!("certificate = {{ chain = {chain:?}, key = {key:?} }}"), &origins);
    let served = || TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").unwrap().certificate();
    assert_eq!(served(), versions[0].der);
    link("..1");
    eventually("the other certificate", || (served() == versions[1].der).then_some(()));
}

/// Connects, and reads an answer, so that tickets have arrived.
fn visit(client: &TlsClient, proxy: &Proxy) -> bool {
    let mut conn = client.connect(proxy.address, "shop.example.com").unwrap();
    assert_eq!(conn.get("/echo").status, 200);
    conn.is_resumed()
}

#[test]
fn sessions_are_resumed_across_reloads_and_replicas_with_the_same_secret() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let with = |secret: &str| format!("certificate = {certificate}, ticket_secrets = [{secret}]");
    let (one, two) = ("\"11111111111111111111111111111111\"", "\"22222222222222222222222222222222\"");
    let proxies = [proxy(&with(one), &origins), proxy(&with(one), &origins), proxy(&with(two), &origins)];
    for version in rustls::ALL_VERSIONS {
        let client = || TlsClient::of(&ca, &[version], None);
        let a = client();
        assert!(!visit(&a, &proxies[0]));
        assert!(visit(&a, &proxies[0]), "{version:?}");
        assert!(visit(&a, &proxies[1]), "another replica");
        assert!(!visit(&a, &proxies[2]), "a stranger");
    }
    let client = TlsClient::trusting(&ca);
    assert!(!visit(&client, &proxies[0]));
    let text = |tls: &str| format!("tls = {{ {tls} }}\nheader_timeout = \"9s\"\n") + &app("\"round_robin\"", &origins);
    proxies[0].reload(&text(&with(one))).unwrap();
    assert!(visit(&client, &proxies[0]), "after a reload");
    proxies[0].reload(&text(&with(&format!("{two}, {one}")))).unwrap();
    assert!(visit(&client, &proxies[0]), "after the first half of a rotation");
    assert!(visit(&client, &proxies[2]), "and now the new secret seals");
    proxies[0].reload(&text(&with(one)).replace("ticket_secrets", "tickets = \"off\", ticket_secrets")).unwrap();
    assert!(!visit(&client, &proxies[0]), "without tickets");
}

/// Servers are told the scheme that the client used, and a cookie of such a client is for TLS only.
#[test]
fn servers_are_told_that_it_was_tls() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let keys = "forwarded = \"both\"\ntrusted_proxies = [\"127.0.0.2\"]\n";
    let proxy = Proxy::start(&(listener(&certificate, "") + keys + &app("\"sticky_cookie\"", &origins)));
    let client = TlsClient::trusting(&ca);
    let mut conn = client.connect(proxy.address, "shop.example.com").unwrap();
    // A stranger cannot deny it.
    conn.send(b"GET /echo HTTP/1.1\r\nhost: a\r\nx-forwarded-proto: http\r\n\r\n");
    let answer = conn.answer();
    assert_eq!(answer.echoed("x-forwarded-proto"), ["https"]);
    assert_eq!(answer.echoed("forwarded"), ["for=127.0.0.1;host=a;proto=https"]);
    assert!(answer.header("set-cookie").unwrap().contains("; Secure"), "{:?}", answer.header("set-cookie"));
}

/// Neither the parts of a record nor new keys are content: they keep no connection open.
#[test]
fn what_is_no_content_does_not_keep_an_idle_connection_open() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let keys = format!("idle_timeout = \"2s\"\ntls = {{ certificate = {certificate} }}\n");
    let proxy = Proxy::start(&(keys + &app("\"round_robin\"", &origins)));
    let client = TlsClient::trusting(&ca);
    let connect = || {
        let mut conn = client.connect(proxy.address, "shop.example.com").unwrap();
        assert_eq!(conn.get("/echo").status, 200);
        conn
    };
    let (mut keys, mut parts) = (connect(), connect());
    eventually("parked", || (proxy.metric("evenkeel_connections_parked", &[]) == 2.0).then_some(()));
    let began = std::time::Instant::now();
    // The head of a record of 16 KiB, and then a byte of it now and then.
    parts.send_raw(&[0x17, 3, 3, 0x40, 0]).unwrap();
    let (mut with_keys, mut with_parts, mut sent) = (true, true, 0);
    eventually("both closed", || {
        // Not so often that it would be taken for a flood.
        if began.elapsed().as_millis() / 200 > sent {
            sent = began.elapsed().as_millis() / 200;
            with_keys = with_keys && keys.send_new_keys().is_ok();
        }
        with_parts = with_parts && parts.send_raw(&[0]).is_ok();
        (!with_keys && !with_parts).then_some(())
    });
    assert!(began.elapsed() < std::time::Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(proxy.metric("evenkeel_connections_closed_total", &["idle"]), 2.0);
}

#[test]
fn the_access_log_tells_of_tls() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let log = dir.path().join("access.log");
    let toml = format!(
        "[access_log]\nfile = {log:?}\n[[listener]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\n\
         tls = {{ certificate = {certificate} }}\n[[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:0\"\n"
    ) + &app("\"round_robin\"", &origins);
    let proxy = Proxy::start(&toml);
    for version in rustls::ALL_VERSIONS {
        let client = TlsClient::of(&ca, &[version], None);
        client.connect(proxy.address, "shop.example.com").unwrap().get("/echo?tls");
    }
    let plain = proxy.status().listeners.iter().find(|l| l.name == "plain").unwrap().address.parse().unwrap();
    let mut conn = Raw::to(plain);
    conn.send(b"GET /echo?clear HTTP/1.1\r\nhost: a\r\n\r\n");
    conn.answer();
    let lines = eventually("three lines", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() == 3).then_some(lines)
    });
    let mut told: Vec<_> = lines.iter().map(|line| (line["tls"].as_str(), line["sni"].as_str())).collect();
    told.sort_unstable();
    let name = Some("shop.example.com");
    assert_eq!(told, [(None, None), (Some("TLSv1.2"), name), (Some("TLSv1.3"), name)]);
}

/// What a handshake may take of memory is bounded: by the library, and this shows that it is.
#[test]
fn a_client_hello_without_an_end_is_refused() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let proxy = proxy(&format!("certificate = {certificate}"), &origins);
    // It says to be of 16 MiB (RFC 8446 §4), in records of 16 KiB.
    let mut conn = proxy.raw();
    let mut record = vec![0x16, 3, 1, 0x40, 0, 1, 0xFF, 0xFF, 0xFF, 3, 3];
    record.resize(5 + 0x4000, 0);
    // Closed long before the end, whether the rest is taken or not: at most an alert comes back.
    let refused = (0..100).any(|_| conn.try_send(&record).is_err());
    let (said, _) = conn.rest_and_end();
    assert!(said.len() < 20, "{refused} {said:?}");
    eventually("counted", || {
        (proxy.metric("evenkeel_tls_handshake_failures_total", &["protocol"]) == 1.0).then_some(())
    });
}

/// Who was let in by other rules than those of now is let in once more at most, and then has to come again.
#[test]
fn a_connection_ends_when_a_reload_secures_its_listener_in_another_way() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let ca_file = dir.path().join("clients.pem");
    std::fs::write(&ca_file, ca.pem()).unwrap();
    let asking = format!("client_auth = {{ ca = \"{}\" }}", ca_file.display());
    let app = app("\"round_robin\"", &origins);
    let (clear, secure, mutual) =
        (app.clone(), listener(&certificate, "") + &app, listener(&certificate, &asking) + &app);
    let proxy = Proxy::start(&clear);
    let ask = |conn: &mut Raw| {
        conn.send(b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n");
        conn.try_answer().map(|answer| answer.header("connection").map(str::to_owned))
    };

    let (mut parked, mut streaming) = (proxy.raw(), proxy.raw());
    assert_eq!(ask(&mut parked).unwrap(), None);
    eventually("parked", || (proxy.metric("evenkeel_connections_parked", &[]) == 2.0).then_some(()));
    streaming.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbo");
    eventually("under way", || (proxy.server("app", "a").in_flight == 1).then_some(()));
    proxy.reload(&secure).unwrap();
    streaming.send(b"dy");
    let answer = streaming.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "what runs is served");
    assert!(ask(&mut parked).is_err(), "what comes later is not");

    let connect = || TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").unwrap();
    let mut conn = connect();
    assert_eq!(conn.get("/echo").header("connection"), None);
    proxy.reload(&mutual).unwrap();
    assert_eq!(conn.get("/echo").header("connection"), Some("close"));

    proxy.reload(&secure).unwrap();
    let mut conn = connect();
    proxy.reload(&secure.replace("tls = {", "tls = { tickets = \"off\",")).unwrap();
    assert_eq!(conn.get("/echo").header("connection"), None, "it is as secure as before");
    proxy.reload(&clear).unwrap();
    assert_eq!(conn.get("/echo").header("connection"), Some("close"));
}
