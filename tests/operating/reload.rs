//! A new configuration while requests run: all of it or nothing, and nobody notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use harness::{Running, Signal, WebSocket, app, cli, eventually, origins, servers};
use serde_json::json;

/// An upstream that is not checked, so that nothing but the reload happens.
fn unchecked(policy: &str, rest: &str) -> String {
    format!("[upstream.app]\npolicy = {policy}\ncheck = \"off\"\n{rest}")
}

#[test]
fn a_signal_a_verb_and_the_api_reload_and_say_what_changed() {
    let origins = origins(3);
    let with = |n: usize| app("\"round_robin\"", &origins[..n]);
    let evenkeel = Running::start(&with(1));
    let generation = evenkeel.status().generation;

    evenkeel.write(&with(2));
    evenkeel.process.signal(Signal::HUP);
    eventually("server b", || evenkeel.status().upstreams[0].servers.get(1).map(|b| assert_eq!(b.name, "b")));
    assert!(evenkeel.process.says("configuration reloaded").contains("upstream app: server b added"));

    evenkeel.write(&with(3));
    let done = evenkeel.verb(&["reload"]).ends(0);
    assert!(done.out.starts_with("reloaded (generation "), "{}", done.out);
    assert!(done.out.contains("upstream app: server c added"), "{}", done.out);

    evenkeel.write(&with(1).replace("100ms", "110ms"));
    let reloaded = evenkeel.reload_file().unwrap();
    for line in ["upstream app: server b removed", "upstream app: server c removed"] {
        assert!(reloaded.changes.iter().any(|c| c == line), "{reloaded:?}");
    }
    assert!(reloaded.changes.iter().any(|c| c.contains("check")), "{reloaded:?}");
    assert!(reloaded.generation > generation);

    let again = evenkeel.verb(&["reload", "--output", "json"]).ends(0).json();
    assert_eq!(again["changes"], json!([]));
    let nothing = evenkeel.verb(&["reload"]).ends(0);
    assert!(nothing.out.starts_with("nothing changed (generation "), "{}", nothing.out);
    evenkeel.stop().ends(0);
}

#[test]
fn an_invalid_file_shows_every_problem_and_the_old_one_goes_on() {
    let origins = origins(1);
    let valid = app("\"round_robin\"", &origins);
    let evenkeel = Running::start(&valid);
    let mut client = evenkeel.client();
    assert_eq!(client.get("/").server(), "a");
    let before = evenkeel.status();

    let invalid = valid.replace("policy = \"round_robin\"", "polcy = \"round_robin\"\nmax_sessions = -3")
        + "weight = 2000\n[[route]]\npath = \"/x\"\nupstream = \"ap\"\n";
    evenkeel.write(&invalid);
    let file = evenkeel.config.to_str().unwrap();
    let text = std::fs::read_to_string(&evenkeel.config).unwrap();
    let place = |of: &str| {
        let line = text.lines().position(|line| line.contains(of)).unwrap();
        let column = text.lines().nth(line).unwrap().find(of).unwrap();
        format!("{file}:{}:{}", line + 1, column + 1)
    };
    let refused = evenkeel.verb(&["reload"]).ends(3);
    for part in [&place("polcy"), &place("-3"), &place("2000"), &place("\"ap\""), "did you mean", "`policy`", "`app`"] {
        assert!(refused.err.contains(part), "{part} in\n{}", refused.err);
    }
    assert!(refused.err.contains("^^^^^"), "carets in\n{}", refused.err);
    // check, -t, run and the API say the same, word for word.
    for same in [vec!["check", "-c", file], vec!["-t", "-c", file], vec!["run", "-c", file]] {
        let done = cli(&same).ends(3);
        assert_eq!((done.err.as_str(), done.out.as_str()), (refused.err.as_str(), ""), "{same:?}");
    }
    let (status, body) = evenkeel.admin("POST", "/reload", "");
    assert_eq!(status, 422, "{body}");
    let answer: harness::Refusal = serde_json::from_str(&body).unwrap();
    assert_eq!(answer.error, "invalid_config");
    assert_eq!(answer.report.unwrap().trim(), refused.err.trim());
    let problems = cli(&["check", "-c", file, "--output", "json"]).ends(3).json();
    assert_eq!(problems["valid"], false);
    let errors: Vec<_> =
        problems["problems"].as_array().unwrap().iter().filter(|problem| problem["severity"] == "error").collect();
    assert_eq!(errors.len(), 4, "{problems}");
    for problem in errors {
        assert!(problem["line"].is_u64() && problem["column"].is_u64(), "{problem}");
        assert!(problem["hint"].is_string(), "{problem}");
    }

    evenkeel.process.signal(Signal::HUP);
    evenkeel.process.says("configuration not reloaded, the old one goes on");
    let after = evenkeel.status();
    assert_eq!((after.generation, &after.listeners), (before.generation, &before.listeners));
    assert_eq!(client.get("/").server(), "a");

    std::fs::remove_file(&evenkeel.config).unwrap();
    assert!(evenkeel.verb(&["reload"]).ends(3).err.contains(file));
    assert_eq!(client.get("/").server(), "a");
}

