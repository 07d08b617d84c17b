//! Deploys of a new set of servers beside the old one: swapped at once, or not at all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use harness::{Client, Done, Origin, Process, Running, Service, Signal, asked, command, eventually, origins, reserved};
use serde_json::Value;

const CHECK: &str = "check = { http = { path = \"/healthz\", interval = \"100ms\", timeout = \"5s\" } }";

/// The first of these serve.
fn proxy(origins: &[Origin], more: &str) -> Running {
    let evenkeel = Running::start(&format!("[upstream.app]\n{CHECK}\n{more}{}", harness::servers("app", origins)));
    eventually("all are healthy", || {
        evenkeel.status().upstreams[0].servers.iter().all(|s| s.operational == "healthy").then_some(())
    });
    evenkeel
}

fn deploy(evenkeel: &Running, dir: &Path, more: &[&str]) -> std::process::Command {
    let mut deploy = command(&["deploy", "app", "--admin", evenkeel.socket().to_str().unwrap()]);
    deploy.args(["--watch", "10ms", "--lease", "3s", "--proof"]).arg(dir.join("proof.json")).args(more);
    deploy
}

fn to(new: &[Origin]) -> Vec<String> {
    new.iter().flat_map(|o| ["--replace".to_owned(), format!("{}={}", o.name(), o.address())]).collect()
}

fn run(evenkeel: &Running, dir: &Path, replace: &[String], more: &[&str]) -> Done {
    harness::run(deploy(evenkeel, dir, more).args(replace))
}

/// A deploy whose hook has begun and hangs.
fn in_its_hook(evenkeel: &Running, dir: &Path, new: &[Origin]) -> Process {
    let began = dir.join("began");
    let each = format!("touch {0} && while [ -f {0} ]; do sleep 0.05; done", began.display());
    let deploy = Process::of(deploy(evenkeel, dir, &["--each", &each]).args(to(new)));
    eventually("the hook runs", || began.exists().then_some(()));
    deploy
}

fn proof(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("proof.json")).unwrap()).unwrap()
}

fn names(evenkeel: &Running) -> Vec<String> {
    evenkeel.status().upstreams[0].servers.iter().map(|s| s.name.clone()).collect()
}

