use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::*;
use crate::config::plan::{Address, UpstreamPlan};
use crate::named::Named;
use crate::upstream::Change;
use crate::upstream::{Admin, Gate, Operational, State};

fn policy(name: &str) -> Policy {
    Policy::by_name(name).unwrap()
}

fn plan(live: &str, shadow: &[&str]) -> UpstreamPlan {
    let policies = shadow.iter().map(|name| policy(name)).collect();
    let shadow = Some(ShadowPlan { policies, cookie: None });
    UpstreamPlan { policy: policy(live), shadow, ..UpstreamPlan::example() }
}

fn servers(weights: &[u32], limit: u64) -> Vec<Arc<Server>> {
    let server = |(uid, weight): (u32, &u32)| {
        let address = Address::Socket("127.0.0.1:9001".parse().unwrap());
        let server = Server::new(uid, "app".into(), format!("s{uid}").into(), address, *weight, 2);
        server.set_state(State { operational: Operational::Healthy, admin: Admin::Ready });
        Arc::new(server.behind(Gate::new(limit, Arc::default())))
    };
    (1..).zip(weights).map(server).collect()
}

/// An upstream, what it keeps, and the scratch of one core.
struct World {
    kept: Kept,
    upstream: Upstream,
    scratch: Vec<Scratch>,
}

impl World {
    fn of(plan: UpstreamPlan, servers: Vec<Arc<Server>>) -> Self {
        let kept = Kept::new(&plan, 2, 7, None).unwrap();
        let upstream = Upstream::with(Change::default(), 0, Arc::new(plan), servers, None, Some(&kept), None);
        let scratch = (0..MOST_SHADOWS).map(|_| Scratch::new(0, 1)).collect();
        Self { kept, upstream, scratch }
    }

    fn rebuild(&mut self, plan: UpstreamPlan, servers: Vec<Arc<Server>>) {
        self.kept = Kept::new(&plan, 2, 8, Some(&self.kept)).unwrap();
        let before = Some(&self.upstream);
        let upstream = Upstream::with(Change::default(), 0, Arc::new(plan), servers, None, Some(&self.kept), before);
        self.upstream = upstream;
    }

    fn shadow(&self) -> &Shadow {
        self.upstream.shadow.as_ref().unwrap()
    }

    /// Asks about a request of a client whose address ends so.
    fn ask(&mut self, client: u32, core: usize) -> Cast {
        let client = IpAddr::V4(Ipv4Addr::from_bits(0x0A00_0000 + client));
        let shadow = self.upstream.shadow.as_ref().unwrap();
        let IpAddr::V4(address) = client else { unreachable!() };
        let of = Some(shadow.hash(&address.octets(), b"agent"));
        let asked = Asked { client, of, key: |_: &HashBy| None, now: 100 };
        shadow.ask(&self.upstream, core, &asked, &mut self.scratch)
    }

    fn come(&mut self, client: u32, core: usize) {
        let _ = self.ask(client, core);
    }

    fn moves(&self, number: usize) -> (u64, u64) {
        self.shadow().shades[number].tally.moves()
    }

    fn requests(&self, number: usize) -> Vec<u64> {
        self.shadow().shades[number].requests()
    }
}

/// What each policy really picks for the same requests is what its shadow counts.
#[test]
fn a_shadow_counts_what_its_policy_picks() {
    let mut world =
        World::of(plan("first", &["round_robin", "ip_hash", "sticky_cookie"]), servers(&[1, 1, 2], u64::MAX));
    // A second upstream under ip_hash itself says who belongs where.
    let hashed = Upstream::new(0, Arc::new(plan("ip_hash", &[])), world.upstream.servers.clone(), None, None);
    let mut expected = vec![0; 3];
    for request in 0..4_100u32 {
        let client = request % 41;
        let cast = world.ask(client, (request % 2) as usize);
        world.shadow().sent(&cast, (request % 2) as usize, 0);
        let client = IpAddr::V4(Ipv4Addr::from_bits(0x0A00_0000 + client));
        let asker = crate::upstream::Asker { client, key: None, spread: None, pin: None, to_new: false, litmus: None };
        expected[hashed.pick(&asker, &Tried::default(), &mut Scratch::new(0, 1)).unwrap().index] += 1;
    }
    assert_eq!(world.requests(0), [4_100, 0, 0], "live");
    assert_eq!(world.requests(1), [1_025, 1_025, 2_050], "in turn, by weight");
    assert_eq!(world.requests(2), expected);
    // Forty-one clients with a hundred requests each; of all but the first it is known where they were.
    assert_eq!((world.moves(0), world.moves(2), world.moves(3)), ((4_100, 0), (4_100, 0), (4_100, 0)));
    let (followed, moves) = world.moves(1);
    assert!(followed == 4_100 && moves > 2_000, "{followed} {moves}");
    assert_eq!(world.requests(3).iter().sum::<u64>(), 4_100);
    assert!(world.requests(3).iter().all(|requests| requests % 100 == 0), "by whole clients: {:?}", world.requests(3));
    assert_eq!(world.shadow().followed(100), (41, 1.0));
}

