//! The same arrivals in virtual time: no process, no socket, no waiting.
//!
//! Policies are the proxy's own ([`crate::balance`]); servers are queues with workers. What a proxy does beside
//! picking is not in it: no health checks, no retries, no ejection, no deadlines, no cost of its own. A server
//! that is killed is known to be down at once.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::arrivals::{Arrival, address};
use super::load::Outcome;
use super::run::{Happened, Measured};
use super::scenario::{Action, Candidate, Each, Event, Kept, Scenario};
use crate::balance::hot::{COUNTERS, Judge, Key, Look, Place, SpaceSaving, judge};
use crate::balance::peak_ewma::Average;
use crate::balance::{HashBy, Input, Member, Policy, Scratch, Table, View, key_of};

/// Cores of the proxy, each with its own cursor, as in a proxy on a machine of two.
const CORES: usize = 2;

/// A server: when each worker is free again, or how many requests it has where it has no limit.
#[derive(Debug)]
struct Server {
    is_up: bool,
    /// When its workers are free, the soonest first; empty where there is no limit.
    free: BinaryHeap<Reverse<Duration>>,
    in_flight: u32,
    average: Option<Average>,
    /// Which life it is in: what it remembers ends with each.
    life: u32,
    requests: u64,
    /// Requests that belonged to it and went elsewhere because of its bound.
    passed_on: Cell<u64>,
}

/// What a policy sees.
struct Now<'a> {
    servers: &'a [Server],
    at: Duration,
    decay: Option<Duration>,
}

impl View for Now<'_> {
    fn tried(&self, _: usize) -> bool {
        false
    }

    fn takes_new(&self, index: usize) -> bool {
        self.servers[index].is_up
    }

    fn takes_pinned(&self, index: usize) -> bool {
        self.servers[index].is_up
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.servers[index].in_flight
    }

    fn latency(&self, index: usize) -> Option<f32> {
        Some(self.servers[index].average?.latency_at(self.at.as_millis() as u32, self.decay?))
    }

    fn passes_on(&self, index: usize, _: usize) {
        let passed_on = &self.servers[index].passed_on;
        passed_on.set(passed_on.get() + 1);
    }
}

/// What a user carries.
#[derive(Debug, Default, Clone, Copy)]
struct User {
    visits: u32,
    /// The server that the cookie names.
    pin: Option<usize>,
    /// Where the session is, and in which life of that server.
    session: Option<(usize, u32)>,
    /// How many were here before in their place.
    before: u32,
}

/// What is known of hot keys.
struct Watch {
    sketch: SpaceSaving<Key>,
    judge: Judge,
    next: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Self { sketch: SpaceSaving::new(COUNTERS), judge: Judge::default(), next: judge::PACE }
    }
}

struct World<'a> {
    scenario: &'a Scenario,
    weights: &'a Each,
    policy: Policy,
    table: Table,
    servers: Vec<Server>,
    /// What ends when, soonest first.
    ends: BinaryHeap<Reverse<(Duration, usize, u32)>>,
    began: HashMap<u32, (usize, Duration)>,
    users: HashMap<(u16, u32), User>,
    scratch: Vec<Scratch>,
    watch: Option<Watch>,
}

