//! TLS with clients: who they are, what servers and browsers are told, and what floods it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::io::Write;
use std::path::Path;
use std::time::{Instant, SystemTime};

use harness::tls::{Authority, Issued, TlsClient, TlsConnection, from_now, replace};
use harness::*;

fn proxy(tls: &str, origins: &[Origin]) -> Proxy {
    Proxy::start(&(format!("tls = {{ {tls} }}\n") + &app("\"round_robin\"", origins)))
}

/// A revocation list of that authority.
fn crl(authority: &Authority, serials: &[u64]) -> String {
    crl_until(authority, serials, from_now(365 * 86_400))
}

/// The same, good until then.
fn crl_until(authority: &Authority, serials: &[u64], until: SystemTime) -> String {
    let revoked = |serial: &u64| rcgen::RevokedCertParams {
        serial_number: (*serial).into(),
        revocation_time: rcgen::date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: until.into(),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    list.signed_by(authority.issuer()).unwrap().pem().unwrap()
}

/// Connects and asks once: with TLS 1.3 a refusal comes after the client's handshake.
fn ask(client: &TlsClient, proxy: &Proxy) -> std::io::Result<(TlsConnection, Answer)> {
    let mut conn = client.connect(proxy.address, "shop.example.com")?;
    let answer = conn.try_get("/echo")?;
    Ok((conn, answer))
}

fn client_of(ca: &Authority, dir: &Path) -> String {
    let path = replace(dir, "clients.pem", &ca.pem());
    format!("ca = {path:?}")
}

#[test]
fn clients_prove_who_they_are() {
    let (ca, clients, strangers) = (Authority::new("servers"), Authority::new("clients"), Authority::new("strangers"));
    let (dir, origins) = (tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let alice = clients.issue_client("alice, the first", &["alice.example"]);
    let mallory = strangers.issue_client("alice, the first", &["alice.example"]);
    for mode in ["required", "optional"] {
        let auth = client_of(&clients, dir.path());
        let proxy =
            proxy(&format!("certificate = {certificate}, client_auth = {{ {auth}, mode = \"{mode}\" }}"), &origins);
        for version in rustls::ALL_VERSIONS {
            let with = |own| TlsClient::of(&ca, &[version], own);
            let (_, answer) = ask(&with(Some(&alice)), &proxy).unwrap();
            assert_eq!(answer.echoed("x-client-cert-verified"), ["SUCCESS"]);
            assert_eq!(answer.echoed("x-client-cert-subject"), ["CN=alice\\, the first"]);
            assert_eq!(answer.echoed("x-client-cert-san"), ["DNS:alice.example"]);
            assert_eq!(answer.echoed("x-client-cert-fingerprint")[0].len(), 64);
            assert!(answer.echoed("client-cert")[0].starts_with(":MII"));
            // And again with a ticket, which carries the proof.
            let client = with(Some(&alice));
            ask(&client, &proxy).unwrap();
            let (conn, answer) = ask(&client, &proxy).unwrap();
            assert!(conn.is_resumed());
            assert_eq!(answer.echoed("x-client-cert-verified"), ["SUCCESS"]);

            assert!(ask(&with(Some(&mallory)), &proxy).is_err(), "{mode}: another authority");
            match (mode, ask(&with(None), &proxy)) {
                ("required", Err(_)) => {}
                ("optional", Ok((_, answer))) => {
                    assert_eq!(answer.echoed("x-client-cert-verified"), ["NONE"]);
                    assert!(answer.echoed("x-client-cert-subject").is_empty());
                }
                (mode, answered) => panic!("{mode}: {:?}", answered.map(|(_, answer)| answer)),
            }
        }
        eventually("counted", || {
            (proxy.metric("evenkeel_tls_handshake_failures_total", &["client_certificate"]) >= 2.0).then_some(())
        });
    }
}

#[test]
fn nobody_can_forge_an_identity() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let auth = client_of(&ca, dir.path());
    // The second listener asks nobody, and leads to the same servers.
    let toml = format!(
        "[[listener]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\n\
         tls = {{ certificate = {certificate}, client_auth = {{ {auth}, mode = \"optional\" }} }}\n\
         [[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:0\"\n"
    ) + &app("\"round_robin\"", &origins);
    let proxy = Proxy::start(&toml);
    let forged = "GET /echo HTTP/1.1\r\nhost: a\r\nx-client-cert-verified: SUCCESS\r\nX-Client-Cert-Subject: CN=root\r\n\
                  x_client_cert_subject: CN=root\r\nClient-Cert: :AA==:\r\n\r\n";
    let status = proxy.status();
    let plain = status.listeners.iter().find(|l| l.name == "plain").unwrap().address.parse().unwrap();
    let mut conn = Raw::to(plain);
    conn.send(forged.as_bytes());
    let answer = conn.answer();
    assert_eq!(answer.status, 200);
    assert!(!answer.text().to_lowercase().contains("client"), "{}", answer.text());
    let mut conn = TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").unwrap();
    conn.send(forged.as_bytes());
    let answer = conn.answer();
    assert_eq!(answer.echoed("x-client-cert-verified"), ["NONE"]);
    assert!(!answer.text().contains("root"), "{}", answer.text());
    // Nor have what is said of it taken out (RFC 9110 §7.6.1).
    conn.send(b"GET /echo HTTP/1.1\r\nhost: a\r\nconnection: x-client-cert-verified, x_client_cert_verified\r\n\r\n");
    assert_eq!(conn.answer().echoed("x-client-cert-verified"), ["NONE"]);
}

#[test]
fn a_revoked_client_is_turned_away_with_or_without_a_ticket() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let issue = |serial: u64| {
        ca.issue_with(&["client.example"], &rcgen::KeyPair::generate().unwrap(), |params| {
            params.serial_number = Some(serial.into());
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        })
    };
    let (good, bad) = (issue(7), issue(8));
    let auth = client_of(&ca, dir.path());
    let list = replace(dir.path(), "revoked.pem", &crl(&ca, &[]));
    let proxy = proxy(&format!("certificate = {certificate}, client_auth = {{ {auth}, crl = {list:?} }}"), &origins);
    let with = |own| TlsClient::of(&ca, rustls::ALL_VERSIONS, Some(own));
    let (keeps, leaves) = (with(&good), with(&bad));
    assert!(ask(&keeps, &proxy).is_ok() && ask(&leaves, &proxy).is_ok());
    assert!(ask(&leaves, &proxy).unwrap().0.is_resumed());
    replace(dir.path(), "revoked.pem", &crl(&ca, &[8]));
    // Its ticket is worth nothing from now on.
    eventually("turned away", || ask(&leaves, &proxy).is_err().then_some(()));
    assert!(ask(&with(&bad), &proxy).is_err());
    assert!(ask(&keeps, &proxy).is_ok());
}

