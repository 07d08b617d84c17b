//! Canaries: some users meet the new servers first, and the rest do when those are not worse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use harness::{Client, Origin, Process, Running, Signal, asked, command, eventually, origins};
use serde_json::Value;

/// Each request takes so long that noise is less than the next power of two.
const DELAY: Duration = Duration::from_millis(70);

/// `a` and `b` serve; `c` is to come.
struct Lab {
    evenkeel: Running,
    old: Vec<Origin>,
    new: Vec<Origin>,
    dir: tempfile::TempDir,
}

fn lab(more: &str) -> Lab {
    let mut old = origins(3);
    old.iter().for_each(|origin| origin.behave(|behaviour| behaviour.delay = DELAY));
    let new = old.split_off(2);
    let check = "check = { http = { path = \"/healthz\", interval = \"100ms\", timeout = \"5s\" } }";
    let evenkeel = Running::start(&format!(
        "[upstream.app]\n{check}\nslow_start = \"off\"\noutliers = false\n{more}{}",
        harness::servers("app", &old)
    ));
    eventually("all are healthy", || {
        evenkeel.status().upstreams[0].servers.iter().all(|s| s.operational == "healthy").then_some(())
    });
    Lab { evenkeel, old, new, dir: tempfile::tempdir().unwrap() }
}

impl Lab {
    fn deploy(&self, more: &[&str]) -> Process {
        let mut deploy = command(&["deploy", "app", "--admin", self.evenkeel.socket().to_str().unwrap()]);
        deploy.args(["--watch", "10ms", "--lease", "3s", "--proof"]).arg(self.dir.path().join("proof.json"));
        deploy.args(["--replace", &format!("c={}", self.new[0].address())]).args(more);
        Process::of(&mut deploy)
    }

    fn proof(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.dir.path().join("proof.json")).unwrap()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.evenkeel.status().upstreams[0].servers.iter().map(|s| s.name.clone()).collect()
    }

    fn waits_for_canary(&self) {
        eventually("the canary", || self.evenkeel.status().upstreams[0].canary.is_some().then_some(()));
    }

    /// New users, one after the other on each of some connections, until `work` is done.
    fn under_load<T>(&self, work: impl FnOnce() -> T) -> T {
        let (over, address) = (AtomicBool::new(false), self.evenkeel.address);
        std::thread::scope(|scope| {
            let _end = OnDrop(&over);
            for _ in 0..6 {
                let over = &over;
                scope.spawn(move || {
                    let mut client = Client::to(address);
                    while !over.load(Relaxed) {
                        client.try_send("GET", "/echo", &[], b"").unwrap();
                    }
                });
            }
            work()
        })
    }
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Both sides do the same, so the swap comes; and who met the new server did so each time.
#[test]
fn a_good_canary_becomes_the_new_set() {
    let lab = lab("");
    let done = lab.under_load(|| {
        let deploy = lab.deploy(&["--percent", "50", "--for", "5s"]);
        lab.waits_for_canary();
        let status = lab.evenkeel.verb(&["status"]).ends(0).out;
        assert!(status.contains("canary: 50 % of users, by cookie, meet c"), "{status}");
        let (mut on_new, mut on_old) = (0, 0);
        // By lot: a few dozen users come to both sides.
        for user in 0..40 {
            if user >= 12 && on_new > 0 && on_old > 0 {
                break;
            }
            let first = lab.evenkeel.client().get("/echo");
            let cookie = first.cookie("evenkeel_canary").expect("a new user is given a number");
            let mut user = lab.evenkeel.client().with("cookie", &cookie);
            let second = user.get("/echo");
            if lab.evenkeel.status().upstreams[0].canary.is_none() {
                break;
            }
            let side = |server: &str| if server == "c" { "new" } else { "old" };
            assert_eq!(side(second.server()), side(first.server()), "a user stays on their side");
            assert_eq!(second.cookie("evenkeel_canary"), None, "once");
            assert!(!second.text().contains("evenkeel_canary"), "the server does not see it: {}", second.text());
            *(if side(second.server()) == "new" { &mut on_new } else { &mut on_old }) += 1;
        }
        assert!(on_new > 0 && on_old > 0, "{on_new} and {on_old}");
        deploy.wait()
    });
    let done = done.ends(0);
    assert!(done.err.contains("the new servers were not worse: with "), "{}", done.err);
    assert!(done.err.contains("would have been seen (with 80 % probability)"), "{}", done.err);
    assert_eq!(lab.names(), ["c"]);
    assert_eq!(lab.evenkeel.client().get("/echo").cookie("evenkeel_canary"), None, "it is over");
    let canary = &lab.proof()["canary"];
    assert!(canary["new"]["requests"].as_u64() > Some(5) && canary["old"]["requests"].as_u64() > Some(5), "{canary}");
    assert_eq!((&canary["worse"], &canary["new"]["failures"]), (&Value::Null, &0.into()), "{canary}");
}

