//! What deploys mean for servers: who may begin one, and what becomes of servers whose command has died.
//!
//! A server that only drained is ready again: nothing was done to it. One whose hook had begun may be in any
//! state, so it stays out until its check has seen it healthy with a fresh row of successes; without a check
//! nobody can know, and it stays out until somebody says so.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tracing::{info, warn};

use super::api::{AttachDeploy, Deadlines, Deploy, DeployPhase, DeployReport, DeployStatus, EndDeploy, NewDeploy};
use super::error::CommandError;
use super::ledger::{Ledger, Opened, Turn};
use super::prober;
use super::supervisor::Supervisor;
use crate::units;
use crate::upstream::{Admin, Operational};

/// How long a command may be silent if it says nothing else, and at least and at most.
const LEASE: (Duration, Duration, Duration) =
    (Duration::from_secs(15), Duration::from_secs(1), Duration::from_secs(600));
/// When it is complained about a server that does not come back, if nothing else is said.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);
/// Largest notes of a command, in bytes of JSON: they name every server of the upstream a few times.
pub(super) const MOST_NOTES: usize = 1 << 20;

/// What is said of the deploy of an upstream.
#[derive(Debug)]
pub(super) enum DeployOrder {
    Open(NewDeploy),
    Report(DeployReport),
    Attach(AttachDeploy),
    End(EndDeploy),
}

impl Supervisor {
    pub(super) fn deploy(&mut self, upstream: &str, order: DeployOrder) -> Result<Deploy, CommandError> {
        if self.registry.group(upstream).is_none() {
            return Err(CommandError::no_upstream(upstream));
        }
        let now = self.now();
        let told = match order {
            DeployOrder::Open(new) => return self.open_deploy(upstream, new),
            DeployOrder::End(end) => return self.end_deploy(upstream, &end),
            DeployOrder::Report(report) => {
                let ledger = self.ledger(upstream)?;
                let is_new = ledger.report(&report, now).map_err(conflict)?;
                let told = ledger.told();
                if !is_new {
                    return Ok(told);
                }
                told
            }
            DeployOrder::Attach(AttachDeploy { by, lease }) => {
                let lease = lease.map(|text| lease_of(Some(&text))).transpose()?;
                let ledger = self.ledger(upstream)?;
                ledger.attach(new_id(), &by, lease, now).map_err(conflict)?;
                let told = ledger.told();
                info!(upstream, by, "somebody goes on with the deploy");
                told
            }
        };
        self.store.keep_deploys(&self.deploys);
        Ok(told)
    }

    fn ledger(&mut self, upstream: &str) -> Result<&mut Ledger, CommandError> {
        let missing = || CommandError::NotFound { what: format!("nobody deploys upstream `{upstream}`") };
        self.deploys.get_mut(upstream).ok_or_else(missing)
    }

    fn open_deploy(&mut self, upstream: &str, new: NewDeploy) -> Result<Deploy, CommandError> {
        if self.stopping.is_some() {
            return Err(CommandError::stopping());
        }
        let now = self.now();
        if let Some(ledger) = self.deploys.get(upstream) {
            let since = unix().saturating_sub(ledger.began);
            let silent = if ledger.orphaned { ", whose command has died" } else { "" };
            return Err(conflict(format!(
                "{} deploys `{upstream}` since {since} s ago{silent}: `evenkeel deploy {upstream} --attach` goes on with \
                 that once its command is gone, and `--abandon` ends it",
                ledger.by
            )));
        }
        let NewDeploy { by, kind, servers, lease, healthy_within, notes } = new;
        if !matches!(kind.as_str(), "rolling" | "replace") {
            return Err(bad(format!("`{kind}` is no kind of deploy: write `rolling` or `replace`")));
        }
        let lease = lease_of(lease.as_deref())?;
        // Servers that replace others are to come.
        for server in servers.iter().filter(|_| kind == "rolling") {
            self.registry.find(upstream, server)?;
        }
        small(&notes)?;
        let healthy_within = time("healthy_within", healthy_within.as_deref(), HEALTHY_WITHIN)?;
        info!(upstream, by, kind, "a deploy has begun");
        let (id, began) = (new_id(), unix());
        let opened = Opened { id, kind: &kind, by: &by, began, lease, healthy_within, servers: &servers, notes };
        let ledger = Ledger::open(opened, now);
        let told = ledger.told();
        self.deploys.insert(upstream.to_owned(), ledger);
        self.store.keep_deploys(&self.deploys);
        Ok(told)
    }

