//! The control plane as a whole, against real sockets and a data plane of bare channels.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::api::{ServerChange, ServerStatus};
use super::testing::*;
use super::{CommandError, Outcome};
use crate::config::plan::{Address, DrainPlan, ServerPlan};
use crate::upstream::{Admin, Claim, Event, Operational, Order, Server, clock};

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
fn a_drain_waits_for_requests_and_tells_when_it_is_over() {
    let mut f = start(plan(vec![upstream("shop", vec![member("a", nobody())])]));
    let server = f.server("shop", "a").unwrap();
    let held = claim(&server, false, false).unwrap();
    assert_eq!(set(&f, "a", "draining").admin, "draining");
    assert!(claim(&server, false, false).is_none());
    let handle = f.control.handle();
    let limit = Duration::from_millis(50);
    let still = wait(handle.wait_drained("shop", "a", limit)).unwrap();
    assert_eq!((still.admin.as_str(), still.in_flight), ("draining", 1));
    let waiting = std::thread::spawn(move || wait(handle.wait_drained("shop", "a", Duration::from_secs(20))));
    let began = Instant::now();
    drop(held);
    let done = waiting.join().unwrap().unwrap();
    assert_eq!((done.admin.as_str(), done.in_flight, done.drain), ("drained", 0, None));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(cuts(&f.orders()).is_empty());
}

#[test]
fn a_drain_cuts_at_its_deadline() {
    let mut f = start(plan(vec![upstream("shop", vec![member("a", nobody())])]));
    let server = f.server("shop", "a").unwrap();
    let _held = claim(&server, false, false).unwrap();
    let quick = ServerChange {
        admin: Some("draining".to_owned()),
        in_flight: Some("100ms".to_owned()),
        ..ServerChange::default()
    };
    let began = Instant::now();
    change(&f, "a", quick).unwrap();
    eventually("drained", || status(&f, "a").admin == "drained");
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert_eq!(cuts(&f.orders()), [server.uid]);
}

#[test]
fn web_sockets_are_closed_before_the_deadline_unless_the_server_is_ready_again() {
    let mut f = start(plan(vec![upstream("shop", vec![member("a", nobody())])]));
    let server = f.server("shop", "a").unwrap();
    let _held = claim(&server, false, false).unwrap();
    f.orders();
    let in_flight = |time: &str| ServerChange {
        admin: Some("draining".to_owned()),
        in_flight: Some(time.to_owned()),
        ..ServerChange::default()
    };
    change(&f, "a", in_flight("1h")).unwrap();
    assert!(!f.orders().iter().any(|o| matches!(o, Order::Close { .. })), "it is not their turn yet");
    change(&f, "a", in_flight("10s")).unwrap();
    let orders = f.orders();
    let closes = orders.iter().filter_map(|o| match o {
        Order::Close { servers, over, within } => Some((servers[0], *over, *within)),
        _ => None,
    });
    let closes: Vec<_> = closes.collect();
    assert!(!closes.is_empty());
    for (uid, over, within) in closes {
        assert_eq!(uid, server.uid);
        assert!(over < within && within <= Duration::from_secs(10), "{over:?} {within:?}");
    }
    set(&f, "a", "ready");
    assert!(f.orders().iter().any(|o| matches!(o, Order::Stay { servers } if servers[..] == [server.uid])));
}

