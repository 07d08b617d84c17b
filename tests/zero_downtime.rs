//! Zero downtime, a sentence each: what operators do and what servers suffer, under 300 requests a second of
//! every kind, and nobody notices.
//!
//! The proxy and its servers are processes of their own, so that a kill is a kill.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod harness;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::mixed_load::{Kind, Report};
use harness::{Done, MixedLoad, Running, Service, eventually};
use serde_json::{Value, json};

/// Long enough for a slow download on a machine that stalls, and the WebSockets are closed within.
const DRAIN: &str = "in_flight = \"8s\", close_spread = \"7s\"";

/// `more` is further keys of the upstream.
fn config<'a>(services: impl IntoIterator<Item = &'a Service>, more: &str) -> String {
    let servers: String = services.into_iter().map(Service::table).collect();
    format!(
        "[upstream.app]\ncheck = {{ http = {{ path = \"/healthz\", interval = \"200ms\", timeout = \"5s\" }} }}\n\
         {more}\n{servers}"
    )
}

fn healthy(evenkeel: &Running) -> Vec<String> {
    let status = evenkeel.status();
    let servers = status.upstreams[0].servers.iter();
    servers.filter(|s| s.operational == "healthy" && !s.leaving).map(|s| s.name.clone()).collect()
}

/// Waits until these serve and no others do.
#[track_caller]
fn serve(evenkeel: &Running, names: &[&str]) {
    eventually("the servers that shall serve do", || {
        (healthy(evenkeel) == names && evenkeel.status().upstreams[0].servers.len() == names.len()).then_some(())
    });
}

fn proxy(services: &[Service], more: &str) -> Running {
    let evenkeel = Running::start(&config(services, more));
    serve(&evenkeel, &services.iter().map(|s| s.name.as_str()).collect::<Vec<_>>());
    evenkeel
}

fn arrivals(services: &[Service]) -> Vec<PathBuf> {
    services.iter().map(Service::arrivals).collect()
}

/// Restarts every server in turn, behind a gate that nothing may be lost or fail; what the proof says.
fn deploy(evenkeel: &Running, dir: &Path) -> (Done, Value) {
    let (restart, file) = (dir.join("restart.sh"), dir.join("proof.json"));
    let mut deploy =
        harness::command(&["deploy", "app", "--watch", "500ms", "--max-failed", "0", "--max-lost", "0", "--admin"]);
    deploy.arg(evenkeel.socket()).arg("--exec").arg(restart).arg("--proof").arg(&file);
    let done = harness::run(&mut deploy);
    println!("{}", done.out);
    (done, serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap())
}

fn restarted(done: Done, proof: &Value, report: &Report) {
    let done = done.ends(0);
    assert!(done.out.contains("4 of 4 servers restarted"), "{}", done.out);
    let told = (&proof["failed"], &proof["sessions_lost"], &proof["outcome"]);
    assert_eq!(told, (&0.into(), &0.into(), &"done".into()), "{proof}");
    assert!(proof["servers"].as_array().unwrap().iter().all(|turn| turn["result"] == "restarted"), "{proof}");
    let seen = proof["during"]["requests"].as_u64().unwrap() as usize;
    assert!(seen > 500 && seen <= report.answered(), "{seen} of {}", report.answered());
    assert!(report.away > 0, "no WebSocket was closed: {report}");
}

#[test]
fn a_rolling_deploy_of_four_servers_fails_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b", "c", "d"], dir.path());
    let before: Vec<i32> = services.iter().map(Service::pid).collect();
    let evenkeel = proxy(&services, &format!("slow_start = \"1s\"\ndrain = {{ {DRAIN} }}\n"));
    let load = MixedLoad::start(evenkeel.address, &arrivals(&services));
    let (done, proof) = deploy(&evenkeel, dir.path());
    let report = load.stop();
    report.unnoticed();
    restarted(done, &proof, &report);
    assert!(services.iter().zip(before).all(|(service, before)| service.pid() != before), "each is another process");
}

