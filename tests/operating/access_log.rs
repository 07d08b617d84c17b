//! One line for each request, whatever becomes of it, and never a request that waits for it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Client2, Raw, Running, Signal, WebSocket, app, eventually, origins, servers};
use serde_json::Value;

/// The lines of a log.
fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Waits for the line of the request to `path`.
#[track_caller]
fn line(evenkeel: &Running, path: &str) -> Value {
    let file = evenkeel.dir().join("access.log");
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    eventually(&format!("a line for {path}"), || {
        lines(&file).iter().map(parse).find(|line: &Value| line["path"] == path)
    })
}

const LOG: &str = "[access_log]\nfile = \"DIR/access.log\"\n";

#[test]
fn json_tells_what_became_of_every_request() {
    let mut origins = origins(2);
    let route = "[[route]]\nname = \"shop\"\npath = \"/\"\nhost = \"shop.test\"\nupstream = \"app\"\n";
    let alone = format!(
        "[[route]]\nname = \"alone\"\npath = \"/\"\nhost = \"alone.test\"\nupstream = \"alone\"\n\
         [upstream.alone]\ncheck = \"off\"\n[[upstream.alone.server]]\nname = \"b\"\naddress = \"{}\"\n",
        origins[1].address()
    );
    let evenkeel = Running::start(&format!(
        "{route}{alone}{LOG}{}",
        app("{ sticky_cookie = { name = \"pin\", new_clients = \"round_robin\" } }", &origins[..1])
    ));
    let send = |text: &str| {
        let mut raw = evenkeel.raw();
        raw.send(text.as_bytes());
        raw
    };

    let answer = send(
        "POST /echo?q=1&r=%22 HTTP/1.1\r\nhost: shop.test\r\nuser-agent: tester \"1\"\r\nreferer: http://x/\r\n\
         x-request-id: my-id-1\r\ncontent-length: 5\r\n\r\nhello",
    )
    .answer();
    let entry = line(&evenkeel, "/echo");
    for (key, value) in [
        ("client", "127.0.0.1"),
        ("method", "POST"),
        ("host", "shop.test"),
        ("query", "q=1&r=%22"),
        ("version", "HTTP/1.1"),
        ("route", "shop"),
        ("upstream", "app"),
        ("server", "a"),
        ("sticky", "new"),
        ("request_id", "my-id-1"),
        ("referer", "http://x/"),
        ("user_agent", "tester \"1\""),
    ] {
        assert_eq!(entry[key], value, "{key} of {entry}");
    }
    assert_eq!(
        (entry["status"].as_u64(), entry["bytes_in"].as_u64(), entry["bytes_out"].as_u64(), entry["retries"].as_u64()),
        (Some(200), Some(5), Some(answer.body.len() as u64), Some(0))
    );
    assert!(entry["duration_ms"].as_f64().unwrap() >= entry["first_byte_ms"].as_f64().unwrap(), "{entry}");
    assert!(entry.get("reason").is_none(), "{entry}");

    // A session that is kept, a made request id, and no secret in the line.
    let cookie = answer.cookie("pin").unwrap();
    let again = send(&format!(
        "GET /kept HTTP/1.1\r\nhost: shop.test\r\ncookie: {cookie}\r\nauthorization: Bearer hush\r\n\r\n"
    ))
    .answer();
    let entry = line(&evenkeel, "/kept");
    assert_eq!((entry["sticky"].as_str(), entry["status"].as_u64()), (Some("kept"), Some(404)));
    assert_eq!(entry["request_id"].as_str(), again.header("x-request-id"));
    assert!(!entry.to_string().contains("hush") && !entry.to_string().contains(&cookie["pin=".len()..]));

    // No route: the proxy's own answer.
    let none = send("GET /nowhere HTTP/1.1\r\nhost: other.test\r\n\r\n").answer();
    let entry = line(&evenkeel, "/nowhere");
    assert_eq!((entry["status"].as_u64(), entry["reason"].as_str()), (Some(404), Some("no_route")));
    assert_eq!(entry["bytes_out"].as_u64(), Some(none.body.len() as u64));
    assert!(entry.get("route").is_none() && entry.get("server").is_none(), "{entry}");

    // The client leaves.
    let gone = send("GET /slow?ms=60000 HTTP/1.1\r\nhost: shop.test\r\n\r\n");
    eventually("the request in flight", || (evenkeel.server("app", "a").in_flight == 1).then_some(()));
    drop(gone);
    let entry = line(&evenkeel, "/slow");
    assert_eq!((entry["status"].as_u64(), entry["reason"].as_str()), (Some(499), Some("client_gone")));
    assert_eq!((entry["server"].as_str(), entry.get("first_byte_ms")), (Some("a"), None));

    // A switched protocol is logged when the tunnel ends, with what went through.
    let mut socket = WebSocket::open_with(evenkeel.address, "shop.test", "/ws", &[]);
    socket.echo("12345").unwrap();
    drop(socket);
    let entry = line(&evenkeel, "/ws");
    assert_eq!(entry["status"], 101);
    assert_eq!((entry["bytes_in"].as_u64(), entry["bytes_out"].as_u64()), (Some(11), Some(7)), "{entry}");

    // A server that does not answer.
    origins[1].stop();
    send("GET /refused HTTP/1.1\r\nhost: alone.test\r\n\r\n").answer();
    let entry = line(&evenkeel, "/refused");
    assert_eq!((entry["status"].as_u64(), entry["reason"].as_str()), (Some(502), Some("connect_refused")));
    assert_eq!((entry["upstream"].as_str(), entry["server"].as_str()), (Some("alone"), Some("b")));
    assert_eq!(entry["retries"], 2);
    evenkeel.stop().ends(0);
}

