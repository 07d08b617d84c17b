//! From what runs to what is [carried](super::carried) to another process, and back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use super::carried::{Carried, CarriedDrain, CarriedServer, CarriedService, CarriedUpstream};
use crate::config::plan::DrainPlan;
use crate::control::asked::Asked;
use crate::control::drain::Drain;
use crate::control::outlier::Outlier;
use crate::control::registry::{Group, Member};
use crate::control::supervisor::{Message, Signal, Supervisor};
use crate::metrics::skew;
use crate::upstream::{Admin, Notice, Operational, Order, Server, Service, clock};

impl Supervisor {
    /// All that another process has to know. `cursors`: where round robin goes on, for each core by slot.
    pub(super) fn carried(&self, cursors: &[(usize, Vec<usize>)]) -> Carried {
        let snapshot = self.plane.swap.current.load();
        let mut by_core: Vec<Vec<(String, usize)>> = vec![Vec::new(); self.plane.orders.len()];
        for (core, slots) in cursors {
            let Some(into) = by_core.get_mut(*core) else { continue };
            let named = snapshot.upstreams.iter().filter_map(|u| Some((u.name().to_owned(), *slots.get(u.slot)?)));
            into.extend(named);
        }
        Carried {
            now: self.now(),
            clock: clock::elapsed(),
            state: self.store.state().clone(),
            upstreams: self.plan.upstreams.iter().filter_map(|u| self.upstream_carried(&u.name)).collect(),
            reload: false,
            cursors: by_core,
        }
    }

    fn upstream_carried(&self, name: &str) -> Option<CarriedUpstream> {
        let group = self.registry.group(name)?;
        let members: Vec<(u32, &Member)> = self.registry.members_of(name).collect();
        let position = |uid: u32| members.iter().position(|(other, _)| *other == uid);
        let sessions = group.sticky.as_ref().map(|sticky| {
            let entries = sticky.ledger.entries();
            entries.filter_map(|(session, uid, seen)| Some((session, position(uid)?, seen))).collect()
        });
        let names: Vec<(u32, &str)> = members.iter().map(|(uid, member)| (*uid, &*member.server.name)).collect();
        let name_of =
            |uid: u64| names.iter().find(|(other, _)| u64::from(*other) == uid).map(|(_, name)| (*name).to_owned());
        Some(CarriedUpstream {
            litmus: group.litmus.as_ref().map(|experiment| experiment.memory()),
            hot: group.hot.as_ref().map(|hot| hot.carried(&group.plan.policy, name_of)),
            shadow: group.shadow.as_ref().map(|shadow| shadow.memory(&names)),
            looks: group.built().and_then(|upstream| self.plane.swap.looks.memory(upstream, clock::elapsed())),
            name: name.to_owned(),
            service: service_carried(&group.service),
            servers: members.iter().map(|(uid, member)| self.server_carried(name, *uid, member)).collect(),
            sessions: sessions.unwrap_or_default(),
        })
    }

    fn server_carried(&self, upstream: &str, uid: u32, member: &Member) -> CarriedServer {
        let carried = server_carried(member);
        // A canary ends with the process that has begun it.
        let admin = if self.registry.is_canary(upstream, uid) { Admin::Drained } else { carried.admin };
        CarriedServer { admin, ..carried }
    }

    /// What is known of the health of servers that are new here: they need not be waited for.
    pub(in crate::control) fn carry_health(&mut self, uids: &[u32]) {
        let Some(inheriting) = &self.row.inheriting else { return };
        for uid in uids {
            let Some(member) = self.registry.member_mut(*uid) else { continue };
            if let Some(carried) = find(&inheriting.carried.upstreams, member) {
                resume_health(member, carried);
            }
        }
    }