/// Users whose sessions live in the memory of a server: each is let finish before it is restarted.
#[test]
fn a_rolling_deploy_loses_no_session_while_the_deadline_allows() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b", "c", "d"], dir.path());
    let drain = format!("drain = {{ sessions_idle = \"4s\", sessions_max = \"60s\", {DRAIN} }}\n");
    let policy = "policy = { sticky_cookie = { new_clients = \"round_robin\" } }\n";
    let evenkeel = proxy(&services, &format!("{policy}{drain}"));
    let load = MixedLoad::start_with_users(evenkeel.address, &arrivals(&services));
    let (done, proof) = deploy(&evenkeel, dir.path());
    let report = load.stop();
    report.unnoticed();
    restarted(done, &proof, &report);
    let visits = report.kinds[&Kind::Visit].answered;
    assert!(visits > 100, "{visits} visits");
    let lost = evenkeel.metric("evenkeel_sessions_lost_total", &[]);
    assert!(lost == 0.0, "{lost} sessions were lost");
}

/// Twice, all that serve are replaced by others. Who is gone is killed at once: that it is safe is the point.
#[test]
fn servers_that_are_added_and_removed_fail_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b", "c", "d"], dir.path());
    let (first, second) = services.split_at(2);
    let evenkeel = proxy(first, &format!("drain = {{ {DRAIN} }}\n"));
    let load = MixedLoad::start(evenkeel.address, &arrivals(&services));
    for (coming, leaving, left) in [(second, first, ["c", "d"]), (first, second, ["a", "b"])] {
        for service in coming {
            let body = json!({ "name": service.name, "address": service.address.to_string() }).to_string();
            assert_eq!(evenkeel.admin("POST", "/upstreams/app/servers", &body).0, 201);
        }
        for service in coming {
            eventually("it is used", || (evenkeel.server("app", &service.name).requests > 0).then_some(()));
        }
        for service in leaving {
            let (status, body) = evenkeel.admin("DELETE", &format!("/upstreams/app/servers/{}", service.name), "");
            assert_eq!(status, 202, "{body}");
        }
        serve(&evenkeel, &left);
        leaving.iter().for_each(Service::restart);
    }
    let report = load.stop();
    report.unnoticed();
    assert!(report.away > 0, "no WebSocket was closed: {report}");
}

/// Servers are killed in the middle of what they do. What has no answer yet and may be asked again is asked
/// again elsewhere; what may not, is not.
#[test]
fn a_killed_server_fails_no_get_and_repeats_no_post() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c", "d"];
    let services = Service::several(&names, dir.path());
    // Who is ejected for the requests it took to its grave does not stay out for longer than the test.
    let evenkeel = proxy(&services, "outliers = { ejection = \"300ms\", max_ejection = \"500ms\" }");
    let load = MixedLoad::start(evenkeel.address, &arrivals(&services));
    let began = Instant::now();
    let mut kills = 0;
    while kills < 8 || began.elapsed() < Duration::from_secs(8) {
        let service = &services[kills % names.len()];
        let before = load.answered();
        service.kill();
        kills += 1;
        // Down for as long as it takes to be found out, in other rounds for less than that.
        if kills % 2 == 0 {
            eventually("the dead server is found out", || (healthy(&evenkeel).len() == 3).then_some(()));
        }
        service.restart();
        serve(&evenkeel, &names);
        // As many as it takes for each server to be in the middle of something again.
        eventually("requests go on", || (load.answered() > before + 100).then_some(()));
    }
    let report = load.stop();
    println!(
        "{kills} kills, {} retries, {} failed connections, {} broken ones\n{report}",
        evenkeel.metric("evenkeel_server_retries_total", &[]),
        evenkeel.metric("evenkeel_server_connect_failures_total", &[]),
        evenkeel.metric("evenkeel_server_failures_total", &[]),
    );
    report.no_post_twice();
    let gets = report.failed(|kind| matches!(kind, Kind::GetKept | Kind::GetNew | Kind::SlowAnswer));
    assert!(gets.is_empty(), "{} failed: {gets:#?}\n{}", gets.len(), evenkeel.process.err());
    // Part of it has been delivered: the rest is in nobody's hands.
    let downloads = report.failed(|kind| kind == Kind::Download);
    assert!(downloads.iter().all(|what| what.contains("broke off")), "{downloads:#?}");
    // And so are WebSockets to a server that is dead. No new one comes to it.
    let messages = report.failed(|kind| kind == Kind::Message);
    assert!(!messages.iter().any(|what| what.contains("opening")), "{messages:#?}");
    // They say that the server failed, not the proxy; and most are spared.
    let posts = report.failed(|kind| matches!(kind, Kind::PostKept | Kind::PostNew));
    assert!(posts.iter().all(|what| what.contains(": 502 \"reset\"")), "{posts:#?}");
}

