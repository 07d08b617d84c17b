//! Servers that come and go by order of an operator, and marks that outlive the process.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::info;

use super::api::{Deadlines, NewServer};
use super::asked::By;
use super::change::{MOST_WEIGHT, deadlines};
use super::error::CommandError;
use super::members::{Kept, Mark};
use super::supervisor::Supervisor;
use crate::config;
use crate::config::plan::{ServerPlan, UpstreamPlan};
use crate::upstream::Admin;

impl Supervisor {
    /// Brings a server into service that the file does not have, or one of the file that was removed.
    pub(super) fn add(&mut self, upstream: &str, server: &NewServer) -> Result<u32, CommandError> {
        if self.stopping.is_some() {
            return Err(CommandError::stopping());
        }
        if server.weight.is_some_and(|weight| weight > MOST_WEIGHT) {
            return Err(bad(format!("the weight is too large: it may be 0 to {MOST_WEIGHT}")));
        }
        if server.max_requests == Some(0) {
            return Err(bad("`max_requests` is zero: write a number from 1".to_owned()));
        }
        let missing = || CommandError::NotFound { what: format!("there is no upstream `{upstream}`") };
        let in_force = self.plan.upstreams.iter().find(|u| u.name == upstream).ok_or_else(missing)?;
        let name = match (&server.name, &server.address) {
            (Some(name), _) => name.clone(),
            (None, Some(address)) => config::server(None, address, 1).map_err(bad)?.name,
            (None, None) => return Err(bad("say the name of the server, or its address, or both".to_owned())),
        };
        if let Some(there) = in_force.servers.iter().find(|s| s.name == name) {
            let address = &there.address;
            return Err(bad(format!("upstream `{upstream}` has a server `{name}` already, at {address}")));
        }
        let file = self.file.upstreams.iter().find(|u| u.name == upstream);
        let configured = file.and_then(|u| u.servers.iter().find(|s| s.name == name)).cloned();
        if let Some(configured) = configured {
            let address = &configured.address;
            if server.address.as_ref().is_some_and(|wanted| *wanted != address.to_string()) {
                return Err(bad(format!(
                    "the configuration has a server `{name}` of upstream `{upstream}` at {address}: \
                     leave the address out, or choose another name"
                )));
            }
            if server.backup || server.max_requests.is_some() {
                return Err(bad(format!(
                    "the configuration says whether server `{name}` of upstream `{upstream}` is a backup, and its \
                     `max_requests`: leave them out"
                )));
            }
            self.members.bring_back(upstream, &name);
        } else {
            let Some(address) = &server.address else {
                return Err(bad(format!(
                    "upstream `{upstream}` has no server `{name}` that was removed: say its address"
                )));
            };
            let plan = config::server(server.name.as_deref(), address, server.weight.unwrap_or(1)).map_err(bad)?;
            if let Some(other) = in_force.servers.iter().find(|s| s.address == plan.address) {
                return Err(bad(format!("server `{}` of upstream `{upstream}` has that address", other.name)));
            }
            let plan = ServerPlan { backup: server.backup, ..plan };
            self.members.add(upstream, &plan, server.max_requests);
        }
        info!(upstream, server = %name, "server added by order of an operator");
        self.put_members_in_force(upstream);
        let uid = self.registry.find(upstream, &name)?;
        if let Some(weight) = server.weight {
            self.set_weight(uid, weight);
        }
        if server.standby {
            // Nobody has heard of it yet: the Snapshot comes after this.
            member_of(self, uid, |member| member.set_admin(Admin::Drained));
        }
        Ok(uid)
    }

    /// Drains a server; [`Self::take_out`] does the rest.
    pub(super) fn remove(&mut self, upstream: &str, server: &str, wanted: &Deadlines) -> Result<u32, CommandError> {
        let uid = self.registry.find(upstream, server)?;
        if self.registry.members_of(upstream).all(|(other, member)| other == uid || member.leaving) {
            return Err(bad(format!(
                "`{server}` is the last server of upstream `{upstream}`: drain or disable it, or take the upstream \
                 out of the configuration"
            )));
        }
        let (group, member) = self.registry.both(uid).ok_or_else(|| CommandError::no_server(upstream, server))?;
        let running = member.drain.as_ref().map(|running| running.drain.limits());
        let limits = deadlines(wanted, running.unwrap_or(group.plan.drain))?;
        if member.state().admin == Admin::Disabled {
            self.disable(uid, limits);
        } else {
            self.drain(uid, limits, By::Operator);
        }
        if let Some(member) = self.registry.member_mut(uid) {
            member.leaving = true;
        }
        self.stale = true;
        self.step_drain(uid);
        Ok(uid)
    }

