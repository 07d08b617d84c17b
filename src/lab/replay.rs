//! An access log again: what each policy would have done with these requests.
//!
//! Policies are the proxy's own ([`crate::balance`]), servers take as long as the log says, and time is the log's. It is
//! read once, line by line, and what is remembered is bounded: clients up to [`MOST_CLIENTS`], addresses in a sketch.
//! Where a log goes back in time, nothing is in flight any more: what began after that has not happened yet.
//! Servers never fail in here, and a server that would have been overloaded is not slower for it.

pub mod line;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::io::{self, BufRead, Read as _};
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use self::line::{Line, Logged};
use crate::balance::HotKeys;
use crate::balance::hot::SpaceSaving;
use crate::balance::peak_ewma::Average;
use crate::balance::skew::Skew;
use crate::balance::{Input, Member, Policy, Scratch, Table, View, key_of};

/// Clients of whom it is known where they were last. Of further ones the requests count, and no moves.
pub const MOST_CLIENTS: usize = 1 << 21;
/// Addresses that are counted at once.
const COUNTERS: usize = 1 << 16;
/// Those that are told.
const HOTTEST: usize = 10;
/// What is in flight at once under one policy; beyond that the request that ends soonest has ended.
const MOST_IN_FLIGHT: usize = 1 << 20;
/// Lines of a log are not in order to the second. One that is older than this, and than the request took, is of
/// another log, or of a clock that was wrong.
const SLACK: Duration = Duration::from_secs(60);
/// A line that does not say how long its request took may have the time when that began, hours ago for a tunnel. So
/// many in a row are no accident.
const LATE_IN_A_ROW: u32 = 100;
/// A longer line is a bad one.
const LONGEST_LINE: u64 = 1 << 16;
/// Names of servers in a log that are told.
const MOST_NAMES: usize = 1_000;
/// What clients are hashed with.
const SEED: u64 = 0x6576_656E_6B72_7079;

/// A server to send to.
#[derive(Debug, Clone, Serialize)]
pub struct Server {
    pub name: String,
    pub weight: u32,
}

/// What is wanted to know.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// At least one.
    pub servers: Vec<Server>,
    /// Each with the name it is told by.
    pub policies: Vec<(String, Policy)>,
    /// Only requests for it, where the log names upstreams.
    pub upstream: Option<String>,
    /// How long a request takes of which the log does not say so.
    pub took: Duration,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Replayed {
    /// Of evenkeel.
    pub version: &'static str,
    pub servers: Vec<Server>,
    /// Requests that were replayed.
    pub requests: u64,
    /// Lines of requests that went to no server, or to those of another upstream.
    pub left_out: u64,
    /// Lines that the log says were lost.
    pub lost: u64,
    pub bad: Bad,
    /// How often the log goes back in time, by more than its lines may be out of order.
    pub back: u64,
    /// Of the first and the last request, seconds since 1970.
    pub from: Option<f64>,
    pub to: Option<f64>,
    /// Clients, known by address and User-Agent; those that were followed if there were more than can be.
    pub clients: usize,
    pub all_followed: bool,
    /// Requests of which the log does not say how long they took.
    pub without_duration: u64,
    /// What really happened, where the log names servers.
    pub logged: Option<Outcome>,
    pub policies: Vec<Outcome>,
    /// Addresses with the most requests.
    pub hottest: Vec<HotAddress>,
}

/// Lines that could not be read.
#[derive(Debug, Default, Serialize)]
pub struct Bad {
    pub lines: u64,
    pub first: Option<BadLine>,
}

#[derive(Debug, Serialize)]
pub struct BadLine {
    pub number: u64,
    pub why: &'static str,
    /// Its beginning.
    pub text: String,
}

/// What one policy made of it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub policy: String,
    /// What is an estimate: `load` (what servers have to do), `clients` (who has its cookie), `key` (what the log
    /// does not have), `hot_keys` (none is spread).
    pub approximate: Vec<&'static str>,
    pub max_over_mean: Option<f64>,
    pub jain: Option<f64>,
    pub busiest: Option<String>,
    /// Requests of clients that are followed, but for their first ones, and those that went to another server than
    /// the one before.
    pub followed: u64,
    pub moves: u64,
    pub servers: Vec<Share>,
}

