//! The lab: a run's report agrees with what the servers themselves have logged.

use std::path::Path;

use serde_json::Value;

use crate::harness::{self, Process, Signal, command, eventually};
use crate::{counted, report};

pub(crate) const SCENARIO: &str = r#"
title = "Small"
duration = "3s"
sessions = true
[servers]
count = 3
[[group]]
name = "office"
users = 20
addresses = 1
rate = 60
[[group]]
name = "homes"
users = 20
rate = 60
[[event]]
at = "1500ms"
do = { kill = 2 }
[[policy]]
name = "sticky"
policy = "sticky_cookie"
[[policy]]
name = "hash"
policy = "ip_hash"
"#;

#[test]
fn a_run_reports_what_the_servers_have_logged() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("small.toml"), dir.path().join("out"));
    std::fs::write(&file, SCENARIO).unwrap();
    let mut run = command(&["lab", "run", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let done = harness::run(&mut run).ends(0);
    assert!(done.out.contains("POLICY") && done.out.contains("SESSIONS LOST"), "{}", done.out);
    assert!(done.out.contains("\nMAX/MEAN: ") && done.out.contains("\nSESSIONS LOST: "), "{}", done.out);
    let report = report(&out);
    let policies = report["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 2);
    for (number, policy) in policies.iter().enumerate() {
        let logs = counted(&out.join(format!("run-{}", number + 1)));
        let mut answered = 0;
        for server in policy["servers"].as_array().unwrap() {
            let (name, requests) = (server["server"].as_str().unwrap(), server["requests"].as_u64().unwrap());
            assert_eq!(server["logged"], logs[name], "{policy}");
            // What died with its server was logged and never answered.
            assert!(requests <= logs[name], "{policy}");
            if name != "s2" {
                assert!(logs[name] - requests <= 2, "{name}: {requests} of {}", logs[name]);
            }
            answered += requests;
        }
        let (requests, failed) = (policy["requests"].as_u64().unwrap(), policy["failed"].as_u64().unwrap());
        // All that was due: what nobody answered has failed.
        assert_eq!(requests, policies[0]["requests"].as_u64().unwrap());
        assert!(answered <= requests && requests - answered <= failed, "{answered} of {requests}, {failed} failed");
        let logged: u64 = logs.values().sum();
        assert!(logged >= answered, "{logged} {answered}");
        assert_eq!(policy["events"][0]["what"], "s2 is killed");
        assert_eq!(policy["events"][0]["problem"], Value::Null);
        assert!(policy["sessions_lost"].as_u64().unwrap() > 0, "its sessions were in its memory");
    }
    // The office is one address: by address it is on one server, by cookie it is not.
    let skew = |n: usize| policies[n]["max_over_mean"].as_f64().unwrap();
    assert!(skew(1) > 1.4 && skew(1) > skew(0), "{} {}", skew(0), skew(1));
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.trim_end().ends_with("</html>"));
}

#[test]
fn a_run_that_is_interrupted_reports_what_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("long.toml"), dir.path().join("out"));
    std::fs::write(&file, SCENARIO.replace("\"3s\"", "\"9m\"")).unwrap();
    let process = Process::spawn(&["lab", "run", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    eventually("requests arrive", || counted_or_none(&out.join("run-1")).filter(|n| *n > 20));
    process.signal(Signal::INT);
    let done = process.wait();
    assert_eq!(done.code, Some(6), "{done:?}");
    let report = report(&out);
    assert_eq!(report["stopped"], true);
    assert_eq!(report["policies"].as_array().unwrap().len(), 1);
    assert!(report["policies"][0]["requests"].as_u64().unwrap() > 20);
}

fn counted_or_none(run: &Path) -> Option<u64> {
    run.exists().then(|| counted(run).values().sum())
}

#[test]
fn a_scenario_that_cannot_be_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.toml");
    let wrong = |text: String, code: i32| {
        std::fs::write(&file, text).unwrap();
        harness::run(&mut command(&["lab", "run", file.to_str().unwrap()])).ends(code).err
    };
    let error = wrong(SCENARIO.replace("ip_hash", "ip_hsh"), 3);
    assert!(error.contains("policy \"hash\"") && error.contains("unknown policy `ip_hsh`"), "{error}");
    let error = wrong(SCENARIO.replace("kill = 2", "kill = 4"), 3);
    assert!(error.contains("there is no server 4"), "{error}");
    let missing = harness::run(&mut command(&["lab", "run", "nowhere.toml"])).ends(1);
    assert!(missing.err.contains("cannot read the scenario nowhere.toml"), "{}", missing.err);
}

