//! The command: clients that do a script, at servers that are asked directly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::harness::{self, Done, Fake, Process, Refusing, Service, command, eventually, origins};
use rustix::process::Signal;
use serde_json::Value;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/litmus.toml");

fn litmus(script: &str, servers: &[String], more: &[&str]) -> Done {
    let mut args = vec!["litmus", script];
    for server in servers {
        args.extend(["--server", server]);
    }
    harness::run(command(&args).args(more))
}

fn written(dir: &Path, script: &str) -> PathBuf {
    let file = dir.join("script.toml");
    std::fs::write(&file, script).unwrap();
    file
}

/// A server that keeps nothing: all it knows of a client is in the client's cookie, which it issues anew with
/// every answer. Only who shows the token of the form logs in.
fn stateless(name: &'static str) -> Fake {
    let answer = |status: &str, cookie: &str, body: &str| {
        let cookie = if cookie.is_empty() {
            String::new()
        } else {
            format!("Set-Cookie: session={cookie}; Path=/; HttpOnly\r\n")
        };
        Some(format!("HTTP/1.1 {status}\r\n{cookie}Content-Length: {}\r\n\r\n{body}", body.len()))
    };
    Fake::answering(move |_, _, head| {
        let head = head.to_ascii_lowercase();
        assert!(
            head.contains("\r\nhost: shop.test\r\n") && head.contains("\r\nx-forwarded-proto: https\r\n"),
            "{head}"
        );
        let session = head.split("cookie: session=").nth(1).and_then(|rest| rest.split("\r\n").next());
        // A seal would be here.
        let count: Option<u32> = session.and_then(|session| session.strip_prefix("sealed-")?.parse().ok());
        match (head.split(' ').nth(1).unwrap(), count) {
            ("/form", _) => answer("200 OK", "", "<input name=\"csrf\" value=\"t o&k\">"),
            ("/login", _) if head.contains("content-length: 23\r\n") => answer("303 See Other", "sealed-0", ""),
            ("/add?t=t%20o%26k", Some(count)) => answer("200 OK", &format!("sealed-{}", count + 1), "added"),
            ("/cart", Some(count)) => answer("200 OK", &format!("sealed-{count}"), &format!("{count} items")),
            (path, _) => answer("401 Unauthorized", "", &format!("{name} does not know you at {path}")),
        }
    })
}

const SHOP: &str = r#"
clients = 60
host = "shop.test"
headers = { X-Forwarded-Proto = "https" }
[[step]]
path = "/form"
save = { csrf = "name=\"csrf\" value=\"([^\"]+)\"" }
[[step]]
name = "log in"
method = "POST"
path = "/login"
form = { user = "ann", csrf = "{csrf}" }
expect = "303"
[[step]]
name = "add to the cart"
path = "/add?t={csrf}"
repeat = 2
[[step]]
name = "read the cart"
path = "/cart"
expect_text = "2 items"
same_body = true
repeat = 2
"#;

#[test]
fn sessions_in_memory_are_told_by_those_who_are_moved() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a", "b", "c"], dir.path());
    let servers: Vec<String> = services.iter().map(|s| format!("{}={}", s.name, s.address)).collect();
    let done = litmus(SCRIPT, &servers, &["--output", "json"]).ends(6);
    let report = done.json();
    assert_eq!(report["verdict"], "stateful", "{report:#}");
    let of = |step: u64, symptom: &str| {
        let all = report["moved"]["compared"].as_array().unwrap();
        all.iter().find(|c| c["step"] == step && c["symptom"] == symptom).cloned().unwrap_or(Value::Null)
    };
    // Whoever comes from elsewhere is not known; whoever stays is.
    let second = of(2, "refused");
    assert_eq!((&second["moved"], &second["moved_of"], &second["control"]), (&50.into(), &50.into(), &0.into()));
    assert_eq!((&second["differs"], &second["control_of"]), (&true.into(), &50.into()));
    assert!(second["p"].as_f64().unwrap() < 1e-10 && second["added_low"].as_f64().unwrap() > 85.0, "{second}");
    assert_eq!(of(1, "refused"), Value::Null);
    let evidence = report["evidence"].as_array().unwrap();
    assert_eq!(evidence.len(), 5);
    assert!(evidence.iter().all(|e| e["from"] != e["to"] && e["what"] == "401" && e["request"] == "GET /count"));

    let told = litmus(SCRIPT, &servers, &["--clients", "40"]).ends(6).out;
    assert!(
        told.contains("stateful: at step 2 (add to the count) 20 of 20 clients that came from another server"),
        "{told}"
    );
    assert!(told.contains("\n  client 1, step 2, GET /count, from a to ") && told.contains(": 401\n"), "{told}");
}

