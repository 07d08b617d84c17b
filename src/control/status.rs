//! `GET /status`: what runs, as the registry and the cells know it.

use std::time::Duration;

mod skew;

use super::api::{
    DrainStatus, EjectionStatus, ListenerStatus, QueueStatus, ServerStatus, ServiceStatus, SlowStartStatus, Status,
    UpstreamStatus,
};
use super::asked::By;
use super::litmus;
use super::registry::{Group, Member, Running};
use super::supervisor::Supervisor;
use crate::metrics::cells::{Counter, QueueCell, Totals};
use crate::upstream::server::WHOLE_SHARE;
use crate::upstream::{Admin, Operational, Service, clock};

impl Supervisor {
    pub(super) fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.begun.elapsed().as_secs(),
            phase: self.shared.phase().name().to_owned(),
            config: self.config_path.as_ref().map(|path| path.display().to_string()),
            state: self.store.path().map(|path| path.display().to_string()),
            upgrade: self.upgrade_status(),
            predecessor: self.predecessor_status(),
            generation: self.plane.swap.generation(),
            cores: self.plane.orders.len(),
            connections: self.plane.open_connections(),
            listeners: self
                .listeners
                .addresses()
                .into_iter()
                .map(|(name, address)| ListenerStatus { name, address: address.to_string() })
                .collect(),
            certificates: self.tls.iter().flatten().flat_map(|terminator| terminator.status()).collect(),
            forgotten_proxy: self.forgotten_proxy(),
            upstreams: self.plan.upstreams.iter().filter_map(|u| self.upstream_status(&u.name)).collect(),
        }
    }

    pub(super) fn upstream_status(&self, name: &str) -> Option<UpstreamStatus> {
        let group = self.registry.group(name)?;
        let snapshot = self.plane.swap.current.load();
        let upstream = snapshot.upstreams.iter().find(|u| u.name() == name);
        let failing_open = upstream.is_some_and(|u| u.failing_open);
        let figures = upstream.and_then(|u| Some((u, self.plane.swap.lately(u)?)));
        // One walk through the ledger for all servers.
        let sessions = group.sticky.as_ref().map(|sticky| sticky.ledger.count(seen_since(group)));
        let servers = group.uids.iter().filter_map(|uid| self.server_status(*uid, sessions.as_deref())).collect();
        let is_limited = group.uids.iter().filter_map(|uid| self.registry.member(*uid));
        let is_limited = is_limited.map(|member| &member.server).any(|server| server.gate.limit().is_some());
        let has_queue = is_limited || !group.service.is_open() || group.queue.waiting() > 0;
        Some(UpstreamStatus {
            name: name.to_owned(),
            policy: group.plan.policy.name().to_owned(),
            failing_open,
            removed: self.members.removed(name).to_vec(),
            service: service_status(&group.service),
            queue: has_queue.then(|| queue_status(group)),
            deploy: self.deploy_status(name),
            canary: self.canary_status(name),
            litmus: group.litmus.as_deref().map(litmus::status),
            hot_keys: group.hot.as_ref().map(|hot| hot.status(self.now())).unwrap_or_default(),
            skew: figures.as_ref().and_then(|(upstream, figures)| skew::skew_status(upstream, figures)),
            shadow: figures.as_ref().and_then(|(upstream, figures)| skew::shadow_status(upstream, figures)),
            servers,
        })
    }

    /// The status of one server. `sessions` are those of its upstream, where they were counted already.
    pub(super) fn server_status(&self, uid: u32, sessions: Option<&[(u32, usize)]>) -> Option<ServerStatus> {
        let (group, member) = self.registry.both(uid)?;
        let server = &member.server;
        let state = server.state();
        let sessions = group.sticky.as_ref().map(|sticky| match sessions {
            Some(counts) => counts.iter().find(|(server, _)| *server == uid).map_or(0, |(_, count)| *count),
            None => sticky.ledger.count_of(uid, seen_since(group)),
        });
        let mut first_byte = Totals::default();
        server.cells.iter().for_each(|cell| cell.counts.first_byte.add_to(&mut first_byte));
        let millis = |quantile| first_byte.quantile(quantile).map(|d| d.as_secs_f64() * 1_000.0);
        Some(ServerStatus {
            name: server.name.to_string(),
            address: server.address.to_string(),
            operational: operational(state.operational).to_owned(),
            admin: admin(state.admin).to_owned(),
            set_by: self.set_by(member).to_owned(),
            asks_for_drain: member.asked.wants(),
            weight: server.weight(),
            configured_weight: member.configured_weight,
            backup: server.is_backup(),
            in_flight: server.in_flight() + server.elsewhere(),
            in_flight_of_predecessor: server.elsewhere(),
            max_requests: server.gate.whole(),
            on_trial: member.outlier.is_on_trial(),
            tunnels: server.cells.iter().map(|c| c.counts.tunnels.get()).fold(0, u64::wrapping_add),
            sessions,
            requests: server.cells.iter().map(|c| c.counts.picks.get()).sum(),
            last_check_error: member.last_error.clone(),
            p50_ms: millis(0.5),
            p99_ms: millis(0.99),
            added: self.members.is_added(&server.upstream, &server.name),
            leaving: member.leaving,
            drain: self.drain_status(group, member),
            ejection: self.ejection_status(member),
            slow_start: self.slow_start_status(group, member),
        })
    }

    /// Who has taken a server out of service, if somebody has.
    fn set_by(&self, member: &Member) -> &'static str {
        let (upstream, server) = (&*member.server.upstream, &*member.server.name);
        let mut turns = self.deploys.get(upstream).into_iter().flat_map(|ledger| &ledger.turns);
        match (member.state().admin, member.by) {
            (Admin::Ready, _) => "",
            (_, By::Operator) if turns.any(|turn| turn.server == server && turn.phase.is_out()) => "deploy",
            (_, by) => by.name(),
        }
    }

    fn ejection_status(&self, member: &Member) -> Option<EjectionStatus> {
        let ejection = member.outlier.ejection()?;
        let now = self.now();
        Some(EjectionStatus {
            reason: ejection.reason.to_string(),
            seconds: now.saturating_sub(ejection.since).as_secs_f64(),
            ends_within_seconds: ejection.until.saturating_sub(now).as_secs_f64(),
            number: ejection.number,
        })
    }

    fn slow_start_status(&self, group: &Group, member: &Member) -> Option<SlowStartStatus> {
        let (window, since) = group.plan.slow_start.zip(member.slow_since)?;
        Some(SlowStartStatus {
            percent: member.server.share() * 100 / WHOLE_SHARE,
            max_requests: member.server.gate.limit(),
            ends_within_seconds: (since + window).saturating_sub(self.now()).as_secs_f64(),
        })
    }

    fn drain_status(&self, group: &Group, member: &Member) -> Option<DrainStatus> {
        let running = member.drain.as_ref()?;
        let now = self.now();
        let ends_within = running.drain.ends_by().saturating_sub(now);
        let sessions_over_in = sessions_over_in(group, member, running, now).filter(|left| *left < ends_within);
        Some(DrainStatus {
            seconds: now.saturating_sub(running.drain.began()).as_secs_f64(),
            sessions_left: if running.drain.waits_for_sessions() { running.sessions.map_or(0, |(_, n)| n) } else { 0 },
            in_flight: member.server.in_flight() + member.server.elsewhere(),
            ends_within_seconds: ends_within.as_secs_f64(),
            sessions_over_in_seconds: sessions_over_in.map(|left| left.as_secs_f64()),
        })
    }
}

