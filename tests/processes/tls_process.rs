//! TLS of the real binary: what it says of certificate files, sessions that outlive a process, and what
//! clients of HTTP/2 are asked and told.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::path::Path;

use harness::tls::{Authority, Issued, TlsClient, from_now, replace};
use harness::*;

/// What `check` has to say of a listener with these certificates, and its exit code.
fn check(certificate: &str) -> Done {
    let dir = tempfile::tempdir().unwrap();
    let config = replace(
        dir.path(),
        "evenkeel.toml",
        &format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\ntls = {{ certificate = {certificate} }}\n\
             [upstream.app]\nservers = [\"127.0.0.1:9\"]\n"
        ),
    );
    cli(&["check", "-c", config.to_str().unwrap()])
}

/// A certificate of `ca` for that name that is good from and until so many seconds from now.
fn lasting(ca: &Authority, name: &str, from: i64, until: i64) -> Issued {
    ca.issue_with(&[name], &rcgen::KeyPair::generate().unwrap(), |params| {
        (params.not_before, params.not_after) = (from_now(from).into(), from_now(until).into());
    })
}

#[track_caller]
fn says(done: &Done, words: &[&str]) {
    let said = done.out.clone() + &done.err;
    for word in words {
        assert!(said.contains(word), "no `{word}` in {done:?}");
    }
}

#[test]
fn what_is_wrong_with_certificate_files_is_said_with_the_way_out() {
    let (ca, dir) = (Authority::new("test"), tempfile::tempdir().unwrap());
    let one = ca.issue(&["shop.example.com"]);
    let files = |name: &str, chain: &str, key: &str| {
        Issued { chain: chain.to_owned(), key: key.to_owned(), der: one.der.clone() }.toml(dir.path(), name)
    };

    let done = check(&files("upside", &(ca.pem() + &one.chain), &one.key)).ends(3);
    says(&done, &["upside.pem", "the certificates are in the wrong order", "put the server's own certificate first"]);

    let done = check(&files("swapped", &one.key, &one.chain)).ends(3);
    says(&done, &["swapped.pem", "this is a key", "swap `chain` and `key`"]);

    // The last one is of no concern to the two before it.
    let stranger = Authority::new("stranger").pem();
    let done = check(&files("mixed", &(one.chain.clone() + &stranger), &one.key)).ends(3);
    says(&done, &["mixed.pem", "number 1 ", "was not issued by number 2 (CN=stranger)"]);

    let plain = replace(dir.path(), "plain.key", &one.key);
    let encrypted = dir.path().join("encrypted.key");
    let made = std::process::Command::new("openssl")
        .args(["pkey", "-aes256", "-passout", "pass:secret", "-in", plain.to_str().unwrap()])
        .args(["-out", encrypted.to_str().unwrap()])
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    let chain = replace(dir.path(), "encrypted.pem", &one.chain);
    let done = check(&format!("{{ chain = {chain:?}, key = {encrypted:?} }}")).ends(3);
    says(&done, &["encrypted.key: the key is encrypted", "openssl pkey -in KEY -out NEW"]);

    let (a, b) = (ca.issue(&["a.example", "b.example"]), ca.issue(&["c.example", "b.example"]));
    let done = check(&format!("[{}, {}]", a.toml(dir.path(), "a"), b.toml(dir.path(), "b"))).ends(3);
    says(&done, &["two certificates with ECDSA keys are for `b.example`", "keep one of them"]);

    // Nothing is wrong with two kinds of key.
    let rsa = ca.issue_rsa(&["a.example", "b.example"]).toml(dir.path(), "rsa");
    check(&format!("[{}, {rsa}]", a.toml(dir.path(), "a"))).ends(0);
}

