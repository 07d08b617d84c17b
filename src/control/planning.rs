//! `POST /plan`: what a reload of another configuration would do. Nothing in here changes what is in force
//! but for the sampler that is in the Snapshot while clients are looked at.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::api::{Planned, PlannedClients, PlannedRemoval, PlannedUpstream};
use super::error::CommandError;
use super::forecast::{self, Standing, keeps_apart};
use super::prober;
use super::registry::{Group, Member};
use super::reload::{Load, Source};
use super::supervisor::Supervisor;
use crate::balance::sticky_cookie::Carrier;
use crate::config::plan::{ServerPlan, UpstreamPlan};
use crate::config::{self, Plan};
use crate::upstream::clock;
use crate::upstream::sampler::Sampler;

/// A configuration that was read for [`Supervisor::foretell`].
#[derive(Debug)]
pub(super) struct Proposed {
    file: Plan,
    warnings: Vec<String>,
    /// Whether it takes a sample to tell who would move.
    pub(super) wants_sample: bool,
}

/// Reads a configuration as a reload would: outside the supervisor, which has drains and checks to look after.
pub(super) async fn read(load: Load, name: String, text: String) -> Result<Proposed, CommandError> {
    let loaded = tokio::task::spawn_blocking(move || load(Source::Text { name: &name, text: &text }))
        .await
        .map_err(|error| CommandError::System { doing: "reading the configuration", source: error.into() })?;
    let (file, warnings) = loaded.map_err(|report| CommandError::InvalidConfig { report })?;
    Ok(Proposed { file, warnings, wants_sample: false })
}

impl Supervisor {
    /// Sets a configuration that was read against the one in force.
    pub(super) fn propose(&self, mut proposed: Proposed) -> Proposed {
        super::reload::keep_sessions(&self.file, &mut proposed.file);
        let plan = self.proposed(&proposed.file);
        let moves = |new: &UpstreamPlan| {
            let old = self.plan.upstreams.iter().find(|old| old.name == new.name);
            old.is_some_and(|old| keeps_apart(&old.policy) && changes_clients(old, new))
        };
        proposed.wants_sample = plan.upstreams.iter().any(moves);
        proposed
    }

    /// What would be in force: servers that operators added and removed stay so.
    fn proposed(&self, file: &Plan) -> Plan {
        let mut members = self.members.clone();
        members.prune(file);
        members.over(file)
    }

    /// Begins to look at who comes, for that long.
    pub(super) fn begin_sample(&mut self, lasts: Duration) -> Result<Arc<Sampler>, CommandError> {
        if self.sampling.is_some() {
            return Err(CommandError::Busy { message: "another plan looks at clients now: try again".to_owned() });
        }
        let sampler = Arc::new(Sampler::new(self.plane.orders.len(), prober::random()));
        self.sampling = Some((Arc::clone(&sampler), Instant::now() + lasts));
        self.stale = true;
        Ok(sampler)
    }

    /// Ceases to look when the time is over, whoever wanted to know.
    pub(super) fn end_sample(&mut self) {
        if self.sampling.as_ref().is_some_and(|(_, until)| *until <= Instant::now()) {
            self.sampling = None;
            self.stale = true;
        }
    }

    /// What a reload of `proposed` would do, but for who would move.
    pub(super) fn foretell(&self, proposed: Proposed, looked: Duration) -> Foretold {
        let Proposed { file, warnings, .. } = proposed;
        let plan = self.proposed(&file);
        let diff = config::diff(&self.plan, &plan);
        let (mut upstreams, mut open) = (Vec::new(), Vec::new());
        for old in &self.plan.upstreams {
            let new = plan.upstreams.iter().find(|new| new.name == old.name);
            let Some(group) = self.registry.group(&old.name) else { continue };
            if new.is_some_and(|new| !changes_clients(old, new)) {
                continue;
            }
            let members: Vec<&Member> = self.registry.members_of(&old.name).map(|(_, member)| member).collect();
            let before: Vec<Standing> = members.iter().map(|member| standing(member)).collect();
            let after: Vec<Standing> = new.map(|new| standings(new, &members)).unwrap_or_default();
            upstreams.push(foretell_upstream(group, new, &members, (&before, &after)));
            if let Some(new) = new.filter(|_| keeps_apart(&old.policy)) {
                let (old, new) = (Arc::clone(&group.plan), new.clone());
                open.push(Open { at: upstreams.len() - 1, slot: group.slot(), old: (old, before), new: (new, after) });
            }
        }
        let planned = Planned {
            changes: diff.changes.iter().map(ToString::to_string).collect(),
            needs_restart: diff.needs_restart,
            warnings,
            sample_seconds: looked.as_secs_f64(),
            upstreams,
        };
        Foretold { planned, open }
    }
}

/// What a reload would do, and what has yet to be found out: that takes whole tables of servers.
#[derive(Debug)]
pub(super) struct Foretold {
    planned: Planned,
    open: Vec<Open>,
}

/// An upstream whose clients have servers of their own.
#[derive(Debug)]
struct Open {
    /// Its position in the answer.
    at: usize,
    slot: usize,
    old: (Arc<UpstreamPlan>, Vec<Standing>),
    new: (UpstreamPlan, Vec<Standing>),
}