#[test]
fn a_listener_whose_address_is_taken_refuses_all_of_the_reload() {
    let origins = origins(2);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let evenkeel = Running::start(&app("\"round_robin\"", &origins));
    let before = evenkeel.status();
    evenkeel.write(&format!(
        "[[listener]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"free\"\nbind = \"127.0.0.2:0\"\n\
         [[listener]]\nname = \"second\"\nbind = \"{address}\"\n{}",
        app("\"ip_hash\"", &origins[..1])
    ));
    let refused = evenkeel.verb(&["reload"]).ends(4);
    assert!(refused.err.contains(&address.to_string()) && refused.err.contains("second"), "{}", refused.err);
    assert_eq!(evenkeel.admin("POST", "/reload", "").0, 409);
    let after = evenkeel.status();
    assert_eq!((after.generation, &after.listeners), (before.generation, &before.listeners));
    assert_eq!((after.upstreams[0].servers.len(), after.upstreams[0].policy.as_str()), (2, "round_robin"));

    drop(taken);
    evenkeel.verb(&["reload"]).ends(0);
    let listeners = evenkeel.status().listeners;
    assert_eq!(listeners.len(), 3);
    assert_eq!(listeners[0].address, evenkeel.address.to_string());
    assert_eq!(harness::Client::to(address).get("/").server(), "a");
}

#[test]
fn what_needs_a_restart_is_refused_by_name() {
    let origins = origins(1);
    let valid = app("\"round_robin\"", &origins);
    let evenkeel = Running::start(&valid);
    let generation = evenkeel.status().generation;
    let more = valid.replace("100ms", "120ms");
    for (key, toml) in [
        ("cores", format!("cores = 1\n{more}")),
        ("state_dir", format!("cores = 2\nstate_dir = \"DIR/state\"\n{more}")),
        ("log.level", format!("{more}\n[log]\nlevel = \"debug\"\n")),
        ("log.format", format!("{more}\n[log]\nformat = \"json\"\n")),
        ("access_log", format!("{more}\n[access_log]\nfile = \"DIR/access.log\"\n")),
        ("listener main: backlog", format!("backlog = 17\n{more}")),
    ] {
        evenkeel.write(&toml);
        let refused = evenkeel.reload_file().unwrap_err();
        assert_eq!(refused.error, "needs_restart", "{key}: {refused:?}");
        assert!(refused.message.contains(key), "{key}: {}", refused.message);
        let done = evenkeel.verb(&["reload"]).ends(1);
        assert!(done.err.contains(key) && done.err.contains("restart"), "{}", done.err);
    }
    for (key, change) in [
        ("admin.socket", ("admin.sock", "other.sock")),
        ("admin.bind", ("[admin]\n", "[admin]\nbind = \"127.0.0.1:0\"\n")),
        ("admin.token", ("[admin]\n", "[admin]\ntoken = \"a-token-that-is-long-enough\"\n")),
    ] {
        evenkeel.write(&more);
        let text = std::fs::read_to_string(&evenkeel.config).unwrap();
        std::fs::write(&evenkeel.config, text.replace(change.0, change.1)).unwrap();
        let refused = evenkeel.reload_file().unwrap_err();
        assert!(refused.message.contains(key), "{key}: {}", refused.message);
        assert!(!refused.message.contains("long-enough"), "{}", refused.message);
    }
    assert_eq!(evenkeel.status().generation, generation);
}

#[test]
fn a_proxy_without_a_file_refuses_to_reload() {
    let origins = origins(1);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let (socket, to) = (socket.to_str().unwrap(), origins[0].address().to_string());
    let process = harness::Process::spawn(&["run", "--listen", "127.0.0.1:0", "--to", &to, "--admin", socket]);
    eventually("readiness", || (cli(&["healthcheck", "--admin", socket]).code == Some(0)).then_some(()));
    let refused = cli(&["reload", "--admin", socket]).ends(1);
    assert!(refused.err.contains("without one"), "{}", refused.err);
    process.signal(Signal::HUP);
    process.says("configuration not reloaded");
    cli(&["healthcheck", "--admin", socket]).ends(0);
}

