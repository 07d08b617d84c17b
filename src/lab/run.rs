//! One scenario, one policy after the other.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::arrivals::Arrival;
use super::fleet::{Fleet, Logged, missing};
use super::load::{self, Meter, Outcome};
use super::scenario::{Candidate, Scenario};
use super::sockets::{self, Connection, Seen};

/// Between the fleet's being ready and the first request.
const BREATH: Duration = Duration::from_millis(200);
/// How often is looked whether to stop.
const PACE: Duration = Duration::from_millis(50);

/// What was seen of one policy.
#[derive(Debug, Default)]
pub struct Measured {
    pub policy: String,
    pub outcomes: Vec<Outcome>,
    /// What happened: seconds after the beginning, seconds until it was done, what.
    pub events: Vec<Happened>,
    /// Requests by server's number, as the servers' own logs say.
    pub logged: BTreeMap<u32, u64>,
    /// When requests reached the store that has the items, in seconds after the beginning, as its own log says.
    pub items_logged: Option<Vec<f64>>,
    /// Connections that users kept open, where they keep some.
    pub sockets: Option<Vec<Connection>>,
    /// Whether it was stopped early.
    pub stopped: bool,
    /// Why nothing was measured, if nothing was: something is missing on this machine.
    pub not_run: Option<String>,
}

/// An event as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    /// Seconds after the beginning.
    pub at: f64,
    /// Seconds until it was done.
    pub took: f64,
    pub what: String,
    /// Why it was not done, if it was not.
    pub problem: Option<String>,
}

/// Runs a scenario against one candidate; `dir` is for what the processes write.
///
/// # Errors
/// What did not start.
pub fn run(
    program: &Path,
    dir: &Path,
    scenario: &Scenario,
    candidate: &Candidate,
    arrivals: &[Arrival],
    meter: &Arc<Meter>,
) -> io::Result<Measured> {
    if let Some(missing) = missing(candidate) {
        return Ok(Measured { policy: candidate.name.clone(), not_run: Some(missing), ..Measured::default() });
    }
    let fleet = Fleet::start(program, dir, scenario, candidate)?;
    let start = Instant::now() + BREATH;
    // The same moment as a server's log has it.
    let began = (SystemTime::now() + BREATH).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let over = AtomicBool::new(false);
    let (outcomes, events) = std::thread::scope(|scope| {
        let acting = scope.spawn(|| act(&fleet, scenario, start, &|| over.load(Relaxed) || meter.stop.load(Relaxed)));
        let outcomes = match &scenario.websocket {
            Some(websocket) => sockets::hold(fleet.address(), scenario, websocket, start, meter)
                .map(|Seen { outcomes, connections }| (outcomes, Some(connections))),
            None => load::send(fleet.address(), scenario, arrivals, start, meter).map(|outcomes| (outcomes, None)),
        };
        over.store(true, Relaxed);
        // A thread that panics has nothing to tell.
        (outcomes, acting.join().unwrap_or_default())
    });
    let Logged { servers: logged, items } = fleet.stop()?;
    let items_logged = items.map(|times| times.into_iter().map(|at| at - began).collect());
    let stopped = meter.stop.load(Relaxed);
    let (outcomes, sockets) = outcomes?;
    let policy = candidate.name.clone();
    Ok(Measured { policy, outcomes, events, logged, items_logged, sockets, stopped, not_run: None })
}

/// Lets happen what the scenario says, each event once the one before it is done.
fn act(fleet: &Fleet, scenario: &Scenario, start: Instant, is_over: &dyn Fn() -> bool) -> Vec<Happened> {
    let mut happened = Vec::new();
    for event in &scenario.events {
        let due = start + event.at;
        while Instant::now() < due {
            if is_over() {
                return happened;
            }
            std::thread::sleep(PACE.min(due.saturating_duration_since(Instant::now())));
        }
        let began = Instant::now();
        let problem = fleet.act(event.action, is_over).err().map(|error| error.to_string());
        happened.push(Happened {
            at: began.saturating_duration_since(start).as_secs_f64(),
            took: began.elapsed().as_secs_f64(),
            what: event.action.to_string(),
            problem,
        });
    }
    happened
}
