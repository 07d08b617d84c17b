//! Programs that people use, against evenkeel: curl, h2load, openssl, a WebSocket library. What a test of
//! our own making gets wrong on both sides, they do not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::io::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use harness::tls::{Authority, TlsClient};
use harness::{Fake, Origin, PATIENCE, Proxy, app, origins, unchecked};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tokio_tungstenite::tungstenite::{self, Message};

const RR: &str = "\"round_robin\"";
const HOST: &str = "shop.example.com";

/// A program, or what to install to have it.
fn tool(program: &str, package: &str) -> Command {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    assert!(there, "`{program}` is not here: install {package} (tests/run does)");
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

fn curl() -> Command {
    let mut curl = tool("curl", "curl");
    curl.args(["--silent", "--show-error", "--max-time", &PATIENCE.as_secs().to_string()]);
    curl
}

/// Runs a command that has to succeed; what it wrote.
#[track_caller]
fn out(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned());
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout + &stderr
}

fn url(proxy: &Proxy, path: &str) -> String {
    format!("http://{}{path}", proxy.address)
}

/// evenkeel under TLS, and what its clients trust.
struct Secure {
    proxy: Proxy,
    ca: Authority,
    ca_file: PathBuf,
    _dir: tempfile::TempDir,
    _origins: Vec<Origin>,
}

fn secure() -> Secure {
    let (ca, dir, origins) = (Authority::new("test"), tempfile::tempdir().unwrap(), origins(2));
    let certificate = ca.issue(&[HOST]).toml(dir.path(), "shop");
    let proxy = Proxy::start(&format!("tls = {{ certificate = {certificate} }}\n{}", app(RR, &origins)));
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca.pem()).unwrap();
    Secure { proxy, ca, ca_file, _dir: dir, _origins: origins }
}

impl Secure {
    fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.proxy.address.port())
    }

    fn curl(&self) -> Command {
        let mut curl = curl();
        let to = format!("{HOST}:{}:127.0.0.1", self.proxy.address.port());
        curl.args(["--resolve", &to, "--cacert"]).arg(&self.ca_file);
        curl
    }

    fn s_client(&self, more: &[&str]) -> Command {
        let mut openssl = tool("openssl", "openssl");
        openssl.args(["s_client", "-connect", &self.proxy.address.to_string(), "-servername", HOST]);
        openssl.args(["-verify_return_error", "-verify_hostname", HOST, "-CAfile"]).arg(&self.ca_file).args(more);
        openssl
    }
}

#[test]
fn curl_asks_over_one_connection() {
    let origins = origins(2);
    let proxy = Proxy::of(RR, &origins);
    let said = out(curl()
        .args(["--write-out", " %{http_code} %{http_version} %{num_connects}\n", "--output", "/dev/null"])
        .arg(url(&proxy, "/bytes?n=100000"))
        .args(["--output", "/dev/null"])
        .arg(url(&proxy, "/bytes?n=1")));
    assert_eq!(said, " 200 1.1 1\n 200 1.1 0\n");
    let head = out(curl().arg("--head").arg(url(&proxy, "/bytes?n=7")));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-length: 7\r\n"), "{head}");
    let old = out(curl().args(["--http1.0", "--include"]).arg(url(&proxy, "/bytes?n=3")));
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n"), "{old}");
}

