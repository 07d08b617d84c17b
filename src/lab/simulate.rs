//! The same arrivals in virtual time: no process, no socket, no waiting.
//!
//! Policies are the proxy's own ([`crate::balance`]); servers are queues with workers. What a proxy does beside
//! picking is not in it: no health checks, no retries, no ejection, no deadlines, no cost of its own. A server
//! that is killed is known to be down at once. How many requests each server may have at once, and the queue of those who
//! wait for that, is in it: it decides who goes where.

mod room;
#[cfg(test)]
mod tests;
mod user;

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use self::room::{Room, Waiter};
use self::user::{Answer, Session, User, key};
use super::arrivals::{Arrival, address};
use super::load::Outcome;
use super::run::{Happened, Measured};
use super::scenario::{Action, Candidate, Each, Event, Kept, Scenario};
use crate::balance::hot::{COUNTERS, Judge, Key, Look, Place, SpaceSaving, judge};
use crate::balance::peak_ewma::Average;
use crate::balance::{Input, Member, Policy, Scratch, Table, View, key_of};

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
    /// The limit at which it passes a server over, where it does.
    full_at: u32,
}

impl View for Now<'_> {
    fn tried(&self, _: usize) -> bool {
        false
    }

    fn takes_new(&self, index: usize) -> bool {
        self.servers[index].is_up && self.servers[index].in_flight < self.full_at
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

/// A request that a server is to be found for.
#[derive(Debug, Clone, Copy)]
struct Request {
    number: u32,
    at: Duration,
    user: (u16, u32),
    /// Who came one after the other: what is meant for one is nothing to the next.
    generation: u32,
    session: Option<Session>,
    input: Input,
    core: usize,
}

/// A request that a server has.
#[derive(Debug)]
struct UnderWay {
    began: Duration,
    user: (u16, u32),
    generation: u32,
    answer: Answer,
}

/// Where a request goes.
enum Found {
    At(usize),
    /// Every server that it may go to is full, or the one that it insists on.
    Full(Option<usize>),
    Nobody,
}

struct World<'a> {
    scenario: &'a Scenario,
    weights: &'a Each,
    policy: Policy,
    table: Table,
    servers: Vec<Server>,
    /// What ends when, soonest first.
    ends: BinaryHeap<Reverse<(Duration, usize, u32)>>,
    /// By number, what is with a server.
    under_way: HashMap<u32, UnderWay>,
    users: HashMap<(u16, u32), User>,
    room: Room,
    outcomes: Vec<Outcome>,
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
    world.room = Room::of(scenario, candidate)?;
    world.outcomes.reserve(arrivals.len());
    let mut events = scenario.events.iter().peekable();
    let mut happened = Vec::new();
    for (number, arrival) in (0u32..).zip(arrivals) {
        while let Some(event) = events.next_if(|event| event.at <= arrival.at) {
            world.settle(event.at);
            world.act(event.action);
            world.call(event.at);
            let at = event.at.as_secs_f64();
            happened.push(Happened { at, took: 0.0, what: event.action.to_string(), problem: None });
        }
        world.settle(arrival.at);
        world.judge(arrival.at);
        world.serve(number, arrival);
    }
    world.settle(Duration::MAX);
    let outcomes = std::mem::take(&mut world.outcomes);
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
            under_way: HashMap::new(),
            users: HashMap::new(),
            room: Room::default(),
            outcomes: Vec::new(),
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

    /// Ends what has ended by then, and gives its place to those who wait.
    fn settle(&mut self, now: Duration) {
        while let Some(Reverse((at, server, number))) = self.ends.peek().copied().filter(|end| end.0.0 <= now) {
            self.ends.pop();
            self.expire(at);
            let server = &mut self.servers[server];
            server.in_flight -= 1;
            if let Some(UnderWay { began, user, generation, answer }) = self.under_way.remove(&number) {
                if let Some(decay) = self.policy.decay() {
                    let average = Average::after(server.average, at - began, false, at.as_millis() as u32, decay);
                    server.average = Some(average);
                }
                if let Some(user) = self.users.get_mut(&user).filter(|user| user.before == generation) {
                    user.gets(answer);
                }
            }
            self.call(at);
        }
        self.expire(now);
    }

    /// Lets go who has waited for too long.
    fn expire(&mut self, now: Duration) {
        while let Some(late) = self.room.late(now) {
            self.outcomes[late.request.number as usize].latency = self.room.patience.as_secs_f64();
        }
    }

    /// Gives what is free to those who wait, in the order in which they came.
    fn call(&mut self, now: Duration) {
        let mut at = 0;
        while let Some(waiter) = self.room.waiting.get(at).copied() {
            let has_room = |server: &Server| server.is_up && server.in_flight < self.room.limit;
            let looks = match waiter.wish {
                Some(wish) => !self.servers[wish].is_up || has_room(&self.servers[wish]),
                None => self.servers.iter().any(has_room) || self.servers.iter().all(|server| !server.is_up),
            };
            let found = if looks { self.find(&waiter.request, now) } else { Found::Full(waiter.wish) };
            if let Found::Full(wish) = found {
                self.room.waiting[at].wish = wish;
                at += 1;
                continue;
            }
            self.room.waiting.remove(at);
            match found {
                Found::At(index) => self.begin(&waiter.request, index, now),
                _ => {
                    let waited = now.saturating_sub(waiter.request.at);
                    self.outcomes[waiter.request.number as usize].latency = waited.as_secs_f64();
                }
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

    fn serve(&mut self, number: u32, arrival: &Arrival) {
        let group = &self.scenario.groups[usize::from(arrival.group)];
        let client = IpAddr::V4(address(arrival.group, group, arrival.user));
        let user = self.users.entry((arrival.group, arrival.user)).or_default();
        user.comes(group.visits);
        let (generation, session) = (user.before, user.session);
        // Told apart by a cookie, or by the connection that everybody has.
        let who = u64::from(generation) << 48 | u64::from(arrival.group) << 32 | u64::from(arrival.user);
        let pinned = self.policy.sticky().and_then(|sticky| user.pinned(sticky));
        let key = self.policy.keyed().and_then(|by| key(by, self.scenario, arrival, session));
        let mut spread = None;
        if let (Some(watch), Some(key), None) = (&mut self.watch, self.table.hot_key(key, client), pinned) {
            watch.sketch.add(key);
            spread = watch.judge.spread().find(|spread| *spread == key).map(|key| key.of_user(who));
        }
        // What becomes of a request that no server gets.
        self.outcomes.push(Outcome {
            at: arrival.at.as_secs_f64(),
            group: arrival.group,
            user: arrival.user,
            status: Some(503),
            ..Outcome::default()
        });
        let request = Request {
            number,
            at: arrival.at,
            user: (arrival.group, arrival.user),
            generation,
            session,
            input: Input { client, key, spread, pinned },
            // A user keeps a connection, and a connection its core.
            core: (arrival.user as usize).wrapping_mul(0x9E37_79B9) >> 7 & (CORES - 1),
        };
        match self.find(&request, arrival.at) {
            Found::At(index) => self.begin(&request, index, arrival.at),
            Found::Full(wish) => self.room.wait(Waiter { request, wish }),
            Found::Nobody => {}
        }
    }

    /// The server of a request, if it has room.
    fn find(&mut self, request: &Request, now: Duration) -> Found {
        let Room { limit, .. } = self.room;
        // Who belongs to a server would rather wait for it.
        let full_at = if self.policy.belongs() { u32::MAX } else { limit };
        let view = Now { servers: &self.servers, at: now, decay: self.policy.decay(), full_at };
        match self.table.pick(&request.input, &mut self.scratch[request.core], &view) {
            Some(pick) if self.servers[pick.index].in_flight >= limit => Found::Full(Some(pick.index)),
            Some(pick) => Found::At(pick.index),
            None if self.servers.iter().any(|server| server.is_up && server.in_flight >= limit) => Found::Full(None),
            None => Found::Nobody,
        }
    }

    /// Gives a server a request.
    fn begin(&mut self, request: &Request, index: usize, now: Duration) {
        let here = Session { server: index, life: self.servers[index].life, number: request.number };
        let lost = request.session.is_some_and(|session| !session.is_at(here));
        let session = match request.session {
            // Whoever has lost a session logs in again with the next request.
            Some(session) => lost.then_some((Some(session), None)),
            None => self.scenario.sessions.then_some((None, Some(here))),
        };
        let answer = Answer { server: index, session };
        let ends = self.work(index, now);
        self.ends.push(Reverse((ends, index, request.number)));
        let Request { user, generation, .. } = *request;
        self.under_way.insert(request.number, UnderWay { began: now, user, generation, answer });
        let outcome = &mut self.outcomes[request.number as usize];
        outcome.latency = (ends - request.at).as_secs_f64();
        outcome.server = Some(index as u32 + 1);
        outcome.status = Some(if lost { 401 } else { 200 });
        outcome.lost = lost;
    }

    /// When a server has done a request that it gets now.
    fn work(&mut self, index: usize, now: Duration) -> Duration {
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
        begins + work
    }
}