/// Works out a scenario for one candidate.
///
/// # Errors
/// What of the scenario cannot be simulated, or is no policy.
pub fn simulate(scenario: &Scenario, candidate: &Candidate, arrivals: &[Arrival]) -> Result<Measured, String> {
    let policy: Policy = candidate.policy.clone().try_into().map_err(|error| format!("{}: {error}", candidate.name))?;
    if candidate.sessions.is_some_and(|kept| kept != Kept::Memory) || scenario.strategies.is_some() {
        return Err("what keeping sessions costs takes real servers, use `lab run` for it".to_owned());
    }
    if scenario.websocket.is_some() {
        return Err("connections that end take real ones, use `lab run` for them".to_owned());
    }
    if scenario.items.is_some() {
        return Err("a cache and the store behind it take real servers, use `lab run` for them".to_owned());
    }
    let can = |event: &Event| !matches!(event.action, Action::Remove(_) | Action::Deploy);
    if let Some(event) = scenario.events.iter().find(|event| !can(event)) {
        return Err(format!("\"{}\": drains take real time, use `lab run` for them", event.action));
    }
    let mut world = World::new(scenario, scenario.weights(candidate), policy);
    let mut outcomes = Vec::with_capacity(arrivals.len());
    let mut events = scenario.events.iter().peekable();
    let mut happened = Vec::new();
    for (number, arrival) in (0u32..).zip(arrivals) {
        while let Some(event) = events.next_if(|event| event.at <= arrival.at) {
            world.settle(event.at);
            world.act(event.action);
            let at = event.at.as_secs_f64();
            happened.push(Happened { at, took: 0.0, what: event.action.to_string(), problem: None });
        }
        world.settle(arrival.at);
        world.judge(arrival.at);
        outcomes.push(world.serve(number, arrival));
    }
    let logged: BTreeMap<u32, u64> = (1u32..).zip(&world.servers).map(|(number, s)| (number, s.requests)).collect();
    Ok(Measured { policy: candidate.name.clone(), outcomes, events: happened, logged, ..Measured::default() })
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, weights: &'a Each, policy: Policy) -> Self {
        let table = policy.table(&[], None);
        let scratch = (0..CORES).map(|core| Scratch::new(core, scenario.seed)).collect();
        let watch = policy.hot_keys().share().map(|_| Watch::default());
        let mut world = Self {
            scenario,
            weights,
            policy,
            table,
            servers: Vec::new(),
            ends: BinaryHeap::new(),
            began: HashMap::new(),
            users: HashMap::new(),
            scratch,
            watch,
        };
        world.act(Action::Add(scenario.servers.count));
        world
    }

    /// The next one, by its number.
    fn server(&self) -> Server {
        let number = self.servers.len() + 1;
        let workers = self.scenario.servers.workers.as_ref().map_or(0, |workers| workers.of(number));
        let free = (0..workers).map(|_| Reverse(Duration::ZERO)).collect();
        Server { is_up: true, free, in_flight: 0, average: None, life: 0, requests: 0, passed_on: Cell::new(0) }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Add(count) => {
                for _ in 0..count {
                    let server = self.server();
                    self.servers.push(server);
                }
            }
            Action::Kill(number) => {
                self.servers[number - 1].is_up = false;
                self.servers[number - 1].life += 1;
            }
            Action::Start(number) => self.servers[number - 1].is_up = true,
            Action::Remove(_) | Action::Deploy => {}
        }
        let member = |(number, server): (usize, &Server)| Member {
            key: key_of(&format!("s{number}")),
            weight: self.weights.of(number),
            takes_new: server.is_up,
        };
        let members: Vec<Member> = (1..).zip(&self.servers).map(member).collect();
        self.table = self.policy.table(&members, Some(&self.table));
    }

    /// Ends what has ended by then.
    fn settle(&mut self, now: Duration) {
        while let Some(Reverse((at, server, number))) = self.ends.peek().copied().filter(|end| end.0.0 <= now) {
            self.ends.pop();
            let server = &mut self.servers[server];
            server.in_flight -= 1;
            if let (Some(decay), Some((_, began))) = (self.policy.decay(), self.began.remove(&number)) {
                let average = Average::after(server.average, at - began, false, at.as_millis() as u32, decay);
                server.average = Some(average);
            }
        }
    }

    /// Looks for hot keys each second.
    fn judge(&mut self, now: Duration) {
        let Some(watch) = &mut self.watch else { return };
        let hot_keys = self.policy.hot_keys();
        let Some(share) = hot_keys.share() else { return };
        while watch.next <= now {
            let weights = self.weights;
            let place = |(at, server): (usize, &Server)| Place {
                server: at as u64,
                weight: weights.of(at + 1),
                takes_new: server.is_up,
                passed_on: server.passed_on.get(),
            };
            let places: Vec<Place> = self.servers.iter().enumerate().map(place).collect();
            watch.judge.look(Look {
                now: watch.next,
                came: watch.sketch.take(),
                places: &places,
                home: &|key| self.table.home(key, |index| self.servers[index].is_up),
                share,
                max_load: self.policy.max_load().filter(|_| hot_keys.cookie().is_some()),
            });
            watch.next += judge::PACE;
        }
    }

    fn serve(&mut self, number: u32, arrival: &Arrival) -> Outcome {
        let group = &self.scenario.groups[usize::from(arrival.group)];
        let client = IpAddr::V4(address(arrival.group, group, arrival.user));
        let user = self.users.entry((arrival.group, arrival.user)).or_default();
        user.visits += 1;
        if group.visits.is_some_and(|stay| user.visits > stay) {
            *user = User { visits: 1, before: user.before + 1, ..User::default() };
        }
        // Told apart by a cookie, or by the connection that everybody has.
        let who = u64::from(user.before) << 48 | u64::from(arrival.group) << 32 | u64::from(arrival.user);
        let is_sticky = self.policy.sticky().is_some();
        let pinned = user.pin.filter(|_| is_sticky);
        let key = self.policy.keyed().and_then(|by| key(by, self.scenario, arrival));
        let mut spread = None;
        if let (Some(watch), Some(key), None) = (&mut self.watch, self.table.hot_key(key, client), pinned) {
            watch.sketch.add(key);
            spread = watch.judge.spread().find(|spread| *spread == key).map(|key| key.of_user(who));
        }
        let input = Input { client, key, spread, pinned };
        let view = Now { servers: &self.servers, at: arrival.at, decay: self.policy.decay() };
        // A user keeps a connection, and a connection its core.
        let core = (arrival.user as usize).wrapping_mul(0x9E37_79B9) >> 7 & (CORES - 1);
        let picked = self.table.pick(&input, &mut self.scratch[core], &view);
        let mut outcome = Outcome {
            at: arrival.at.as_secs_f64(),
            latency: 0.0,
            group: arrival.group,
            user: arrival.user,
            server: None,
            status: Some(503),
            lost: false,
            ..Outcome::default()
        };
        let Some(pick) = picked else { return outcome };
        let life = self.servers[pick.index].life;
        if self.scenario.sessions {
            let here = Some((pick.index, life));
            outcome.lost = user.session.is_some() && user.session != here;
            // Whoever has lost a session logs in again with the next request.
            user.session = if outcome.lost { None } else { here };
        }
        user.pin = Some(pick.index);
        let took = self.work(pick.index, number, arrival.at);
        outcome.latency = took.as_secs_f64();
        outcome.server = Some(pick.index as u32 + 1);
        outcome.status = Some(if outcome.lost { 401 } else { 200 });
        outcome
    }

    /// Gives a server a request; how long it takes.
    fn work(&mut self, index: usize, number: u32, now: Duration) -> Duration {
        let work = self.scenario.servers.work;
        let server = &mut self.servers[index];
        let begins = match server.free.pop() {
            Some(Reverse(free)) => {
                let begins = free.max(now);
                server.free.push(Reverse(begins + work));
                begins
            }
            None => now,
        };
        server.requests += 1;
        server.in_flight += 1;
        self.ends.push(Reverse((begins + work, index, number)));
        if self.policy.decay().is_some() {
            self.began.insert(number, (index, now));
        }
        begins + work - now
    }
}

