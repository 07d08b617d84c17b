//! Rolling deploys: real servers restarted in turn under load, and what stops a deploy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::{Client, Process, Running, Service, Signal, eventually};
use serde_json::Value;

/// What each thread of the load sends in a second.
const RATE: u64 = 40;

fn proxy(services: &[Service], more: &str) -> Running {
    let servers: String = services.iter().map(Service::table).collect();
    let evenkeel = Running::start(&format!(
        "[upstream.app]\ncheck = {{ http = {{ path = \"/healthz\", interval = \"200ms\", timeout = \"5s\" }} }}\n{more}{servers}"
    ));
    eventually("all are healthy", || {
        evenkeel.status().upstreams[0].servers.iter().all(|s| s.operational == "healthy").then_some(())
    });
    evenkeel
}

fn proof(dir: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("proof.json")).unwrap()).unwrap()
}

/// Requests of one kind at a steady rate until it is over; how many were sent.
fn steadily(over: &AtomicBool, mut send: impl FnMut()) -> usize {
    let (began, mut sent) = (Instant::now(), 0);
    while !over.load(Relaxed) {
        let due = began + Duration::from_micros(1_000_000 / RATE * sent as u64);
        // The rate is the test's, not the proxy's.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        send();
        sent += 1;
    }
    sent
}

fn deploy(evenkeel: &Running, dir: &std::path::Path, each: &str, more: &[&str]) -> harness::Done {
    let file = dir.join("proof.json");
    let args = ["deploy", "app", "--each", each, "--watch", "10ms", "--proof", file.to_str().unwrap()];
    evenkeel.verb(&[&args[..], more].concat())
}

fn states(evenkeel: &Running) -> Vec<String> {
    evenkeel.status().upstreams[0].servers.iter().map(|s| format!("{} {}", s.admin, s.operational)).collect()
}

#[test]
fn a_hook_that_fails_stops_the_deploy_and_takes_the_server_back() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b", "c"], dir.path());
    let evenkeel = proxy(&services, "");
    let done = deploy(&evenkeel, dir.path(), "test {name} != b", &[]).ends(6);
    assert!(done.err.contains("app/b: the hook failed"), "{}", done.err);
    assert!(done.err.contains("taken back: app/b"), "{}", done.err);
    eventually("all serve again", || states(&evenkeel).iter().all(|state| state == "ready healthy").then_some(()));
    let proof = proof(dir.path());
    let results: Vec<&str> =
        proof["servers"].as_array().unwrap().iter().map(|t| t["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["restarted", "failed", "left"]);
}

#[test]
fn a_server_that_does_not_come_back_stops_the_deploy() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services, "");
    // The hook ends well and leaves the server dead.
    let each = format!("kill -9 $(cat {}/{{name}}.pid)", dir.path().display());
    let done = deploy(&evenkeel, dir.path(), &each, &["--healthy-within", "3s"]).ends(6);
    assert!(done.err.contains("app/a was not healthy within 3s (") && done.err.contains("refused"), "{}", done.err);
    assert_eq!(states(&evenkeel), ["ready unhealthy", "ready healthy"], "b was not touched");
    assert_eq!(evenkeel.client().get("/echo").status, 200);
}

#[test]
fn ctrl_c_takes_back_what_was_drained() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services, "");
    let file = dir.path().join("proof.json");
    // What the hook starts is of the hook: it is not left behind.
    let hook = dir.path().join("hook.pid");
    let each = format!("sleep 60 & echo $! > '{0}.new' && mv '{0}.new' '{0}'; wait", hook.display());
    let deploy = Process::spawn(&[
        "deploy",
        "app",
        "--each",
        &each,
        "--watch",
        "10ms",
        "--proof",
        file.to_str().unwrap(),
        "--admin",
        evenkeel.socket().to_str().unwrap(),
    ]);
    let pid = eventually("the hook runs", || std::fs::read_to_string(&hook).ok());
    assert_eq!(evenkeel.server("app", "a").admin, "disabled");
    deploy.signal(Signal::INT);
    let done = deploy.wait().ends(6);
    assert!(done.err.contains("interrupted: what hooks run gets TERM"), "{}", done.err);
    assert!(done.err.contains("it was interrupted, and its hook was "), "{}", done.err);
    assert!(done.err.contains("taken back: app/a"), "{}", done.err);
    eventually("what the hook has started is gone", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z')).then_some(())
    });
    eventually("all serve again", || states(&evenkeel).iter().all(|state| state == "ready healthy").then_some(()));
    assert_eq!(proof(dir.path())["outcome"], done.err.lines().last().unwrap().split_once("stopped: ").unwrap().1);
}

