//! `evenkeel plan`: what a reload would do, told before it is done, and true when it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use evenkeel::control::api::{Planned, PlannedUpstream, Refusal};
use harness::{Origin, Proxy, Running, eventually, origins, servers, upstream};
use serde_json::json;

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.0/8\"]\n";

fn config(policy: &str, more: &str, origins: &[Origin]) -> String {
    format!("{TRUSTED}cores = 2\n{}", upstream("app", policy, more, origins))
}

fn ask(proxy: &Proxy, toml: &str, sample: &str) -> (u16, String) {
    let text = complete(proxy, toml);
    proxy.admin("POST", "/plan", &json!({ "name": "new.toml", "text": text, "sample": sample }).to_string())
}

/// With the listener and the admin API of the running one.
fn complete(proxy: &Proxy, toml: &str) -> String {
    // What is put in the place of the file is completed as the file was.
    let before = std::fs::read_to_string(&proxy.config).unwrap();
    let head = |text: &str| text.find("\n[upstream.").map_or(text.len(), |at| at + 1);
    format!("{}{}", &before[..head(&before)], &toml[head(toml)..])
}

#[track_caller]
fn plan(proxy: &Proxy, toml: &str, sample: &str) -> Planned {
    let (status, body) = ask(proxy, toml, sample);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn only(planned: Planned) -> PlannedUpstream {
    let [upstream] = <[_; 1]>::try_from(planned.upstreams).unwrap();
    upstream
}

/// The server of each of some clients.
fn owners(proxy: &Proxy) -> BTreeMap<String, String> {
    let owner = |i: u32| {
        let address = format!("198.51.{}.{}", 100 + i / 200, i % 200);
        let answer = proxy.client().with("x-forwarded-for", &address).get("/echo");
        (address, answer.server().to_owned())
    };
    (0..120).map(owner).collect()
}

#[test]
fn what_is_foretold_of_live_clients_is_what_happens() {
    let origins = origins(4);
    let with = |n: usize| config("\"ip_hash\"", "", &origins[..n]);
    let proxy = Proxy::start(&with(3));
    let before = owners(&proxy);
    let generation = proxy.status().generation;
    let done = AtomicBool::new(false);
    let planned = std::thread::scope(|scope| {
        // The same clients come all the while, and a few of them more often.
        scope.spawn(|| {
            while !done.load(Relaxed) {
                owners(&proxy);
            }
        });
        let planned = plan(&proxy, &with(4), "2s");
        done.store(true, Relaxed);
        planned
    });
    assert_eq!(planned.changes, ["upstream app: server d added"]);
    assert!(planned.needs_restart.is_empty() && planned.sample_seconds == 2.0, "{planned:?}");
    let upstream = only(planned);
    assert_eq!((upstream.policy.as_str(), upstream.added), ("ip_hash", vec!["d".to_owned()]));
    let told = upstream.clients.unwrap();
    assert_eq!((told.source.as_str(), told.margin_percent), ("live", 0.0), "{told:?}");
    assert!(told.requests >= told.clients && told.clients <= 120, "{told:?}");

    // Nothing was changed but for the look at clients.
    assert_eq!(owners(&proxy), before);
    assert!(proxy.status().generation > generation);
    proxy.reload(&with(4)).unwrap();
    let after = owners(&proxy);
    let moved = before.iter().filter(|(client, owner)| after[*client] != **owner).count();
    let percent = moved as f64 / before.len() as f64 * 100.0;
    if told.clients == 120 {
        assert!((told.moved_percent - percent).abs() < 0.1, "{percent} was {told:?}");
    }
    // A machine so slow that not all of them came: it is a fourth, more or less.
    if told.clients >= 60 {
        assert!((10.0..45.0).contains(&told.moved_percent), "{told:?}");
    }
}

#[test]
fn without_traffic_it_is_told_of_made_up_clients() {
    let origins = origins(4);
    let proxy = Proxy::start(&config("\"ip_hash\"", "", &origins[..3]));
    let planned = plan(&proxy, &config("\"ip_hash\"", "", &origins), "100ms");
    let told = only(planned).clients.unwrap();
    assert_eq!((told.source.as_str(), told.clients), ("synthetic", 20_000));
    assert!((22.0..29.0).contains(&told.moved_percent) && told.margin_percent > 0.0, "{told:?}");
    // Not looked at at all.
    let planned = plan(&proxy, &config("\"ip_hash\"", "", &origins[..2]), "0s");
    assert_eq!(planned.sample_seconds, 0.0);
    let upstream = only(planned);
    assert_eq!(upstream.removed.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["c"]);
    let told = upstream.clients.unwrap();
    assert!((29.0..38.0).contains(&told.moved_percent), "{told:?}");
    // So do those of a server that only keeps its name.
    let text = config("\"ip_hash\"", "", &origins[..3]);
    let text = text.replace(&origins[1].address().to_string(), &origins[3].address().to_string());
    let upstream = only(plan(&proxy, &text, "0s"));
    assert_eq!(upstream.removed[0].replaced_by, Some(origins[3].address().to_string()));
    let told = upstream.clients.unwrap();
    assert!((29.0..38.0).contains(&told.moved_percent), "{told:?}");
    // Clients of a server that is out are elsewhere already: half of them happen to stay there.
    proxy.change("app", "c", &json!({ "admin": "disabled" }));
    let told = only(plan(&proxy, &config("\"ip_hash\"", "", &origins[..2]), "0s")).clients.unwrap();
    assert!((13.0..21.0).contains(&told.moved_percent), "{told:?}");
    // Another policy places everybody anew, and takes no look where nobody has a server of its own.
    let upstream = only(plan(&proxy, &config("\"round_robin\"", "", &origins[..3]), "0s"));
    assert_eq!(upstream.new_policy.as_deref(), Some("round_robin"));
    assert_eq!(upstream.clients.unwrap().moved_percent, 100.0);
}

#[test]
fn sessions_and_what_is_in_flight_are_counted() {
    let origins = origins(4);
    let keys = "cookie_keys = [\"a key for this test\"]\ndrain = { in_flight = \"7s\" }\n";
    let with = |keys: &str, n: usize| config("\"sticky_cookie\"", keys, &origins[..n]);
    let proxy = Proxy::start(&with(keys, 3));
    (0..12).for_each(|_| assert_eq!(proxy.get("/echo").status, 200));
    let tunnel = eventually("a tunnel to c", || Some(proxy.tunnel()).filter(|(_, answer)| answer.server() == "c"));
    let session = eventually("a session on b", || {
        let answer = proxy.get("/echo");
        (answer.server() == "b").then_some(answer)
    });
    assert!(session.cookie("evenkeel").is_some());
    let of = |name: &str| (name.to_owned(), proxy.server("app", name).sessions.unwrap());
    let on: BTreeMap<String, usize> = ["a", "b", "c"].map(of).into();
    let all: usize = on.values().sum();
    let upstream = only(plan(&proxy, &with(keys, 2), "5m"));
    assert_eq!((upstream.sessions, upstream.sessions_moved), (Some(all), Some(on["c"])));
    let gone = &upstream.removed[0];
    assert_eq!((gone.name.as_str(), gone.tunnels, gone.cut_after_seconds), ("c", 1, 7.0), "{gone:?}");
    assert_eq!((gone.sessions, gone.in_flight >= 1), (Some(on["c"]), true));
    drop(tunnel);
    // By the name it had, a server at another address is another server.
    let elsewhere = origins[3].address().to_string();
    let moved = with(keys, 3).replace(&origins[1].address().to_string(), &elsewhere);
    let upstream = only(plan(&proxy, &moved, "5m"));
    assert_eq!((upstream.sessions, upstream.sessions_moved), (Some(all), Some(on["b"])));
    let gone = &upstream.removed[0];
    assert_eq!((gone.name.as_str(), gone.sessions), ("b", Some(on["b"])));
    assert_eq!((gone.replaced_by.as_ref(), upstream.added.len()), (Some(&elsewhere), 0));
    // A server more moves nobody; another key moves everybody.
    let other = with(&keys.replace("a key", "no key"), 3);
    let upstream = only(plan(&proxy, &other, "5m"));
    assert_eq!((upstream.sessions_moved, upstream.removed.len()), (upstream.sessions, 0));
    let rotated =
        with(&keys.replace("[\"a key for this test\"]", "[\"a new key for this\", \"a key for this test\"]"), 3);
    assert_eq!(only(plan(&proxy, &rotated, "5m")).sessions_moved, Some(0));
    let planned = plan(&proxy, &with(&format!("{keys}fail_open = false\n"), 3), "5m");
    assert_eq!((planned.changes.len(), planned.upstreams.len()), (1, 0), "that is no matter of who goes where");
}

#[test]
fn problems_are_shown_and_restarts_named() {
    let origins = origins(2);
    let proxy = Proxy::start(&config("\"ip_hash\"", "", &origins[..1]));
    let (status, body) =
        ask(&proxy, "\n[upstream.app]\npolicy = \"ip_hsh\"\nchek = 1\nservers = [\"127.0.0.1:1\"]\n", "0s");
    let refusal: Refusal = serde_json::from_str(&body).unwrap();
    let report = refusal.report.unwrap();
    assert_eq!((status, refusal.error.as_str()), (422, "invalid_config"));
    assert!(report.contains("new.toml:") && report.contains("2 errors in new.toml"), "{report}");
    let text = config("\"ip_hash\"", "", &origins);
    let text = complete(&proxy, &text).replace("cores = 2", "cores = 1");
    let body = json!({ "name": "new.toml", "text": text, "sample": "0s" }).to_string();
    let (status, body) = proxy.admin("POST", "/plan", &body);
    let planned: Planned = serde_json::from_str(&body).unwrap();
    assert_eq!((status, planned.needs_restart, planned.changes.len()), (200, vec!["cores".to_owned()], 1));
    for (body, why) in [
        (json!({ "name": "x", "text": "", "sample": "1h" }), "at most 5m"),
        (json!({ "name": "x", "text": "", "sample": "soon" }), "sample: "),
        (json!({ "name": "x" }), "missing field `text`"),
    ] {
        let (status, body) = proxy.admin("POST", "/plan", &body.to_string());
        assert!(status == 400 && body.contains(why), "{status} {body}");
    }
    assert_eq!(proxy.server("app", "a").name, "a");
    assert_eq!(proxy.status().upstreams[0].servers.len(), 1, "nothing was changed");
}

#[test]
fn the_verb() {
    let origins = origins(3);
    let text = upstream("app", "\"ip_hash\"", "", &origins[..2]);
    let evenkeel = Running::start(&text);
    let config = evenkeel.config.clone();
    let new = config.with_file_name("new.toml");
    let written = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&new, format!("{written}{}", servers("app", &origins[2..]))).unwrap();
    let new = new.to_str().unwrap();
    let said = evenkeel.verb(&["plan", new, "--sample", "0s"]).ends(0).out;
    for line in [
        "a reload would make 1 change:\n  upstream app: server c added\napp (ip_hash)\n  adding c would move ",
        "nobody was looked at: this is of 20,000 made-up clients, not of yours\nnothing was changed\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let said = evenkeel.verb(&["plan", new, "--sample", "100ms"]).ends(0).out;
    assert!(said.contains("nobody came meanwhile"), "{said}");
    assert_eq!(evenkeel.verb(&["plan", config.to_str().unwrap()]).ends(0).out, "nothing would change\n");
    let json = evenkeel.verb(&["plan", new, "--sample", "0s", "--output", "json"]).ends(0).json();
    assert_eq!(json["upstreams"][0]["clients"]["source"], "synthetic");
    std::fs::write(new, "[upstream.x]\npolcy = 1\nchek = 1\n").unwrap();
    let refused = evenkeel.verb(&["plan", new]).ends(3);
    assert!(
        refused.err.contains("unknown key `polcy`") && refused.err.contains("unknown key `chek`"),
        "{}",
        refused.err
    );
    let missing = evenkeel.verb(&["plan", "/nowhere/x.toml"]).ends(3);
    assert!(missing.err.contains("cannot read the configuration"), "{}", missing.err);
}
