//! An upgrade that fails: whatever becomes of the new process, the old one goes on, and says why.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::path::PathBuf;

use harness::upgrading::{Upgrading, gone, kill};
use harness::{Client, Held, Origin, Signal, app, eventually, executable, origins};

const RR: &str = "\"round_robin\"";

fn start(upgrade: &str, origins: &[Origin]) -> Upgrading {
    Upgrading::start(&format!("[upgrade]\n{upgrade}\n{}", app(RR, origins)))
}

/// A program that is none of evenkeel's. `PID` is a file that it may write.
fn script(evenkeel: &Upgrading, text: &str) -> PathBuf {
    let path = evenkeel.dir().join("script");
    let pid = evenkeel.dir().join("pid");
    executable(&path, &format!("#!/bin/sh\n{}\n", text.replace("PID", pid.to_str().unwrap())));
    path
}

/// The process that the script was.
fn of_script(evenkeel: &Upgrading) -> u32 {
    eventually("the script's number", || std::fs::read_to_string(evenkeel.dir().join("pid")).ok()?.trim().parse().ok())
}

#[track_caller]
fn serves(evenkeel: &Upgrading) {
    assert_eq!(evenkeel.client().get("/echo").status, 200);
    let status = evenkeel.status();
    assert!(status.upgrade.is_none() && status.predecessor.is_none());
    assert_eq!(status.phase, "serving");
}

#[test]
fn an_invalid_configuration_is_shown_whole() {
    let origins = origins(1);
    let evenkeel = start("", &origins);
    evenkeel
        .write(&format!("[upstream.more]\npolicy = \"round_robbin\"\nservers = [\"nowhere\"]\n{}", app(RR, &origins)));
    let done = evenkeel.upgrade_fails().ends(3);
    for words in ["unknown policy `round_robbin`", "did you mean `round_robin`?", "2 errors, "] {
        assert!(done.err.contains(words), "{}", done.err);
    }
    evenkeel.process.says("upgrade failed, this process goes on: the configuration is invalid");
    serves(&evenkeel);
    evenkeel.write(&app(RR, &origins));
    evenkeel.upgrade();
    serves_again(&evenkeel);
}

#[track_caller]
fn serves_again(evenkeel: &Upgrading) {
    evenkeel.alone();
    serves(evenkeel);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let origins = origins(1);
    let evenkeel = start("", &origins);
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = format!(
        "[[listener]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\n[[listener]]\nname = \"taken\"\nbind = \"{}\"\n",
        other.local_addr().unwrap()
    );
    evenkeel.write(&format!("{listeners}{}", app(RR, &origins)));
    let done = evenkeel.upgrade_fails().ends(1);
    assert!(done.err.contains("listener `taken` cannot listen on") && done.err.contains("another process"), "{done:?}");
    serves(&evenkeel);
    assert!(evenkeel.socket().exists());
}

#[test]
fn a_new_process_that_hangs_is_killed_at_its_deadline() {
    let origins = origins(1);
    let evenkeel = start("ready_within = \"2s\"", &origins);
    evenkeel.replace_program(&script(&evenkeel, "echo $$ > PID\nexec sleep 60"));
    let done = evenkeel.upgrade_fails().ends(1);
    assert!(done.err.contains("the new process was not ready within 2s"), "{done:?}");
    gone(of_script(&evenkeel));
    serves(&evenkeel);
    // The next one may be better, and have more time.
    evenkeel.write(&app(RR, &origins));
    evenkeel.reload_file().unwrap();
    evenkeel.replace_program(env!("CARGO_BIN_EXE_evenkeel").as_ref());
    evenkeel.upgrade();
    serves_again(&evenkeel);
}

#[test]
fn a_new_process_that_dies_or_turns_away_is_noticed_at_once() {
    let origins = origins(1);
    let evenkeel = start("ready_within = \"1h\"", &origins);
    evenkeel.replace_program(&script(&evenkeel, "exit 7"));
    let done = evenkeel.upgrade_fails().ends(1);
    assert!(done.err.contains("ended before it was ready (exit status: 7)"), "{done:?}");
    evenkeel.replace_program(&script(&evenkeel, "echo $$ > PID\nexec sleep 60 < /dev/null"));
    let done = evenkeel.upgrade_fails().ends(1);
    assert!(done.err.contains("closed the channel before it was ready"), "{done:?}");
    gone(of_script(&evenkeel));
    evenkeel.replace_program("/nowhere/evenkeel".as_ref());
    let done = evenkeel.upgrade_fails().ends(1);
    assert!(done.err.contains("cannot be started: No such file"), "{done:?}");
    serves(&evenkeel);
}