#[derive(Debug, Serialize)]
pub struct Share {
    pub server: String,
    pub requests: u64,
    pub share: f64,
}

/// An address with many requests.
#[derive(Debug, Serialize)]
pub struct HotAddress {
    pub address: IpAddr,
    /// At least; exact up to some ten thousand addresses.
    pub requests: u64,
    pub share: f64,
    /// The server it is on, by policy that goes by the address.
    pub on: BTreeMap<String, String>,
}

/// A replay under way.
#[derive(Debug)]
pub struct Replay {
    wanted: Wanted,
    worlds: Vec<World>,
    /// By hash, where each was last: by policy, and at the end as logged. 0 is nowhere.
    clients: HashMap<u64, Box<[u16]>>,
    addresses: SpaceSaving<IpAddr>,
    /// By name: its number, from 1, and its requests.
    logged: BTreeMap<String, (u16, u64)>,
    logged_moves: (u64, u64),
    /// The time of the log: the latest since it last went back.
    now: Duration,
    /// What is added to it, so that the time of the worlds never goes back.
    shift: Duration,
    /// Lines in a row that are too old and do not say how long their request took.
    late: u32,
    numbers: u64,
    told: Replayed,
}

/// A policy and what it has done so far.
#[derive(Debug)]
struct World {
    policy: Policy,
    table: Table,
    scratch: Scratch,
    servers: Vec<State>,
    /// What ends when, soonest first.
    ends: BinaryHeap<Reverse<(Duration, u16, Duration)>>,
    followed: u64,
    moves: u64,
    /// Requests without the key that it goes by.
    keyless: bool,
}

#[derive(Debug, Default, Clone)]
struct State {
    in_flight: u32,
    requests: u64,
    average: Option<Average>,
}

struct Now<'a> {
    servers: &'a [State],
    at: Duration,
    decay: Option<Duration>,
}

impl View for Now<'_> {
    fn tried(&self, _: usize) -> bool {
        false
    }

    fn takes_new(&self, _: usize) -> bool {
        true
    }

    fn takes_pinned(&self, _: usize) -> bool {
        true
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.servers[index].in_flight
    }

    fn latency(&self, index: usize) -> Option<f32> {
        Some(self.servers[index].average?.latency_at(self.at.as_millis() as u32, self.decay?))
    }
}

impl World {
    fn new(policy: &Policy, servers: &[Server]) -> Self {
        let member = |server: &Server| Member { key: key_of(&server.name), weight: server.weight, takes_new: true };
        let members: Vec<Member> = servers.iter().map(member).collect();
        Self {
            table: policy.table(&members, None),
            policy: policy.clone(),
            scratch: Scratch::new(0, 1),
            servers: vec![State::default(); servers.len()],
            ends: BinaryHeap::new(),
            followed: 0,
            moves: 0,
            keyless: false,
        }
    }

    /// Ends what has ended by then.
    fn settle(&mut self, now: Duration) {
        while let Some(Reverse((at, server, took))) = self.ends.peek().copied().filter(|end| end.0.0 <= now) {
            self.ends.pop();
            let state = &mut self.servers[usize::from(server)];
            state.in_flight -= 1;
            if let Some(decay) = self.policy.decay() {
                let average = Average::after(state.average, took, false, at.as_millis() as u32, decay);
                state.average = Some(average);
            }
        }
    }

    /// Forgets what is in flight, but not how long servers take.
    fn clear(&mut self) {
        self.ends.clear();
        self.servers.iter_mut().for_each(|state| state.in_flight = 0);
    }