#[test]
fn what_routes_answer_themselves_is_logged_without_an_upstream() {
    let origins = origins(1);
    let evenkeel = Running::start(&format!(
        "[[route]]\nname = \"moved\"\npath = \"/moved\"\nredirect = \"https://new.test{{path}}{{query}}\"\n\
         [[route]]\nname = \"text\"\npath = \"/text\"\nrespond = {{ body = \"hello\" }}\n\
         [[route]]\nname = \"gone\"\npath = \"/gone\"\nrespond = 410\n\
         [[route]]\nupstream = \"app\"\n{LOG}{}",
        app("\"round_robin\"", &origins)
    ));
    let ask = |method: &str, target: &str| {
        let mut conn = evenkeel.raw();
        conn.send(format!("{method} {target} HTTP/1.1\r\nhost: a.test\r\n\r\n").as_bytes());
        conn.answer_to(method)
    };
    for (method, path, route, status, bytes) in [
        ("GET", "/moved/x", "moved", 302, 0),
        ("GET", "/text", "text", 200, 5),
        ("HEAD", "/text/head", "text", 200, 0),
        ("GET", "/gone", "gone", 410, 0),
    ] {
        let answer = ask(method, &format!("{path}?q=1"));
        assert_eq!(answer.status, status);
        let entry = line(&evenkeel, path);
        assert_eq!((entry["status"].as_u64(), entry["route"].as_str()), (Some(u64::from(status)), Some(route)));
        assert_eq!((entry["method"].as_str(), entry["host"].as_str()), (Some(method), Some("a.test")));
        assert_eq!((entry["bytes_out"].as_u64(), entry["query"].as_str()), (Some(bytes), Some("q=1")), "{entry}");
        assert_eq!(entry["request_id"].as_str(), answer.header("x-request-id"));
        // It is no error, no server had a part in it, and nothing was waited for.
        for key in ["reason", "upstream", "server", "first_byte_ms", "sticky"] {
            assert_eq!(entry.get(key), None, "{key}: {entry}");
        }
    }
    evenkeel.stop().ends(0);
}

#[test]
fn a_retry_is_told_with_the_server_that_answered() {
    let origins = origins(2);
    let evenkeel =
        Running::start(&format!("cores = 1\n{LOG}[upstream.app]\ncheck = \"off\"\n{}", servers("app", &origins)));
    origins[0].behave(|b| b.hang_up = true);
    let mut client = evenkeel.client();
    client.get("/one");
    client.get("/two");
    let retries: Vec<u64> = ["/one", "/two"]
        .map(|path| {
            let entry = line(&evenkeel, path);
            assert_eq!((entry["server"].as_str(), entry.get("reason")), (Some("b"), None));
            entry["retries"].as_u64().unwrap()
        })
        .to_vec();
    assert_eq!(retries.iter().sum::<u64>(), origins[0].requests().len() as u64);
    assert!(retries.contains(&1), "{retries:?}");
}

#[test]
fn what_the_parser_refuses_is_logged_too() {
    let origins = origins(1);
    let evenkeel = Running::start(&format!(
        "header_timeout = \"1s\"\nmax_header_bytes = \"128KiB\"\n{LOG}{}",
        app("\"round_robin\"", &origins)
    ));
    let file = evenkeel.dir().join("access.log");
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(70 << 10));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(200 << 10));
    let cases: [(&[u8], u64, &str); 5] = [
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad header: y\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nhost: x", 408, "header_timeout"),
        (long.as_bytes(), 414, "uri_too_long"),
        (many.as_bytes(), 431, "headers_too_large"),
    ];
    for (i, (bytes, status, reason)) in cases.into_iter().enumerate() {
        let answer = harness::raw(evenkeel.address, bytes);
        let entry: Value = eventually("a line", || serde_json::from_str(lines(&file).get(i)?).ok());
        assert_eq!((entry["status"].as_u64(), entry["reason"].as_str()), (Some(status), Some(reason)), "{entry}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(entry["client"], "127.0.0.1");
    }
    assert_eq!(lines(&file).len(), 5);
    assert!(origins[0].requests().iter().all(|served| served.path() == "/healthz"));
}