    fn end_deploy(&mut self, upstream: &str, end: &EndDeploy) -> Result<Deploy, CommandError> {
        let now = self.now();
        let ledger = self.ledger(upstream)?;
        match &end.id {
            Some(id) if !ledger.is_of(id) => {
                return Err(conflict(format!("{} goes on with this deploy", ledger.by)));
            }
            None => ledger.may_be_abandoned(now).map_err(conflict)?,
            Some(_) => {}
        }
        let told = ledger.told();
        self.end_canary(upstream);
        let ledger = self.ledger(upstream)?;
        match &end.id {
            Some(_) => info!(upstream, "the deploy is over"),
            None => {
                info!(upstream, "the deploy is abandoned by order of an operator");
                let is_rolling = ledger.kind == "rolling";
                let is_out = |turn: &&Turn| {
                    if is_rolling { turn.phase.is_out() || turn.held } else { turn.phase != DeployPhase::Done }
                };
                let out: Vec<String> = ledger.turns.iter().filter(is_out).map(|turn| turn.server.clone()).collect();
                for server in out {
                    let Ok(uid) = self.registry.find(upstream, &server) else { continue };
                    let is_in_service =
                        self.registry.member(uid).is_some_and(|member| member.state().admin == Admin::Ready);
                    if is_rolling {
                        self.make_ready(uid);
                    } else if !is_in_service {
                        let _ = self.remove(upstream, &server, &Deadlines::default());
                    }
                }
                self.take_out();
            }
        }
        self.deploys.remove(upstream);
        self.store.keep_deploys(&self.deploys);
        Ok(told)
    }

    /// Servers have come into service in the place of others: nobody takes them away any more because their
    /// deploy has not ended well.
    pub(super) fn are_swapped_in(&mut self, upstream: &str, servers: &[String]) {
        let Some(ledger) = self.deploys.get_mut(upstream).filter(|ledger| ledger.kind != "rolling") else { return };
        for turn in ledger.turns.iter_mut().filter(|turn| servers.contains(&turn.server)) {
            turn.phase = DeployPhase::Done;
        }
        self.store.keep_deploys(&self.deploys);
    }

    /// Whether time alone may mean something for a deploy.
    pub(super) fn deploys(&self) -> bool {
        !self.deploys.is_empty()
    }

    /// An operator has said what a server is to be: nobody else decides it then.
    pub(super) fn release(&mut self, upstream: &str, server: &str) {
        if let Some(turn) = self.deploys.get_mut(upstream).and_then(|ledger| ledger.turn_mut(server))
            && std::mem::replace(&mut turn.held, false)
        {
            self.store.keep_deploys(&self.deploys);
        }
    }

    /// Looks after servers whose command has died.
    pub(super) fn tend_deploys(&mut self) {
        // A command that lives reports to the process that serves.
        if self.row.is_over() || self.row.is_inheriting() {
            return;
        }
        let now = self.now();
        let mut changed = false;
        let gone = |name: &String| self.registry.group(name).is_none();
        if let Some(name) = self.deploys.keys().find(|name| gone(name)).cloned() {
            self.deploys.remove(&name);
            changed = true;
        }
        let lapsed = |(name, ledger): (&String, &mut Ledger)| ledger.lapses(now).then(|| name.clone());
        let lapsed: Vec<String> = self.deploys.iter_mut().filter_map(lapsed).collect();
        for upstream in lapsed {
            changed = true;
            self.orphan(&upstream);
        }
        changed |= self.take_back_held();
        for (upstream, ledger) in &mut self.deploys {
            if ledger.complains(now) {
                let servers = ledger.turns.iter().filter(|turn| turn.held).map(|turn| turn.server.as_str());
                let servers = servers.collect::<Vec<_>>().join(", ");
                warn!(
                    upstream,
                    servers,
                    "servers stay out: the command that deployed them has died and they are not healthy; they come back once they are, or with `evenkeel ready`"
                );
            }
        }
        if changed {
            self.store.keep_deploys(&self.deploys);
        }
    }

    /// The command of a deploy has died.
    fn orphan(&mut self, upstream: &str) {
        let Some(ledger) = self.deploys.get(upstream) else { return };
        let (by, seconds) = (ledger.by.clone(), ledger.silent(self.now()).as_secs());
        warn!(
            upstream,
            by,
            seconds,
            "the command that deploys has not reported: `evenkeel deploy {upstream} --attach` goes on, `--abandon` ends it"
        );
        if ledger.kind != "rolling" {
            self.end_canary(upstream);
            // New servers that were not swapped in get no clients; old ones that drain are the drain's.
            return;
        }
        let turns: Vec<(String, DeployPhase)> =
            ledger.turns.iter().map(|turn| (turn.server.clone(), turn.phase)).collect();
        for (server, phase) in turns.into_iter().filter(|(_, phase)| phase.is_out()) {
            let Ok(uid) = self.registry.find(upstream, &server) else { continue };
            let Some(before) = self.registry.member(uid).map(|member| member.state().admin) else { continue };
            let held = phase != DeployPhase::Draining && before != Admin::Ready;
            if held {
                self.hold_out(uid);
            } else {
                self.make_ready(uid);
            }
            if let Some(turn) = self.deploys.get_mut(upstream).and_then(|ledger| ledger.turn_mut(&server)) {
                turn.held = held;
                if phase == DeployPhase::Draining {
                    turn.phase = DeployPhase::Waiting;
                }
            }
        }
    }

