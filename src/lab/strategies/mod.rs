//! The textbook's table of ways to keep a session, with numbers.
//!
//! What a run under load shows (sessions lost, skew) is in [`super::run`]. Here is the rest: [`latency`] sends requests
//! to all of them at the same time, [`memory`] starts more and more servers, and [`revocation`] logs somebody out and
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
/// None where it was stopped.
///
/// # Errors
/// What did not start, or could not be asked.
pub fn measure(
    program: &Path,
    dir: &Path,
    scenario: &Scenario,
    strategies: &Strategies,
    meter: &Arc<Meter>,
    tell: &dyn Fn(&str),
) -> io::Result<Option<Comparison>> {
    let stopped = || meter.stop.load(Relaxed);
    let mut fleets: Vec<(&Candidate, Fleet)> = Vec::new();
    for (number, candidate) in scenario.policies.iter().enumerate() {
        if stopped() {
            return Ok(None);
        }
        if missing(candidate).is_none() {
            let dir = dir.join(format!("side-by-side-{}", number + 1));
            fleets.push((candidate, Fleet::start(program, &dir, scenario, candidate)?));
        }
    }
    tell(&format!("latency: all side by side, {:.0} s", strategies.latency.as_secs_f64()));
    let latencies = latency::side_by_side(scenario, strategies, &fleets, meter)?;
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
        if let Some((_, fleet)) = fleets.iter().find(|(other, _)| other.name == candidate.name) {
            tell(&format!("revocation: {}", candidate.name));
            let (other_service, cookie_bytes) = revocation::elsewhere(fleet)?;
            (way.other_service, way.cookie_bytes) = (Some(other_service), Some(cookie_bytes));
            way.revoked = Some(revocation::revoke(fleet, way.kept, strategies.life, &stopped)?);
        }
        ways.push(way);
    }
    let (baseline, noise) = latencies.noise(scenario.seed);
    // What they hold would be in the way of what follows.
    drop(fleets);
    for (way, (number, candidate)) in ways
        .iter_mut()
        .zip(scenario.policies.iter().enumerate().filter(|(_, candidate)| candidate.sessions != Some(Kept::None)))
    {
        for count in strategies.servers.iter().copied().filter(|_| way.not_run.is_none()) {
            if stopped() {
                return Ok(None);
            }
            tell(&format!("memory: {} with {count} servers", candidate.name));
            let dir = dir.join(format!("memory-{}-{count}", number + 1));
            way.memory.push(memory::with(program, &dir, scenario, strategies, candidate, count, meter)?);
        }
    }
    Ok((!stopped()).then_some(Comparison { baseline, noise, ways }))
}
