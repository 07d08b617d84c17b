//! Another process takes over: nobody notices, and nothing is forgotten.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use harness::upgrading::{Upgrading, gone, kill};
use harness::{
    Client, Fake, Held, MixedLoad, Raw, Service, Signal, WebSocket, app, eventually, origins, reserved, tls, upstream,
};
use serde_json::json;

const RR: &str = "\"round_robin\"";

/// One upstream of held servers that nobody checks.
fn of_held(policy: &str, more: &str, servers: &[(&str, &Held)]) -> String {
    let servers: String = servers
        .iter()
        .map(|(name, held)| format!("[[upstream.app.server]]\nname = \"{name}\"\naddress = \"{}\"\n", held.address()))
        .collect();
    format!("[upstream.app]\npolicy = {policy}\ncheck = \"off\"\n{more}\n{servers}")
}

#[test]
fn five_upgrades_under_load_fail_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b"], dir.path());
    let servers: String = services.iter().map(Service::table).collect();
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
    load.stop().unnoticed();
}

#[test]
fn the_new_process_has_the_sockets_and_the_admin_api() {
    let origins = origins(2);
    let evenkeel = Upgrading::start(&app(RR, &origins));
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

#[test]
fn an_admin_socket_whose_file_is_gone_is_made_anew() {
    let origins = origins(1);
    let evenkeel = Upgrading::start(&app(RR, &origins));
    let old = evenkeel.pid();
    std::fs::remove_file(evenkeel.socket()).unwrap();
    evenkeel.process.signal(Signal::USR2);
    eventually("the file", || evenkeel.socket().exists().then_some(()));
    gone(old);
    assert_ne!(evenkeel.pid(), old);
    assert_eq!(evenkeel.verb(&["stop"]).code, Some(0));
    eventually("the last one takes it away", || (!evenkeel.socket().exists()).then_some(()));
}

#[test]
fn a_server_that_asks_the_new_process_alone_for_its_drain_gets_it() {
    let asks = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&asks);
    let server = Fake::answering(move |_, _, _| {
        let body = if now.load(SeqCst) { "drain" } else { "fine." };
        Some(format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{body}"))
    });
    let (origins, held) = (origins(1), Held::start("slow"));
    let check = |path: &str| {
        format!(
            "check = {{ http = {{ path = \"{path}\", interval = \"1h\", timeout = \"1h\" }} }}\ndrain = {{ on_check = true }}\n"
        )
    };
    let app = format!(
        "{}[[upstream.app.server]]\nname = \"x\"\naddress = \"{}\"\n[[route]]\nupstream = \"app\"\n",
        upstream("app", RR, &check("/healthz"), &origins),
        server.address()
    );
    let evenkeel = Upgrading::start(&app);
    asks.store(true, SeqCst);
    // The new process gets ready no sooner than this one lets it.
    evenkeel.write(&format!("{app}[upstream.slow]\n{}servers = [\"{}\"]\n", check("/"), held.address()));
    evenkeel.process.signal(Signal::USR2);
    held.has(1);
    let next = evenkeel.status().upgrade.unwrap().pid;
    assert_eq!(evenkeel.server("app", "x").admin, "ready");
    held.release(usize::MAX);
    eventually("the next one serves", || (evenkeel.pid() == next).then_some(()));
    eventually("it is drained", || {
        let server = evenkeel.server("app", "x");
        (server.admin == "drained" && server.set_by == "server").then_some(())
    });
}

#[test]
fn usr2_is_an_upgrade() {
    let origins = origins(1);
    let evenkeel = Upgrading::start(&app(RR, &origins));
    let old = evenkeel.pid();
    evenkeel.process.signal(Signal::USR2);
    evenkeel.process.says("the new process has taken over");
    eventually("another process", || (evenkeel.pid() != old).then_some(()));
    assert_eq!(evenkeel.client().get("/echo").status, 200);
    gone(old);
}

#[test]
fn the_configuration_may_change_as_no_reload_can() {
    let origins = origins(1);
    let toml = |cores: usize| format!("cores = {cores}\n{}", app(RR, &origins));
    let evenkeel = Upgrading::start(&toml(1));
    for cores in [3, 1, 2] {
        evenkeel.write(&toml(cores));
        evenkeel.upgrade();
        assert_eq!(evenkeel.status().cores, cores);
        // Whichever socket the kernel gives each to, somebody accepts it.
        for _ in 0..30 {
            assert_eq!(evenkeel.client().get("/echo").status, 200);
        }
        evenkeel.alone();
    }
    // Listeners come and go, too; another address of the same name is another socket.
    let listener = |name: &str| format!("[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\n");
    evenkeel.write(&format!("{}{}{}", listener("main"), listener("other"), app(RR, &origins)));
    evenkeel.upgrade();
    let listeners = evenkeel.status().listeners;
    assert_eq!(listeners[0].address, evenkeel.address.to_string(), "the one that was there");
    assert_eq!(Client::to(listeners[1].address.parse().unwrap()).get("/echo").status, 200);
    evenkeel.alone();
    evenkeel.write(&format!("{}{}", listener("other"), app(RR, &origins)));
    evenkeel.upgrade();
    assert_eq!(Client::to(listeners[1].address.parse().unwrap()).get("/echo").status, 200);
    eventually("the socket that nobody wants is closed", || std::net::TcpStream::connect(evenkeel.address).err());
}

#[test]
fn sessions_and_round_robin_go_on_without_a_state_directory() {
    let origins = origins(3);
    let dir = tempfile::tempdir().unwrap();
    let authority = tls::Authority::new("upgrade");
    let site = authority.issue(&["a.test"]).toml(dir.path(), "site");
    let toml = format!(
        "cores = 1\n[[listener]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\ntls = {{ certificate = {site} }}\n\
         [[route]]\npath = \"/echo\"\nupstream = \"turns\"\n[[route]]\nupstream = \"app\"\n{}{}",
        upstream("app", "\"sticky_cookie\"", "", &origins),
        upstream("turns", RR, "", &origins)
    );
    let evenkeel = Upgrading::start(&toml);
    let login = evenkeel.client().get("/bytes?n=1");
    let (cookie, server) = (login.cookie("evenkeel").unwrap(), login.server().to_owned());
    let secure = evenkeel.status().listeners[1].address.parse().unwrap();
    let client = tls::TlsClient::trusting(&authority);
    assert!(!client.connect(secure, "a.test").unwrap().get("/echo").server().is_empty());
    let turn = || evenkeel.client().get("/echo").server().to_owned();
    let before: Vec<String> = (0..4).map(|_| turn()).collect();
    assert_eq!(before[0], before[3]);
    for round in 0..2 {
        evenkeel.upgrade();
        let sessions: usize = evenkeel.status().upstreams[0].servers.iter().filter_map(|s| s.sessions).sum();
        assert_eq!(sessions, 1 + round, "known before anybody has come again");
        assert_eq!(turn(), before[(4 + round) % 3], "after {before:?}");
        for _ in 0..3 {
            assert_eq!(evenkeel.client().with("cookie", &cookie).get("/bytes?n=1").server(), server);
        }
        let mut again = client.connect(secure, "a.test").unwrap();
        assert_eq!(again.get("/bytes?n=1").status, 200);
        assert!(again.is_resumed(), "with tickets of the process before");
        evenkeel.alone();
    }
}

#[test]
fn what_is_known_of_servers_goes_along() {
    let (app_servers, others) = (origins(4), origins(2));
    let (_place, refused) = reserved();
    let slow = "check = { http = { path = \"/healthz\", interval = \"1h\" } }";
    let evenkeel = Upgrading::start(&format!(
        "cores = 1\n[[route]]\npath = \"/status\"\nupstream = \"bad\"\n[[route]]\nupstream = \"app\"\n{}{}\
         [upstream.down]\ncheck = {{ tcp = {{ interval = \"1h\" }} }}\nservers = [\"{refused}\"]\n",
        upstream("app", "\"sticky_cookie\"", slow, &app_servers),
        upstream(
            "bad",
            RR,
            &format!(
                "{slow}\noutliers = {{ consecutive_failures = 1, ejection = \"1h\", max_ejection = \"1h\" }}\nretry = {{ attempts = 0 }}"
            ),
            &others
        ),
    ));
    // Before any session could hold it.
    evenkeel.verb(&["remove", "app/d", "--wait"]).ends(0);
    // A session holds the drain of a.
    let mut first = evenkeel.client().get("/bytes?n=1");
    while first.server() != "a" {
        first = evenkeel.client().get("/bytes?n=1");
    }
    evenkeel.change("app", "a", &json!({ "admin": "draining", "sessions_max": "50m", "in_flight": "7s" }));
    evenkeel.change("app", "b", &json!({ "admin": "disabled" }));
    evenkeel.change("app", "c", &json!({ "weight": 7 }));
    evenkeel.verb(&["add", "app/e", &others[0].address().to_string()]).ends(0);
    evenkeel.verb(&["maintenance", "down", "--message", "Later."]).ends(0);
    others[1].behave(|b| b.status = Some(503));
    eventually("b of bad is ejected", || {
        evenkeel.client().get("/status?code=200");
        (evenkeel.server("bad", "b").operational == "ejected").then_some(())
    });
    let before = evenkeel.status();
    for _ in 0..2 {
        evenkeel.upgrade();
        let now = evenkeel.status();
        for (old, new) in before.upstreams.iter().zip(&now.upstreams) {
            assert_eq!((&old.service.is_some(), &old.removed), (&new.service.is_some(), &new.removed), "{}", old.name);
            assert_eq!(old.servers.len(), new.servers.len());
            for (old, new) in old.servers.iter().zip(&new.servers) {
                assert_eq!(
                    (&old.name, &old.operational, &old.admin, old.weight, &old.set_by, old.added, old.sessions),
                    (&new.name, &new.operational, &new.admin, new.weight, &new.set_by, new.added, new.sessions)
                );
            }
        }
        let drain = evenkeel.server("app", "a").drain.unwrap();
        assert!(drain.ends_within_seconds > 2_900.0 && drain.ends_within_seconds < 3_007.0, "{drain:?}");
        assert_eq!(drain.sessions_left, 1);
        let ejection = evenkeel.server("bad", "b").ejection.unwrap();
        assert!(ejection.ends_within_seconds > 3_000.0 && ejection.reason.contains("in a row"), "{ejection:?}");
        assert_eq!(evenkeel.server("down", &refused.to_string()).operational, "unhealthy");
        evenkeel.alone();
    }
    // It is taken back as if it had been drained here.
    evenkeel.change("app", "a", &json!({ "admin": "ready" }));
    assert_eq!(evenkeel.server("app", "a").admin, "ready");
}

#[test]
fn the_old_process_is_seen_until_it_has_ended_and_bounded_by_its_deadline() {
    let origins = origins(1);
    let evenkeel = Upgrading::start(&format!(
        "[upgrade]\ndeadline = \"10s\"\n{}",
        upstream("app", RR, "drain = { close_spread = \"500ms\" }", &origins)
    ));
    let mut socket = WebSocket::open(evenkeel.address, "/ws");
    let mut download = evenkeel.raw();
    download.send(b"GET /bytes?n=100000000 HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(download.head().unwrap().contains("200"));
    let old = evenkeel.pid();
    evenkeel.upgrade();
    let before = eventually("what it has left", || {
        evenkeel.status().predecessor.filter(|before| before.connections == 2 && before.in_flight == 2)
    });
    assert_eq!((before.pid, before.tunnels), (old, 1));
    assert!(before.ends_within_seconds <= 10.0);
    assert_eq!(evenkeel.metric("evenkeel_predecessor_connections", &[]), 2.0);
    let server = evenkeel.server("app", "a");
    assert_eq!((server.in_flight, server.in_flight_of_predecessor), (2, 2));
    assert!(evenkeel.verb(&["status"]).ends(0).out.contains(&format!("before     process {old} (evenkeel ")));
    let refused = evenkeel.verb(&["upgrade"]).ends(1);
    assert!(refused.err.contains(&format!("process {old} ")), "{refused:?}");
    assert!(refused.err.contains("still has 2 connections: upgrade when it has ended, within"), "{refused:?}");
    // It goes on with what it has, and ends it in time.
    socket.echo("still there").unwrap();
    assert_eq!(socket.close_code(), Some(1001));
    gone(old);
    evenkeel.alone();
    assert_eq!(evenkeel.metric("evenkeel_predecessor_connections", &[]), 0.0);
    let (bytes, _) = download.rest_and_end();
    assert!(bytes.len() < 100_000_000, "what is left at the deadline is cut");
    evenkeel.upgrade();
}

#[test]
fn an_old_process_that_is_told_to_stop_hurries() {
    let held = Held::start("a");
    let evenkeel = Upgrading::start(&format!("[shutdown]\ndeadline = \"500ms\"\n{}", of_held(RR, "", &[("a", &held)])));
    let mut waiting = evenkeel.raw();
    waiting.send(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n");
    held.has(1);
    let old = evenkeel.pid();
    evenkeel.upgrade();
    kill(old, Signal::TERM);
    gone(old);
    assert!(waiting.is_closed());
    held.release(usize::MAX);
    assert_eq!(evenkeel.client().get("/").status, 200);
}

/// A kept connection with one request behind it.
fn kept(evenkeel: &Upgrading) -> Raw {
    let mut kept = evenkeel.raw();
    kept.send(b"GET /kept HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(kept.answer().status, 200);
    kept
}

#[test]
fn a_server_is_drained_once_both_processes_have_nothing_on_it() {
    let (a, b) = (Held::start("a"), Held::start("b"));
    let evenkeel = Upgrading::start(&format!("cores = 1\n{}", of_held(RR, "", &[("a", &a), ("b", &b)])));
    b.release(usize::MAX);
    let mut kept: Vec<Raw> = Vec::new();
    evenkeel.change("app", "a", &json!({ "admin": "draining" }));
    (0..4).for_each(|_| kept.push(self::kept(&evenkeel)));
    evenkeel.change("app", "a", &json!({ "admin": "ready" }));
    evenkeel.change("app", "b", &json!({ "admin": "draining" }));
    let mut waiting = evenkeel.raw();
    waiting.send(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n");
    a.has(1);
    evenkeel.change("app", "b", &json!({ "admin": "ready" }));
    evenkeel.upgrade();

    evenkeel.change("app", "a", &json!({ "admin": "draining" }));
    eventually("the old process knows", || evenkeel.status().predecessor.filter(|before| before.in_step));
    let server = evenkeel.server("app", "a");
    assert_eq!(server.in_flight_of_predecessor, 1);
    assert_eq!((server.admin.as_str(), server.in_flight), ("draining", 1));
    // The old process sends nothing more to it either, and says that its connections end.
    for kept in &mut kept {
        kept.send(b"GET /after HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = kept.answer();
        assert_eq!((answer.server(), answer.header("connection")), ("b", Some("close")));
    }
    assert_eq!(evenkeel.server("app", "a").admin, "draining");
    a.release(1);
    assert_eq!(waiting.answer().server(), "a");
    // Until the old process has heard of that, too, it may be held for one that has a request.
    eventually("drained", || {
        let server = evenkeel.server("app", "a");
        (server.admin == "drained" && server.in_flight == 0).then_some(())
    });
    evenkeel.alone();
}

#[test]
fn what_a_drain_cuts_is_cut_in_the_old_process_too() {
    let (a, b) = (Held::start("a"), Held::start("b"));
    let evenkeel = Upgrading::start(&of_held(RR, "", &[("a", &a), ("b", &b)]));
    evenkeel.change("app", "b", &json!({ "admin": "disabled" }));
    let mut waiting = evenkeel.raw();
    waiting.send(b"POST /held HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    a.has(1);
    evenkeel.change("app", "b", &json!({ "admin": "ready" }));
    evenkeel.upgrade();
    let done = evenkeel.verb(&["drain", "app/a", "--wait", "--in-flight", "300ms", "--timeout", "20s"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!((waiting.answer().status, waiting.is_closed()), (502, true));
    evenkeel.alone();
}

#[test]
fn a_pause_holds_for_both_processes_and_so_does_its_end() {
    let server = Fake::answering(|_, _, _| Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned()));
    let evenkeel = Upgrading::start(&harness::unchecked(server.address(), ""));
    evenkeel.verb(&["pause", "app", "--for", "10m"]).ends(0);
    let mut waiting = evenkeel.raw();
    waiting.send(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n");
    eventually("it waits", || evenkeel.status().upstreams[0].queue.clone().filter(|queue| queue.waiting == 1));
    evenkeel.upgrade();
    assert!(waiting.is_silent_for(Duration::from_millis(300)));
    let left = evenkeel.status().upstreams[0].service.clone().unwrap().ends_within_seconds.unwrap();
    assert!(left > 500.0 && left < 600.0, "{left}");
    evenkeel.verb(&["resume"]).ends(0);
    assert_eq!(waiting.answer().status, 200);
    evenkeel.alone();
}

#[test]
fn a_limit_of_requests_counts_those_of_both_processes() {
    let a = Held::start("a");
    let evenkeel = Upgrading::start(&of_held(RR, "max_requests = 1", &[("a", &a)]));
    let ask = || {
        let mut asking = evenkeel.raw();
        asking.send(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n");
        asking
    };
    let mut first = ask();
    a.has(1);
    evenkeel.upgrade();
    eventually("what the old process has is known", || {
        evenkeel.status().predecessor.filter(|before| before.in_flight == 1 && before.in_step)
    });
    let mut second = ask();
    eventually("it waits", || evenkeel.status().upstreams[0].queue.clone().filter(|queue| queue.waiting == 1));
    assert_eq!(a.paths().len(), 1);
    a.release(1);
    assert_eq!(first.answer().status, 200);
    a.release(1);
    assert_eq!(second.answer().status, 200);
    assert_eq!(a.most(), 1);
}