#[test]
fn listeners_come_and_go_while_requests_run() {
    let origins = origins(1);
    let upstream = app("\"round_robin\"", &origins);
    let listener = |name: &str| format!("[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\n");
    let evenkeel = Running::start(&format!("{}{upstream}", listener("main")));
    let mut kept = evenkeel.client();
    kept.get("/");

    evenkeel.write(&format!("{}{}{upstream}", listener("main"), listener("second")));
    let reloaded = evenkeel.reload_file().unwrap();
    assert_eq!(reloaded.changes, ["listener second added"]);
    let second = evenkeel.status().listeners[1].address.parse().unwrap();
    assert_eq!(harness::Client::to(second).get("/").server(), "a");

    // What is in flight on a listener that goes ends; what comes later on that connection is told off.
    let mut slow = harness::Raw::to(second);
    slow.send(b"POST /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n1");
    eventually("the request in flight", || (evenkeel.server("app", "a").in_flight == 1).then_some(()));
    evenkeel.write(&format!("{}{upstream}", listener("main")));
    assert_eq!(evenkeel.reload_file().unwrap().changes, ["listener second removed"]);
    eventually("refusal", || TcpStream::connect(second).is_err().then_some(()));
    slow.send(b"2");
    assert_eq!(slow.answer().status, 200);
    let last = slow.try_send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").and_then(|()| slow.try_answer());
    assert!(last.as_ref().map_or(true, |answer| answer.status == 503), "{last:?}");
    assert_eq!(kept.get("/").server(), "a");
    assert_eq!(evenkeel.status().listeners.len(), 1);
}

/// Inodes of the sockets that listen on a port of 127.0.0.1.
fn listening(port: u16) -> Vec<String> {
    let local = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found: Vec<String> =
        fields.filter(|f| f.get(1) == Some(&local.as_str()) && f[3] == "0A").map(|f| f[9].to_owned()).collect();
    found.sort();
    found
}

#[test]
fn unchanged_listeners_keep_their_sockets() {
    let origins = origins(2);
    let evenkeel = Running::start(&unchecked("\"round_robin\"", &servers("app", &origins)));
    let before = listening(evenkeel.address.port());
    assert_eq!(before.len(), 2, "one socket for each core");
    for i in 0..20 {
        // Half of these wait to be accepted while the configuration changes.
        let mut waiting: Vec<_> = (0..20).map(|_| evenkeel.raw()).collect();
        let policy = ["\"ip_hash\"", "\"round_robin\""][i % 2];
        evenkeel.write(&format!("idle_timeout = \"{}s\"\n{}", 50 + i, unchecked(policy, &servers("app", &origins))));
        let reload = std::thread::scope(|scope| {
            let reload = scope.spawn(|| evenkeel.reload_file());
            waiting.extend((0..20).map(|_| evenkeel.raw()));
            reload.join().unwrap()
        });
        assert!(!reload.unwrap().changes.is_empty());
        for raw in &mut waiting {
            raw.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
            assert_eq!(raw.answer().status, 200);
        }
    }
    assert_eq!(listening(evenkeel.address.port()), before);
}

