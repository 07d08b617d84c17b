//! What other policies would have done, and how evenly requests were spread, against counts of our own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{Client, Fake, Origin, Proxy, Raw, origins, servers, upstream};
use evenkeel::control::api::{ShadowPolicyStatus, ShadowStatus, SkewStatus};

const TRUSTING: &str = "trusted_proxies = [\"127.0.0.0/8\"]\n";
const SHADOW: &str = "shadow = [\"round_robin\", \"ip_hash\", \"sticky_cookie\"]\n";

fn app(policy: &str, shadow: &str, origins: &[Origin]) -> String {
    format!("{TRUSTING}{}", upstream("app", policy, shadow, origins))
}

/// As many requests by server as answers say.
type Counts = BTreeMap<String, u64>;

fn come(client: &mut Client, address: &str, headers: &[(&str, &str)], counts: &mut Counts) -> String {
    let headers: Vec<_> = headers.iter().copied().chain([("x-forwarded-for", address)]).collect();
    let server = client.send("GET", "/healthz", &headers, b"").server().to_owned();
    *counts.entry(server.clone()).or_default() += 1;
    server
}

fn shadow(proxy: &Proxy) -> ShadowStatus {
    proxy.status().upstreams[0].shadow.clone().expect("a shadow")
}

fn policy(status: &ShadowStatus, name: &str) -> ShadowPolicyStatus {
    status.policies.iter().find(|policy| policy.policy == name && !policy.live).expect(name).clone()
}