#[test]
fn a_sticky_drain_moves_sessions_at_the_session_deadline() {
    let mut shop = upstream("shop", vec![member("a", nobody()), member("b", nobody())]);
    shop.policy = sticky();
    shop.drain = DrainPlan { sessions_max: Duration::from_millis(300), ..shop.drain };
    let f = start(plan(vec![shop]));
    let server = f.server("shop", "a").unwrap();
    f.snapshot().upstreams[0].sticky.as_ref().unwrap().ledger.touch(1, server.uid, clock::seconds());
    assert_eq!(set(&f, "a", "draining").sessions, Some(1));
    assert_eq!(takes(&f, "a"), (false, true));
    let _held = claim(&server, true, false).unwrap();
    eventually("no more sessions", || takes(&f, "a") == (false, false));
    let drained = status(&f, "a");
    assert_eq!(drained.admin, "drained");
    assert_eq!(drained.drain.map(|d| d.in_flight), Some(1));
    // Asking again changes nothing; ready undoes it.
    assert_eq!(set(&f, "a", "draining").admin, "drained");
    set(&f, "a", "ready");
    assert_eq!(takes(&f, "a"), (true, true));
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
fn a_reload_keeps_what_is_known_of_servers_that_stay() {
    let up = open();
    let address = up.local_addr().unwrap();
    let mut shop = upstream("shop", vec![member("a", address), member("b", address), member("gone", address)]);
    shop.check = fast_check();
    shop.policy = sticky();
    let mut new = plan(vec![shop]);
    let mut f = start(new.clone());
    assert!(f.control.ready());
    let before = ["a", "b", "gone"].map(|name| f.server("shop", name).unwrap());
    let sticky_before = f.snapshot().upstreams[0].sticky.clone().unwrap();
    let cells_before = Arc::clone(&f.snapshot().listeners[0].as_ref().unwrap().routes.all[0].cells);
    set(&f, "a", "disabled");
    change(&f, "b", ServerChange { weight: Some(7), ..ServerChange::default() }).unwrap();
    let held = claim(&before[2], false, false).unwrap();

    let servers = &mut new.upstreams[0].servers;
    servers.pop();
    servers[1].weight = 3;
    servers.push(member("new", address));
    new.upstreams[0].drain.in_flight = Duration::from_millis(100);
    f.set_file(Ok(new));
    let generation = f.snapshot().generation;
    let reloaded = reload(&f).unwrap();
    assert!(reloaded.changes.iter().any(|c| c.contains("gone removed")), "{:?}", reloaded.changes);
    assert!(reloaded.generation > generation && reloaded.generation <= f.snapshot().generation);

    assert!(Arc::ptr_eq(&before[0], &f.server("shop", "a").unwrap()));
    assert!(Arc::ptr_eq(&before[1], &f.server("shop", "b").unwrap()));
    assert!(f.server("shop", "gone").is_none());
    assert!(Arc::ptr_eq(&sticky_before, f.snapshot().upstreams[0].sticky.as_ref().unwrap()));
    assert!(Arc::ptr_eq(&cells_before, &f.snapshot().listeners[0].as_ref().unwrap().routes.all[0].cells));
    assert_eq!((status(&f, "a").admin.as_str(), status(&f, "a").set_by.as_str()), ("disabled", "operator"));
    assert_eq!((status(&f, "b").weight, status(&f, "b").configured_weight), (7, 3));
    assert_eq!(operational(&f, "b"), Operational::Healthy);
    eventually("the new one is checked", || operational(&f, "new") == Operational::Healthy);
    // Nothing was closed or opened, and what the removed one had in flight ends by its deadline.
    let mut orders = f.orders();
    assert!(!orders.iter().any(|o| matches!(o, Order::Unlisten { .. })));
    assert_eq!(orders.iter().filter(|o| matches!(o, Order::Listen { .. })).count(), 1);
    eventually("cut", || {
        orders.extend(f.orders());
        cuts(&orders) == [before[2].uid]
    });
    drop(held);
}

#[test]
fn another_address_is_another_server_of_which_nothing_is_known_but_what_operators_said() {
    let up = open();
    let mut shop = upstream("shop", vec![member("a", nobody()), member("b", nobody())]);
    shop.check = fast_check();
    let mut new = plan(vec![shop]);
    let f = start(new.clone());
    assert!(f.control.ready());
    set(&f, "b", "disabled");
    let before = ["a", "b"].map(|name| f.server("shop", name).unwrap().uid);
    for server in &mut new.upstreams[0].servers {
        server.address = Address::Socket(up.local_addr().unwrap());
    }
    f.set_file(Ok(new));
    reload(&f).unwrap();
    eventually("a is healthy", || operational(&f, "a") == Operational::Healthy);
    let now = ["a", "b"].map(|name| f.server("shop", name).unwrap().uid);
    assert!(now.iter().all(|uid| !before.contains(uid)));
    assert_eq!(status(&f, "b").admin, "disabled");
}

#[test]
fn a_refused_reload_changes_nothing() {
    let taken = open();
    let mut good = plan(vec![upstream("shop", vec![member("a", nobody())])]);
    good.upstreams[0].drain.in_flight = Duration::from_secs(9);
    let mut f = start(good.clone());
    let before = f.snapshot();
    f.orders();

    f.set_file(Err("error: nonsense".to_owned()));
    let invalid = reload(&f).unwrap_err();
    assert_eq!(invalid.refusal().report.as_deref(), Some("error: nonsense"));
    assert_eq!(invalid.refusal().error, "invalid_config");

    let mut restart = good.clone();
    restart.cores += 1;
    restart.upstreams[0].servers.push(member("b", nobody()));
    f.set_file(Ok(restart));
    let restart = reload(&f).unwrap_err().refusal();
    assert_eq!(restart.error, "needs_restart");
    assert!(restart.message.contains("cores"), "{}", restart.message);

    let mut occupied = good.clone();
    occupied.upstreams[0].servers.push(member("b", nobody()));
    occupied
        .listeners
        .push(crate::config::plan::ListenerPlan { bind: taken.local_addr().unwrap(), ..listener("second") });
    f.set_file(Ok(occupied));
    let occupied = reload(&f).unwrap_err().refusal();
    assert_eq!(occupied.error, "cannot_bind");
    assert!(occupied.message.contains(&taken.local_addr().unwrap().to_string()), "{}", occupied.message);

    assert!(Arc::ptr_eq(&before, &f.snapshot()));
    assert!(f.orders().is_empty());
    // And the same file again is no change at all.
    f.set_file(Ok(good));
    assert!(reload(&f).unwrap().changes.is_empty());
    assert!(Arc::ptr_eq(&before, &f.snapshot()));
}

#[test]
fn listeners_come_and_go_and_keep_their_slot() {
    let one = plan(vec![upstream("shop", vec![member("a", nobody())])]);
    let mut f = start(one.clone());
    let mut two = one.clone();
    two.listeners.push(listener("second"));
    two.routes[0].listeners.push(1);
    f.orders();
    for round in 0..2 {
        f.set_file(Ok(two.clone()));
        reload(&f).unwrap();
        assert_eq!(f.control.addresses().len(), 2);
        assert_eq!(f.snapshot().listeners.len(), 2);
        assert!(f.snapshot().listeners[1].as_ref().is_some_and(|l| l.plan.name == "second" && l.routes.all.len() == 1));
        let orders = f.orders();
        assert!(orders.iter().any(|o| matches!(o, Order::Listen { slot: 1, .. })), "round {round}: {orders:?}");
        f.set_file(Ok(one.clone()));
        reload(&f).unwrap();
        assert!(f.snapshot().listeners[1].is_none());
        assert!(f.orders().iter().any(|o| matches!(o, Order::Unlisten { slot: 1 })));
    }
}

#[test]
fn upstreams_keep_their_slot_and_uids_are_never_used_again() {
    let shop = || upstream("shop", vec![member("a", nobody())]);
    let f = start(plan(vec![shop(), upstream("blog", vec![member("a", nobody())])]));
    let slot = |name: &str| f.snapshot().upstreams.iter().find(|u| u.name() == name).map(|u| u.slot);
    let (shop_slot, blog_slot) = (slot("shop"), slot("blog"));
    let uid = f.server("shop", "a").unwrap().uid;
    f.set_file(Ok(plan(vec![upstream("blog", vec![member("a", nobody())])])));
    reload(&f).unwrap();
    assert_eq!((slot("shop"), slot("blog")), (None, blog_slot));
    f.set_file(Ok(plan(vec![upstream("wiki", vec![member("a", nobody())]), shop()])));
    reload(&f).unwrap();
    assert_eq!(slot("shop"), shop_slot);
    assert!(![shop_slot, blog_slot].contains(&slot("wiki")));
    assert!(f.server("shop", "a").unwrap().uid > uid);
}

#[test]
fn a_check_that_is_added_or_taken_away_by_a_reload_takes_effect() {
    let address = nobody();
    let unchecked = plan(vec![upstream("shop", vec![member("a", address)])]);
    let mut checked = unchecked.clone();
    checked.upstreams[0].check = fast_check();
    let f = start(unchecked.clone());
    assert_eq!(operational(&f, "a"), Operational::Healthy);
    f.set_file(Ok(checked));
    reload(&f).unwrap();
    eventually("unhealthy", || operational(&f, "a") == Operational::Unhealthy);
    f.set_file(Ok(unchecked));
    reload(&f).unwrap();
    // Without its check, it comes back by connecting.
    let _up = TcpListener::bind(address).unwrap();
    eventually("healthy", || operational(&f, "a") == Operational::Healthy);
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
