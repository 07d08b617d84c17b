//! Servers that ask for their own drain, in a check or in an answer, and come back by themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};

use harness::{Client2, Done, Fake, Process, Proxy, command, eventually, upstream};
use serde_json::json;

/// How a server answers now.
#[derive(Clone)]
struct Says {
    /// Status and body of its check; none closes the connection.
    check: Option<(u16, &'static str)>,
    /// `X-Evenkeel` of what it answers to requests, and to checks.
    header: Option<&'static str>,
    check_header: Option<&'static str>,
    /// Whether its checks wait.
    holds_checks: bool,
}

struct Server {
    name: &'static str,
    says: Arc<Mutex<Says>>,
    /// What it says has changed.
    changed: Arc<Condvar>,
    /// Checks that had to wait.
    held: Arc<AtomicUsize>,
    fake: Fake,
}

impl Server {
    fn start(name: &'static str) -> Self {
        let says = Arc::new(Mutex::new(Says {
            check: Some((200, "fine")),
            header: None,
            check_header: None,
            holds_checks: false,
        }));
        let held = Arc::new(AtomicUsize::new(0));
        let changed = Arc::new(Condvar::new());
        let (now, waits, change) = (Arc::clone(&says), Arc::clone(&held), Arc::clone(&changed));
        let fake = Fake::answering(move |_, _, head| {
            let is_check = head.starts_with("GET /healthz ");
            let mut says = now.lock().unwrap();
            if is_check && says.holds_checks {
                waits.fetch_add(1, Relaxed);
                says = change.wait_while(says, |says| says.holds_checks).unwrap();
            }
            let says = says.clone();
            let (status, body) = if is_check { says.check? } else { (200, "here") };
            let header = if is_check { says.check_header } else { says.header };
            let header = header.map(|value| format!("x-evenkeel: {value}\r\n")).unwrap_or_default();
            let length = body.len();
            Some(format!("HTTP/1.1 {status} X\r\nx-server: {name}\r\n{header}content-length: {length}\r\n\r\n{body}"))
        });
        Self { name, says, changed, held, fake }
    }

    fn says(&self, change: impl FnOnce(&mut Says)) {
        change(&mut self.says.lock().unwrap());
        self.changed.notify_all();
    }

