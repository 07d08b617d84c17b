//! The ledgers of deploys: who deploys an upstream, how far that is, and whether they are still there.
//!
//! Pure: values and a clock that is lent. A command reports each phase before it begins it and is heard from
//! again within its lease, or it is taken for dead; what follows from that for servers is decided in
//! [`super::deploys`]. No ledger holds anything that could be run.
//!
//! Kept in the state file. Moments are those of one process: in the next one a lease begins anew, since
//! nobody could report while there was none.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::{Deploy, DeployPhase, DeployReport, DeployTurn};

/// By name of the upstream.
pub(super) type Ledgers = BTreeMap<String, Ledger>;

/// One deploy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ledger {
    id: String,
    pub(super) kind: String,
    pub(super) by: String,
    /// Unix seconds.
    pub(super) began: u64,
    lease: Duration,
    pub(super) healthy_within: Duration,
    pub(super) turns: Vec<Turn>,
    notes: Value,
    /// Whether the command is taken for dead.
    pub(super) orphaned: bool,
    /// When the command was last heard from.
    #[serde(skip)]
    heard: Option<Duration>,
    /// Whether it was complained about servers that do not come back.
    #[serde(skip)]
    pub(super) complained: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Turn {
    pub(super) server: String,
    pub(super) phase: DeployPhase,
    /// Whether it is out until it is seen healthy, because nobody is left to take it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) held: bool,
}

/// What a new ledger says.
pub(super) struct Opened<'a> {
    pub(super) id: String,
    pub(super) kind: &'a str,
    pub(super) by: &'a str,
    pub(super) began: u64,
    pub(super) lease: Duration,
    pub(super) healthy_within: Duration,
    pub(super) servers: &'a [String],
    pub(super) notes: Value,
}

impl Ledger {
    pub(super) fn open(opened: Opened<'_>, now: Duration) -> Self {
        let Opened { id, kind, by, began, lease, healthy_within, servers, notes } = opened;
        let turn = |server: &String| Turn { server: server.clone(), phase: DeployPhase::Waiting, held: false };
        Self {
            id,
            kind: kind.to_owned(),
            by: by.to_owned(),
            began,
            lease,
            healthy_within,
            turns: servers.iter().map(turn).collect(),
            notes,
            orphaned: false,
            heard: Some(now),
            complained: false,
        }
    }

    /// Takes a report in. Whether anything but the time of it is new.
    ///
    /// # Errors
    /// Why the command has to stop.
    pub(super) fn report(&mut self, report: &DeployReport, now: Duration) -> Result<bool, String> {
        if report.id != self.id {
            return Err(format!("{} goes on with this deploy", self.by));
        }
        if self.orphaned {
            // Servers may have been taken back meanwhile: what it believes of them is no longer true.
            return Err("this command has not reported for too long: go on with --attach".to_owned());
        }
        let turns = report.turns.iter().map(|wanted| {
            let at = self.turns.iter().position(|turn| turn.server == wanted.server);
            at.map(|at| (at, wanted.phase)).ok_or_else(|| format!("`{}` is no server of this deploy", wanted.server))
        });
        let turns = turns.collect::<Result<Vec<_>, _>>()?;
        for (at, phase) in &turns {
            self.turns[*at].phase = *phase;
        }
        if let Some(notes) = &report.notes {
            self.notes = notes.clone();
        }
        self.heard = Some(now);
        Ok(!turns.is_empty() || report.notes.is_some())
    }

    /// Somebody goes on with it.
    ///
    /// # Errors
    /// The command that does is alive.
    pub(super) fn attach(
        &mut self,
        id: String,
        by: &str,
        lease: Option<Duration>,
        now: Duration,
    ) -> Result<(), String> {
        self.is_left(now, "attached to")?;
        (self.id, self.by) = (id, by.to_owned());
        self.lease = lease.unwrap_or(self.lease);
        (self.orphaned, self.complained, self.heard) = (false, false, Some(now));
        for turn in &mut self.turns {
            turn.held = false;
        }
        Ok(())
    }

    /// Whether somebody else may end it.
    ///
    /// # Errors
    /// The command that does it is alive, and ends it in good order when it is interrupted.
    pub(super) fn may_be_abandoned(&self, now: Duration) -> Result<(), String> {
        self.is_left(now, "abandoned")
    }