/// Servers that the lab has not started: the load goes to them through each policy, and they are left as they were.
#[test]
fn the_load_goes_to_servers_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("my.toml"), dir.path().join("out"));
    let text = "title = 'My shop'\nduration = '3s'\nsession_cookie = 'sid'\n\
                [[group]]\nname = 'office'\nusers = 20\naddresses = 1\nrate = 60\npath = '/?shop'\n\
                [[group]]\nname = 'homes'\nusers = 20\nrate = 60\n\
                [[policy]]\nname = 'turns'\npolicy = 'round_robin'\n\
                [[policy]]\nname = 'sticky'\npolicy = 'sticky_cookie'\n\
                [[policy]]\nname = 'hash'\npolicy = 'ip_hash'\n";
    std::fs::write(&file, text).unwrap();
    let origins = harness::origins(3);
    let targets: Vec<String> = origins.iter().map(|origin| format!("http://{}/", origin.address())).collect();
    let mut args = vec!["lab", "--config", file.to_str().unwrap(), "--out", out.to_str().unwrap()];
    targets.iter().for_each(|target| args.extend(["--target", target]));
    let done = harness::run(&mut command(&args)).ends(0);
    assert!(done.out.contains("SESSIONS LOST"), "{}", done.out);
    let report = report(&out);
    let policies = report["policies"].as_array().unwrap();
    let mut totals = [0; 3];
    for policy in policies {
        assert_eq!(policy["failed"], 0, "{policy}");
        for (at, server) in policy["servers"].as_array().unwrap().iter().enumerate() {
            assert_eq!(server["requests"], server["logged"], "the proxy counts the same: {policy}");
            totals[at] += server["requests"].as_u64().unwrap();
        }
    }
    // Their own count, of all policies.
    for (origin, total) in origins.iter().zip(totals) {
        let requests = origin.requests();
        assert_eq!(requests.len() as u64, total, "{}", origin.name());
        assert!(requests.iter().any(|request| request.target == "/?shop"));
    }
    let lost = |n: usize| policies[n]["sessions_lost"].as_u64().unwrap();
    // In turn, everybody meets a server that does not know them; by cookie or address nobody does.
    assert!(lost(0) > 50, "{}", lost(0));
    assert_eq!((lost(1), lost(2)), (0, 0));
    let skew = |n: usize| policies[n]["max_over_mean"].as_f64().unwrap();
    assert!(skew(2) > 1.4 && skew(2) > skew(1), "{} {}", skew(1), skew(2));
}

#[test]
fn what_only_toy_servers_do_is_refused_for_servers_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("my.toml");
    let refused = |text: &str, args: &[&str], exit: i32, says: &str| {
        std::fs::write(&file, text).unwrap();
        let mut all = vec!["lab"];
        all.extend(args);
        all.extend(["-c", file.to_str().unwrap()]);
        let done = harness::run(&mut command(&all)).ends(exit);
        assert!(done.err.contains(says), "{}", done.err);
    };
    let own = ["--target", "127.0.0.1:1"];
    refused(SCENARIO, &own, 3, "`sessions` is for toy servers");
    let plain = SCENARIO.replace("sessions = true\n", "");
    refused(&plain, &own, 3, "leave events out with --target");
    let small = plain.replace("[[event]]\nat = \"1500ms\"\ndo = { kill = 2 }\n", "");
    refused(&small, &["--target", "https://127.0.0.1:1"], 2, "`tls = {}` in [upstream]");
    refused(&small, &["--target", "http://127.0.0.1:1/shop"], 2, "write HOST:PORT alone");
    refused(&small, &["--target", "nowhere"], 2, "--target nowhere: write HOST:PORT, such as 127.0.0.1:9001");
    // Port 1 is nobody's: that is said before anything is started, once.
    refused(&small, &own, 1, "target 127.0.0.1:1: connection refused\n");
    refused(&small.replace("rate = 60", "rate = 60\npath = '/x'"), &["--seed", "2"], 3, "name them with --target");
    let done = harness::run(&mut command(&["lab", "--target", "127.0.0.1:1"])).ends(2);
    assert!(done.err.contains("say which scenario"), "{}", done.err);
}