#[test]
fn combined_is_what_log_readers_expect() {
    let origins = origins(1);
    let evenkeel = Running::start(&format!("{LOG}format = \"combined\"\n{}", app("\"round_robin\"", &origins)));
    let mut raw = evenkeel.raw();
    raw.send(b"GET /bytes?n=7 HTTP/1.1\r\nhost: x\r\nreferer: http://r/\r\nuser-agent: a \"b\" \xff\r\n\r\n");
    raw.answer();
    // The next one may be another core's, and each writes its own lines in turn.
    let file = evenkeel.dir().join("access.log");
    eventually("a line", || (lines(&file).len() == 1).then_some(()));
    let mut old = evenkeel.raw();
    old.send(b"HEAD / HTTP/1.0\r\n\r\n");
    old.rest();
    let lines = eventually("two lines", || Some(lines(&file)).filter(|lines| lines.len() == 2));
    let (head, rest) = lines[0].split_once(" [").unwrap();
    assert_eq!(head, "127.0.0.1 - -");
    let (time, rest) = rest.split_once("] ").unwrap();
    assert_eq!((time.len(), &time[20..]), (26, " +0000"), "{time}");
    assert!(rest.starts_with("\"GET /bytes?n=7 HTTP/1.1\" 200 7 \"http://r/\" \"a "), "{rest}");
    assert!(rest.ends_with('"') && rest.is_ascii() && !rest.contains("\"b\""), "{rest}");
    assert!(lines[1].contains("\"HEAD / HTTP/1.0\" 200 0 \"-\" \"-\""), "{}", lines[1]);
}

#[test]
fn standard_output_is_the_default() {
    let origins = origins(1);
    let evenkeel = Running::start(&format!("[access_log]\n{}", app("\"round_robin\"", &origins)));
    evenkeel.client().get("/one");
    let out = eventually("a line", || Some(evenkeel.process.out()).filter(|out| out.ends_with('\n')));
    let entry: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(entry["path"], "/one");
    // USR1 has nothing to open again, and what was written last is there when it ends.
    evenkeel.process.signal(Signal::USR1);
    evenkeel.process.says("reopening log files");
    evenkeel.client().get("/two");
    let done = evenkeel.stop().ends(0);
    assert_eq!(done.out.lines().count(), 2, "{}", done.out);
    assert!(!done.err.contains("\"path\""), "{}", done.err);
}