#[test]
fn a_canary_that_fails_is_undone_at_once() {
    let lab = lab("");
    lab.new[0].behave(|behaviour| behaviour.status = Some(500));
    let done = lab.under_load(|| lab.deploy(&["--percent", "30", "--for", "1h"]).wait());
    let done = done.ends(6);
    assert!(
        done.err.contains("the new servers are worse: ") && done.err.contains("failed there (100.00 %)"),
        "{}",
        done.err
    );
    assert!(done.err.contains("its users go back") && done.err.contains("taken away again: app/c"), "{}", done.err);
    eventually("c is gone", || (lab.names() == ["a", "b"]).then_some(()));
    let proof = lab.proof();
    assert!(proof["canary"]["worse"].as_str().unwrap().contains("failed there"));
    // What it had counted is not gone with it.
    let failures = proof["canary"]["new"]["failures"].as_u64().unwrap();
    assert!(failures > 0 && proof["server_errors"].as_u64().unwrap() >= failures, "{proof}");
    assert!(proof["requests_by_server"]["c"].as_u64().unwrap() >= failures, "{proof}");
    let before = asked(&lab.new[0]).len();
    (0..5).for_each(|_| assert_eq!(lab.evenkeel.client().get("/echo").status, 200));
    assert_eq!(asked(&lab.new[0]).len(), before, "nobody goes there any more");
}

#[test]
fn a_canary_that_is_slow_is_undone() {
    let lab = lab("");
    lab.new[0].behave(|behaviour| behaviour.delay = DELAY * 10);
    let done = lab.under_load(|| lab.deploy(&["--percent", "30", "--for", "1h"]).wait());
    let done = done.ends(6);
    assert!(done.err.contains("the new servers are worse: ") && done.err.contains("took longer than"), "{}", done.err);
}

/// Nobody judges it any more, so nobody meets it.
#[test]
fn a_canary_ends_with_the_command_however_that_ends() {
    let lab = lab("");
    let deploy = lab.deploy(&["--percent", "100", "--for", "1h"]);
    lab.waits_for_canary();
    assert_eq!(lab.evenkeel.client().get("/echo").server(), "c");
    deploy.signal(Signal::INT);
    let done = deploy.wait().ends(6);
    assert!(done.err.contains("its users go back") && done.err.contains("it was interrupted"), "{}", done.err);
    eventually("c is gone", || (lab.names() == ["a", "b"]).then_some(()));

    let mut deploy = lab.deploy(&["--percent", "100", "--for", "1h"]);
    lab.waits_for_canary();
    assert_eq!(lab.evenkeel.client().get("/echo").server(), "c");
    deploy.kill();
    eventually("the canary has ended", || lab.evenkeel.status().upstreams[0].canary.is_none().then_some(()));
    assert_ne!(lab.evenkeel.client().get("/echo").server(), "c");
    let done = lab.evenkeel.verb(&["deploy", "app", "--abandon"]).ends(0);
    assert!(done.out.contains("app/c is removed"), "{}", done.out);
    assert_eq!(lab.names(), ["a", "b"]);
    assert!(lab.old.iter().all(|origin| asked(origin).len() < 10));
}