#[test]
fn while_one_gets_ready_another_is_refused_and_a_stop_ends_it() {
    let origins = origins(1);
    let evenkeel = start("ready_within = \"1h\"", &origins);
    evenkeel.replace_program(&script(&evenkeel, "echo $$ > PID\nexec sleep 60"));
    evenkeel.process.signal(Signal::USR2);
    let hangs = of_script(&evenkeel);
    let upgrade = evenkeel.status().upgrade.unwrap();
    assert_eq!(upgrade.pid, hangs);
    assert!(evenkeel.verb(&["status"]).ends(0).out.contains(&format!("upgrade    process {hangs} gets ready")));
    let refused = evenkeel.verb(&["upgrade"]).ends(1);
    assert!(refused.err.contains(&format!("an upgrade is under way: process {hangs} has")), "{refused:?}");
    // Everything else goes on meanwhile.
    assert_eq!(evenkeel.client().get("/echo").status, 200);
    evenkeel.verb(&["weight", "app/a", "3"]).ends(0);
    evenkeel.reload_file().unwrap();
    let old = evenkeel.pid();
    evenkeel.verb(&["stop"]).ends(0);
    gone(hangs);
    gone(old);
}

/// Begins an upgrade to a process that gets ready as soon as `held` answers its check.
fn begin(evenkeel: &Upgrading, held: &Held, origins: &[Origin]) -> u32 {
    begin_with(evenkeel, held, |slow| {
        evenkeel.write(&format!("[[route]]\nupstream = \"app\"\n{slow}{}", app(RR, origins)));
    })
}

fn begin_with(evenkeel: &Upgrading, held: &Held, write: impl FnOnce(&str)) -> u32 {
    let slow = "check = { http = { interval = \"1h\", timeout = \"1h\" } }";
    write(&format!("[upstream.slow]\n{slow}\nservers = [\"{}\"]\n", held.address()));
    evenkeel.process.signal(Signal::USR2);
    held.has(1);
    evenkeel.status().upgrade.unwrap().pid
}

#[test]
fn a_process_that_dies_while_the_next_one_gets_ready_is_succeeded_by_it() {
    let (origins, held) = (origins(1), Held::start("slow"));
    let evenkeel = start("", &origins);
    evenkeel.verb(&["weight", "app/a", "9"]).ends(0);
    let next = begin(&evenkeel, &held, &origins);
    kill(evenkeel.pid(), Signal::KILL);
    gone(evenkeel.process.pid());
    // The sockets are there: who comes waits.
    let address = evenkeel.address;
    let waiting = std::thread::spawn(move || Client::to(address).get("/echo").status);
    held.release(usize::MAX);
    assert_eq!(waiting.join().unwrap(), 200);
    assert_eq!((evenkeel.pid(), evenkeel.server("app", "a").weight), (next, 9));
    serves(&evenkeel);
}

#[test]
fn a_socket_that_a_killed_process_has_made_is_taken_away() {
    let (origins, held) = (origins(1), Held::start("slow"));
    let evenkeel = start("", &origins);
    let other = evenkeel.dir().join("other.sock");
    let file = evenkeel.dir().join("evenkeel.toml");
    let next = begin_with(&evenkeel, &held, |slow| {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace(evenkeel.socket().to_str().unwrap(), other.to_str().unwrap());
        std::fs::write(&file, format!("{text}\n[[route]]\nupstream = \"app\"\n{slow}")).unwrap();
    });
    assert!(other.exists());
    kill(next, Signal::KILL);
    eventually("its socket is gone", || (!other.exists()).then_some(()));
    serves(&evenkeel);
}

#[test]
fn a_reload_while_the_next_one_gets_ready_holds_for_it_too() {
    let (origins, held) = (origins(1), Held::start("slow"));
    let evenkeel = start("", &origins);
    let next = begin(&evenkeel, &held, &origins);
    evenkeel.write(&format!("{}weight = 4\n", app(RR, &origins)));
    evenkeel.reload_file().unwrap();
    held.release(usize::MAX);
    eventually("the next one serves", || (evenkeel.pid() == next).then_some(()));
    eventually("by the newest file", || (evenkeel.server("app", "a").weight == 4).then_some(()));
    assert_eq!(evenkeel.status().upstreams.len(), 1);
    serves_again(&evenkeel);
}

#[test]
fn a_program_that_embeds_evenkeel_is_not_started_anew() {
    let origins = origins(1);
    let proxy = harness::Proxy::of(RR, &origins);
    let (status, body) = proxy.admin("POST", "/upgrade", "");
    assert_eq!(status, 409, "{body}");
    assert!(body.contains("inside another program"), "{body}");
    assert_eq!(proxy.get("/echo").status, 200);
}