#[test]
fn usr1_opens_the_file_again_and_no_line_is_lost() {
    let origins = origins(1);
    let evenkeel = Running::start(&format!("{LOG}{}", app("\"round_robin\"", &origins)));
    let file = evenkeel.dir().join("access.log");
    let mut client = evenkeel.client();
    for i in 0..10 {
        client.get(&format!("/{i}"));
    }
    eventually("ten lines", || (lines(&file).len() == 10).then_some(()));
    let mut all = Vec::new();
    for round in 1..=5 {
        let moved = evenkeel.dir().join(format!("access.log.{round}"));
        std::fs::rename(&file, &moved).unwrap();
        client.get(&format!("/{round}-before"));
        evenkeel.process.signal(Signal::USR1);
        eventually("the file is made anew", || file.exists().then_some(()));
        client.get(&format!("/{round}-after"));
        eventually("a line in the new file", || {
            lines(&file).iter().any(|line| line.contains(&format!("/{round}-after"))).then_some(())
        });
        all.extend(lines(&moved));
    }
    all.extend(lines(&file));
    assert_eq!(all.len(), 20, "{all:#?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o137, 0, "{mode:o}: others may not read it");
}

#[test]
fn a_log_that_cannot_be_opened_again_stays() {
    let origins = origins(1);
    let evenkeel = Running::start(&format!("{LOG}{}", app("\"round_robin\"", &origins)));
    let file = evenkeel.dir().join("access.log");
    let moved = evenkeel.dir().join("moved.log");
    std::fs::rename(&file, &moved).unwrap();
    std::fs::create_dir(&file).unwrap();
    evenkeel.process.signal(Signal::USR1);
    evenkeel.process.says("the old file stays in use");
    evenkeel.client().get("/still");
    eventually("a line in the old file", || lines(&moved).iter().any(|l| l.contains("/still")).then_some(()));
}

#[test]
fn a_log_that_nobody_reads_slows_no_request_and_lost_lines_are_counted() {
    let origins = origins(1);
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let evenkeel = Running::start(&format!(
        "cores = 1\n[access_log]\nfile = {pipe:?}\n[shutdown]\nidle_grace = \"10ms\"\n{}",
        app("\"round_robin\"", &origins)
    ));
    let mut raw = evenkeel.raw();
    let request =
        format!("GET /bytes?n=10&{} HTTP/1.1\r\nhost: x\r\nreferer: {}\r\n\r\n", "q".repeat(8000), "r".repeat(8000));
    let mut sent = 0;
    let mut slowest = Duration::ZERO;
    // What is buffered is full after some 3 MiB.
    while sent < 400 || evenkeel.metric("evenkeel_access_log_lines_lost_total", &[]) == 0.0 {
        let began = Instant::now();
        raw.send(request.as_bytes());
        assert_eq!(raw.answer().status, 200);
        slowest = slowest.max(began.elapsed());
        sent += 1;
        assert!(sent < 4_000, "no line was lost: the pipe takes them all");
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");

    // Somebody reads after all: every line is there or was counted.
    let mut reader = std::fs::File::open(&pipe).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        while let Ok(n @ 1..) = reader.read(&mut chunk) {
            all.extend_from_slice(&chunk[..n]);
            let _ = tell.send(all.clone());
        }
    });
    let (mut whole, mut lost) = (0, 0);
    let mut last = Instant::now() - Duration::from_secs(1);
    eventually("all lines", || {
        if last.elapsed() > Duration::from_millis(100) {
            // A line that goes through carries the confession with it.
            raw.send(b"GET /again HTTP/1.1\r\nhost: x\r\n\r\n");
            raw.answer();
            sent += 1;
            last = Instant::now();
        }
        let all = told.try_iter().last()?;
        let all = String::from_utf8(all).unwrap();
        let parsed: Vec<Value> = all.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        lost = parsed.iter().filter_map(|line| line["lines_lost"].as_u64()).sum();
        whole = parsed.iter().filter(|line| line.get("path").is_some()).count() as u64;
        (whole + lost == sent && lost > 0).then_some(())
    });
    assert_eq!(evenkeel.metric("evenkeel_access_log_lines_lost_total", &[]), lost as f64);
    evenkeel.stop().ends(0);
}

#[test]
fn a_stuck_log_does_not_keep_the_process_alive() {
    let origins = origins(1);
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let evenkeel =
        Running::start(&format!("cores = 1\n[access_log]\nfile = {pipe:?}\n{}", app("\"round_robin\"", &origins)));
    let request = format!("GET /?{} HTTP/1.1\r\nhost: x\r\n\r\n", "q".repeat(16_000));
    let mut raw = evenkeel.raw();
    for _ in 0..20 {
        raw.send(request.as_bytes());
        raw.answer();
    }
    drop(raw);
    evenkeel.stop().ends(0);
}

#[test]
fn a_log_that_cannot_be_opened_ends_the_start() {
    let done = harness::cli_with_file(
        "[access_log]\nfile = \"/nowhere/access.log\"\n[upstream.app]\nservers = [\"127.0.0.1:1\"]\n[[listener]]\nbind = \"127.0.0.1:0\"\n",
    );
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("/nowhere/access.log"), "{done:?}");
}

#[test]
fn strangers_cannot_forge_lines() {
    let origins = origins(1);
    let evenkeel = Running::start(&format!("{LOG}{}", app("\"round_robin\"", &origins)));
    let mut raw = Raw::to(evenkeel.address);
    raw.send(b"GET /x HTTP/1.1\r\nhost: x\r\nuser-agent: \"}{\"path\":\"/forged\"\\ \xe2\x80\xa8 \xff\r\n\r\n");
    raw.answer();
    let entry = line(&evenkeel, "/x");
    assert!(entry["user_agent"].as_str().unwrap().starts_with("\"}{\"path\":\"/forged\"\\"), "{entry}");
    assert_eq!(lines(&evenkeel.dir().join("access.log")).len(), 1);
}

#[test]
fn http2_is_logged_like_http1() {
    let origins = origins(1);
    let evenkeel = Running::start(&format!("{LOG}{}", app("\"round_robin\"", &origins)));
    let client = Client2::to(evenkeel.address);
    let request = http::Request::builder().uri("http://shop.test/echo?q=1").body(()).unwrap();
    assert_eq!(client.send(request, None).unwrap().status, 200);
    let entry = line(&evenkeel, "/echo");
    for (key, value) in [("host", "shop.test"), ("query", "q=1"), ("version", "HTTP/2.0"), ("method", "GET")] {
        assert_eq!(entry[key], value, "{key}: {entry}");
    }
}