#[test]
fn a_service_that_keeps_nothing_passes() {
    let fakes = [stateless("a"), stateless("b")];
    let servers: Vec<String> = fakes.iter().map(|fake| format!("http://{}", fake.address())).collect();
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), SHOP);
    let done = litmus(file.to_str().unwrap(), &servers, &["--output", "json", "--restart-hook", "true"]).ends(0);
    let report = done.json();
    assert_eq!(report["verdict"], "no_difference", "{report:#}");
    // Cookies that all get anew are seen, and tell nothing.
    let compared = report["moved"]["compared"].as_array().unwrap();
    assert_eq!(compared.len(), 2, "{report:#}");
    assert!(
        compared.iter().all(|c| c["symptom"] == "reissued" && c["moved"] == 30 && c["control"] == 30),
        "{report:#}"
    );
    assert_eq!(report["moved"]["blind"], 2);
    let said = report["said"][0].as_str().unwrap();
    assert!(
        said.contains("with 30 clients on each side a symptom in ") && said.contains("2 of 27 comparisons"),
        "{said}"
    );
    assert!(report["said"][1].as_str().unwrap().starts_with("no difference seen after a restart"), "{report:#}");
    // Both were asked by everybody, in the four groups.
    assert!(
        fakes.iter().all(|fake| fake.heads().len() >= 4 * 30 * 6 * 4 / 10),
        "{:?}",
        fakes.each_ref().map(Fake::accepted)
    );

    // A session cookie that it is told of is another one: nothing is left to be seen.
    let named = written(dir.path(), &format!("session_cookies = [\"sid\"]\n{SHOP}"));
    let report = litmus(named.to_str().unwrap(), &servers, &["--output", "json"]).ends(0).json();
    assert_eq!(report["moved"]["compared"], Value::Array(Vec::new()), "{report:#}");
}

/// One process under two names: whoever goes from one to the other is known, until it is restarted.
#[test]
fn what_a_restart_loses_is_told_even_of_those_who_stay() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::several(&["a"], dir.path());
    let address = services[0].address;
    let servers = [format!("x={address}"), format!("y={address}")];
    litmus(SCRIPT, &servers, &[]).ends(0);
    let script = dir.path().join("restart.sh");
    // For one of the two names only: twice would be as good.
    let hook = format!("test {{name}} = y || EVENKEEL_SERVER=a {}", script.display());
    let done = litmus(SCRIPT, &servers, &["--restart-hook", &hook, "--output", "json"]).ends(6);
    let report: Value = serde_json::from_str(done.out.lines().last().unwrap()).unwrap();
    assert_eq!(report["verdict"], "stateful", "{report:#}");
    assert_eq!(report["moved"]["compared"], Value::Array(Vec::new()));
    let lost = &report["restarted"]["compared"][0];
    assert_eq!((&lost["step"], &lost["moved"], &lost["control"]), (&4.into(), &50.into(), &0.into()), "{report:#}");
    let said = report["said"].to_string();
    assert!(said.contains("no difference seen between those who were moved"), "{said}");
    assert!(said.contains("stateful, a restart loses it: at step 4 (read it back) 50 of 50"), "{said}");
    assert!(said.contains("still open after it, to y: what was not restarted"), "{said}");
    let empty = litmus(SCRIPT, &servers, &["--restart-hook", ""]).ends(2);
    assert!(empty.err.contains("--restart-hook"), "{}", empty.err);

    let failed = litmus(SCRIPT, &servers, &["--restart-hook", "exit 3"]).ends(1);
    assert!(failed.err.contains("x: the hook failed (exit status: 3)"), "{}", failed.err);
    // A process that was killed may take a moment to go.
    let listens = format!("bash -c 'exec 3<>/dev/tcp/{}/{}' 2>/dev/null", address.ip(), address.port());
    let kill = format!("kill -9 $(cat {}/a.pid)", dir.path().display());
    let gone = format!("{kill}; while {listens}; do sleep 0.01; done");
    let failed = litmus(SCRIPT, &servers, &["--restart-hook", &gone, "--healthy-within", "2s"]).ends(1);
    assert!(failed.err.contains("was not well within 2s (") && failed.err.contains("refused"), "{}", failed.err);
}

