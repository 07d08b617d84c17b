//! The command line: every verb against a running proxy, and every exit code for its own reason.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod harness;

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Running, Signal, WebSocket, app, cli, command, eventually, origins, run};
use serde_json::{Value, json};

const VERBS: &[&str] = &[
    "run",
    "check",
    "reload",
    "upgrade",
    "plan",
    "why",
    "stop",
    "status",
    "drain",
    "ready",
    "disable",
    "weight",
    "deploy",
    "add",
    "remove",
    "lab",
    "litmus",
    "pause",
    "resume",
    "maintenance",
    "origin",
    "demo",
    "config",
    "completions",
    "man",
    "healthcheck",
];

#[test]
fn help_lists_verbs_codes_and_signals() {
    let help = cli(&["--help"]).ends(0);
    assert_eq!(help.err, "");
    for verb in VERBS.iter().copied() {
        assert!(help.out.lines().any(|line| line.starts_with(&format!("  {verb} "))), "{verb} in\n{}", help.out);
        cli(&[verb, "--help"]).ends(0);
    }
    for code in 0..=6 {
        assert!(help.out.lines().any(|line| line.starts_with(&format!("  {code}  "))), "{code} in\n{}", help.out);
    }
    for signal in ["HUP", "USR1", "USR2", "TERM, INT, QUIT"] {
        assert!(help.out.contains(signal), "{signal} in\n{}", help.out);
    }
    for flag in ["--config", "--admin", "--output", "--color", "--quiet", "--verbose"] {
        assert!(help.out.contains(flag), "{flag} in\n{}", help.out);
    }
    let version = format!("evenkeel {}\n", env!("CARGO_PKG_VERSION"));
    assert!(cli(&["version"]).ends(0).out.starts_with(version.trim()));
    assert!(cli(&["--version"]).ends(0).out.starts_with(version.trim()));
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_was_meant() {
    for (args, says) in [
        (&["staus"][..], "'status'"),
        (&["status", "--outpt", "json"], "'--output'"),
        (&["status", "--output", "jsn"], "'json'"),
        (&["weight", "a", "1001"], "1000"),
        (&["weight", "a"], "WEIGHT"),
        (&["drain"], "TARGET"),
        (&["drain", "a", "--timeout", "5s"], "--wait"),
        (&["drain", "a", "--in-flight", "soon"], "soon"),
        (&["--listen", "127.0.0.1:0"], "--to"),
        (&["run", "--listen", "nonsense", "--to", "127.0.0.1:1"], "nonsense"),
        (&["run", "-c", "x.toml", "--listen", ":1", "--to", ":2"], "-c"),
        (&["-t", "status"], "-t"),
        (&["status", "--admin", "https://localhost:1"], "TLS"),
        (&["status", "--admin", "localhost"], "port"),
        (&["origin", "--listen", "nowhere"], "nowhere"),
        (&["healthcheck", "--timeout", "3"], "3"),
    ] {
        let done = cli(args).ends(2);
        assert!(done.err.contains(says), "{says} for {args:?} in\n{}", done.err);
        assert_eq!(done.out, "", "{args:?}");
    }
}

#[test]
fn exit_codes_tell_why() {
    let mut origins = origins(2);
    let evenkeel = Running::start(&app("\"round_robin\"", &origins));
    // 0 and 1: done; refused.
    evenkeel.verb(&["status"]).ends(0);
    evenkeel.verb(&["drain", "zzz"]).ends(1);
    // 3: no such file, nothing to find, a directory.
    let dir = tempfile::tempdir().unwrap();
    assert!(cli(&["run", "-c", "/nowhere/e.toml"]).ends(3).err.contains("/nowhere/e.toml"));
    cli(&["check", "-c", dir.path().to_str().unwrap()]).ends(3);
    if !std::path::Path::new("/etc/evenkeel/evenkeel.toml").exists() {
        let nothing = run(command(&[]).current_dir(&dir)).ends(3);
        assert!(nothing.err.contains("evenkeel demo"), "{}", nothing.err);
        // ./evenkeel.toml is found.
        std::fs::write(dir.path().join("evenkeel.toml"), "nonsense").unwrap();
        let found = run(command(&["check"]).current_dir(&dir)).ends(3);
        assert!(found.err.contains("evenkeel.toml:1:"), "{}", found.err);
    }
    // 4: somebody else listens there.
    let to = origins[0].address().to_string();
    let address = evenkeel.address.to_string();
    let socket = dir.path().join("a.sock");
    let done = cli(&["run", "--listen", &address, "--to", &to, "--admin", socket.to_str().unwrap()]).ends(4);
    assert!(done.err.contains(&address) && done.err.contains("another process"), "{}", done.err);
    let socket = evenkeel.socket().to_str().unwrap();
    let done = cli(&["run", "--listen", "127.0.0.1:0", "--to", &to, "--admin", socket]).ends(4);
    assert!(done.err.contains(socket) && done.err.contains("choose another place with --admin"), "{}", done.err);
    // 5: nobody there, neither on a socket nor on an address.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for admin in ["/nowhere/admin.sock", &free] {
        for verb in [&["status"][..], &["reload"], &["stop"], &["drain", "a"], &["weight", "a", "1"], &["ready", "a"]] {
            let done = cli(&[verb, &["--admin", admin]].concat()).ends(5);
            assert!(done.err.contains(admin), "{}", done.err);
        }
    }
    // A file that is being edited is asked as far as it can be read, and the answer says that it cannot.
    let edited = dir.path().join("edited.toml");
    std::fs::write(&edited, "[admin]\nsocket = \"none.sock\"\n[log]\nfoo = [\n").unwrap();
    let done = run(command(&["reload", "-c", "edited.toml"]).current_dir(&dir)).ends(5);
    let place = dir.path().canonicalize().unwrap().join("none.sock");
    for said in [place.to_str().unwrap(), "edited.toml:4: not valid TOML", "relative path"] {
        assert!(done.err.contains(said), "{said}: {}", done.err);
    }
    let done = run(command(&["reload"]).env("EVENKEEL_CONFIG", "/nowhere/e.toml")).ends(3);
    assert!(done.err.contains("/nowhere/e.toml cannot be read (No such file"), "{}", done.err);
    // Somebody is there who never answers, or who is no evenkeel.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    cli(&["status", "--admin", &mute.local_addr().unwrap().to_string()]).ends(5);
    assert!(began.elapsed() < Duration::from_secs(15));
    // 6: not ready, not drained in time.
    cli(&["healthcheck", "--admin", "/nowhere/admin.sock"]).ends(6);
    let mut slow = evenkeel.raw();
    slow.send(b"GET /slow?ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n");
    let busy = eventually("a request in flight", || {
        ["a", "b"].into_iter().find(|name| evenkeel.server("app", name).in_flight == 1)
    });
    let done = evenkeel.verb(&["drain", busy, "--wait", "--timeout", "300ms"]).ends(6);
    assert!(done.err.contains("300ms") && done.err.contains(&format!("app/{busy}")), "{}", done.err);
    origins.iter_mut().for_each(harness::Origin::kill);
}

