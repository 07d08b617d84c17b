use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::*;
use crate::balance::sticky_cookie::Keys;
use crate::balance::{HashBy, Policy, RoundRobin, Scratch, StickyCookie};
use crate::config::plan::{
    Address, DrainPlan, ListenerPlan, LitmusPlan, MoveSessions, RoutePlan, ShadowPlan, UpstreamPlan,
};
use crate::metrics::cells::LitmusSymptom;
use crate::tls;
use crate::upstream::hot::{Counts, Shown, Watch};
use crate::upstream::litmus::Experiment;
use crate::upstream::shadow::{Asked, Kept};
use crate::upstream::snapshot::Listening;
use crate::upstream::{Change, Claim, Ledger, Route, Routes, State, Sticky};

const CORES: usize = 3;
/// A name with everything that the text format escapes, and what would look like a label.
const NASTY: &str = "a\"b\\c\nd\",code=\"2xx\"} 7 é";

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    /// By suffix: empty, `_bucket`, `_sum`, `_count`.
    samples: Vec<(String, Sample)>,
}

/// A strict reader of the text format 0.0.4: HELP and TYPE first, one block for each family, every
/// line complete, no series twice.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut series = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            let family = Family { help: help.to_owned(), ..Family::default() };
            assert!(families.insert(name.to_owned(), family).is_none(), "twice: {name}");
            name.clone_into(&mut current);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert_eq!(name, current);
            let family = families.get_mut(name).expect(line);
            assert!(family.kind.is_empty() && family.samples.is_empty(), "{line}");
            kind.clone_into(&mut family.kind);
        } else {
            let (name, sample) = parse_sample(line);
            assert!(series.insert(format!("{name}{:?}", sample.labels)), "twice: {line}");
            let family = families.get_mut(&current).expect(line);
            let suffix = name.strip_prefix(&current).expect(line);
            let allowed: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.contains(&suffix), "{line}");
            family.samples.push((suffix.to_owned(), sample));
        }
    }
    families
}

fn parse_sample(line: &str) -> (String, Sample) {
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').expect(line);
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").expect(line);
            assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let close = loop {
                match chars.next().expect(line) {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next().expect(line).1 {
                        'n' => '\n',
                        c @ ('"' | '\\') => c,
                        c => panic!("escape \\{c} in {line}"),
                    }),
                    (_, c) => value.push(c),
                }
            };
            labels.push((label.to_owned(), value));
            rest = &after[close + 1..];
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = rest.strip_prefix(',').expect(line);
        }
    }
    let value = rest.strip_prefix(' ').expect(line).parse().expect(line);
    (name.to_owned(), Sample { labels, value })
}

fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[&str]) -> f64 {
    let family = families.get(name).unwrap_or_else(|| panic!("no {name}"));
    let found: Vec<f64> = family
        .samples
        .iter()
        .filter(|(_, s)| s.labels.iter().map(|(_, v)| v.as_str()).eq(labels.iter().copied()))
        .map(|(_, s)| s.value)
        .collect();
    assert_eq!(found.len(), 1, "{name}{labels:?}");
    found[0]
}

fn upstream_plan(name: &str, policy: Policy) -> Arc<UpstreamPlan> {
    let second = Duration::from_secs(1);
    Arc::new(UpstreamPlan {
        name: name.to_owned(),
        policy,
        check: None,
        drain: DrainPlan {
            in_flight: second,
            sessions_idle: 10 * second,
            sessions_max: 60 * second,
            close_spread: second,
            move_sessions: MoveSessions::Never,
        },
        servers: Vec::new(),
        ..UpstreamPlan::example()
    })
}

fn server_named(uid: u32, upstream: &str, name: &str, operational: Operational) -> Arc<Server> {
    let address = Address::Socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 9001)));
    let server = Server::new(uid, upstream.into(), name.into(), address, 7, CORES);
    server.set_state(State { operational, admin: Admin::Ready });
    Arc::new(server)
}

fn tls() -> Arc<tls::Server> {
    let pem = tls::self_signed().unwrap();
    let settings = tls::Settings { alpn: Vec::new(), handshake_timeout: Duration::from_secs(1), tls13_only: false };
    let certificates = vec![("site.pem".to_owned(), tls::Certificate::read(&pem, &pem).unwrap())];
    Arc::new(tls::Server::new(&settings, tls::Material { certificates, clients: None, resumption: None }).unwrap())
}