#[test]
fn networks_can_be_let_in() {
    let lab = lab("");
    let by_nobody = lab.deploy(&["--percent", "0", "--for", "300ms"]).wait().ends(6);
    assert!(by_nobody.err.contains("there is nothing to compare"), "{}", by_nobody.err);
    assert!(by_nobody.err.contains("no failure rate could have been told from chance"), "{}", by_nobody.err);
    let deploy = lab.deploy(&["--percent", "0", "--for", "1h", "--allow", "10.0.0.0/8,127.0.0.1", "--by", "address"]);
    lab.waits_for_canary();
    for _ in 0..4 {
        let answer = lab.evenkeel.client().get("/echo");
        assert_eq!((answer.server(), answer.cookie("evenkeel_canary")), ("c", None));
    }
    let status = lab.evenkeel.verb(&["status"]).ends(0).out;
    assert!(status.contains("0 % of users, by address, and all of 10.0.0.0/8, 127.0.0.1/32, meet c"), "{status}");
    deploy.signal(Signal::INT);
    deploy.wait().ends(6);
}

/// Who has a session is where it is; who is new is drawn, and stays.
#[test]
fn sticky_users_stay_where_they_are() {
    let lab = lab("policy = { sticky_cookie = { new_clients = \"round_robin\" } }\n");
    let user = |cookie: &str| lab.evenkeel.client().with("cookie", cookie).get("/echo").server().to_owned();
    let first = lab.evenkeel.client().get("/echo");
    let (before, at) = (first.cookie("evenkeel").unwrap(), first.server().to_owned());
    let deploy = lab.deploy(&["--percent", "50", "--for", "1h"]);
    lab.waits_for_canary();
    let mut new = None;
    for _ in 0..60 {
        let answer = lab.evenkeel.client().get("/echo");
        assert_eq!(answer.cookie("evenkeel_canary"), None, "one cookie is enough");
        if answer.server() == "c" {
            new = answer.cookie("evenkeel");
            break;
        }
    }
    let new = new.expect("half of the new users meet it");
    (0..3).for_each(|_| assert_eq!((user(&before), user(&new)), (at.clone(), "c".to_owned())));
    // Undone, its users move with their next request.
    deploy.signal(Signal::INT);
    deploy.wait().ends(6);
    assert_ne!(user(&new), "c");
}

#[test]
fn a_canary_needs_a_deploy_and_makes_sense() {
    let lab = lab("");
    let (put, path) = ("PUT", "/upstreams/app/canary");
    let (code, answer) = lab.evenkeel.admin(put, path, r#"{"servers":["b"],"percent":5}"#);
    assert!(code == 400 && answer.contains("part of a deploy"), "{code} {answer}");
    let open = r#"{"by":"x","kind":"replace","servers":["b"]}"#;
    assert_eq!(lab.evenkeel.admin("POST", "/upstreams/app/deploy", open).0, 201);
    for (body, status, wrong) in [
        (r#"{"servers":["b"],"percent":101}"#, 400, "no share of users"),
        (r#"{"servers":["a","b"],"percent":5}"#, 400, "not of all"),
        (r#"{"servers":["z"],"percent":5}"#, 404, "no server `z`"),
        (r#"{"servers":["b"],"percent":5,"allow":["x"]}"#, 400, "`x` is no network"),
        (r#"{"servers":["b"],"percent":5,"by":"name"}"#, 400, "not by `name`"),
    ] {
        let (code, answer) = lab.evenkeel.admin(put, path, body);
        assert!(code == status && answer.contains(wrong), "{body}: {code} {answer}");
    }
    let done = lab.evenkeel.verb(&["deploy", "app", "--replace", "c=127.0.0.1:1", "--percent", "200"]).ends(2);
    assert!(done.err.contains("a share of users, 0 to 100"), "{}", done.err);
    let done = lab.evenkeel.verb(&["deploy", "app", "--each", "true", "--percent", "5"]).ends(2);
    assert!(done.err.contains("--replace"), "{}", done.err);
}
