//! What results of checks, and failures seen in traffic, mean for a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::prober;
use super::registry::thresholds;
use super::resolve;
use super::shared::Phase;
use super::supervisor::Supervisor;
use crate::config::plan::{Address, UpstreamPlan};
use crate::health::Says;
use crate::health::streak::Change;
use crate::health::tcp::Wire;
use crate::upstream::{Admin, Operational};

/// What checks speak with the servers of an upstream.
fn wire(plan: &UpstreamPlan) -> Wire {
    let tls = plan.tls.as_ref().map(|tls| Arc::clone(&tls.client));
    Wire { tls, send_proxy: plan.send_proxy, http2: plan.protocol.http2().is_some() }
}

impl Supervisor {
    /// Starts what a new server needs: its name resolved, then its checks.
    pub(super) fn begin(&mut self, uid: u32) {
        self.next_look = Duration::ZERO;
        let Some(member) = self.registry.member_mut(uid) else { return };
        match &member.server.address {
            Address::Host { host, port } => {
                // The first answer begins the checks: before it there is nothing to probe.
                member.resolving =
                    Some(resolve::spawn(uid, host.clone(), *port, self.resolver.clone(), self.inbox.clone()));
            }
            Address::Socket(_) | Address::Unix(_) => self.begin_checks(uid),
        }
    }

    /// Starts the checks of a server anew, by the check its upstream has now.
    pub(super) fn begin_checks(&mut self, uid: u32) {
        let Some((group, _)) = self.registry.both(uid) else { return };
        let (check, hears) = (group.plan.check.clone(), group.plan.drain_on);
        let wire = wire(&group.plan);
        let (healthy, unhealthy) = thresholds(check.as_ref());
        let Some(member) = self.registry.member_mut(uid) else { return };
        member.probing = None;
        member.streak = member.streak.with_thresholds(healthy, unhealthy);
        let unresolved = member.unresolved;
        if member.state().admin == Admin::Disabled || (unresolved.is_none() && member.resolving.is_some()) {
            return;
        }
        if let Some(check) = check {
            member.epoch += 1;
            let server = Arc::clone(&member.server);
            member.probing = Some(prober::watch(server, check, wire, hears, member.epoch, self.inbox.clone()));
        } else if member.streak.up().is_none() {
            let resolved = unresolved != Some(true);
            self.result(uid, resolved, || "its host name has no address".to_owned());
        } else if member.state().operational == Operational::Unhealthy {
            self.recover(uid);
        }
    }

    /// A probe has ended.
    pub(super) fn probed(&mut self, uid: u32, epoch: u64, result: Result<Says, String>) {
        // A report may have been on its way when its probing was ended.
        let current = self.registry.member(uid).and_then(|m| m.probing.as_ref()).is_some_and(|p| p.epoch == epoch);
        if !current {
            return;
        }
        if let Some(member) = self.registry.member_mut(uid) {
            let before = member.asked;
            match &result {
                Ok(Says::Fine) => member.asked.passed(),
                Ok(Says::Drain) => member.asked.in_check(),
                Err(_) => member.asked.failed(),
            }
            if member.asked != before {
                member.server.forget_asking();
                self.stale = true;
            }
        }
        match result {
            // Who asks for a drain goes on serving its own clients.
            Ok(_) => self.result(uid, true, String::new),
            Err(error) => self.result(uid, false, || error),
        }
    }

    /// A core could not open a connection to a server: it counts like a failed check.
    pub(super) fn connect_failed(&mut self, uid: u32) {
        let Some((group, _)) = self.registry.both(uid) else { return };
        let checked = group.plan.check.is_some();
        let Some(member) = self.registry.member_mut(uid) else { return };
        if member.state().admin == Admin::Disabled || member.streak.up() != Some(true) {
            return;
        }
        let before = member.asked;
        member.asked.failed();
        if member.asked != before {
            member.server.forget_asking();
        }
        if checked {
            if let Some(probing) = &member.probing {
                probing.wake();
            }
        } else {
            // No check reports successes, but connections that were opened since do.
            let connects = member.server.cells.iter().map(|c| c.counts.connects.get()).sum();
            if std::mem::replace(&mut member.connects, connects) != connects {
                member.streak.settle();
            }
        }
        self.result(uid, false, || "a connection for a request failed".to_owned());
    }

