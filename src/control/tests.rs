//! The control plane as a whole, against real sockets and a data plane of bare channels.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::api::{ServerChange, ServerStatus};
use super::testing::*;
use super::{CommandError, Outcome};
use crate::config::plan::{Address, DrainPlan, ServerPlan};
use crate::upstream::{Admin, Claim, Event, Operational, Order, Server, clock};

mod drain;
mod reload;

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn open() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn claim(server: &Arc<Server>, pinned: bool, failing_open: bool) -> Option<Claim<Arc<Server>>> {
    Claim::take(Arc::clone(server), 0, pinned, failing_open)
}

/// Whether (a new client, a pinned client) may come.
fn takes(f: &Fixture, name: &str) -> (bool, bool) {
    let server = f.server("shop", name).unwrap();
    let open = f.snapshot().upstreams[0].failing_open;
    (claim(&server, false, open).is_some(), claim(&server, true, open).is_some())
}

fn change(f: &Fixture, name: &str, change: ServerChange) -> Result<ServerStatus, CommandError> {
    wait(f.control.handle().change("shop", name, change))
}

fn set(f: &Fixture, name: &str, admin: &str) -> ServerStatus {
    change(f, name, ServerChange { admin: Some(admin.to_owned()), ..ServerChange::default() }).unwrap()
}

fn status(f: &Fixture, name: &str) -> ServerStatus {
    wait(f.control.handle().server("shop", name)).unwrap()
}

fn reload(f: &Fixture) -> Result<super::api::Reloaded, CommandError> {
    wait(f.control.handle().reload())
}

fn operational(f: &Fixture, name: &str) -> Operational {
    f.server("shop", name).unwrap().state().operational
}

fn cuts(orders: &[Order]) -> Vec<u32> {
    let cuts = orders.iter().filter_map(|o| if let Order::Cut { servers } = o { Some(servers.to_vec()) } else { None });
    cuts.flatten().collect()
}

#[test]
fn every_listener_is_handed_to_every_core_after_the_snapshot_that_knows_it() {
    let mut f = start(plan(vec![upstream("shop", vec![member("a", nobody())])]));
    assert!(f.control.ready());
    let addresses = f.control.addresses();
    assert_eq!(addresses.len(), 1);
    assert_eq!(addresses[0].0, "web");
    assert!(f.snapshot().listeners[0].is_some());
    for core in &mut f.orders {
        let orders: Vec<Order> = std::iter::from_fn(|| core.try_recv().ok()).collect();
        let listen =
            orders.iter().find_map(|o| if let Order::Listen { slot: 0, socket } = o { Some(socket) } else { None });
        assert_eq!(listen.unwrap().local_addr().unwrap(), addresses[0].1);
    }
}

#[test]
fn the_first_check_decides_at_once_and_only_then_it_is_ready() {
    let up = open();
    let mut shop = upstream("shop", vec![member("a", up.local_addr().unwrap()), member("b", nobody())]);
    // Thresholds and an interval that no later check could meet within this test.
    let mut check = crate::health::TcpCheck { interval: Duration::from_secs(3_600), ..Default::default() };
    check.healthy_threshold = 9;
    check.unhealthy_threshold = 9;
    shop.check = Some(crate::health::Check::Tcp(check));
    let f = start(plan(vec![shop]));
    assert!(f.control.ready());
    assert_eq!(operational(&f, "a"), Operational::Healthy);
    assert_eq!(operational(&f, "b"), Operational::Unhealthy);
    assert_eq!(takes(&f, "a"), (true, true));
    assert_eq!(takes(&f, "b"), (false, false));
    assert!(status(&f, "b").last_check_error.unwrap().ends_with("connection refused"));
}

#[test]
fn checks_take_a_server_down_and_bring_it_back() {
    let up = open();
    let address = up.local_addr().unwrap();
    let mut shop = upstream("shop", vec![member("a", address)]);
    shop.check = fast_check();
    let f = start(plan(vec![shop]));
    assert!(f.control.ready());
    drop(up);
    eventually("unhealthy", || operational(&f, "a") == Operational::Unhealthy);
    let _up = TcpListener::bind(address).unwrap();
    eventually("healthy", || operational(&f, "a") == Operational::Healthy);
}

