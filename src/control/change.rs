//! What operators say of one server, and the drains that follow from it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::api::{Deadlines, ServerChange};
use super::asked::{Asked, By};
use super::drain::{Action, Drain, Left, TICK};
use super::error::CommandError;
use super::registry::{Leaving, Member, Running, Waker};
use super::supervisor::{Message, Report, Supervisor};
use crate::config::plan::{DrainPlan, UpstreamPlan};
use crate::units;
use crate::upstream::{Admin, Operational, Order, Server, clock};

/// Largest weight of a server.
pub(super) const MOST_WEIGHT: u32 = 1_000;

impl Supervisor {
    /// Changes one server. Either everything asked for is done, or nothing. The answer is its number.
    pub(super) fn change(&mut self, upstream: &str, server: &str, change: &ServerChange) -> Result<u32, CommandError> {
        let uid = self.registry.find(upstream, server)?;
        let (group, member) = self.registry.both(uid).ok_or_else(|| CommandError::no_server(upstream, server))?;
        let admin = change.admin.as_deref().map(wanted).transpose()?;
        if let Some(weight) = change.weight.filter(|w| *w > MOST_WEIGHT) {
            return Err(bad(format!("weight {weight} is too large: it may be 0 to {MOST_WEIGHT}")));
        }
        let running = member.drain.as_ref().map(|running| running.drain.limits());
        let limits = deadlines(&change.deadlines(), running.unwrap_or(group.plan.drain))?;
        let begins = matches!(admin, Some(Admin::Draining | Admin::Disabled));
        if limits.is_some() && !begins && (running.is_none() || admin.is_some()) {
            return Err(bad(
                "deadlines belong to a drain: send them with `admin` as `draining` or `disabled`".to_owned()
            ));
        }

        if admin.is_some() {
            self.release(upstream, server);
        }
        if let Some(weight) = change.weight {
            self.set_weight(uid, weight);
        }
        match admin {
            Some(Admin::Ready) => {
                if let Some(member) = self.registry.member_mut(uid) {
                    match member.state().admin {
                        _ if !change.heed => member.asked.overrule(),
                        // Whatever was said of it before, it was another process then.
                        Admin::Disabled => member.asked = Asked::default(),
                        _ => {}
                    }
                }
                self.make_ready(uid);
            }
            Some(Admin::Disabled) => self.disable(uid, limits),
            Some(_) => self.drain(uid, limits, By::Operator),
            None => self.limit(uid, limits),
        }
        self.step_drain(uid);
        Ok(uid)
    }

    pub(super) fn set_weight(&mut self, uid: u32, weight: u32) {
        let Some(member) = self.registry.member_mut(uid) else { return };
        member.weight_set = weight != member.configured_weight;
        if member.server.weight() != weight {
            let took_new = may_take_new(member);
            member.server.set_weight(weight);
            let server = Arc::clone(&member.server);
            info!(upstream = %server.upstream, server = %server.name, weight, "weight set by operator");
            self.changed(&server);
            if took_new {
                self.warn_if_shut(&server);
            }
        }
    }

    /// What the server asks for itself still goes before it: only an operator's own word is more.
    pub(super) fn make_ready(&mut self, uid: u32) {
        self.bring_back(uid);
        self.open(uid, "by order of an operator");
    }

    /// Takes back that a server is not ready.
    pub(super) fn open(&mut self, uid: u32, why: &str) {
        let Some(member) = self.registry.member_mut(uid) else { return };
        member.by = By::Operator;
        let before = member.state().admin;
        if before == Admin::Ready {
            return;
        }
        // Who has clients that never left it is as warm as before.
        let stayed = before == Admin::Draining && member.drain.take().is_some_and(|running| !running.was_down);
        member.drain = None;
        member.leaving = false;
        member.set_admin(Admin::Ready);
        let server = Arc::clone(&member.server);
        self.order(|| Order::Stay { servers: [uid].into() });
        info!(upstream = %server.upstream, server = %server.name, why, "server is ready again");
        self.changed(&server);
        if before == Admin::Disabled {
            self.check_anew(uid);
        }
        if !stayed {
            self.start_slowly(uid);
        }
    }