/// More connections than a process may have by its soft limit, which is raised; where the hard one does not suffice, it is
/// said before anything is sent.
#[test]
fn a_lab_has_the_descriptors_that_it_needs_or_does_not_begin() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("many.toml"), dir.path().join("out"));
    let text = "title = 'Many'\nduration = '1s'\n[servers]\ncount = 2\n\
                [[group]]\nname = 'office'\nusers = 5000\naddresses = 1\nrate = 300\n\
                [[policy]]\nname = 'turns'\npolicy = 'round_robin'\n";
    std::fs::write(&file, text).unwrap();
    let run = command(&["lab", "run", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let refused = harness::run(&mut harness::under("ulimit -n 600", &run)).ends(1);
    assert!(
        refused.err.contains("this scenario needs about") && refused.err.contains("and has 600: raise `ulimit -n`")
    );
    assert!(!out.exists());
    harness::run(&mut harness::under("ulimit -Sn 200", &run)).ends(0);
    let report = report(&out);
    let policy = &report["policies"][0];
    assert!(policy["requests"].as_u64().unwrap() > 200, "{policy}");
    assert_eq!(policy["failed"], 0, "{policy}");
}

/// Answers that are refusals are no failures of a server, and no success either: it is said, everywhere.
#[test]
fn a_path_that_no_server_has_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("my.toml"), dir.path().join("out"));
    let text = "title = 'My shop'\nduration = '1s'\n[[group]]\nname = 'all'\nusers = 20\nrate = 60\npath = '/status?code=404'\n\
                [[policy]]\nname = 'turns'\npolicy = 'round_robin'\n";
    let origin = harness::origins(1);
    let target = origin[0].address().to_string();
    let args = ["lab", "-c", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--target", &target];
    std::fs::write(&file, text).unwrap();
    let done = harness::run(&mut command(&args)).ends(0);
    let report = report(&out);
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("turns: ") && warning.ends_with(" answers were 404: is the path right?"), "{warning}");
    assert_eq!(report["policies"][0]["failed"], 0);
    assert!(done.out.contains(&format!("\n{warning}\n")), "{}", done.out);
    assert!(std::fs::read_to_string(out.join("report.html")).unwrap().contains(warning));
}

/// The processes that a process has started and that still run, by the kernel's tables; zombies have ended.
fn children(of: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| state(*pid).is_some_and(|(parent, _)| parent == of)).collect()
}

/// A process's parent and name; none where it has ended.
fn state(pid: u32) -> Option<(u32, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, rest) = stat.rsplit_once(") ")?;
    let (name, mut rest) = (head.split_once('(')?.1.to_owned(), rest.split(' '));
    let is_alive = !matches!(rest.next()?, "Z" | "X");
    is_alive.then(|| Some((rest.next()?.parse().ok()?, name)))?
}

/// Nothing of a lab outlives it, however it ends.
#[test]
fn a_lab_that_is_killed_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out, tmp) = (dir.path().join("long.toml"), dir.path().join("out"), dir.path().join("tmp"));
    let has_redis = std::process::Command::new("redis-server").arg("--version").output().is_ok();
    let kept = if has_redis { "store" } else { "memory" };
    let text = SCENARIO.replace("\"3s\"", "\"9m\"");
    let text = text.replacen("policy = \"sticky_cookie\"", &format!("policy = 'round_robin'\nsessions = '{kept}'"), 1);
    std::fs::write(&file, text).unwrap();
    std::fs::create_dir(&tmp).unwrap();
    let mut lab = command(&["lab", "run", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let mut lab = Process::of(lab.env("TMPDIR", &tmp));
    eventually("requests arrive", || counted_or_none(&out.join("run-1")).filter(|n| *n > 20));
    let started = children(lab.pid());
    let names: Vec<String> = started.iter().filter_map(|pid| Some(state(*pid)?.1)).collect();
    // Three servers, of which one may have been killed, the proxy and the leash.
    assert!(names.iter().filter(|name| name.starts_with("evenkeel")).count() >= 4, "{names:?}");
    assert_eq!(names.iter().any(|name| name.starts_with("redis")), has_redis, "{names:?}");
    let nooks = || std::fs::read_dir(&tmp).unwrap().count();
    assert_eq!(nooks(), 1);
    // With SIGKILL.
    lab.kill();
    eventually("all have ended", || started.iter().all(|pid| state(*pid).is_none()).then_some(()));
    assert_eq!(nooks(), 0);
}