    /// Sends a request of a client that was last at `last`; where to.
    fn send(&mut self, logged: &Logged<'_>, now: Duration, took: Duration, last: Option<usize>) -> Option<usize> {
        let waits = self.policy.reads_load();
        if waits {
            self.settle(now);
        }
        let key =
            self.policy.keyed().and_then(|by| by.key(&logged.path, logged.query.as_deref(), &http::HeaderMap::new()));
        self.keyless |= self.policy.keyed().is_some() && key.is_none();
        let pinned = last.filter(|_| self.policy.sticky().is_some());
        let input = Input { client: logged.client, key, spread: None, pinned };
        let view = Now { servers: &self.servers, at: now, decay: self.policy.decay() };
        let index = self.table.pick(&input, &mut self.scratch, &view)?.index;
        let state = &mut self.servers[index];
        state.requests += 1;
        if waits {
            state.in_flight += 1;
            if self.ends.len() >= MOST_IN_FLIGHT
                && let Some(Reverse((_, server, _))) = self.ends.pop()
            {
                self.servers[usize::from(server)].in_flight -= 1;
            }
            self.ends.push(Reverse((now.saturating_add(took), u16::try_from(index).unwrap_or(u16::MAX), took)));
        }
        Some(index)
    }

    fn outcome(&self, name: &str, servers: &[Server]) -> Outcome {
        let skew = Skew::of(self.servers.iter().zip(servers).map(|(state, server)| (state.requests, server.weight)));
        let all: u64 = self.servers.iter().map(|state| state.requests).sum();
        let share = |(state, server): (&State, &Server)| share(&server.name, state.requests, all);
        let load = self.policy.reads_load().then_some("load");
        let clients = self.policy.sticky().map(|_| "clients");
        let key = self.keyless.then_some("key");
        let hot = matches!(self.policy.hot_keys(), HotKeys::Spread(_)).then_some("hot_keys");
        Outcome {
            policy: name.to_owned(),
            approximate: [load, clients, key, hot].into_iter().flatten().collect(),
            max_over_mean: skew.map(|skew| skew.max_over_mean),
            jain: skew.map(|skew| skew.jain),
            busiest: skew.map(|skew| servers[skew.busiest].name.clone()),
            followed: self.followed,
            moves: self.moves,
            servers: self.servers.iter().zip(servers).map(share).collect(),
        }
    }
}

fn share(server: &str, requests: u64, all: u64) -> Share {
    Share { server: server.to_owned(), requests, share: requests as f64 / all.max(1) as f64 }
}

