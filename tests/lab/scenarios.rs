//! Scenarios of the lab that measure more than load: their figures agree with what the servers themselves have logged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::harness::{self, command};
use crate::{Run, lab, pages};

const SCENARIO: &str = r#"
title = "Ways to keep a session, small"
duration = "2s"
sessions = true
[strategies]
session = "2KiB"
latency = "2s"
rate = 30
servers = [1, 3]
users = 60
life = "3s"
[servers]
count = 2
[[group]]
name = "users"
users = 20
rate = 80
[[event]]
at = "800ms"
do = { kill = 1 }
[[policy]]
name = "none"
policy = "round_robin"
sessions = "none"
[[policy]]
name = "memory"
policy = "sticky_cookie"
sessions = "memory"
[[policy]]
name = "replicated"
policy = "round_robin"
sessions = "replicated"
[[policy]]
name = "store"
policy = "round_robin"
sessions = "store"
[[policy]]
name = "token"
policy = "round_robin"
sessions = "token"
"#;

/// Lines of the logs in a directory for which this holds, by server.
fn lines(dir: &Path, servers: usize, is: impl Fn(&str) -> bool) -> Vec<u64> {
    let log = |n: usize| std::fs::read_to_string(dir.join(format!("s{n}.log"))).unwrap();
    (1..=servers).map(|n| log(n).lines().filter(|line| is(line)).count() as u64).collect()
}

fn list(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
}

#[test]
fn the_ways_to_keep_a_session_are_as_their_servers_have_logged() {
    let Run { out, report, said, _dir } = lab("run", SCENARIO);
    for text in ["p50 added, ms", "revoked user out after", "MiB of each of 3 servers"] {
        assert!(said.contains(text), "{said}");
    }
    let ways = report["strategies"]["ways"].as_array().unwrap();
    assert_eq!(ways.len(), 4);
    for (at, way) in ways.iter().enumerate() {
        let (name, number) = (way["sessions"].as_str().unwrap(), at + 2);
        if way["not_run"] != Value::Null {
            assert_eq!((name, &way["not_run"]), ("store", &"redis-server is not installed".into()));
            harness::installed(None::<()>, "redis-server");
            continue;
        }
        // What was compared is what the servers have let in, apart from what the lab has asked them itself.
        let side_by_side = out.join(format!("side-by-side-{number}"));
        let answered = lines(&side_by_side, 2, |line| line.contains(" GET /count 200 ") && line.contains(" for="));
        assert_eq!(way["added"]["requests"].as_u64().unwrap(), answered.iter().sum::<u64>(), "{way}");
        assert!(way["added"]["p50_ms"]["low"].as_f64() <= way["added"]["p50_ms"]["high"].as_f64(), "{way}");
        // Sessions lost are requests that were refused; the baseline has no run under load.
        let run = out.join(format!("run-{}", at + 1));
        let refused: u64 = lines(&run, 2, |line| line.contains(" GET /count 401 ")).iter().sum();
        let lost = way["lost_on_crash"].as_u64().unwrap();
        // A replica may be asked for a session before it has heard of it, and long before the crash.
        assert!(lost == refused || (name == "replicated" && lost < refused), "{refused} refused: {way}");
        assert!(name == "replicated" || (refused > 0) == (name == "memory"), "{way}");
        // Each login is a session: at its server, at every one, or at none.
        let memory = &way["memory"].as_array().unwrap()[1];
        let dir = out.join(format!("memory-{number}-3"));
        let logins = lines(&dir, 3, |line| line.contains(" GET /login?") && line.contains(" 200 "));
        let held = match name {
            "memory" => logins.clone(),
            "replicated" => vec![60; 3],
            _ => vec![0; 3],
        };
        assert_eq!((logins.iter().sum::<u64>(), list(&memory["sessions"])), (60, held.clone()), "{way}");
        let bytes = list(&memory["held_bytes"]);
        assert!(bytes.iter().zip(&held).all(|(bytes, n)| (2048 * n..2200 * n + 1).contains(bytes)), "{way}");
        // Every login went to the two others, and a copy to each who came later.
        let sent = memory["sent_bytes"].as_u64().unwrap();
        assert_eq!(sent >= 60 * 2 * 2048, name == "replicated", "{way}");
        assert_eq!(memory["store_grown_bytes"] != Value::Null, name == "store", "{way}");
        // Whom nobody can take anything away is in until the end.
        let revoked = &way["revoked"];
        let after = revoked["out_after_seconds"].as_f64().unwrap();
        let told = if name == "memory" { 2 } else { 1 };
        assert_eq!((&revoked["told"], &revoked["could"]), (&told.into(), &(name != "token").into()), "{way}");
        assert_eq!(revoked["let_in_before"], if name == "memory" { 1 } else { 2 }, "{way}");
        assert!(name != "token" || after > 0.5, "{way}");
        // Where else it is good, as the other service has logged.
        let other = std::fs::read_to_string(side_by_side.join("other.log")).unwrap();
        assert_eq!(way["other_service"], other.contains(" GET /count 200 "), "{way}\n{other}");
        assert_eq!(way["other_service"], matches!(name, "store" | "token"), "{way}");
        assert_eq!(way["cookie_bytes"].as_u64().unwrap() > 100, name == "token", "{way}");
    }
    let labels = ["Memory of each server by the number of servers"];
    let Some(dom) = pages::open(&out.join("report.html"), &labels) else { return };
    assert_eq!(dom.matches("in a signed token (JWT)").count(), 1, "{dom}");
    assert_eq!(dom.matches("<td>revoked user out after").count(), 1, "{dom}");
}

