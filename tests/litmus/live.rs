//! The experiment on live traffic: some users are moved on purpose, as many stay beside them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::harness::{self, Fake, Running, WebSocket, origins, upstream};
use serde_json::Value;

/// A browser of its own, which keeps its cookies, on a connection of its own for each request: other cores.
#[derive(Default)]
struct User {
    cookies: BTreeMap<String, String>,
}

impl User {
    fn ask(&mut self, evenkeel: &Running, method: &str, path: &str) -> harness::Answer {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let answer = evenkeel.client().send(method, path, &[("cookie", &cookies), ("accept-encoding", "gzip")], b"");
        for (name, line) in answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")) {
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap_or((name, ""));
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        answer
    }
}

fn start(litmus: &str, policy: &str, servers: &[harness::Origin]) -> Running {
    Running::start(&upstream("app", policy, &format!("litmus = {litmus}\n"), servers))
}

fn live(evenkeel: &Running, code: i32) -> Value {
    evenkeel.verb(&["litmus", "--live", "app", "--output", "json"]).ends(code).json()
}

const HALF: &str = "{ percent = 50, cookies = [\"sid\"] }";

/// Which server each of these requests of a user came to; of one who is moved no two in a row are the same.
fn is_moved(servers: &[String]) -> bool {
    servers.windows(2).all(|pair| pair[0] != pair[1])
}

fn stays(servers: &[String]) -> bool {
    servers.windows(2).all(|pair| pair[0] == pair[1])
}

#[test]
fn an_application_with_sessions_in_memory_is_found_out() {
    let origins = origins(3);
    let evenkeel = start(HALF, "\"least_requests\"", &origins);
    let (mut moved, mut stayed) = (0, 0);
    for _ in 0..100 {
        let mut user = User::default();
        // The first answer sets the cookie that users are known by; it is hidden from servers.
        let first = user.ask(&evenkeel, "GET", "/echo");
        assert!(user.cookies.contains_key("evenkeel_litmus"), "{first:?}");
        // They log in where they are at home.
        user.ask(&evenkeel, "POST", "/login");
        assert!(!user.ask(&evenkeel, "GET", "/echo").text().contains("evenkeel_litmus"));
        let answers: Vec<_> = (0..8).map(|_| user.ask(&evenkeel, "GET", "/count")).collect();
        let servers: Vec<String> = answers.iter().map(|answer| answer.server().to_owned()).collect();
        if stays(&servers) {
            stayed += 1;
            assert!(answers.iter().all(|answer| answer.status == 200));
        } else {
            moved += 1;
            assert!(is_moved(&servers), "{servers:?}");
            assert!(answers.iter().any(|answer| answer.status == 401));
        }
    }
    // Five standard deviations of 100 draws.
    assert!((25..=75).contains(&moved), "{moved} moved, {stayed} stayed");
    let report = live(&evenkeel, 6);
    assert_eq!(report["verdict"], "stateful", "{report:#}");
    let seen = &report["seen"];
    assert_eq!((&seen["shuffled"]["users"], &seen["control"]["users"]), (&moved.into(), &stayed.into()), "{report:#}");
    // Users are counted: of each one answer was drawn.
    assert_eq!(seen["shuffled"]["judged"], moved);
    let refused = &seen["shuffled"]["symptoms"][0];
    assert_eq!((&refused["symptom"], &refused["users"]), (&"refused".into(), &moved.into()), "{report:#}");
    assert!(refused["requests"].as_u64().unwrap() > refused["judged"].as_u64().unwrap(), "{report:#}");
    assert!(seen["control"]["symptoms"].as_array().unwrap().iter().all(|s| s["requests"] == 0), "{report:#}");
    let evidence = seen["evidence"].as_array().unwrap();
    assert!(!evidence.is_empty() && evidence.len() <= 16);
    assert!(evidence.iter().all(|e| e["path"] == "/count" && e["from"] != e["to"] && e["status"] == 401), "{report:#}");

    let told = evenkeel.verb(&["litmus", "--live", "app"]).ends(6).out;
    assert!(
        told.contains("50 % of users are moved") && told.contains("stateful: of one answer drawn of each user"),
        "{told}"
    );
    assert!(told.contains("GET /count, from ") && told.contains(": 401 (refused)"), "{told}");
    let metric =
        |group: &str| evenkeel.metric("evenkeel_litmus_users", &["upstream=\"app\"", &format!("group=\"{group}\"")]);
    assert_eq!((metric("shuffled"), metric("control")), (f64::from(moved), f64::from(stayed)));
    assert!(evenkeel.verb(&["status"]).ends(0).out.contains("litmus: 50 % of users are moved on purpose"));
}