fn listening(name: &str, routes: Vec<Arc<Route>>) -> Option<Listening> {
    let plan = ListenerPlan { name: name.to_owned(), ..ListenerPlan::example() };
    Some(Listening { plan: Arc::new(plan), routes: Arc::new(Routes::new(routes)), tls: Some(tls()) })
}

fn now() -> u32 {
    100
}

struct World {
    exporter: Exporter,
    swap: Arc<Swap>,
    cells: Arc<[CoreCells]>,
    route: Arc<Route>,
    sticky: Arc<Sticky>,
    a: Arc<Server>,
    b: Arc<Server>,
}

/// Two listeners that share a route, a sticky upstream with two servers, a plain one whose only
/// server is down.
fn world() -> World {
    let cells: Arc<[CoreCells]> = (0..CORES).map(|_| CoreCells::default()).collect();
    let sticky = Arc::new(Sticky {
        keys: ArcSwap::from_pointee(Keys::new(&["0123456789abcdef".to_owned()]).unwrap()),
        ledger: Ledger::new(1000),
        cells: (0..CORES).map(|_| StickyCell::default()).collect(),
    });
    let a = server_named(1, "shop", "a", Operational::Healthy);
    let b = server_named(2, "shop", NASTY, Operational::Unhealthy);
    let plan = upstream_plan("shop", Policy::StickyCookie(StickyCookie::default()));
    let policies = vec![Policy::RoundRobin(RoundRobin::default())];
    let plan = UpstreamPlan { shadow: Some(ShadowPlan { policies, cookie: None }), ..Arc::unwrap_or_clone(plan) };
    let kept = Kept::new(&plan, CORES, 1, None);
    let (plan, servers) = (Arc::new(plan), vec![Arc::clone(&a), Arc::clone(&b)]);
    let shop = Upstream::with(Change::default(), 0, plan, servers, Some(Arc::clone(&sticky)), kept.as_ref(), None);
    let counts = Arc::new(Counts::new(CORES));
    counts.show(vec![Shown {
        key: "192.0.2.7".to_owned(),
        share: 0.25,
        rate: 10.0,
        server: "a".into(),
        is_spread: true,
        since: Duration::ZERO,
    }]);
    let shop = shop.watched(Some(Watch { counts, spread: Box::default(), cookie: None }));
    let experiment = Experiment::new(LitmusPlan::example(5), CORES);
    for (core, cell) in experiment.cells.iter().enumerate() {
        cell.groups[0].users.add(10 + core as u64);
        cell.groups[1].symptoms[LitmusSymptom::Reissued as usize].inc();
    }
    let shop = shop.tested(Some(Arc::new(experiment)));
    let plan = upstream_plan("down", Policy::RoundRobin(RoundRobin::default()));
    let plain = Upstream::new(1, plan, vec![server_named(3, "down", "c", Operational::Unhealthy)], None, None);
    let plan = RoutePlan { name: "shop.example.com/".to_owned(), listeners: vec![0, 2], ..RoutePlan::example() };
    let route = Arc::new(Route::new(plan, (0..CORES).map(|_| RouteCell::default()).collect(), &[]));
    let swap = Arc::new(Swap::default());
    swap.publish(Snapshot {
        generation: 0,
        max_connections: 100,
        tells_local: false,
        sampler: None,
        debug: None,
        listeners: vec![
            listening("http", vec![Arc::clone(&route)]),
            None,
            listening("other", vec![Arc::clone(&route)]),
        ],
        upstreams: vec![Arc::new(shop), Arc::new(plain)],
    });
    let exporter = Exporter::new(Arc::clone(&swap), Arc::clone(&cells), now).expect("a valid table");
    World { exporter, swap, cells, route, sticky, a, b }
}

/// Asks the policy in the shadow of the first upstream about a request, which is then sent to its first server.
fn ask(world: &World) {
    let snapshot = world.swap.current.load_full();
    let (upstream, shadow) = (&snapshot.upstreams[0], snapshot.upstreams[0].shadow.as_ref().unwrap());
    let asked = Asked { client: Ipv4Addr::LOCALHOST.into(), of: Some(1), key: |_: &HashBy| None, now: now() };
    let cast = shadow.ask(upstream, 1, &asked, &mut [Scratch::new(0, 1)]);
    shadow.sent(&cast, 1, 0);
}