impl Replay {
    /// Nothing read yet.
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        Self {
            worlds: wanted.policies.iter().map(|(_, policy)| World::new(policy, &wanted.servers)).collect(),
            clients: HashMap::new(),
            addresses: SpaceSaving::new(COUNTERS),
            logged: BTreeMap::new(),
            logged_moves: (0, 0),
            now: Duration::ZERO,
            shift: Duration::ZERO,
            late: 0,
            numbers: 0,
            told: Replayed {
                version: env!("CARGO_PKG_VERSION"),
                servers: wanted.servers.clone(),
                requests: 0,
                left_out: 0,
                lost: 0,
                bad: Bad::default(),
                back: 0,
                from: None,
                to: None,
                clients: 0,
                all_followed: true,
                without_duration: 0,
                logged: None,
                policies: Vec::new(),
                hottest: Vec::new(),
            },
            wanted,
        }
    }

    /// Reads a log to its end. Several may follow each other.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&mut self, log: &mut dyn BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if (&mut *log).take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            self.numbers += 1;
            if line.len() as u64 == LONGEST_LINE && line.last() != Some(&b'\n') {
                self.bad(&line, "it is longer than 64 KiB");
                skip_line(log)?;
                continue;
            }
            match line::read(&line) {
                Ok(Line::Request(logged)) => self.request(&logged),
                Ok(Line::Unsent) => self.told.left_out += 1,
                Ok(Line::Lost(lines)) => self.told.lost = self.told.lost.saturating_add(lines),
                Err(why) => self.bad(&line, why),
            }
        }
    }

    fn bad(&mut self, line: &[u8], why: &'static str) {
        self.told.bad.lines += 1;
        if self.told.bad.first.is_none() {
            let text = String::from_utf8_lossy(line.trim_ascii_end());
            let text = text.chars().take(120).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            self.told.bad.first = Some(BadLine { number: self.numbers, why, text });
        }
    }

    /// Sets the time to that of a line. A log has its lines in the order of their ends; time does not go back for
    /// who began before. It does for who ended before, such as in the older log when that comes last.
    fn go_on(&mut self, logged: &Logged<'_>) {
        let latest = logged.at.saturating_add(logged.took.unwrap_or_default()).saturating_add(SLACK);
        let is_late = latest < self.now;
        self.late = if is_late && logged.took.is_none() { self.late + 1 } else { 0 };
        if is_late && (logged.took.is_some() || self.late >= LATE_IN_A_ROW) {
            self.late = 0;
            self.told.back += 1;
            self.worlds.iter_mut().for_each(World::clear);
            self.shift = self.shift.saturating_add(self.now.saturating_sub(logged.at));
            self.now = logged.at;
        }
        self.now = self.now.max(logged.at);
    }

    fn request(&mut self, logged: &Logged<'_>) {
        if let (Some(wanted), Some(upstream)) = (&self.wanted.upstream, &logged.upstream)
            && *wanted != **upstream
        {
            self.told.left_out += 1;
            return;
        }
        self.told.requests += 1;
        self.told.without_duration += u64::from(logged.took.is_none());
        let (at, took) = (logged.at.as_secs_f64(), logged.took.unwrap_or(self.wanted.took));
        self.told.from = Some(self.told.from.map_or(at, |from| from.min(at)));
        self.told.to = Some(self.told.to.map_or(at, |to| to.max(at)));
        self.go_on(logged);
        let now = self.now.saturating_add(self.shift);
        self.addresses.add(logged.client);

        let client = client_of(logged);
        if self.clients.len() < MOST_CLIENTS {
            let nowhere = || vec![0; self.worlds.len() + 1].into_boxed_slice();
            self.clients.entry(client).or_insert_with(nowhere);
        }
        let mut last = self.clients.get_mut(&client);
        self.told.all_followed &= last.is_some();
        for (number, world) in self.worlds.iter_mut().enumerate() {
            let before = last.as_ref().map(|last| usize::from(last[number])).filter(|last| *last > 0);
            let Some(index) = world.send(logged, now, took, before.map(|last| last - 1)) else { continue };
            if let Some(last) = last.as_mut() {
                last[number] = u16::try_from(index + 1).unwrap_or(0);
            }
            if let Some(before) = before {
                world.followed += 1;
                world.moves += u64::from(before != index + 1);
            }
        }
        let Some(server) = &logged.server else { return };
        let next = self.logged.len() + 1;
        if next > MOST_NAMES && !self.logged.contains_key(&**server) {
            return;
        }
        let (number, requests) = self.logged.entry(server.to_string()).or_insert((next as u16, 0));
        *requests += 1;
        if let Some(last) = last.as_mut().and_then(|last| last.last_mut()) {
            if *last > 0 {
                self.logged_moves.0 += 1;
                self.logged_moves.1 += u64::from(*last != *number);
            }
            *last = *number;
        }
    }

    /// What came of it.
    #[must_use]
    pub fn finish(self) -> Replayed {
        let Self { wanted, worlds, clients, mut addresses, logged, logged_moves, mut told, .. } = self;
        let named = || worlds.iter().zip(&wanted.policies).map(|(world, (name, _))| (name, world));
        told.clients = clients.len();
        told.policies = named().map(|(name, world)| world.outcome(name, &wanted.servers)).collect();
        if !logged.is_empty() {
            told.logged = Some(as_logged(&logged, logged_moves, &wanted.servers));
        }
        let mut hottest: Vec<(IpAddr, u64)> = addresses.take().counts().collect();
        hottest.sort_by_key(|(address, count)| (Reverse(*count), *address));
        let idle = vec![State::default(); wanted.servers.len()];
        let at_home = |address: IpAddr| {
            let by_address = named().filter(|(_, world)| matches!(world.policy, Policy::IpHash(_)));
            let home = |(name, world): (&String, &World)| {
                let input = Input { client: address, key: None, spread: None, pinned: None };
                // Where nothing is in flight nobody is put off by a bound.
                let view = Now { servers: &idle, at: Duration::ZERO, decay: None };
                let index = world.table.pick(&input, &mut Scratch::new(0, 1), &view)?.index;
                Some((name.clone(), wanted.servers[index].name.clone()))
            };
            by_address.filter_map(home).collect()
        };
        let hot = |(address, requests): (IpAddr, u64)| HotAddress {
            address,
            requests,
            share: requests as f64 / told.requests.max(1) as f64,
            on: at_home(address),
        };
        // One that comes once is not hot.
        told.hottest = hottest.into_iter().filter(|(_, n)| *n > 1).take(HOTTEST).map(hot).collect();
        told
    }
}

