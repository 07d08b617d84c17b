//! Addresses that take more than their share, and the proxy in front that nobody has told of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel::control::api::{Explained, HotKeyStatus};
use evenkeel::debug_header::Key;
use harness::{Client, Crowd, Origin, Proxy, eventually, origins, upstream};

/// The office's address; its other side is the proxy.
const OFFICE: [u8; 4] = [127, 7, 7, 7];

/// People at home, each at an address of their own.
fn homes(proxy: &Proxy, count: u8) -> Vec<Client> {
    (1..=count).map(|n| proxy.client().from([127, 1, 1, n])).collect()
}

fn slow(origins: &[Origin]) {
    origins.iter().for_each(|origin| origin.behave(|b| b.delay = Duration::from_millis(10)));
}

fn hot(proxy: &Proxy) -> Vec<HotKeyStatus> {
    proxy.status().upstreams[0].hot_keys.clone()
}

#[test]
fn an_office_is_named_with_the_server_that_suffers() {
    let origins = origins(4);
    slow(&origins);
    let policy = "{ ip_hash = { hot_keys = \"report\" } }";
    let proxy = Proxy::start(&format!("cores = 2\n{}", upstream("app", policy, "", &origins)));
    let home = proxy.client().from(OFFICE).get("/").server().to_owned();
    let crowd = Crowd::of((0..12).map(|_| proxy.client().from(OFFICE)).chain(homes(&proxy, 8)).collect());
    let found = eventually("the office is hot", || hot(&proxy).into_iter().find(|hot| hot.key == "127.7.7.7"));
    assert_eq!((&found.server, found.spread), (&home, false));
    assert!(found.share_percent > 25.0 && found.requests_per_second > 10.0, "{found:?}");
    assert!(hot(&proxy).len() <= 5);
    let labels = ["app", "127.7.7.7", home.as_str()];
    eventually("it is in the metrics", || {
        (proxy.metric("evenkeel_upstream_hot_key_ratio", &labels) > 0.4).then_some(())
    });
    assert_eq!(proxy.metric("evenkeel_upstream_hot_key_spread", &labels), 0.0);
    // Reported is all that it is: everything still goes to its server.
    assert_eq!(proxy.client().from(OFFICE).get("/").server(), home);
    crowd.leaves();
    let crowd = Crowd::of(homes(&proxy, 12));
    eventually("it is forgotten", || hot(&proxy).iter().all(|hot| hot.key != "127.7.7.7").then_some(()));
    assert!(!proxy.metrics().keys().any(|series| series.contains("127.7.7.7")), "its series end");
    crowd.leaves();
}

#[test]
fn nothing_is_counted_where_nobody_asks_for_it() {
    let origins = origins(2);
    let proxy = Proxy::start(&format!("cores = 1\n{}", upstream("app", "\"ip_hash\"", "", &origins)));
    let mut client = proxy.client();
    (0..300).for_each(|_| drop(client.get("/")));
    assert!(hot(&proxy).is_empty());
    assert!(!proxy.metrics().keys().any(|series| series.contains("hot_key")));
}

/// The server to which most of a client's requests go. The bound may pass on one that comes while the last is not
/// yet let go of.
fn favourite(client: &mut Client, new_connections: bool) -> String {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..5 {
        if new_connections {
            client.hang_up();
        }
        *counts.entry(client.get("/").server().to_owned()).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).unwrap().0
}

fn favourites(clients: &mut [Client]) -> Vec<String> {
    clients.iter_mut().map(|client| favourite(client, false)).collect()
}

fn is_spread(proxy: &Proxy) -> bool {
    hot(proxy).iter().any(|hot| hot.key == "127.7.7.7" && hot.spread)
}

/// Where users of the office go while it is spread; none if it ceases to be so meanwhile, on a machine that stalls.
fn spread_users(proxy: &Proxy) -> Option<BTreeSet<String>> {
    let mut servers = BTreeSet::new();
    for _ in 0..12 {
        let mut user = proxy.client().from(OFFICE);
        let cookie = user.get("/echo").cookie("evenkeel_user");
        let by_connection = favourite(&mut user, false);
        // With the cookie any connection will do, and the server does not see it.
        let mut same = proxy.client().from(OFFICE).with("cookie", &format!("{}; sid=1", cookie?));
        assert_eq!(same.get("/echo").echoed("cookie"), ["sid=1"]);
        assert_eq!(same.get("/").cookie("evenkeel_user"), None, "it has one");
        let by_cookie = favourite(&mut same, true);
        if !is_spread(proxy) {
            return None;
        }
        assert_eq!(by_cookie, by_connection);
        servers.insert(by_connection);
    }
    Some(servers)
}

