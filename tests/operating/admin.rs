//! The admin API as other programs meet it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::Duration;

use harness::{Client, Process, Running, Signal, app, cli, eventually, origins, raw};
use serde_json::{Value, json};

/// The TCP address of the admin API, as the log tells it.
fn tcp(process: &Process) -> SocketAddr {
    let line = process.says("admin API address=");
    line.rsplit_once("address=").unwrap().1.trim().parse().unwrap()
}

/// A proxy whose admin API is on TCP as well.
fn with_tcp(keys: &str) -> (Running, SocketAddr) {
    let evenkeel = Running::with("[upstream.app]\ncheck = \"off\"\nservers = [\"127.0.0.1:9\"]\n", |command| {
        let config = command.get_args().last().unwrap().to_owned();
        let text = std::fs::read_to_string(&config).unwrap();
        let admin = format!("[admin]\nbind = \"127.0.0.1:0\"\n{keys}\n");
        std::fs::write(&config, text.replace("[admin]\n", &admin)).unwrap();
    });
    let address = tcp(&evenkeel.process);
    (evenkeel, address)
}

#[test]
fn readiness_waits_for_the_first_checks() {
    let origins = origins(1);
    origins[0].behave(|b| b.health_delay = Duration::from_millis(1500));
    let dir = tempfile::tempdir().unwrap();
    let (config, socket) = (dir.path().join("e.toml"), dir.path().join("a.sock"));
    let text = app("\"round_robin\"", &origins).replace("90ms", "10s").replace("100ms", "10s");
    let head = format!("[admin]\nsocket = {socket:?}\n[[listener]]\nbind = \"127.0.0.1:0\"\n");
    std::fs::write(&config, format!("{head}{text}")).unwrap();
    let process = Process::spawn(&["run", "-c", config.to_str().unwrap()]);
    let api = harness::Api::new(socket.clone());
    process.says("admin API");
    assert_eq!(api.admin("GET", "/livez", "").0, 200);
    let (status, body) = api.admin("GET", "/readyz", "");
    assert_eq!((status, body.as_str()), (503, "starting: servers are being checked for the first time\n"));
    assert_eq!(api.status().phase, "starting");
    assert_eq!(api.server("app", "a").operational, "starting");
    let admin = socket.to_str().unwrap();
    assert!(cli(&["healthcheck", "--admin", admin]).ends(6).err.contains("starting"));
    eventually("readiness", || (api.admin("GET", "/readyz", "").0 == 200).then_some(()));
    assert_eq!(api.status().phase, "serving");
    assert_eq!(cli(&["healthcheck", "--admin", admin]).ends(0).out, "ready\n");
}

#[test]
fn a_server_that_is_down_does_not_keep_it_from_being_ready() {
    let mut origins = origins(2);
    origins[1].stop();
    let evenkeel = Running::start(&app("\"round_robin\"", &origins));
    assert_eq!(evenkeel.server("app", "b").operational, "unhealthy");
    let why = evenkeel.server("app", "b").last_check_error.unwrap();
    assert!(why.contains("refused"), "{why}");
    assert_eq!(evenkeel.client().get("/").server(), "a");
}

#[test]
fn status_tells_what_is() {
    let origins = origins(2);
    let evenkeel = Running::start(&app("{ sticky_cookie = {} }", &origins));
    let mut client = evenkeel.client();
    let served = client.get("/").server().to_owned();
    let (status, body) = evenkeel.admin("GET", "/status", "");
    assert_eq!(status, 200);
    let value: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(value["pid"], evenkeel.process.pid());
    assert_eq!((value["phase"].as_str(), value["cores"].as_u64()), (Some("serving"), Some(2)));
    assert_eq!(value["config"].as_str(), evenkeel.config.to_str());
    assert_eq!(value["connections"], 1);
    assert_eq!(value["listeners"], json!([{ "name": "main", "address": evenkeel.address.to_string() }]));
    let upstream = &value["upstreams"][0];
    assert_eq!((upstream["name"].as_str(), upstream["policy"].as_str()), (Some("app"), Some("sticky_cookie")));
    assert_eq!(upstream["failing_open"], false);
    for (server, origin) in upstream["servers"].as_array().unwrap().iter().zip(&origins) {
        let mine = u64::from(served == origin.name());
        assert_eq!(server["name"].as_str(), Some(origin.name()));
        assert_eq!(server["address"].as_str(), Some(origin.address().to_string().as_str()));
        assert_eq!((&server["operational"], &server["admin"]), (&json!("healthy"), &json!("ready")));
        assert_eq!((&server["weight"], &server["configured_weight"]), (&json!(1), &json!(1)));
        assert_eq!((server["requests"].as_u64(), server["sessions"].as_u64()), (Some(mine), Some(mine)));
        assert_eq!(server["p50_ms"].is_number(), mine == 1, "{server}");
        assert_eq!(server["drain"], Value::Null);
    }
    let (status, body) = evenkeel.admin("GET", "/upstreams/app/servers/a", "");
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (200, upstream["servers"][0].clone()));
}