fn told(proxy: &Proxy, policy: &str) -> Counts {
    let label = format!("policy=\"{policy}\"");
    let server = |key: &str| key.split("server=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let is = |key: &str| key.starts_with("evenkeel_shadow_requests_total{") && key.contains(&label);
    let all = proxy.metrics();
    all.iter().filter(|(key, n)| is(key) && **n > 0.0).map(|(key, n)| (server(key), *n as u64)).collect()
}

/// The largest of so many servers over their mean, worked out here.
fn max_over_mean(counts: &Counts, servers: usize) -> f64 {
    let (sum, max) = (counts.values().sum::<u64>(), counts.values().max().unwrap());
    *max as f64 * servers as f64 / sum as f64
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

fn office(n: usize) -> String {
    // Half of all requests are those of one office.
    if n.is_multiple_of(2) { "10.1.1.1".to_owned() } else { format!("10.2.0.{}", n % 60) }
}

/// The same requests go through a proxy that hashes addresses, and through one that takes turns and has the other
/// policy in its shadow: what the second says of hashing is what the first has done.
#[test]
fn a_shadow_says_what_the_policy_itself_does() {
    let origins = origins(4);
    let hashing = Proxy::start(&app("\"ip_hash\"", "", &origins));
    let turning = Proxy::start(&app("\"round_robin\"", SHADOW, &origins));
    let (mut hashed, mut turned) = (Counts::new(), Counts::new());
    let (mut to_hashing, mut clients) = (hashing.client(), [turning.client(), turning.client(), turning.client()]);
    let (mut last, mut moves, mut seen) = (BTreeMap::new(), 0, BTreeSet::new());
    for n in 0..400 {
        let address = office(n);
        come(&mut to_hashing, &address, &[], &mut hashed);
        // Over several connections, which come to any core.
        let server = come(&mut clients[n % 3], &address, &[], &mut turned);
        moves += u64::from(last.insert(address.clone(), server.clone()).is_some_and(|before| before != server));
        seen.insert(address);
    }
    assert_eq!(told(&turning, "ip_hash"), hashed);
    assert_eq!(told(&turning, "live"), turned);
    assert_eq!(told(&turning, "sticky_cookie").values().sum::<u64>(), 400);
    let status = shadow(&turning);
    assert_eq!((status.known_by.as_str(), status.clients, status.clients_ratio), ("address", seen.len() as u64, 1.0));
    let live = &status.policies[0];
    assert!(live.live && live.policy == "round_robin" && live.requests == 400, "{live:?}");
    assert!(near(live.moves_per_thousand.unwrap(), moves as f64 * 2.5), "{moves} of 400: {live:?}");
    let hash = policy(&status, "ip_hash");
    assert_eq!((hash.requests, hash.moves_per_thousand, hash.approximate.len()), (400, Some(0.0), 0));
    assert!(near(hash.max_over_mean.unwrap(), max_over_mean(&hashed, 4)), "{hash:?} {hashed:?}");
    assert_eq!(hash.busiest.as_ref(), hashed.iter().max_by_key(|(_, n)| **n).map(|(server, _)| server));
    let sticky = policy(&status, "sticky_cookie");
    assert_eq!((sticky.moves_per_thousand, sticky.approximate), (Some(0.0), vec!["load".into(), "clients".into()]));
    assert_eq!(policy(&status, "round_robin").approximate, [""; 0]);
    let moved = |policy: &str| turning.metric("evenkeel_shadow_moves_total", &[&format!("policy=\"{policy}\"")]);
    assert_eq!((moved("live") as u64, moved("ip_hash")), (moves, 0.0));
    // Who hashes has nothing in its shadow and says how uneven it is itself.
    assert_eq!(hashing.status().upstreams[0].shadow, None);
    let SkewStatus { requests, max_over_mean: skew, jain, .. } = hashing.status().upstreams[0].skew.clone().unwrap();
    assert!(requests == 400 && near(skew, max_over_mean(&hashed, 4)), "{skew} {hashed:?}");
    let squares: u64 = hashed.values().map(|n| n * n).sum();
    assert!(near(jain, 400.0 * 400.0 / (4.0 * squares as f64)), "{jain} {hashed:?}");
    assert!(near(hashing.metric("evenkeel_upstream_skew_max_over_mean", &["\"app\""]), skew));
    assert!(near(hashing.metric("evenkeel_upstream_skew_jain", &["\"app\""]), jain));
    assert_eq!(hashing.metric("evenkeel_upstream_skew_requests", &["\"app\""]), 400.0);
}

/// Two hundred people of one office with a cookie each: by address they are one, by cookie they are not.
#[test]
fn clients_are_told_apart_by_a_cookie_of_the_application() {
    let origins = origins(4);
    let proxy = Proxy::start(&app("\"round_robin\"", &format!("{SHADOW}shadow_cookie = \"sid\"\n"), &origins));
    let (mut client, mut counts) = (proxy.client(), Counts::new());
    for n in 0..600 {
        let cookie = format!("lang=de; sid=user{}", n % 200);
        come(&mut client, "10.1.1.1", &[("cookie", &cookie)], &mut counts);
    }
    // Somebody without it is nobody in particular.
    for _ in 0..10 {
        come(&mut client, "10.1.1.1", &[("cookie", "lang=de")], &mut counts);
    }
    let status = shadow(&proxy);
    assert_eq!((status.known_by.as_str(), status.clients), ("cookie", 200));
    let sticky = told(&proxy, "sticky_cookie");
    assert_eq!(sticky.values().sum::<u64>(), 610);
    assert!(sticky.len() == 4 && max_over_mean(&sticky, 4) < 1.3, "{sticky:?}");
    assert_eq!(policy(&status, "sticky_cookie").moves_per_thousand, Some(0.0));
    assert_eq!(proxy.metric("evenkeel_shadow_followed_requests_total", &["policy=\"sticky_cookie\""]), 600.0);
    let hash = told(&proxy, "ip_hash");
    assert_eq!((hash.len(), hash.values().sum::<u64>()), (1, 610), "all on one");
}

/// Sessions of the upstream's own cookie are what its clients are known by.
#[test]
fn clients_of_a_sticky_upstream_are_its_sessions() {
    let origins = origins(3);
    let proxy = Proxy::start(&app("\"sticky_cookie\"", "shadow = [\"round_robin\", \"ip_hash\"]\n", &origins));
    let mut counts = Counts::new();
    for user in 0..6 {
        let first = proxy.client().send("GET", "/healthz", &[("x-forwarded-for", "10.1.1.1")], b"");
        let cookie = first.cookie("evenkeel").unwrap();
        for _ in 0..5 {
            // Users who roam: each request from another network.
            let address = format!("10.3.{user}.{}", counts.values().sum::<u64>());
            come(&mut proxy.client(), &address, &[("cookie", &cookie)], &mut counts);
        }
    }
    let status = shadow(&proxy);
    assert_eq!((status.known_by.as_str(), status.clients), ("session", 6));
    assert_eq!((status.policies[0].requests, status.policies[0].moves_per_thousand), (36, Some(0.0)));
    let hash = policy(&status, "ip_hash");
    assert!(hash.moves_per_thousand.unwrap() > 200.0, "who roams is moved: {hash:?}");
}

/// Traffic goes where it went without a shadow, and what the shadow counts outlives a reload.
#[test]
fn traffic_is_as_it_was_and_counts_outlive_a_reload() {
    let origins = origins(3);
    let start = |shadow: &str| Proxy::start(&format!("cores = 1\n{}", app("\"ip_hash\"", shadow, &origins)));
    let (with, without) = (start(SHADOW), start(""));
    let (mut a, mut b) = (Counts::new(), Counts::new());
    let (mut to_a, mut to_b) = (with.client(), without.client());
    for n in 0..60 {
        assert_eq!(come(&mut to_a, &office(n), &[], &mut a), come(&mut to_b, &office(n), &[], &mut b));
    }
    let turns = || told(&with, "round_robin").into_values().collect::<Vec<_>>();
    assert_eq!(turns(), [20, 20, 20]);
    // Another option of the upstream, another policy in the shadow: what stays goes on.
    let changed = "shadow = [\"round_robin\", \"first\", { ip_hash = { max_load = 1.25 } }, { ip_hash = { ipv4_prefix = 8 } }]\n\
                   max_sessions = 99\n";
    with.reload(&format!("cores = 1\n{}", app("\"ip_hash\"", changed, &origins))).unwrap();
    (0..3).for_each(|n| drop(come(&mut to_a, &office(n), &[], &mut a)));
    assert_eq!((turns(), told(&with, "live")), (vec![21, 21, 21], a));
    let sums =
        ["first", "ip_hash", "ip_hash#2", "sticky_cookie"].map(|policy| told(&with, policy).values().sum::<u64>());
    assert_eq!(sums, [3, 3, 3, 0]);
    assert!(shadow(&with).policies.iter().map(|policy| policy.policy.as_str()).any(|label| label == "ip_hash#2"));
    with.reload(&format!("cores = 1\n{}", app("\"ip_hash\"", "", &origins))).unwrap();
    assert_eq!(with.status().upstreams[0].shadow, None);
    assert!(!with.scrape().contains("evenkeel_shadow_requests_total{"), "what is gone is no longer told");
}

/// Requests that never end are in flight where the policy would have sent them, and nowhere once they have.
#[test]
fn feedback_counts_what_a_policy_would_have_in_flight() {
    let held = [crate::harness::Held::start("a"), crate::harness::Held::start("b"), crate::harness::Held::start("c")];
    let table = |(name, held): (&str, &crate::harness::Held)| {
        format!("[[upstream.app.server]]\nname = \"{name}\"\naddress = \"{}\"\n", held.address())
    };
    let tables: String = ["a", "b", "c"].into_iter().zip(&held).map(table).collect();
    let text = format!(
        "[upstream.app]\ncheck = \"off\"\npolicy = \"first\"\nmax_requests = 100\nshadow = [\"least_requests\"]\n{tables}"
    );
    let proxy = Proxy::start(&text);
    let mut waiting: Vec<Raw> = Vec::new();
    for n in 1..=12 {
        let mut conn = proxy.raw();
        conn.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        crate::harness::eventually("it is on its way", || (proxy.server("app", "a").in_flight == n).then_some(()));
        waiting.push(conn);
    }
    // All of them are on the first; on three servers there would be four each.
    assert_eq!(told(&proxy, "least_requests").into_values().collect::<Vec<_>>(), [4, 4, 4]);
    assert_eq!(policy(&shadow(&proxy), "least_requests").approximate, ["load"]);
    assert_eq!(told(&proxy, "live"), Counts::from([("a".to_owned(), 12)]));
}

/// A request that fails on one server and is sent to another is one request.
#[test]
fn a_retry_is_counted_once() {
    let broken = Fake::start(|_, conn| drop(conn));
    let origins = origins(1);
    let text = format!(
        "cores = 1\n[upstream.app]\ncheck = \"off\"\noutliers = false\nshadow = [\"round_robin\"]\n\
         [[upstream.app.server]]\nname = \"broken\"\naddress = \"{}\"\n{}",
        broken.address(),
        servers("app", &origins)
    );
    let proxy = Proxy::start(&text);
    let mut client = proxy.client();
    (0..10).for_each(|_| assert_eq!(client.get("/healthz").server(), "a"));
    assert_eq!(told(&proxy, "round_robin"), Counts::from([("a".to_owned(), 5), ("broken".to_owned(), 5)]));
    // Each retry took a turn of the policy that is followed.
    let live = told(&proxy, "live");
    assert!(live.values().sum::<u64>() == 10 && live["broken"] >= 9, "{live:?}");
}

/// `status` for people.
#[test]
fn the_status_shows_both() {
    let origins = origins(2);
    let proxy = Proxy::start(&app("\"round_robin\"", SHADOW, &origins));
    let (mut client, mut counts) = (proxy.client(), Counts::new());
    (0..40).for_each(|n| drop(come(&mut client, &office(n), &[], &mut counts)));
    let mut status = crate::harness::command(&["--admin", proxy.socket().to_str().unwrap(), "status"]);
    let text = crate::harness::run(&mut status).ends(0).out;
    assert!(
        text.contains("\n  skew: a got 1.00 times its share, Jain 1.000, of 40 requests in ")
            || text.contains("\n  skew: b got 1.00 times its share, Jain 1.000, of 40 requests in "),
        "{text}"
    );
    assert!(text.contains("\n  shadow: what each policy would have done in "), "{text}");
    for line in ["round_robin", "ip_hash", "sticky_cookie"] {
        assert!(text.contains(&format!("\n    {line} ")), "{line}: {text}");
    }
}

/// Every metric that a rule names is one that there is, with the labels that it goes by.
#[test]
fn the_alerts_name_metrics_that_exist() {
    let rules = include_str!("../../examples/alerts.yml");
    let mut named = BTreeSet::new();
    for (at, _) in rules.match_indices("evenkeel_") {
        let rest = &rules[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap();
        let metric = evenkeel::metrics::TABLE.iter().find(|metric| metric.name == &rest[..end]);
        let metric = metric.unwrap_or_else(|| panic!("there is no {}", &rest[..end]));
        if let Some(inside) = rest[end..].strip_prefix('{') {
            let label = inside.split('=').next().unwrap();
            assert!(metric.labels.contains(&label), "{}: {label}", metric.name);
        }
        named.insert(metric.name);
    }
    assert!(named.len() >= 5, "{named:?}");
    for line in rules.lines().filter(|line| line.trim_start().starts_with("and on (")) {
        let labels = line.split_once('(').unwrap().1.split_once(')').unwrap().0;
        let name = line.split("evenkeel_").nth(1).unwrap();
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap();
        let metric = evenkeel::metrics::TABLE.iter().find(|m| m.name == format!("evenkeel_{}", &name[..end])).unwrap();
        // What tells one proxy from another is not of the metric: Prometheus adds it.
        let labels = labels.strip_prefix("job, instance, ").unwrap_or_else(|| panic!("{line}"));
        assert!(labels.split(", ").all(|label| metric.labels.contains(&label)), "{line}");
    }
}