/// A token that lasts for two seconds, and hooks that take longer together: who waits as long loses it as well.
#[test]
fn what_ends_by_itself_is_not_blamed_on_a_restart() {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let answer = move |_, _, head: &str| {
        let until = head.split("token=").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse::<u128>().ok());
        Some(match until {
            _ if head.starts_with("GET /login ") => {
                let cookie = format!("Set-Cookie: token={}; Path=/", now() + 2_000);
                format!("HTTP/1.1 200 OK\r\n{cookie}\r\nContent-Length: 0\r\n\r\n")
            }
            Some(until) if now() < until => harness::answer(200, ""),
            _ => harness::answer(401, ""),
        })
    };
    let fakes = [Fake::answering(answer), Fake::answering(answer)];
    let servers: Vec<String> = fakes.iter().map(|fake| fake.address().to_string()).collect();
    let dir = tempfile::tempdir().unwrap();
    let script = "clients = 20\n[[step]]\npath = \"/login\"\n[[step]]\npath = \"/me\"\nrepeat = 2\n";
    let file = written(dir.path(), script);
    let done = litmus(file.to_str().unwrap(), &servers, &["--restart-hook", "sleep 1.1", "--output", "json"]).ends(1);
    let report: Value = serde_json::from_str(done.out.lines().last().unwrap()).unwrap();
    assert_eq!(report["verdict"], "unclear", "{report:#}");
    let lost = &report["restarted"]["compared"][0];
    assert_eq!((&lost["symptom"], &lost["step"]), (&"refused".into(), &3.into()), "{report:#}");
    assert_eq!((&lost["moved"], &lost["control"]), (&10.into(), &10.into()), "{report:#}");
    let said = report["said"].to_string();
    assert!(said.contains("clients that waited as long without one do not get through: at step 3 (GET /me)"), "{said}");
}

#[test]
fn an_interrupt_ends_it_outside_of_hooks_too() {
    let silent = [(); 2].map(|()| {
        Fake::start(|_, conn| {
            let _open = conn;
            loop {
                std::thread::park();
            }
        })
    });
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), "clients = 20\ntimeout = \"9m\"\n[[step]]\npath = \"/\"\nrepeat = 2\n");
    let servers = silent.each_ref().map(|fake| fake.address().to_string());
    for (hook, signal) in [(&["--restart-hook", "true"][..], Signal::INT), (&[][..], Signal::TERM)] {
        let before = silent[0].accepted();
        let mut args = vec!["litmus", file.to_str().unwrap(), "--server", &servers[0], "--server", &servers[1]];
        args.extend(hook);
        let process = Process::spawn(&args);
        eventually("it asks", || (silent[0].accepted() > before).then_some(()));
        process.signal(signal);
        let done = process.wait().ends(1);
        assert!(done.err.contains("it was interrupted"), "{}", done.err);
    }
}