    /// Goes on where another process was.
    pub(super) fn carry(&mut self, carried: Carried) {
        let Carried { now: _, clock: _, state, upstreams, reload, cursors } = carried;
        self.members = state.members.clone();
        self.members.prune(&self.file);
        self.store.take_over(state);
        self.deploys = self.store.deploys();
        self.put_all_members_in_force();
        for upstream in &upstreams {
            self.carry_upstream(upstream);
        }
        for (core, cursors) in self.plane.orders.iter().zip(cursors) {
            let snapshot = self.plane.swap.current.load();
            let slot = |name: &str| snapshot.upstreams.iter().find(|u| u.name() == name).map(|u| u.slot);
            let cursors = cursors.iter().filter_map(|(name, cursor)| Some((slot(name)?, *cursor))).collect();
            let _ = core.send(Order::GoOn { cursors });
        }
        self.next_look = Duration::ZERO;
        if reload {
            let _ = self.inbox.try_send(Message::Signal(Signal::Reload));
        }
    }

    fn carry_upstream(&mut self, carried: &CarriedUpstream) {
        let name = carried.name.as_str();
        if self.registry.group(name).is_none() {
            return;
        }
        self.registry.set_service(name, service_resumed(&carried.service));
        let uids: Vec<u32> = self.registry.members_of(name).map(|(uid, _)| uid).collect();
        let mut by_position: Vec<Option<u32>> = vec![None; carried.servers.len()];
        for uid in uids {
            let Some(member) = self.registry.member(uid) else { continue };
            let at = carried.servers.iter().position(|server| is_of(server, member));
            // Whoever has another address now keeps the sessions of its name, and is another server otherwise.
            let namesake = carried.servers.iter().position(|server| *server.name == *member.server.name);
            if let Some(slot) = namesake.and_then(|at| by_position.get_mut(at)) {
                *slot = Some(uid);
            }
            if let Some(at) = at {
                self.carry_server(uid, &carried.servers[at]);
            }
        }
        self.carry_measured(carried);
        let Some(sticky) = self.registry.group(name).and_then(|group| group.sticky.as_ref()) else { return };
        for (session, position, seen) in &carried.sessions {
            if let Some(Some(uid)) = by_position.get(*position) {
                sticky.ledger.touch(*session, *uid, *seen);
            }
        }
    }

    /// Goes on with the figures of the last minutes; they are of what is in force now.
    pub(super) fn carry_looks(&self, looks: &[(String, skew::Memory)]) {
        let snapshot = self.plane.swap.current.load();
        for (name, memory) in looks {
            if let Some(upstream) = snapshot.upstreams.iter().find(|upstream| upstream.name() == name) {
                self.plane.swap.looks.resume(upstream, memory, clock::elapsed());
            }
        }
    }

    /// Goes on with what is measured of traffic. No core serves yet, so its counters are nobody's.
    fn carry_measured(&mut self, carried: &CarriedUpstream) {
        let name = carried.name.as_str();
        let members: Vec<(u32, Arc<Server>)> =
            self.registry.members_of(name).map(|(uid, member)| (uid, Arc::clone(&member.server))).collect();
        let names: Vec<(u32, &str)> = members.iter().map(|(uid, server)| (*uid, &*server.name)).collect();
        let uid_of = |wanted: &str| names.iter().find(|(_, name)| *name == wanted).map(|(uid, _)| u64::from(*uid));
        let Some(group) = self.registry.group_mut(name) else { return };
        if let (Some(experiment), Some(memory)) = (&group.litmus, &carried.litmus) {
            experiment.resume(memory);
        }
        if let (Some(hot), Some(memory)) = (&mut group.hot, &carried.hot) {
            hot.resume(memory, &group.plan.policy, uid_of);
        }
        if let (Some(shadow), Some(memory)) = (&mut group.shadow, &carried.shadow) {
            shadow.resume(memory, &names);
        }
        group.touch();
    }