#[test]
fn what_a_shadow_counts_is_told_beside_what_happened() {
    let world = world();
    (0..5).for_each(|_| ask(&world));
    let families = parse(&world.exporter.render());
    let told = |name: &str, labels: &[&str]| value(&families, &format!("evenkeel_{name}"), labels);
    for policy in ["live", "round_robin"] {
        assert_eq!(told("shadow_requests_total", &["shop", policy, "a"]), 5.0);
        // The other one is down.
        assert_eq!(told("shadow_requests_total", &["shop", policy, NASTY]), 0.0);
        assert_eq!(told("shadow_followed_requests_total", &["shop", policy]), 5.0);
        assert_eq!(told("shadow_moves_total", &["shop", policy]), 0.0);
        assert_eq!(told("shadow_skew_max_over_mean", &["shop", policy]), 1.0);
    }
    assert_eq!((told("shadow_clients", &["shop"]), told("shadow_clients_ratio", &["shop"])), (1.0, 1.0));
}

#[test]
fn output_and_table_name_the_same_metrics() {
    let world = world();
    // What has no request yet says nothing of how even it is.
    world.a.cells[0].counts.picks.inc();
    ask(&world);
    let families = parse(&world.exporter.render());
    let exported: BTreeSet<&str> = families.keys().map(String::as_str).collect();
    let listed: BTreeSet<&str> = TABLE.iter().map(|metric| metric.name).collect();
    assert_eq!(exported, listed);
    for metric in TABLE {
        let family = &families[metric.name];
        assert_eq!(family.kind, metric.kind.name(), "{}", metric.name);
        assert_eq!(family.help, metric.help.replace('\\', "\\\\"), "{}", metric.name);
        for (_, sample) in &family.samples {
            let labels = sample.labels.iter().map(|(label, _)| label.as_str()).filter(|label| *label != "le");
            assert!(labels.eq(metric.labels.iter().copied()), "{}: {:?}", metric.name, sample.labels);
        }
    }
}

#[test]
fn cells_of_all_cores_are_summed() {
    let world = world();
    for (core, n) in [(0, 1), (1, 20), (2, 300)] {
        world.cells[core].connections_accepted.add(n);
        world.cells[core].errors[error::Kind::NoRoute as usize].add(2 * n);
        world.route.cells[core].answers[1].add(3 * n);
        world.a.cells[core].counts.picks.add(4 * n);
        world.b.cells[core].counts.answers[4].add(5 * n);
        world.sticky.cells[core].moved[4].add(6 * n);
    }
    // A connection counted by one core and let go by another leaves the gauge at what is open.
    world.cells[0].connections_open.add(2);
    world.cells[1].connections_open.dec();
    let families = parse(&world.exporter.render());
    assert_eq!(value(&families, "evenkeel_connections_accepted_total", &[]), 321.0);
    assert_eq!(value(&families, "evenkeel_connections_open", &[]), 1.0);
    assert_eq!(value(&families, "evenkeel_errors_total", &["no_route"]), 642.0);
    assert_eq!(value(&families, "evenkeel_errors_total", &["reset"]), 0.0);
    assert_eq!(value(&families, "evenkeel_requests_total", &["shop.example.com/", "2xx"]), 963.0);
    assert_eq!(value(&families, "evenkeel_server_picks_total", &["shop", "a"]), 1284.0);
    assert_eq!(value(&families, "evenkeel_server_answers_total", &["shop", NASTY, "5xx"]), 1605.0);
    assert_eq!(value(&families, "evenkeel_sessions_moved_total", &["shop", "ejected"]), 1926.0);
}

#[test]
fn hot_keys_are_there_while_they_are_hot() {
    let world = world();
    let labels = ["shop", "192.0.2.7", "a"];
    let families = parse(&world.exporter.render());
    assert_eq!(value(&families, "evenkeel_upstream_hot_key_ratio", &labels), 0.25);
    assert_eq!(value(&families, "evenkeel_upstream_hot_key_spread", &labels), 1.0);
    world.swap.set_forgotten_share(0.75);
    let snapshot = world.swap.current.load();
    snapshot.upstreams[0].hot.as_ref().unwrap().counts.show(Vec::new());
    let families = parse(&world.exporter.render());
    assert!(!families.contains_key("evenkeel_upstream_hot_key_ratio"), "gone");
    assert_eq!(value(&families, "evenkeel_forgotten_proxy_ratio", &[]), 0.75);
}