const CACHES: &str = r#"
title = "Cold caches, small"
duration = "3s"
[servers]
count = 1
[items]
count = 40
work = "1ms"
[[group]]
name = "users"
users = 10
rate = 80
[upstream]
slow_start = "0s"
[[event]]
at = "1500ms"
do = { add = 1 }
[[policy]]
name = "own"
policy = "round_robin"
cache = "own"
[[policy]]
name = "shared"
policy = "round_robin"
cache = "shared"
"#;

/// Items that the store was asked for again, more than half a second after the first time: before that several may
/// have missed the same item at once, the more the slower the machine is.
fn asked_again(log: &str) -> usize {
    let mut first = BTreeMap::new();
    let mut again = BTreeSet::new();
    for line in log.lines() {
        let Some((_, rest)) = line.split_once(" GET /item?key=") else { continue };
        let key = rest.split(' ').next().unwrap();
        let at: f64 = line.rsplit_once(" at=").unwrap().1.parse().unwrap();
        if at - *first.entry(key).or_insert(at) > 0.5 {
            again.insert(key);
        }
    }
    again.len()
}

#[test]
fn what_caches_did_not_have_is_what_the_store_was_asked_for() {
    let Run { out, report, said, _dir } = lab("run", CACHES);
    assert!(said.contains("HIT RATE") && said.contains("STORE PEAK"), "{said}");
    let mut misses = Vec::new();
    for (at, policy) in report["policies"].as_array().unwrap().iter().enumerate() {
        if policy["not_run"] != Value::Null {
            assert_eq!((at, &policy["not_run"]), (1, &"redis-server is not installed".into()));
            harness::installed(None::<()>, "redis-server");
            continue;
        }
        let cache = &policy["cache"];
        let number = |name: &str| cache[name].as_u64().unwrap();
        let dir = out.join(format!("run-{}", at + 1));
        let log = std::fs::read_to_string(dir.join("items.arrivals")).unwrap();
        let asked = log.lines().filter(|line| line.contains(" GET /item?key=")).count() as u64;
        assert_eq!((number("misses"), number("store_logged")), (asked, asked), "{policy}");
        assert_eq!(policy["failed"], 0, "{policy}");
        assert_eq!(number("hits") + asked, policy["requests"].as_u64().unwrap(), "{policy}");
        let by_second: u64 = list(&cache["store_by_second"]).iter().sum();
        assert_eq!(by_second, asked, "{policy}");
        // Each server's answers are those in its own log.
        let answered = lines(&dir, 2, |line| line.contains(" GET /item?key=") && line.contains(" 200 "));
        let servers = cache["servers"].as_array().unwrap();
        assert_eq!(servers.iter().map(|server| server[1].as_u64().unwrap()).collect::<Vec<_>>(), answered, "{policy}");
        for name in ["store_before", "store_peak_before", "store_peak"] {
            assert!(cache[name].as_f64().is_some(), "{name}: {policy}");
        }
        assert!(asked >= 30, "{policy}");
        misses.push(asked_again(&log));
    }
    // A second cache of one's own begins empty, one that is shared does not.
    if let [own, shared] = misses[..] {
        assert!(own > shared && own >= 10, "{own} {shared}");
    }
    let labels = ["Requests a second to the store, over time"];
    let Some(dom) = pages::open(&out.join("report.html"), &labels) else { return };
    assert_eq!(dom.matches("Hit rate per server").count(), 1, "{dom}");
}