#[test]
fn truth_table() {
    let ups = [open(), open()];
    let servers = ups.iter().zip(["a", "b"]).map(|(l, name)| member(name, l.local_addr().unwrap())).collect();
    let mut shop = upstream("shop", servers);
    shop.policy = sticky();
    shop.check = fast_check();
    shop.fail_open = true;
    let f = start(plan(vec![shop]));
    assert!(f.control.ready());
    let server = f.server("shop", "a").unwrap();
    let ledger = || Arc::clone(f.snapshot().upstreams[0].sticky.as_ref().unwrap());
    ledger().ledger.touch(7, server.uid, clock::seconds());

    assert_eq!(takes(&f, "a"), (true, true));
    let draining = set(&f, "a", "draining");
    assert_eq!((draining.admin.as_str(), draining.set_by.as_str()), ("draining", "operator"));
    assert_eq!(draining.drain.map(|d| d.sessions_left), Some(1));
    assert_eq!(takes(&f, "a"), (false, true));
    let disabled = set(&f, "a", "disabled");
    assert_eq!((disabled.admin.as_str(), disabled.drain), ("disabled", None));
    assert_eq!(takes(&f, "a"), (false, false));
    set(&f, "a", "ready");
    eventually("checked again", || takes(&f, "a") == (true, true));

    ledger().ledger.forget(7);
    set(&f, "a", "draining");
    eventually("drained", || status(&f, "a").admin == "drained");
    assert_eq!(takes(&f, "a"), (false, false));
    // What is drained is not revived by fail_open, when the last healthy server goes down.
    let [_a, b] = ups;
    drop(b);
    eventually("failing open", || f.snapshot().upstreams[0].failing_open);
    assert_eq!(takes(&f, "a"), (false, false));
    assert_eq!(takes(&f, "b"), (true, true));
}

#[test]
fn commands_that_make_no_sense_change_nothing() {
    let f = start(plan(vec![upstream("shop", vec![member("a", nobody())])]));
    let generation = f.snapshot().generation;
    let admin = |text: &str| ServerChange { admin: Some(text.to_owned()), weight: Some(5), ..ServerChange::default() };
    for (what, wrong) in [
        ("write `ready`", admin("off")),
        ("ask for `draining`", admin("drained")),
        ("1000", ServerChange { weight: Some(1_001), ..ServerChange::default() }),
        ("deadlines belong to a drain", ServerChange { in_flight: Some("1s".to_owned()), ..ServerChange::default() }),
        ("in_flight: `soon`", ServerChange { in_flight: Some("soon".to_owned()), ..admin("draining") }),
    ] {
        let refused = change(&f, "a", wrong).unwrap_err();
        assert!(matches!(refused, CommandError::BadRequest { .. }) && refused.to_string().contains(what), "{refused}");
    }
    assert!(matches!(change(&f, "z", admin("ready")), Err(CommandError::NotFound { .. })));
    assert!(matches!(wait(f.control.handle().server("zzz", "a")), Err(CommandError::NotFound { .. })));
    assert_eq!(f.snapshot().generation, generation);
    assert_eq!(status(&f, "a").weight, 1);
}

#[test]
fn failed_connections_count_as_failed_checks_and_wake_the_prober() {
    let up = open();
    let mut shop = upstream("shop", vec![member("a", up.local_addr().unwrap())]);
    let check = crate::health::TcpCheck { interval: Duration::from_secs(3_600), ..Default::default() };
    shop.check = Some(crate::health::Check::Tcp(check));
    let f = start(plan(vec![shop]));
    assert!(f.control.ready());
    drop(up);
    let server = f.server("shop", "a").unwrap().uid;
    // Two reports and the probe that they wake make three.
    for _ in 0..2 {
        f.events.try_send(Event::ConnectFailed { server }).unwrap();
    }
    eventually("unhealthy", || operational(&f, "a") == Operational::Unhealthy);
    f.events.try_send(Event::ConnectFailed { server: 4_000_000 }).unwrap();
    assert_eq!(status(&f, "a").operational, "unhealthy");
}

#[test]
fn a_server_without_a_check_goes_down_by_traffic_and_comes_back_by_itself() {
    let address = nobody();
    let f = start(plan(vec![upstream("shop", vec![member("a", address)])]));
    let server = f.server("shop", "a").unwrap();
    let fail = |times| (0..times).for_each(|_| f.events.try_send(Event::ConnectFailed { server: server.uid }).unwrap());
    assert_eq!(operational(&f, "a"), Operational::Healthy);
    // A connection that was opened in between ends the row.
    fail(2);
    eventually("reported", || status(&f, "a").last_check_error.is_some());
    server.cells[0].counts.connects.inc();
    fail(2);
    assert_eq!(wait(f.control.handle().status()).unwrap().upstreams[0].servers[0].operational, "healthy");
    fail(2);
    eventually("unhealthy", || operational(&f, "a") == Operational::Unhealthy);
    let _up = TcpListener::bind(address).unwrap();
    eventually("healthy", || operational(&f, "a") == Operational::Healthy);
}