#[test]
fn cores_of_an_experiment_are_put_together() {
    let families = parse(&world().exporter.render());
    assert_eq!(value(&families, "evenkeel_litmus_users", &["shop", "shuffled"]), 33.0);
    assert_eq!(value(&families, "evenkeel_litmus_requests_total", &["shop", "shuffled"]), 0.0);
    assert_eq!(value(&families, "evenkeel_litmus_symptoms_total", &["shop", "control", "reissued"]), 3.0);
}

#[test]
fn every_cell_lands_in_a_row_of_its_own() {
    let world = world();
    let (core, route, sticky, server) =
        (&world.cells[0], &world.route.cells[1], &world.sticky.cells[2], &world.a.cells[0].counts);
    let cells: Vec<(&Counter, &str, &[&str])> = vec![
        (&core.connections_accepted, "connections_accepted_total", &[]),
        (&core.connections_open, "connections_open", &[]),
        (&core.connections_parked, "connections_parked", &[]),
        (&core.accept_errors, "accept_errors_total", &[]),
        (&core.bad_requests, "connections_closed_total", &["bad_request"]),
        (&core.idle_closed, "connections_closed_total", &["idle"]),
        (&core.http2_floods, "connections_closed_total", &["flood"]),
        (&core.http2_connections, "http2_connections_total", &[]),
        (&core.panics, "panics_total", &[]),
        (&core.no_route, "requests_without_route_total", &[]),
        (&core.forwarded_discarded, "forwarded_headers_ignored_total", &["untrusted"]),
        (&core.forwarded_invalid, "forwarded_headers_ignored_total", &["invalid"]),
        (&core.underscores_dropped, "underscore_headers_dropped_total", &[]),
        (&core.log_lines_lost, "access_log_lines_lost_total", &[]),
        (&route.bytes_in, "request_body_bytes_total", &["shop.example.com/"]),
        (&route.bytes_out, "response_body_bytes_total", &["shop.example.com/"]),
        (&sticky.kept, "sticky_requests_kept_total", &["shop"]),
        (&sticky.new, "sticky_sessions_begun_total", &["shop"]),
        (&sticky.moved[0], "sessions_moved_total", &["shop", "drain"]),
        (&sticky.moved[6], "sessions_moved_total", &["shop", "gone"]),
        (&sticky.lost[5], "sessions_lost_total", &["shop", "failed"]),
        (&sticky.invalid, "sticky_cookies_refused_total", &["shop", "invalid"]),
        (&sticky.expired, "sticky_cookies_refused_total", &["shop", "expired"]),
        (&server.picks, "server_picks_total", &["shop", "a"]),
        (&server.retries, "server_retries_total", &["shop", "a"]),
        (&server.connects, "server_connects_total", &["shop", "a"]),
        (&server.connect_failures, "server_connect_failures_total", &["shop", "a"]),
        (&server.reused, "server_reused_total", &["shop", "a"]),
        (&server.failures, "server_failures_total", &["shop", "a"]),
        (&server.idle, "server_idle_connections", &["shop", "a"]),
        (&server.tunnels, "server_tunnels", &["shop", "a"]),
        (&server.websockets_closed, "server_websockets_closed_total", &["shop", "a"]),
    ];
    for (i, (cell, ..)) in cells.iter().enumerate() {
        cell.add(1000 + i as u64);
    }
    let families = parse(&world.exporter.render());
    for (i, (_, name, labels)) in cells.iter().enumerate() {
        assert_eq!(value(&families, &format!("evenkeel_{name}"), labels), (1000 + i) as f64, "{name}");
    }
}