#[test]
fn servers_are_drained_disabled_made_ready_and_weighed() {
    let origins = origins(3);
    let evenkeel = Running::start(&app("{ sticky_cookie = { name = \"pin\" } }", &origins));
    let admin = |name: &str| evenkeel.server("app", name).admin;

    assert_eq!(evenkeel.verb(&["disable", "app/a"]).ends(0).out, "app/a is disabled\n");
    assert_eq!(admin("a"), "disabled");
    for _ in 0..12 {
        assert_ne!(evenkeel.client().get("/").server(), "a");
    }
    assert!(evenkeel.verb(&["ready", "a"]).ends(0).out.starts_with("app/a is ready"));
    eventually("a is healthy", || (evenkeel.server("app", "a").operational == "healthy").then_some(()));

    assert_eq!(evenkeel.verb(&["weight", "a", "b", "5"]).ends(0).out.lines().count(), 2);
    assert_eq!((evenkeel.server("app", "a").weight, evenkeel.server("app", "b").weight), (5, 5));
    let done = evenkeel.verb(&["weight", "c", "0", "--output", "json"]).ends(0).json();
    assert_eq!((&done["upstream"], &done["name"], &done["weight"]), (&json!("app"), &json!("c"), &json!(0)));
    assert_eq!(evenkeel.verb(&["weight", "c", "1", "-q"]).ends(0).out, "");

    let answer = evenkeel.client().get("/");
    let (mine, cookie) = (answer.server().to_owned(), answer.cookie("pin").unwrap());
    let done = evenkeel.verb(&["drain", &mine]).ends(0);
    let left = evenkeel.server("app", &mine).sessions.unwrap();
    let text = if left == 1 { "1 session left".to_owned() } else { format!("{left} sessions left") };
    assert!(done.out.contains(&format!("is draining: {text}, 0 in flight, ends within ")), "{}", done.out);
    assert_eq!(evenkeel.client().with("cookie", &cookie).get("/").server(), mine);
    let status = evenkeel.verb(&["status"]).ends(0).out;
    assert!(status.contains(&text), "{status}");
    let status = evenkeel.verb(&["status", "--output", "json"]).ends(0).json();
    let server = status["upstreams"][0]["servers"].as_array().unwrap().iter().find(|s| s["name"] == mine.as_str());
    assert_eq!(server.unwrap()["drain"]["sessions_left"], left);

    // A deadline of its own, and waiting until it is safe.
    let began = Instant::now();
    let done = evenkeel.verb(&["drain", &mine, "--wait", "--sessions-max", "400ms", "--in-flight", "200ms"]).ends(0);
    assert!(done.out.ends_with(&format!("app/{mine} is drained: it is safe to stop it\n")), "{}", done.out);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(admin(&mine), "drained");
    assert_ne!(evenkeel.client().with("cookie", &cookie).get("/").server(), mine);

    let json = evenkeel.verb(&["drain", "app/a", "app/b", "app/c", "--output", "json"]).ends(0).out;
    let servers: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(servers.len(), 3, "{json}");
    evenkeel.verb(&["ready", "a", "b", "c"]).ends(0);
    assert_eq!(evenkeel.client().get("/").status, 200);
}

