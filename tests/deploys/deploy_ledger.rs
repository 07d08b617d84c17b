//! The ledger of a deploy: what becomes of servers when the command dies, and who may go on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::path::Path;

use harness::{Process, Running, Service, Signal, command, eventually};
use serde_json::{Value, json};

fn config(services: &[Service], more: &str) -> String {
    let servers: String = services.iter().map(Service::table).collect();
    format!("[upstream.app]\n{more}\nslow_start = \"off\"\n{servers}")
}

const CHECK: &str = "check = { http = { path = \"/healthz\", interval = \"100ms\", timeout = \"5s\" } }";

fn proxy(services: &[Service]) -> Running {
    let evenkeel = Running::start(&config(services, CHECK));
    all_serve(&evenkeel);
    evenkeel
}

fn all_serve(evenkeel: &Running) {
    eventually("all serve", || states(evenkeel).iter().all(|state| state == "ready healthy").then_some(()));
}

fn states(evenkeel: &Running) -> Vec<String> {
    evenkeel.status().upstreams[0].servers.iter().map(|s| format!("{} {}", s.admin, s.operational)).collect()
}

/// A deploy that is taken for dead three seconds after its last word.
fn deploy(evenkeel: &Running, each: &str, proof: &Path, more: &[&str]) -> Process {
    let mut deploy = command(&["deploy", "app", "--admin", evenkeel.socket().to_str().unwrap()]);
    deploy.args(["--watch", "10ms", "--lease", "3s", "--each", each, "--proof"]).arg(proof).args(more);
    Process::of(&mut deploy)
}

fn is_orphaned(evenkeel: &Running) -> bool {
    evenkeel.status().upstreams[0].deploy.as_ref().is_some_and(|deploy| deploy.orphaned)
}

/// A hook that says which servers it was for, and that hangs for `b` until it is let go.
fn hook(dir: &Path) -> String {
    let dir = dir.display();
    format!("echo {{name}} >> {dir}/ran; [ {{name}} != b ] || {}", hangs(&dir))
}

/// Lasts until it is let go, or the test is over: nobody else ends what a command leaves behind that is killed.
fn hangs(dir: &impl std::fmt::Display) -> String {
    format!("while [ -d {dir} ] && [ ! -f {dir}/go ]; do sleep 0.05; done")
}

fn ran(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("ran")).unwrap_or_default()
}

#[test]
fn a_server_in_work_comes_back_when_the_command_dies_and_another_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b", "c"], dir.path());
    let evenkeel = proxy(&services);
    let (hook, file) = (hook(dir.path()), dir.path().join("proof.json"));
    let mut first = deploy(&evenkeel, &hook, &file, &[]);
    eventually("the hook of b runs", || ran(dir.path()).contains('b').then_some(()));
    let status = evenkeel.verb(&["status"]).ends(0).out;
    assert!(status.contains("1 of 3 servers done, b in its hook"), "{status}");

    // One is enough.
    let second = evenkeel.verb(&["deploy", "app", "--each", "true"]).ends(1);
    assert!(second.err.contains("deploys `app` since") && second.err.contains("--attach"), "{}", second.err);
    let second = evenkeel.verb(&["deploy", "app", "--attach", "--each", "true"]).ends(1);
    assert!(second.err.contains("is at it, and reported"), "{}", second.err);
    let second = evenkeel.verb(&["deploy", "app", "--abandon"]).ends(1);
    assert!(second.err.contains("a deploy can be abandoned once"), "{}", second.err);

    first.kill();
    eventually("the proxy sees that it is dead", || is_orphaned(&evenkeel).then_some(()));
    all_serve(&evenkeel);
    assert_eq!(ran(dir.path()), "a\nb\n", "the proxy runs nothing");
    let status = evenkeel.verb(&["status"]).ends(0).out;
    assert!(status.contains("its command has been silent for") && status.contains("--abandon"), "{status}");

    // What is to be run is not the proxy's to know.
    let bare = evenkeel.verb(&["deploy", "app", "--attach"]).ends(2);
    assert!(bare.err.contains("servers left (b, c)") && bare.err.contains("--each"), "{}", bare.err);
    std::fs::write(dir.path().join("go"), "").unwrap();
    let file = file.to_str().unwrap();
    let done =
        evenkeel.verb(&["deploy", "app", "--attach", "--each", &hook, "--watch", "10ms", "--proof", file]).ends(0);
    assert!(done.err.contains("2 of 3 servers left"), "{}", done.err);
    assert!(done.out.contains("3 of 3 servers restarted"), "{}", done.out);
    assert_eq!(ran(dir.path()), "a\nb\nb\nc\n", "what has had its turn has it once");
    all_serve(&evenkeel);
    assert_eq!(evenkeel.status().upstreams[0].deploy, None);
    let proof: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let turns = proof["servers"].as_array().unwrap();
    assert!(turns.iter().all(|turn| turn["result"] == "restarted"), "{proof}");
    let nothing = evenkeel.verb(&["deploy", "app", "--attach"]).ends(1);
    assert!(nothing.err.contains("nobody deploys"), "{}", nothing.err);
}