#[test]
fn an_application_that_keeps_nothing_is_not() {
    let fakes = [0, 1, 2].map(|_| {
        Fake::answering(|_, _, head| {
            // All that is known of a user comes with the request.
            let known = head.to_ascii_lowercase().contains("sid=sealed");
            let cookie = if known { "" } else { "Set-Cookie: sid=sealed; HttpOnly\r\n" };
            Some(format!("HTTP/1.1 200 OK\r\n{cookie}Content-Length: 2\r\n\r\nhi"))
        })
    });
    let servers: Vec<String> = fakes.iter().map(|fake| format!("\"{}\"", fake.address())).collect();
    let evenkeel = Running::start(&format!(
        "[upstream.app]\ncheck = \"off\"\nlitmus = {HALF}\nservers = [{}]\n",
        servers.join(", ")
    ));
    for _ in 0..80 {
        let mut user = User::default();
        for _ in 0..5 {
            assert_eq!(user.ask(&evenkeel, "GET", "/").status, 200);
        }
    }
    let report = live(&evenkeel, 0);
    assert_eq!(report["verdict"], "no_difference", "{report:#}");
    assert_eq!(report["judgement"]["compared"], Value::Array(Vec::new()), "{report:#}");
    assert!(report["said"].as_str().unwrap().contains("would have been seen with 95 % probability"), "{report:#}");
}

/// Requests of one kind are not compared with those of another: who may not be moved is in neither group.
#[test]
fn users_who_do_more_than_may_be_moved_show_no_difference() {
    let fakes = [0, 1, 2].map(|_| {
        Fake::answering(|_, _, head| {
            let status = if head.starts_with("GET") { "401 Unauthorized" } else { "204 No Content" };
            let length = if head.starts_with("GET") { "Content-Length: 0\r\n" } else { "" };
            Some(format!("HTTP/1.1 {status}\r\n{length}\r\n"))
        })
    });
    let servers: Vec<String> = fakes.iter().map(|fake| format!("\"{}\"", fake.address())).collect();
    let evenkeel = Running::start(&format!(
        "[upstream.app]\ncheck = \"off\"\nlitmus = {HALF}\nservers = [{}]\n",
        servers.join(", ")
    ));
    for _ in 0..60 {
        let mut user = User::default();
        for _ in 0..3 {
            assert_eq!(user.ask(&evenkeel, "GET", "/me").status, 401);
        }
        for _ in 0..9 {
            assert_eq!(user.ask(&evenkeel, "POST", "/likes").status, 204);
        }
    }
    let report = live(&evenkeel, 0);
    assert_eq!(report["verdict"], "no_difference", "{report:#}");
    for group in ["shuffled", "control"] {
        let group = &report["seen"][group];
        assert_eq!(group["symptoms"][0]["judged"], group["judged"], "{report:#}");
    }
}

