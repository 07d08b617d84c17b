//! What live traffic means for servers: who is ejected and who returns, and how slowly they begin.
//!
//! Cores only count; here the counts are read, about once a second and when a core tells of a long row
//! of failures. What follows is decided in [`super::outlier`] and [`super::slow_start`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::outlier::{self, Change, Counts, Ejection, Look, Outlier, Reason};
use super::prober;
use super::registry::{Group, Member};
use super::slow_start;
use super::supervisor::Supervisor;
use crate::config::plan::UpstreamPlan;
use crate::metrics::cells::Counter;
use crate::upstream::server::WHOLE_SHARE;
use crate::upstream::{Admin, Operational, Server};

impl Supervisor {
    /// When traffic has to be looked at again, if it has to be.
    pub(super) fn next_traffic(&self) -> Option<Instant> {
        self.started.checked_add(self.next_look.min(self.next_hot))
    }

    /// Looks at what traffic has shown, when it is time to.
    pub(super) fn step_traffic(&mut self) {
        let now = self.now();
        if now < self.next_look {
            return;
        }
        self.next_look = Duration::MAX;
        // Who is ejected is decided in one place.
        if self.row.is_over() {
            return;
        }
        let watched: Vec<String> = self.watched().map(|upstream| upstream.name.clone()).collect();
        for name in watched {
            self.judge(&name, None);
        }
        for uid in self.registry.slow() {
            self.step_slow_start(uid, now);
        }
    }

    /// Upstreams of which somebody may be ejected or is: of one server alone nobody does better.
    fn watched(&self) -> impl Iterator<Item = &UpstreamPlan> {
        self.plan.upstreams.iter().filter(|upstream| {
            let ejects = |uid: &u32| self.registry.member(*uid).is_some_and(|m| m.outlier.ejection().is_some());
            (upstream.outliers.is_some() && upstream.servers.len() > 1)
                || self.registry.group(&upstream.name).is_some_and(|group| group.uids.iter().any(ejects))
        })
    }

    /// A core has seen many failures in a row on one server.
    pub(super) fn failing(&mut self, uid: u32, in_a_row: u32) {
        let Some(name) = self.registry.both(uid).map(|(group, _)| group.plan.name.clone()) else { return };
        self.judge(&name, Some((uid, in_a_row)));
    }

    /// Looks at the servers of one upstream. `failing` is one of them and its failures in a row, of which
    /// a core has told: a success may have come since, and they were there all the same.
    fn judge(&mut self, upstream: &str, failing: Option<(u32, u32)>) {
        let now = self.now();
        let Some(group) = self.registry.group(upstream) else { return };
        let (plan, uids) = (Arc::clone(&group.plan), group.uids.clone());
        let mut servers: Vec<(Outlier, Look)> = Vec::with_capacity(uids.len());
        for uid in &uids {
            let Some(member) = self.registry.member_mut(*uid) else { continue };
            let told = failing.filter(|(of, _)| of == uid).map_or(0, |(_, in_a_row)| in_a_row);
            let look = look(member, told);
            servers.push((std::mem::take(&mut member.outlier), look));
        }
        let outliers = plan.outliers.as_ref();
        let changes = outlier::step(outliers, now, prober::random, &mut servers);
        let until = servers.iter().filter_map(|(outlier, _)| outlier.ejection()).map(|e| e.until).min();
        let next = outliers.map_or(Duration::MAX, |plan| outlier::next_look(plan, now, until));
        self.next_look = self.next_look.min(next);
        let kept: Vec<u32> = uids.into_iter().filter(|uid| self.registry.member(*uid).is_some()).collect();
        for (uid, (outlier, _)) in kept.iter().zip(servers) {
            if let Some(member) = self.registry.member_mut(*uid) {
                member.server.set_on_trial(outlier.is_on_trial());
                member.outlier = outlier;
            }
        }
        for (position, change) in changes {
            match change {
                Change::Ejected(ejection) => self.ejected(kept[position], &ejection),
                Change::Returned => self.returned(kept[position]),
            }
        }
    }