#[test]
fn mistakes_are_told_and_change_nothing() {
    let origins = origins(1);
    let evenkeel = Running::start(&app("\"round_robin\"", &origins));
    let generation = evenkeel.status().generation;
    let server = "/upstreams/app/servers/a";
    let large = "x".repeat(70 << 10);
    for (method, path, body, status, error) in [
        ("GET", "/nothing", "", 404, "not_found"),
        ("GET", "/reload", "", 405, "bad_request"),
        ("POST", "/status", "", 405, "bad_request"),
        ("PATCH", server, "", 405, "bad_request"),
        ("DELETE", server, "", 400, "bad_request"),
        ("DELETE", server, "{\"weight\":1}", 400, "bad_request"),
        ("DELETE", "/upstreams/app/servers/z", "", 404, "not_found"),
        ("POST", "/upstreams/app/servers", "{}", 400, "bad_request"),
        ("GET", "/upstreams/app/servers/z", "", 404, "not_found"),
        ("PUT", "/upstreams/nope/servers/a", "{}", 404, "not_found"),
        ("PUT", server, "nonsense", 400, "bad_request"),
        ("PUT", server, "{\"admin\":\"gone\"}", 400, "bad_request"),
        ("PUT", server, "{\"admin\":\"drained\"}", 400, "bad_request"),
        ("PUT", server, "{\"weigth\":3}", 400, "bad_request"),
        ("PUT", server, "{\"weight\":1001}", 400, "bad_request"),
        ("PUT", server, "{\"weight\":-1}", 400, "bad_request"),
        ("PUT", server, "{\"weight\":3,\"admin\":\"draining\",\"in_flight\":\"soon\"}", 400, "bad_request"),
        ("PUT", server, "{\"in_flight\":\"3s\"}", 400, "bad_request"),
        ("PUT", server, &large, 413, "bad_request"),
        ("GET", "/upstreams/app/servers/a?wait=forever", "", 400, "bad_request"),
        ("GET", "/upstreams/app/servers/a?wiat=drained", "", 400, "bad_request"),
        ("GET", "/upstreams/app/servers/a?wait=drained&timeout=x", "", 400, "bad_request"),
    ] {
        let (got, answer) = evenkeel.admin(method, path, body);
        let body = &body[..body.len().min(60)];
        assert_eq!(got, status, "{method} {path} {body}: {answer}");
        let refusal: harness::Refusal = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
        assert_eq!(refusal.error, error, "{method} {path} {body}: {answer}");
        assert!(!refusal.message.is_empty());
    }
    let a = evenkeel.server("app", "a");
    assert_eq!((a.weight, a.admin.as_str(), evenkeel.status().generation), (1, "ready", generation));
}

#[test]
fn the_socket_is_for_owner_and_group() {
    let origins = origins(1);
    let evenkeel = Running::start(&app("\"round_robin\"", &origins));
    let metadata = std::fs::metadata(evenkeel.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);

    // A second one does not take the socket of the first, and says who is there.
    let config = evenkeel.config.to_str().unwrap();
    let second = cli(&["run", "-c", config]).ends(4);
    assert!(second.err.contains(evenkeel.socket().to_str().unwrap()), "{}", second.err);
    assert_eq!(evenkeel.admin("GET", "/livez", "").0, 200);

    // One that was left behind by a process that was killed is replaced.
    evenkeel.process.signal(Signal::KILL);
    eventually("the end", || std::os::unix::net::UnixStream::connect(evenkeel.socket()).is_err().then_some(()));
    assert!(evenkeel.socket().exists());
    let third = Process::spawn(&["run", "-c", config]);
    let admin = evenkeel.socket().to_str().unwrap();
    eventually("readiness", || (cli(&["healthcheck", "--admin", admin]).code == Some(0)).then_some(()));
    third.signal(Signal::TERM);
    third.wait().ends(0);
    assert!(!evenkeel.socket().exists());
}