/// What stands for a client: its address and User-Agent.
fn client_of(logged: &Logged<'_>) -> u64 {
    let seed = xxh3_64_with_seed(logged.agent.as_bytes(), SEED);
    match logged.client {
        IpAddr::V4(address) => xxh3_64_with_seed(&address.octets(), seed),
        IpAddr::V6(address) => xxh3_64_with_seed(&address.octets(), seed ^ xxh3_64(b"6")),
    }
}

/// What really happened. A server that is among those that are looked at has its weight.
fn as_logged(logged: &BTreeMap<String, (u16, u64)>, (followed, moves): (u64, u64), servers: &[Server]) -> Outcome {
    let weight = |name: &str| servers.iter().find(|server| server.name == name).map_or(1, |server| server.weight);
    let all: u64 = logged.values().map(|(_, requests)| requests).sum();
    let skew = Skew::of(logged.iter().map(|(name, (_, requests))| (*requests, weight(name))));
    Outcome {
        policy: "as logged".to_owned(),
        approximate: Vec::new(),
        max_over_mean: skew.map(|skew| skew.max_over_mean),
        jain: skew.map(|skew| skew.jain),
        busiest: skew.and_then(|skew| logged.keys().nth(skew.busiest).cloned()),
        followed,
        moves,
        servers: logged.iter().map(|(name, (_, requests))| share(name, *requests, all)).collect(),
    }
}

