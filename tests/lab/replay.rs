//! `lab replay`: logs of the real proxy against what its servers have counted, and a log of nginx.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::harness::{self, Proxy, command, eventually, origins, upstream};

fn replay(args: &[&str]) -> Value {
    let done = harness::run(&mut command(&[&["--output", "json", "lab", "replay"], args].concat())).ends(0);
    serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {}", done.out))
}

fn outcome<'a>(told: &'a Value, policy: &str) -> &'a Value {
    told["policies"].as_array().unwrap().iter().find(|one| one["policy"] == policy).expect(policy)
}

fn counts(outcome: &Value) -> BTreeMap<String, u64> {
    let servers = outcome["servers"].as_array().unwrap().iter();
    let all = servers.map(|s| (s["server"].as_str().unwrap().to_owned(), s["requests"].as_u64().unwrap()));
    all.filter(|(_, requests)| *requests > 0).collect()
}

/// What a proxy that hashes addresses has done is what a replay of its log says of it, in both formats, by the names
/// and weights of its configuration.
#[test]
fn a_replay_says_what_the_proxy_has_done() {
    for format in ["json", "combined"] {
        let (origins, dir) = (origins(4), tempfile::tempdir().unwrap());
        let log = dir.path().join("access.log");
        let text = format!(
            "trusted_proxies = [\"127.0.0.0/8\"]\n[access_log]\nfile = {log:?}\nformat = \"{format}\"\n{}",
            upstream("app", "\"ip_hash\"", "shadow = [\"round_robin\"]", &origins)
        );
        let proxy = Proxy::start(&text);
        let (mut client, mut answered, mut last, mut again) = (proxy.client(), BTreeMap::new(), BTreeMap::new(), 0);
        for n in 0..200 {
            let address = if n % 2 == 0 { "10.1.1.1".to_owned() } else { format!("10.2.0.{}", n % 60) };
            let headers = [("x-forwarded-for", address.as_str()), ("user-agent", "test \"quoted\" \\ agent")];
            let server = client.send("GET", "/healthz?a=b", &headers, b"").server().to_owned();
            *answered.entry(server.clone()).or_insert(0) += 1;
            again += u64::from(last.insert(address, server).is_some());
        }
        let lines = || std::fs::read_to_string(&log).ok().filter(|text| text.lines().count() == 200);
        eventually("the log is written", lines);
        let config = proxy.config.to_str().unwrap();
        let told = replay(&[log.to_str().unwrap(), "-c", config, "--upstream", "app"]);
        assert_eq!(
            (&told["requests"], &told["bad"]["lines"], &told["clients"]),
            (&200.into(), &0.into(), &last.len().into())
        );
        let hash = outcome(&told, "ip_hash");
        assert_eq!(
            (counts(hash), &hash["moves"], &hash["followed"]),
            (answered.clone(), &0.into(), &again.into()),
            "{format}"
        );
        assert_eq!(hash["approximate"].as_array().unwrap().len(), 0);
        let max = *answered.values().max().unwrap() as f64;
        assert!((hash["max_over_mean"].as_f64().unwrap() - max / 50.0).abs() < 1e-9, "{hash}");
        assert_eq!(counts(outcome(&told, "round_robin")).into_values().collect::<Vec<_>>(), [50; 4]);
        assert_eq!(outcome(&told, "sticky_cookie")["moves"], 0);
        let hot = &told["hottest"][0];
        assert_eq!((&hot["address"], &hot["requests"], &hot["share"]), (&"10.1.1.1".into(), &100.into(), &0.5.into()));
        assert_eq!(hot["on"]["ip_hash"].as_str().unwrap(), last["10.1.1.1"]);
        if format == "json" {
            assert_eq!((counts(&told["logged"]), &told["without_duration"]), (answered, &0.into()));
            assert_eq!(told["logged"]["moves"], 0);
        } else {
            assert_eq!((&told["logged"], &told["without_duration"]), (&Value::Null, &200.into()));
        }
    }
}

/// Written by hand as nginx does it: two offices, a broken line, a handshake on the wrong port.
const NGINX: &str = r#"198.51.100.7 - - [21/Nov/2026:20:15:00 +0100] "GET / HTTP/1.1" 200 612 "-" "Mozilla/5.0 (X11)"
198.51.100.7 - jane [21/Nov/2026:20:15:01 +0100] "POST /cart?id=7 HTTP/2.0" 302 0 "https://shop.example.com/" "Mozilla/5.0 (X11)"
198.51.100.7 - - [21/Nov/2026:20:15:01 +0100] "GET /a\x22b HTTP/1.1" 404 153 "-" "curl/8.5.0" "203.0.113.1"
2001:db8::9 - - [21/Nov/2026:20:15:02 +0100] "GET / HTTP/1.1" 200 612 "-" "-"
198.51.100.9 - - [21/Nov/2026:20:15:03 +0100] "\x16\x03\x01\x02\x00" 400 157 "-" "-"
this is no line of a log
203.0.113.5 - - [21/Nov/2026:20:15:10 +0100] "GET /favicon.ico HTTP/1.1" 200 -
"#;

fn nginx(path: &Path) {
    std::fs::write(path, NGINX).unwrap();
}