#[test]
fn taking_the_last_server_out_is_done_and_told() {
    let origins = origins(2);
    let evenkeel = Running::start(&app("\"round_robin\"", &origins));
    let left = "no server left that takes new clients";
    assert_eq!(evenkeel.verb(&["drain", "a"]).ends(0).err, "");
    let done = evenkeel.verb(&["disable", "b"]).ends(0);
    assert!(done.err.contains(&format!("app has {left}")), "{}", done.err);
    evenkeel.process.says("no server is left that takes new clients");
    assert_eq!(evenkeel.client().get("/").reason(), Some("no_server"));
    evenkeel.verb(&["ready", "a", "b"]).ends(0);
    let done = evenkeel.verb(&["drain", "a", "b", "--wait"]).ends(0);
    assert!(done.err.contains(left), "{}", done.err);
}

#[test]
fn waiting_for_a_drain_tells_what_is_left_and_cuts_tunnels_at_the_deadline() {
    let origins = origins(2);
    let evenkeel = Running::start(&app("\"round_robin\"", &origins));
    let mut tunnel = evenkeel.raw();
    tunnel.send(b"GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: my-proto\r\n\r\n");
    assert_eq!(tunnel.answer().status, 101);
    tunnel.send(b"x");
    assert_eq!(tunnel.read(1), b"x");
    let busy = ["a", "b"].into_iter().find(|name| evenkeel.server("app", name).tunnels == 1).unwrap();
    let began = Instant::now();
    let done = evenkeel.verb(&["drain", busy, "--wait", "--in-flight", "600ms"]).ends(0);
    assert!(began.elapsed() >= Duration::from_millis(500), "{done:?}");
    assert!(done.out.contains("1 in flight") && done.out.contains("is drained"), "{}", done.out);
    assert!(tunnel.is_closed());

    // Made ready again meanwhile: the wait is over, and not because it is safe.
    evenkeel.verb(&["ready", busy]).ends(0);
    let mut socket = WebSocket::open(evenkeel.address, "/ws");
    socket.echo("x").unwrap();
    let busy = ["a", "b"].into_iter().find(|name| evenkeel.server("app", name).tunnels == 1).unwrap();
    let admin = evenkeel.socket().to_str().unwrap();
    let waiting = harness::Process::spawn(&["drain", busy, "--wait", "--admin", admin]);
    eventually("draining", || (evenkeel.server("app", busy).admin == "draining").then_some(()));
    evenkeel.verb(&["ready", busy]).ends(0);
    let done = waiting.wait().ends(6);
    assert!(done.err.contains("made ready again"), "{}", done.err);
    socket.echo("still here").unwrap();
}