    fn result(&mut self, uid: u32, success: bool, error: impl FnOnce() -> String) {
        let now = self.now();
        let Some(member) = self.registry.member_mut(uid) else { return };
        member.last_error = if success { None } else { Some(error()) };
        let server = Arc::clone(&member.server);
        let Some(change) = member.streak.record(success) else {
            debug!(upstream = %server.upstream, server = %server.name, success, "check");
            return;
        };
        let known = std::mem::replace(&mut member.known, true);
        match change {
            Change::Up => {
                // What failed before says nothing of it now.
                server.forgive();
                member.outlier.settle();
                member.set_operational(Operational::Healthy);
                info!(upstream = %server.upstream, server = %server.name, "server is healthy");
            }
            Change::Down => {
                let why = member.last_error.as_deref().unwrap_or_default();
                warn!(upstream = %server.upstream, server = %server.name, why, "server is unhealthy");
                // From now on checks say when it is back, which may be sooner.
                member.outlier.end(now);
                member.set_operational(Operational::Unhealthy);
                if let Some(running) = &mut member.drain {
                    running.was_down = true;
                }
            }
        }
        self.registry.touch(&server.upstream);
        self.stale = true;
        // At the start of the process all servers are new, and who comes first has to take it all.
        if change == Change::Up && (known || self.shared.phase() != Phase::Starting) {
            self.start_slowly(uid);
        }
        let checked = self.registry.both(uid).is_some_and(|(group, _)| group.plan.check.is_some());
        if change == Change::Down && !checked {
            self.recover(uid);
        }
    }

    fn recover(&mut self, uid: u32) {
        let Some((group, _)) = self.registry.both(uid) else { return };
        let timeout = group.plan.timeouts.connect;
        // A connection that opens is all that traffic missed; a server that wants to know of whom is told.
        let wire = Wire { send_proxy: group.plan.send_proxy, ..Wire::default() };
        let inbox = self.inbox.clone();
        let Some(member) = self.registry.member_mut(uid) else { return };
        member.epoch += 1;
        member.probing = Some(prober::recover(Arc::clone(&member.server), wire, timeout, member.epoch, inbox));
    }

    /// A look-up of a server's host name has ended.
    pub(super) fn resolved(&mut self, uid: u32, result: Result<Vec<SocketAddr>, String>) {
        let Some(member) = self.registry.member_mut(uid) else { return };
        let server = Arc::clone(&member.server);
        let before = member.unresolved.replace(result.is_err());
        match result {
            Ok(addresses) => {
                if before == Some(true) {
                    info!(upstream = %server.upstream, server = %server.name, "host name resolves again");
                }
                // Name servers rotate their answers: another order is no change.
                let sorted = |addresses: &[SocketAddr]| {
                    let mut sorted = addresses.to_vec();
                    sorted.sort_unstable();
                    sorted
                };
                let known = server.resolved.load();
                if sorted(&known) != sorted(&addresses) {
                    info!(upstream = %server.upstream, server = %server.name, ?addresses, "host name resolved");
                    server.resolved.store(Arc::new(addresses));
                    self.registry.touch(&server.upstream);
                    self.stale = true;
                }
            }
            Err(error) if before != Some(true) => {
                let kept = server.resolved.load().len();
                warn!(upstream = %server.upstream, server = %server.name, %error, kept, "host name does not resolve: the addresses known are kept");
            }
            Err(_) => {}
        }
        if before.is_none() {
            self.begin_checks(uid);
        }
    }
}