#[test]
fn a_certificate_near_its_end_or_past_it_is_complained_about_and_used() {
    const DAY: i64 = 86_400;
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let list = [
        lasting(&ca, "soon.example", -DAY, 3 * DAY + 3_600).toml(dir.path(), "soon"),
        lasting(&ca, "over.example", -9 * DAY, -2 * DAY).toml(dir.path(), "over"),
        lasting(&ca, "fine.example", -DAY, 90 * DAY).toml(dir.path(), "fine"),
        lasting(&ca, "next.example", DAY, 90 * DAY).toml(dir.path(), "next"),
    ];
    let certificates = format!("[{}]", list.join(", "));
    let done = check(&certificates).ends(0);
    says(&done, &["soon.pem: the certificate expires in 3 days", "over.pem: the certificate has expired 2 days ago"]);
    says(&done, &["next.pem: the certificate is not valid yet"]);
    assert!(!(done.out + &done.err).contains("fine.pem"));

    let toml = format!("tls = {{ certificate = {certificates} }}\n") + &app("\"round_robin\"", &origins);
    let proxy = Running::start(&toml);
    let soon = proxy.process.says("this certificate expires soon");
    assert!(soon.contains("soon.pem") && soon.contains("days=3"), "{soon}");
    assert!(proxy.process.says("this certificate has expired").contains("over.pem"));
    assert!(!proxy.process.err().contains("fine.pem"));
    // Whoever does not mind is served with it, and people see it.
    TlsClient::trusting(&ca).connect(proxy.address, "soon.example").unwrap().get("/echo");
    let shown = proxy.verb(&["status"]).ends(0).out;
    let line = |file: &str| shown.lines().find(|line| line.contains(file)).unwrap().to_owned();
    assert!(line("soon.pem").ends_with(" 3") && line("over.pem").ends_with(" expired"), "{shown}");
    assert!(line("fine.pem").contains("fine.example"), "{shown}");
}

#[test]
fn a_session_is_resumed_by_another_process_with_the_same_secret_and_by_no_other() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let start = |secret: &str| {
        let toml = format!("tls = {{ certificate = {certificate} }}\n") + &app("\"round_robin\"", &origins);
        Running::with(&toml, |command| {
            command.env("EVENKEEL_TICKET_SECRETS", secret);
        })
    };
    let (one, two) = ("11111111111111111111111111111111", "22222222222222222222222222222222");
    let (first, replica, other) = (start(one), start(one), start(two));
    for version in rustls::ALL_VERSIONS {
        let client = TlsClient::of(&ca, &[version], None);
        let visit = |proxy: &Running| {
            let mut conn = client.connect(proxy.address, "shop.example.com").unwrap();
            assert_eq!(conn.get("/echo").status, 200);
            conn.is_resumed()
        };
        assert!(!visit(&first));
        assert!(visit(&replica), "{version:?}");
        assert!(!visit(&other), "{version:?}");
    }
}

/// What curl gets by HTTP/2 for `/echo` of a host: head and body.
fn curl(port: u16, scheme: &str, more: &[&str]) -> Result<String, String> {
    let speaks = if scheme == "https" { "--http2" } else { "--http2-prior-knowledge" };
    let curl = std::process::Command::new("curl")
        .args(["-sS", "-k", "-i", speaks, "--max-time", "20", "--resolve"])
        .arg(format!("shop.example.com:{port}:127.0.0.1"))
        .args(more)
        .arg(format!("{scheme}://shop.example.com:{port}/echo?q=1"))
        .output()
        .expect("curl is installed");
    let out = String::from_utf8_lossy(&curl.stdout).into_owned();
    if curl.status.success() { Ok(out) } else { Err(String::from_utf8_lossy(&curl.stderr).into_owned()) }
}