    fn table(&self) -> String {
        format!("[[upstream.app.server]]\nname = \"{}\"\naddress = \"{}\"\n", self.name, self.fake.address())
    }
}

const CHECK: &str = "check = { http = { path = \"/healthz\", interval = \"50ms\", timeout = \"10s\", \
                     healthy_threshold = 1, unhealthy_threshold = 100 } }\n";

fn config(more: &str, drain: &str, servers: &[&Server]) -> String {
    let tables: String = servers.iter().map(|server| server.table()).collect();
    let keys = format!("{more}drain = {drain}\ncookie_keys = [\"a key for this test\"]\n");
    format!("cores = 2\n{}{tables}", upstream("app", "\"round_robin\"", &keys, &[]))
}

fn is(proxy: &Proxy, server: &str, admin: &str, set_by: &str) -> bool {
    let server = proxy.server("app", server);
    server.admin == admin && server.set_by == set_by
}

#[track_caller]
fn becomes(proxy: &Proxy, server: &str, admin: &str, set_by: &str) {
    eventually(&format!("{server} is {admin} by {set_by:?}"), || is(proxy, server, admin, set_by).then_some(()));
}

fn who(proxy: &Proxy, n: usize) -> BTreeSet<String> {
    (0..n).map(|_| proxy.get("/").server().to_owned()).collect()
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// As many results of checks as it takes to be sure that one has come in since.
fn some_checks(server: &Server) {
    let probes = || server.fake.heads().iter().filter(|head| head.starts_with("GET /healthz ")).count();
    let before = probes();
    eventually("some checks", || (probes() >= before + 3).then_some(()));
}

fn set(proxy: &Proxy, server: &str, admin: &str) {
    proxy.change("app", server, &json!({ "admin": admin }));
}

#[test]
fn a_check_that_says_404_or_drain_takes_a_server_out_and_one_that_passes_brings_it_back() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let proxy = Proxy::start(&config(CHECK, "{ on_check = true }", &[&a, &b]));
    assert_eq!(who(&proxy, 10), names(&["a", "b"]));
    for asks in [(404, "no such page"), (200, "drain\n"), (200, "  DRAIN for a restart")] {
        b.says(|says| says.check = Some(asks));
        becomes(&proxy, "b", "drained", "server");
        assert_eq!(proxy.server("app", "b").operational, "healthy", "it does well");
        assert_eq!(who(&proxy, 10), names(&["a"]));
        // It restarts: checks fail, and nothing changes by that.
        b.says(|says| says.check = None);
        eventually("a check has failed", || proxy.server("app", "b").last_check_error);
        assert!(is(&proxy, "b", "drained", "server"));
        b.says(|says| says.check = Some((200, "fine")));
        becomes(&proxy, "b", "ready", "");
        assert_eq!(who(&proxy, 10), names(&["a", "b"]));
    }
    // One who does not mean it, or says it where nobody listens.
    b.says(|says| {
        says.check = Some((200, "drained"));
        says.check_header = Some("drain");
        says.header = Some("drain");
    });
    let seen: BTreeSet<Option<String>> =
        (0..10).map(|_| proxy.get("/").header("x-evenkeel").map(str::to_owned)).collect();
    assert_eq!(seen, [None, Some("drain".to_owned())].into(), "not configured, it is a header like any other");
    some_checks(&b);
    assert!(is(&proxy, "b", "ready", ""));
}

#[test]
fn an_answer_asks_and_its_header_stays_inside() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let proxy = Proxy::start(&config(CHECK, "{ on_header = true }", &[&a, &b]));
    b.says(|says| says.header = Some("weight=5"));
    for _ in 0..10 {
        assert_eq!(proxy.get("/").header("x-evenkeel"), None);
    }
    assert!(is(&proxy, "b", "ready", ""), "that is no drain");
    b.says(|says| says.header = Some("Drain"));
    eventually("b has asked", || {
        let answer = proxy.get("/");
        assert_eq!((answer.status, answer.header("x-evenkeel")), (200, None));
        is(&proxy, "b", "drained", "server").then_some(())
    });
    assert_eq!(who(&proxy, 10), names(&["a"]));
    // Checks that pass all the while do not say that it is another process.
    some_checks(&b);
    assert!(is(&proxy, "b", "drained", "server"));
    b.says(|says| {
        says.check = None;
        says.header = None;
    });
    eventually("a check has failed", || proxy.server("app", "b").last_check_error);
    b.says(|says| says.check = Some((200, "fine")));
    becomes(&proxy, "b", "ready", "");
    assert_eq!(who(&proxy, 10), names(&["a", "b"]));
    // A check's answer may have the header, too: then it ends when it is gone.
    b.says(|says| says.check_header = Some("drain"));
    becomes(&proxy, "b", "drained", "server");
    b.says(|says| says.check_header = None);
    becomes(&proxy, "b", "ready", "");
    // It is as good over HTTP/2.
    b.says(|says| says.header = Some("drain"));
    let client = Client2::to(proxy.address);
    eventually("b has answered over HTTP/2", || {
        let answer = client.get("/");
        assert_eq!(answer.header("x-evenkeel"), None);
        (proxy.server("app", "b").admin != "ready").then_some(())
    });
}

