//! Zero downtime, a sentence each: what operators do and what servers suffer, under 300 requests a second of
//! every kind, and nobody notices.
//!
//! The proxy and its servers are processes of their own, so that a kill is a kill.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod harness;

use std::path::Path;

use harness::{MixedLoad, Running, Service, eventually};

fn services(names: &[&str], dir: &Path) -> Vec<Service> {
    // Written once: a script that is open for writing cannot be run.
    Service::script(dir);
    names.iter().map(|name| Service::start(name, dir)).collect()
}

fn table(service: &Service) -> String {
    format!("[[upstream.app.server]]\nname = \"{}\"\naddress = \"{}\"\n", service.name, service.address)
}

/// `more` is further keys of the upstream.
fn config(services: &[Service], more: &str) -> String {
    let servers: String = services.iter().map(table).collect();
    format!(
        "[upstream.app]\ncheck = {{ http = {{ path = \"/healthz\", interval = \"200ms\", timeout = \"5s\" }} }}\n{more}{servers}"
    )
}

fn proxy(services: &[Service], more: &str) -> Running {
    let evenkeel = Running::start(&config(services, more));
    eventually("all are healthy", || {
        evenkeel.status().upstreams[0].servers.iter().all(|s| s.operational == "healthy").then_some(())
    });
    evenkeel
}

fn arrivals(services: &[Service]) -> Vec<std::path::PathBuf> {
    services.iter().map(Service::arrivals).collect()
}

#[test]
fn a_rolling_deploy_of_four_servers_fails_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let services = services(&["a", "b", "c", "d"], dir.path());
    let before: Vec<i32> = services.iter().map(Service::pid).collect();
    let evenkeel = proxy(&services, "slow_start = \"1s\"\ndrain = { in_flight = \"3s\", close_spread = \"2s\" }\n");
    let load = MixedLoad::start(evenkeel.address, &arrivals(&services));
    let restart = dir.path().join("restart.sh");
    let proof = dir.path().join("proof.json");
    let done = evenkeel.verb(&[
        "deploy",
        "app",
        "--exec",
        restart.to_str().unwrap(),
        "--watch",
        "500ms",
        "--max-failed",
        "0",
        "--max-lost",
        "0",
        "--proof",
        proof.to_str().unwrap(),
    ]);
    let report = load.stop();
    println!("{}", done.out);
    report.unnoticed();
    done.ends(0);
    assert!(services.iter().zip(before).all(|(service, before)| service.pid() != before), "each is another process");
}
