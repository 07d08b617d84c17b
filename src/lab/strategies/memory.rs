//! What sessions take of each server's memory, as servers grow more and users do not.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ask::ask;
use crate::lab::arrivals::Arrival;
use crate::lab::fleet::Fleet;
use crate::lab::load::{self, Meter};
use crate::lab::scenario::{Candidate, Group, Kept, Scenario, Servers, Strategies};

/// Logins a second: what two cores do without falling behind.
const PACE: f64 = 600.0;
/// Until a copy has reached everybody.
const SETTLED: Duration = Duration::from_secs(10);

/// Memory with so many servers, after all users have logged in.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MemoryAt {
    pub servers: usize,
    /// Sessions that each holds.
    pub sessions: Vec<u64>,
    /// Bytes that these are made of, as each server counts them.
    pub held_bytes: Vec<u64>,
    /// By how much each server's resident memory has grown since before the first login.
    pub grown_bytes: Vec<u64>,
    /// By how much the store's has, where there is one.
    pub store_grown_bytes: Option<u64>,
    /// What all servers together have sent each other.
    pub sent_bytes: u64,
}

impl MemoryAt {
    /// Of the servers on average.
    #[must_use]
    pub fn mean(values: &[u64]) -> f64 {
        values.iter().sum::<u64>() as f64 / values.len().max(1) as f64
    }
}

/// Lets all users log in, through the proxy, at a fleet of so many servers.
pub(super) fn with(
    program: &Path,
    dir: &Path,
    scenario: &Scenario,
    strategies: &Strategies,
    candidate: &Candidate,
    count: usize,
    meter: &Arc<Meter>,
) -> io::Result<MemoryAt> {
    let scenario = of_logins(scenario, strategies, count);
    let fleet = Fleet::start(program, dir, &scenario, candidate)?;
    let (before, store_before) = (fleet.resident()?, fleet.resident_store()?);
    let arrivals: Vec<Arrival> = (0..strategies.users)
        .map(|user| Arrival { at: Duration::from_secs_f64(f64::from(user) / PACE), group: 0, user, item: 0 })
        .collect();
    let outcomes = load::send(fleet.address(), &scenario, &arrivals, Instant::now(), meter)?;
    let came = outcomes.iter().filter(|o| o.status == Some(200)).count() as u64;
    let told = settled(&fleet, candidate.sessions, came)?;
    let grown = |now: u64, before: u64| now.saturating_sub(before);
    let sum = |name: &str| told.iter().map(|server| number(server, name)).collect::<Vec<u64>>();
    let memory = MemoryAt {
        servers: count,
        sessions: sum("sessions"),
        held_bytes: sum("bytes"),
        grown_bytes: fleet.resident()?.into_iter().zip(before).map(|(now, before)| grown(now, before)).collect(),
        store_grown_bytes: fleet.resident_store()?.zip(store_before).map(|(now, before)| grown(now, before)),
        sent_bytes: sum("sent_bytes").iter().sum(),
    };
    fleet.stop()?;
    Ok(memory)
}

/// The same servers but for their number, and users who come once.
fn of_logins(scenario: &Scenario, strategies: &Strategies, count: usize) -> Scenario {
    let users = Group {
        name: "users".to_owned(),
        users: strategies.users,
        addresses: None,
        rate: PACE,
        visits: None,
        path: None,
        from: Duration::ZERO,
        until: None,
    };
    let mut logins = scenario.clone();
    logins.servers = Servers { count, ..Servers::default() };
    logins.groups = vec![users];
    logins.events.clear();
    logins
}

/// What the servers say of themselves once everybody who came is known everywhere where that is meant.
fn settled(fleet: &Fleet, kept: Option<Kept>, came: u64) -> io::Result<Vec<Value>> {
    let began = Instant::now();
    loop {
        let told: io::Result<Vec<Value>> = fleet.servers().into_iter().map(held).collect();
        let told = told?;
        let is_everywhere = told.iter().all(|server| number(server, "sessions") >= came);
        if kept != Some(Kept::Replicated) || is_everywhere || began.elapsed() > SETTLED {
            return Ok(told);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn held(server: std::net::SocketAddr) -> io::Result<Value> {
    serde_json::from_str(&ask(server, "GET", "/sessions", None)?.body).map_err(io::Error::other)
}

fn number(told: &Value, name: &str) -> u64 {
    told[name].as_u64().unwrap_or(0)
}