#[test]
fn a_new_set_takes_over_under_load_and_nobody_notices() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = origins(4);
    let new = old.split_off(2);
    let evenkeel = proxy(&old, "");
    let (address, over, sent) = (evenkeel.address, AtomicBool::new(false), AtomicUsize::new(0));
    let done = std::thread::scope(|scope| {
        let (over, sent) = (&over, &sent);
        for kept in [true, true, false] {
            scope.spawn(move || {
                let mut client = Client::to(address);
                while !over.load(Relaxed) {
                    if !kept {
                        client.hang_up();
                    }
                    assert_eq!(client.get("/echo").status, 200);
                    assert_eq!(client.try_send("POST", "/sink", &[], b"hello").unwrap().status, 200);
                    sent.fetch_add(2, Relaxed);
                }
            });
        }
        eventually("there is a load", || (sent.load(Relaxed) > 10).then_some(()));
        let done = run(&evenkeel, dir.path(), &to(&new), &["--max-failed", "0"]);
        // From then on all of it is the new set's.
        let before: Vec<_> = old.iter().map(|origin| asked(origin).len()).collect();
        assert_eq!(Client::to(address).get("/echo").status, 200);
        assert_eq!(old.iter().map(|origin| asked(origin).len()).collect::<Vec<_>>(), before);
        over.store(true, Relaxed);
        done
    })
    .ends(0);
    assert!(done.out.contains("swapped: clients go to c, d from now on, and a, b drain"), "{}", done.out);
    assert!(done.out.contains("2 servers drained and removed, 2 in their place"), "{}", done.out);
    assert_eq!(names(&evenkeel), ["c", "d"]);
    let app = evenkeel.status().upstreams.remove(0);
    let removed: std::collections::BTreeSet<&str> = app.removed.iter().map(String::as_str).collect();
    assert_eq!((removed, app.deploy), (["a", "b"].into(), None));
    let proof = proof(dir.path());
    assert_eq!((&proof["failed"], &proof["retried"]), (&0.into(), &0.into()), "{proof}");
    let results: Vec<&str> =
        proof["servers"].as_array().unwrap().iter().map(|turn| turn["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["swapped_in", "swapped_in", "removed", "removed"]);
}

/// A request meets the one set or the other, whichever Snapshot it holds.
#[test]
fn at_no_moment_of_a_swap_is_there_nobody() {
    let all = origins(4);
    let evenkeel = proxy(&all, "slow_start = \"off\"\n");
    let (address, over) = (evenkeel.address, AtomicBool::new(false));
    std::thread::scope(|scope| {
        for kept in [true, true, true, false] {
            let over = &over;
            scope.spawn(move || {
                let mut client = Client::to(address);
                while !over.load(Relaxed) {
                    if !kept {
                        client.hang_up();
                    }
                    let answer = client.get("/echo");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            });
        }
        let sets = [(r#"["a","b"]"#, r#"["c","d"]"#), (r#"["c","d"]"#, r#"["a","b"]"#)];
        for (take_in, take_out) in sets.iter().cycle().take(2000) {
            let body = format!(r#"{{"take_in":{take_in},"take_out":{take_out}}}"#);
            let (status, answer) = evenkeel.admin("POST", "/upstreams/app/swap", &body);
            assert_eq!(status, 200, "{answer}");
        }
        over.store(true, Relaxed);
    });
}

/// Hooks start the new set and stop the old one.
#[test]
fn hooks_start_the_new_set_and_stop_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let script = Service::script(dir.path());
    let old = Service::start("a", dir.path());
    let evenkeel = Running::start(&format!("[upstream.app]\n{CHECK}\n{}", old.table()));
    let (_place, address) = reserved();
    let replace = ["--replace".to_owned(), format!("b={address}")];
    let after =
        format!("kill $(cat {0}/{{name}}.pid) && echo {{name}} {{address}} > {0}/stopped", dir.path().display());
    let done = run(&evenkeel, dir.path(), &replace, &["--exec", script.to_str().unwrap(), "--after", &after]).ends(0);
    assert!(done.out.contains("app/b started in") && done.out.contains("app/a: --after has run"), "{}", done.out);
    let stopped = std::fs::read_to_string(dir.path().join("stopped")).unwrap();
    assert_eq!(stopped.trim(), format!("a {}", old.address));
    assert_eq!(names(&evenkeel), ["b"]);
    assert_eq!(evenkeel.client().get("/echo").server(), "b");
    let pid: i32 = std::fs::read_to_string(dir.path().join("b.pid")).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_new_set_that_is_not_healthy_is_taken_away_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = origins(3);
    let new = old.split_off(2);
    let evenkeel = proxy(&old, "");
    let (_place, nobody) = reserved();
    let mut replace = to(&new);
    replace.extend(["--replace".to_owned(), format!("d={nobody}")]);
    let done = run(&evenkeel, dir.path(), &replace, &["--healthy-within", "3s"]).ends(6);
    assert!(done.err.contains("app/d was not healthy within 3s (") && done.err.contains("refused"), "{}", done.err);
    assert!(done.err.contains("taken away again: app/c"), "{}", done.err);
    assert_eq!(names(&evenkeel), ["a", "b"]);
    assert!(evenkeel.status().upstreams[0].servers.iter().all(|s| s.admin == "ready"), "nobody was swapped");
    assert_eq!(asked(&new[0]).len(), 0, "a new server gets no client before the swap");
    assert_eq!(proof(dir.path())["servers"][1]["result"], "failed");
}

#[test]
fn ctrl_c_before_the_swap_undoes_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = origins(2);
    let new = old.split_off(1);
    let evenkeel = proxy(&old, "");
    let deploy = in_its_hook(&evenkeel, dir.path(), &new);
    assert_eq!(evenkeel.server("app", "b").admin, "drained", "it is there, and gets nobody");
    (0..5).for_each(|_| assert_eq!(evenkeel.client().get("/echo").server(), "a"));
    deploy.signal(Signal::INT);
    let done = deploy.wait().ends(6);
    assert!(done.err.contains("it was interrupted, and its hook was"), "{}", done.err);
    assert_eq!(names(&evenkeel), ["a"]);
}

/// Who is logged in stays where they are until they are done, and the end of the old set is the proxy's.
#[test]
fn after_the_swap_the_proxy_ends_it_even_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = origins(2);
    let new = old.split_off(1);
    let evenkeel = proxy(
        &old,
        "policy = { sticky_cookie = { new_clients = \"round_robin\" } }\n\
         drain = { sessions_idle = \"2s\", sessions_max = \"60s\", in_flight = \"30s\" }\n",
    );
    let cookie = evenkeel.client().get("/echo").cookie("evenkeel").unwrap();
    let mut user = evenkeel.client().with("cookie", &cookie);
    assert_eq!(user.get("/echo").server(), "a");
    let deploy = Process::of(deploy(&evenkeel, dir.path(), &[]).args(to(&new)));
    eventually("it is swapped", || deploy.out().contains("swapped:").then_some(()));
    assert_eq!(user.get("/echo").server(), "a", "a session stays");
    assert_eq!(evenkeel.client().get("/echo").server(), "b", "and who is new comes to the new set");
    deploy.signal(Signal::INT);
    let done = deploy.wait().ends(6);
    assert!(done.err.contains("the swap holds"), "{}", done.err);
    eventually("the old set is gone", || (names(&evenkeel) == ["b"]).then_some(()));
    assert_eq!(user.get("/echo").server(), "b");
}

#[test]
fn a_command_that_dies_before_the_swap_leaves_new_servers_without_clients() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = origins(2);
    let new = old.split_off(1);
    let evenkeel = proxy(&old, "");
    let mut deploy = in_its_hook(&evenkeel, dir.path(), &new);
    deploy.kill();
    eventually("the proxy sees that it is dead", || {
        evenkeel.status().upstreams[0].deploy.as_ref().is_some_and(|deploy| deploy.orphaned).then_some(())
    });
    let state = evenkeel.server("app", "b");
    assert_eq!((state.admin.as_str(), state.operational.as_str()), ("drained", "healthy"), "healthy, and not asked");
    let done = evenkeel.verb(&["deploy", "app", "--attach", "--each", "true"]).ends(1);
    assert!(done.err.contains("--abandon"), "{}", done.err);
    let done = evenkeel.verb(&["deploy", "app", "--abandon"]).ends(0);
    assert!(done.out.contains("app/b is removed"), "{}", done.out);
    assert_eq!(names(&evenkeel), ["a"]);
    assert_eq!(asked(&new[0]).len(), 0);
}

#[test]
fn what_was_swapped_in_stays_when_the_command_dies_after_the_swap() {
    let mut old = origins(3);
    let new = old.split_off(1);
    let evenkeel = proxy(&old, "");
    let tell = |path: &str, body: &str| {
        let (status, answer) = evenkeel.admin("POST", &format!("/upstreams/app/{path}"), body);
        assert!(matches!(status, 200 | 201), "{body}: {status} {answer}");
    };
    tell("deploy", r#"{"by":"x","kind":"replace","servers":["b","c"],"lease":"1s"}"#);
    for o in &new {
        tell("servers", &format!(r#"{{"name":"{}","address":"{}","standby":true}}"#, o.name(), o.address()));
    }
    eventually("all are healthy", || {
        evenkeel.status().upstreams[0].servers.iter().all(|s| s.operational == "healthy").then_some(())
    });
    tell("swap", r#"{"take_in":["b","c"],"take_out":["a"],"remove":true}"#);
    eventually("the proxy sees that its command is dead", || {
        evenkeel.status().upstreams[0].deploy.as_ref().is_some_and(|deploy| deploy.orphaned).then_some(())
    });
    evenkeel.verb(&["deploy", "app", "--abandon"]).ends(0);
    eventually("the old set is gone", || (names(&evenkeel) == ["b", "c"]).then_some(()));
    assert!(evenkeel.status().upstreams[0].servers.iter().all(|s| s.admin == "ready"));
}

/// In front of the admin API: the answer to a swap is lost on its way.
fn loses_the_answer_to_a_swap(socket: &Path, at: &Path) {
    let (listener, socket) = (UnixListener::bind(at).unwrap(), socket.to_owned());
    // It ends with the process.
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) = (client, UnixStream::connect(&socket)) else { return };
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut piece = [0; 4096];
                let n = client.read(&mut piece)?;
                server.write_all(&piece[..n])?;
                let (mut rest, mut onward) = (client.try_clone()?, server.try_clone()?);
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut rest, &mut onward);
                    onward.shutdown(Shutdown::Both)
                });
                if piece.starts_with(b"POST /upstreams/app/swap ") {
                    let _ = server.read(&mut piece)?;
                } else {
                    let _ = std::io::copy(&mut server, &mut client);
                }
                client.shutdown(Shutdown::Both)
            });
        }
    });
}

