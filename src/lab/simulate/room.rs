//! How many requests a server may have at once, and those who wait until it has room: `max_requests` and `queue` of the
//! upstream, as the proxy has them but for its cores, each of which has a line of its own.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Deserialize;

use super::Request;
use crate::lab::scenario::{Candidate, Scenario};
use crate::units;

/// What a queue is where nobody says so, as in a configuration.
const SIZE: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// The limit of each server, and who waits.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) limit: u32,
    size: usize,
    pub(super) patience: Duration,
    /// In the order in which they came.
    pub(super) waiting: VecDeque<Waiter>,
}

/// One who waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) request: Request,
    /// The server that it waits for, where no other would do.
    pub(super) wish: Option<usize>,
}

/// Those keys of an upstream that matter here. That they are right is known from its whole configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    max_requests: Option<toml::Value>,
    queue: QueueKeys,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct QueueKeys {
    size: Option<usize>,
    timeout: Option<String>,
}

impl Default for Room {
    fn default() -> Self {
        Self { limit: u32::MAX, size: SIZE, patience: PATIENCE, waiting: VecDeque::new() }
    }
}

impl Room {
    /// What the upstream of a candidate says of it.
    pub(super) fn of(scenario: &Scenario, candidate: &Candidate) -> Result<Self, String> {
        let mut upstream = scenario.upstream.clone();
        upstream.extend(candidate.upstream.clone());
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", candidate.name);
        let keys: Keys = upstream.try_into().map_err(|error| wrong(&error))?;
        // Anything but a number is "unlimited".
        let limit = keys.max_requests.as_ref().and_then(toml::Value::as_integer);
        let timeout = keys.queue.timeout.as_deref().map(units::parse_duration).transpose();
        Ok(Self {
            limit: limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(u32::MAX),
            size: keys.queue.size.unwrap_or(SIZE),
            patience: timeout.map_err(|error| wrong(&error))?.unwrap_or(PATIENCE),
            waiting: VecDeque::new(),
        })
    }

    /// Puts one at the end, unless as many wait as may.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        if self.waiting.len() < self.size {
            self.waiting.push_back(waiter);
        }
    }

    /// Takes out one who has waited for too long by then.
    pub(super) fn late(&mut self, now: Duration) -> Option<Waiter> {
        let first = self.waiting.front()?;
        (first.request.at.saturating_add(self.patience) <= now).then(|| self.waiting.pop_front()).flatten()
    }
}
