//! Every server there is, by a number that is never used again, and the upstreams they form.
//!
//! A server is found again by upstream, name and address: what is known of it (health, counters,
//! drain, what an operator said) outlives any number of reloads while it stays configured.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::asked::{Asked, By};
use super::drain::Drain;
use super::error::CommandError;
use super::hot::Watched;
use super::outlier::Outlier;
use super::prober::{self, Probing};
use super::resolve::Resolving;
use crate::balance::canary::Canary;
use crate::config::plan::{ServerPlan, UpstreamPlan};
use crate::health::Check;
use crate::health::streak::Streak;
use crate::upstream::litmus::Experiment;
use crate::upstream::server::{State, WHOLE_SHARE};
use crate::upstream::shadow::Kept;
use crate::upstream::{Admin, Change, Gate, Operational, Queue, Server, Service, Sticky, Upstream};

/// Failed connections in a row that take down a server without a check.
const PASSIVE_FAILURES: u32 = 3;

/// A drain under way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) drain: Drain,
    /// When sessions were last counted, and how many there were.
    pub(super) sessions: Option<(Duration, usize)>,
    /// Until when sessions that nobody has seen yet may be there.
    pub(super) unknown_until: Option<Duration>,
    /// Whether the server was unhealthy meanwhile: then its clients have left it.
    pub(super) was_down: bool,
    /// Held for its end only.
    pub(super) _waker: Waker,
}

/// The task that tells when a server is idle; ends when dropped.
#[derive(Debug)]
pub(super) struct Waker(pub(super) AbortHandle);

impl Drop for Waker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One server and what the control plane knows of it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) server: Arc<Server>,
    pub(super) configured_weight: u32,
    /// Whether an operator set the weight.
    pub(super) weight_set: bool,
    pub(super) streak: Streak,
    pub(super) last_error: Option<String>,
    pub(super) probing: Option<Probing>,
    /// Number of probings begun.
    pub(super) epoch: u64,
    pub(super) resolving: Option<Resolving>,
    /// Whether the last look-up of its host name failed; none before the first.
    pub(super) unresolved: Option<bool>,
    /// Connections opened when a failed one was last reported.
    pub(super) connects: u64,
    pub(super) drain: Option<Running>,
    /// Whether it is taken out once it is drained.
    pub(super) leaving: bool,
    pub(super) outlier: Outlier,
    /// When its slow start began, while it is in one.
    pub(super) slow_since: Option<Duration>,
    /// Whether it was found up or down before.
    pub(super) known: bool,
    /// Who has marked it, where it is not ready.
    pub(super) by: By,
    /// What it asks for itself.
    pub(super) asked: Asked,
}

impl Member {
    pub(super) fn state(&self) -> State {
        self.server.state()
    }

    pub(super) fn set_admin(&self, admin: Admin) {
        self.server.set_state(State { admin, ..self.state() });
    }

    pub(super) fn set_operational(&self, operational: Operational) {
        self.server.set_state(State { operational, ..self.state() });
    }

    fn decided(&self) -> bool {
        let State { operational, admin } = self.state();
        operational != Operational::Starting || admin == Admin::Disabled
    }
}

/// One upstream.
#[derive(Debug)]
pub(super) struct Group {
    slot: usize,
    pub(super) plan: Arc<UpstreamPlan>,
    pub(super) sticky: Option<Arc<Sticky>>,
    /// What is kept of other policies, where some are asked.
    pub(super) shadow: Option<Kept>,
    pub(super) queue: Arc<Queue>,
    pub(super) service: Service,
    /// Its servers, in the order of the Plan.
    pub(super) uids: Vec<u32>,
    built: Option<Arc<Upstream>>,
    /// Whether `built` is what it has to be.
    fresh: bool,
    failing_open: bool,
    /// Servers that are about to drain.
    outgoing: Vec<u32>,
    /// Servers that only some users meet.
    pub(super) canary: Option<(Arc<Canary>, Vec<u32>)>,
    /// What is known of its hot keys, where they are looked for.
    pub(super) hot: Option<Watched>,
    /// Users who are moved on purpose; kept over reloads that say the same of them.
    pub(super) litmus: Option<Arc<Experiment>>,
}

/// A server that is no longer configured but still has requests in flight.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) server: Arc<Server>,
    pub(super) drain: Drain,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    groups: HashMap<String, Group>,
    members: HashMap<u32, Member>,
    pub(super) leaving: HashMap<u32, Leaving>,
    /// Slots of all upstreams that ever were: a name keeps its own.
    slots: HashMap<String, usize>,
    next_uid: u32,
}