#[test]
fn what_one_command_has_seen_is_in_the_proof_of_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services);
    let (hook, file) = (hook(dir.path()), dir.path().join("proof.json"));
    let mut first = deploy(&evenkeel, &hook, &file, &[]);
    eventually("the hook of b runs", || ran(dir.path()).contains('b').then_some(()));
    let mut client = evenkeel.client();
    (0..30).for_each(|_| assert_eq!(client.get("/echo").status, 200));
    first.kill();
    eventually("the proxy sees that it is dead", || is_orphaned(&evenkeel).then_some(()));
    std::fs::write(dir.path().join("go"), "").unwrap();
    let file = file.to_str().unwrap();
    let verb = ["deploy", "app", "--attach", "--each", &hook, "--watch", "10ms", "--proof", file, "--output", "json"];
    let proof = evenkeel.verb(&verb).ends(0).json();
    assert!(proof["during"]["requests"].as_u64().unwrap() >= 30, "{proof}");
    assert!(proof["during"]["seconds"].as_f64().unwrap() > 1.0, "since the first turn: {proof}");
}

#[test]
fn a_server_that_only_drained_is_back_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services);
    // A request that takes long holds the drain.
    let (address, path) = (evenkeel.address, "/slow?ms=3000");
    let slow = std::thread::spawn(move || {
        let mut clients: Vec<_> = (0..2).map(|_| harness::Client::to(address)).collect();
        let answers = std::thread::scope(|scope| {
            let asked = clients.iter_mut().map(|client| scope.spawn(|| client.get(path).status));
            asked.collect::<Vec<_>>().into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<u16>>()
        });
        assert_eq!(answers, [200, 200]);
    });
    eventually("both are busy", || {
        evenkeel.status().upstreams[0].servers.iter().all(|s| s.in_flight > 0).then_some(())
    });
    let file = dir.path().join("proof.json");
    let mut first = deploy(&evenkeel, &hook(dir.path()), &file, &[]);
    eventually("a drains", || (evenkeel.server("app", "a").admin == "draining").then_some(()));
    first.kill();
    eventually("the proxy sees that it is dead", || is_orphaned(&evenkeel).then_some(()));
    assert_eq!(evenkeel.server("app", "a").admin, "ready", "nothing was done to it");
    assert_eq!(ran(dir.path()), "");
    slow.join().unwrap();
    let done = evenkeel.verb(&["deploy", "app", "--abandon"]).ends(0);
    assert!(done.out.contains("the deploy of app is abandoned"), "{}", done.out);
    all_serve(&evenkeel);
    evenkeel.verb(&["deploy", "app", "--abandon"]).ends(1);
}