fn skip_line(log: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let buffer = log.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = memchr::memchr(b'\n', buffer);
        let used = end.map_or(buffer.len(), |at| at + 1);
        log.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

impl Outcome {
    /// Of 1,000 requests of clients that had been there before, those that went to another server.
    #[must_use]
    pub fn moves_per_thousand(&self) -> Option<f64> {
        (self.followed > 0).then(|| self.moves as f64 * 1000.0 / self.followed as f64)
    }
}

impl Replayed {
    /// The rows of a table: a head, then a row for each policy, what really happened first.
    #[must_use]
    pub fn rows(&self) -> Vec<Vec<String>> {
        let head = ["POLICY", "MAX/MEAN", "JAIN", "BUSIEST", "MOVES/1000", "FIGURES"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let dash = || "-".to_owned();
        for outcome in self.logged.iter().chain(&self.policies) {
            let busiest = outcome.busiest.as_ref().and_then(|name| outcome.servers.iter().find(|s| s.server == *name));
            rows.push(vec![
                outcome.policy.clone(),
                outcome.max_over_mean.map_or_else(dash, |x| format!("{x:.2}")),
                outcome.jain.map_or_else(dash, |x| format!("{x:.3}")),
                busiest.map_or_else(dash, |server| format!("{} {:.0} %", server.server, server.share * 100.0)),
                outcome.moves_per_thousand().map_or_else(dash, |moves| format!("{moves:.1}")),
                match outcome.approximate.as_slice() {
                    [] => "exact".to_owned(),
                    why => format!("approximate: {}", why.join(", ")),
                },
            ]);
        }
        rows
    }

    /// The same of the hottest addresses; without any, nothing.
    #[must_use]
    pub fn hot_rows(&self) -> Vec<Vec<String>> {
        if self.hottest.is_empty() {
            return Vec::new();
        }
        let mut rows = vec![["ADDRESS", "REQUESTS", "SHARE", "ON"].map(str::to_owned).to_vec()];
        for hot in &self.hottest {
            let mut on: Vec<&str> = hot.on.values().map(String::as_str).collect();
            on.sort_unstable();
            on.dedup();
            let on = if on.is_empty() { "-".to_owned() } else { on.join(", ") };
            rows.push(vec![
                hot.address.to_string(),
                hot.requests.to_string(),
                format!("{:.1} %", hot.share * 100.0),
                on,
            ]);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::named::Named;

    fn replay(policies: &[&str], servers: &[(&str, u32)], log: &str) -> Replayed {
        let mut replay = Replay::new(Wanted {
            servers: servers
                .iter()
                .map(|(name, weight)| Server { name: (*name).to_owned(), weight: *weight })
                .collect(),
            policies: policies.iter().map(|name| ((*name).to_owned(), Policy::by_name(name).unwrap())).collect(),
            upstream: Some("shop".to_owned()),
            took: Duration::from_millis(100),
        });
        replay.read(&mut log.as_bytes()).unwrap();
        replay.finish()
    }

    fn counts(outcome: &Outcome) -> Vec<u64> {
        outcome.servers.iter().map(|server| server.requests).collect()
    }

    fn json(second: u32, client: &str, more: &str) -> String {
        format!("{{\"time\":\"2026-11-21T20:15:{second:02}.000Z\",\"client\":\"{client}\",\"server\":\"a\"{more}}}\n")
    }

    #[test]
    fn what_each_would_have_done_is_counted() {
        let mut log = String::new();
        for n in 0..60 {
            // Half are one office's.
            let client = if n % 2 == 0 { "10.0.0.1".to_owned() } else { format!("10.1.0.{n}") };
            log += &json(n, &client, ",\"upstream\":\"shop\",\"duration_ms\":10.0");
        }
        log += &json(1, "10.9.9.9", ",\"upstream\":\"other\"");
        log += "nonsense\n\n{\"time\":\"2026-11-21T20:15:00.000Z\",\"lines_lost\":5}\n";
        let told = replay(&["round_robin", "ip_hash", "sticky_cookie"], &[("a", 1), ("b", 2)], &log);
        assert_eq!((told.requests, told.left_out, told.lost, told.bad.lines), (60, 2, 5, 1));
        let first = told.bad.first.as_ref().unwrap();
        assert_eq!((first.number, first.text.as_str()), (62, "nonsense"));
        assert_eq!((told.clients, told.all_followed, told.without_duration), (31, true, 0));
        assert_eq!(told.to.unwrap() - told.from.unwrap(), 59.0);
        assert_eq!(counts(&told.policies[0]), [20, 40]);
        assert_eq!(told.policies[0].max_over_mean, Some(1.0));
        // The office came thirty times, and each time but the first it had been there before.
        assert!(told.policies.iter().all(|policy| policy.followed == 29));
        assert_eq!((told.policies[1].moves, told.policies[2].moves), (0, 0));
        assert!(told.policies[0].moves > 0);
        let hot = &told.hottest[0];
        assert_eq!((hot.address.to_string().as_str(), hot.requests, hot.share), ("10.0.0.1", 30, 0.5));
        assert_eq!(told.hottest.len(), 1, "who came once is not hot");
        let home = &hot.on["ip_hash"];
        let there = told.policies[1].servers.iter().find(|server| server.server == *home).unwrap();
        assert!(there.requests >= 30, "{there:?}");
        let logged = told.logged.as_ref().unwrap();
        assert_eq!((counts(logged), logged.moves, logged.max_over_mean), (vec![60], 0, Some(1.0)));
        assert_eq!(told.rows().len(), 5);
    }

    #[test]
    fn feedback_knows_how_long_requests_took() {
        // Each second one that takes a minute, and one that is over at once.
        let mut log = String::new();
        for n in 0..40 {
            let took = if n % 2 == 0 { "60000.0" } else { "1.0" };
            log += &json(n, &format!("10.0.0.{n}"), &format!(",\"upstream\":\"shop\",\"duration_ms\":{took}"));
        }
        let told = replay(&["least_requests"], &[("a", 1), ("b", 1), ("c", 1), ("d", 1)], &log);
        let spread = counts(&told.policies[0]);
        assert!(spread.iter().all(|n| *n >= 5), "the long ones are five each: {spread:?}");
        assert_eq!(told.policies[0].approximate, ["load"]);
    }

    /// Ten minutes with a request of half a second each second, the later half first, and a line of next year within.
    #[test]
    fn a_log_that_goes_back_in_time_leaves_nothing_in_flight() {
        let line = |at: &str, n: u32| {
            format!(
                "{{\"time\":\"{at}\",\"client\":\"10.0.{}.{}\",\"upstream\":\"shop\",\"server\":\"a\",\"duration_ms\":500.0}}\n",
                n / 250,
                n % 250
            )
        };
        let mut log = String::new();
        for n in (300..600).chain(0..300) {
            log += &line(&format!("2026-11-21T20:{:02}:{:02}.000Z", n / 60, n % 60), n);
            if n == 100 {
                log += &line("2027-11-21T20:00:00.000Z", n);
            }
        }
        log += &line("9999-12-31T23:59:59.000Z", 1);
        log += &line("1970-01-01T00:00:00.000Z", 1);
        // Long, and ended a moment ago: that is how a log is, and nothing goes back.
        let late = line("2026-11-21T20:00:00.000Z", 1).replace("500.0", "600000.0");
        log += &(line("2026-11-21T20:10:00.000Z", 1) + &late);
        log += "{\"time\":\"2026-11-21T20:15:00.000Z\",\"lines_lost\":18446744073709551615}\n".repeat(2).as_str();
        let policies = ["least_requests", "peak_ewma"].map(|name| (name.to_owned(), Policy::by_name(name).unwrap()));
        let servers = ["a", "b"].map(|name| Server { name: name.to_owned(), weight: 1 }).to_vec();
        let wanted = Wanted { servers, policies: policies.to_vec(), upstream: None, took: Duration::ZERO };
        let mut replay = Replay::new(wanted);
        let (mut most, mut sent) = (0, 0);
        for line in log.lines() {
            replay.read(&mut line.as_bytes()).unwrap();
            most = most.max(replay.worlds.iter().map(|world| world.ends.len()).max().unwrap());
            sent += 1;
            for world in &replay.worlds {
                let in_flight: u32 = world.servers.iter().map(|state| state.in_flight).sum();
                assert_eq!(in_flight as usize, world.ends.len(), "line {sent}");
            }
        }
        let told = replay.finish();
        assert_eq!((told.back, told.requests, told.lost), (3, 605, u64::MAX));
        assert!(most <= 3, "{most} were in flight at once");
    }

    #[test]
    fn what_is_in_flight_is_bounded() {
        let policy = Policy::by_name("least_requests").unwrap();
        let servers = [Server { name: "a".to_owned(), weight: 1 }];
        let mut world = World::new(&policy, &servers);
        let logged = json(0, "10.0.0.1", ",\"upstream\":\"shop\"");
        let Ok(Line::Request(logged)) = line::read(logged.as_bytes()) else { panic!("{logged}") };
        for _ in 0..MOST_IN_FLIGHT + 2 {
            world.send(&logged, Duration::ZERO, Duration::MAX, None);
        }
        assert_eq!((world.ends.len(), world.servers[0].in_flight as usize), (MOST_IN_FLIGHT, MOST_IN_FLIGHT));
    }

    #[test]
    fn a_line_without_an_end_is_bad_and_the_next_is_read() {
        let good = "10.0.0.1 - - [21/Nov/2026:20:15:00 +0000] \"GET / HTTP/1.1\" 200 1\n";
        let mut log = good.to_owned();
        let _ = writeln!(log, "{}", "x".repeat(200_000));
        log += good;
        let told = replay(&["round_robin"], &[("a", 1)], &log);
        assert_eq!((told.requests, told.bad.lines, told.without_duration), (2, 1, 2));
        assert!(told.logged.is_none() && told.bad.first.unwrap().why.contains("64 KiB"));
    }

    #[test]
    fn a_key_that_a_log_does_not_have_is_told() {
        let policy = toml::from_str::<BTreeMap<String, Policy>>(
            "p = { hash = { by = { header = 'x-room' }, hot_keys = 'spread' } }",
        )
        .unwrap();
        let wanted = Wanted {
            servers: vec![Server { name: "a".to_owned(), weight: 1 }],
            policies: vec![("hash".to_owned(), policy["p"].clone())],
            upstream: None,
            took: Duration::ZERO,
        };
        let mut replay = Replay::new(wanted);
        replay.read(&mut json(0, "10.0.0.1", ",\"upstream\":\"x\"").as_bytes()).unwrap();
        assert_eq!(replay.finish().policies[0].approximate, ["key", "hot_keys"]);
    }
}