#[test]
fn ctrl_c_ends_the_watching_after_the_last_turn_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services, "");
    let file = dir.path().join("proof.json");
    let (file, admin) = (file.to_str().unwrap(), evenkeel.socket().to_str().unwrap());
    let deploy = |watch: &str| {
        Process::spawn(&["deploy", "app", "--each", "true", "--watch", watch, "--proof", file, "--admin", admin])
    };
    // Before the first turn nothing was touched.
    let first = deploy("1h");
    eventually("it watches", || first.out().contains("watching for 1h before the first turn").then_some(()));
    first.signal(Signal::INT);
    let done = first.wait().ends(6);
    assert!(done.err.contains("before anything was touched"), "{}", done.err);
    let last = deploy("4s");
    eventually("it watches", || last.out().contains("watching for 4s after the last turn").then_some(()));
    last.signal(Signal::TERM);
    let done = last.wait().ends(0);
    assert!(done.err.contains("interrupted: watched for"), "{}", done.err);
    assert!(done.out.contains("2 of 2 servers restarted"), "{}", done.out);
    assert_eq!(proof(dir.path())["outcome"], "done");
}

#[test]
fn what_cannot_be_deployed_is_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services, "");
    for (args, wrong) in [
        (&["deploy", "shop", "--each", "true"][..], "there is no upstream `shop`; there is app"),
        (&["deploy", "app", "--each", "true", "--only", "z"], "has no server `z`"),
        (&["deploy", "app", "--each", "true", "--batch", "2"], "would be left to serve"),
    ] {
        let done = evenkeel.verb(args).ends(1);
        assert!(done.err.contains(wrong), "{args:?}: {}", done.err);
    }
    for (args, wrong) in [
        (&["deploy", "app"][..], "--each"),
        (&["deploy", "app", "--each", " "], "an empty command does nothing"),
        (&["deploy", "app", "--exec", "./nope.sh"], "--exec ./nope.sh cannot be run: No such file"),
        (&["deploy", "app", "--exec", "./nope.sh", "--replace", "d=127.0.0.1:1"], "cannot be run"),
        (&["deploy", "app", "--replace", "d=127.0.0.1:99999"], "127.0.0.1:99999"),
        (&["deploy", "app", "--replace", "d=127.0.0.1:1", "--percent", "5", "--allow", "10.0.0.0/33"], "10.0.0.0/8"),
        (&["deploy", "app", "--replace", "d=127.0.0.1:1", "--after", ""], "an empty command does nothing"),
    ] {
        let done = evenkeel.verb(args).ends(2);
        assert!(done.err.contains(wrong), "{args:?}: {}", done.err);
    }
    evenkeel.verb(&["disable", "app/b"]).ends(0);
    let done = evenkeel.verb(&["deploy", "app", "--each", "true"]).ends(1);
    assert!(
        done.err.contains("app/b is disabled: it is left alone") && done.err.contains("left to serve"),
        "{}",
        done.err
    );
    assert_eq!(evenkeel.server("app", "a").admin, "ready");
}

