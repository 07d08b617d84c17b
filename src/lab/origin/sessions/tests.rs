use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::server::{Options, Server};
use super::*;

/// A server of its own, until it is dropped.
struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(keep: Keep) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), keep).unwrap()
    }

    fn start_at(at: SocketAddr, keep: Keep) -> io::Result<Self> {
        let mut options = Options::new(at, "o");
        options.sessions = SessionOptions { keep, size: 1000, ..SessionOptions::default() };
        let server = Server::bind(options)?;
        let address = server.address();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        Ok(Self { address, stop: Some(stop), task })
    }

    async fn end(mut self) -> SocketAddr {
        let _ = self.stop.take().unwrap().send(());
        (&mut self.task).await.unwrap();
        self.address
    }

    async fn ask(&self, method: &str, target: &str, sid: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{method} {target} HTTP/1.1\r\nhost: o\r\nconnection: close\r\ncookie: sid={sid}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn login(&self, user: &str) -> String {
        let answer = self.ask("GET", &format!("/login?user={user}"), "").await;
        let line = answer.lines().find(|line| line.starts_with("set-cookie: sid=")).expect(&answer);
        line["set-cookie: sid=".len()..].split(';').next().unwrap().to_owned()
    }

    async fn status(&self, method: &str, target: &str, sid: &str) -> u16 {
        self.ask(method, target, sid).await.split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn held(&self) -> serde_json::Value {
        let answer = self.ask("GET", "/sessions", "").await;
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// Until its `/healthz`, or what a session gets, says so.
    async fn until(&self, target: &str, sid: &str, status: u16) {
        let began = Instant::now();
        while self.status("GET", target, sid).await != status {
            assert!(began.elapsed() < Duration::from_secs(20), "{target} never said {status}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn every_replica_knows_what_one_was_told_and_a_new_one_gets_a_copy() {
    let one = Running::start(Keep::Replicated(Vec::new()));
    one.until("/healthz", "", 200).await;
    let early = one.login("anna").await;
    let two = Running::start(Keep::Replicated(vec![one.address]));
    two.until("/healthz", "", 200).await;
    assert_eq!(two.status("GET", "/count", &early).await, 200, "copied before it was ready");
    // It needs to know one of them, and they follow it.
    let late = two.login("otto").await;
    one.until("/count", &late, 200).await;
    let three = Running::start(Keep::Replicated(vec![one.address, two.address]));
    three.until("/healthz", "", 200).await;
    assert_eq!(three.status("GET", "/count", &late).await, 200);
    let held = three.held().await;
    assert_eq!((held["sessions"].as_u64(), held["peers"].as_u64()), (Some(2), Some(2)), "{held}");
    assert!(held["bytes"].as_u64() > Some(2000), "{held}");
    // What was ended at one is ended everywhere, and stays so for one that comes later.
    assert_eq!(three.status("POST", "/sessions/revoke?user=anna", "").await, 200);
    for server in [&one, &two, &three] {
        server.until("/count", &early, 401).await;
        assert_eq!(server.status("GET", "/count", &late).await, 200);
    }
    let sent = two.held().await["sent_bytes"].as_u64().unwrap();
    assert!(sent > 2 * 1000, "a copy and a write: {sent}");
    let again = Running::start_at(two.end().await, Keep::Replicated(vec![one.address, three.address])).unwrap();
    again.until("/healthz", "", 200).await;
    assert_eq!(again.status("GET", "/count", &late).await, 200);
    assert_eq!(again.status("GET", "/count", &early).await, 401);
    // The others have found it again: they see what it writes.
    let newest = again.login("emma").await;
    one.until("/count", &newest, 200).await;
    three.until("/count", &newest, 200).await;
}

#[tokio::test]
async fn memory_is_one_servers_own_and_what_is_not_kept_is_believed() {
    let (one, two) = (Running::start(Keep::Memory), Running::start(Keep::Memory));
    let sid = one.login("anna").await;
    assert_eq!(two.status("GET", "/count", &sid).await, 401);
    assert_eq!(two.status("POST", "/sessions/revoke?user=anna", "").await, 200);
    assert_eq!(one.status("GET", "/count", &sid).await, 200, "nobody told it");
    assert_eq!(one.status("POST", "/sessions/revoke?user=anna", "").await, 200);
    assert_eq!(one.status("GET", "/count", &sid).await, 401);
    assert_eq!(one.status("GET", "/sessions/revoke?user=anna", "").await, 405);
    assert_eq!(one.status("POST", "/sessions/revoke", "").await, 400);
    assert_eq!(one.status("GET", "/sessions/copy", "").await, 426, "it does not replicate");
    let short = one.ask("GET", "/login?user=otto&life_ms=0", "").await;
    let short = short.split("sid=").nth(1).unwrap().split(';').next().unwrap();
    assert_eq!(one.status("GET", "/count", short).await, 401, "over when it began");
    let nothing = Running::start(Keep::Nothing);
    assert_eq!(nothing.status("GET", "/count", "whatever").await, 200);
    assert_eq!(nothing.status("GET", "/count", &nothing.login("anna").await).await, 200);
}

#[tokio::test]
async fn a_token_is_good_everywhere_and_nobody_can_take_it_away() {
    let key = || Keep::Token(b"k".to_vec());
    let (one, two, foreign) =
        (Running::start(key()), Running::start(key()), Running::start(Keep::Token(b"x".to_vec())));
    let sid = one.login("anna").await;
    assert_eq!(two.status("GET", "/count", &sid).await, 200);
    assert_eq!(foreign.status("GET", "/count", &sid).await, 401);
    assert_eq!(one.status("POST", "/sessions/revoke?user=anna", "").await, 409);
    assert_eq!(two.status("GET", "/count", &sid).await, 200);
    assert_eq!(one.held().await["sessions"], 0);
}

/// A Redis of the test's own.
struct Redis(Child);

impl Redis {
    fn start(socket: &Path) -> Option<Self> {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(socket);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let redis = Self(child);
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where redis-server is installed, as `tests/run` sees to.
#[tokio::test]
async fn a_store_knows_for_all_servers_and_without_it_nobody_is_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("redis.sock");
    let Some(redis) = Redis::start(&socket) else {
        assert!(std::env::var_os("EVENKEEL_TEST_ALL").is_none(), "redis-server is not installed");
        println!("not tried: there is no redis-server here");
        return;
    };
    let store = || Keep::Store(StoreAddress::Unix(socket.clone()));
    let (one, two) = (Running::start(store()), Running::start(store()));
    let sid = one.login("anna").await;
    let other = one.login("otto").await;
    for visit in 1..=3 {
        let server = if visit % 2 == 0 { &one } else { &two };
        let answer = server.ask("GET", "/count", &sid).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{visit}\n")), "{answer}");
    }
    assert_eq!(one.status("GET", "/count", "unknown").await, 401);
    let restarted = Running::start_at(one.end().await, store()).unwrap();
    assert_eq!(restarted.status("GET", "/count", &sid).await, 200, "it was not in its memory");
    let ended = restarted.ask("POST", "/sessions/revoke?user=anna", "").await;
    assert!(ended.ends_with("1 sessions of anna ended\n"), "{ended}");
    assert_eq!(two.status("GET", "/count", &sid).await, 401);
    assert_eq!(two.status("GET", "/count", &other).await, 200);
    drop(redis);
    let answer = two.ask("GET", "/count", &other).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("this cannot be answered: the store"), "{answer}");
}

#[test]
fn places_of_stores_are_read_and_shown() {
    for place in ["127.0.0.1:6379", "[::1]:1", "unix:/run/redis.sock"] {
        assert_eq!(place.parse::<StoreAddress>().unwrap().to_string(), place);
    }
    for wrong in ["", "unix:", "localhost:6379", "redis://x"] {
        assert!(wrong.parse::<StoreAddress>().unwrap_err().contains("is no place of a store"), "{wrong}");
    }
}