const SOCKETS: &str = r#"
title = "WebSockets, small"
duration = "8s"
[websocket]
message = "100ms"
reconnect = "200ms"
[servers]
count = 2
[[group]]
name = "users"
users = 20
rate = 100
[upstream]
slow_start = "0s"
drain = { in_flight = "1s", close_spread = "200ms" }
[[event]]
at = "1s"
do = { kill = 2 }
[[event]]
at = "2s"
do = { add = 1 }
[[event]]
at = "2500ms"
do = { remove = 1 }
[[policy]]
name = "turns"
policy = "round_robin"
"#;

#[test]
fn long_connections_are_told_when_servers_go_and_cut_when_they_die() {
    let Run { out, report, said, _dir } = lab("run", SOCKETS);
    assert!(said.contains("CLOSED 1001") && said.contains("s2 is killed"), "{said}");
    let policy = &report["policies"][0];
    let sockets = &policy["sockets"];
    // Each server has switched as many as users say that they had there; one that dies may have had more.
    let dir = out.join("run-1");
    let switched = lines(&dir, 3, |line| line.contains(" GET /ws 101 "));
    for (at, switched) in switched.iter().enumerate() {
        let opened = sockets["opened_by_server"][format!("s{}", at + 1)].as_u64().unwrap_or(0);
        assert!(opened == *switched || at == 1 && opened < *switched, "s{}: {opened} of {switched}, {policy}", at + 1);
    }
    let events = sockets["events"].as_array().unwrap();
    let number = |event: usize, name: &str| events[event][name].as_u64().unwrap();
    assert!(number(0, "cut") > 0, "{policy}");
    assert_eq!(number(0, "away"), 0, "{policy}");
    // The one that is removed was added before: it says that it goes.
    assert_eq!(policy["events"][2]["problem"], Value::Null, "{policy}");
    assert_eq!(number(2, "cut"), 0, "{policy}");
    // Whoever was cut or told has come back.
    let (cut, told) = (number(0, "cut"), number(2, "away"));
    assert_eq!(sockets["opened"].as_u64().unwrap(), 20 + cut + told, "{policy}");
    assert!(sockets["messages"].as_u64().unwrap() > 20 * 10, "{policy}");
    let labels = ["turns: connections by server, over time", "Connections opened again, by second"];
    pages::open(&out.join("report.html"), &labels);
}

/// One whose store does not come up takes nothing away from the others, and is tried again in the next run; and the path
/// of the report may be longer than that of a socket.
#[test]
fn what_does_not_start_is_left_out_and_the_rest_is_measured() {
    let scenario = SCENARIO.split_once("[strategies]").unwrap().0.to_owned()
        + &SCENARIO[SCENARIO.find("[servers]").unwrap()..SCENARIO.find("[[policy]]").unwrap()]
        + "[[policy]]\nname = \"store\"\npolicy = \"round_robin\"\nsessions = \"store\"\n"
        + "[[policy]]\nname = \"token\"\npolicy = \"round_robin\"\nsessions = \"token\"\n";
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("ways.toml"), dir.path().join("long".repeat(40)));
    std::fs::write(&file, scenario).unwrap();
    let redis = dir.path().join("redis-server");
    harness::executable(&redis, "#!/bin/sh\n[ \"$1\" = --version ] || { echo 'no room'; exit 1; }\n");
    for _ in 0..2 {
        let mut run = command(&["lab", "run", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        let done = harness::run(run.env("PATH", dir.path())).ends(1);
        assert!(done.err.contains("store: redis-server did not become ready:\nno room"), "{}", done.err);
        let report: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
        assert_eq!(report["policies"][0]["not_run"], "redis-server did not become ready");
        assert!(report["problems"][0].as_str().unwrap().starts_with("store: "), "{}", report["problems"]);
        let token = &report["policies"][1];
        assert_eq!(token["not_run"], Value::Null);
        assert!(token["requests"].as_u64().unwrap() > 50, "{token}");
        let page = std::fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.contains("<b>Not measured:</b> store: redis-server did not become ready"), "{page}");
    }
}