/// A gate of a pipeline.
#[test]
fn a_deploy_that_moves_sessions_does_not_pass_its_gate() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services, "policy = { sticky_cookie = { new_clients = \"round_robin\" } }\n");
    let mut user = evenkeel.client();
    let cookie = user.get("/echo").cookie("evenkeel").unwrap();
    let over = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        let (over, address) = (&over, evenkeel.address);
        scope.spawn(move || {
            let mut user = Client::to(address).with("cookie", &cookie);
            steadily(over, || assert_eq!(user.get("/echo").status, 200));
        });
        let more = ["--sessions-max", "200ms", "--max-lost", "0", "--output", "json", "--watch", "300ms"];
        let done =
            evenkeel.verb(
                &[
                    // Long enough for the user to ask while the server is away.
                    &[
                        "deploy",
                        "app",
                        "--each",
                        "sleep 0.4",
                        "--proof",
                        dir.path().join("proof.json").to_str().unwrap(),
                    ][..],
                    &more,
                ]
                .concat(),
            );
        over.store(true, Relaxed);
        done
    });
    let done = done.ends(6);
    assert!(done.err.contains("--max-lost is 0"), "{}", done.err);
    assert_eq!(done.json()["outcome"], "done");
    assert!(done.json()["sessions_lost"].as_u64().unwrap() > 0);
}

#[test]
fn a_server_that_is_dead_can_be_repaired_by_a_deploy() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services, "");
    services[1].kill();
    eventually("b is seen to be dead", || (evenkeel.server("app", "b").operational == "unhealthy").then_some(()));
    let each = dir.path().join("restart.sh");
    // It comes first: `a` alone serves until then.
    let done = deploy(&evenkeel, dir.path(), each.to_str().unwrap(), &["--healthy-within", "60s"]).ends(0);
    assert!(done.out.contains("1/2 app/b restarted"), "{}", done.out);
    assert_eq!(states(&evenkeel), ["ready healthy", "ready healthy"]);
}

#[test]
fn nobody_is_restarted_when_the_one_that_was_left_dies_during_the_drain() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services, "");
    // Uploads that are not done hold the drain.
    let mut uploads = Vec::new();
    eventually("a is busy", || {
        let mut upload = std::net::TcpStream::connect(evenkeel.address).unwrap();
        upload.write_all(b"POST /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n1").unwrap();
        uploads.push(upload);
        (evenkeel.server("app", "a").in_flight > 0).then_some(())
    });
    let (file, ran) = (dir.path().join("proof.json"), dir.path().join("ran"));
    let (file, each) = (file.to_str().unwrap(), format!("touch '{}'", ran.display()));
    let admin = evenkeel.socket().to_str().unwrap();
    let args = ["deploy", "app", "--each", &each, "--watch", "10ms", "--proof", file, "--admin", admin];
    let deploy = Process::spawn(&args);
    eventually("a drains", || (evenkeel.server("app", "a").admin == "draining").then_some(()));
    services[1].kill();
    eventually("b is seen to be dead", || (evenkeel.server("app", "b").operational == "unhealthy").then_some(()));
    for upload in &mut uploads {
        let _ = upload.write_all(b"2");
    }
    let done = deploy.wait().ends(6);
    assert!(done.err.contains("nobody would be left to serve"), "{}", done.err);
    assert!(done.err.contains("taken back: app/a"), "{}", done.err);
    assert!(!ran.exists(), "a is all that serves");
    eventually("a serves", || (evenkeel.server("app", "a").admin == "ready").then_some(()));
}

#[test]
fn the_next_goes_when_the_last_takes_all_of_its_requests_again() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services, "slow_start = \"2s\"\nmax_requests = 20\n");
    let done = deploy(&evenkeel, dir.path(), "true", &[]).ends(0);
    let out = &done.out;
    let at = |text: &str| out.find(text).unwrap_or_else(|| panic!("{text}: {out}"));
    assert!(at("1/2 app/a is healthy again") < at("app/a is in its slow start"), "{out}");
    assert!(at("app/a is in its slow start") < at("2/2 app/b restarted"), "{out}");
    assert!(!out.contains("app/b is in its slow start"), "nobody comes after it: {out}");
}
