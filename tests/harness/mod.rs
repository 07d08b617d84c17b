//! What black-box tests are made of: a proxy, origins, a client, and waiting for events.
//!
//! Everything is real: sockets on port 0, the whole engine, the toy origin. A test names its
//! configuration in TOML, with `{a}`, `{b}`… standing for the addresses of its origins; the listener
//! and the admin socket are added here.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part of the harness")]
#![allow(unreachable_pub, reason = "a module of each test file, not an interface")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod child;
mod client;
mod fake;
mod raw;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use child::Child;
pub use client::{Answer, Client, admin, request};
pub use evenkeel::control::api::{Refusal, Reloaded, ServerStatus, Status};
pub use evenkeel::lab::origin::{Origin, Served};
pub use fake::{Fake, Refusing, read_head};
pub use raw::{Raw, raw};
use serde_json::Value;

/// The longest that anything is waited for. A test that waits for long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running evenkeel in this process.
pub struct Proxy {
    evenkeel: Option<evenkeel::engine::Evenkeel>,
    pub address: SocketAddr,
    pub config: PathBuf,
    socket: PathBuf,
    text: String,
    _dir: tempfile::TempDir,
}

/// Waits until `check` gives something.
#[track_caller]
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        // There is no event to wait for: the state is another process's, or another thread's.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Origins named a, b, c…
pub fn origins(count: usize) -> Vec<Origin> {
    (0..count).map(|i| Origin::start(&char::from(b'a' + i as u8).to_string()).unwrap()).collect()
}

/// `[[upstream.NAME.server]]` tables for origins, named like them.
pub fn servers(upstream: &str, origins: &[Origin]) -> String {
    let table = |o: &Origin| {
        format!("[[upstream.{upstream}.server]]\nname = \"{}\"\naddress = \"{}\"\n", o.name(), o.address())
    };
    origins.iter().map(table).collect()
}

/// One upstream `app` of these origins with a policy, checked fast.
pub fn app(policy: &str, origins: &[Origin]) -> String {
    format!(
        "[upstream.app]\npolicy = {policy}\n\
         check = {{ http = {{ path = \"/healthz\", interval = \"100ms\", timeout = \"90ms\" }} }}\n{}",
        servers("app", origins)
    )
}

/// One upstream `app` of one server that is never checked: what a [`Fake`] stands behind. `extra` goes
/// into the upstream's table and may open further ones.
pub fn unchecked(address: impl std::fmt::Display, extra: &str) -> String {
    format!("[upstream.app]\ncheck = \"off\"\nservers = [\"{address}\"]\n{extra}\n")
}

impl Proxy {
    /// Starts a proxy and waits until every server was checked. `toml` may begin with keys of the
    /// listener, up to the first table.
    pub fn start(toml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (socket, config) = (dir.path().join("admin.sock"), dir.path().join("evenkeel.toml"));
        let text = Self::complete(toml, "127.0.0.1:0", &socket);
        std::fs::write(&config, &text).unwrap();
        let loaded = evenkeel::config::load(&config).unwrap_or_else(|report| panic!("{report}"));
        let options = evenkeel::engine::Options { config: Some(config.clone()), ..Default::default() };
        let evenkeel = evenkeel::engine::start(loaded, options).unwrap_or_else(|error| panic!("{error}"));
        assert!(evenkeel.ready());
        let address = evenkeel.addresses()[0].1;
        Self { evenkeel: Some(evenkeel), address, config, socket, text, _dir: dir }
    }

    /// One upstream of these origins with a policy, behind one listener.
    pub fn of(policy: &str, origins: &[Origin]) -> Self {
        Self::start(&app(policy, origins))
    }

    pub(crate) fn complete(toml: &str, bind: &str, socket: &std::path::Path) -> String {
        let first = if toml.starts_with('[') { Some(0) } else { toml.find("\n[").map(|end| end + 1) };
        let (listener, rest) = first.map_or((toml, ""), |at| toml.split_at(at));
        let cores = if toml.contains("cores =") { "" } else { "cores = 2\n" };
        let (top, listener) = if listener.contains("cores =") { (listener, "") } else { ("", listener) };
        let listener = if toml.contains("[[listener]]") {
            String::new()
        } else {
            format!("[[listener]]\nname = \"main\"\nbind = \"{bind}\"\n{listener}\n")
        };
        format!("{cores}{top}\n[admin]\nsocket = {socket:?}\n{listener}{rest}")
    }

    /// Puts another configuration in its place and reloads it.
    pub fn reload(&self, toml: &str) -> Result<Reloaded, Refusal> {
        // The name stays `main` and port 0 is only resolved once: the address is kept.
        std::fs::write(&self.config, Self::complete(toml, "127.0.0.1:0", &self.socket)).unwrap();
        self.reload_file()
    }

    /// Reloads the file as it is.
    pub fn reload_file(&self) -> Result<Reloaded, Refusal> {
        let (status, body) = self.admin("POST", "/reload", "");
        if status == 200 {
            Ok(serde_json::from_str(&body).unwrap())
        } else {
            Err(serde_json::from_str(&body).unwrap_or_else(|e| panic!("{status} {body}: {e}")))
        }
    }

    /// The configuration as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        Client::to(self.address)
    }

    /// One GET over a new connection.
    pub fn get(&self, path: &str) -> Answer {
        self.client().get(path)
    }

    /// A raw connection.
    pub fn raw(&self) -> Raw {
        Raw::to(self.address)
    }

    /// A call of the admin API: status and body.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        admin(&self.socket, method, path, body)
    }

    pub fn status(&self) -> Status {
        let (status, body) = self.admin("GET", "/status", "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// One server's status.
    pub fn server(&self, upstream: &str, name: &str) -> ServerStatus {
        let status = self.status();
        let upstream = status.upstreams.iter().find(|u| u.name == upstream).expect("the upstream");
        upstream.servers.iter().find(|s| s.name == name).expect("the server").clone()
    }

    /// Changes a server by the admin API.
    pub fn change(&self, upstream: &str, server: &str, change: &Value) {
        let path = format!("/upstreams/{upstream}/servers/{server}");
        let (status, body) = self.admin("PUT", &path, &change.to_string());
        assert_eq!(status, 200, "{body}");
    }

    /// The samples of `/metrics`, by name with labels.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, body) = self.admin("GET", "/metrics", "");
        assert_eq!(status, 200, "{body}");
        let sample = |line: &str| line.rsplit_once(' ').map(|(n, v)| (n.to_owned(), v.parse().unwrap()));
        body.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
    }

    /// The sum of all samples whose name begins with `name` and whose labels hold every one of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let is = |key: &str| key.split('{').next() == Some(name) && labels.iter().all(|label| key.contains(label));
        self.metrics().iter().filter(|(key, _)| is(key)).map(|(_, value)| value).sum()
    }

    /// Begins to drain the process.
    pub fn stop(&self) {
        if let Some(evenkeel) = &self.evenkeel {
            evenkeel.stop();
        }
    }

    /// Waits until the process has ended.
    pub fn wait(mut self) -> evenkeel::control::Outcome {
        self.evenkeel.take().unwrap().wait()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(evenkeel) = self.evenkeel.take() {
            evenkeel.stop_now();
            let _ = evenkeel.wait();
        }
    }
}
