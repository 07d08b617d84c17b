//! Which servers are taken out for what live traffic shows of them: outlier ejection, as a pure core.
//!
//! Two things are looked at: failures in a row, and the share of tries that failed within a window.
//! Who is ejected returns by itself; ejections in a row grow longer. Two bounds keep a fault that all
//! servers share (a database that is down, a client that sends poison) from taking them out: a share
//! of the upstream's ready servers, and that some other server must be doing better. Sessions are worth
//! more than an ejection that helps nobody.
//!
//! Who returns is on trial: until it has shown a number of successes its first failure ejects it again, for
//! longer. That is the half-open state of a circuit breaker, with the slow start to keep the number of those
//! small who meet it.
//!
//! Time and randomness are arguments and nothing in here acts: the supervisor lends what the cores
//! counted and does what is said. Invariants, each looked at by a test: *an ejection ends*; *no more
//! than the share is ejected*; *somebody else does better*.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::plan::OutlierPlan;

/// Parts that the window is cut into: what is older than it is forgotten in steps of this size.
const PARTS: u32 = 10;
/// Ejections last up to one part in so many longer, at random, so that servers that went together do
/// not come back together.
const JITTER: u32 = 10;

/// What live traffic has shown of one server, counted since its beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tries that have ended, one way or the other.
    pub tries: u64,
    /// Those of them that count against the server.
    pub faults: u64,
}

/// One server as the supervisor sees it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub counts: Counts,
    /// Faults since the last success.
    pub in_a_row: u32,
    /// Whether checks find it healthy.
    pub healthy: bool,
    /// Whether no order holds it back.
    pub ready: bool,
}

/// Why a server was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// So many failures in a row.
    Consecutive(u32),
    /// So many of so many tries in the window.
    Rate { faults: u64, tries: u64 },
    /// The first after it had come back from an ejection.
    Trial,
}

impl Reason {
    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Consecutive(_) => "consecutive",
            Self::Rate { .. } => "rate",
            Self::Trial => "trial",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Consecutive(failures) => write!(f, "{failures} failures in a row"),
            Self::Rate { faults, tries } => write!(f, "{faults} of {tries} requests failed"),
            Self::Trial => f.write_str("a failure right after its return"),
        }
    }
}

/// An ejection under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejection {
    pub reason: Reason,
    pub since: Duration,
    pub until: Duration,
    /// 1 for the first in a row.
    pub number: u32,
}

/// What has to be done for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ejected(Ejection),
    Returned,
}

/// What is remembered of one server.
#[derive(Debug, Clone, Default)]
pub struct Outlier {
    /// Counts at the beginnings of the window's parts, oldest first.
    window: VecDeque<(Duration, Counts)>,
    ejection: Option<Ejection>,
    /// What had been counted when it came back, while it is on trial.
    trial: Option<Counts>,
    /// Ejections in a row so far, and when the last one ended.
    before: u32,
    returned: Duration,
}

/// What outlives the process of it: not what was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ejected {
    pub ejection: Option<Ejection>,
    pub on_trial: bool,
    pub before: u32,
    pub returned: Duration,
}

impl Outlier {
    /// What another process remembered.
    #[must_use]
    pub fn resumed(Ejected { ejection, on_trial, before, returned }: Ejected) -> Self {
        // Another process counts from nothing.
        let trial = on_trial.then(Counts::default);
        Self { window: VecDeque::new(), ejection, before, returned, trial }
    }

    /// What another process has to remember.
    #[must_use]
    pub fn ejected(&self) -> Ejected {
        Ejected { ejection: self.ejection, on_trial: self.is_on_trial(), before: self.before, returned: self.returned }
    }

    /// The ejection under way, if there is one.
    #[must_use]
    pub fn ejection(&self) -> Option<Ejection> {
        self.ejection
    }

    /// Whether the server is back and has yet to show that it does well: its first failure ejects it.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Forgets what was seen of the server up to now, but not that it was ejected.
    pub fn settle(&mut self) {
        self.window.clear();
    }

    /// Ends the ejection, if there is one. The next is in a row with it unless the server does well for
    /// long enough.
    pub fn end(&mut self, now: Duration) -> bool {
        self.settle();
        self.trial = None;
        if self.ejection.take().is_some() {
            self.returned = now;
            return true;
        }
        false
    }

    /// Takes what was counted into the window.
    fn observe(&mut self, plan: &OutlierPlan, now: Duration, counts: Counts) {
        let part = plan.window / PARTS;
        if self.window.back().is_none_or(|(at, _)| now >= *at + part) {
            self.window.push_back((now, counts));
        }
        if self.trial.is_some_and(|before| Self::has_passed(plan, before, counts)) {
            self.trial = None;
        }
        // The one that began before the window is its beginning.
        while self.window.get(1).is_some_and(|(at, _)| *at + plan.window <= now) {
            self.window.pop_front();
        }
    }