/// Larger than a window of HTTP/2, and text that a compressed form of is not.
#[test]
fn curl_reads_compressed_answers_over_tls() {
    let (ca, dir) = (Authority::new("test"), tempfile::tempdir().unwrap());
    let certificate = ca.issue(&[HOST]).toml(dir.path(), "shop");
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca.pem()).unwrap();
    let text: String = (0..20_000).map(|n| format!("line {n} {:016x}\n", n * 0x9E37_79B9_7F4A_7C15_u128)).collect();
    let said = text.clone();
    let fake = Fake::answering(move |_, _, _| {
        Some(format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{said}", said.len()))
    });
    let proxy = Proxy::start(&format!(
        "tls = {{ certificate = {certificate} }}\n[[route]]\nname = \"r\"\nupstream = \"app\"\ncompress = true\n{}",
        unchecked(fake.address(), "")
    ));
    let secure = Secure { proxy, ca, ca_file, _dir: dir, _origins: Vec::new() };
    for version in ["--http1.1", "--http2"] {
        let got = out(secure.curl().args([version, "--compressed"]).arg(secure.url("/")));
        assert!(got == text, "{version}: {} bytes", got.len());
    }
    assert_eq!(secure.proxy.metric("evenkeel_responses_compressed_total", &["r"]), 2.0);
}

#[test]
fn curl_uploads() {
    let origins = origins(1);
    let proxy = Proxy::of(RR, &origins);
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(&vec![b'u'; 3_000_000]).unwrap();
    let file = file.path().to_str().unwrap();
    // Above a megabyte it waits for 100 Continue, at least for a second.
    let form =
        out(curl().args(["--data-binary", &format!("@{file}"), "--expect100-timeout", "15"]).arg(url(&proxy, "/sink")));
    assert!(form.contains("took 3000000 bytes"), "{form}");
    let chunked = out(curl()
        .args(["--upload-file", file, "--request", "POST", "--header", "transfer-encoding: chunked"])
        .arg(url(&proxy, "/sink")));
    assert!(chunked.contains("took 3000000 bytes"), "{chunked}");
    let back = curl().args(["--data-binary", &format!("@{file}")]).arg(url(&proxy, "/mirror")).output().unwrap();
    assert!(back.status.success() && back.stdout == vec![b'u'; 3_000_000]);
}

#[test]
fn curl_is_told_what_is_wrong() {
    let proxy = Proxy::start(
        "[[route]]\npath = \"/x/\"\nupstream = \"app\"\n[upstream.app]\ncheck = \"off\"\nservers = [\"127.0.0.1:1\"]\n",
    );
    let said = out(curl().args(["--write-out", "%{http_code}"]).arg(url(&proxy, "/")));
    assert!(said.contains("\"no_route\"") && said.ends_with("404"), "{said}");
    let said = out(curl().args(["--write-out", "%{http_code}"]).arg(url(&proxy, "/x/")));
    assert!(said.contains("\"connect_refused\"") && said.ends_with("502"), "{said}");
    // `--fail` ends with 22 for any error of HTTP.
    assert_eq!(curl().arg("--fail").arg(url(&proxy, "/")).status().unwrap().code(), Some(22));
}

#[test]
fn curl_sends_a_proxy_protocol_header() {
    let origins = origins(1);
    let proxy = Proxy::start(&format!("proxy_protocol = {{ from = [\"127.0.0.1\"] }}\n{}", app(RR, &origins)));
    let echo = out(curl().arg("--haproxy-protocol").arg(url(&proxy, "/echo")));
    let echo: serde_json::Value = serde_json::from_str(&echo).unwrap();
    let forwarded = echo["headers"].as_array().unwrap().iter().find(|h| h[0] == "x-forwarded-for").unwrap();
    assert_eq!(forwarded[1], "127.0.0.1");
    // Without one it is not served.
    assert!(!curl().arg(url(&proxy, "/echo")).status().unwrap().success());
}

#[test]
fn curl_under_tls() {
    let secure = secure();
    for version in [&["--tlsv1.3"][..], &["--tlsv1.2", "--tls-max", "1.2"]] {
        let said = out(secure
            .curl()
            .args(version)
            .args(["--write-out", " %{http_code} %{num_connects}"])
            .arg(secure.url("/echo")));
        assert!(said.ends_with(" 200 1"), "{version:?}: {said}");
        assert!(said.split_whitespace().collect::<String>().contains("\"x-forwarded-proto\",\"https\""), "{said}");
    }
    let elsewhere = Authority::new("somebody else");
    let file = secure.ca_file.with_file_name("elsewhere.pem");
    std::fs::write(&file, elsewhere.pem()).unwrap();
    let refused = secure.curl().arg("--cacert").arg(file).arg(secure.url("/")).status().unwrap();
    assert_eq!(refused.code(), Some(60), "curl does not know who issued the certificate");
}

