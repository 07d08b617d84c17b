//! What is tried: servers, groups of clients, policies and events, as a TOML file says it.

mod cache;
mod descriptors;
mod servers;
mod sockets;
mod strategies;
pub mod targets;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

pub use cache::{Cached, Items};
pub use servers::{Each, Servers};
pub use sockets::WebSockets;
pub use strategies::{Kept, Strategies};

use crate::units;

/// How much of a scenario can be tried.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    servers: usize,
    /// Of each group.
    users: u32,
    /// Of each policy.
    requests: f64,
}

impl Limits {
    /// Over real sockets: each server is a process, each address one of 127.0.0.0/8.
    pub const REAL: Self = Self { servers: 64, users: 60_000, requests: 1e6 };
    /// In virtual time.
    pub const VIRTUAL: Self = Self { servers: 10_000, users: 10_000_000, requests: 2e7 };
}

/// A scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub title: String,
    /// What is to be seen, in a sentence or two.
    #[serde(default)]
    pub about: String,
    /// What chance is drawn from: the same seed, the same arrivals.
    #[serde(default = "one")]
    pub seed: u64,
    /// How long requests arrive.
    #[serde(deserialize_with = "duration")]
    pub duration: Duration,
    /// Whether users log in and stay so: a server keeps the session in its memory, and one that does not know a
    /// session has lost it.
    #[serde(default)]
    pub sessions: bool,
    /// Measures the ways in which the candidates keep sessions.
    #[serde(default)]
    pub strategies: Option<Strategies>,
    /// Users ask for these, and servers have a cache of them.
    #[serde(default)]
    pub items: Option<Items>,
    /// Users keep WebSockets open.
    #[serde(default)]
    pub websocket: Option<WebSockets>,
    /// The toy servers; not asked for where the load is for somebody's own.
    #[serde(default)]
    pub servers: Servers,
    /// Servers of the user's own, to which the load goes in the place of toy servers.
    #[serde(skip)]
    pub targets: Vec<String>,
    /// The cookie in which those keep a session: one that is set anew, for a client who had one, is a session lost.
    #[serde(default)]
    pub session_cookie: Option<String>,
    /// Who asks.
    #[serde(rename = "group")]
    pub groups: Vec<Group>,
    /// What is compared.
    #[serde(rename = "policy")]
    pub policies: Vec<Candidate>,
    /// What happens meanwhile, in its order.
    #[serde(rename = "event", default)]
    pub events: Vec<Event>,
    /// More keys of the upstream, as in a configuration.
    #[serde(default)]
    pub upstream: toml::Table,
}

/// Users who are alike.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    pub users: u32,
    /// Source addresses that they share; as many as users where it is absent.
    pub addresses: Option<u32>,
    /// Requests a second of all of them together, at random moments.
    pub rate: f64,
    /// After so many requests a user leaves, with all cookies forgotten, and the next one is somebody new; absent:
    /// nobody leaves.
    pub visits: Option<u32>,
    /// What they ask for, where the servers are the user's own: a path with its query, `/` if absent.
    #[serde(default)]
    pub path: Option<String>,
    /// When they begin.
    #[serde(default, deserialize_with = "duration")]
    pub from: Duration,
    /// When they have had enough; the end where it is absent.
    #[serde(default, deserialize_with = "some_duration")]
    pub until: Option<Duration>,
}

/// A policy that is tried.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// What the report calls it.
    pub name: String,
    /// As in a configuration.
    pub policy: toml::Value,
    /// The weights of its servers, where they are not those of the scenario.
    #[serde(default)]
    pub weight: Option<Each>,
    /// How its servers keep sessions; in memory where it is absent.
    #[serde(default)]
    pub sessions: Option<Kept>,
    /// Where the cache of its servers is, where users ask for items.
    #[serde(default)]
    pub cache: Option<Cached>,
    /// Further keys of the upstream for this one.
    #[serde(default)]
    pub upstream: toml::Table,
}

/// Something that happens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    #[serde(deserialize_with = "duration")]
    pub at: Duration,
    #[serde(rename = "do")]
    pub action: Action,
}

/// What an event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// This server, counted from 1, gets SIGKILL.
    Kill(usize),
    /// It is started again, at its address.
    Start(usize),
    /// So many new servers are started and added.
    Add(usize),
    /// So many, the last ones first, are removed with a drain, and stopped.
    Remove(usize),
    /// Every server is drained, stopped, started anew and taken back, one after the other.
    Deploy,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(server) => write!(f, "s{server} is killed"),
            Self::Start(server) => write!(f, "s{server} is started"),
            Self::Add(count) => write!(f, "{count} more"),
            Self::Remove(count) => write!(f, "{count} fewer"),
            Self::Deploy => f.write_str("deploy"),
        }
    }
}