    fn is_left(&self, now: Duration, what: &str) -> Result<(), String> {
        if self.orphaned {
            return Ok(());
        }
        Err(format!(
            "{} is at it, and reported {} s ago: a deploy can be {what} once its command has been silent for {} s",
            self.by,
            self.silent(now).as_secs(),
            self.lease.as_secs()
        ))
    }

    /// How long nothing was heard.
    pub(super) fn silent(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard.unwrap_or(now))
    }

    /// Whether the command has just been found dead.
    pub(super) fn lapses(&mut self, now: Duration) -> bool {
        let heard = *self.heard.get_or_insert(now);
        let lapses = !self.orphaned && now.saturating_sub(heard) >= self.lease;
        self.orphaned |= lapses;
        lapses
    }

    /// Whether servers have been out for longer than they should be, for the first time.
    pub(super) fn complains(&mut self, now: Duration) -> bool {
        let late = self.orphaned && self.silent(now) >= self.lease + self.healthy_within;
        late && self.turns.iter().any(|turn| turn.held) && !std::mem::replace(&mut self.complained, true)
    }

    pub(super) fn turn_mut(&mut self, server: &str) -> Option<&mut Turn> {
        self.turns.iter_mut().find(|turn| turn.server == server)
    }

    pub(super) fn is_of(&self, id: &str) -> bool {
        self.id == id
    }

    pub(super) fn shown(&self) -> Vec<DeployTurn> {
        self.turns.iter().map(|turn| DeployTurn { server: turn.server.clone(), phase: turn.phase }).collect()
    }

    pub(super) fn told(&self) -> Deploy {
        Deploy { id: self.id.clone(), kind: self.kind.clone(), turns: self.shown(), notes: self.notes.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ledger() -> Ledger {
        let opened = Opened {
            id: "1".to_owned(),
            kind: "rolling",
            by: "ann",
            began: 7,
            lease: at(15),
            healthy_within: at(60),
            servers: &["a".to_owned(), "b".to_owned()],
            notes: Value::Null,
        };
        Ledger::open(opened, at(100))
    }

    fn report(id: &str, server: &str, phase: DeployPhase) -> DeployReport {
        let turn = DeployTurn { server: server.to_owned(), phase };
        DeployReport { id: id.to_owned(), turns: vec![turn], notes: None }
    }

    #[test]
    fn who_reports_lives() {
        let mut ledger = ledger();
        assert!(!ledger.lapses(at(114)));
        assert_eq!(ledger.report(&DeployReport { id: "1".to_owned(), ..Default::default() }, at(114)), Ok(false));
        assert!(!ledger.lapses(at(128)));
        assert_eq!(ledger.report(&report("1", "a", DeployPhase::Hook), at(128)), Ok(true));
        assert!(ledger.report(&report("1", "z", DeployPhase::Hook), at(128)).unwrap_err().contains("`z`"));
        assert!(
            ledger.attach("2".to_owned(), "bob", None, at(130)).unwrap_err().contains("ann is at it, and reported 2 s")
        );
        assert!(ledger.lapses(at(143)) && !ledger.lapses(at(144)), "once");
        // Servers may have come back by now, so its word no longer counts.
        assert!(ledger.report(&report("1", "a", DeployPhase::Done), at(145)).is_err());
        assert_eq!(ledger.turns[0].phase, DeployPhase::Hook);
    }

    #[test]
    fn one_goes_on_and_the_one_before_does_not() {
        let mut ledger = ledger();
        assert!(ledger.lapses(at(115)));
        ledger.turns[0].held = true;
        assert!(!ledger.complains(at(174)) && ledger.complains(at(175)) && !ledger.complains(at(176)));
        ledger.attach("2".to_owned(), "bob", None, at(200)).unwrap();
        assert!(!ledger.turns[0].held && !ledger.lapses(at(214)));
        assert!(ledger.report(&report("1", "a", DeployPhase::Done), at(201)).unwrap_err().contains("bob goes on"));
        assert_eq!(ledger.report(&report("2", "a", DeployPhase::Done), at(201)), Ok(true));
    }

    #[test]
    fn a_lease_begins_anew_with_a_process() {
        let text = serde_json::to_string(&ledger()).unwrap();
        let mut read: Ledger = serde_json::from_str(&text).unwrap();
        assert!(!read.lapses(at(3)) && !read.lapses(at(17)) && read.lapses(at(18)));
    }
}