#[test]
fn only_the_methods_that_are_listed_leave_and_upgrades_never() {
    let origins = origins(3);
    let evenkeel = start(HALF, "\"round_robin\"", &origins);
    let mut moved = 0;
    for _ in 0..40 {
        let mut user = User::default();
        user.ask(&evenkeel, "GET", "/echo");
        let mut ask = |method: &str| user.ask(&evenkeel, method, "/echo").server().to_owned();
        let home = ask("POST");
        let gets: Vec<String> = (0..4).map(|_| ask("GET")).collect();
        let posts: Vec<String> = (0..3).map(|_| ask("POST")).collect();
        assert!(posts.iter().all(|server| *server == home), "{home}: {posts:?}");
        if stays(&gets) {
            // The control group is pinned, in turn or not.
            assert_eq!(gets[0], home);
        } else {
            assert!(is_moved(&gets) && gets[0] != home, "{home}: {gets:?}");
            moved += 1;
        }
        // A POST between two GETs.
        let (there, mid, again) = (ask("GET"), ask("POST"), ask("GET"));
        assert_eq!(mid, home);
        assert_eq!(again == home, there == home && stays(&gets));
    }
    assert!((5..=35).contains(&moved), "{moved}");
    // Whoever asks for an upgrade takes no part: nothing of it is counted.
    let before = live_users(&evenkeel);
    for _ in 0..10 {
        let mut socket =
            WebSocket::open_with(evenkeel.address, "a", "/ws", &[("cookie", "evenkeel_litmus=00000000000000aa")]);
        socket.echo("x").unwrap();
    }
    assert_eq!(live_users(&evenkeel), before);
}

fn live_users(evenkeel: &Running) -> u64 {
    let status = evenkeel.status();
    let litmus = status.upstreams[0].litmus.clone().unwrap();
    litmus.shuffled.users + litmus.control.users
}

/// A sticky session stays where it is however far its requests are sent, and the cookie says so.
#[test]
fn sessions_of_those_who_are_moved_stay_where_they_are() {
    let origins = origins(3);
    let evenkeel = start(HALF, "\"sticky_cookie\"", &origins);
    let mut moved = 0;
    for _ in 0..30 {
        let mut user = User::default();
        let home = user.ask(&evenkeel, "GET", "/echo").server().to_owned();
        let pin = user.cookies["evenkeel"].clone();
        // It is at home that the experiment begins.
        assert_eq!(user.ask(&evenkeel, "POST", "/echo").server(), home);
        let gets: Vec<_> = (0..3).map(|_| user.ask(&evenkeel, "GET", "/echo")).collect();
        let servers: Vec<String> = gets.iter().map(|answer| answer.server().to_owned()).collect();
        if !stays(&servers) {
            moved += 1;
            assert!(is_moved(&servers) && servers[0] != home, "{home}: {servers:?}");
        }
        assert!(gets.iter().all(|answer| !answer.text().contains("x-session-moved")));
        assert_eq!(user.ask(&evenkeel, "POST", "/echo").server(), home);
        assert_eq!(user.cookies["evenkeel"], pin);
    }
    assert!((3..=27).contains(&moved), "{moved}");
    assert_eq!(evenkeel.metric("evenkeel_sessions_moved_total", &["upstream=\"app\""]), 0.0);
    assert_eq!(evenkeel.metric("evenkeel_sticky_sessions_begun_total", &["upstream=\"app\""]), 30.0);
}

/// What nobody has named cannot be seen: it is not listed, and makes the rest no harder to tell from chance.
#[test]
fn only_what_is_named_is_looked_for() {
    let origins = origins(2);
    let config = |litmus: &str| upstream("app", "\"round_robin\"", &format!("litmus = {litmus}\n"), &origins);
    let evenkeel = Running::start(&config("{ percent = 50 }"));
    for (litmus, names) in [
        ("{ percent = 50 }", &["refused", "failed"][..]),
        ("{ percent = 50, login = \"/login\" }", &["refused", "login", "failed"]),
        ("{ percent = 50, cookies = [\"sid\"] }", &["refused", "reissued", "failed"]),
    ] {
        evenkeel.write(&config(litmus));
        evenkeel.verb(&["reload"]).ends(0);
        let report = live(&evenkeel, 1);
        assert_eq!(report["judgement"]["comparisons"], names.len(), "{report:#}");
        for group in ["shuffled", "control"] {
            let symptoms = report["seen"][group]["symptoms"].as_array().unwrap();
            let listed: Vec<&str> = symptoms.iter().filter_map(|symptom| symptom["symptom"].as_str()).collect();
            assert_eq!(listed, names);
        }
        let exported = evenkeel.scrape();
        for name in ["refused", "login", "reissued", "failed"] {
            let sample = format!("group=\"control\",symptom=\"{name}\"");
            assert_eq!(exported.contains(&sample), names.contains(&name), "{litmus}: {name}");
        }
    }
}