#[test]
fn an_operator_is_not_overruled() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let proxy = Proxy::start(&config(CHECK, "{ on_check = true, on_header = true }", &[&a, &b]));
    // Drained by order: checks that pass, and pass again, do not bring it back.
    set(&proxy, "b", "draining");
    becomes(&proxy, "b", "drained", "operator");
    b.says(|says| says.check = Some((404, "")));
    some_checks(&b);
    b.says(|says| says.check = Some((200, "fine")));
    some_checks(&b);
    assert!(is(&proxy, "b", "drained", "operator"));
    set(&proxy, "b", "ready");
    // Made ready by order while it asks: it stays until it has ceased to ask.
    b.says(|says| says.check = Some((404, "")));
    becomes(&proxy, "b", "drained", "server");
    set(&proxy, "b", "ready");
    some_checks(&b);
    assert!(is(&proxy, "b", "ready", ""));
    b.says(|says| says.check = Some((200, "fine")));
    some_checks(&b);
    b.says(|says| says.check = Some((404, "")));
    becomes(&proxy, "b", "drained", "server");
    // What a server has asked for becomes an order where an operator wants the same.
    set(&proxy, "b", "draining");
    assert!(is(&proxy, "b", "drained", "operator"));
    b.says(|says| says.check = Some((200, "fine")));
    some_checks(&b);
    assert!(is(&proxy, "b", "drained", "operator"));
}

#[test]
fn the_last_server_stays_until_there_is_another() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    a.says(|says| says.check = Some((404, "")));
    b.says(|says| says.check = Some((404, "")));
    let proxy = Proxy::start(&config(CHECK, "{ on_check = true }", &[&a, &b]));
    some_checks(&a);
    some_checks(&b);
    let admins: BTreeSet<String> = ["a", "b"].map(|name| proxy.server("app", name).admin).into();
    assert!(admins.contains("ready") && admins.len() == 2, "{admins:?}");
    assert_eq!(proxy.get("/").status, 200);
    let (kept, gone, other) = if is(&proxy, "a", "ready", "") { ("a", "b", &b) } else { ("b", "a", &a) };
    other.says(|says| says.check = Some((200, "fine")));
    becomes(&proxy, gone, "ready", "");
    becomes(&proxy, kept, "drained", "server");
    assert_eq!(who(&proxy, 6), names(&[gone]));
}

#[test]
fn pinned_clients_stay_and_nothing_of_it_is_kept_over_a_restart() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let dir = tempfile::tempdir().unwrap();
    let text = config(CHECK, "{ on_check = true }", &[&a, &b]).replace("\"round_robin\"", "\"sticky_cookie\"");
    let text = format!("state_dir = {:?}\n{text}", dir.path());
    let proxy = Proxy::start(&text);
    let mut client = proxy.pinned_to("b");
    assert_eq!(client.get("/").server(), "b");
    b.says(|says| says.check = Some((404, "")));
    becomes(&proxy, "b", "draining", "server");
    assert_eq!(client.get("/").server(), "b", "its session is waited for");
    assert_eq!(who(&proxy, 10), names(&["a"]));
    assert_eq!(proxy.server("app", "b").drain.unwrap().sessions_left, 1);
    // A reload keeps it, and one that no longer hears the server takes it back.
    proxy.reload(&text.replace("[upstream.app]\n", "[upstream.app]\nfail_open = false\n")).unwrap();
    assert!(is(&proxy, "b", "draining", "server"));
    set(&proxy, "a", "draining");
    drop(proxy);
    b.says(|says| says.check = Some((200, "fine")));
    let proxy = Proxy::start(&text);
    assert!(is(&proxy, "b", "ready", ""));
    assert_eq!(proxy.server("app", "a").set_by, "operator");
    set(&proxy, "a", "ready");
    b.says(|says| says.check = Some((404, "")));
    becomes(&proxy, "b", "drained", "server");
    let reloaded = proxy.reload(&text.replace("on_check = true", "on_check = false")).unwrap();
    assert_eq!(reloaded.changes, ["upstream app: drain.on_check true → false"]);
    becomes(&proxy, "b", "ready", "");
}

#[test]
fn without_a_check_a_server_comes_back_by_order() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let proxy = Proxy::start(&config("", "{ on_header = true }", &[&a, &b]));
    b.says(|says| says.header = Some("drain"));
    eventually("b is drained", || {
        proxy.get("/");
        is(&proxy, "b", "drained", "server").then_some(())
    });
    // Made ready by order it stays, though it goes on asking, until it has ceased to.
    set(&proxy, "b", "ready");
    assert_eq!(who(&proxy, 10), names(&["a", "b"]));
    assert!(is(&proxy, "b", "ready", ""));
    b.says(|says| says.header = None);
    assert_eq!(who(&proxy, 10), names(&["a", "b"]));
    b.says(|says| says.header = Some("drain"));
    eventually("b is drained again", || {
        proxy.get("/");
        is(&proxy, "b", "drained", "server").then_some(())
    });
}