/// What a `hash` goes by: users say who they are, and ask for what they ask the real servers for. They have no cookie but
/// that of the proxy.
fn key(by: &HashBy, scenario: &Scenario, arrival: &Arrival) -> Option<u64> {
    let mut headers = HeaderMap::new();
    headers.insert("x-user", HeaderValue::try_from(arrival.name()).ok()?);
    let (path, query) = if scenario.sessions { ("/count", None) } else { ("/bytes", Some("n=512")) };
    by.key(path, query, &headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::arrivals::schedule;
    use crate::lab::scenario::Limits;

    fn run(text: &str) -> Measured {
        let scenario = Scenario::read(text, Limits::VIRTUAL).unwrap();
        simulate(&scenario, &scenario.policies[0], &schedule(&scenario)).unwrap()
    }

    fn text(policy: &str, servers: &str, events: &str) -> String {
        format!(
            "title = 't'\nduration = '20s'\nsessions = true\n[servers]\n{servers}\n[[group]]\nname = 'g'\nusers = 200\n\
             rate = 100\n[[policy]]\nname = 'p'\npolicy = '{policy}'\n{events}"
        )
    }

    /// One worker, 5 ms of work, 100 requests a second at random moments: a queue of the kind M/D/1 with half its
    /// capacity in use, whose mean wait is ρ/(2(1−ρ)) of the work, 2.5 ms (Pollaczek and Khinchine).
    #[test]
    fn queues_are_as_long_as_theory_says() {
        let servers = "count = 1\nworkers = 1\nwork = '5ms'";
        let measured = run(&text("round_robin", servers, "").replace("'20s'", "'600s'"));
        let mean = measured.outcomes.iter().map(|o| o.latency).sum::<f64>() / measured.outcomes.len() as f64;
        assert!((mean - 0.0075).abs() < 0.0003, "{mean}");
    }

    /// The same queue's distribution by Erlang, whose values are worked out by hand: with D the work and λ the rate,
    /// P(wait ≤ t) = (1−ρ) Σ (−λ(t−kD))ᵏ/k! · e^(λ(t−kD)), k from 0 to t/D. With ρ = ½: nobody waits in half of all cases;
    /// for t < D it is ½·e^(λt), so 75 % wait no longer than ln(1.5)/λ = 4.055 ms; and for 99 % it takes 16.68 ms.
    #[test]
    fn quantiles_of_waits_are_those_of_theory() {
        let servers = "count = 1\nworkers = 1\nwork = '5ms'";
        let measured = run(&text("round_robin", servers, "").replace("'20s'", "'600s'"));
        let mut all: Vec<f64> = measured.outcomes.iter().map(|o| o.latency * 1000.0).collect();
        all.sort_by(f64::total_cmp);
        let at = |q: f64| crate::lab::stats::quantile(&all, q).unwrap();
        let share = |ms: f64| all.iter().filter(|latency| **latency <= ms).count() as f64 / all.len() as f64;
        assert!((share(5.0 + 1e-6) - 0.5).abs() < 0.01, "{}", share(5.0));
        assert!((at(0.75) - 9.055).abs() < 0.15, "{}", at(0.75));
        assert!((at(0.99) - 21.68).abs() < 0.7, "{}", at(0.99));
    }

    /// Four fifths of the capacity in use: ρ/(2(1−ρ)) of the work is twice the work.
    #[test]
    fn busier_queues_are_as_long_as_theory_says() {
        let servers = "count = 1\nworkers = 1\nwork = '8ms'";
        let measured = run(&text("round_robin", servers, "").replace("'20s'", "'600s'"));
        let mean = measured.outcomes.iter().map(|o| o.latency).sum::<f64>() / measured.outcomes.len() as f64;
        assert!((mean - 0.024).abs() < 0.0012, "{mean}");
    }

    /// By weight a server of weight 3 gets three times as much, and with as many workers does it in the same time.
    #[test]
    fn heavy_servers_get_more_and_do_more() {
        let servers = "count = 2\nweight = [1, 3]\nworkers = [1, 3]\nwork = '15ms'";
        let counts = |policy: &str| {
            let measured = run(&text(policy, servers, "")
                .replace("rate = 100", "rate = 200")
                .replace("users = 200", "users = 5000"));
            let waited = measured.outcomes.iter().map(|o| o.latency).sum::<f64>() / measured.outcomes.len() as f64;
            assert!(waited < 0.1, "{policy}: {waited}");
            measured.logged[&2] as f64 / measured.logged.values().sum::<u64>() as f64
        };
        for policy in ["round_robin", "ip_hash", "sticky_cookie"] {
            assert!((counts(policy) - 0.75).abs() < 0.02, "{policy}: {}", counts(policy));
        }
    }

    #[test]
    fn sessions_are_lost_where_nobody_keeps_them() {
        let lost = |policy: &str, events: &str| {
            run(&text(policy, "count = 4", events)).outcomes.iter().filter(|o| o.lost).count()
        };
        assert_eq!((lost("sticky_cookie", ""), lost("ip_hash", "")), (0, 0));
        assert!(lost("round_robin", "") > 500);
        let kill = "[[event]]\nat = '10s'\ndo = { kill = 2 }\n";
        // A quarter of two hundred users, give or take.
        assert!((25..=80).contains(&lost("sticky_cookie", kill)), "{}", lost("sticky_cookie", kill));
    }

    /// An office with forty requests in flight, of which its server may have twenty: with the bound alone its users
    /// are sent about, and spread each stays somewhere and so keeps a session.
    #[test]
    fn users_of_a_spread_office_stay_where_they_are() {
        let lost = |hot_keys: &str| {
            let policy = format!("policy = {{ ip_hash = {{ max_load = 2, hot_keys = '{hot_keys}' }} }}");
            let text = text("p", "count = 4\nworkers = 30\nwork = '100ms'", "").replace("policy = 'p'", &policy);
            let measured = run(&text.replace("users = 200\nrate = 100", "users = 200\naddresses = 1\nrate = 400"));
            let later = || measured.outcomes.iter().filter(|o| o.at > 5.0);
            later().filter(|o| o.lost).count() as f64 / later().count() as f64
        };
        let (bounded, spread) = (lost("report"), lost("spread"));
        assert!(bounded > 0.2 && spread < 0.02, "{bounded} {spread}");
    }

    #[test]
    fn the_same_seed_gives_the_same_outcomes() {
        let text = text("least_requests", "count = 4\nworkers = 1\nwork = '20ms'", "");
        assert_eq!(run(&text).outcomes, run(&text).outcomes);
    }

    #[test]
    fn what_needs_a_drain_is_refused() {
        let scenario = text("round_robin", "count = 2", "[[event]]\nat = '1s'\ndo = 'deploy'\n");
        let scenario = Scenario::read(&scenario, Limits::VIRTUAL).unwrap();
        let refused = simulate(&scenario, &scenario.policies[0], &[]).unwrap_err();
        assert!(refused.contains("use `lab run`"), "{refused}");
    }
}