    /// Whether a trial is over that began at `before`.
    fn has_passed(plan: &OutlierPlan, before: Counts, counts: Counts) -> bool {
        let successes = counts.tries.saturating_sub(before.tries);
        plan.trial_requests == 0 || (counts.faults <= before.faults && successes >= plan.trial_requests)
    }

    /// Tries and faults in the window.
    fn within(&self, counts: Counts) -> Counts {
        let first = self.window.front().map_or(counts, |(_, first)| *first);
        Counts { tries: counts.tries.saturating_sub(first.tries), faults: counts.faults.saturating_sub(first.faults) }
    }

    /// Why the server should go, if it should.
    fn judge(&self, plan: &OutlierPlan, look: &Look) -> Option<Reason> {
        if plan.consecutive_failures > 0 && look.in_a_row >= plan.consecutive_failures {
            return Some(Reason::Consecutive(look.in_a_row));
        }
        if self.trial.is_some_and(|before| look.in_a_row > 0 || look.counts.faults > before.faults) {
            return Some(Reason::Trial);
        }
        let Counts { tries, faults } = self.within(look.counts);
        let is_many = tries >= plan.min_requests && faults * 100 >= tries * u64::from(plan.failure_percent);
        (plan.failure_percent > 0 && is_many && faults > 0).then_some(Reason::Rate { faults, tries })
    }

    /// Whether the server does well: its newest try was no failure, nor were too many in the window.
    fn does_well(&self, plan: &OutlierPlan, look: &Look) -> bool {
        look.ready && look.healthy && self.ejection.is_none() && look.in_a_row == 0 && self.judge(plan, look).is_none()
    }

    fn eject(&mut self, plan: &OutlierPlan, now: Duration, reason: Reason, random: u64) -> Ejection {
        // The first, or the first after it did well for as long as an ejection may last.
        if self.before == 0 || now >= self.returned + plan.max_ejection {
            self.before = 0;
        }
        self.before = self.before.saturating_add(1);
        let lasts = plan.ejection.saturating_mul(self.before).min(plan.max_ejection);
        let share = (random >> 32) as u32;
        let jitter = (lasts / JITTER).mul_f64(f64::from(share) / f64::from(u32::MAX));
        let ejection = Ejection { reason, since: now, until: now + lasts + jitter, number: self.before };
        self.ejection = Some(ejection);
        self.trial = None;
        self.settle();
        ejection
    }
}

/// Looks at all servers of an upstream. The answer says what changes, by position. With no `plan`
/// nobody is ejected and everybody returns.
pub fn step(
    plan: Option<&OutlierPlan>,
    now: Duration,
    mut random: impl FnMut() -> u64,
    servers: &mut [(Outlier, Look)],
) -> Vec<(usize, Change)> {
    let mut changes = Vec::new();
    for (i, (outlier, look)) in servers.iter_mut().enumerate() {
        let over = outlier.ejection.is_some_and(|ejection| plan.is_none() || now >= ejection.until);
        if over && outlier.end(now) {
            // What was counted meanwhile is of before, or of a time when there was nobody else.
            look.in_a_row = 0;
            outlier.trial = plan.filter(|plan| plan.trial_requests > 0).map(|_| look.counts);
            changes.push((i, Change::Returned));
        }
    }
    let Some(plan) = plan else { return changes };
    for (outlier, look) in &mut *servers {
        if look.healthy && outlier.ejection.is_none() {
            outlier.observe(plan, now, look.counts);
        } else {
            outlier.settle();
        }
    }
    let ready = servers.iter().filter(|(_, look)| look.ready).count();
    let mut ejected = servers.iter().filter(|(outlier, look)| look.ready && outlier.ejection.is_some()).count();
    let mut spared = Vec::new();
    for i in 0..servers.len() {
        let (outlier, look) = &servers[i];
        let candidate = look.ready && look.healthy && outlier.ejection.is_none();
        let Some(reason) = outlier.judge(plan, look).filter(|_| candidate) else { continue };
        let has_room = (ejected + 1) * 100 <= ready * plan.max_ejected_percent as usize;
        let somebody_does_better = servers.iter().any(|(outlier, look)| outlier.does_well(plan, look));
        if has_room && somebody_does_better {
            ejected += 1;
            let ejection = servers[i].0.eject(plan, now, reason, random());
            changes.push((i, Change::Ejected(ejection)));
        } else if reason == Reason::Trial {
            spared.push(i);
        }
    }
    // A trial goes on from a fault that could not eject. It would never end otherwise, and the fault would
    // count whenever there is room again. Only now, so that the order of the servers says nothing.
    for i in spared {
        servers[i].0.trial = Some(servers[i].1.counts);
    }
    changes
}

/// When the servers of an upstream have to be looked at again.
#[must_use]
pub fn next_look(plan: &OutlierPlan, now: Duration, until: Option<Duration>) -> Duration {
    let tick = (plan.window / PARTS).clamp(Duration::from_millis(100), Duration::from_secs(1));
    until.map_or(now + tick, |until| until.min(now + tick))
}

#[cfg(test)]
mod tests;