    /// Nobody looked at a disabled server: what was known of its health is forgotten.
    pub(super) fn check_anew(&mut self, uid: u32) {
        let now = self.now();
        let Some(member) = self.registry.member_mut(uid) else { return };
        member.streak.forget();
        member.outlier.end(now);
        member.asked.forget();
        member.server.forget_asking();
        member.set_operational(Operational::Starting);
        self.begin_checks(uid);
    }

    pub(super) fn drain(&mut self, uid: u32, limits: Option<DrainPlan>, by: By) {
        let now = self.now();
        let Some((group, member)) = self.registry.both(uid) else { return };
        let before = member.state().admin;
        let (configured, sticky) = (group.plan.drain, group.sticky.is_some());
        if matches!(before, Admin::Draining | Admin::Drained) && by == By::Operator {
            self.take_over(uid);
        }
        match before {
            Admin::Draining => return self.limit(uid, limits),
            Admin::Drained => return,
            Admin::Ready | Admin::Disabled => {}
        }
        let limits = limits.unwrap_or(configured);
        let drain = if sticky { Drain::of_sessions(limits, now) } else { Drain::of_requests(limits, now) };
        self.begin_drain(uid, Admin::Draining, drain, by);
        if before == Admin::Disabled {
            self.check_anew(uid);
        }
    }

    pub(super) fn disable(&mut self, uid: u32, limits: Option<DrainPlan>) {
        let now = self.now();
        let Some((group, member)) = self.registry.both(uid) else { return };
        if member.state().admin == Admin::Disabled {
            return self.limit(uid, limits);
        }
        let drain = Drain::of_requests(limits.unwrap_or(group.plan.drain), now);
        self.begin_drain(uid, Admin::Disabled, drain, By::Operator);
        if let Some(member) = self.registry.member_mut(uid) {
            member.probing = None;
        }
    }

    /// What the server has asked for is an operator's wish from now on, and kept as such.
    fn take_over(&mut self, uid: u32) {
        let Some(member) = self.registry.member_mut(uid) else { return };
        if std::mem::replace(&mut member.by, By::Operator) != By::Operator {
            self.stale = true;
        }
    }

    fn limit(&mut self, uid: u32, limits: Option<DrainPlan>) {
        if let (Some(running), Some(limits)) = (self.registry.member_mut(uid).and_then(|m| m.drain.as_mut()), limits) {
            running.drain.limit(limits);
        }
    }

    /// The state is written here and the counts are read later, by the first step: see
    /// [`crate::upstream::claim`].
    fn begin_drain(&mut self, uid: u32, admin: Admin, drain: Drain, by: By) {
        let inbox = self.inbox.clone();
        let Some(member) = self.registry.member_mut(uid) else { return };
        let took_new = may_take_new(member);
        member.set_admin(admin);
        member.by = by;
        let server = Arc::clone(&member.server);
        member.drain = Some(Running {
            drain,
            sessions: None,
            unknown_until: None,
            was_down: false,
            _waker: wake_when_idle(Arc::clone(&server), inbox),
        });
        let in_flight = server.in_flight();
        let word = if admin == Admin::Disabled { "disabled" } else { "draining" };
        info!(upstream = %server.upstream, server = %server.name, in_flight, by = by.name(), "server is {word}");
        self.changed(&server);
        if took_new {
            self.warn_if_shut(&server);
        }
        // Before anything is counted: what the process before this one counts after it has heard.
        self.tell_states();
    }

    /// Says that the last server that took new clients does so no more.
    fn warn_if_shut(&self, last: &Server) {
        if !self.registry.members_of(&last.upstream).any(|(_, member)| may_take_new(member)) {
            warn!(upstream = %last.upstream, "no server is left that takes new clients: they get 503 until one does");
        }
    }