#[test]
fn http2_clients_prove_who_they_are_and_cannot_pretend() {
    let (ca, clients, dir) = (Authority::new("servers"), Authority::new("clients"), tempfile::tempdir().unwrap());
    let origins = origins(1);
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let authorities = replace(dir.path(), "clients.pem", &clients.pem());
    let alice = clients.issue_client("alice", &["alice.example"]).write(dir.path(), "alice");
    let mallory = ca.issue_client("alice", &["alice.example"]).write(dir.path(), "mallory");
    let proxy = |mode: &str| {
        let auth = format!("client_auth = {{ ca = {authorities:?}, mode = \"{mode}\" }}");
        let keys = format!("tls = {{ certificate = {certificate}, {auth} }}\nhsts = \"365d\"\n");
        Proxy::start(&(keys + &app("\"round_robin\"", &origins)))
    };
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let with = |(chain, key): &(std::path::PathBuf, std::path::PathBuf)| {
        ["--cert".to_owned(), path(chain), "--key".to_owned(), path(key)]
    };
    let forged = ["-H", "X-Client-Cert-Verified: SUCCESS", "-H", "x-client-cert-subject: CN=root"];
    let forged = [&forged[..], &["-H", "X_Client_Cert_San: DNS:root", "-H", "client-cert: :AA==:"]].concat();

    let required = proxy("required");
    let port = required.address.port();
    let own = with(&alice);
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let said = curl(port, "https", &[&own[..], &forged].concat()).unwrap();
    assert!(said.starts_with("HTTP/2 200"), "{said}");
    assert!(said.contains("strict-transport-security: max-age=31536000"), "{said}");
    assert!(said.contains("CN=alice") && said.contains("DNS:alice.example") && !said.contains("root"), "{said}");
    assert!(!said.contains(":AA==:") && said.contains("\"https\""), "{said}");
    let theirs = with(&mallory);
    let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
    assert!(curl(port, "https", &theirs).is_err());
    assert!(curl(port, "https", &[]).is_err());

    let optional = proxy("optional");
    let said = curl(optional.address.port(), "https", &forged).unwrap();
    assert!(said.starts_with("HTTP/2 200") && said.contains("\"NONE\""), "{said}");
    assert!(!said.contains("root") && !said.contains("SUCCESS") && !said.contains(":AA==:"), "{said}");
}

#[test]
fn http2_clients_in_clear_are_sent_to_https() {
    let origins = origins(1);
    let proxy = Proxy::start(&("redirect_to_https = { port = 8443 }\n".to_owned() + &app("\"round_robin\"", &origins)));
    let said = curl(proxy.address.port(), "http", &[]).unwrap();
    assert!(said.starts_with("HTTP/2 308"), "{said}");
    assert!(said.contains("location: https://shop.example.com:8443/echo?q=1"), "{said}");
    assert!(!said.contains("strict-transport-security"), "{said}");
    assert!(origins[0].requests().iter().all(|request| !request.target.contains("echo")));
}

/// Large answers leave in fewer, larger writes than HTTP/2 asks for; nothing of them may be left behind.
#[test]
fn large_and_small_answers_over_http2_arrive_whole() {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(1));
    let certificate = ca.issue(&["shop.example.com"]).toml(dir.path(), "shop");
    let proxy =
        Proxy::start(&(format!("tls = {{ certificate = {certificate} }}\n") + &app("\"round_robin\"", &origins)));
    let port = proxy.address.port();
    let plain =
        TlsClient::trusting(&ca).connect(proxy.address, "shop.example.com").unwrap().get("/bytes?n=3000000").body;
    let sizes = [1, 8_191, 8_192, 16_384, 16_385, 65_536, 70_000, 3_000_000];
    // One after the other, then all at once; slowly, so that the socket is full now and then.
    for way in [&["--limit-rate", "20M"][..], &["--parallel", "--parallel-immediate"][..]] {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", "-k", "--http2", "--max-time", "20"]).args(way);
        curl.args(["--resolve", &format!("shop.example.com:{port}:127.0.0.1")]);
        for size in sizes {
            let file = dir.path().join(size.to_string());
            curl.arg("-o").arg(&file).arg(format!("https://shop.example.com:{port}/bytes?n={size}"));
        }
        let done = curl.output().expect("curl is installed");
        assert!(done.status.success(), "{way:?}: {done:?}");
        for size in sizes {
            let file = dir.path().join(size.to_string());
            assert!(std::fs::read(&file).unwrap() == plain[..size], "{way:?}: {size}");
            std::fs::remove_file(file).unwrap();
        }
    }
}