    /// Takes servers out that were to be removed and are drained.
    pub(super) fn take_out(&mut self) {
        if self.row.is_over() {
            return;
        }
        for uid in self.registry.gone() {
            let Some(member) = self.registry.member(uid) else { continue };
            let server = Arc::clone(&member.server);
            // A reload may have made it the last: then it stays as it is until there is another.
            if self.registry.members_of(&server.upstream).all(|(_, other)| other.leaving) {
                continue;
            }
            let (upstream, name) = (&*server.upstream, &*server.name);
            let file = self.file.upstreams.iter().find(|u| u.name == upstream);
            let configured = file.is_some_and(|u| u.servers.iter().any(|s| s.name == name));
            self.members.remove(upstream, name, configured);
            info!(upstream, server = name, "server removed by order of an operator");
            self.put_members_in_force(upstream);
        }
    }

    /// Puts in force which servers all upstreams have now, where that has changed.
    pub(super) fn put_all_members_in_force(&mut self) {
        let plan = self.members.over(&self.file);
        let is_changed = |upstream: &&UpstreamPlan| !self.plan.upstreams.contains(upstream);
        let changed: Vec<String> = plan.upstreams.iter().filter(is_changed).map(|u| u.name.clone()).collect();
        for name in changed {
            self.put_members_in_force(&name);
        }
    }

    /// Puts in force which servers an upstream has now.
    fn put_members_in_force(&mut self, upstream: &str) {
        let plan = self.members.over(&self.file);
        let Some(changed) = plan.upstreams.iter().find(|u| u.name == upstream).cloned() else { return };
        let sticky = self.registry.group(upstream).and_then(|group| group.sticky.clone());
        let applied = self.registry.apply(&changed, sticky, self.plane.orders.len());
        self.leave(&changed, applied.gone);
        self.plan = plan;
        for uid in applied.new {
            self.begin(uid);
        }
        self.stale = true;
    }

    /// Marks the servers of a new process as those of the old one were.
    pub(super) fn restore(&mut self, uids: &[u32]) {
        if std::mem::replace(&mut self.restored, true) {
            return;
        }
        for uid in uids {
            let Some(member) = self.registry.member(*uid) else { continue };
            let server = Arc::clone(&member.server);
            let Some(mark) = self.members.mark_of(&server.upstream, &server.name).cloned() else { continue };
            if let Some(weight) = mark.weight {
                self.set_weight(*uid, weight);
            }
            match mark.admin {
                None => {}
                Some(Kept::Draining) => self.drain_on(*uid),
                Some(Kept::Disabled) => self.disable(*uid, None),
                Some(Kept::Drained) => {
                    member_of(self, *uid, |member| member.set_admin(Admin::Drained));
                    info!(upstream = %server.upstream, server = %server.name, "server is drained, as it was before");
                    self.changed(&server);
                }
            }
            member_of(self, *uid, |member| member.leaving = mark.leaving);
        }
    }

    /// Goes on with a drain of the process before. Which sessions there are is known only once they ask
    /// again, so until then one may be there.
    fn drain_on(&mut self, uid: u32) {
        self.drain(uid, None, By::Operator);
        let idle = self.registry.both(uid).map(|(group, _)| group.plan.drain.sessions_idle).unwrap_or_default();
        let until = self.now() + idle;
        member_of(self, uid, |member| {
            if let Some(running) = &mut member.drain
                && running.drain.waits_for_sessions()
            {
                running.unknown_until = Some(until);
            }
        });
    }

    /// Keeps how servers are marked, where that has changed.
    pub(super) fn keep_marks(&mut self) {
        // Before that the marks are those of the process before.
        if !self.restored {
            return;
        }
        for UpstreamPlan { name, .. } in &self.plan.upstreams {
            let marks: BTreeMap<String, Mark> = self
                .registry
                .members_of(name)
                .map(|(uid, member)| {
                    let weight = member.weight_set.then(|| member.server.weight());
                    // What a server has asked for, it asks for again.
                    let admin = Kept::of(member.state().admin).filter(|_| member.by == By::Operator);
                    // Who judges a canary is gone with this process.
                    let admin = if self.registry.is_canary(name, uid) { Some(Kept::Drained) } else { admin };
                    let mark = Mark { admin, weight, leaving: member.leaving };
                    (member.server.name.to_string(), mark)
                })
                .filter(|(_, mark)| *mark != Mark::default())
                .collect();
            self.members.mark(name, marks);
        }
        self.store.keep_members(&self.members);
    }

    /// Where what is in force differs from the file, in words.
    pub(super) fn differences(&self) -> Vec<String> {
        let mut differences = Vec::new();
        for upstream in &self.plan.upstreams {
            for name in self.members.removed(&upstream.name) {
                differences.push(format!(
                    "server `{name}` of upstream `{}` stays out: an operator removed it (`evenkeel add` brings it back)",
                    upstream.name
                ));
            }
            for server in upstream.servers.iter().filter(|s| self.members.is_added(&upstream.name, &s.name)) {
                differences.push(format!(
                    "server `{}` of upstream `{}` stays: an operator added it (`evenkeel remove` takes it out)",
                    server.name, upstream.name
                ));
            }
        }
        differences
    }
}

fn member_of(supervisor: &mut Supervisor, uid: u32, change: impl FnOnce(&mut super::registry::Member)) {
    if let Some(member) = supervisor.registry.member_mut(uid) {
        change(member);
    }
}

fn bad(message: String) -> CommandError {
    CommandError::BadRequest { message }
}