    fn carry_server(&mut self, uid: u32, carried: &CarriedServer) {
        let Some((group, member)) = self.registry.both(uid) else { return };
        let before = member.state();
        let drain = carried.drain.map(|drain| drain_resumed(&drain, group));
        let checked = group.plan.check.is_some();
        if let Some(weight) = carried.weight {
            self.set_weight(uid, weight);
        }
        let Some(member) = self.registry.member_mut(uid) else { return };
        // Only what the other process says of drains holds; its own follows below.
        member.drain = None;
        member.leaving = carried.leaving;
        member.by = carried.by;
        // It may have asked only here yet.
        if carried.asked != Asked::default() {
            member.asked = carried.asked;
        }
        member.outlier = Outlier::resumed(carried.ejected);
        member.slow_since = carried.slow_since;
        member.set_admin(carried.admin);
        // What the checks here have found out since is newer. Traffic was seen by the other process alone.
        let is_of_traffic = [carried.operational, before.operational].contains(&Operational::Ejected);
        if is_of_traffic || !checked || member.streak.up().is_none() {
            resume_health(member, carried);
        }
        if carried.admin == Admin::Disabled {
            member.probing = None;
        } else if before.admin == Admin::Disabled {
            self.begin_checks(uid);
        }
        if let Some((drain, unknown_until)) = drain {
            self.resume_drain(uid, drain, unknown_until);
        }
        let Some(member) = self.registry.member(uid) else { return };
        let server = Arc::clone(&member.server);
        if carried.admin != Admin::Ready {
            info!(upstream = %server.upstream, server = %server.name, state = ?carried.admin, "server is as it was in the process before");
        }
        self.changed(&server);
    }
}

fn is_of(carried: &CarriedServer, member: &Member) -> bool {
    *carried.name == *member.server.name && carried.address == member.server.address.to_string()
}

fn find<'a>(upstreams: &'a [CarriedUpstream], member: &Member) -> Option<&'a CarriedServer> {
    let upstream = upstreams.iter().find(|upstream| *upstream.name == *member.server.upstream)?;
    upstream.servers.iter().find(|server| is_of(server, member))
}

fn resume_health(member: &mut Member, carried: &CarriedServer) {
    member.streak = member.streak.resumed(carried.up, carried.against);
    member.known = carried.known;
    member.last_error.clone_from(&carried.last_error);
    member.set_operational(carried.operational);
    if !carried.resolved.is_empty() {
        member.server.resolved.store(Arc::new(carried.resolved.clone()));
    }
}

fn server_carried(member: &Member) -> CarriedServer {
    let server = &member.server;
    let state = server.state();
    CarriedServer {
        name: server.name.to_string(),
        address: server.address.to_string(),
        operational: state.operational,
        admin: state.admin,
        by: member.by,
        asked: member.asked,
        weight: member.weight_set.then(|| server.weight()),
        leaving: member.leaving,
        up: member.streak.up(),
        against: member.streak.against(),
        known: member.known,
        last_error: member.last_error.clone(),
        resolved: server.resolved.load().to_vec(),
        drain: member.drain.as_ref().map(|running| {
            let DrainPlan { in_flight, sessions_idle, sessions_max, .. } = running.drain.limits();
            CarriedDrain {
                in_flight,
                sessions_idle,
                sessions_max,
                began: running.drain.began(),
                stage: running.drain.stage(),
                unknown_until: running.unknown_until,
            }
        }),
        ejected: member.outlier.ejected(),
        slow_since: member.slow_since,
    }
}

fn drain_resumed(carried: &CarriedDrain, group: &Group) -> (Drain, Option<Duration>) {
    let CarriedDrain { in_flight, sessions_idle, sessions_max, began, stage, unknown_until } = *carried;
    let limits = DrainPlan { in_flight, sessions_idle, sessions_max, ..group.plan.drain };
    (Drain::resumed(limits, began, stage), unknown_until)
}

pub(super) fn service_carried(service: &Service) -> CarriedService {
    let left = service.holds_for(Instant::now()).unwrap_or_default();
    match service {
        Service::Open => CarriedService::Open,
        Service::Paused { .. } => CarriedService::Paused { left },
        Service::Releasing { rate, .. } => CarriedService::Releasing { rate: *rate, left },
        Service::Closed(Notice { message, retry_after }) => {
            CarriedService::Maintenance { message: message.to_string(), retry_after: *retry_after }
        }
    }
}

pub(super) fn service_resumed(carried: &CarriedService) -> Service {
    let until = |left: &Duration| Instant::now() + *left;
    match carried {
        CarriedService::Open => Service::Open,
        CarriedService::Paused { left } => Service::Paused { until: until(left) },
        CarriedService::Releasing { rate, left } => Service::Releasing { rate: *rate, until: until(left) },
        CarriedService::Maintenance { message, retry_after } => {
            Service::Closed(Notice { message: message.as_str().into(), retry_after: *retry_after })
        }
    }
}