#[test]
fn names_that_no_server_has_are_corrected() {
    let origins = origins(1);
    let named = |upstream: &str| {
        format!(
            "[upstream.{upstream}]\ncheck = \"off\"\n[[upstream.{upstream}.server]]\nname = \"first\"\naddress = \"{}\"\n",
            origins[0].address()
        )
    };
    let routes = "[[route]]\npath = \"/a\"\nupstream = \"shop\"\n[[route]]\npath = \"/b\"\nupstream = \"api\"\n";
    let evenkeel = Running::start(&format!("{routes}{}{}", named("shop"), named("api")));
    for (name, says) in [
        ("shop/frist", "did you mean `shop/first`?"),
        ("shpo/first", "did you mean `shop/first`?"),
        ("first", "several upstreams have a server `first`: say `shop/first` or `api/first`"),
        ("shop", "`shop` is an upstream: name a server of it (`shop/first`)"),
        ("zzz", "`evenkeel status` lists them"),
    ] {
        for verb in [&["drain", name][..], &["ready", name], &["disable", name], &["weight", name, "3"]] {
            let done = evenkeel.verb(verb).ends(1);
            let sorted = says.replace("`shop/first` or `api/first`", "`api/first` or `shop/first`");
            assert!(done.err.contains(says) || done.err.contains(&sorted), "{verb:?}: {}", done.err);
        }
    }
    // Nothing was done for the right name beside the wrong one.
    evenkeel.verb(&["disable", "shop/first", "shop/zzz"]).ends(1);
    assert_eq!(evenkeel.server("shop", "first").admin, "ready");
}