fn service_status(service: &Service) -> Option<ServiceStatus> {
    Some(ServiceStatus {
        state: service.name().to_owned(),
        ends_within_seconds: service.holds_for(std::time::Instant::now()).map(|left| left.as_secs_f64()),
        rate: if let Service::Releasing { rate, .. } = service { Some(*rate) } else { None },
        message: service.notice().map(|notice| notice.message.to_string()),
    })
    .filter(|_| !service.is_open())
}

fn queue_status(group: &Group) -> QueueStatus {
    let lines = group.queue.lines();
    let total = |cell: fn(&QueueCell) -> &Counter| lines.iter().map(|line| cell(&line.counts).get()).sum();
    QueueStatus {
        waiting: group.queue.waiting(),
        size: group.plan.queue.size,
        queued: total(|c| &c.queued),
        timeouts: total(|c| &c.timeouts),
        overflows: total(|c| &c.overflows),
    }
}

/// When the sessions that hold a drain are over, if none of them comes back.
fn sessions_over_in(group: &Group, member: &Member, running: &Running, now: Duration) -> Option<Duration> {
    let ledger = &group.sticky.as_ref().filter(|_| running.drain.waits_for_sessions())?.ledger;
    let known = ledger.last_seen_of(member.server.uid).map(|seen| {
        let idle = Duration::from_secs(u64::from(clock::seconds().saturating_sub(seen)));
        // One that was seen just that long ago still counts.
        (running.drain.limits().sessions_idle + Duration::from_secs(1)).saturating_sub(idle)
    });
    // After a restart, those that have not been heard of yet are waited for, too.
    let unknown = running.unknown_until.map(|until| until.saturating_sub(now));
    known.max(unknown).filter(|left| !left.is_zero())
}

/// A session counts as live if it was seen since then, in seconds of [`clock::seconds`].
fn seen_since(group: &Group) -> u32 {
    let idle = u32::try_from(group.plan.drain.sessions_idle.as_secs()).unwrap_or(u32::MAX);
    clock::seconds().saturating_sub(idle)
}

fn operational(state: Operational) -> &'static str {
    match state {
        Operational::Starting => "starting",
        Operational::Healthy => "healthy",
        Operational::Unhealthy => "unhealthy",
        Operational::Ejected => "ejected",
    }
}

fn admin(state: Admin) -> &'static str {
    match state {
        Admin::Ready => "ready",
        Admin::Draining => "draining",
        Admin::Drained => "drained",
        Admin::Disabled => "disabled",
    }
}