#[test]
fn a_list_that_has_ended_admits_nobody_and_one_of_another_authority_neither() {
    let (ca, other) = (Authority::new("test"), Authority::new("other"));
    let (dir, origins) = (tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let authorities = replace(dir.path(), "clients.pem", &(ca.pem() + &other.pem()));
    // Its end is far enough for a client to come in before.
    let list = replace(dir.path(), "revoked.pem", &crl_until(&ca, &[], from_now(4)));
    let toml =
        format!("tls = {{ certificate = {certificate}, client_auth = {{ ca = {authorities:?}, crl = {list:?} }} }}\n")
            + &app("\"round_robin\"", &origins);
    let proxy = Running::start(&toml);
    let ask = |client: &TlsClient| {
        let mut conn = client.connect(proxy.address, "shop.example.com")?;
        conn.try_get("/echo").map(|_| conn.is_resumed())
    };
    let with = |own: &Issued| TlsClient::of(&ca, rustls::ALL_VERSIONS, Some(own));
    let own = ca.issue_client("alice", &["alice.example"]);
    let (alice, stranger) = (with(&own), with(&other.issue_client("bob", &["bob.example"])));
    assert!(!ask(&alice).unwrap());
    // Who is of no list cannot be known to be good.
    assert!(ask(&stranger).is_err());
    // The end comes, and takes the ticket with it.
    eventually("refused after the end", || ask(&alice).is_err().then_some(()));
    assert!(ask(&with(&own)).is_err());
    proxy.process.says("a revocation list has expired");
    // `check` knows it, too; it is no reason not to start.
    let checked = cli(&["check", "-c", proxy.config.to_str().unwrap()]).ends(0);
    assert!(
        checked.err.contains("a revocation list has expired") || checked.out.contains("a revocation list has expired"),
        "{checked:?}"
    );
    replace(dir.path(), "revoked.pem", &(crl(&ca, &[]) + &crl(&other, &[])));
    eventually("the next list", || ask(&alice).is_ok().then_some(()));
    assert!(ask(&stranger).is_ok());
}

#[test]
fn plain_http_on_a_tls_port_is_told_so() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let proxy = proxy(&format!("certificate = {certificate}"), &origins);
    let answer = proxy.get("/echo");
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("https://"), "{}", answer.text());
    let curl = std::process::Command::new("curl")
        .args(["-sS", "-k", "--http1.1", "--max-time", "20", "--resolve"])
        .arg(format!("shop.example.com:{}:127.0.0.1", proxy.address.port()))
        .arg(format!("https://shop.example.com:{}/echo", proxy.address.port()))
        .output()
        .expect("curl is installed");
    assert!(String::from_utf8_lossy(&curl.stdout).contains("x-forwarded-proto"), "{curl:?}");
    eventually("counted", || {
        let failed = proxy.metric("evenkeel_tls_handshake_failures_total", &["plain_http"]);
        (failed == 1.0 && proxy.metric("evenkeel_tls_handshakes_total", &["full"]) == 1.0).then_some(())
    });
}

