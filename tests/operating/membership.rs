//! Servers that are added and removed while evenkeel runs, and what of that outlives a restart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::BTreeSet;
use std::path::Path;

use harness::{Origin, Proxy, Running, ServerStatus, app, eventually, origins, upstream};
use serde_json::json;

const RR: &str = "\"round_robin\"";

fn add(api: &harness::Api, body: &serde_json::Value) -> (u16, String) {
    api.admin("POST", "/upstreams/app/servers", &body.to_string())
}

fn remove(api: &harness::Api, server: &str) -> (u16, String) {
    api.admin("DELETE", &format!("/upstreams/app/servers/{server}"), "")
}

fn names(api: &harness::Api) -> Vec<String> {
    api.status().upstreams[0].servers.iter().map(|server| server.name.clone()).collect()
}

fn is_gone(api: &harness::Api, server: &str) {
    eventually("it is gone", || (!names(api).iter().any(|name| name == server)).then_some(()));
}

/// Which servers answer a number of new clients.
fn answering(mut get: impl FnMut() -> harness::Answer) -> BTreeSet<String> {
    (0..24).map(|_| get().server().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn becomes_healthy(api: &harness::Api, server: &str) -> ServerStatus {
    eventually("it is healthy", || Some(api.server("app", server)).filter(|s| s.operational == "healthy"))
}

#[test]
fn what_is_said_of_an_added_server_is_kept() {
    let origins = origins(3);
    let dir = tempfile::tempdir().unwrap();
    let text = |limit: u32| {
        let text =
            app(RR, &origins[..1]).replace("[upstream.app]\n", &format!("[upstream.app]\nmax_requests = {limit}\n"));
        format!("state_dir = {:?}\n{text}", dir.path())
    };
    let proxy = Proxy::start(&text(9));
    let spare = json!({ "name": "b", "address": origins[1].address().to_string(), "backup": true, "max_requests": 5 });
    assert_eq!(add(&proxy, &spare).0, 201);
    assert_eq!(add(&proxy, &json!({ "name": "c", "address": origins[2].address().to_string() })).0, 201);
    let told = |proxy: &Proxy| {
        let told = |name: &str| (proxy.server("app", name).backup, proxy.server("app", name).max_requests);
        [told("a"), told("b"), told("c")]
    };
    becomes_healthy(&proxy, "b");
    becomes_healthy(&proxy, "c");
    assert_eq!(told(&proxy), [(false, Some(9)), (true, Some(5)), (false, Some(9))]);
    assert_eq!(answering(|| proxy.get("/echo")), set(&["a", "c"]), "b is a backup");
    proxy.reload(&text(8)).unwrap();
    assert_eq!(told(&proxy), [(false, Some(8)), (true, Some(5)), (false, Some(8))]);
    for (bad, why) in [
        (json!({ "name": "d", "address": "127.0.0.1:9", "max_requests": 0 }), "`max_requests` is zero"),
        (json!({ "name": "a", "backup": true }), "has a server `a` already"),
    ] {
        let (status, body) = add(&proxy, &bad);
        assert!(status == 400 && body.contains(why), "{status} {body}");
    }
    assert_eq!(remove(&proxy, "a").0, 202);
    is_gone(&proxy, "a");
    let (status, body) = add(&proxy, &json!({ "name": "a", "max_requests": 5 }));
    assert!(status == 400 && body.contains("leave them out"), "{status} {body}");
    drop(proxy);
    let proxy = Proxy::start(&text(7));
    assert_eq!(names(&proxy), ["b", "c"]);
    let told = |name: &str| (proxy.server("app", name).backup, proxy.server("app", name).max_requests);
    assert_eq!([told("b"), told("c")], [(true, Some(5)), (false, Some(7))]);
}

#[test]
fn an_added_server_gets_requests_and_a_removed_one_gets_none() {
    let origins = origins(3);
    let proxy = Proxy::start(&app(RR, &origins[..2]));
    let (status, body) = add(&proxy, &json!({ "name": "c", "address": origins[2].address().to_string(), "weight": 2 }));
    assert_eq!(status, 201, "{body}");
    let added = becomes_healthy(&proxy, "c");
    assert!(added.added && !added.leaving && (added.weight, added.configured_weight) == (2, 2), "{added:?}");
    assert_eq!(answering(|| proxy.get("/echo")), set(&["a", "b", "c"]));
    assert_eq!(remove(&proxy, "a").0, 202);
    is_gone(&proxy, "a");
    assert_eq!(answering(|| proxy.get("/echo")), set(&["b", "c"]));
    assert_eq!(proxy.status().upstreams[0].removed, ["a"]);
    // It comes back by its name alone.
    assert_eq!(add(&proxy, &json!({ "name": "a" })).0, 201);
    becomes_healthy(&proxy, "a");
    assert!(proxy.status().upstreams[0].removed.is_empty() && !proxy.server("app", "a").added);
    assert_eq!(remove(&proxy, "c").0, 202);
    is_gone(&proxy, "c");
    assert_eq!(answering(|| proxy.get("/echo")), set(&["a", "b"]));
}

/// Removing is draining first: sessions stay to their end, requests are answered.
#[test]
fn a_server_is_removed_when_its_sessions_are_over() {
    let origins = origins(2);
    let more = "drain = { sessions_idle = \"3s\", sessions_max = \"60s\" }";
    let policy = "{ sticky_cookie = { new_clients = \"round_robin\" } }";
    let proxy = Proxy::start(&upstream("app", policy, more, &origins));
    let mut client = proxy.pinned_to("a");
    assert_eq!(remove(&proxy, "a").0, 202);
    let leaving = proxy.server("app", "a");
    assert!(leaving.leaving && leaving.admin == "draining", "{leaving:?}");
    assert_eq!(client.get("/echo").server(), "a", "the session is kept");
    assert!((0..8).all(|_| proxy.get("/echo").server() == "b"), "and nobody new comes");
    is_gone(&proxy, "a");
    let moved = client.get("/echo");
    assert_eq!((moved.status, moved.server()), (200, "b"));
}

#[test]
fn a_removal_is_taken_back_by_ready() {
    let origins = origins(2);
    let policy = "{ sticky_cookie = { new_clients = \"round_robin\" } }";
    let proxy = Proxy::start(&upstream("app", policy, "", &origins));
    let _client = proxy.pinned_to("a");
    assert_eq!(remove(&proxy, "a").0, 202);
    proxy.change("app", "a", &json!({ "admin": "ready" }));
    let ready = proxy.server("app", "a");
    assert!(!ready.leaving && ready.admin == "ready", "{ready:?}");
    assert!(answering(|| proxy.get("/echo")).contains("a"));
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let origins = origins(2);
    let proxy = Proxy::start(&app(RR, &origins));
    let b = origins[1].address().to_string();
    for (body, wrong) in [
        (json!({ "name": "a", "address": "127.0.0.1:1" }), "has a server `a` already"),
        (json!({ "name": "c", "address": b }), "server `b` of upstream `app` has that address"),
        (json!({ "name": "c" }), "say its address"),
        (json!({}), "say the name of the server"),
        (json!({ "name": "c", "address": "127.0.0.1" }), "has no port"),
        (json!({ "name": "c d", "address": "127.0.0.1:1" }), "cannot be in the name"),
        (json!({ "name": "c", "address": "127.0.0.1:1", "weight": 1001 }), "too large"),
        (json!({ "nome": "c" }), "unknown field"),
    ] {
        let (status, text) = add(&proxy, &body);
        assert!(status == 400 && text.contains(wrong), "{body}: {status} {text}");
    }
    assert_eq!(proxy.admin("POST", "/upstreams/shop/servers", "{\"address\":\"127.0.0.1:1\"}").0, 404);
    assert_eq!(remove(&proxy, "z").0, 404);
    assert_eq!(remove(&proxy, "a").0, 202);
    let (status, text) = remove(&proxy, "b");
    assert!(status == 400 && text.contains("last server"), "{status} {text}");
    is_gone(&proxy, "a");
    assert_eq!(names(&proxy), ["b"]);
}

/// The file is the truth as soon as it says the same.
#[test]
fn a_reload_keeps_what_was_said_and_forgets_it_when_the_file_says_it() {
    let origins = origins(3);
    let proxy = Proxy::start(&app(RR, &origins[..2]));
    assert_eq!(add(&proxy, &json!({ "name": "c", "address": origins[2].address().to_string() })).0, 201);
    assert_eq!(remove(&proxy, "a").0, 202);
    is_gone(&proxy, "a");
    let answer = proxy.reload(&(app(RR, &origins[..2]) + "# the same\n")).unwrap();
    let told = |part: &str| answer.warnings.iter().any(|warning| warning.contains(part));
    assert!(
        told("server `a` of upstream `app` stays out") && told("server `c` of upstream `app` stays:"),
        "{answer:?}"
    );
    assert_eq!(names(&proxy), ["b", "c"]);
    // Now the file has c, and a no more.
    let answer = proxy.reload(&app(RR, &origins[1..])).unwrap();
    assert!(!answer.warnings.iter().any(|w| w.contains("operator")) && answer.changes.is_empty(), "{answer:?}");
    assert!(!proxy.server("app", "c").added);
    proxy.reload(&app(RR, &origins)).unwrap();
    assert_eq!(names(&proxy), ["a", "b", "c"]);
}

fn kept_in(dir: &Path, policy: &str, origins: &[Origin]) -> String {
    format!("state_dir = \"{}\"\n{}", dir.display(), upstream("app", policy, "", origins))
}

#[test]
fn what_operators_said_outlives_a_restart() {
    let (origins, dir) = (origins(5), tempfile::tempdir().unwrap());
    let toml = kept_in(dir.path(), RR, &origins[..4]);
    let first = Running::start(&toml);
    let address = origins[4].address().to_string();
    first.verb(&["add", "app/e", &address, "--weight", "3"]).ends(0);
    first.verb(&["remove", "--wait", "app/a"]).ends(0);
    first.verb(&["weight", "app/b", "7"]).ends(0);
    first.verb(&["disable", "app/c"]).ends(0);
    first.verb(&["drain", "--wait", "app/d"]).ends(0);
    // Killed: what was said is on the disk before it is answered.
    let mut first = first;
    first.process.kill();
    let second = Running::start(&toml);
    let status = second.status();
    let servers = &status.upstreams[0].servers;
    let told: Vec<(&str, &str, u32)> = servers.iter().map(|s| (s.name.as_str(), s.admin.as_str(), s.weight)).collect();
    assert_eq!(told, [("b", "ready", 7), ("c", "disabled", 1), ("d", "drained", 1), ("e", "ready", 3)]);
    assert_eq!(status.upstreams[0].removed, ["a"]);
    assert_eq!(answering(|| second.client().get("/echo")), set(&["b", "e"]));
    let shown = second.verb(&["status"]).ends(0).out;
    assert!(shown.contains("added by an operator") && shown.contains("removed by an operator: a"), "{shown}");
    second.verb(&["add", "app/a"]).ends(0);
    second.verb(&["remove", "--wait", "app/e"]).ends(0);
    second.verb(&["ready", "app/c", "app/d"]).ends(0);
    second.verb(&["weight", "app/b", "1"]).ends(0);
    let text = std::fs::read_to_string(dir.path().join("state.json")).unwrap();
    assert!(!text.contains("members"), "nothing is left to keep: {text}");
}

/// A drain goes on where it was, and sessions that the new process has not seen yet may be there.
#[test]
fn a_drain_that_runs_goes_on_after_a_restart() {
    let (origins, dir) = (origins(2), tempfile::tempdir().unwrap());
    let toml = kept_in(dir.path(), "{ sticky_cookie = { new_clients = \"round_robin\" } }", &origins);
    let mut first = Running::start(&toml);
    let mut client = first.client();
    let cookie = loop {
        let answer = client.get("/echo");
        if answer.server() == "a" {
            break answer.cookie("evenkeel").unwrap();
        }
        client.hang_up();
    };
    first.verb(&["drain", "app/a"]).ends(0);
    first.process.kill();
    let second = Running::start(&toml);
    assert_eq!(second.server("app", "a").admin, "draining");
    let mut client = second.client().with("cookie", &cookie);
    assert_eq!(client.get("/echo").server(), "a", "a pinned client is still at home");
    assert_eq!(answering(|| second.client().get("/echo")), set(&["b"]));
}

#[test]
fn verbs_say_what_they_did() {
    let origins = origins(3);
    let evenkeel = Running::start(&app(RR, &origins[..2]));
    let address = origins[2].address().to_string();
    let done = evenkeel.verb(&["add", "app/c", &address]).ends(0);
    assert!(done.out.starts_with(&format!("app/c is in service at {address}")), "{}", done.out);
    assert!(done.err.contains("forgotten at a restart"), "{}", done.err);
    let done = evenkeel.verb(&["add", "shop/c", &address]).ends(1);
    assert!(done.err.contains("names no upstream"), "{}", done.err);
    let done = evenkeel.verb(&["remove", "--wait", "c"]).ends(0);
    assert!(done.out.contains("app/c is gone: it is safe to stop it"), "{}", done.out);
    let done = evenkeel.verb(&["remove", "c"]).ends(1);
    assert!(done.err.contains("`c`") || done.err.contains("no server"), "{}", done.err);
}