#[test]
fn a_host_name_is_resolved_before_its_server_is_judged() {
    let up = open();
    let port = up.local_addr().unwrap().port();
    let address = Address::Host { host: "localhost".to_owned(), port };
    let mut shop = upstream(
        "shop",
        vec![ServerPlan { name: "a".to_owned(), address, weight: 1, max_requests: u64::MAX, backup: false }],
    );
    shop.check = fast_check();
    let f = start(plan(vec![shop]));
    assert!(f.control.ready());
    assert_eq!(operational(&f, "a"), Operational::Healthy);
    assert!(f.server("shop", "a").unwrap().resolved.load().contains(&up.local_addr().unwrap()));
}

#[test]
fn an_address_in_use_fails_the_start() {
    let taken = open();
    let mut plan = plan(vec![upstream("shop", vec![member("a", nobody())])]);
    plan.listeners[0].bind = taken.local_addr().unwrap();
    let refused = try_start(plan).err().unwrap();
    assert!(matches!(refused, CommandError::CannotBind { .. }));
    assert!(refused.to_string().contains(&taken.local_addr().unwrap().to_string()), "{refused}");
}

#[test]
fn a_bad_key_fails_the_start() {
    let mut shop = upstream("shop", vec![member("a", nobody())]);
    shop.policy = sticky();
    shop.cookie_keys = vec!["short".to_owned()];
    assert!(matches!(try_start(plan(vec![shop])), Err(CommandError::InvalidConfig { .. })));
}

#[test]
fn keys_that_were_made_last_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut shop = upstream("shop", vec![member("a", nobody())]);
    shop.policy = sticky();
    let mut plan = plan(vec![shop]);
    plan.state_dir = Some(dir.path().to_owned());
    let pin = crate::balance::sticky_cookie::Pin { server: 1, session: 2, issued: 100, seen: 100 };
    let options = plan.upstreams[0].policy.sticky().unwrap().clone();
    let sealed = {
        let f = start(plan.clone());
        let sealed =
            f.snapshot().upstreams[0].sticky.as_ref().unwrap().keys.load().seal(&options, "shop", &pin, [3; 12]);
        f.control.stop_now();
        assert_eq!(f.control.wait(), Outcome::AtOnce { connections: 0 });
        sealed
    };
    let f = start(plan);
    let keys = f.snapshot().upstreams[0].sticky.as_ref().unwrap().keys.load_full();
    assert_eq!(keys.open(&options, "shop", sealed.as_bytes(), 101), Ok(pin));
}

#[test]
fn stopping_announces_drains_and_ends_when_connections_have() {
    let mut plan = plan(vec![upstream("shop", vec![member("a", nobody())])]);
    plan.shutdown.announce = Duration::from_millis(150);
    let mut f = start(plan);
    assert!(f.control.ready());
    f.cells[0].connections_open.inc();
    f.orders();
    let began = Instant::now();
    f.control.stop();
    f.control.stop();
    eventually("draining", || f.control.handle().phase() == super::Phase::Draining);
    assert!(matches!(reload(&f), Err(CommandError::Busy { .. })));
    // Nothing is told to the cores until the announcement is over.
    let mut orders = Vec::new();
    eventually("told to drain", || {
        orders.extend(f.orders());
        orders.iter().any(|o| matches!(o, Order::Drain { .. }))
    });
    assert!(began.elapsed() >= Duration::from_millis(150));
    let Fixture { control, cells, mut orders, .. } = f;
    let waiting = std::thread::spawn(move || control.wait());
    std::thread::sleep(Duration::from_millis(60));
    assert!(!waiting.is_finished());
    cells[0].connections_open.dec();
    assert_eq!(waiting.join().unwrap(), Outcome::Drained);
    // The cores are let go.
    assert!(orders[1].is_closed() || orders[1].blocking_recv().is_some());
    while orders[1].blocking_recv().is_some() {}
}

#[test]
fn stopping_has_a_deadline() {
    let mut plan = plan(vec![upstream("shop", vec![member("a", nobody())])]);
    plan.shutdown.deadline = Duration::from_millis(50);
    let f = start(plan);
    f.cells[1].connections_open.inc();
    f.control.stop();
    assert_eq!(f.control.wait(), Outcome::Deadline { connections: 1 });
}