#[test]
fn a_server_that_does_not_come_back_stays_out_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services);
    let dir_name = dir.path().display();
    let each = format!("kill -9 $(cat {dir_name}/{{name}}.pid); touch {dir_name}/killed; {}", hangs(&dir_name));
    let mut first = deploy(&evenkeel, &each, &dir.path().join("proof.json"), &["--healthy-within", "500ms"]);
    eventually("a is dead", || dir.path().join("killed").exists().then_some(()));
    first.kill();
    evenkeel.process.says("servers stay out: the command that deployed them has died");
    let status = evenkeel.verb(&["status"]).ends(0).out;
    assert!(status.contains("stays out until it is healthy: a: ") && status.contains("refused"), "{status}");
    assert_eq!(evenkeel.server("app", "a").admin, "drained");
    // Whoever repairs it has nothing else to do.
    let mut restart = std::process::Command::new("/bin/sh");
    restart.arg(dir.path().join("restart.sh")).env("EVENKEEL_SERVER", "a");
    assert!(restart.env("EVENKEEL_ADDRESS", services[0].address.to_string()).status().unwrap().success());
    all_serve(&evenkeel);
    evenkeel.process.says("comes back, although its deploy has died");
    assert!(is_orphaned(&evenkeel), "the rest is somebody's to decide");
}

#[test]
fn an_operator_decides_over_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = Running::start(&config(&services, "check = \"off\""));
    all_serve(&evenkeel);
    let each = format!("touch {0}/began; {1}", dir.path().display(), hangs(&dir.path().display()));
    let mut first = deploy(&evenkeel, &each, &dir.path().join("proof.json"), &[]);
    eventually("the hook runs", || dir.path().join("began").exists().then_some(()));
    first.kill();
    eventually("the proxy sees that it is dead", || is_orphaned(&evenkeel).then_some(()));
    let status = evenkeel.verb(&["status"]).ends(0).out;
    assert!(status.contains("stays out until it is healthy: a: no check can say"), "{status}");
    evenkeel.verb(&["ready", "app/a"]).ends(0);
    all_serve(&evenkeel);
    let status = evenkeel.verb(&["status"]).ends(0).out;
    assert!(!status.contains("stays out"), "{status}");
}

/// In a drain its sessions would come to it again, and it may not even run.
#[test]
fn a_server_that_is_out_already_is_not_drained_again() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let more = "policy = { sticky_cookie = { new_clients = \"round_robin\" } }\ncheck = \"off\"";
    let evenkeel = Running::start(&config(&services, more));
    all_serve(&evenkeel);
    let each = format!("touch {0}/began; {1}", dir.path().display(), hangs(&dir.path().display()));
    let mut first = deploy(&evenkeel, &each, &dir.path().join("proof.json"), &["--sessions-max", "1s"]);
    eventually("the hook runs", || dir.path().join("began").exists().then_some(()));
    first.kill();
    eventually("the proxy sees that it is dead", || is_orphaned(&evenkeel).then_some(()));
    assert_eq!(evenkeel.server("app", "a").admin, "disabled");
    let (hook, file) = (hook(dir.path()), dir.path().join("proof.json"));
    std::fs::write(dir.path().join("go"), "").unwrap();
    let verb = ["deploy", "app", "--attach", "--each", &hook, "--watch", "10ms", "--proof", file.to_str().unwrap()];
    let done = evenkeel.verb(&verb).ends(0);
    assert_eq!(ran(dir.path()), "a\nb\n");
    assert!(done.out.contains("2 of 2 servers restarted"), "{}", done.out);
    let log = evenkeel.stop().ends(0).err;
    let drains =
        |name: &str| log.lines().filter(|line| line.contains("server is draining") && line.contains(name)).count();
    assert_eq!((drains("server=a"), drains("server=b")), (1, 1), "{log}");
}

/// A laptop that slept, for example.
#[test]
fn a_command_that_was_away_for_too_long_stops() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let evenkeel = proxy(&services);
    let hook = hook(dir.path());
    let first = deploy(&evenkeel, &hook, &dir.path().join("proof.json"), &[]);
    eventually("the hook of b runs", || ran(dir.path()).contains('b').then_some(()));
    first.signal(Signal::STOP);
    eventually("the proxy takes it for dead", || is_orphaned(&evenkeel).then_some(()));
    all_serve(&evenkeel);
    first.signal(Signal::CONT);
    let done = first.wait().ends(6);
    assert!(done.err.contains("has not reported for too long: go on with --attach"), "{}", done.err);
    assert!(!done.err.contains("taken back"), "that is no longer its: {}", done.err);
    assert!(is_orphaned(&evenkeel));
}