/// The streak of a server under `check`: without one it is trusted until traffic says otherwise.
pub(super) fn thresholds(check: Option<&Check>) -> (u32, u32) {
    match check.map(Check::timing) {
        Some(timing) => (timing.healthy_threshold, timing.unhealthy_threshold),
        None => (1, PASSIVE_FAILURES),
    }
}

impl Group {
    /// The position that the name of the upstream keeps.
    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    /// The upstream as it was last built.
    pub(super) fn built(&self) -> Option<&Arc<Upstream>> {
        self.built.as_ref()
    }

    /// Notes that it has to be built anew.
    pub(super) fn touch(&mut self) {
        self.fresh = false;
    }
}

impl Registry {
    pub(super) fn group(&self, upstream: &str) -> Option<&Group> {
        self.groups.get(upstream)
    }

    pub(super) fn member(&self, uid: u32) -> Option<&Member> {
        self.members.get(&uid)
    }

    pub(super) fn member_mut(&mut self, uid: u32) -> Option<&mut Member> {
        self.members.get_mut(&uid)
    }

    /// A server and its upstream.
    pub(super) fn both(&self, uid: u32) -> Option<(&Group, &Member)> {
        let member = self.members.get(&uid)?;
        Some((self.groups.get(&*member.server.upstream)?, member))
    }

    /// The number of a server.
    pub(super) fn find(&self, upstream: &str, server: &str) -> Result<u32, CommandError> {
        let group = self
            .groups
            .get(upstream)
            .ok_or_else(|| CommandError::NotFound { what: format!("there is no upstream `{upstream}`") })?;
        group
            .uids
            .iter()
            .copied()
            .find(|uid| self.members.get(uid).is_some_and(|m| &*m.server.name == server))
            .ok_or_else(|| CommandError::no_server(upstream, server))
    }

    /// All servers of an upstream, in the order of the Plan.
    pub(super) fn members_of(&self, upstream: &str) -> impl Iterator<Item = (u32, &Member)> {
        let uids = self.groups.get(upstream).map_or(&[][..], |group| &group.uids);
        uids.iter().filter_map(|uid| Some((*uid, self.members.get(uid)?)))
    }