#[test]
fn the_status_says_who_has_taken_a_server_out() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let proxy = Proxy::start(&config(CHECK, "{ on_check = true }", &[&a, &b]));
    b.says(|says| says.check = Some((404, "")));
    becomes(&proxy, "b", "drained", "server");
    // A deploy begins where a server has begun, and what it does is kept like an operator's order.
    let opened = json!({ "by": "a test", "kind": "rolling", "servers": ["b"], "lease": "10m" });
    let (status, body) = proxy.admin("POST", "/upstreams/app/deploy", &opened.to_string());
    assert_eq!(status, 201, "{body}");
    let id = serde_json::from_str::<serde_json::Value>(&body).unwrap()["id"].clone();
    let report = |phase: &str| {
        let said = json!({ "id": id, "turns": [{ "server": "b", "phase": phase }] });
        let (status, body) = proxy.admin("PUT", "/upstreams/app/deploy", &said.to_string());
        assert_eq!(status, 200, "{body}");
    };
    report("draining");
    set(&proxy, "b", "draining");
    assert!(is(&proxy, "b", "drained", "deploy"));
    // The server stops to ask when it is another process; the deploy takes it back.
    report("hook");
    b.says(|says| says.check = Some((200, "fine")));
    some_checks(&b);
    assert!(is(&proxy, "b", "drained", "deploy"));
    report("returning");
    set(&proxy, "b", "ready");
    report("done");
    assert!(is(&proxy, "b", "ready", ""));
    set(&proxy, "b", "disabled");
    assert!(is(&proxy, "b", "disabled", "operator"), "its turn is over");
}

#[test]
fn who_was_kept_is_not_taken_out_for_what_it_said_long_ago() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let proxy = Proxy::start(&config(CHECK, "{ on_header = true }", &[&a, &b]));
    set(&proxy, "b", "draining");
    let asks = || proxy.server("app", "a").asks_for_drain;
    a.says(|says| says.header = Some("drain"));
    assert_eq!(proxy.get("/").status, 200);
    eventually("a has asked", || asks().then_some(()));
    assert!(is(&proxy, "a", "ready", ""), "nobody else takes new clients");
    a.says(|says| says.header = None);
    assert_eq!(proxy.get("/").status, 200);
    eventually("a has ceased to", || (!asks()).then_some(()));
    set(&proxy, "b", "ready");
    assert_eq!(who(&proxy, 10), names(&["a", "b"]));
}

#[test]
fn a_check_that_is_lost_does_not_bring_back_who_goes_on_asking() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    // A check that is held fails by nothing else.
    let check = CHECK.replace("\"10s\"", "\"100s\"");
    let text = config(&check, "{ on_header = true }", &[&a, &b]).replace("\"round_robin\"", "\"sticky_cookie\"");
    let proxy = Proxy::start(&text);
    let mut client = proxy.pinned_to("b");
    b.says(|says| says.header = Some("drain"));
    assert_eq!(client.get("/").server(), "b");
    becomes(&proxy, "b", "draining", "server");
    b.says(|says| says.check = None);
    eventually("a check has failed", || proxy.server("app", "b").last_check_error);
    // From here on none fails: what has failed was told before the next one began.
    b.says(|says| (says.check, says.holds_checks) = (Some((200, "fine")), true));
    eventually("a check waits", || (b.held.load(Relaxed) > 0).then_some(()));
    assert!(is(&proxy, "b", "draining", "server"));
    assert_eq!(client.get("/").server(), "b");
    // What a core tells comes in beside these.
    (0..20).for_each(|_| assert!(is(&proxy, "b", "draining", "server")));
    b.says(|says| says.holds_checks = false);
    eventually("a check has passed", || proxy.server("app", "b").last_check_error.is_none().then_some(()));
    some_checks(&b);
    assert!(is(&proxy, "b", "draining", "server"), "its answers still say it");
}

