//! What a newcomer types first: `demo`, `run` without a file, and the toy server alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::net::SocketAddr;
use std::process::Command;

use harness::{Client, Process, Raw, Signal, WebSocket, cli, command, eventually, origins, run};
use serde_json::Value;

/// The demo on free ports.
struct Demo {
    process: Process,
    address: SocketAddr,
    guide: String,
}

fn demo() -> Demo {
    let process = Process::spawn(&["demo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let guide = eventually("the guide", || Some(process.out()).filter(|out| out.ends_with("Ctrl-C stops it.\n")));
    let url = guide.strip_prefix("evenkeel listens on http://").unwrap();
    let address = url[..url.find(',').unwrap()].parse().unwrap();
    Demo { process, address, guide }
}

/// The line of the guide with `text`, with its first word taken as a program.
fn typed(guide: &str, text: &str, mine: &str) -> Vec<String> {
    let line = guide.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text} in\n{guide}"));
    line.trim().replace("$mine", mine).split(' ').map(str::to_owned).collect()
}

#[test]
fn the_demo_alternates_sticks_and_drains() {
    let demo = demo();
    // 1. No cookie: each server in turn, as the visit counter shows.
    let servers: Vec<String> = (0..6).map(|_| Client::to(demo.address).get("/").server().to_owned()).collect();
    assert!(servers.windows(2).all(|pair| pair[0] != pair[1]), "{servers:?}");
    assert_eq!(servers[..3], servers[3..]);
    let mut one = Client::to(demo.address);
    let turns: Vec<String> = (0..6).map(|_| one.get("/").server().to_owned()).collect();
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
    assert_eq!(turns[..3], turns[3..]);

    // 2. With the cookies that it was given, a client stays and its visits are counted.
    let first = one.get("/sticky/");
    let mine = first.server().to_owned();
    let set: Vec<&str> = first.all("set-cookie").iter().map(|c| c.split(';').next().unwrap()).collect();
    assert_eq!(set.len(), 2, "the server's session and evenkeel's: {set:?}");
    let jar = set.join("; ");
    for visit in 2..6 {
        let answer = Client::to(demo.address).with("cookie", &jar).get("/sticky/");
        assert_eq!(answer.text(), format!("server {mine}, visit {visit} of your session.\n"));
    }
    // The guide cuts the name out of the page.
    assert_eq!(&first.text()[7..8], mine);

    // 3. The drain, as the guide says to type it.
    let line = typed(&demo.guide, " drain ", &mine);
    assert_eq!(line[0], env!("CARGO_BIN_EXE_evenkeel"));
    let done = run(Command::new(&line[0]).args(&line[1..])).ends(0);
    assert!(done.out.starts_with(&format!("sticky/{mine} is draining: ")), "{}", done.out);
    let answer = Client::to(demo.address).with("cookie", &jar).get("/sticky/");
    assert_eq!(answer.text(), format!("server {mine}, visit 6 of your session.\n"));
    for _ in 0..12 {
        assert_ne!(Client::to(demo.address).get("/sticky/").server(), mine);
    }
    let line = typed(&demo.guide, " status ", &mine);
    let done = run(Command::new(&line[0]).args(&line[1..])).ends(0);
    assert!(done.out.contains("draining for ") && done.out.contains("1 session left"), "{}", done.out);

    // Ctrl-C.
    demo.process.signal(Signal::INT);
    let done = demo.process.wait().ends(0);
    assert!(done.out.ends_with("stopped\n"), "{}", done.out);
    assert_eq!(done.err, "");
}

/// The commands of the guide, in a shell, where there is one with curl.
#[test]
fn every_line_of_the_guide_runs() {
    if Command::new("curl").arg("--version").output().is_err() {
        return;
    }
    let demo = demo();
    let dir = tempfile::tempdir().unwrap();
    let script: Vec<&str> = demo.guide.lines().filter(|line| line.starts_with("   ")).collect();
    assert!(script.len() >= 6, "{}", demo.guide);
    let script = format!("set -e\n{}\n", script.join("\n"));
    let done = run(Command::new("sh").args(["-c", &script]).current_dir(&dir)).ends(0);
    let visits: Vec<&str> = done.out.lines().filter(|line| line.starts_with("server ")).collect();
    // Six in turn, three that stay, one after the drain, six elsewhere.
    assert_eq!(visits.len(), 16, "{}", done.out);
    assert!(visits[..6].iter().all(|line| line.contains("visit 1 ")), "{visits:#?}");
    let mine = &visits[6][..8];
    for (i, line) in visits[6..9].iter().enumerate() {
        assert_eq!(*line, format!("{mine}, visit {} of your session.", i + 1));
    }
    assert_eq!(visits[9], format!("{mine}, visit 5 of your session."));
    assert!(visits[10..].iter().all(|line| !line.starts_with(mine)), "{visits:#?}");
    demo.process.signal(Signal::TERM);
    demo.process.wait().ends(0);
}

#[test]
fn the_demo_tells_programs_where_it_is() {
    let process =
        Process::spawn(&["demo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--output", "json"]);
    let told: Value = eventually("a line of JSON", || serde_json::from_str(&process.out()).ok());
    let address: SocketAddr = told["url"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
    assert!(["a", "b", "c"].contains(&Client::to(address).get("/").server()));
    cli(&["status", "--admin", told["admin"].as_str().unwrap()]).ends(0);
    assert_eq!(told["servers"].as_object().unwrap().len(), 3);
    for (name, at) in told["servers"].as_object().unwrap() {
        assert_eq!(Client::to(at.as_str().unwrap().parse().unwrap()).get("/").server(), name);
    }
    process.signal(Signal::TERM);
    process.wait().ends(0);
}

#[test]
fn the_demo_says_what_to_do_when_its_address_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for args in [
        ["demo", "--listen", &address, "--admin-listen", "127.0.0.1:0"],
        ["demo", "--listen", "127.0.0.1:0", "--admin-listen", &address],
    ] {
        let done = cli(&args).ends(4);
        assert!(done.err.contains(&address) && done.err.contains("--listen"), "{}", done.err);
    }
}

#[test]
fn run_needs_no_file() {
    let origins = origins(2);
    let dir = tempfile::tempdir().unwrap();
    let admin = dir.path().join("admin.sock");
    let admin = admin.to_str().unwrap();
    let to: Vec<String> = origins.iter().map(|origin| origin.address().to_string()).collect();
    let args = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0", "--to", &to[0], "--to", &to[1], "--admin", admin];
    for verb in [&["run"][..], &[]] {
        let process = Process::spawn(&[verb, &args].concat());
        eventually("readiness", || (cli(&["healthcheck", "--admin", admin]).code == Some(0)).then_some(()));
        let status = cli(&["status", "--admin", admin, "--output", "json"]).ends(0).json();
        let listeners = status["listeners"].as_array().unwrap();
        assert_eq!(listeners.len(), 2);
        for listener in listeners {
            let mut client = Client::to(listener["address"].as_str().unwrap().parse().unwrap());
            let mut seen = [client.get("/").server().to_owned(), client.get("/").server().to_owned()];
            seen.sort();
            assert_eq!(seen, ["a", "b"]);
        }
        process.signal(Signal::TERM);
        process.wait().ends(0);
    }
}

#[test]
fn every_path_of_the_toy_server_answers() {
    let process = Process::spawn(&["origin", "--listen", "127.0.0.1:0", "--name", "toy"]);
    let line = process.says("server toy listens on http://");
    let address: SocketAddr = line.rsplit_once("http://").unwrap().1.parse().unwrap();
    let mut client = Client::to(address);
    assert_eq!(client.get("/healthz").text(), "ok\n");
    assert_eq!(client.get("/count").status, 401);
    let login = client.get("/login");
    let session = login.cookie("sid").unwrap();
    for visits in 1..4 {
        let answer = client.send("GET", "/count", &[("cookie", &session)], b"");
        assert_eq!((answer.status, answer.text()), (200, format!("{visits}\n")));
    }
    assert_eq!(client.get("/").text(), "server toy, visit 1 of your session.\n");
    let page = client.send("GET", "/", &[("accept", "text/html"), ("cookie", &session)], b"").text();
    assert!(page.contains("<b>toy</b>") && page.contains("Visit 4"), "{page}");
    let began = std::time::Instant::now();
    assert_eq!(client.get("/slow?ms=150").status, 200);
    assert!(began.elapsed().as_millis() >= 150);
    assert_eq!(client.get("/bytes?n=100000").body.len(), 100_000);
    let answer = client.send("POST", "/sink", &[("x-request-id", "id-7")], b"12345");
    assert_eq!(answer.text(), "toy took 5 bytes as id-7\n");
    assert_eq!(client.get("/status?code=418").status, 418);
    assert_eq!(client.send("POST", "/mirror", &[], b"back").text(), "back");
    assert_eq!(client.send("PUT", "/echo?x", &[("x-y", "z")], b"abc").json()["body_length"], 3);
    for path in ["/healthz", "/", "/login", "/count", "/slow?ms=1", "/bytes?n=1", "/nothing", "/status?code=500"] {
        assert_eq!(client.get(path).server(), "toy", "{path}");
    }
    let mut socket = WebSocket::open(address, "/ws");
    socket.echo("hello").unwrap();
    drop(socket);

    // Its log names every request.
    for part in ["/healthz", "/login", "/slow?ms=150", "/bytes?n=100000", "id-7", "/nothing", "/mirror", "/ws"] {
        eventually(part, || process.out().contains(part).then_some(()));
    }
    process.signal(Signal::INT);
    process.wait().ends(0);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(run(&mut command(&["origin", "--listen", &address])).ends(4).err.contains(&address));
}

/// What counts deliveries to servers that are killed.
#[test]
fn what_arrived_at_a_toy_server_outlives_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("arrivals");
    let path = file.to_str().unwrap();
    let mut process = Process::spawn(&["origin", "--listen", "127.0.0.1:0", "--arrivals", path]);
    let line = process.says("listens on http://");
    let mut waiting = Raw::to(line.rsplit_once("http://").unwrap().1.parse().unwrap());
    waiting.send(b"POST /sink?id=7 HTTP/1.1\r\nhost: o\r\ncontent-length: 5\r\n\r\n12");
    eventually("it has arrived", || std::fs::read_to_string(&file).is_ok_and(|text| !text.is_empty()).then_some(()));
    process.kill();
    let written = std::fs::read_to_string(&file).unwrap();
    let (what, at) = written.trim_end().split_once(" at=").unwrap();
    assert_eq!(what, "a #1 POST /sink?id=7 -");
    assert!(at.parse::<f64>().unwrap() > 1.7e9, "seconds since 1970: {at}");
    let done = cli(&["origin", "--arrivals", dir.path().to_str().unwrap()]).ends(1);
    assert!(done.err.contains("cannot write to"), "{}", done.err);
}
