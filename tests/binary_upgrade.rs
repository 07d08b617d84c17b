//! Another process takes over: nobody notices, nothing is forgotten, and whatever goes wrong, somebody serves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod harness;

use harness::upgrading::{Upgrading, gone};
use harness::{MixedLoad, Service, app, eventually, origins};

#[test]
fn five_upgrades_under_load_fail_no_request() {
    let dir = tempfile::tempdir().unwrap();
    Service::script(dir.path());
    let services: Vec<Service> = ["a", "b"].iter().map(|name| Service::start(name, dir.path())).collect();
    let servers: String = services
        .iter()
        .map(|s| format!("[[upstream.app.server]]\nname = \"{}\"\naddress = \"{}\"\n", s.name, s.address))
        .collect();
    let evenkeel = Upgrading::start(&format!(
        "[upgrade]\ndeadline = \"4s\"\nidle_grace = \"4s\"\n\
         [upstream.app]\ncheck = {{ http = {{ path = \"/healthz\", interval = \"200ms\", timeout = \"5s\" }} }}\n\
         drain = {{ close_spread = \"1s\" }}\n{servers}"
    ));
    let arrivals: Vec<_> = services.iter().map(Service::arrivals).collect();
    let load = MixedLoad::start(evenkeel.address, &arrivals);
    for _ in 0..5 {
        let before = load.answered();
        eventually("some are answered by the new process", || (load.answered() > before + 100).then_some(()));
        let old = evenkeel.pid();
        evenkeel.upgrade();
        evenkeel.alone();
        gone(old);
    }
    let report = load.stop();
    report.unnoticed();
    assert_eq!(report.races, [""; 0]);
}

#[test]
fn the_new_process_has_the_sockets_and_the_admin_api() {
    let origins = origins(2);
    let evenkeel = Upgrading::start(&app("\"round_robin\"", &origins));
    let old = evenkeel.pid();
    let new = evenkeel.upgrade();
    assert_eq!(evenkeel.client().get("/echo").status, 200);
    gone(old);
    assert_eq!(evenkeel.client().get("/echo").status, 200);
    assert_eq!(evenkeel.status().pid, new);
    assert_eq!(evenkeel.verb(&["stop"]).code, Some(0));
    gone(new);
    assert!(!evenkeel.socket().exists(), "the last one takes the admin socket away");
}