#[test]
fn a_server_that_goes_moves_its_own_clients_once() {
    let all = servers(&[1, 1, 1, 1], u64::MAX);
    let shadow = ["ip_hash", "sticky_cookie"];
    let mut world = World::of(plan("round_robin", &shadow), all.clone());
    let on = |world: &World, number: usize| world.requests(number)[3];
    (0..100).for_each(|client| world.come(client, 0));
    let (hashed, pinned) = (on(&world, 1), on(&world, 2));
    assert!(hashed > 10 && pinned > 10, "{hashed} {pinned}");
    world.rebuild(plan("round_robin", &shadow), all[..3].to_vec());
    (0..3).for_each(|_| (0..100).for_each(|client| world.come(client, 1)));
    assert_eq!((world.moves(1), world.moves(2)), ((400, hashed), (400, pinned)));
}

#[test]
fn what_is_in_flight_is_counted_where_a_policy_has_sent_it() {
    // The live policy sends everything to the first.
    let mut world = World::of(plan("first", &["least_requests"]), servers(&[1, 1, 1], u64::MAX));
    let casts: Vec<Cast> = (0..300).map(|client| world.ask(client, client as usize % 2)).collect();
    assert_eq!(world.requests(1), [100, 100, 100]);
    assert_eq!(world.shadow().shades[1].approximate(), ["load"]);
    for (client, cast) in casts.iter().enumerate() {
        world.shadow().ended(cast, client % 2);
    }
    let left = |world: &World| -> Vec<u64> {
        let servers = &world.shadow().shades[1].servers;
        servers.iter().map(|cells| cells.iter().map(|cell| cell.in_flight.get()).fold(0, u64::wrapping_add)).collect()
    };
    assert_eq!(left(&world), [0, 0, 0]);
    // What began before a reload ends in the shadow that was asked, and is off the counts of the new one.
    let cast = world.ask(1, 0);
    let servers = world.upstream.servers.clone();
    let old = std::mem::replace(&mut world, World::of(plan("first", &["least_requests"]), servers.clone()));
    world.kept = old.kept;
    world.rebuild(plan("first", &["least_requests"]), servers);
    assert_eq!(left(&world).iter().sum::<u64>(), 1);
    old.upstream.shadow.unwrap().ended(&cast, 0);
    assert_eq!(left(&world), [0, 0, 0]);
}

#[test]
fn one_that_fills_goes_on_once_a_server_would_be_full() {
    let mut world = World::of(plan("round_robin", &["first", "round_robin"]), servers(&[1, 1, 1], 2));
    let casts: Vec<Cast> = (0..7).map(|client| world.ask(client, 0)).collect();
    assert_eq!(world.requests(1), [2, 2, 2]);
    assert_eq!(world.shadow().shades[1].tally.unplaced(), 1);
    world.shadow().ended(&casts[2], 0);
    world.ask(9, 0);
    assert_eq!(world.requests(1), [2, 3, 2]);
    let labels: Vec<&str> = world.shadow().shades.iter().map(|shade| &*shade.label).collect();
    assert_eq!(labels, ["round_robin", "first", "round_robin"]);
    assert_eq!(world.shadow().shades[2].approximate(), ["load"], "who is full depends on it");
}

#[test]
fn a_policy_that_stays_keeps_its_counts() {
    let all = servers(&[1, 1], u64::MAX);
    let mut world = World::of(plan("round_robin", &["ip_hash", "first"]), all.clone());
    (0..10).for_each(|client| world.come(client, 0));
    world.rebuild(plan("round_robin", &["ip_hash", "first"]), all.clone());
    assert_eq!(world.shadow().followed(100).0, 10);
    // The policy of the upstream itself is counted by what it does, not by what it would have done.
    world.rebuild(plan("ip_hash", &["first", "ip_hash", "sticky_cookie"]), all.clone());
    let sums: Vec<u64> = (0..4).map(|number| world.requests(number).iter().sum()).collect();
    assert_eq!(sums, [0, 10, 10, 0]);
    assert_eq!(world.shadow().followed(100).0, 0, "where clients were is forgotten");
    (0..10).for_each(|client| world.come(client, 0));
    assert_eq!(world.moves(2), (20, 0));
}

#[test]
fn a_cast_of_another_table_does_no_harm() {
    let all = servers(&[1, 1], u64::MAX);
    let mut world = World::of(plan("round_robin", &["ip_hash", "first", "random_two", "peak_ewma"]), all.clone());
    let casts: Vec<Cast> = (0..500).map(|client| world.ask(client, 0)).collect();
    world.rebuild(plan("round_robin", &["ip_hash"]), all.clone());
    casts.iter().for_each(|cast| world.shadow().sent(cast, 0, 1));
    assert_eq!((world.requests(0), world.moves(0)), (vec![0, 500], (0, 0)));
}

#[test]
fn ids_of_servers_are_never_nobody() {
    let ids: HashSet<u16> = (0..70_000).map(id).collect();
    assert!(!ids.contains(&0) && ids.len() == 65_535);
}