#[test]
fn state_claims_and_generation_are_told() {
    let world = world();
    let claims =
        [Claim::take(Arc::clone(&world.a), 0, false, false), Claim::take(Arc::clone(&world.a), 2, false, false)];
    assert!(claims.iter().all(Option::is_some));
    world.a.set_state(State { operational: Operational::Healthy, admin: Admin::Draining });
    world.sticky.ledger.touch(1, world.a.uid, now());
    let families = parse(&world.exporter.render());
    let told = |name: &str, labels: &[&str]| value(&families, name, labels);
    assert_eq!(told("evenkeel_server_in_flight", &["shop", "a"]), 2.0);
    assert_eq!(told("evenkeel_server_weight", &["shop", "a"]), 7.0);
    for (state, is) in [("starting", 0.0), ("healthy", 1.0), ("unhealthy", 0.0), ("ejected", 0.0)] {
        assert_eq!(told("evenkeel_server_state", &["shop", "a", state]), is, "{state}");
    }
    for (state, is) in [("ready", 0.0), ("draining", 1.0), ("drained", 0.0), ("disabled", 0.0)] {
        assert_eq!(told("evenkeel_server_admin_state", &["shop", "a", state]), is, "{state}");
    }
    assert_eq!(told("evenkeel_server_state", &["shop", NASTY, "unhealthy"]), 1.0);
    assert_eq!(told("evenkeel_upstream_failing_open", &["shop"]), 0.0);
    assert_eq!(told("evenkeel_upstream_failing_open", &["down"]), 1.0);
    assert_eq!(told("evenkeel_upstream_info", &["shop", "sticky_cookie"]), 1.0);
    assert_eq!(told("evenkeel_route_info", &["http", "shop.example.com/", "shop"]), 1.0);
    assert_eq!(told("evenkeel_route_info", &["other", "shop.example.com/", "shop"]), 1.0);
    assert_eq!(told("evenkeel_generation", &[]), 1.0);
    assert_eq!(told("evenkeel_cores", &[]), CORES as f64);
    let live = world.sticky.ledger.count(now() - 10);
    let live = live.iter().find(|(uid, _)| *uid == world.a.uid).map_or(0, |(_, n)| *n);
    assert_eq!(told("evenkeel_server_sessions", &["shop", "a"]), live as f64);

    // What is gone is no longer told.
    world.swap.publish(Snapshot::default());
    let families = parse(&world.exporter.render());
    assert_eq!(value(&families, "evenkeel_generation", &[]), 2.0);
    assert!(!families.contains_key("evenkeel_server_in_flight"));
}

#[test]
fn histograms_are_cumulative_and_exact_at_their_bounds() {
    let world = world();
    // Below the first bound, either side of a bound, and beyond the last one, on different cores.
    for (core, micros) in [(0, 1), (1, 1023), (2, 1024), (0, (1 << 27) - 1), (1, 1 << 27), (2, 1 << 40)] {
        world.route.cells[core].duration.record(Duration::from_micros(micros));
    }
    let families = parse(&world.exporter.render());
    let family = &families["evenkeel_request_duration_seconds"];
    let label = |sample: &Sample| sample.labels.iter().find(|(k, _)| k == "le").map(|(_, v)| v.clone());
    let buckets: Vec<(String, f64)> = family.samples.iter().filter_map(|(_, s)| Some((label(s)?, s.value))).collect();
    let bounds: Vec<f64> = buckets.iter().map(|(le, _)| le.parse().expect(le)).collect();
    assert!(bounds.is_sorted() && buckets.iter().map(|(_, n)| n).is_sorted(), "{buckets:?}");
    assert_eq!(bounds.len(), 21);
    assert_eq!((bounds[0], bounds[19], bounds[20]), (0.000_256, 134.217_728, f64::INFINITY));
    let at = |le: &str| buckets.iter().find(|(bound, _)| bound == le).map(|(_, n)| *n);
    assert_eq!(at("0.000256"), Some(1.0));
    assert_eq!(at("0.001024"), Some(2.0));
    assert_eq!(at("0.002048"), Some(3.0));
    assert_eq!(at("134.217728"), Some(4.0));
    assert_eq!(at("+Inf"), Some(6.0));
    let one = |suffix: &str| family.samples.iter().find(|(s, _)| s == suffix).map(|(_, s)| s.value);
    assert_eq!(one("_count"), Some(6.0));
    let sum = (1.0 + 1023.0 + 1024.0 + 2.0 * (1u64 << 27) as f64 - 1.0 + (1u64 << 40) as f64) / 1e6;
    assert!((one("_sum").unwrap_or(0.0) - sum).abs() < 1e-6);
}

#[test]
#[cfg(target_os = "linux")]
fn the_process_is_told_truthfully() {
    let families = parse(&world().exporter.render());
    let told = |name: &str| value(&families, name, &[]);
    assert_eq!(value(&families, "evenkeel_build_info", &[env!("CARGO_PKG_VERSION")]), 1.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let age = now - told("evenkeel_process_start_time_seconds");
    assert!((-2.0..3600.0).contains(&age), "{age}");
    let rss = told("evenkeel_process_resident_memory_bytes");
    assert!((1e6..1e10).contains(&rss), "{rss}");
    assert!(told("evenkeel_process_open_fds") >= 3.0);
    assert!(told("evenkeel_process_max_fds") >= told("evenkeel_process_open_fds"));
    assert!(told("evenkeel_process_cpu_seconds_total") >= 0.0);
}