/// Servers, policies, listeners, routes, time-outs and checks change, and every fifth file is nonsense. Nothing
/// that was open is closed, and nothing is left behind.
#[test]
fn fifty_reloads_fail_no_request() {
    const RELOADS: u32 = 50;
    const EVERY: Duration = Duration::from_millis(200);

    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b", "c", "d"], dir.path());
    let toml = |i: u32| {
        let servers = match i % 4 {
            0 => &services[..3],
            1 => &services[..],
            2 => &services[1..],
            _ => &services[..2],
        };
        let policy = ["\"round_robin\"", "\"least_requests\"", "\"ip_hash\""][i as usize % 3];
        let extra = if i.is_multiple_of(2) { "" } else { "[[listener]]\nname = \"extra\"\nbind = \"127.0.0.1:0\"\n" };
        let upstream = config(
            servers,
            &format!("policy = {policy}\ndrain = {{ in_flight = \"1m\" }}\npool = {{ idle_timeout = \"1s\" }}\n"),
        );
        let upstream = upstream.replace("200ms", &format!("{}ms", 200 + i));
        format!(
            "[[listener]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\nidle_timeout = \"{}s\"\n{extra}\
             [[route]]\npath = \"/{i}/\"\nupstream = \"app\"\n[[route]]\npath = \"/\"\nupstream = \"app\"\n{upstream}",
            30 + i,
        )
    };
    let evenkeel = Running::start(&toml(0));
    let reload = |i: u32| {
        evenkeel.write(&toml(i));
        assert!(!evenkeel.reload_file().unwrap().changes.is_empty());
    };
    let quiet = || {
        // How many idle connections a burst leaves behind says nothing about a leak.
        for gauge in ["evenkeel_connections_open", "evenkeel_server_idle_connections"] {
            eventually(gauge, || (evenkeel.metric(gauge, &[]) == 0.0).then_some(()));
        }
    };
    // All that grows once has grown after this: pools, blocks, the reload's own buffers.
    let warm = MixedLoad::start(evenkeel.address, &arrivals(&services));
    (1..=12).for_each(reload);
    eventually("requests of every kind", || (warm.answered() > 500).then_some(()));
    warm.stop().unnoticed();
    quiet();
    let (memory, descriptors) = (evenkeel.process.rss_kib(), evenkeel.process.descriptors());

    let load = MixedLoad::start(evenkeel.address, &arrivals(&services));
    let began = Instant::now();
    for i in 1..=RELOADS {
        // At an even pace, whatever the last one took.
        std::thread::sleep((began + EVERY * i).saturating_duration_since(Instant::now()));
        if i.is_multiple_of(5) {
            evenkeel.write(&toml(i).replace("policy =", "polciy ="));
            assert_eq!(evenkeel.reload_file().unwrap_err().error, "invalid_config");
        } else {
            reload(i);
        }
    }
    let report = load.stop();
    report.unnoticed();
    assert_eq!((report.away, report.closed_between, report.announced), (0, 0, 0), "{report}");

    // Back to where it began: what was opened for the reloads is closed.
    reload(12);
    quiet();
    let now = eventually("descriptors to come back", || {
        let now = evenkeel.process.descriptors();
        // A check may be under way for each server, at either moment.
        (now <= descriptors + 4).then_some(now)
    });
    // What the allocator keeps for the next burst comes and goes by half of this.
    let grown = evenkeel.process.rss_kib().saturating_sub(memory);
    assert!(grown < 8 * 1024, "grew by {grown} KiB from {memory} KiB, descriptors {descriptors} to {now}");
}