    /// Every server, those among them that are no longer configured.
    pub(super) fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        let leaving = self.leaving.values().map(|leaving| &leaving.server);
        self.members.values().map(|member| &member.server).chain(leaving)
    }

    /// Ends everything by which this process would decide what becomes of servers.
    pub(super) fn leave_to_others(&mut self) {
        for member in self.members.values_mut() {
            (member.probing, member.resolving, member.drain, member.slow_since) = (None, None, None, None);
            member.outlier = Outlier::default();
            // Nobody here would ever bring a slow start to its end.
            member.server.set_share(WHOLE_SHARE);
            member.server.gate.set_share(WHOLE_SHARE);
        }
        for group in self.groups.values_mut() {
            group.fresh = false;
        }
    }

    /// Servers that are to be taken out and are drained.
    pub(super) fn gone(&self) -> Vec<u32> {
        let is_out = |m: &Member| m.leaving && m.drain.is_none() && m.state().admin != Admin::Ready;
        self.members.iter().filter(|(_, m)| is_out(m)).map(|(uid, _)| *uid).collect()
    }

    /// Servers that drain.
    pub(super) fn draining(&self) -> Vec<u32> {
        self.members.iter().filter(|(_, m)| m.drain.is_some()).map(|(uid, _)| *uid).collect()
    }

    /// Servers that have asked for something, or have got it.
    pub(super) fn who_asked(&self) -> Vec<u32> {
        let has_asked = |m: &Member| m.asked != Asked::default() || m.by == By::Server;
        self.members.iter().filter(|(_, m)| has_asked(m)).map(|(uid, _)| *uid).collect()
    }

    /// Whether any server drains or leaves.
    pub(super) fn drains(&self) -> bool {
        !self.leaving.is_empty() || self.members.values().any(|m| m.drain.is_some())
    }

    /// Whether it is known of every server if it is up.
    pub(super) fn all_decided(&self) -> bool {
        self.members.values().all(Member::decided)
    }

    /// Says what becomes of requests for an upstream; it has to be built anew.
    pub(super) fn set_service(&mut self, upstream: &str, service: Service) {
        if let Some(group) = self.groups.get_mut(upstream) {
            group.service = service;
            group.fresh = false;
        }
    }

    /// Says which servers are about to drain: the next build of the upstream sends nobody new there.
    pub(super) fn set_outgoing(&mut self, upstream: &str, outgoing: Vec<u32>) {
        if let Some(group) = self.groups.get_mut(upstream) {
            group.outgoing = outgoing;
            group.fresh = false;
        }
    }

    /// Says which servers only some users meet.
    pub(super) fn set_canary(&mut self, upstream: &str, canary: Option<(Arc<Canary>, Vec<u32>)>) {
        if let Some(group) = self.groups.get_mut(upstream) {
            group.canary = canary;
            group.fresh = false;
        }
    }

    /// Whether only some users meet a server.
    pub(super) fn is_canary(&self, upstream: &str, uid: u32) -> bool {
        self.groups.get(upstream).and_then(|group| group.canary.as_ref()).is_some_and(|(_, new)| new.contains(&uid))
    }

    /// Upstreams whose hot keys are looked for.
    pub(super) fn watched(&mut self) -> impl Iterator<Item = &mut Group> {
        self.groups.values_mut().filter(|group| group.hot.is_some())
    }

    pub(super) fn group_mut(&mut self, upstream: &str) -> Option<&mut Group> {
        self.groups.get_mut(upstream)
    }

    /// Every upstream.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(name, group)| (name.as_str(), group))
    }

    /// Notes that the upstream has to be built anew.
    pub(super) fn touch(&mut self, upstream: &str) {
        if let Some(group) = self.groups.get_mut(upstream) {
            group.fresh = false;
        }
    }

    /// The upstream as it is now, and a word in the log if it began or ceased to fail open.
    pub(super) fn upstream(&mut self, name: &str) -> Option<Arc<Upstream>> {
        let group = self.groups.get_mut(name)?;
        if let (true, Some(built)) = (group.fresh, &group.built) {
            return Some(Arc::clone(built));
        }
        let members: Vec<&Member> = group.uids.iter().filter_map(|uid| self.members.get(uid)).collect();
        let servers = members.iter().map(|m| Arc::clone(&m.server)).collect();
        let plan = Arc::clone(&group.plan);
        let (sticky, previous) = (group.sticky.clone(), group.built.as_deref());
        let canary = group.canary.as_ref().map(|(canary, new)| (canary, new.as_slice()));
        let change = Change { outgoing: &group.outgoing, canary };
        let built = Upstream::with(change, group.slot, plan, servers, sticky, group.shadow.as_ref(), previous);
        let built = built.behind(Arc::clone(&group.queue), group.service.clone());
        let built = built.watched(group.hot.as_ref().map(Watched::watch)).tested(group.litmus.clone());
        let built = Arc::new(built);
        // At the start all servers are unknown for a moment: no news.
        if built.failing_open != group.failing_open && members.iter().all(|m| m.decided()) {
            group.failing_open = built.failing_open;
            if built.failing_open {
                warn!(upstream = name, "no server is healthy: every ready one gets traffic (fail_open)");
            } else {
                info!(upstream = name, "no longer failing open");
            }
        }
        group.built = Some(Arc::clone(&built));
        group.fresh = true;
        Some(built)
    }

    /// Servers in their slow start.
    pub(super) fn slow(&self) -> Vec<u32> {
        self.members.iter().filter(|(_, m)| m.slow_since.is_some()).map(|(uid, _)| *uid).collect()
    }

    /// Puts an upstream in force. The answer names its servers that are new, and those that left.
    pub(super) fn apply(&mut self, plan: &UpstreamPlan, sticky: Option<Arc<Sticky>>, cores: usize) -> Applied {
        let next_slot = self.slots.len();
        let slot = *self.slots.entry(plan.name.clone()).or_insert(next_slot);
        let mut applied = Applied::default();
        let mut before = self.groups.remove(&plan.name);
        let old_uids = before.as_ref().map(|g| g.uids.clone()).unwrap_or_default();
        applied.check_changed = before.as_ref().is_some_and(|g| probed_by(&g.plan) != probed_by(plan));
        let service = before.as_ref().map_or(Service::Open, |g| g.service.clone());
        let canary = before.as_ref().and_then(|g| g.canary.clone());
        let hot = before.as_mut().and_then(|g| g.hot.take().filter(|_| g.plan.policy == plan.policy));
        let hot = hot.or_else(|| Watched::of(&plan.policy, cores));
        let running = before.as_ref().and_then(|g| g.litmus.clone());
        let litmus = plan.litmus.as_ref().map(|wanted| {
            let same = running.filter(|running| running.plan == *wanted);
            same.unwrap_or_else(|| Arc::new(Experiment::new(wanted.clone(), cores)))
        });
        let queue = before.as_ref().map_or_else(|| Arc::new(Queue::new(cores)), |g| Arc::clone(&g.queue));
        let shadow = Kept::new(plan, cores, prober::random(), before.as_ref().and_then(|g| g.shadow.as_ref()));
        let mut uids = Vec::with_capacity(plan.servers.len());
        for server in &plan.servers {
            let namesake = old_uids.iter().copied().find(|uid| *self.members[uid].server.name == *server.name);
            match namesake {
                Some(uid) if self.members[&uid].server.address == server.address => {
                    self.keep(uid, server);
                    uids.push(uid);
                }
                _ => {
                    let uid = self.create(plan, server, namesake, &queue);
                    applied.new.push(uid);
                    uids.push(uid);
                }
            }
        }
        for uid in old_uids.iter().filter(|uid| !uids.contains(uid)) {
            applied.gone.extend(self.members.remove(uid));
        }
        let (built, failing_open) = before.map_or((None, false), |g| (g.built, g.failing_open));
        let plan = Arc::new(plan.clone());
        let group = Group {
            slot,
            sticky,
            shadow,
            queue,
            service,
            uids,
            built,
            fresh: false,
            failing_open,
            plan: Arc::clone(&plan),
            outgoing: Vec::new(),
            canary,
            hot,
            litmus,
        };
        self.groups.insert(plan.name.clone(), group);
        applied
    }

    /// Takes out the upstreams that `configured` does not hold. The answer is their servers.
    pub(super) fn retain(&mut self, configured: impl Fn(&str) -> bool) -> Vec<(Arc<UpstreamPlan>, Vec<Member>)> {
        let names: Vec<String> = self.groups.keys().filter(|name| !configured(name)).cloned().collect();
        let groups = names.iter().filter_map(|name| self.groups.remove(name)).collect::<Vec<_>>();
        groups
            .into_iter()
            .map(|g| (g.plan, g.uids.iter().filter_map(|uid| self.members.remove(uid)).collect()))
            .collect()
    }

    fn keep(&mut self, uid: u32, plan: &ServerPlan) {
        if let Some(member) = self.members.get_mut(&uid) {
            member.configured_weight = plan.weight;
            member.server.gate.set_limit(plan.max_requests);
            member.server.set_backup(plan.backup);
            if !member.weight_set {
                member.server.set_weight(plan.weight);
            }
        }
    }

    /// A new server. `namesake` is the one of that name at another address: what an operator said of
    /// it holds for the new one too.
    fn create(&mut self, upstream: &UpstreamPlan, plan: &ServerPlan, namesake: Option<u32>, queue: &Arc<Queue>) -> u32 {
        self.next_uid += 1;
        let uid = self.next_uid;
        let (upstream_name, name) = (upstream.name.as_str().into(), plan.name.as_str().into());
        let server = Server::new(uid, upstream_name, name, plan.address.clone(), plan.weight, queue.lines().len());
        let server = server.behind(Gate::new(plan.max_requests, Arc::clone(queue)));
        server.set_backup(plan.backup);
        let (healthy, unhealthy) = thresholds(upstream.check.as_ref());
        let mut member = Member {
            server: Arc::new(server),
            configured_weight: plan.weight,
            weight_set: false,
            streak: Streak::new(healthy, unhealthy),
            last_error: None,
            probing: None,
            epoch: 0,
            resolving: None,
            unresolved: None,
            connects: 0,
            drain: None,
            leaving: false,
            outlier: Outlier::default(),
            slow_since: None,
            known: false,
            by: By::default(),
            asked: Asked::default(),
        };
        if let Some(before) = namesake.and_then(|uid| self.members.get(&uid)) {
            member.leaving = before.leaving;
            // What a server has asked for is of that one alone.
            let said = if before.by == By::Operator { before.state().admin } else { Admin::Ready };
            if before.weight_set {
                member.server.set_weight(before.server.weight());
                member.weight_set = true;
            }
            member.set_admin(match said {
                Admin::Ready => Admin::Ready,
                // There are no sessions to wait for at an address that never served.
                Admin::Draining | Admin::Drained => Admin::Drained,
                Admin::Disabled => Admin::Disabled,
            });
        }
        self.members.insert(uid, member);
        uid
    }
}

/// What putting an upstream in force did to its servers.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) new: Vec<u32>,
    pub(super) gone: Vec<Member>,
    /// Whether servers that stayed are checked in another way now.
    pub(super) check_changed: bool,
}

/// What of an upstream decides how its servers are probed.
fn probed_by(plan: &UpstreamPlan) -> impl PartialEq + '_ {
    (&plan.check, &plan.tls, plan.protocol, plan.send_proxy, plan.drain_on)
}