/// A third of all requests fails, whoever sends them: that is no state.
#[test]
fn a_broken_server_is_not_taken_for_state() {
    let broken = Fake::answering(|_, _, _| Some(harness::answer(500, "")));
    let fakes = [stateless("a"), stateless("b"), broken];
    let servers: Vec<String> = fakes.iter().map(|fake| fake.address().to_string()).collect();
    let dir = tempfile::tempdir().unwrap();
    let script = SHOP.split("[[step]]").next().unwrap().to_owned() + "[[step]]\npath = \"/form\"\nrepeat = 8\n";
    let file = written(dir.path(), &script);
    let report = litmus(file.to_str().unwrap(), &servers, &["--output", "json"]).ends(1).json();
    assert_eq!(report["verdict"], "unclear");
    let said = report["said"][0].as_str().unwrap();
    assert!(
        said.contains(&format!("some servers work and others do not: at step 1 (GET /form) from {}: 500", servers[2])),
        "{said}"
    );
    let compared = report["moved"]["compared"].as_array().unwrap();
    assert_eq!(compared.len(), 7, "{report:#}");
    assert!(compared.iter().all(|c| c["symptom"] == "failed" && c["control"] == 10 && c["moved"] == 10), "{report:#}");
}

#[test]
fn where_nothing_can_be_said_that_is_said() {
    let (refusing, origins) = (Refusing::new(), origins(2));
    let to = [refusing.address.to_string(), origins[0].address().to_string()];
    // Who is not there is named before anybody begins.
    let done = litmus(SCRIPT, &to, &[]).ends(1);
    assert!(done.err.contains(&format!("{}: no connection: ", to[0])), "{done:?}");
    let named = [format!("a={}", to[1]), format!("b={}", to[0])];
    let done = litmus(SCRIPT, &named, &[]).ends(1);
    assert!(done.err.contains(&format!("b ({}): no connection: ", to[0])), "{done:?}");
    let nobody = Fake::answering(|_, _, _| None);
    let dead = ["a", "b"].map(|name| format!("{name}={}", nobody.address()));
    let done = litmus(SCRIPT, &dead, &[]).ends(1);
    assert!(
        done.out.contains(
            "unclear: clients that stay do not get through the script either: at step 1 (log in) from a: no answer"
        ),
        "{}",
        done.out
    );
    let dir = tempfile::tempdir().unwrap();
    let wrong = written(dir.path(), "[[step]]\npath = \"/\"\n");
    let done = litmus(wrong.to_str().unwrap(), &to, &[]).ends(3);
    assert!(done.err.contains("script.toml: a script has 2 to 100 steps"), "{}", done.err);
    assert!(litmus("nowhere.toml", &to, &[]).ends(1).err.contains("cannot read the script nowhere.toml"));
    assert!(litmus(SCRIPT, &to[..1], &[]).ends(2).err.contains("two servers at least"));
    assert!(litmus(SCRIPT, &[], &[]).ends(2).err.contains("--server"));
    assert!(litmus(SCRIPT, &to, &["--clients", "3"]).ends(2).err.contains("20"));
}

#[test]
fn servers_may_come_from_the_configuration() {
    let origins = origins(3);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("evenkeel.toml");
    let backup = "[[upstream.app.server]]\nname = \"spare\"\naddress = \"127.0.0.1:1\"\nbackup = true\n";
    let config =
        format!("[[listener]]\nbind = \"127.0.0.1:0\"\n{}{backup}", harness::app("\"sticky_cookie\"", &origins));
    std::fs::write(&file, config).unwrap();
    let run = |upstream: &str| {
        harness::run(&mut command(&["litmus", SCRIPT, "-c", file.to_str().unwrap(), "--upstream", upstream]))
    };
    let done = run("app").ends(6);
    assert!(done.out.contains("3 servers") && done.out.contains(", GET /count, from a to "), "{}", done.out);
    assert!(run("shop").ends(2).err.contains("there is no upstream `shop` in it; there is `app`"));
}