#[test]
fn health_counters_pins_drains_and_tunnels_survive() {
    let origins = origins(4);
    let policy = "{ sticky_cookie = { name = \"pin\" } }";
    let evenkeel = Running::start(&app(policy, &origins[..3]));
    // Pins, on every server.
    let mut pinned: Vec<(String, String)> = Vec::new();
    eventually("a pin on every server", || {
        let answer = evenkeel.client().get("/");
        pinned.push((answer.server().to_owned(), answer.cookie("pin").unwrap()));
        ["a", "b", "c"].iter().all(|server| pinned.iter().any(|(on, _)| on == server)).then_some(())
    });
    let pin = |server: &str| pinned.iter().find(|(s, _)| s == server).unwrap().1.clone();
    // A tunnel and an idle connection on b; a drained by hand, c found ill.
    let mut socket = WebSocket::open_with(evenkeel.address, "x", "/ws", &[("cookie", &pin("b"))]);
    socket.echo("before").unwrap();
    let mut idle = evenkeel.client().with("cookie", &pin("b"));
    idle.get("/");
    evenkeel.change("app", "a", &json!({ "admin": "draining", "weight": 7 }));
    origins[2].set_healthy(false);
    eventually("c is unhealthy", || (evenkeel.server("app", "c").operational == "unhealthy").then_some(()));
    let sample = |server: &str| {
        let server = format!("server=\"{server}\"");
        ["evenkeel_server_picks_total", "evenkeel_server_answers_total"].map(|name| evenkeel.metric(name, &[&server]))
    };
    let before = ["a", "b", "c"].map(sample);
    let requests = evenkeel.metric("evenkeel_requests_total", &[]);
    let sessions = evenkeel.server("app", "b").sessions;
    let drain = evenkeel.server("app", "a").drain.unwrap();

    evenkeel.write(&app(policy, &origins));
    let reloaded = evenkeel.reload_file().unwrap();
    assert_eq!(reloaded.changes, ["upstream app: server d added"]);

    assert_eq!(["a", "b", "c"].map(sample), before);
    assert_eq!(evenkeel.metric("evenkeel_requests_total", &[]), requests);
    let now = evenkeel.server("app", "a");
    assert_eq!((now.admin.as_str(), now.weight, now.set_by.as_str()), ("draining", 7, "operator"));
    assert!(now.drain.unwrap().seconds >= drain.seconds);
    assert_eq!(evenkeel.server("app", "c").operational, "unhealthy");
    let b = evenkeel.server("app", "b");
    assert_eq!((b.operational.as_str(), b.sessions, b.tunnels), ("healthy", sessions, 1));
    socket.echo("after").unwrap();
    idle.get("/");
    // Pinned clients stay, also on the draining one; new ones do not go there, nor to the ill one.
    for server in ["a", "b"] {
        assert_eq!(evenkeel.client().with("cookie", &pin(server)).get("/").server(), server);
    }
    eventually("d is healthy", || (evenkeel.server("app", "d").operational == "healthy").then_some(()));
    for _ in 0..20 {
        assert!(["b", "d"].contains(&evenkeel.client().get("/").server()));
    }
}

#[test]
fn a_removed_servers_requests_end() {
    let mut origins = origins(2);
    let evenkeel = Running::start(&unchecked("\"round_robin\"", &servers("app", &origins[..1])));
    let mut slow = evenkeel.raw();
    slow.send(b"POST /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n1");
    let mut socket = WebSocket::open(evenkeel.address, "/ws");
    eventually("both in flight", || (evenkeel.server("app", "a").in_flight == 2).then_some(()));
    // An upload that began before and ends after.
    let mut upload = evenkeel.raw();
    upload.send(b"POST /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc");
    eventually("three in flight", || (evenkeel.server("app", "a").in_flight == 3).then_some(()));

    evenkeel.write(&unchecked("\"round_robin\"", &servers("app", &origins[1..])));
    evenkeel.reload_file().unwrap();
    for _ in 0..10 {
        assert_eq!(evenkeel.client().get("/").server(), "b");
    }
    upload.send(b"def");
    slow.send(b"2");
    assert_eq!(upload.answer().server(), "a");
    assert_eq!(slow.answer().server(), "a");
    socket.echo("still here").unwrap();
    // And its connections are not kept when nothing is in flight on them.
    drop(socket);
    eventually("no connection to a", || (origins[0].connections() == 0).then_some(()));
    origins[0].kill();
    assert_eq!(evenkeel.client().get("/").server(), "b");
}

#[test]
fn a_removed_servers_last_requests_are_cut_at_the_deadline() {
    let origins = origins(2);
    let deadline = "[upstream.app.drain]\nin_flight = \"200ms\"\n";
    let evenkeel =
        Running::start(&unchecked("\"round_robin\"", &format!("{}{deadline}", servers("app", &origins[..1]))));
    // WebSockets are closed before the deadline, with a close frame.
    let mut slow = harness::Raw::to(evenkeel.address);
    slow.send(b"GET /slow?ms=20000 HTTP/1.1\r\nhost: x\r\n\r\n");
    eventually("it is asked", || origins[0].requests().iter().any(|r| r.path() == "/slow").then_some(()));
    evenkeel.write(&unchecked("\"round_robin\"", &format!("{}{deadline}", servers("app", &origins[1..]))));
    let began = Instant::now();
    evenkeel.reload_file().unwrap();
    assert_eq!(slow.answer().status, 502);
    assert!(began.elapsed() >= Duration::from_millis(150) && began.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_server_that_comes_back_under_its_name_is_a_new_one_at_its_address() {
    let origins = origins(2);
    let at = |i: usize| {
        unchecked(
            "\"round_robin\"",
            &format!("[[upstream.app.server]]\nname = \"x\"\naddress = \"{}\"\n", origins[i].address()),
        )
    };
    let evenkeel = Running::start(&at(0));
    let mut client = evenkeel.client();
    for i in [1, 0, 1] {
        evenkeel.write(&at(i));
        assert!(!evenkeel.reload_file().unwrap().changes.is_empty());
        assert_eq!(client.get("/").server(), origins[i].name());
    }
}