/// The whole of it: an office is spread while its server is above its bound, each of its users stays with one
/// server meanwhile, people at home move nowhere, and afterwards everything is where it was.
#[test]
fn an_office_is_spread_while_it_is_too_much_and_comes_back() {
    let origins = origins(4);
    let policy = "{ ip_hash = { max_load = 1.25, hot_keys = \"spread\" } }";
    let proxy = Proxy::start(&format!("cores = 2\n{}", upstream("app", policy, "", &origins)));
    // Nobody else is there: each is at home.
    let home = favourite(&mut proxy.client().from(OFFICE), false);
    let mut people = homes(&proxy, 24);
    let at_home = favourites(&mut people);
    let before = proxy.client().from(OFFICE).get("/");
    assert_eq!(before.cookie("evenkeel_user"), None, "no cookie before it is spread");

    let mut attempts = 0..3;
    let spread = loop {
        attempts.next().expect("three attempts are enough");
        slow(&origins);
        let crowd = Crowd::of((0..24).map(|_| proxy.client().from(OFFICE)).collect());
        eventually("the office is spread", || is_spread(&proxy).then_some(()));
        assert_eq!(proxy.metric("evenkeel_upstream_hot_key_spread", &["app", "127.7.7.7", &home]), 1.0);
        assert!(proxy.metric("evenkeel_server_passed_on_total", &["app", &home]) > 0.0);
        crowd.leaves();
        origins.iter().for_each(|origin| origin.behave(|b| b.delay = Duration::ZERO));
        // The requests of those who are looked at keep it hot.
        if let Some(spread) = spread_users(&proxy) {
            break spread;
        }
    };
    assert!(spread.len() > 1, "{spread:?}");
    assert_eq!(favourites(&mut people), at_home, "who is at home stays there");

    let crowd = Crowd::of(homes(&proxy, 12));
    eventually("it is one key again", || hot(&proxy).iter().all(|hot| hot.key != "127.7.7.7").then_some(()));
    crowd.leaves();
    let mut users: Vec<Client> = (0..12).map(|_| proxy.client().from(OFFICE)).collect();
    assert_eq!(favourites(&mut users), vec![home; 12], "the office is where it was");
    assert_eq!(favourites(&mut people), at_home);
}