#[test]
fn a_log_of_nginx_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (log, packed, out) = (dir.path().join("access.log"), dir.path().join("access.log.gz"), dir.path().join("out"));
    nginx(&log);
    let mut gz = flate2::write::GzEncoder::new(std::fs::File::create(&packed).unwrap(), flate2::Compression::default());
    gz.write_all(NGINX.as_bytes()).unwrap();
    gz.finish().unwrap();
    let told = replay(&[log.to_str().unwrap(), "--servers", "3", "--out", out.to_str().unwrap()]);
    assert_eq!((&told["requests"], &told["left_out"], &told["clients"]), (&5.into(), &1.into(), &4.into()));
    assert_eq!(told["to"].as_f64().unwrap() - told["from"].as_f64().unwrap(), 10.0);
    assert_eq!(told["from"], 1_795_288_500.0);
    let first = &told["bad"]["first"];
    assert_eq!(
        (&told["bad"]["lines"], &first["number"], &first["text"]),
        (&1.into(), &6.into(), &"this is no line of a log".into())
    );
    assert_eq!((&told["hottest"][0]["address"], &told["hottest"][0]["requests"]), (&"198.51.100.7".into(), &3.into()));
    let turns: Vec<u64> = counts(outcome(&told, "round_robin")).into_values().collect();
    assert_eq!((turns.len(), turns.iter().sum::<u64>()), (3, 5));
    assert_eq!(outcome(&told, "ip_hash, max_load 1.25")["approximate"][0], "load");
    assert_eq!(
        replay(&[packed.to_str().unwrap(), "--servers", "3"])["policies"],
        told["policies"],
        "the same unpacked"
    );
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.matches("role=\"img\"").count() == 5 && page.contains("198.51.100.7") && page.ends_with("</html>\n"));
    let report: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(report, told);
}

#[test]
fn people_get_tables_and_wrong_usage_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (log, bad) = (dir.path().join("access.log"), dir.path().join("bad.log"));
    nginx(&log);
    std::fs::write(&bad, "a\nb c\n").unwrap();
    let run = |args: &[&str], code: i32| harness::run(&mut command(&[&["lab", "replay"], args].concat())).ends(code);
    let log = log.to_str().unwrap();
    let text = run(&[log, "--policy", "round_robin", "--policy", "{ ip_hash = { ipv4_prefix = 8 } }"], 0).out;
    assert!(text.starts_with("5 requests of 4 clients in 10 s, on 4 servers\n"), "{text}");
    assert!(
        text.contains("1 bad line, the first is line 6, it does not begin with an address: this is no line"),
        "{text}"
    );
    assert!(
        text.contains("\nPOLICY ") && text.contains("\nround_robin ") && text.contains("\nip_hash, ipv4_prefix 8 "),
        "{text}"
    );
    assert!(text.contains("\n198.51.100.7 ") && !text.contains("sticky_cookie"), "{text}");
    let error = run(&[bad.to_str().unwrap()], 1).err;
    assert!(error.contains("no line is a request of an access log: 2 bad lines, the first is line 1"), "{error}");
    let empty = dir.path().join("empty.log");
    std::fs::write(&empty, "").unwrap();
    for nothing in [empty.to_str().unwrap(), "/dev/null", "-"] {
        let error = run(&[nothing], 1).err;
        assert!(error.contains("the log is empty"), "{nothing}: {error}");
    }
    assert!(run(&[log, "--policy", "ip_hsh"], 2).err.contains("ip_hsh"));
    assert!(run(&["/nowhere.log"], 1).err.contains("cannot read /nowhere.log"));
    run(&[log, "--servers", "0"], 2);
    run(&[], 2);
}

/// A configuration that is named is taken, whether or not its upstream is; where nobody can tell which, it is said.
#[test]
fn the_upstream_of_a_configuration_needs_a_name_where_there_are_several() {
    let dir = tempfile::tempdir().unwrap();
    let (log, config) = (dir.path().join("access.log"), dir.path().join("evenkeel.toml"));
    nginx(&log);
    let (log, config) = (log.to_str().unwrap(), config.to_str().unwrap());
    let one = "[[listener]]\nbind = '127.0.0.1:0'\n[upstream.app]\nservers = ['127.0.0.1:1', '127.0.0.1:2']\npolicy = 'ip_hash'\n\
               shadow = ['round_robin', { ip_hash = { max_load = 1.25 } }]\n";
    std::fs::write(config, one).unwrap();
    let told = replay(&[log, "-c", config]);
    assert_eq!(told["servers"].as_array().unwrap().len(), 2);
    // Two of a name are told apart by their options.
    outcome(&told, "ip_hash");
    outcome(&told, "ip_hash, max_load 1.25");
    let run =
        |args: &[&str], code: i32| harness::run(&mut command(&[&["lab", "replay", log], args].concat())).ends(code);
    let two = format!("{one}[upstream.other]\nservers = ['127.0.0.1:3']\n[[route]]\nupstream = 'app'\n");
    std::fs::write(config, two).unwrap();
    let error = run(&["-c", config], 2).err;
    assert!(error.contains("with --upstream: `app`, `other`"), "{error}");
    let error = run(&["-c", config, "--upstream", "shop"], 2).err;
    assert!(error.contains("there is no upstream `shop` in ") && error.contains("there is `app`, `other`"), "{error}");
    let missing = run(&["-c", "/nowhere.toml"], 3).err;
    assert!(missing.contains("/nowhere.toml"), "{missing}");
}
