//! How a drain goes, and when it is over.

use super::*;

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
