//! The admin API over its real sockets, asked with raw bytes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::config::plan::{AdminPlan, Plan};
use crate::control::api::{Refusal, Reloaded, ServerStatus, Status};
use crate::control::testing::{Fixture, eventually, fast_check, member, nobody, plan, start, try_start, upstream};
use crate::control::{CommandError, Outcome};
use crate::upstream::Claim;

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn refusal(&self) -> Refusal {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Sends `head` and `body`, reads until the server closes.
fn exchange(mut stream: impl Read + Write, text: &str) -> Answer {
    // A server that refuses early may close before all is written.
    let _ = stream.write_all(text.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

fn unix(f: &Fixture, method: &str, path: &str, body: &str) -> Answer {
    let stream = UnixStream::connect(f.control.admin_socket().unwrap()).unwrap();
    exchange(stream, &request(method, path, "Host: localhost\r\n", body))
}

fn tcp(f: &Fixture, method: &str, path: &str, headers: &str) -> Answer {
    exchange(TcpStream::connect(f.control.admin_address().unwrap()).unwrap(), &request(method, path, headers, ""))
}

fn one_server() -> Plan {
    plan(vec![upstream("shop", vec![member("a", nobody())])])
}

/// The directory lives as long as the socket in it.
fn on_socket(mut plan: Plan) -> (Fixture, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    plan.admin.socket = Some(dir.path().join("run/admin.sock"));
    (start(plan), dir)
}

fn on_tcp(token: Option<&str>) -> Fixture {
    let mut plan = one_server();
    plan.admin = AdminPlan { socket: None, bind: Some(([127, 0, 0, 1], 0).into()), token: token.map(str::to_owned) };
    start(plan)
}

#[test]
fn what_it_tells() {
    let (f, _dir) = on_socket(one_server());
    f.control.ready();
    assert_eq!((unix(&f, "GET", "/livez", "").status, unix(&f, "GET", "/readyz", "").status), (200, 200));
    let metrics = unix(&f, "GET", "/metrics", "");
    assert_eq!(metrics.body, "evenkeel_up 1\n");
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    let status: Status = serde_json::from_str(&unix(&f, "GET", "/status", "").body).unwrap();
    assert_eq!((status.phase.as_str(), status.cores), ("serving", 2));
    assert_eq!(status.listeners[0].address, f.control.addresses()[0].1.to_string());
    assert_eq!(status.upstreams[0].servers[0].operational, "healthy");
    assert_eq!(status.pid, std::process::id());
}

#[test]
fn not_ready_before_the_first_checks_have_decided() {
    // It accepts and never answers, so the first check is undecided until its timeout.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut shop = upstream("shop", vec![member("a", silent.local_addr().unwrap())]);
    let check = crate::health::HttpCheck { timeout: Duration::from_millis(500), ..Default::default() };
    shop.check = Some(crate::health::Check::Http(check));
    let (f, _dir) = on_socket(plan(vec![shop]));
    let answer = unix(&f, "GET", "/readyz", "");
    assert_eq!((answer.status, answer.body.split(':').next()), (503, Some("starting")));
    assert_eq!(unix(&f, "GET", "/livez", "").status, 200);
    // A server that is down is a decision too.
    f.control.ready();
    assert_eq!(unix(&f, "GET", "/readyz", "").status, 200);
}

#[test]
fn a_server_is_drained_and_waited_for() {
    let (f, _dir) = on_socket(one_server());
    let server = f.server("shop", "a").unwrap();
    let held = Claim::take(server, 1, false, false).unwrap();
    let answer = unix(&f, "PUT", "/upstreams/shop/servers/a", r#"{"admin":"draining","weight":7}"#);
    let status: ServerStatus = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((status.admin.as_str(), status.weight, status.configured_weight), ("draining", 7, 1));
    assert!(status.drain.is_some_and(|d| d.in_flight == 1 && d.ends_within_seconds > 20.0));

    let still = unix(&f, "GET", "/upstreams/shop/servers/a?wait=drained&timeout=50ms", "");
    let still: ServerStatus = serde_json::from_str(&still.body).unwrap();
    assert_eq!((still.admin.as_str(), still.in_flight), ("draining", 1));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| unix(&f, "GET", "/upstreams/shop/servers/a?wait=drained&timeout=20s", "").body);
        drop(held);
        let done: ServerStatus = serde_json::from_str(&waiting.join().unwrap()).unwrap();
        assert_eq!((done.admin.as_str(), done.in_flight), ("drained", 0));
    });
}

#[test]
fn names_with_slashes_and_colons_are_found() {
    let mut plan = one_server();
    plan.upstreams[0].servers[0].name = "unix:/run/app.sock".to_owned();
    let (f, _dir) = on_socket(plan);
    assert_eq!(unix(&f, "GET", "/upstreams/shop/servers/unix:%2Frun%2Fapp.sock", "").status, 200);
}

#[test]
fn refusals_are_json_and_say_what_is_wrong() {
    let (f, _dir) = on_socket(one_server());
    let server = "/upstreams/shop/servers/a";
    let large = format!(r#"{{"admin":"{}"}}"#, "x".repeat(70 << 10));
    for (method, path, body, status, error, words) in [
        ("GET", "/nothing", "", 404, "not_found", "nothing at /nothing"),
        ("DELETE", "/status", "", 405, "bad_request", "does not take DELETE"),
        ("GET", "/reload", "", 405, "bad_request", "does not take GET"),
        ("GET", "/upstreams/shop/servers/z", "", 404, "not_found", "no server `z`"),
        ("GET", "/upstreams/no/servers/a", "", 404, "not_found", "no upstream `no`"),
        ("GET", "/upstreams/shop/servers/a?wait=ready", "", 400, "bad_request", "wait=drained"),
        ("GET", "/upstreams/shop/servers/a?wait=drained&timeout=soon", "", 400, "bad_request", "timeout"),
        ("GET", "/upstreams/shop/servers/a?what=1", "", 400, "bad_request", "what"),
        ("PUT", server, "", 400, "bad_request", "line 1 column 0"),
        ("PUT", server, "{\n \"admn\": 1}", 400, "bad_request", "unknown field `admn`"),
        ("PUT", server, "{\n \"admn\": 1}", 400, "bad_request", "line 2 column 7"),
        ("PUT", server, r#"{"weight":-1}"#, 400, "bad_request", "-1"),
        ("PUT", server, r#"{"admin":"off"}"#, 400, "bad_request", "`off`"),
        ("PUT", server, &large, 413, "bad_request", "64 KiB"),
    ] {
        let answer = unix(&f, method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        let refusal = answer.refusal();
        assert_eq!(refusal.error, error, "{method} {path}");
        assert!(refusal.message.contains(words), "{method} {path}: {}", refusal.message);
    }
}

#[test]
fn a_reload_is_answered_with_its_changes_or_its_report() {
    let (f, _dir) = on_socket(one_server());
    let mut new = f.file.lock().unwrap().clone().unwrap();
    new.upstreams[0].servers.push(member("b", nobody()));
    f.set_file(Ok(new));
    let answer = unix(&f, "POST", "/reload", "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let reloaded: Reloaded = serde_json::from_str(&answer.body).unwrap();
    assert!(reloaded.changes.iter().any(|c| c.contains("server b added")), "{:?}", reloaded.changes);
    f.set_file(Err("error: here".to_owned()));
    let answer = unix(&f, "POST", "/reload", "");
    assert_eq!((answer.status, answer.refusal().report.as_deref()), (422, Some("error: here")));
}

#[test]
fn stop_drains_the_process_and_takes_the_socket_away() {
    let (f, dir) = on_socket(one_server());
    f.control.ready();
    f.cells[0].connections_open.inc();
    let answer = unix(&f, "POST", "/stop", "");
    assert_eq!(
        (answer.status, serde_json::from_str::<Value>(&answer.body).unwrap()["phase"].as_str()),
        (202, Some("draining"))
    );
    eventually("not ready", || unix(&f, "GET", "/readyz", "").status == 503);
    assert!(unix(&f, "GET", "/readyz", "").body.starts_with("draining"));
    assert_eq!(unix(&f, "GET", "/livez", "").status, 200);
    assert_eq!(unix(&f, "POST", "/stop", "").status, 202);
    f.cells[0].connections_open.dec();
    assert_eq!(f.control.wait(), Outcome::Drained);
    assert!(!dir.path().join("run/admin.sock").exists());
}

#[test]
fn the_socket_is_for_owner_and_group() {
    let (f, _dir) = on_socket(one_server());
    let mode = std::fs::metadata(f.control.admin_socket().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

fn at(path: PathBuf) -> Result<Fixture, CommandError> {
    let mut plan = one_server();
    plan.admin.socket = Some(path);
    try_start(plan)
}

#[test]
fn only_a_socket_that_nobody_answers_on_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let somebody = UnixListener::bind(&path).unwrap();
    let refused = at(path.clone()).err().unwrap().to_string();
    assert!(refused.contains("admin.sock") && refused.contains("another process"), "{refused}");
    drop(somebody);
    assert!(path.exists());
    assert_eq!(unix(&at(path).unwrap(), "GET", "/livez", "").status, 200);

    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "mine").unwrap();
    assert!(at(file.clone()).err().unwrap().to_string().contains("no socket"));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "mine");
}

#[test]
fn a_socket_of_another_process_is_left_at_exit() {
    let (f, dir) = on_socket(one_server());
    let path = dir.path().join("run/admin.sock");
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    f.control.stop_now();
    assert!(matches!(f.control.wait(), Outcome::AtOnce { .. }));
    assert!(path.exists());
}

#[test]
fn tcp_refuses_what_a_foreign_page_may_send() {
    let f = on_tcp(None);
    let own = f.control.admin_address().unwrap();
    assert_eq!(tcp(&f, "GET", "/status", &format!("Host: {own}\r\n")).status, 200);
    let rebound = tcp(&f, "GET", "/status", "Host: evil.example\r\n");
    assert_eq!((rebound.status, rebound.refusal().error.as_str()), (403, "forbidden"));
    let foreign = tcp(&f, "POST", "/stop", &format!("Host: {own}\r\nOrigin: http://evil.example\r\n"));
    assert_eq!((foreign.status, foreign.refusal().error.as_str()), (403, "forbidden"));
    assert_eq!(tcp(&f, "GET", "/readyz", &format!("Host: {own}\r\n")).status, 200);
}

#[test]
fn tcp_asks_for_the_token() {
    let f = on_tcp(Some("open sesame"));
    let own = f.control.admin_address().unwrap();
    let without = tcp(&f, "GET", "/status", &format!("Host: {own}\r\n"));
    assert_eq!((without.status, without.refusal().error.as_str()), (401, "unauthorized"));
    assert!(without.head.contains("www-authenticate: bearer"), "{}", without.head);
    assert!(!without.body.contains("sesame"));
    assert_eq!(tcp(&f, "GET", "/nothing", &format!("Host: {own}\r\n")).status, 401);
    let with = format!("Host: {own}\r\nAuthorization: Bearer open sesame\r\n");
    assert_eq!(tcp(&f, "GET", "/status", &with).status, 200);
}

#[test]
fn tcp_beyond_this_machine_needs_a_token() {
    let mut plan = one_server();
    plan.admin.bind = Some(([0, 0, 0, 0], 0).into());
    assert!(matches!(try_start(plan.clone()), Err(CommandError::InvalidConfig { .. })));
    plan.admin.token = Some("t".to_owned());
    assert!(try_start(plan).is_ok());
}

#[test]
fn a_check_that_fails_is_seen_in_the_status() {
    let mut shop = upstream("shop", vec![member("a", nobody())]);
    shop.check = fast_check();
    let (f, _dir) = on_socket(plan(vec![shop]));
    f.control.ready();
    let status: Status = serde_json::from_str(&unix(&f, "GET", "/status", "").body).unwrap();
    let server = &status.upstreams[0].servers[0];
    assert_eq!(server.operational, "unhealthy");
    assert!(server.last_check_error.as_ref().is_some_and(|e| e.ends_with("connection refused")));
}
