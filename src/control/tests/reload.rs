//! What a reload keeps, changes and refuses.

use super::*;

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
