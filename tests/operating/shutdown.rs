//! The end of the process: nobody is cut off who could have been served.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use harness::{Held, Raw, Running, Signal, app, eventually, origins, under};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

fn started(shutdown: &str, origins: &[harness::Origin]) -> Running {
    Running::start(&format!("[shutdown]\n{shutdown}\n{}", app("\"round_robin\"", origins)))
}

/// In front of a server that answers when it is let.
fn holding(shutdown: &str) -> (Running, Held) {
    let held = Held::start("a");
    let server = format!("[[upstream.app.server]]\nname = \"a\"\naddress = \"{}\"\n", held.address());
    (Running::start(&format!("[shutdown]\n{shutdown}\n[upstream.app]\ncheck = \"off\"\n{server}")), held)
}

/// Waits until the listener refuses.
#[track_caller]
fn refuses(evenkeel: &Running) {
    eventually("refused connections", || TcpStream::connect(evenkeel.address).is_err().then_some(()));
}

fn in_flight(evenkeel: &Running, count: u32) {
    eventually("requests in flight", || (evenkeel.server("app", "a").in_flight == count).then_some(()));
}

#[test]
fn it_is_announced_before_anything_else_happens() {
    let origins = origins(1);
    let evenkeel = started("announce = \"3s\"\nidle_grace = \"10ms\"", &origins);
    assert_eq!(evenkeel.admin("GET", "/readyz", "").0, 200);
    let mut client = evenkeel.client();
    let began = Instant::now();
    evenkeel.process.signal(Signal::TERM);
    eventually("not ready", || (evenkeel.admin("GET", "/readyz", "").0 == 503).then_some(()));
    assert_eq!(evenkeel.admin("GET", "/readyz", "").1, "draining: evenkeel was told to stop\n");
    assert_eq!(evenkeel.admin("GET", "/livez", "").0, 200);
    assert_eq!(evenkeel.status().phase, "draining");
    // A balancer in front needs time to notice: until then everything goes on as before.
    if began.elapsed() < Duration::from_millis(1500) {
        let answer = client.get("/");
        assert_eq!((answer.status, answer.header("connection")), (200, None));
        assert_eq!(evenkeel.client().get("/").status, 200);
    }
    let done = evenkeel.process.wait().ends(0);
    assert!(began.elapsed() >= Duration::from_secs(3), "{done:?}");
}

#[test]
fn listeners_stop_and_what_is_in_flight_ends() {
    let (evenkeel, held) = holding("idle_grace = \"10ms\"");
    let mut slow = evenkeel.raw();
    slow.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut upload = evenkeel.raw();
    upload.send(b"POST /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc");
    in_flight(&evenkeel, 2);
    evenkeel.process.signal(Signal::TERM);
    refuses(&evenkeel);
    upload.send(b"def");
    held.release(usize::MAX);
    for raw in [&mut slow, &mut upload] {
        let answer = raw.answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{}", answer.text());
        assert!(raw.is_closed());
    }
    let socket = evenkeel.socket().to_owned();
    let done = evenkeel.process.wait().ends(0);
    assert!(done.err.contains("SIGTERM"), "{}", done.err);
    assert!(!socket.exists(), "the admin socket is left behind");
}

#[test]
fn keep_alive_connections_get_a_last_answer() {
    let origins = origins(1);
    let evenkeel = started("idle_grace = \"10s\"", &origins);
    let mut fresh = evenkeel.raw();
    let mut used = evenkeel.raw();
    let mut parked = evenkeel.raw();
    for raw in [&mut used, &mut parked] {
        raw.send(GET);
        assert_eq!(raw.answer().header("connection"), None);
    }
    eventually("parked connections", || (evenkeel.metric("evenkeel_connections_parked", &[]) >= 2.0).then_some(()));
    used.send(GET);
    used.answer();
    let began = Instant::now();
    evenkeel.process.signal(Signal::TERM);
    refuses(&evenkeel);
    for (name, raw) in [("fresh", &mut fresh), ("used", &mut used), ("parked", &mut parked)] {
        raw.send(GET);
        let answer = raw.try_answer().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{name}");
        assert!(raw.is_closed(), "{name}");
    }
    evenkeel.process.wait().ends(0);
    // Nobody is left: the grace is not waited for.
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

#[test]
fn idle_and_parked_connections_are_closed_after_the_grace() {
    let origins = origins(1);
    let evenkeel = started("idle_grace = \"500ms\"", &origins);
    let mut parked = evenkeel.raw();
    parked.send(GET);
    parked.answer();
    eventually("a parked connection", || (evenkeel.metric("evenkeel_connections_parked", &[]) == 1.0).then_some(()));
    let mut idle = evenkeel.raw();
    idle.send(GET);
    idle.answer();
    let mut never_used = evenkeel.raw();
    let began = Instant::now();
    evenkeel.process.signal(Signal::TERM);
    for (name, raw) in [("idle", &mut idle), ("parked", &mut parked), ("never used", &mut never_used)] {
        assert!(raw.is_closed(), "{name}");
        assert!(began.elapsed() >= Duration::from_millis(450), "{name} after {:?}", began.elapsed());
    }
    evenkeel.process.wait().ends(0);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn the_deadline_cuts_what_does_not_end() {
    let origins = origins(1);
    let evenkeel = started("idle_grace = \"10ms\"\ndeadline = \"3s\"", &origins);
    let mut slow = evenkeel.raw();
    slow.send(b"GET /slow?ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut tunnel = evenkeel.raw();
    tunnel.send(b"GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: my-proto\r\n\r\n");
    assert_eq!(tunnel.answer().status, 101);
    tunnel.send(b"x");
    assert_eq!(tunnel.read(1), b"x");
    in_flight(&evenkeel, 2);
    let began = Instant::now();
    evenkeel.process.signal(Signal::TERM);
    refuses(&evenkeel);
    // A tunnel lives until then.
    tunnel.send(b"still here");
    assert_eq!(tunnel.read(10), b"still here");
    let done = evenkeel.process.wait().ends(0);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(2_950) && took < Duration::from_secs(15), "{took:?}: {done:?}");
    assert!(slow.try_answer().map_or(true, |answer| answer.status >= 500));
    assert!(tunnel.is_closed());
}

#[test]
fn a_second_signal_stops_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::QUIT), (Signal::QUIT, Signal::INT)] {
        let origins = origins(1);
        let evenkeel = started("announce = \"30s\"\ndeadline = \"60s\"", &origins);
        let mut slow = evenkeel.raw();
        slow.send(b"GET /slow?ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n");
        in_flight(&evenkeel, 1);
        let began = Instant::now();
        evenkeel.process.signal(first);
        eventually("not ready", || (evenkeel.admin("GET", "/readyz", "").0 == 503).then_some(()));
        evenkeel.process.signal(second);
        let done = evenkeel.process.wait().ends(0);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(done.err.contains("stopping at once"), "{}", done.err);
    }
}

