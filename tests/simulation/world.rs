//! Checks, ejection, drains and claims together: results and orders come at any moment, and cores hold Snapshots
//! that may be old.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use evenkeel::balance::Scratch;
use evenkeel::balance::sticky_cookie::Pin;
use evenkeel::config::plan::{DrainPlan, MoveSessions, UpstreamPlan};
use evenkeel::control::drain::{Action, Drain, Left};
use evenkeel::control::outlier::{self, Counts, Look, Outlier};
use evenkeel::health::streak::{Change, Streak};
use evenkeel::upstream::server::State;
use evenkeel::upstream::{Admin, Asker, Claim, Operational, Server, Tried, Upstream};

use crate::{all_run, for_every_seed};

const SEEDS: u64 = 2_000;
const STEPS: usize = 250;
/// The table of ip_hash is dear to build, and here it is built all the time: few worlds have it, for less long.
const HASHED: (u64, usize) = (100, 50);
pub(crate) const CORES: usize = 3;
const THRESHOLDS: (u32, u32) = (2, 3);

pub(crate) fn plan(servers: usize, policy: &str, fail_open: bool) -> Arc<UpstreamPlan> {
    let servers: String = (0..servers)
        .map(|i| format!("[[upstream.app.server]]\nname = \"s{i}\"\naddress = \"127.0.0.1:{}\"\n", 9000 + i))
        .collect();
    let text = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[upstream.app]\npolicy = {policy}\nfail_open = {fail_open}\n\
         cookie_keys = [\"a key for a simulation\"]\n\
         outliers = {{ consecutive_failures = 2, min_requests = 4, window = \"1s\", ejection = \"500ms\", max_ejection = \"2s\" }}\n\
         {servers}"
    );
    let loaded = evenkeel::config::parse(&text, "simulation").unwrap_or_else(|report| panic!("{report}"));
    Arc::new(loaded.plan.upstreams.into_iter().next().unwrap())
}

pub(crate) fn servers(plan: &UpstreamPlan) -> Vec<Arc<Server>> {
    let server = |(uid, s): (u32, &evenkeel::config::plan::ServerPlan)| {
        Arc::new(Server::new(uid, "app".into(), s.name.as_str().into(), s.address.clone(), s.weight, CORES))
    };
    (0..).zip(&plan.servers).map(server).collect()
}

fn limits(in_flight: u64, sessions_max: u64) -> DrainPlan {
    let millis = Duration::from_millis;
    DrainPlan {
        in_flight: millis(in_flight),
        sessions_idle: millis(1000),
        sessions_max: millis(sessions_max),
        close_spread: millis(in_flight / 3),
        move_sessions: MoveSessions::Never,
    }
}

/// What the control plane would know of one server.
struct Member {
    server: Arc<Server>,
    streak: Streak,
    drain: Option<Drain>,
    /// The latest moment at which its drain may still run, and whether it may be looked at late.
    ends_by: Duration,
    /// Claims held, by what the simulation counts itself.
    held: u32,
    /// Sessions that hold its drain.
    sessions: usize,
    outlier: Outlier,
    /// Tries that have ended, as the cores would count them.
    counts: Counts,
}

struct World {
    random: Scratch,
    now: Duration,
    plan: Arc<UpstreamPlan>,
    sticky: bool,
    members: Vec<Member>,
    newest: Arc<Upstream>,
    /// The Snapshot that each core holds.
    views: Vec<Arc<Upstream>>,
    scratch: Vec<Scratch>,
    claims: Vec<(usize, Claim<Arc<Server>>)>,
    claimed: usize,
    ended: usize,
    ejected: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Scratch::new(0, seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let policies = [
            "\"round_robin\"",
            "\"least_requests\"",
            "\"sticky_cookie\"",
            "\"ip_hash\"",
            "{ sticky_cookie = { new_clients = \"ip_hash\" } }",
        ];
        let hashed = policies.get(3 + (seed % HASHED.0) as usize);
        let policy = hashed.unwrap_or(&policies[random.below(3) as usize]);
        let plan = plan(1 + random.below(5) as usize, policy, random.below(2) == 0);
        let members: Vec<Member> = servers(&plan)
            .into_iter()
            .map(|server| Member {
                server,
                streak: Streak::new(THRESHOLDS.0, THRESHOLDS.1),
                drain: None,
                ends_by: Duration::ZERO,
                held: 0,
                sessions: 0,
                outlier: Outlier::default(),
                counts: Counts::default(),
            })
            .collect();
        let all = members.iter().map(|m| Arc::clone(&m.server)).collect();
        let newest = Arc::new(Upstream::new(0, Arc::clone(&plan), all, None, None));
        let views = vec![Arc::clone(&newest); CORES];
        let scratch = (0..CORES).map(|core| Scratch::new(core, seed)).collect();
        let sticky = plan.policy.sticky().is_some();
        let (claims, now) = (Vec::new(), Duration::ZERO);
        Self { random, now, plan, sticky, members, newest, views, scratch, claims, claimed: 0, ended: 0, ejected: 0 }
    }