/// A deploy of `app`; hooks say that they have begun and wait for `go`.
fn deploy(proxy: &Proxy, dir: &Path, more: &[&str]) -> Process {
    let admin = proxy.socket().to_str().unwrap();
    let proof = dir.join("proof.json");
    let each = format!("touch {0}/began && while [ ! -f {0}/go ]; do sleep 0.05; done", dir.display());
    let mut deploy = command(&["deploy", "app", "--watch", "10ms", "--each", &each, "--admin", admin]);
    Process::of(deploy.arg("--proof").arg(proof).args(more))
}

/// The server says 404 in its checks once its hook runs.
fn asks_from_the_hook_on(dir: &Path, server: &Server) {
    eventually("the hook runs", || dir.join("began").exists().then_some(()));
    server.says(|says| says.check = Some((404, "")));
    std::fs::write(dir.join("go"), "").unwrap();
}

fn asks_too_long(done: Done) -> Done {
    let done = done.ends(6);
    assert!(done.err.contains("was not healthy within 3s (it asks for its drain)"), "{}", done.err);
    done
}

#[test]
fn a_rolling_deploy_takes_back_only_who_wants_to_serve() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let proxy = Proxy::start(&config(CHECK, "{ on_check = true }", &[&a, &b]));
    let dir = tempfile::tempdir().unwrap();
    let first = deploy(&proxy, dir.path(), &["--only", "b"]);
    asks_from_the_hook_on(dir.path(), &b);
    becomes(&proxy, "b", "drained", "server");
    b.says(|says| says.check = Some((200, "fine")));
    first.wait().ends(0);
    assert_eq!(who(&proxy, 10), names(&["a", "b"]));
    // One that goes on asking is not taken back, whatever becomes of the deploy.
    let dir = tempfile::tempdir().unwrap();
    let second = deploy(&proxy, dir.path(), &["--only", "b", "--healthy-within", "3s"]);
    asks_from_the_hook_on(dir.path(), &b);
    asks_too_long(second.wait());
    becomes(&proxy, "b", "drained", "server");
    assert_eq!(who(&proxy, 10), names(&["a"]));
    b.says(|says| says.check = Some((200, "fine")));
    becomes(&proxy, "b", "ready", "");
}

#[test]
fn a_new_set_that_asks_for_its_drain_is_not_swapped_in() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let proxy = Proxy::start(&config(CHECK, "{ on_check = true }", &[&a]));
    b.says(|says| says.check = Some((404, "")));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("go"), "").unwrap();
    let replace = format!("b={}", b.fake.address());
    asks_too_long(deploy(&proxy, dir.path(), &["--replace", &replace, "--healthy-within", "3s"]).wait());
    assert_eq!(proxy.status().upstreams[0].servers.len(), 1, "it was taken away again");
    // Nor by hand, however well it does.
    let standby = json!({ "name": "b", "address": b.fake.address().to_string(), "standby": true });
    assert_eq!(proxy.admin("POST", "/upstreams/app/servers", &standby.to_string()).0, 201);
    eventually("b asks", || proxy.server("app", "b").asks_for_drain.then_some(()));
    assert_eq!(proxy.server("app", "b").operational, "healthy");
    let swap = || proxy.admin("POST", "/upstreams/app/swap", r#"{"take_in":["b"],"take_out":["a"]}"#);
    let (status, body) = swap();
    assert!(status == 400 && body.contains("`b` asks for its drain: nothing was swapped"), "{status} {body}");
    assert_eq!(who(&proxy, 4), names(&["a"]));
    b.says(|says| says.check = Some((200, "fine")));
    eventually("b is swapped in", || (swap().0 == 200).then_some(()));
    assert_eq!(who(&proxy, 4), names(&["b"]));
}