    /// Keeps a server out whose check is looked at.
    fn hold_out(&mut self, uid: u32) {
        let Some((group, member)) = self.registry.both(uid) else { return };
        let is_checked = group.plan.check.is_some();
        let server = Arc::clone(&member.server);
        if !is_checked {
            warn!(upstream = %server.upstream, server = %server.name, "server stays out: its deploy has died, and no check can say whether it is back; `evenkeel ready` takes it back");
            return;
        }
        info!(upstream = %server.upstream, server = %server.name, "server stays out until its check succeeds: its deploy has died");
        if let Some(member) = self.registry.member_mut(uid) {
            member.drain = None;
            member.set_admin(Admin::Drained);
        }
        self.check_anew(uid);
        self.changed(&server);
    }

    /// Takes servers back that were held out and are healthy. Whether there was one.
    fn take_back_held(&mut self) -> bool {
        let held = self.deploys.iter().filter(|(_, ledger)| ledger.orphaned);
        let held = held.flat_map(|(upstream, ledger)| {
            let turns = ledger.turns.iter().filter(|turn| turn.held);
            turns.map(|turn| (upstream.clone(), turn.server.clone()))
        });
        let held: Vec<(String, String)> = held.collect();
        let mut changed = false;
        for (upstream, server) in held {
            let Ok(uid) = self.registry.find(&upstream, &server) else { continue };
            let Some((group, member)) = self.registry.both(uid) else { continue };
            let state = member.state();
            let is_seen = group.plan.check.is_some() && state.admin == Admin::Drained;
            if !is_seen || state.operational != Operational::Healthy || member.asked.wants() {
                continue;
            }
            info!(upstream, server, "server is healthy and comes back, although its deploy has died");
            self.make_ready(uid);
            if let Some(turn) = self.deploys.get_mut(&upstream).and_then(|ledger| ledger.turn_mut(&server)) {
                turn.held = false;
                if turn.phase == DeployPhase::Returning {
                    turn.phase = DeployPhase::Done;
                }
            }
            changed = true;
        }
        changed
    }

    pub(super) fn deploy_status(&self, upstream: &str) -> Option<DeployStatus> {
        let ledger = self.deploys.get(upstream)?;
        let why = |server: &str| {
            let uid = self.registry.find(upstream, server).ok();
            let both = uid.and_then(|uid| self.registry.both(uid));
            both.map_or_else(String::new, |(group, member)| match &member.last_error {
                _ if group.plan.check.is_none() => ": no check can say whether it is back".to_owned(),
                Some(error) => format!(": {error}"),
                None if member.asked.wants() => ": it asks for its drain".to_owned(),
                None => ": its check has not succeeded yet".to_owned(),
            })
        };
        let held = ledger.turns.iter().filter(|turn| turn.held);
        Some(DeployStatus {
            kind: ledger.kind.clone(),
            by: ledger.by.clone(),
            seconds: unix().saturating_sub(ledger.began),
            silent_seconds: ledger.silent(self.now()).as_secs(),
            orphaned: ledger.orphaned,
            turns: ledger.shown(),
            out: held.map(|turn| format!("{}{}", turn.server, why(&turn.server))).collect(),
        })
    }
}

fn new_id() -> String {
    format!("{:016x}", prober::random())
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn small(notes: &Value) -> Result<(), CommandError> {
    if notes.to_string().len() > MOST_NOTES { Err(bad("the notes are too large".to_owned())) } else { Ok(()) }
}

fn lease_of(text: Option<&str>) -> Result<Duration, CommandError> {
    let lease = time("lease", text, LEASE.0)?;
    if (LEASE.1..=LEASE.2).contains(&lease) { Ok(lease) } else { Err(bad("a lease is 1s to 10m".to_owned())) }
}

fn time(name: &str, text: Option<&str>, or: Duration) -> Result<Duration, CommandError> {
    text.map_or(Ok(or), |text| units::parse_duration(text).map_err(|error| bad(format!("{name}: {error}"))))
}

fn bad(message: String) -> CommandError {
    CommandError::BadRequest { message }
}

fn conflict(message: String) -> CommandError {
    CommandError::Conflict { message }
}

#[cfg(test)]
mod tests;