#[test]
fn the_verb_and_the_api_stop_it_too_and_do_not_insist() {
    let verb = |evenkeel: &Running| evenkeel.verb(&["stop"]).ends(0).out;
    let json = |evenkeel: &Running| evenkeel.verb(&["stop", "--output", "json"]).ends(0).out;
    let api = |evenkeel: &Running| {
        let (status, body) = evenkeel.admin("POST", "/stop", "");
        assert_eq!(status, 202);
        body
    };
    type Way<'a> = &'a dyn Fn(&Running) -> String;
    for (way, says) in [
        (&verb as Way<'_>, "evenkeel finishes what is in flight and stops\n"),
        (&json, "{\"stopping\":true}\n"),
        (&api, "{\"phase\":\"draining\"}"),
    ] {
        let (evenkeel, held) = holding("idle_grace = \"10ms\"");
        let mut slow = evenkeel.raw();
        slow.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        in_flight(&evenkeel, 1);
        assert_eq!(way(&evenkeel), says);
        refuses(&evenkeel);
        // Asked twice is not insisting: the request in flight still ends.
        evenkeel.admin("POST", "/stop", "");
        held.release(1);
        assert_eq!(slow.answer().status, 200);
        evenkeel.process.wait().ends(0);
    }
}

#[test]
fn commands_are_refused_while_it_drains() {
    let origins = origins(1);
    let evenkeel = started("announce = \"20s\"", &origins);
    evenkeel.process.signal(Signal::TERM);
    eventually("not ready", || (evenkeel.admin("GET", "/readyz", "").0 == 503).then_some(()));
    let done = evenkeel.verb(&["reload"]).ends(1);
    assert!(done.err.contains("stopping"), "{}", done.err);
    let done = evenkeel.verb(&["healthcheck"]).ends(6);
    assert!(done.err.contains("503"), "{}", done.err);
    evenkeel.process.signal(Signal::TERM);
    evenkeel.process.wait().ends(0);
}

#[test]
fn it_stops_while_it_starts() {
    let origins = origins(1);
    let dir = tempfile::tempdir().unwrap();
    origins[0].behave(|b| b.health_delay = Duration::from_secs(60));
    let (config, socket) = (dir.path().join("e.toml"), dir.path().join("a.sock"));
    let text = app("\"round_robin\"", &origins).replace("90ms", "30s").replace("100ms", "30s");
    let head = format!("[admin]\nsocket = {socket:?}\n[[listener]]\nbind = \"127.0.0.1:0\"\n");
    std::fs::write(&config, format!("{head}{text}")).unwrap();
    let args = ["run", "-c", config.to_str().unwrap()];
    let starting = harness::Process::spawn(&args);
    starting.says("admin API");
    starting.signal(Signal::TERM);
    let done = starting.wait().ends(0);
    assert!(done.err.contains("stopping"), "{}", done.err);
}

/// Accepting that pauses for want of descriptors must hear that it is over, too.
#[test]
fn it_stops_while_it_is_out_of_descriptors() {
    let origins = origins(1);
    let toml = format!(
        "cores = 2\n[shutdown]\nidle_grace = \"10ms\"\ndeadline = \"16s\"\n{}",
        app("\"round_robin\"", &origins)
    );
    let evenkeel = Running::with(&toml, |command| *command = under("ulimit -n 64", command));
    let conns: Vec<Raw> = (0..200).map(|_| evenkeel.raw()).collect();
    evenkeel.process.says("cannot accept connections");
    let began = Instant::now();
    evenkeel.process.signal(Signal::TERM);
    let done = evenkeel.process.wait().ends(0);
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}: {done:?}", began.elapsed());
    drop(conns);
}

#[test]
fn pipelined_requests_are_answered_before_the_end() {
    let (evenkeel, held) = holding("idle_grace = \"10ms\"");
    let mut raw: Raw = evenkeel.raw();
    raw.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    in_flight(&evenkeel, 1);
    evenkeel.process.signal(Signal::TERM);
    refuses(&evenkeel);
    held.release(1);
    let answer = raw.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    // One that was sent into the closing gets no half of an answer.
    let _ = raw.try_send(GET);
    assert_eq!(raw.rest(), "");
    evenkeel.process.wait().ends(0);
}