/// Fake servers behind one upstream, whose answers follow from the number of the server and the head.
fn faked(litmus: &str, more: &str, answer: fn(usize, &str) -> String) -> (Vec<Fake>, Running) {
    let fake = |number| Fake::answering(move |_, _, head| Some(answer(number, head)));
    let fakes: Vec<Fake> = (0..3).map(fake).collect();
    let servers: Vec<String> = fakes.iter().map(|fake| format!("\"{}\"", fake.address())).collect();
    let toml =
        format!("[upstream.app]\ncheck = \"off\"\nlitmus = {litmus}\nservers = [{}]\n{more}", servers.join(", "));
    (fakes, Running::start(&toml))
}

fn with_length(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn symptom(report: &Value, group: &str, name: &str, of: &str) -> u64 {
    let symptoms = report["seen"][group]["symptoms"].as_array().unwrap();
    symptoms.iter().find(|symptom| symptom["symptom"] == name).map_or(0, |symptom| symptom[of].as_u64().unwrap())
}

const SAME_BODY: &str = "{ percent = 50, same_body = [\"/account\", \"/cart\"] }";

/// Every server has an answer of its own, with 200 and without a cookie: only the body gives it away.
#[test]
fn a_body_that_changes_with_the_server_is_seen() {
    let (_fakes, evenkeel) = faked(SAME_BODY, "", |number, head| match head.split(' ').nth(1) {
        Some("/cart") => with_length("empty"),
        // Nobody has said that these are the same.
        Some("/account?page=2" | "/account/x" | "/") => with_length(&number.to_string()),
        // As long everywhere, and in two pieces.
        Some("/account") => {
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n12\r\n1\r\n{number}\r\n0\r\n\r\n")
        }
        other => panic!("{other:?}"),
    });
    for _ in 0..60 {
        let mut user = User::default();
        for path in ["/", "/account", "/cart", "/account?page=2", "/account/x", "/cart", "/"] {
            assert_eq!(user.ask(&evenkeel, "GET", path).status, 200);
        }
        assert_eq!(user.ask(&evenkeel, "HEAD", "/account").status, 200);
    }
    let quiet = live(&evenkeel, 0);
    assert_eq!(quiet["judgement"]["comparisons"], 3, "{quiet:#}");
    assert_eq!(symptom(&quiet, "shuffled", "body", "requests"), 0, "one look is none: {quiet:#}");
    for _ in 0..80 {
        let mut user = User::default();
        user.ask(&evenkeel, "GET", "/cart");
        let bodies: Vec<String> = (0..6).map(|_| user.ask(&evenkeel, "GET", "/account").text()).collect();
        assert!(bodies.iter().all(|body| body.starts_with("12") && body.len() == 3), "{bodies:?}");
    }
    // What is counted when a body ends, its client may know before.
    let seen = |report: &Value| symptom(report, "shuffled", "body", "users") > 10;
    let report = harness::eventually("it is found out", || {
        let report = evenkeel.verb(&["litmus", "--live", "app", "--output", "json"]).json();
        (report["verdict"] == "stateful" && seen(&report)).then_some(report)
    });
    assert_eq!(symptom(&report, "control", "body", "requests"), 0, "{report:#}");
    for name in ["refused", "failed"] {
        assert_eq!(symptom(&report, "shuffled", name, "requests"), 0, "{report:#}");
    }
    let evidence = report["seen"]["evidence"].as_array().unwrap();
    let is_it =
        |e: &Value| e["path"] == "/account" && e["status"] == 200 && e["symptoms"] == serde_json::json!(["body"]);
    assert!(!evidence.is_empty() && evidence.iter().all(is_it), "{report:#}");
    let told = evenkeel.verb(&["litmus", "--live", "app"]).ends(6).out;
    assert!(told.contains("were a changed body at another server than before"), "{told}");
}

/// What is the same is so however servers send it and clients get it.
#[test]
fn a_body_that_is_the_same_shows_nothing() {
    let compressed = "[[route]]\nupstream = \"app\"\ncompress = true\n";
    let (_fakes, evenkeel) = faked(SAME_BODY, compressed, |number, _| {
        let text = "the same account ".repeat(200);
        if number == 0 {
            return with_length(&text).replacen("\r\n", "\r\nContent-Type: text/plain\r\n", 1);
        }
        let (one, two) = text.split_at(100 * number);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n", one.len(), two.len())
    });
    for _ in 0..60 {
        let mut user = User::default();
        for _ in 0..5 {
            assert_eq!(user.ask(&evenkeel, "GET", "/account").header("content-encoding"), Some("gzip"));
        }
    }
    let report = live(&evenkeel, 0);
    for group in ["shuffled", "control"] {
        assert_eq!(symptom(&report, group, "body", "requests"), 0, "{report:#}");
        assert!(report["seen"][group]["judged"].as_u64().unwrap() > 5, "{report:#}");
    }
}

/// What changes for everybody has nothing to do with where they are.
#[test]
fn a_body_that_changes_for_all_shows_nothing() {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let (_fakes, evenkeel) = faked(SAME_BODY, "", |_, _| with_length(&TURN.fetch_add(1, Relaxed).to_string()));
    for _ in 0..60 {
        let mut user = User::default();
        (0..5).for_each(|_| assert_eq!(user.ask(&evenkeel, "GET", "/cart").status, 200));
    }
    let report = live(&evenkeel, 0);
    assert_eq!(report["verdict"], "no_difference", "{report:#}");
    for group in ["shuffled", "control"] {
        assert!(symptom(&report, group, "body", "users") > 5, "{report:#}");
    }
}

/// Users who keep no cookies are nobody: it is said why there are none.
#[test]
fn clients_that_send_no_cookie_back_are_told_of() {
    let origins = origins(2);
    let evenkeel = start(HALF, "\"round_robin\"", &origins);
    let none =
        "users are told apart by the cookie `evenkeel_litmus`: 2 answers have set it, no request has sent it back";
    let said =
        |code| (evenkeel.verb(&["litmus", "--live", "app"]).ends(code).out, evenkeel.verb(&["status"]).ends(0).out);
    let (live, status) = said(1);
    assert!(!live.contains("told apart") && !status.contains("told apart"), "nobody has come yet: {live}{status}");
    let mut user = User::default();
    user.ask(&evenkeel, "GET", "/echo");
    User::default().ask(&evenkeel, "GET", "/echo");
    let (live, status) = said(1);
    assert!(live.contains(&format!("{none}\n")), "{live}");
    assert!(status.contains(&format!("users are moved on purpose, 0 so far; {none}\n")), "{status}");
    user.ask(&evenkeel, "GET", "/echo");
    let (live, status) = said(1);
    assert!(!live.contains("told apart") && !status.contains("told apart"), "{live}{status}");
}

#[test]
fn counts_are_kept_over_a_reload_that_says_the_same() {
    let origins = origins(2);
    let config = upstream("app", "\"round_robin\"", "litmus = { percent = 50, by = \"address\" }\n", &origins);
    let evenkeel = Running::start(&config);
    let in_part = || live_users(&evenkeel);
    let ask = || evenkeel.client().get("/echo").status;
    assert_eq!((ask(), ask(), ask()), (200, 200, 200));
    assert_eq!(in_part(), 1, "everybody is in one of the halves, by address without a cookie");
    let reload = |toml: &str| {
        evenkeel.write(toml);
        evenkeel.verb(&["reload"]).ends(0);
    };
    reload(&config.replace("check =", "max_requests = 1000\ncheck ="));
    assert_eq!(in_part(), 1);
    reload(&config.replace("percent = 50", "percent = 49"));
    assert_eq!(in_part(), 0, "another experiment");
    reload(&config.replace("litmus = { percent = 50, by = \"address\" }", ""));
    assert!(evenkeel.verb(&["litmus", "--live", "app"]).ends(1).err.contains("nobody is moved in `app`"));
    assert!(evenkeel.verb(&["litmus", "--live", "shop"]).ends(1).err.contains("there is no upstream `shop`"));
}