    fn any(&mut self) -> usize {
        self.random.below(self.members.len() as u32) as usize
    }

    fn publish(&mut self) {
        let all = self.members.iter().map(|m| Arc::clone(&m.server)).collect();
        self.newest = Arc::new(Upstream::new(0, Arc::clone(&self.plan), all, None, Some(&self.newest)));
    }

    fn set(&mut self, i: usize, change: impl FnOnce(&mut State)) {
        let mut state = self.members[i].server.state();
        change(&mut state);
        self.members[i].server.set_state(state);
        self.publish();
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=3 => self.probe(),
            4..=10 => self.request(),
            11..=14 => self.finish(),
            15 => self.order(),
            16 => {
                let core = self.random.below(CORES as u32) as usize;
                self.views[core] = Arc::clone(&self.newest);
            }
            17 => {
                let i = self.any();
                let weight = self.random.below(4);
                self.members[i].server.set_weight(weight);
                self.publish();
            }
            _ => self.pass_time(),
        }
    }

    fn probe(&mut self) {
        let i = self.any();
        let success = self.random.below(3) > 0;
        let before = self.members[i].streak.up();
        match self.members[i].streak.record(success) {
            Some(Change::Up) => {
                self.members[i].server.forgive();
                self.members[i].outlier.settle();
                self.set(i, |s| s.operational = Operational::Healthy);
            }
            Some(Change::Down) => {
                self.members[i].outlier.end(self.now);
                self.set(i, |s| s.operational = Operational::Unhealthy);
            }
            // Unknown is not up: the first result always decides.
            None => assert!(before.is_some()),
        }
    }

    /// One request of one core, as `proxy::request` does it.
    fn request(&mut self) {
        let core = self.random.below(CORES as u32) as usize;
        let view = Arc::clone(&self.views[core]);
        let pinned = self.sticky && self.random.below(2) == 0;
        let pin = pinned.then(|| self.any()).map(|i| Pin {
            server: self.members[i].server.key,
            session: 1,
            issued: 0,
            seen: 0,
        });
        let client = IpAddr::V4(Ipv4Addr::from_bits(self.random.below(u32::MAX)));
        let asker = Asker { client, key: None, spread: None, pin: pin.as_ref(), to_new: false, litmus: None };
        let mut tried = Tried::default();
        for _ in 0..=view.servers.len() {
            let Some(pick) = view.pick(&asker, &tried, &mut self.scratch[core]) else { return };
            let server = Arc::clone(&view.servers[pick.index]);
            let state = server.state();
            assert!(!tried.has(pick.index), "another server first");
            match Claim::take(Arc::clone(&server), core, pick.pinned, view.failing_open) {
                None => tried.add(pick.index),
                Some(claim) => {
                    self.a_server_that_is_not_healthy_gets_no_new_client(&view, state, pick.pinned);
                    Self::a_drained_server_gets_nothing(state);
                    if pick.pinned {
                        assert_eq!(pin.map(|p| p.server), Some(server.key), "a pin names its server");
                    }
                    self.members[pick.index].held += 1;
                    self.claims.push((pick.index, claim));
                    self.claimed += 1;
                    return;
                }
            }
        }
    }

    fn finish(&mut self) {
        if !self.claims.is_empty() {
            let at = self.random.below(self.claims.len() as u32) as usize;
            let (i, claim) = self.claims.swap_remove(at);
            // Some servers are worse than others.
            let member = &mut self.members[i];
            member.counts.tries += 1;
            if self.random.below(6) < i as u32 {
                member.counts.faults += 1;
                member.server.failed();
            } else {
                member.server.succeeded();
            }
            member.held -= 1;
            drop(claim);
        }
    }

    /// An operator drains, disables, or takes that back.
    fn order(&mut self) {
        let i = self.any();
        let (in_flight, sessions) = (u64::from(self.random.below(2000)), u64::from(self.random.below(3000)));
        let limits = limits(in_flight, sessions);
        let drain = match self.random.below(4) {
            0 => {
                self.members[i].drain = None;
                if self.members[i].outlier.end(self.now) {
                    self.set(i, |s| s.operational = Operational::Healthy);
                }
                return self.set(i, |s| s.admin = Admin::Ready);
            }
            1 => {
                self.set(i, |s| s.admin = Admin::Disabled);
                Drain::of_requests(limits, self.now)
            }
            _ if self.members[i].server.state().admin != Admin::Ready => return,
            _ => {
                self.set(i, |s| s.admin = Admin::Draining);
                self.members[i].sessions = self.random.below(4) as usize;
                if self.sticky { Drain::of_sessions(limits, self.now) } else { Drain::of_requests(limits, self.now) }
            }
        };
        self.members[i].ends_by = drain.ends_by();
        self.members[i].drain = Some(drain);
    }

    fn pass_time(&mut self) {
        self.now += Duration::from_millis(u64::from(self.random.below(400)));
        for i in 0..self.members.len() {
            self.members[i].sessions = self.members[i].sessions.saturating_sub(self.random.below(2) as usize);
            self.step_drain(i);
        }
        self.eject();
    }

    /// As the supervisor does it: looks, and does what is said.
    fn eject(&mut self) {
        let mut servers: Vec<(Outlier, Look)> = Vec::new();
        for member in &mut self.members {
            let look = Look {
                counts: member.counts,
                in_a_row: member.server.faults_in_a_row(),
                healthy: member.streak.up() == Some(true),
                ready: member.server.state().admin == Admin::Ready,
            };
            servers.push((std::mem::take(&mut member.outlier), look));
        }
        let (now, plan) = (self.now, self.plan.outliers.clone());
        let random = &mut self.random;
        let changes = outlier::step(plan.as_ref(), now, || random.random(), &mut servers);
        let ready = servers.iter().filter(|(_, look)| look.ready).count();
        for (member, (outlier, _)) in self.members.iter_mut().zip(servers) {
            assert!(outlier.ejection().is_none_or(|e| now < e.until), "an ejection ends");
            member.outlier = outlier;
        }
        for (i, change) in changes {
            self.members[i].server.forgive();
            match change {
                outlier::Change::Ejected(_) => {
                    self.ejected += 1;
                    self.set(i, |s| s.operational = Operational::Ejected);
                    let ejected = |m: &&Member| {
                        m.server.state() == State { operational: Operational::Ejected, admin: Admin::Ready }
                    };
                    assert!(2 * self.members.iter().filter(ejected).count() <= ready, "at most half are ejected");
                    assert!(self.members.iter().any(|m| m.server.state().takes_new(false)), "somebody is left");
                }
                outlier::Change::Returned => self.set(i, |s| s.operational = Operational::Healthy),
            }
        }
    }

    /// As the supervisor does it: the state is written first, the count is read after.
    fn step_drain(&mut self, i: usize) {
        loop {
            let now = self.now;
            let (sessions, in_flight) = (self.members[i].sessions, self.members[i].server.in_flight());
            let Some(drain) = &mut self.members[i].drain else { return };
            // Every second server has WebSockets among what is in flight.
            let tunnels = in_flight > 0 && i.is_multiple_of(2);
            match drain.step(now, Left { sessions, in_flight, tunnels }) {
                Action::Wait { until } => {
                    assert!(until > now, "a drain that waits has something to wait for");
                    assert!(sessions > 0 || in_flight > 0, "a drain ends early when nothing is left");
                    return;
                }
                Action::Close => {
                    // The deadline of what is in flight runs from here: later than said when this
                    // look is late, by as much as it is late.
                    self.members[i].ends_by = self.members[i].drain.as_ref().unwrap().ends_by();
                    if self.members[i].server.state().admin == Admin::Draining {
                        self.set(i, |s| s.admin = Admin::Drained);
                    }
                }
                Action::CloseTunnels { over, within } => {
                    assert!(in_flight > 0 && over <= within, "WebSockets are closed before the deadline");
                    assert!(!drain.waits_for_sessions(), "and whoever loses one comes back elsewhere");
                }
                action => {
                    if action == Action::Cut {
                        assert!(now >= self.members[i].ends_by, "nothing is cut before its deadline");
                        for at in (0..self.claims.len()).rev().filter(|at| self.claims[*at].0 == i).collect::<Vec<_>>()
                        {
                            drop(self.claims.swap_remove(at));
                            self.members[i].held -= 1;
                        }
                    }
                    self.members[i].drain = None;
                    if self.members[i].server.state().admin == Admin::Draining {
                        self.set(i, |s| s.admin = Admin::Drained);
                    }
                    self.ended += 1;
                    assert_eq!(self.members[i].server.in_flight(), 0, "a drain that has ended leaves nothing");
                    return;
                }
            }
        }
    }

    fn look(&self) {
        self.a_claim_is_never_lost();
        self.drain_ends();
        for member in &self.members {
            let is_ejected = member.server.state().operational == Operational::Ejected;
            assert_eq!(is_ejected, member.outlier.ejection().is_some(), "the state says who is ejected");
        }
        for member in self.members.iter().filter(|m| m.drain.is_none()) {
            if matches!(member.server.state().admin, Admin::Drained | Admin::Disabled) {
                assert_eq!(member.server.in_flight(), 0, "a drained server gets nothing");
            }
        }
    }

    fn a_claim_is_never_lost(&self) {
        for member in &self.members {
            assert_eq!(member.server.in_flight(), member.held, "{}", member.server.name);
        }
    }

    fn drain_ends(&self) {
        // It is looked at whenever time passes: no step leaves one behind its end.
        for member in self.members.iter().filter(|m| m.drain.is_some()) {
            assert!(self.now <= member.ends_by, "{} drains beyond its end", member.server.name);
        }
    }

    fn a_server_that_is_not_healthy_gets_no_new_client(&self, view: &Upstream, state: State, pinned: bool) {
        if pinned {
            let drains = state.admin == Admin::Draining;
            let up = state.operational == Operational::Healthy;
            assert!(up || (view.failing_open && !drains), "{state:?}");
        } else {
            assert_eq!(state.admin, Admin::Ready, "only a ready server gets new clients");
            assert!(state.operational == Operational::Healthy || view.failing_open, "{state:?}");
        }
        assert!(!view.failing_open || self.plan.fail_open);
    }

    fn a_drained_server_gets_nothing(state: State) {
        assert!(!matches!(state.admin, Admin::Drained | Admin::Disabled), "{state:?}");
    }
}

#[test]
fn invariants_hold_in_every_simulated_world() {
    let done = for_every_seed(SEEDS, |seed| {
        let mut world = World::new(seed);
        for _ in 0..if seed % HASHED.0 < 2 { HASHED.1 } else { STEPS } {
            world.step();
            world.look();
        }
        // Whatever is left ends with time alone.
        world.now += Duration::from_secs(10);
        for _ in 0..2 {
            (0..world.members.len()).for_each(|i| world.step_drain(i));
            world.now += Duration::from_secs(10);
        }
        assert!(world.members.iter().all(|m| m.drain.is_none()), "drain ends");
        world.claims.clear();
        assert!(world.members.iter().all(|m| m.server.in_flight() == 0), "a claim is never lost");
        [world.claimed, world.ended, world.ejected]
    });
    let [claimed, ended, ejected] = [0, 1, 2].map(|i| done.iter().map(|done| done[i]).sum::<usize>());
    assert!(
        !all_run() || (claimed > 20_000 && ended > 2_000 && ejected > 200),
        "{claimed} claims, {ended} drains, {ejected} ejections"
    );
}