#[test]
fn openssl_shakes_hands() {
    let secure = secure();
    for (version, name) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let said = out(&mut secure.s_client(&[version, "-alpn", "http/1.1"]));
        for wanted in [name, "Verify return code: 0 (ok)", "ALPN protocol: http/1.1", "X25519"] {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
    }
    // What is too old is refused.
    assert!(!secure.s_client(&["-tls1_1"]).status().unwrap().success());
}

#[test]
fn h2load_speaks_http_1() {
    let origins = origins(2);
    let proxy = Proxy::of(RR, &origins);
    let said = out(tool("h2load", "nghttp2-client")
        .args(["--h1", "-n", "2000", "-c", "20"])
        .arg(url(&proxy, "/bytes?n=1000")));
    assert!(said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    assert!(said.contains("status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
}

#[test]
fn a_web_socket_library_under_tls() {
    let secure = secure();
    let stream = TcpStream::connect(secure.proxy.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = Arc::new(TlsClient::trusting(&secure.ca).config());
    let session = ClientConnection::new(config, ServerName::try_from(HOST).unwrap()).unwrap();
    let (mut socket, answer) = tungstenite::client(format!("wss://{HOST}/ws"), StreamOwned::new(session, stream))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(answer.status(), 101);
    for message in [Message::text("hello"), Message::binary(vec![7; 1_000_000])] {
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message);
    }
    socket.close(None).unwrap();
    while let Ok(message) = socket.read() {
        assert!(message.is_close(), "{message:?}");
    }
}

#[test]
fn curl_speaks_http_2() {
    let origins = origins(2);
    let proxy = Proxy::of(RR, &origins);
    let wrote = ["--write-out", " %{http_code} %{http_version} %{num_connects}\n"];
    // One request for each connection: in clear, some versions of curl cannot use one again, whoever serves.
    for path in ["/bytes?n=1000000", "/echo"] {
        let known = ["--http2-prior-knowledge", "--output", "/dev/null"];
        assert_eq!(out(curl().args(known).args(wrote).arg(url(&proxy, path))), " 200 2 1\n");
    }
    let body = "x".repeat(100_000);
    let sent = out(curl().args(["--http2-prior-knowledge", "--data-binary", &body]).arg(url(&proxy, "/sink")));
    assert!(sent.contains("took 100000 bytes"), "{sent}");
    let secure = secure();
    let mut twice = secure.curl();
    twice.args(["--http2"]).args(wrote).args(["--output", "/dev/null", &secure.url("/bytes?n=1000000")]);
    assert_eq!(out(twice.args(["--output", "/dev/null", &secure.url("/echo")])), " 200 2 1\n 200 2 0\n");
}

#[test]
fn h2load_speaks_http_2() {
    let origins = origins(2);
    let proxy = Proxy::of(RR, &origins);
    let secure = secure();
    let all = ["-n", "3000", "-c", "10", "-m", "20"];
    for command in [
        tool("h2load", "nghttp2-client").args(all).arg(url(&proxy, "/bytes?n=1000")),
        tool("h2load", "nghttp2-client")
            .args(all)
            .arg(format!("--connect-to={}", secure.proxy.address))
            .arg(format!("https://{HOST}/bytes?n=20000")),
    ] {
        let said = out(command);
        assert!(said.contains("3000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
        assert!(said.contains("status codes: 3000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
    }
}

#[test]
fn openssl_negotiates_http_2() {
    let secure = secure();
    let said = out(&mut secure.s_client(&["-alpn", "h2,http/1.1"]));
    assert!(said.contains("ALPN protocol: h2"), "{said}");
}