    /// Goes on with a drain that another process began.
    pub(super) fn resume_drain(&mut self, uid: u32, drain: Drain, unknown_until: Option<Duration>) {
        let inbox = self.inbox.clone();
        let Some(member) = self.registry.member_mut(uid) else { return };
        let waker = wake_when_idle(Arc::clone(&member.server), inbox);
        member.drain = Some(Running { drain, sessions: None, unknown_until, was_down: false, _waker: waker });
    }

    /// Lets servers that are no longer configured end what they have in flight.
    pub(super) fn leave(&mut self, plan: &UpstreamPlan, members: Vec<Member>) {
        let drain = Drain::of_requests(plan.drain, self.now());
        for member in members {
            let server = Arc::clone(&member.server);
            info!(upstream = %server.upstream, server = %server.name, in_flight = server.in_flight(), "server is no longer configured");
            self.registry.leaving.insert(server.uid, Leaving { server, drain: drain.clone() });
        }
    }

    /// Steps every drain. The answer is the next moment at which one has a deadline.
    pub(super) fn step_drains(&mut self) -> Option<Instant> {
        let mut next: Option<Duration> = None;
        for uid in self.registry.draining() {
            next = [next, self.step_drain(uid)].into_iter().flatten().min();
        }
        let now = self.now();
        let (mut cut, mut close) = (Vec::new(), Vec::new());
        self.registry.leaving.retain(|uid, leaving| match leaving.drain.step(now, left(0, &leaving.server)) {
            Action::Wait { until } => {
                next = Some(next.map_or(until, |next| next.min(until)));
                true
            }
            Action::Close => true,
            Action::CloseTunnels { over, within } => {
                close.push((*uid, over, within));
                next = Some(now);
                true
            }
            Action::End => false,
            Action::Cut => {
                cut.push(*uid);
                false
            }
        });
        for (uid, over, within) in close {
            self.order(|| Order::Close { servers: [uid].into(), over, within });
        }
        self.cut(&cut);
        next.map(|next| self.started + next)
    }

    /// Steps the drain of one server, if it has one, as far as it goes now.
    pub(super) fn step_drain(&mut self, uid: u32) -> Option<Duration> {
        loop {
            let now = self.now();
            let sessions = self.sessions_left(uid, now);
            let member = self.registry.member_mut(uid)?;
            let running = member.drain.as_mut()?;
            let sessions = sessions.max(usize::from(running.unknown_until.is_some_and(|until| now < until)));
            let server = Arc::clone(&member.server);
            match running.drain.step(now, left(sessions, &server)) {
                Action::Wait { until } => return Some(until),
                Action::Close => {
                    let left = (sessions > 0).then_some(sessions);
                    info!(upstream = %server.upstream, server = %server.name, sessions_moved = left, in_flight = server.in_flight(), "server takes no more sessions");
                    if member.state().admin == Admin::Draining {
                        member.set_admin(Admin::Drained);
                    }
                    self.changed(&server);
                    self.tell_states();
                }
                Action::CloseTunnels { over, within } => {
                    let tunnels = tunnels(&server);
                    if tunnels > 0 {
                        info!(upstream = %server.upstream, server = %server.name, tunnels, "WebSockets of the server are being closed");
                    }
                    self.order(|| Order::Close { servers: [uid].into(), over, within });
                }
                action @ (Action::End | Action::Cut) => {
                    let seconds = (now - running.drain.began()).as_secs_f64();
                    member.drain = None;
                    if member.state().admin == Admin::Draining {
                        member.set_admin(Admin::Drained);
                    }
                    self.changed(&server);
                    if action == Action::Cut {
                        warn!(upstream = %server.upstream, server = %server.name, seconds, cut = server.in_flight(), "server is drained: its deadline passed and requests in flight are cut");
                        self.cut(&[uid]);
                    } else {
                        info!(upstream = %server.upstream, server = %server.name, seconds, "server is drained: nothing is in flight");
                    }
                    return None;
                }
            }
        }
    }