/// Why a request went there is that its user was placed, not its address.
#[test]
fn of_a_request_whose_key_is_spread_it_is_told() {
    let origins = origins(3);
    slow(&origins);
    let key = "a key for these tests";
    let debug = format!("cores = 1\n[debug]\nremember = 100\nkey = \"{key}\"\n");
    let policy = "{ ip_hash = { max_load = 1.25, hot_keys = \"spread\" } }";
    let proxy = Proxy::start(&format!("{debug}{}", upstream("app", policy, "", &origins)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let signed = Key::new(key).sign(now + 600);
    let ask = |from: [u8; 4]| {
        let answer = proxy.client().from(from).with("x-evenkeel-debug", &signed).get("/");
        let (told, id) = (answer.header("x-evenkeel-debug").unwrap(), answer.header("x-request-id").unwrap());
        // It is remembered when the last byte of the answer was handed over, which a client may see before.
        let remembered = eventually("it is remembered", || {
            let (status, body) = proxy.admin("GET", &format!("/why/{id}"), "");
            (status == 200).then(|| serde_json::from_str::<Vec<Explained>>(&body).unwrap().remove(0))
        });
        let is_told = told.contains("; hot_key=spread");
        assert_eq!(remembered.spread, is_told, "{told}");
        is_told
    };
    assert!(!ask(OFFICE));
    let crowd = Crowd::of((0..24).map(|_| proxy.client().from(OFFICE)).collect());
    eventually("the office is spread", || ask(OFFICE).then_some(()));
    assert!(!ask([127, 1, 1, 1]), "who is at home goes by the address");
    crowd.leaves();
}

/// Behind a trusted proxy all come over its connections: a connection is nobody's own there.
#[test]
fn users_behind_a_trusted_proxy_are_told_apart_by_their_cookies() {
    let origins = origins(4);
    slow(&origins);
    let policy = "{ ip_hash = { max_load = 1.25, hot_keys = { spread = { cookie = \"who\", max_age = \"1h\" } } } }";
    let trusted = "cores = 1\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let proxy = Proxy::start(&format!("{trusted}{}", upstream("app", policy, "", &origins)));
    let front = || proxy.client().with("x-forwarded-for", "192.0.2.7");
    let crowd = Crowd::of((0..16).map(|_| front()).collect());
    eventually("the office is spread", || {
        hot(&proxy).iter().any(|hot| hot.key == "192.0.2.7" && hot.spread).then_some(())
    });
    let mut connection = front();
    let users: BTreeSet<String> = (0..10).filter_map(|_| connection.get("/").cookie("who")).collect();
    assert!(users.len() > 1, "{users:?}");
    let answer = connection.get("/");
    let set = answer.all("set-cookie").into_iter().find(|set| set.starts_with("who=")).unwrap();
    assert!(set.contains("Max-Age=3600") && set.contains("HttpOnly"), "{set}");
    crowd.leaves();
}

/// A reload that wants it no more undoes it, and one that changes something else does not.
#[test]
fn a_reload_keeps_what_is_spread_and_one_without_it_ends_it() {
    let origins = origins(3);
    slow(&origins);
    let config = |policy: &str, more: &str| format!("cores = 1\n{}", upstream("app", policy, more, &origins));
    let spread = "{ ip_hash = { max_load = 1.25, hot_keys = \"spread\" } }";
    let proxy = Proxy::start(&config(spread, ""));
    let crowd = Crowd::of((0..24).map(|_| proxy.client().from(OFFICE)).collect());
    eventually("the office is spread", || is_spread(&proxy).then_some(()));
    proxy.reload(&config(spread, "timeouts = { connect = \"3s\" }")).unwrap();
    assert!(is_spread(&proxy));
    proxy.reload(&config("{ ip_hash = { max_load = 1.25 } }", "")).unwrap();
    assert!(hot(&proxy).is_empty());
    assert_eq!(proxy.client().from(OFFICE).get("/").cookie("evenkeel_user"), None);
    crowd.leaves();
}

/// What a request is keyed by may be a secret.
#[test]
fn a_key_that_is_no_address_is_not_shown() {
    let origins = origins(4);
    let policy = "{ hash = { by = { header = \"authorization\" }, hot_keys = \"report\" } }";
    let proxy = Proxy::start(&format!("cores = 1\n{}", upstream("app", policy, "", &origins)));
    let crowd = Crowd::of((0..4).map(|_| proxy.client().with("authorization", "Bearer topsecret")).collect());
    let found = eventually("the key is hot", || hot(&proxy).into_iter().next());
    let hash = found.key.strip_prefix("key ").unwrap();
    assert!(hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{found:?}");
    assert!(!proxy.metrics().keys().any(|series| series.contains("topsecret")));
    crowd.leaves();
}

/// Of IPv6 it is the network that has one server, and so is named.
#[test]
fn an_ipv6_network_is_one_address() {
    let origins = origins(4);
    let policy = "{ ip_hash = { hot_keys = \"report\" } }";
    let proxy = Proxy::start(&format!(
        "cores = 1\ntrusted_proxies = [\"127.0.0.0/8\"]\n{}",
        upstream("app", policy, "", &origins)
    ));
    let user = |n: usize| proxy.client().with("x-forwarded-for", &format!("2001:db8::{n:x}"));
    let crowd = Crowd::of((1..5).map(user).collect());
    let found = eventually("the network is hot", || hot(&proxy).into_iter().next());
    assert_eq!(found.key, "2001:db8::/64");
    crowd.leaves();
}

#[test]
fn a_forgotten_proxy_is_named_with_what_to_do_about_it() {
    let origins = origins(2);
    // Else how often one asks depends on who else is on its core.
    slow(&origins);
    let config = |trusted: &str| format!("cores = 2\n{trusted}{}", upstream("app", "\"round_robin\"", "", &origins));
    let proxy = Proxy::start(&config(""));
    let front = |n: usize| proxy.client().from([127, 9, 9, 9]).with("x-forwarded-for", &format!("192.0.2.{n}"));
    let crowd = Crowd::of((0..3).map(front).chain(homes(&proxy, 1)).collect());
    let found = eventually("it is in the status", || proxy.status().forgotten_proxy);
    assert_eq!(found.peer, "127.9.9.9");
    assert!(found.share_percent > 50.0 && found.requests >= 200, "{found:?}");
    assert!(proxy.metric("evenkeel_forgotten_proxy_ratio", &[]) > 0.5);
    proxy.reload(&config("trusted_proxies = [\"127.9.9.9\"]\n")).unwrap();
    eventually("it is forgiven", || proxy.status().forgotten_proxy.is_none().then_some(()));
    eventually("nothing is ignored any more", || {
        (proxy.metric("evenkeel_forgotten_proxy_ratio", &[]) == 0.0).then_some(())
    });
    crowd.leaves();
}

/// Who brings such headers, but is one of many, is a client with a proxy of its own; and one who does not is no
/// proxy, however much it asks.
#[test]
fn a_client_with_its_own_proxy_is_not_a_forgotten_one() {
    let origins = origins(2);
    slow(&origins);
    let proxy = Proxy::start(&format!("cores = 1\n{}", upstream("app", "\"round_robin\"", "", &origins)));
    let company = proxy.client().from([127, 9, 9, 9]).with("x-forwarded-for", "10.0.0.1");
    let crowd = Crowd::of([company].into_iter().chain(homes(&proxy, 5)).collect());
    let share = eventually("it was looked at", || {
        Some(proxy.metric("evenkeel_forgotten_proxy_ratio", &[])).filter(|share| *share > 0.0)
    });
    assert!(share < 0.5, "{share}");
    assert_eq!(proxy.status().forgotten_proxy, None);
    crowd.leaves();
}