#[test]
fn a_swap_whose_answer_is_lost_is_no_reason_to_take_the_new_set_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = origins(2);
    let new = old.split_off(1);
    let evenkeel = proxy(&old, "");
    let between = dir.path().join("between.sock");
    loses_the_answer_to_a_swap(evenkeel.socket(), &between);
    let mut deploy = command(&["deploy", "app", "--watch", "10ms", "--admin", between.to_str().unwrap(), "--proof"]);
    let done = harness::run(deploy.arg(dir.path().join("proof.json")).args(to(&new))).ends(0);
    assert!(done.err.contains("nobody says whether the servers were swapped"), "{}", done.err);
    assert!(done.out.contains("swapped: clients go to b"), "{}", done.out);
    assert_eq!(names(&evenkeel), ["b"]);
    assert_eq!(evenkeel.client().get("/echo").server(), "b");
}

#[test]
fn a_swap_is_all_or_nothing() {
    let old = origins(2);
    let evenkeel = proxy(&old, "");
    let (_place, nobody) = reserved();
    let body = format!(r#"{{"name":"z","address":"{nobody}","standby":true}}"#);
    assert_eq!(evenkeel.admin("POST", "/upstreams/app/servers", &body).0, 201);
    for (body, status, wrong) in [
        (r#"{"take_in":["z"],"take_out":["a","b"]}"#, 400, "`z` is not seen to be healthy: nothing was swapped"),
        (r#"{"take_in":["x"],"take_out":["a"]}"#, 404, "no server `x`"),
        (r#"{"take_in":[],"take_out":["a"]}"#, 400, "say `take_in`"),
        (r#"{"take_in":["a"],"take_out":["a"]}"#, 400, "in and out at once"),
        (r#"{"take_in":["a"],"take_out":["b"],"in_flight":"soon"}"#, 400, "in_flight: "),
    ] {
        let (code, answer) = evenkeel.admin("POST", "/upstreams/app/swap", body);
        assert!(code == status && answer.contains(wrong), "{body}: {code} {answer}");
    }
    let ready = |name: &str| evenkeel.server("app", name).admin == "ready";
    assert!(ready("a") && ready("b") && !ready("z"));
    for (replace, wrong) in [("a=127.0.0.1:1", "a name of its own"), ("x", "its address, such as")] {
        let done = evenkeel.verb(&["deploy", "app", "--replace", replace]);
        assert!(done.code != Some(0) && done.err.contains(wrong), "{done:?}");
    }
}