#[test]
fn servers_and_browsers_are_told_of_tls() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let keys = format!(
        "tls = {{ certificate = {certificate} }}\nforwarded = \"both\"\n\
         hsts = {{ max_age = \"365d\", include_subdomains = true }}\n"
    );
    let proxy = Proxy::start(&(keys + &app("\"sticky_cookie\"", &origins)));
    let mut conn = TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").unwrap();
    let answer = conn.get("/echo");
    assert_eq!(answer.echoed("x-forwarded-proto"), ["https"]);
    assert!(answer.echoed("forwarded")[0].ends_with("proto=https"), "{}", answer.text());
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000; includeSubDomains"));
    assert!(answer.header("set-cookie").unwrap().contains("; Secure"), "{:?}", answer.headers);
    conn.send(b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n");
    let refused = conn.answer();
    assert!(refused.status >= 400);
}

#[test]
fn requests_in_clear_are_sent_to_https() {
    let origins = origins(1);
    let of = |keys: &str| Proxy::start(&(format!("{keys}\n") + &app("\"round_robin\"", &origins)));
    let proxy = of("redirect_to_https = true\ntrusted_proxies = [\"127.0.0.1\"]");
    let ask = |proxy: &Proxy, head: &str| {
        let mut conn = proxy.raw();
        conn.send(format!("{head}\r\n\r\n").as_bytes());
        conn.answer()
    };
    let answer = ask(&proxy, "GET /a%20b/?q=1 HTTP/1.1\r\nhost: Shop.example.com:8080");
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://shop.example.com/a%20b/?q=1")));
    assert_eq!(answer.reason(), Some("https_required"));
    // As a proxy in front says, this client has TLS already; and an authority asks in clear.
    assert_eq!(ask(&proxy, "GET /echo HTTP/1.1\r\nhost: a\r\nx-forwarded-proto: https").status, 200);
    assert_ne!(ask(&proxy, "GET /.well-known/acme-challenge/x HTTP/1.1\r\nhost: a").status, 308);
    assert_eq!(ask(&proxy, "GET /.well-known/acme-challenge/../../x HTTP/1.1\r\nhost: a").status, 308);
    let other = of("redirect_to_https = { port = 8443, status = 301, acme = false }");
    let answer = ask(&other, "GET /.well-known/acme-challenge/x HTTP/1.1\r\nhost: [::1]:80");
    let location = Some("https://[::1]:8443/.well-known/acme-challenge/x");
    assert_eq!((answer.status, answer.header("location")), (301, location));
}

#[test]
fn a_certificate_for_development() {
    let (dir, origins) = (tempfile::tempdir().unwrap(), origins(1));
    let served = || {
        let keys = format!("state_dir = {:?}\ntls = \"self_signed\"\n", dir.path());
        let proxy = Proxy::start(&(keys + &app("\"round_robin\"", &origins)));
        let address = proxy.address.to_string();
        let said = std::process::Command::new("openssl")
            .args(["s_client", "-connect", &address, "-servername", "localhost"])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("openssl is installed");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        said.split("-----BEGIN CERTIFICATE-----").nth(1).unwrap_or_else(|| panic!("{said}"))[..500].to_owned()
    };
    assert_eq!(served(), served(), "kept in the state directory");
}

#[test]
fn a_burst_of_handshakes_does_not_hold_others_up() {
    const BURST: usize = 500;
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let keys = format!("cores = 1\ntls = {{ certificate = {certificate}, tickets = \"off\" }}\n");
    let proxy = Proxy::start(&(keys + &app("\"round_robin\"", &origins)));
    let mut kept = TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").unwrap();
    kept.get("/echo");
    let config = std::sync::Arc::new(TlsClient::trusting(&ca).config());
    let hello = |_| {
        let name = rustls::pki_types::ServerName::try_from("shop.example.com").unwrap();
        let mut session = rustls::ClientConnection::new(std::sync::Arc::clone(&config), name).unwrap();
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes).unwrap();
        (session, bytes)
    };
    let hellos: Vec<_> = (0..BURST).map(hello).collect();
    // They arrive together, and are taken to their end by somebody else.
    let sent: Vec<_> = hellos
        .into_iter()
        .map(|(session, bytes)| {
            let mut socket = std::net::TcpStream::connect(proxy.address).unwrap();
            socket.write_all(&bytes).unwrap();
            (session, socket)
        })
        .collect();
    let crowd = std::thread::spawn(move || {
        for (mut session, mut socket) in sent {
            while session.is_handshaking() || session.wants_write() {
                session.complete_io(&mut socket).unwrap();
            }
        }
    });
    let (began, mut times) = (Instant::now(), Vec::new());
    while !crowd.is_finished() || times.is_empty() {
        let asked = Instant::now();
        kept.get("/echo");
        times.push(asked.elapsed());
    }
    let whole = began.elapsed();
    crowd.join().unwrap();
    times.sort_unstable();
    let (middle, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{} answers in {whole:?} of {BURST} handshakes: half within {middle:?}, slowest {slowest:?}", times.len());
    let full = (BURST + 1) as f64;
    eventually("all handshakes", || (proxy.metric("evenkeel_tls_handshakes_total", &["full"]) == full).then_some(()));
    // Whoever is made to wait for all of them waits for nearly the whole time.
    assert!(slowest < whole / 2, "{slowest:?} of {whole:?}");
}