#[test]
fn the_ledger_survives_a_restart_of_the_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let state = format!("state_dir = \"{}\"\n", dir.path().join("state").display());
    let toml = format!("{state}{}", config(&services, CHECK));
    let evenkeel = Running::start(&toml);
    all_serve(&evenkeel);
    let hook = hook(dir.path());
    let mut first = deploy(&evenkeel, &hook, &dir.path().join("proof.json"), &[]);
    eventually("the hook of b runs", || ran(dir.path()).contains('b').then_some(()));
    first.kill();
    evenkeel.stop().ends(0);
    let evenkeel = Running::start(&toml);
    eventually("the proxy sees that it is dead", || is_orphaned(&evenkeel).then_some(()));
    all_serve(&evenkeel);
    let status = evenkeel.status();
    let deploy = status.upstreams[0].deploy.as_ref().unwrap();
    assert_eq!(
        serde_json::to_value(&deploy.turns).unwrap(),
        json!([
            { "server": "a", "phase": "done" }, { "server": "b", "phase": "hook" }
        ])
    );
    // The counts of another process are no counts of this one.
    std::fs::write(dir.path().join("go"), "").unwrap();
    let file = dir.path().join("proof.json");
    let verb = ["deploy", "app", "--attach", "--each", &hook, "--watch", "10ms", "--proof", file.to_str().unwrap()];
    let done = evenkeel.verb(&[&verb[..], &["--max-failed", "0"]].concat()).ends(6);
    assert!(done.out.contains("evenkeel itself was restarted meanwhile"), "{}", done.out);
    assert!(done.err.contains("--max-lost are met cannot be said"), "{}", done.err);
    all_serve(&evenkeel);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a"], dir.path());
    let evenkeel = proxy(&services);
    let path = "/upstreams/app/deploy";
    for (method, path, body, status, wrong) in [
        ("POST", "/upstreams/x/deploy", r#"{"by":"x","kind":"rolling","servers":[]}"#, 404, "no upstream `x`"),
        ("POST", path, r#"{"by":"x","kind":"wild","servers":[]}"#, 400, "`wild` is no kind"),
        ("POST", path, r#"{"by":"x","kind":"rolling","servers":["z"]}"#, 404, "no server `z`"),
        ("POST", path, r#"{"by":"x","kind":"rolling","servers":["a"],"lease":"1ms"}"#, 400, "a lease is 1s to 10m"),
        ("POST", path, r#"{"by":"x","kind":"rolling","servers":["a"],"each":"reboot"}"#, 400, "unknown field `each`"),
        ("PUT", path, r#"{"id":"1"}"#, 404, "nobody deploys"),
        ("POST", "/upstreams/app/deploy/attach", r#"{"by":"x"}"#, 404, "nobody deploys"),
        ("DELETE", path, "{}", 404, "nobody deploys"),
    ] {
        let (code, answer) = evenkeel.admin(method, path, body);
        assert!(code == status && answer.contains(wrong), "{method} {path} {body}: {code} {answer}");
    }
    let (code, answer) = evenkeel.admin("POST", path, r#"{"by":"x","kind":"rolling","servers":["a"]}"#);
    assert_eq!(code, 201);
    // Hundreds of servers make long notes.
    let opened: Value = serde_json::from_str(&answer).unwrap();
    let report = json!({ "id": opened["id"], "notes": "x".repeat(500 << 10) });
    let (code, answer) = evenkeel.admin("PUT", path, &report.to_string());
    assert_eq!(code, 200, "{answer}");
    let (code, answer) = evenkeel.admin("PUT", path, r#"{"id":"1"}"#);
    assert!(code == 409 && answer.contains("x goes on with this deploy"), "{code} {answer}");
}
