//! What has come of a log: the figures, and the rows of tables.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::world::{Now, State, World};
use super::{Replay, Server};
use crate::balance::skew::Skew;
use crate::balance::{HotKeys, Input, Policy, Scratch};

/// Those that are told.
const HOTTEST: usize = 10;

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

impl World {
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
