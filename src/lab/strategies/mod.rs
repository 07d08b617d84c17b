//! The textbook's table of ways to keep a session, with numbers.
//!
//! What a run under load shows (sessions lost, skew) is in [`super::run`]. Here is the rest: [`latency`] sends requests
//! to all of them at the same time, [`memory`] starts more and more servers, and `revocation` logs somebody out and
//! looks how long that takes. Everything is asked over sockets, and nothing is known that a server does not say.

mod ask;
mod latency;
mod memory;
mod revocation;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::fleet::{Fleet, missing};
use super::load::Meter;
use super::scenario::{Candidate, Kept, Scenario, Strategies};
pub use latency::{Added, Latencies};
pub use memory::MemoryAt;
pub use revocation::Revoked;

/// What was measured of all ways of keeping sessions.
#[derive(Debug)]
pub struct Comparison {
    /// The candidate that keeps none.
    pub baseline: String,
    /// The baseline against itself: every second request against the others. What is not larger is noise.
    pub noise: Added,
    pub ways: Vec<Way>,
    /// What did not work, and is missing.
    pub problems: Vec<String>,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

/// What was measured of one way.
#[derive(Debug)]
pub struct Way {
    pub policy: String,
    pub kept: Kept,
    /// Why nothing was, if nothing was.
    pub not_run: Option<String>,
    pub added: Added,
    pub memory: Vec<MemoryAt>,
    pub revoked: Option<Revoked>,
    /// Whether a server of another service, which was told the same, let a user in who had logged in here.
    pub other_service: Option<bool>,
    /// Length of what the cookie holds.
    pub cookie_bytes: Option<usize>,
}

/// Measures what a scenario asks for; `dir` is for what processes write, `tell` hears of each step.
/// What does not work, or is not reached before it is stopped, is left out, and the rest is measured.
#[must_use]
pub fn measure(
    program: &Path,
    dir: &Path,
    scenario: &Scenario,
    strategies: &Strategies,
    meter: &Arc<Meter>,
    tell: &dyn Fn(&str),
) -> Comparison {
    let stopped = || meter.stop.load(Relaxed);
    let mut problems = Vec::new();
    let mut fleets: Vec<(&Candidate, Fleet)> = Vec::new();
    for (number, candidate) in scenario.policies.iter().enumerate() {
        if missing(candidate).is_none() && !stopped() {
            let dir = dir.join(format!("side-by-side-{}", number + 1));
            match Fleet::start(program, &dir, scenario, candidate) {
                Ok(fleet) => fleets.push((candidate, fleet)),
                Err(error) => problems.push(format!("{}, for latency: {error}", candidate.name)),
            }
        }
    }
    let mut latencies = Latencies::default();
    if !stopped() && !fleets.is_empty() {
        tell(&format!("latency: all side by side, {:.0} s", strategies.latency.as_secs_f64()));
        match latency::side_by_side(scenario, strategies, &fleets, meter) {
            Ok(all) => latencies = all,
            Err(error) => problems.push(format!("latency: {error}")),
        }
    }
    let mut ways = Vec::new();
    for candidate in scenario.policies.iter().filter(|candidate| candidate.sessions != Some(Kept::None)) {
        let mut way = Way {
            policy: candidate.name.clone(),
            kept: candidate.sessions.unwrap_or(Kept::Memory),
            not_run: missing(candidate),
            added: latencies.added(&candidate.name, scenario.seed),
            memory: Vec::new(),
            revoked: None,
            other_service: None,
            cookie_bytes: None,
        };
        let own = fleets.iter().find(|(other, _)| other.name == candidate.name);
        if let Some((_, fleet)) = own.filter(|_| !stopped()) {
            tell(&format!("revocation: {}", candidate.name));
            if let Err(error) = revocation(fleet, &mut way, strategies, &stopped) {
                problems.push(format!("{}, revocation: {error}", candidate.name));
            }
        }
        ways.push(way);
    }
    let (_, noise) = latencies.noise(scenario.seed);
    // What they hold would be in the way of what follows.
    drop(fleets);
    for (way, (number, candidate)) in ways
        .iter_mut()
        .zip(scenario.policies.iter().enumerate().filter(|(_, candidate)| candidate.sessions != Some(Kept::None)))
    {
        for count in strategies.servers.iter().copied().filter(|_| way.not_run.is_none()) {
            if stopped() {
                break;
            }
            tell(&format!("memory: {} with {count} servers", candidate.name));
            let dir = dir.join(format!("memory-{}-{count}", number + 1));
            match memory::with(program, &dir, scenario, strategies, candidate, count, meter) {
                // Of a part of the users only.
                Ok(_) if stopped() => break,
                Ok(memory) => way.memory.push(memory),
                Err(error) => {
                    problems.push(format!("{}, memory with {count} servers: {error}", candidate.name));
                    break;
                }
            }
        }
    }
    let baseline = scenario.policies.iter().find(|candidate| candidate.sessions == Some(Kept::None));
    let baseline = baseline.map(|candidate| candidate.name.clone()).unwrap_or_default();
    Comparison { baseline, noise, ways, problems, stopped: stopped() }
}

/// Where else a session of this way is good, and how long it is after its user was logged out.
fn revocation(fleet: &Fleet, way: &mut Way, strategies: &Strategies, stopped: &dyn Fn() -> bool) -> io::Result<()> {
    let (other_service, cookie_bytes) = revocation::elsewhere(fleet)?;
    (way.other_service, way.cookie_bytes) = (Some(other_service), Some(cookie_bytes));
    let revoked = revocation::revoke(fleet, way.kept, strategies.life, stopped)?;
    // Nobody has waited for what had not happened when it was stopped.
    way.revoked = Some(revoked).filter(|revoked| revoked.out_after_seconds.is_some() || !stopped());
    Ok(())
}