#[test]
fn failing_open_is_told_and_ends() {
    let up = open();
    let address = up.local_addr().unwrap();
    let mut shop = upstream("shop", vec![member("a", address)]);
    shop.check = fast_check();
    shop.fail_open = true;
    let f = start(plan(vec![shop]));
    assert!(f.control.ready());
    assert!(!f.snapshot().upstreams[0].failing_open);
    drop(up);
    eventually("failing open", || f.snapshot().upstreams[0].failing_open);
    assert_eq!(takes(&f, "a"), (true, true));
    assert!(wait(f.control.handle().status()).unwrap().upstreams[0].failing_open);
    // A server that is out by order is not revived.
    set(&f, "a", "draining");
    assert_eq!(takes(&f, "a"), (false, false));
    // Nor does it fail open where nobody is left who could get the traffic.
    assert!(!f.snapshot().upstreams[0].failing_open);
    set(&f, "a", "ready");
    let _up = TcpListener::bind(address).unwrap();
    eventually("healthy again", || !f.snapshot().upstreams[0].failing_open);
    assert_eq!(f.server("shop", "a").unwrap().state().admin, Admin::Ready);
}

#[test]
fn addresses_known_are_kept_when_a_name_no_longer_resolves() {
    use super::supervisor::{Message, Report};
    let address = Address::Host { host: "localhost".to_owned(), port: 1 };
    let f = start(plan(vec![upstream(
        "shop",
        vec![ServerPlan { name: "a".to_owned(), address, weight: 1, max_requests: u64::MAX, backup: false }],
    )]));
    assert!(f.control.ready());
    let server = f.server("shop", "a").unwrap();
    let known = server.resolved.load_full();
    assert!(!known.is_empty());
    let report = |result: Result<_, String>| {
        let report = Message::Report(Report::Resolved { uid: server.uid, result });
        wait(f.control.handle().inbox.send(report)).unwrap();
        // Answered after the report, so the report was taken.
        status(&f, "a")
    };
    assert_eq!(report(Err("no name server answers".to_owned())).operational, "healthy");
    assert!(Arc::ptr_eq(&known, &server.resolved.load_full()));
    let generation = f.snapshot().generation;
    report(Ok(vec!["192.0.2.1:1".parse().unwrap(), "192.0.2.2:1".parse().unwrap()]));
    eventually("published", || f.snapshot().generation > generation);
    // Another order is no change.
    let generation = f.snapshot().generation;
    report(Ok(vec!["192.0.2.2:1".parse().unwrap(), "192.0.2.1:1".parse().unwrap()]));
    assert_eq!(server.resolved.load()[0], "192.0.2.1:1".parse().unwrap());
    report(Err(String::new()));
    assert_eq!(f.snapshot().generation, generation);
}

#[test]
fn a_name_that_never_resolved_is_no_healthy_server() {
    let address = Address::Host { host: "nobody.invalid".to_owned(), port: 1 };
    let f = start(plan(vec![upstream(
        "shop",
        vec![ServerPlan { name: "a".to_owned(), address, weight: 1, max_requests: u64::MAX, backup: false }],
    )]));
    assert!(f.control.ready());
    assert_eq!(operational(&f, "a"), Operational::Unhealthy);
    assert!(status(&f, "a").last_check_error.is_some());
}

#[test]
fn signals_are_commands() {
    use rustix::process::{Signal, getpid, kill_process};
    let raise = |signal| kill_process(getpid(), signal).unwrap();
    let (told, reopened) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let mut new = plan(vec![upstream("shop", vec![member("a", nobody())])]);
    let f = start_with_signals(new.clone(), Arc::new(move || told.lock().unwrap().send(()).unwrap()));
    assert!(f.control.ready());
    f.cells[0].connections_open.inc();

    new.upstreams[0].servers.push(member("b", nobody()));
    f.set_file(Ok(new));
    raise(Signal::HUP);
    eventually("reloaded", || f.server("shop", "b").is_some());
    raise(Signal::USR1);
    reopened.recv_timeout(Duration::from_secs(10)).unwrap();
    // Its default action would end the process.
    raise(Signal::USR2);
    raise(Signal::TERM);
    eventually("draining", || f.control.handle().phase() == super::Phase::Draining);
    raise(Signal::INT);
    assert_eq!(f.control.wait(), Outcome::AtOnce { connections: 1 });
}