/// Without redis-server there is nothing to look at, and nothing is made up.
#[test]
fn a_way_that_needs_what_is_not_installed_is_said_not_to_have_run() {
    let scenario = SCENARIO.split_once("[strategies]").unwrap().0.to_owned()
        + &SCENARIO[SCENARIO.find("[servers]").unwrap()..SCENARIO.find("[[policy]]").unwrap()]
        + "[[policy]]\nname = \"store\"\npolicy = \"round_robin\"\nsessions = \"store\"\n";
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("store.toml"), dir.path().join("out"));
    std::fs::write(&file, scenario).unwrap();
    let mut run = command(&["lab", "run", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let done = harness::run(run.env("PATH", dir.path())).ends(0);
    assert!(done.out.contains("not run: redis-server is not installed"), "{}", done.out);
    let report: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["policies"][0]["not_run"], "redis-server is not installed");
    assert_eq!(report["policies"][0]["requests"], 0);
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("not run: redis-server is not installed"), "{page}");
}

#[test]
fn what_takes_real_servers_is_not_simulated_and_what_cannot_be_compared_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ways.toml");
    let wrong = |verb: &str, text: String| {
        std::fs::write(&file, text).unwrap();
        harness::run(&mut command(&["lab", verb, file.to_str().unwrap()])).ends(3).err
    };
    let error = wrong("simulate", SCENARIO.to_owned());
    assert!(error.contains("what keeping sessions costs takes real servers, use `lab run` for it"), "{error}");
    let error = wrong("simulate", CACHES.to_owned());
    assert!(error.contains("a cache and the store behind it take real servers"), "{error}");
    let error = wrong("simulate", SOCKETS.to_owned());
    assert!(error.contains("connections that end take real ones"), "{error}");
    for (old, new, says) in [
        ("message = \"100ms\"", "message = \"0s\"", "[websocket] message: write \"10ms\" to \"1m\""),
        ("reconnect = \"200ms\"", "reconnect = \"2h\"", "[websocket] reconnect: write \"0s\" to \"1m\""),
        ("duration = \"8s\"", "duration = \"8s\"\nsessions = true", "goes with neither"),
    ] {
        let error = wrong("run", SOCKETS.replacen(old, new, 1));
        assert!(error.contains(says), "{says}: {error}");
    }
    for (old, new, says) in [
        ("count = 40", "count = 0", "[items] count = 0: write 1 to 100000"),
        ("work = \"1ms\"", "work = \"0s\"", "[items] work: write"),
        ("cache = \"own\"", "", "policy \"own\": `cache` and `[items]` need each other"),
        ("duration = \"3s\"", "duration = \"3s\"\nsessions = true", "not both"),
        ("cache = \"own\"", "cache = \"mine\"", "unknown variant `mine`"),
    ] {
        let error = wrong("run", CACHES.replacen(old, new, 1));
        assert!(error.contains(says), "{says}: {error}");
    }
    for (old, new, says) in [
        ("sessions = \"none\"", "sessions = \"memory\"", "compares with one policy that has `sessions = \"none\"`"),
        ("sessions = \"token\"", "", "policy \"token\" does not say how `sessions` are kept"),
        ("servers = [1, 3]", "servers = [3, 1]", "the smallest first"),
        ("servers = [1, 3]", "servers = [0]", "servers has 0: write 1 to 64"),
        ("sessions = true", "", "needs `sessions = true`"),
        ("\"2KiB\"", "\"2MiB\"", "64 KiB at most"),
        ("life = \"3s\"", "life = \"2h\"", "life: write \"1s\" to \"1m\""),
        ("sessions = \"token\"", "sessions = \"tokens\"", "unknown variant `tokens`"),
    ] {
        let error = wrong("run", SCENARIO.replace(old, new));
        assert!(error.contains(says), "{says}: {error}");
    }
}