    /// Live sessions that hold the drain of a server. Counting goes through the whole ledger, so a
    /// count is used for one tick.
    fn sessions_left(&mut self, uid: u32, now: Duration) -> usize {
        let Some((group, member)) = self.registry.both(uid) else { return 0 };
        let (Some(running), Some(sticky)) = (&member.drain, &group.sticky) else { return 0 };
        if !running.drain.waits_for_sessions() {
            return 0;
        }
        if let Some((at, count)) = running.sessions
            && now.saturating_sub(at) < TICK
        {
            return count;
        }
        let idle = u32::try_from(running.drain.limits().sessions_idle.as_secs()).unwrap_or(u32::MAX);
        let count = sticky.ledger.count_of(uid, clock::seconds().saturating_sub(idle));
        if let Some(running) = self.registry.member_mut(uid).and_then(|m| m.drain.as_mut()) {
            running.sessions = Some((now, count));
        }
        count
    }

    pub(super) fn cut(&self, uids: &[u32]) {
        if uids.is_empty() {
            return;
        }
        let servers: Arc<[u32]> = uids.into();
        self.order(|| Order::Cut { servers: Arc::clone(&servers) });
    }

    /// Orders the same of every core.
    pub(super) fn order(&self, order: impl Fn() -> Order) {
        self.pass_on(&order());
        for core in &self.plane.orders {
            let _ = core.send(order());
        }
    }

    pub(super) fn changed(&mut self, server: &Server) {
        self.registry.touch(&server.upstream);
        self.stale = true;
    }
}

/// Whether operators let it have new clients, whatever its checks say.
fn may_take_new(member: &Member) -> bool {
    member.state().admin == Admin::Ready && member.server.weight() > 0
}

/// Tunnels of the server that are open now.
fn tunnels(server: &Server) -> u64 {
    server.cells.iter().map(|cell| cell.counts.tunnels.get()).fold(0, u64::wrapping_add)
}

fn left(sessions: usize, server: &Server) -> Left {
    // What the process before this one has still counts, too. It closes its WebSockets when it is told.
    let in_flight = server.in_flight() + server.elsewhere();
    Left { sessions, in_flight, tunnels: tunnels(server) > 0 || server.elsewhere() > 0 }
}

fn wake_when_idle(server: Arc<Server>, inbox: mpsc::Sender<Message>) -> Waker {
    let task = tokio::spawn(async move {
        loop {
            server.idle.notified().await;
            if inbox.send(Message::Report(Report::Idle { uid: server.uid })).await.is_err() {
                return;
            }
            // A server whose pinned clients come and go is idle many times a second.
            sleep(Duration::from_millis(10)).await;
        }
    });
    Waker(task.abort_handle())
}

fn bad(message: String) -> CommandError {
    CommandError::BadRequest { message }
}

fn wanted(admin: &str) -> Result<Admin, CommandError> {
    match admin {
        "ready" => Ok(Admin::Ready),
        "draining" => Ok(Admin::Draining),
        "disabled" => Ok(Admin::Disabled),
        "drained" => Err(bad("`drained` is what a server becomes: ask for `draining`".to_owned())),
        other => Err(bad(format!("`{other}` is no administrative state: write `ready`, `draining` or `disabled`"))),
    }
}

/// The deadlines that are asked for, on top of `base`; none if it asks for none.
pub(super) fn deadlines(wanted: &Deadlines, base: DrainPlan) -> Result<Option<DrainPlan>, CommandError> {
    let read = |name: &str, text: &Option<String>, or: Duration| match text {
        None => Ok(or),
        Some(text) => units::parse_duration(text).map_err(|error| bad(format!("{name}: {error}"))),
    };
    if wanted.in_flight.is_none() && wanted.sessions_idle.is_none() && wanted.sessions_max.is_none() {
        return Ok(None);
    }
    Ok(Some(DrainPlan {
        in_flight: read("in_flight", &wanted.in_flight, base.in_flight)?,
        sessions_idle: read("sessions_idle", &wanted.sessions_idle, base.sessions_idle)?,
        sessions_max: read("sessions_max", &wanted.sessions_max, base.sessions_max)?,
        ..base
    }))
}