#[test]
fn other_sites_pages_cannot_reach_the_tcp_address() {
    let (evenkeel, admin) = with_tcp("");
    let ask = |headers: &str| {
        let answer = raw(admin, format!("POST /reload HTTP/1.1\r\n{headers}connection: close\r\n\r\n").as_bytes());
        answer[9..12].parse::<u16>().unwrap()
    };
    assert_eq!(ask(&format!("host: {admin}\r\n")), 200);
    assert_eq!(ask("host: localhost\r\n"), 200);
    assert_eq!(ask(&format!("host: {admin}\r\norigin: http://{admin}\r\n")), 200);
    // A page that had its name rebound to this address; a page that posts here.
    assert_eq!(ask(&format!("host: evil.test:{}\r\n", admin.port())), 403);
    assert_eq!(ask(&format!("host: {admin}\r\norigin: http://evil.test\r\n")), 403);
    assert_eq!(ask(&format!("host: {admin}\r\norigin: null\r\n")), 403);
    let at = admin.to_string();
    cli(&["status", "--admin", &at]).ends(0);
    cli(&["healthcheck", "--admin", &format!("http://{at}")]).ends(0);
    drop(evenkeel);
}

#[test]
fn the_token_opens_the_tcp_address() {
    let token = "a-token-that-is-long-enough-0123456789";
    let (evenkeel, admin) = with_tcp(&format!("token = \"{token}\""));
    let at = admin.to_string();
    let status = |headers: &[(&str, &str)], path: &str| Client::to(admin).send("GET", path, headers, b"").status;
    let bearer = format!("Bearer {token}");
    assert_eq!(status(&[], "/status"), 401);
    assert_eq!(status(&[], "/metrics"), 401);
    assert_eq!(status(&[("authorization", "Bearer wrong")], "/status"), 401);
    assert_eq!(status(&[("authorization", &bearer)], "/status"), 200);
    assert_eq!(status(&[("authorization", &bearer)], "/metrics"), 200);
    for open in ["/livez", "/readyz"] {
        assert_eq!(status(&[], open), 200, "{open}");
    }
    let refused = Client::to(admin).get("/status");
    assert!(refused.header("www-authenticate").unwrap().starts_with("Bearer "));

    let done = cli(&["status", "--admin", &at]).ends(1);
    assert!(done.err.contains("--admin-token or EVENKEEL_ADMIN_TOKEN"), "{}", done.err);
    cli(&["status", "--admin", &at, "--admin-token", token]).ends(0);
    harness::run(harness::command(&["status", "--admin", &at]).env("EVENKEEL_ADMIN_TOKEN", token)).ends(0);
    // Whoever may read the configuration needs nothing else; the Unix socket asks for no token.
    cli(&["status", "-c", evenkeel.config.to_str().unwrap()]).ends(0);
    evenkeel.verb(&["status"]).ends(0);

    let done = cli(&["run", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:9", "--admin", "0.0.0.0:1"]).ends(2);
    assert!(done.err.contains("--admin-token"), "{}", done.err);
}

#[test]
fn a_request_that_never_ends_holds_nothing_up() {
    let (evenkeel, admin) = with_tcp("");
    let mut stuck: Vec<_> = (0..20).map(|_| harness::Raw::to(admin)).collect();
    for raw in &mut stuck {
        raw.send(b"PUT /upstreams/app/servers/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{");
    }
    for _ in 0..5 {
        assert_eq!(Client::to(admin).get("/readyz").status, 200);
    }
    assert_eq!(evenkeel.admin("GET", "/status", "").0, 200);
}

#[test]
fn scrapes_say_what_they_are() {
    let (evenkeel, admin) = with_tcp("");
    let answer = Client::to(admin).get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(Client::to(admin).get("/status").header("content-type"), Some("application/json"));
    drop(evenkeel);
}
