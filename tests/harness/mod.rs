//! What black-box tests are made of: a proxy, origins, a client, and waiting for events.
//!
//! Everything is real: sockets on port 0, the whole engine, the toy origin. A test names its
//! configuration in TOML, with `{a}`, `{b}`… standing for the addresses of its origins; the listener
//! and the admin socket are added here.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part of the harness")]
#![allow(unreachable_pub, reason = "a module of each test file, not an interface")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod api;
mod app_server;
pub mod browser;
mod client;
mod crowd;
mod fake;
mod h2_server;
mod held;
mod http2;
pub mod mixed_load;
mod name_server;
mod process;
mod proxied_front;
mod raw;
pub mod tls;
mod tls_front;
pub mod upgrading;
mod websocket;

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use api::Api;
pub use app_server::{Service, origin_process, reserved};
pub use client::{Answer, Client, admin, read_answer, request};
pub use crowd::Crowd;
pub use evenkeel::control::api::{Refusal, Reloaded, ServerStatus, Status};
pub use evenkeel::lab::origin::{Origin, Served};
pub use fake::{Fake, Refusing, answer, forwarded, full_backlog, full_backlog_at, read_head};
pub use h2_server::{Asked, Call, H2Server, frame, send};
pub use held::Held;
pub use http2::{
    ACK, Answer2, CONTINUATION, Client2, DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, exchange, is_reset,
};
pub use mixed_load::MixedLoad;
pub use name_server::{NameServer, local};
pub use process::{Done, Process, Running, Signal, cli, cli_with_file, command, executable, run, under};
pub use proxied_front::{Introduced, ProxiedFront};
pub use raw::{Raw, raw};
pub use tls_front::{Shaken, TlsFront};
pub use websocket::WebSocket;

/// The longest that anything is waited for. A test that waits for long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What needs a program that a machine may lack, which is said; where everything is to be tried that is a failure.
///
/// # Panics
/// When it is missing and `EVENKEEL_TEST_ALL` is set, as by `tests/run`.
pub fn installed<T>(found: Option<T>, program: &str) -> Option<T> {
    if found.is_none() {
        assert!(std::env::var_os("EVENKEEL_TEST_ALL").is_none(), "{program} is not installed");
        println!("not tried: {program} is not installed");
    }
    found
}

/// A running evenkeel in this process.
pub struct Proxy {
    evenkeel: Option<evenkeel::engine::Evenkeel>,
    pub address: SocketAddr,
    pub config: PathBuf,
    api: Api,
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

/// The requests that an origin was given, checks aside: those go on beside whatever a test does.
pub fn asked(origin: &Origin) -> Vec<Served> {
    origin.requests().into_iter().filter(|request| request.path() != "/healthz").collect()
}

/// `[[upstream.NAME.server]]` tables for origins, named like them.
pub fn servers(upstream: &str, origins: &[Origin]) -> String {
    let table = |o: &Origin| {
        format!("[[upstream.{upstream}.server]]\nname = \"{}\"\naddress = \"{}\"\n", o.name(), o.address())
    };
    origins.iter().map(table).collect()
}

/// One upstream with a policy; `more` is further keys of its table. It is not checked unless `more`
/// says how, so that a busy machine changes nothing about who is healthy; and who returns has its whole
/// share at once.
pub fn upstream(name: &str, policy: &str, more: &str, origins: &[Origin]) -> String {
    let check = if more.contains("check =") { "" } else { "check = \"off\"\n" };
    let slow_start = if more.contains("slow_start =") { "" } else { "slow_start = \"off\"\n" };
    format!("[upstream.{name}]\npolicy = {policy}\n{check}{slow_start}{more}\n{}", servers(name, origins))
}

/// One upstream `app` of these origins with a policy, checked fast.
pub fn app(policy: &str, origins: &[Origin]) -> String {
    format!(
        "[upstream.app]\npolicy = {policy}\nslow_start = \"off\"\n\
         check = {{ http = {{ path = \"/healthz\", interval = \"100ms\", timeout = \"5s\" }} }}\n{}",
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
        let proxy = Self::launch(toml);
        assert!(proxy.ready());
        proxy
    }

    /// Waits until every server was checked; false when it stopped before.
    pub fn ready(&self) -> bool {
        self.evenkeel.as_ref().is_some_and(evenkeel::engine::Evenkeel::ready)
    }

    /// Starts a proxy and waits for nothing.
    pub fn launch(toml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (socket, config) = (dir.path().join("admin.sock"), dir.path().join("evenkeel.toml"));
        let text = Self::complete(toml, "127.0.0.1:0", &socket);
        std::fs::write(&config, &text).unwrap();
        let loaded = evenkeel::config::load(&config).unwrap_or_else(|report| panic!("{report}"));
        let options = evenkeel::engine::Options { config: Some(config.clone()), ..Default::default() };
        let evenkeel = evenkeel::engine::start(loaded, options).unwrap_or_else(|error| panic!("{error}"));
        let address = evenkeel.addresses()[0].1;
        Self { evenkeel: Some(evenkeel), address, config, api: Api::new(socket), text, _dir: dir }
    }

    /// One upstream of these origins with a policy, behind one listener.
    pub fn of(policy: &str, origins: &[Origin]) -> Self {
        Self::start(&app(policy, origins))
    }

    pub(crate) fn complete(toml: &str, bind: &str, socket: &std::path::Path) -> String {
        let tables = if toml.starts_with('[') { 0 } else { toml.find("\n[").map_or(toml.len(), |at| at + 1) };
        let (keys, tables) = toml.split_at(tables);
        let of_the_process =
            |line: &&str| ["cores =", "state_dir =", "max_connections ="].iter().any(|key| line.starts_with(key));
        let (mut top, listener): (Vec<&str>, Vec<&str>) = keys.lines().partition(of_the_process);
        if !keys.contains("cores =") {
            top.push("cores = 2");
        }
        let (top, listener) = (top.join("\n"), listener.join("\n"));
        let listener = if toml.contains("[[listener]]") {
            listener
        } else {
            format!("[[listener]]\nname = \"main\"\nbind = \"{bind}\"\n{listener}\n")
        };
        format!("{top}\n[admin]\nsocket = {socket:?}\n{listener}\n{tables}")
    }

    /// Puts another configuration in its place and reloads it.
    pub fn reload(&self, toml: &str) -> Result<Reloaded, Refusal> {
        // The name stays `main` and port 0 is only resolved once: the address is kept.
        std::fs::write(&self.config, Self::complete(toml, "127.0.0.1:0", self.api.socket())).unwrap();
        self.reload_file()
    }

    /// The configuration as it was written.
    pub fn text(&self) -> &str {
        &self.text
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

    /// A tunnel to `/tunnel`, which echoes, and the answer that opened it.
    #[track_caller]
    pub fn tunnel(&self) -> (Raw, Answer) {
        let mut conn = self.raw();
        conn.send(b"GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: my-proto\r\n\r\n");
        let answer = conn.answer();
        assert_eq!(answer.status, 101, "{}", answer.text());
        (conn, answer)
    }

    /// A client with a sticky cookie for `server`.
    #[track_caller]
    pub fn pinned_to(&self, server: &str) -> Client {
        for _ in 0..50 {
            let answer = self.get("/echo");
            if answer.server() == server {
                return self.client().with("cookie", &answer.cookie("evenkeel").unwrap());
            }
        }
        panic!("no new client came to {server}");
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

impl Deref for Proxy {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
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