    fn ejected(&mut self, uid: u32, ejection: &Ejection) {
        let Some(member) = self.registry.member_mut(uid) else { return };
        member.set_operational(Operational::Ejected);
        let server = Arc::clone(&member.server);
        server.forgive();
        let (seconds, number) = ((ejection.until - ejection.since).as_secs_f64(), ejection.number);
        match ejection.reason {
            Reason::Consecutive(_) => server.ejections[0].inc(),
            Reason::Rate { .. } => server.ejections[1].inc(),
            Reason::Trial => server.ejections[2].inc(),
        }
        warn!(upstream = %server.upstream, server = %server.name, why = %ejection.reason, seconds, number, "server is ejected");
        self.shown(&server);
    }

    fn returned(&mut self, uid: u32) {
        let Some(member) = self.registry.member_mut(uid) else { return };
        let server = Arc::clone(&member.server);
        server.forgive();
        if member.state().operational == Operational::Ejected {
            member.set_operational(Operational::Healthy);
            info!(upstream = %server.upstream, server = %server.name, "server returns after its ejection");
            self.shown(&server);
            self.start_slowly(uid);
        }
    }

    /// Ends the ejection of a server by order.
    pub(super) fn bring_back(&mut self, uid: u32) {
        let now = self.now();
        if self.registry.member_mut(uid).is_some_and(|member| member.outlier.end(now)) {
            self.returned(uid);
        }
    }

    /// A server takes new clients from now on: it gets a small part of its share first, where the upstream
    /// says so.
    pub(super) fn start_slowly(&mut self, uid: u32) {
        let now = self.now();
        let Some((group, member)) = self.registry.both(uid) else { return };
        let eases = eases(group, member).is_some();
        if !eases || !member.state().takes_new(false) {
            return;
        }
        if let Some(member) = self.registry.member_mut(uid) {
            member.slow_since = Some(now);
        }
        self.step_slow_start(uid, now);
    }

    /// Gives a server in its slow start the share that it has at this time.
    fn step_slow_start(&mut self, uid: u32, now: Duration) {
        let Some((group, member)) = self.registry.both(uid) else { return };
        let window = eases(group, member);
        // One that went out again begins anew when it is back.
        let running = window.zip(member.slow_since).filter(|_| member.state().takes_new(false));
        let tenths = running.map_or(WHOLE_SHARE, |(window, since)| slow_start::tenths(window, since, now));
        let Some(member) = self.registry.member_mut(uid) else { return };
        let server = Arc::clone(&member.server);
        match running {
            Some((window, since)) if tenths < WHOLE_SHARE => {
                self.next_look = self.next_look.min(slow_start::next_step(window, since, now));
            }
            _ => member.slow_since = None,
        }
        if server.share() != tenths {
            debug!(upstream = %server.upstream, server = %server.name, percent = tenths * 10, "slow start");
            server.set_share(tenths);
            server.gate.set_share(tenths);
            self.shown(&server);
        }
    }

    fn shown(&mut self, server: &Server) {
        self.registry.touch(&server.upstream);
        self.stale = true;
    }
}

/// Over what time a server comes into service, if not at once. Where clients belong to it they all come back
/// at once: neither a share of them nor of its limit is a matter of time, since they would not go elsewhere.
fn eases(group: &Group, member: &Member) -> Option<Duration> {
    let policy = &group.plan.policy;
    let has_share = policy.spreads_anew() || (!policy.belongs() && member.server.gate.whole().is_some());
    group.plan.slow_start.filter(|_| has_share)
}

fn look(member: &Member, told: u32) -> Look {
    let mut counts = Counts::default();
    for cell in &member.server.cells {
        let cell = &cell.counts;
        let answers: u64 = cell.answers.iter().map(Counter::get).sum();
        counts.tries += answers + cell.connect_failures.get() + cell.failures.get();
        counts.faults += cell.faults.get();
    }
    Look {
        counts,
        in_a_row: member.server.faults_in_a_row().max(told),
        healthy: member.streak.up() == Some(true),
        ready: member.state().admin == Admin::Ready,
    }
}