#[test]
fn status_is_a_table_for_people_without_colours_in_a_pipe() {
    let mut origins = origins(2);
    origins[1].stop();
    let evenkeel = Running::start(&app("\"round_robin\"", &origins));
    evenkeel.client().get("/");
    let done = evenkeel.verb(&["status"]).ends(0);
    let head = format!("evenkeel {}  serving for ", env!("CARGO_PKG_VERSION"));
    assert!(done.out.starts_with(&head), "{}", done.out);
    for part in ["round_robin", "SERVER", "healthy", "unhealthy", "last check: ", &evenkeel.address.to_string()] {
        assert!(done.out.contains(part), "{part} in\n{}", done.out);
    }
    assert!(!done.out.contains('\u{1b}'), "{:?}", done.out);
    assert!(evenkeel.verb(&["status", "--color", "always"]).ends(0).out.contains('\u{1b}'));
    let admin = evenkeel.socket().to_str().unwrap();
    let done = run(command(&["status"]).env("EVENKEEL_ADMIN", admin).env("EVENKEEL_OUTPUT", "json")).ends(0).json();
    assert_eq!(done["phase"], "serving");
    // The API is found by the configuration, too; and -v says where.
    let done = cli(&["status", "-v", "-c", evenkeel.config.to_str().unwrap()]).ends(0);
    assert!(done.err.contains(admin), "{}", done.err);
    let by_env = run(command(&["healthcheck"]).env("EVENKEEL_CONFIG", &evenkeel.config)).ends(0);
    assert_eq!(by_env.out, "ready\n");
    assert_eq!(evenkeel.verb(&["healthcheck", "--output", "json"]).ends(0).json(), json!({ "ready": true }));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = command(&["man"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn completions_are_scripts_that_name_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let script = cli(&["completions", shell]).ends(0).out;
        for verb in VERBS.iter().copied() {
            assert!(script.contains(verb), "{verb} for {shell}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("script");
        std::fs::write(&file, &script).unwrap();
        // Where the shell is there, it parses them.
        if let Ok(output) = Command::new(shell).arg("-n").arg(&file).output() {
            assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert!(cli(&["completions", "zsh"]).out.starts_with("#compdef evenkeel"));
    assert!(cli(&["completions", "tcsh"]).ends(2).err.contains("bash"));
}

#[test]
fn man_pages_are_pages() {
    let main = cli(&["man"]).ends(0).out;
    assert!(main.contains(".TH evenkeel 1"), "{main}");
    for part in [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", "Exit codes", "evenkeel\\-drain(1)"] {
        assert!(main.contains(part), "{part} in\n{main}");
    }
    assert!(
        cli(&["man", "drain"]).ends(0).out.contains(".TH evenkeel\\-drain 1")
            || cli(&["man", "drain"]).out.contains(".TH evenkeel-drain 1")
    );
    let dir = tempfile::tempdir().unwrap();
    cli(&["man", "--dir", dir.path().to_str().unwrap()]).ends(0);
    for verb in VERBS.iter().copied() {
        let page = std::fs::read_to_string(dir.path().join(format!("evenkeel-{verb}.1"))).expect(verb);
        assert!(page.contains(".TH "), "{verb}");
    }
    assert!(dir.path().join("evenkeel.1").exists());
    let unknown = cli(&["man", "drian"]);
    assert_ne!(unknown.code, Some(0), "{unknown:?}");
}

#[test]
fn config_show_masks_secrets_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("e.toml");
    let (token, key) = ("the-admin-token-0123456789", "the-cookie-key-0123456789");
    std::fs::write(
        &file,
        format!(
            "[admin]\nbind = \"127.0.0.1:0\"\ntoken = \"{token}\"\n[[listener]]\nbind = \"127.0.0.1:8080\"\n\
             [upstream.app]\npolicy = \"sticky_cookie\"\ncookie_keys = [\"{key}\"]\nservers = [\"127.0.0.1:9001\"]\n"
        ),
    )
    .unwrap();
    let path = file.to_str().unwrap();
    for output in ["human", "json"] {
        let shown = cli(&["config", "show", "-c", path, "--output", output]).ends(0).out;
        assert!(!shown.contains(token) && !shown.contains(key), "{shown}");
        assert!(shown.contains("(secret)") && shown.contains("idle_timeout"), "{shown}");
    }
    let json = cli(&["config", "show", "-c", path, "--output", "json"]).json();
    assert!(json.is_object());
    // What is shown is a configuration that says the same.
    let plain = "[[listener]]\nbind = \"127.0.0.1:8080\"\n[upstream.app]\npolicy = \"ip_hash\"\nservers = [\"127.0.0.1:9001\"]\n";
    std::fs::write(&file, plain).unwrap();
    let shown = cli(&["config", "show", "-c", path]).ends(0).out;
    let again = dir.path().join("again.toml");
    std::fs::write(&again, &shown).unwrap();
    assert_eq!(cli(&["config", "show", "-c", again.to_str().unwrap()]).ends(0).out, shown);
    // Neither do mistakes tell a secret.
    std::fs::write(&file, format!("[admin]\ntoken = \"{token}\"\ntokn = \"{key}\"\n")).unwrap();
    for verb in [&["check"][..], &["config", "show"], &["check", "--output", "json"]] {
        let done = cli(&[verb, &["-c", path]].concat()).ends(3);
        assert!(!done.out.contains(token) && !done.err.contains(token), "{done:?}");
    }
}

#[test]
fn check_says_what_it_has_read() {
    for file in ["minimal", "full", "demo"] {
        let path = format!("{}/config/{file}.toml", env!("CARGO_MANIFEST_DIR"));
        let done = cli(&["check", "-c", &path]).ends(0);
        assert!(done.out.contains("is valid: 1 listener"), "{done:?}");
        assert_eq!(cli(&["-t", "-c", &path]).ends(0).out, done.out);
        assert_eq!(cli(&["check", "-q", "-c", &path]).ends(0).out, "");
        assert_eq!(cli(&["check", "-c", &path, "--output", "json"]).ends(0).json()["valid"], true);
    }
}

#[test]
fn a_listener_that_comes_with_a_reload_is_told() {
    let text = app("\"round_robin\"", &origins(1));
    let evenkeel = Running::start(&text);
    evenkeel.process.says(&format!("listener=main address={} tls=false", evenkeel.address));
    let listener = |name: &str| format!("[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\n");
    evenkeel.write(&format!("{}{}{text}", listener("main"), listener("other")));
    evenkeel.reload_file().unwrap();
    evenkeel.process.says("listener=other address=127.0.0.1:");
    assert_eq!(evenkeel.process.err().matches("listener=main").count(), 1);
}

#[test]
fn the_log_is_as_loud_as_asked_for() {
    let origins = origins(1);
    let run = |flags: &[&str]| {
        let evenkeel = Running::with(&app("\"round_robin\"", &origins), |command| _ = command.args(flags));
        if flags.is_empty() {
            evenkeel.process.signal(Signal::HUP);
        } else {
            // Not by a signal: told to stop before it has looked at that, it would say, however quiet, that it
            // has not reloaded.
            evenkeel.reload_file().unwrap();
        }
        // Of no interest but to those who look for it.
        let mut nonsense = std::os::unix::net::UnixStream::connect(evenkeel.socket()).unwrap();
        nonsense.write_all(b"nonsense\r\n\r\n").unwrap();
        nonsense.read_to_end(&mut Vec::new()).unwrap();
        if flags.is_empty() {
            evenkeel.process.says("configuration reloaded");
        }
        evenkeel.stop().ends(0)
    };
    let quiet = run(&["-q"]);
    assert_eq!(quiet.err, "");
    let usual = run(&[]);
    assert!(usual.err.contains("INFO") && !usual.err.contains("DEBUG"), "{}", usual.err);
    // Once, and not again with a reload that changes nothing of it.
    assert_eq!(usual.err.matches(" listening listener=").count(), 1, "{}", usual.err);
    assert!(usual.err.contains("address=127.0.0.1:") && usual.err.contains("tls=false"), "{}", usual.err);
    let loud = run(&["-v"]);
    assert!(loud.err.contains("DEBUG"), "{}", loud.err);
    assert_eq!((usual.out.as_str(), loud.out.as_str()), ("", ""));
    let upstream = format!("[upstream.app]\nservers = [\"{}\"]\n", origins[0].address());
    let evenkeel = Running::start(&format!("[log]\nformat = \"json\"\n{upstream}"));
    let done = evenkeel.stop().ends(0);
    for line in done.err.lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(entry["level"].is_string(), "{line}");
    }
}