fn one() -> u64 {
    1
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    units::parse_duration(&text).map_err(de::Error::custom)
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// What is wrong with it, where, and what would be right.
    pub fn read(text: &str, limits: Limits) -> Result<Self, String> {
        Self::read_for(text, &[], limits)
    }

    /// Reads a scenario whose load is for servers of the user's own, if there are any: addresses as in a
    /// configuration.
    ///
    /// # Errors
    /// The same, and what it asks for that only toy servers do.
    pub fn read_for(text: &str, targets: &[String], limits: Limits) -> Result<Self, String> {
        let scenario: Spanned<Self> = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut scenario = scenario.into_inner();
        if !targets.is_empty() {
            scenario.targets = targets.iter().map(|target| targets::address(target)).collect::<Result<_, _>>()?;
            scenario.servers.count = targets.len();
        }
        scenario.check(limits)?;
        Ok(scenario)
    }

    fn check(&self, limits: Limits) -> Result<(), String> {
        self.check_targets()?;
        self.servers.check(limits.servers)?;
        if self.duration < Duration::from_secs(1) || self.duration > Duration::from_secs(600) {
            return Err("duration: write \"1s\" to \"10m\"".to_owned());
        }
        if self.groups.is_empty() || self.policies.is_empty() {
            return Err("a scenario has a [[group]] of clients and a [[policy]] at least".to_owned());
        }
        if self.groups.len() > 100 {
            return Err(format!("{} groups: 100 at most", self.groups.len()));
        }
        for group in &self.groups {
            let fail = |what: String| Err(format!("group \"{}\": {what}", group.name));
            if !(1..=limits.users).contains(&group.users) {
                return fail(format!("users = {}: write 1 to {}", group.users, limits.users));
            }
            if !(1..=group.users).contains(&group.addresses()) {
                return fail(format!("addresses = {}: write 1 to the number of users", group.addresses()));
            }
            if !group.rate.is_finite() || group.rate <= 0.0 {
                return fail(format!("rate = {}: write the requests of a second, above 0", group.rate));
            }
            if group.from >= group.until(self.duration) {
                return fail("`from` is not before `until` and the end".to_owned());
            }
        }
        let requests: f64 = self.groups.iter().map(|group| group.requests(self.duration)).sum();
        if requests > limits.requests {
            return Err(format!("{requests:.0} requests for each policy: {:.0} at most", limits.requests));
        }
        if let Some(candidate) = self.policies.iter().find(|candidate| candidate.sessions.is_some() && !self.sessions) {
            return Err(format!("policy \"{}\": `sessions` needs `sessions = true` above", candidate.name));
        }
        self.check_candidates()?;
        if let Some(items) = &self.items {
            items.check()?;
        }
        if let Some(odd) = self.policies.iter().find(|candidate| candidate.cache.is_some() != self.items.is_some()) {
            return Err(format!("policy \"{}\": `cache` and `[items]` need each other", odd.name));
        }
        if self.items.is_some() && self.sessions {
            return Err("`[items]` and `sessions = true`: users ask for items or log in, not both".to_owned());
        }
        if let Some(websocket) = &self.websocket {
            websocket.check()?;
            if self.items.is_some() || self.sessions {
                return Err("`[websocket]` goes with neither `[items]` nor `sessions = true`".to_owned());
            }
        }
        if let Some(strategies) = &self.strategies {
            strategies.check(self.sessions, &self.policies, limits)?;
        }
        self.check_events(limits)
    }

    fn check_events(&self, limits: Limits) -> Result<(), String> {
        let mut count = self.servers.count;
        let mut before = Duration::ZERO;
        for Event { at, action } in &self.events {
            let fail = |what: &str| Err(format!("event at {}: {what}", units::show_duration(*at)));
            if *at < before {
                return fail("events are written in their order");
            }
            before = *at;
            if *at >= self.duration {
                return fail("that is after the end");
            }
            match *action {
                Action::Kill(server) | Action::Start(server) if !(1..=count).contains(&server) => {
                    return fail(&format!("there is no server {server}, they are counted from 1 to {count}"));
                }
                Action::Add(more) if more == 0 || count + more > limits.servers => {
                    return fail(&format!("add 1 to {} servers", limits.servers - count));
                }
                Action::Add(more) => count += more,
                Action::Remove(fewer) if fewer == 0 || fewer >= count => {
                    return fail(&format!("remove 1 to {} servers", count - 1));
                }
                Action::Remove(fewer) => count -= fewer,
                Action::Kill(_) | Action::Start(_) | Action::Deploy => {}
            }
        }
        Ok(())
    }

    /// The candidates that get the scenario's load: not one that others are only compared with.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        let compares = self.strategies.is_some();
        self.policies.iter().filter(move |candidate| !(compares && candidate.sessions == Some(Kept::None)))
    }

    /// How long a run of it takes, about: every phase of every candidate, and a second or two until the processes of each
    /// are there.
    #[must_use]
    pub fn planned(&self) -> Duration {
        /// Until a fleet is there and gone again.
        const START: Duration = Duration::from_millis(1500);
        let candidates = self.candidates().count() as u32;
        let load = (self.duration + START) * candidates;
        self.strategies.as_ref().map_or(load, |strategies| load + strategies.planned(candidates, START))
    }

    /// How many servers there are at the most.
    #[must_use]
    pub fn most_servers(&self) -> usize {
        let mut count = self.servers.count;
        let mut most = count;
        for event in &self.events {
            match event.action {
                Action::Add(more) => count += more,
                Action::Remove(fewer) => count -= fewer,
                _ => {}
            }
            most = most.max(count);
        }
        most
    }
}

impl Candidate {
    /// Whether its servers ask a Redis.
    #[must_use]
    pub fn needs_redis(&self) -> bool {
        self.sessions == Some(Kept::Store) || self.cache == Some(Cached::Shared)
    }
}

impl Group {
    #[must_use]
    pub fn addresses(&self) -> u32 {
        self.addresses.unwrap_or(self.users)
    }

    /// When its last request may arrive.
    #[must_use]
    pub fn until(&self, end: Duration) -> Duration {
        self.until.map_or(end, |until| until.min(end))
    }

    /// Requests that are due of it.
    fn requests(&self, end: Duration) -> f64 {
        self.rate * self.until(end).saturating_sub(self.from).as_secs_f64()
    }
}
