//! Nothing that the proxy says to a client carries a server's address, host name, socket path or name.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use evenkeel::error::{Kind, Side};
use harness::{Fake, Proxy, Refusing, eventually, full_backlog_at, local, read_head};
use serde_json::json;

/// One way to fail, and the reasons that a client may be given for it.
struct Failure {
    reasons: &'static [&'static str],
    /// Address of the server as it is configured.
    address: String,
    /// Further keys of the upstream.
    more: &'static str,
    request: &'static str,
}

/// What holds the servers of the failures.
#[derive(Default)]
struct Held {
    fakes: Vec<Fake>,
    refusing: Vec<Refusing>,
    backlog: Vec<(std::net::TcpListener, Vec<std::net::TcpStream>)>,
}

const GET: &str = "GET /path HTTP/1.1\r\nhost: a\r\n";
const POST: &str = "POST /path HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n";

impl Held {
    /// A server that says this and closes, or says nothing for long.
    fn saying(&mut self, answer: &'static [u8], then_wait: bool) -> String {
        let fake = Fake::start(move |_, mut conn| {
            if !read_head(&mut conn).is_empty() {
                let _ = conn.try_send(answer);
                if then_wait {
                    // Until the proxy gives it up.
                    let _ = conn.rest();
                }
            }
        });
        self.fakes.push(fake);
        self.fakes.last().unwrap().address().to_string()
    }

    /// A server that speaks first, and something else.
    fn greeting(&mut self, words: &'static [u8]) -> String {
        self.fakes.push(Fake::start(move |_, mut conn| {
            let _ = conn.try_send(words);
            let _ = conn.rest();
        }));
        self.fakes.last().unwrap().address().to_string()
    }

    fn failures(&mut self) -> Vec<Failure> {
        let refusing = Refusing::new();
        let refused = refusing.address.to_string();
        self.refusing.push(refusing);
        let backlog = full_backlog_at(SocketAddr::from((local(1), 0)));
        let silent = backlog.0.local_addr().unwrap().to_string();
        self.backlog.push(backlog);
        let failure = |reasons, address, more, request| Failure { reasons, address, more, request };
        vec![
            failure(&["connect_refused"], refused, "", GET),
            failure(&["connect_failed"], "unix:/run/secret-place/app.sock".to_owned(), "", GET),
            failure(&["connect_timeout"], silent, "timeouts = { connect = \"200ms\" }", GET),
            failure(&["unresolved", "no_server"], "secret-host.invalid:80".to_owned(), "", GET),
            failure(&["reset"], self.saying(b"", false), "", GET),
            failure(&["bad_answer"], self.saying(b"NONSENSE\r\n\r\n", false), "", GET),
            failure(&["bad_answer"], self.saying(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", true), "", GET),
            failure(&["first_byte_timeout"], self.saying(b"", true), "timeouts = { first_byte = \"200ms\" }", GET),
            failure(&["request_timeout"], self.saying(b"", true), "timeouts = { request = \"200ms\" }", GET),
            failure(
                &["between_bytes_timeout", ""],
                self.saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", true),
                "timeouts = { between_bytes = \"200ms\" }",
                GET,
            ),
            failure(&["upstream_tls"], self.greeting(b"220 no TLS here\r\n"), "tls = true", GET),
            failure(&["truncated", ""], self.saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", false), "", GET),
            failure(&["cut"], self.saying(b"", true), "", GET),
            failure(&["body_timeout"], self.saying(b"", true), "", POST),
            failure(&["no_route"], self.saying(b"", true), "", "GET /elsewhere HTTP/1.1\r\nhost: a\r\n"),
            failure(&["bad_request"], self.saying(b"", true), "", "GET /path HTTP/1.1\r\nhost: a\r\nhost: b\r\n"),
            failure(&["method_refused"], self.saying(b"", true), "", "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n"),
            failure(
                &["expectation_failed"],
                self.saying(b"", true),
                "",
                "GET /path HTTP/1.1\r\nhost: a\r\nexpect: x\r\n",
            ),
        ]
    }
}

/// What must not be seen of a server at `address`.
fn secrets(address: &str) -> Vec<String> {
    let mut secrets = vec![address.to_owned(), "very-secret-name".to_owned(), "very-secret-upstream".to_owned()];
    match address.parse::<SocketAddr>() {
        Ok(address) => secrets.extend([address.ip().to_string(), format!(":{}", address.port())]),
        Err(_) => secrets.extend(["secret-place".to_owned(), "secret-host".to_owned(), ".sock".to_owned()]),
    }
    secrets
}

#[test]
fn nothing_the_proxy_says_carries_a_servers_address() {
    let mut held = Held::default();
    let mut seen = BTreeSet::new();
    for failure in held.failures() {
        for accept in ["application/json", "text/html"] {
            let toml = format!(
                "cores = 1\nbetween_bytes = \"300ms\"\n[[route]]\npath = \"/path\"\nupstream = \"very-secret-upstream\"\n\
                 [upstream.very-secret-upstream]\ncheck = \"off\"\nretry = {{ attempts = 0 }}\n{}\n\
                 [[upstream.very-secret-upstream.server]]\nname = \"very-secret-name\"\naddress = \"{}\"\n",
                failure.more, failure.address
            );
            let proxy = Proxy::start(&toml);
            let mut conn = proxy.raw();
            conn.send(format!("{}accept: {accept}\r\nconnection: close\r\n\r\n", failure.request).as_bytes());
            if failure.reasons.contains(&"cut") {
                let in_flight = || proxy.server("very-secret-upstream", "very-secret-name").in_flight;
                eventually("it is in flight", || (in_flight() == 1).then_some(()));
                let change = json!({ "admin": "disabled", "in_flight": "0s" });
                proxy.change("very-secret-upstream", "very-secret-name", &change);
            }
            let said = conn.rest();
            let reason = said.split("evenkeel;desc=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("");
            assert!(failure.reasons.contains(&reason), "{:?} {}: {said:?}", failure.reasons, failure.address);
            seen.insert(failure.reasons[0]);
            for secret in secrets(&failure.address) {
                assert!(!said.contains(&secret), "{secret} in {said:?}");
            }
        }
    }
    // What a server can do wrong must all be here, but for what only HTTP/2 servers can: their tests see
    // that the answer is made in the same way.
    let of_http2 = [Kind::StreamRefused];
    for kind in Kind::ALL.iter().filter(|kind| kind.side() == Side::Upstream && !of_http2.contains(kind)) {
        assert!(seen.contains(kind.reason()), "no failure here ends as {}", kind.reason());
    }
}