impl Foretold {
    /// Finds out who would move. Not for a thread that somebody else waits for.
    pub(super) fn finish(self, sampler: Option<&Sampler>) -> Planned {
        let Self { mut planned, open } = self;
        for Open { at, slot, old: (old, before), new: (new, after) } in open {
            let sample = sampler.map(|sampler| sampler.sample(slot)).unwrap_or_default();
            let moved = forecast::moved((&old, &before), (&new, &after), &sample, prober::random());
            planned.upstreams[at].clients = moved.map(|moved| PlannedClients {
                source: if moved.is_live { "live" } else { "synthetic" }.to_owned(),
                clients: moved.clients,
                requests: moved.requests,
                moved_percent: percent(moved.share),
                margin_percent: percent(moved.margin),
                requests_moved_percent: percent(moved.share_of_requests),
            });
        }
        planned
    }
}

fn foretell_upstream(
    group: &Group,
    new: Option<&UpstreamPlan>,
    members: &[&Member],
    (before, after): (&[Standing], &[Standing]),
) -> PlannedUpstream {
    let old = &*group.plan;
    let sessions = group.sticky.as_ref().map(|sticky| {
        let idle = u32::try_from(old.drain.sessions_idle.as_secs()).unwrap_or(u32::MAX);
        sticky.ledger.count(clock::seconds().saturating_sub(idle))
    });
    let of = |uid: u32| {
        let counts = sessions.as_ref()?;
        Some(counts.iter().find(|(server, _)| *server == uid).map_or(0, |(_, count)| *count))
    };
    let opens = new.is_some_and(|new| opens_cookies_of(old, new));
    let namesake = |member: &Member| new.and_then(|new| new.servers.iter().find(|s| *s.name == *member.server.name));
    // By the name alone it would be another server: nobody is there yet.
    let stays = |member: &Member| namesake(member).is_some_and(|plan| plan.address == member.server.address);
    let at_once = new.map_or(old.drain, |new| new.drain).in_flight;
    let removed: Vec<PlannedRemoval> = members
        .iter()
        .filter(|member| !stays(member))
        .map(|member| PlannedRemoval {
            name: member.server.name.to_string(),
            replaced_by: namesake(member).map(|plan| plan.address.to_string()),
            in_flight: member.server.in_flight(),
            tunnels: member.server.cells.iter().map(|c| c.counts.tunnels.get()).fold(0, u64::wrapping_add),
            cut_after_seconds: at_once.as_secs_f64(),
            sessions: of(member.server.uid),
        })
        .collect();
    let moves = |member: &&&Member| !opens || !stays(member);
    let sessions_moved = sessions
        .as_ref()
        .map(|_| members.iter().filter(moves).filter_map(|member| of(member.server.uid)).sum::<usize>());
    let named = |server: &&Standing| before.iter().find(|old| old.name == server.name);
    let names = |servers: Vec<&Standing>| servers.into_iter().map(|server| server.name.clone()).collect();
    PlannedUpstream {
        name: old.name.clone(),
        policy: old.policy.name().to_owned(),
        new_policy: new.map(|new| new.policy.name()).filter(|name| *name != old.policy.name()).map(str::to_owned),
        added: names(after.iter().filter(|server| named(server).is_none()).collect()),
        weighed: names(
            after.iter().filter(|server| named(server).is_some_and(|old| old.weight != server.weight)).collect(),
        ),
        removed,
        clients: None,
        sessions: sessions.as_ref().map(|counts| {
            members
                .iter()
                .filter_map(|member| counts.iter().find(|(uid, _)| *uid == member.server.uid))
                .map(|(_, n)| n)
                .sum()
        }),
        sessions_moved,
    }
}

/// Whether clients may come to other servers by that, or servers go.
fn changes_clients(old: &UpstreamPlan, new: &UpstreamPlan) -> bool {
    old.policy != new.policy || old.servers != new.servers || old.cookie_keys != new.cookie_keys
}

/// Whether the cookies that `old` has sealed are honoured by `new`.
fn opens_cookies_of(old: &UpstreamPlan, new: &UpstreamPlan) -> bool {
    let (Some(before), Some(now)) = (old.policy.sticky(), new.policy.sticky()) else { return false };
    if before.carrier() != Carrier::Own || now.carrier() != Carrier::Own {
        return before.carrier() == now.carrier();
    }
    let same_key = match old.cookie_keys.first() {
        Some(key) => new.cookie_keys.contains(key),
        None => new.cookie_keys.is_empty(),
    };
    before.name == now.name && same_key
}

/// A server as it is.
fn standing(member: &Member) -> Standing {
    Standing {
        name: member.server.name.to_string(),
        weight: member.server.weight(),
        takes_new: member.state().takes_new(false),
        is_backup: member.server.is_backup(),
        is_new: false,
    }
}

/// The servers of `new` as they would be.
fn standings(new: &UpstreamPlan, members: &[&Member]) -> Vec<Standing> {
    let of = |plan: &ServerPlan| {
        let namesake = members.iter().find(|member| *member.server.name == *plan.name);
        let same = namesake.filter(|member| member.server.address == plan.address);
        Standing {
            name: plan.name.clone(),
            // What an operator has set stays.
            weight: namesake.filter(|member| member.weight_set).map_or(plan.weight, |member| member.server.weight()),
            takes_new: same.is_none_or(|member| member.state().takes_new(false)),
            is_backup: plan.backup,
            is_new: same.is_none(),
        }
    };
    new.servers.iter().map(of).collect()
}

/// With one decimal.
fn percent(share: f64) -> f64 {
    (share * 1_000.0).round() / 10.0
}
