//! The side of the new process: it gets ready, takes over, and keeps an eye on the old one while that drains.

use std::sync::mpsc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};

use super::carried::{Carried, CarriedService, CarriedUpstream};
use super::carry::service_carried;
use super::channel;
use super::frames::{Close, Frame, Named, Progress, Ready, ServerState, States};
use super::inherited::Inheriting;
use crate::control::api::PredecessorStatus;
use crate::control::listeners::Orders;
use crate::control::shared::Phase;
use crate::control::supervisor::{Message, Report, Supervisor};
use crate::upstream::{Order, Server, Service};

/// The process before this one, while it drains.
#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) pid: u32,
    version: String,
    frames: Option<mpsc::Sender<Frame>>,
    since: Instant,
    /// What it said last, and when.
    pub(super) progress: Progress,
    heard: Instant,
    /// The number of the newest states that it was sent, and those.
    has_spoken: bool,
    number: u64,
    states: Vec<ServerState>,
    services: Vec<(String, Service)>,
}

impl Predecessor {
    /// How long it may still be there.
    pub(super) fn ends_within(&self) -> Duration {
        self.progress.ends_within.saturating_sub(self.heard.elapsed())
    }
}

impl Supervisor {
    /// Keeps for later what the cores are to be told, if another process still serves.
    pub(in crate::control) fn hold_back(&mut self, orders: Orders) -> Option<Orders> {
        match &mut self.row.inheriting {
            Some(inheriting) => {
                inheriting.orders = Some(orders);
                None
            }
            None => Some(orders),
        }
    }

    /// Everything that can fail is done: says so.
    pub(in crate::control) fn say_ready(&mut self) {
        let Some(inheriting) = self.row.inheriting.as_mut().filter(|inheriting| !inheriting.is_ready) else { return };
        inheriting.is_ready = true;
        info!(pid = inheriting.pid, "ready to take over");
        let ready = Ready {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slots: self.listeners.taken.clone(),
            admin_socket: self.admin.is_taken,
        };
        // What is not used here must not wait here for a process that accepts.
        self.listeners.offered.clear();
        let inbox = self.inbox.clone();
        let take = move |frame| inbox.blocking_send(Message::Report(Report::Predecessor(Box::new(frame)))).is_ok();
        let begun = inheriting.channel.send(&Frame::Ready(ready)).and_then(|()| inheriting.channel.try_clone());
        if let Err(error) = begun.and_then(|channel| channel::reader(channel, take)) {
            error!(%error, "the process to take over from cannot be told");
            // It has died meanwhile. Not here: this is in the middle of a publication.
            let _ = self.inbox.try_send(Message::Report(Report::Predecessor(Box::new(None))));
        }
    }

    /// The old process has said something; none: it is gone.
    pub(in crate::control) fn predecessor_said(&mut self, frame: Option<Frame>) {
        match frame {
            Some(Frame::Commit(carried)) => self.succeed(Some(*carried)),
            Some(Frame::Progress(progress)) => self.note(progress),
            Some(_) => {}
            // It died when it was about to hand over: this one has all that it needs.
            None if self.row.inheriting.is_some() => {
                error!("the process to take over from is gone: what it knew at the start has to do");
                self.succeed(None);
                self.forget_predecessor();
            }
            None => self.forget_predecessor(),
        }
    }

    fn succeed(&mut self, last: Option<Carried>) {
        let Some(inheriting) = self.row.inheriting.take() else { return };
        let Inheriting { pid, version, channel, carried, orders, .. } = inheriting;
        let mut carried = last.unwrap_or(carried);
        let looks = |upstream: &mut CarriedUpstream| Some((upstream.name.clone(), upstream.looks.take()?));
        let looks: Vec<_> = carried.upstreams.iter_mut().filter_map(looks).collect();
        self.carry(carried);
        self.stale = true;
        self.publish_now();
        self.carry_looks(&looks);
        // What servers ask for is heeded from now on.
        self.stale = true;
        if let Some(orders) = orders {
            orders.listen(&self.plane);
        }
        if let Err(error) = self.admin.start() {
            error!(%error, "the admin API cannot be served");
        }
        let frames = channel::writer(channel, |_| {}).inspect_err(|error| error!(%error, "no thread")).ok();
        if let Some(frames) = &frames {
            let _ = frames.send(Frame::Taken);
        }
        info!(pid, version, "taken over: the process before drains");
        let now = Instant::now();
        self.row.predecessor = Some(Predecessor {
            pid,
            version,
            frames,
            since: now,
            progress: Progress { ends_within: self.plan.upgrade.deadline, ..Progress::default() },
            heard: now,
            has_spoken: false,
            number: 0,
            states: Vec::new(),
            services: Vec::new(),
        });
        self.tell_states();
    }

    /// The old process says what it still has.
    fn note(&mut self, progress: Progress) {
        let Some(predecessor) = &mut self.row.predecessor else { return };
        if !std::mem::replace(&mut predecessor.has_spoken, true) {
            // It has said by now which process is the main one.
            self.notify.ready();
        }
        let is_news = predecessor.progress.in_flight != progress.in_flight
            || predecessor.progress.heard != progress.heard
            || predecessor.progress.connections != progress.connections;
        predecessor.progress = progress;
        predecessor.heard = Instant::now();
        if is_news {
            self.count_elsewhere();
        }
    }

    /// Notes what the old process has in flight with the servers here.
    fn count_elsewhere(&mut self) {
        let predecessor = self.row.predecessor.as_ref();
        // What it counts holds from the moment on at which it knows how servers are.
        let is_behind = predecessor.is_some_and(|old| old.progress.heard < old.number);
        let of = |server: &Server| {
            let old = predecessor?;
            let is_it = |name: &Named| *name.upstream == *server.upstream && *name.server == *server.name;
            old.progress.in_flight.iter().find(|(name, _)| is_it(name)).map(|(_, count)| *count)
        };
        for server in self.registry.servers() {
            let count = of(server).unwrap_or(0);
            server.set_elsewhere(count, if is_behind { count.max(1) } else { count });
        }
        let connections = predecessor.map_or(0, |old| old.progress.connections);
        self.plane.swap.set_predecessor_connections(connections);
        self.shared.changed();
    }

    fn forget_predecessor(&mut self) {
        if let Some(Predecessor { pid, since, .. }) = self.row.predecessor.take() {
            info!(pid, seconds = since.elapsed().as_secs_f64(), "the process before has ended");
        }
        self.count_elsewhere();
    }

    /// Tells the old process how servers are, where that has changed.
    pub(in crate::control) fn tell_states(&mut self) {
        let Some(predecessor) = &mut self.row.predecessor else { return };
        let state = |server: &Server| ServerState {
            name: Named { upstream: server.upstream.to_string(), server: server.name.to_string() },
            operational: server.state().operational,
            admin: server.state().admin,
        };
        let states: Vec<ServerState> = self.registry.servers().map(|server| state(server)).collect();
        let services: Vec<(String, Service)> =
            self.registry.groups().map(|(name, group)| (name.to_owned(), group.service.clone())).collect();
        let changed: Vec<ServerState> =
            states.iter().filter(|state| !predecessor.states.contains(state)).cloned().collect();
        let is_new = |one: &&(String, Service)| !predecessor.services.contains(one);
        let changed_services: Vec<(String, CarriedService)> =
            services.iter().filter(is_new).map(|(name, service)| (name.clone(), service_carried(service))).collect();
        (predecessor.states, predecessor.services) = (states, services);
        if changed.is_empty() && changed_services.is_empty() {
            return;
        }
        predecessor.number += 1;
        if let Some(frames) = &predecessor.frames {
            let _ = frames.send(Frame::States(States {
                number: predecessor.number,
                servers: changed,
                services: changed_services,
            }));
        }
        self.count_elsewhere();
    }

    /// Orders of the cores that are meant for the old process, too.
    pub(in crate::control) fn pass_on(&self, order: &Order) {
        let Some(frames) = self.row.predecessor.as_ref().and_then(|old| old.frames.as_ref()) else { return };
        let named = |uid: &u32| {
            let server = &self.registry.member(*uid)?.server;
            Some(Named { upstream: server.upstream.to_string(), server: server.name.to_string() })
        };
        match order {
            Order::Cut { servers } => {
                for name in servers.iter().filter_map(named) {
                    let _ = frames.send(Frame::Cut(name));
                }
            }
            Order::Close { servers, over, within } => {
                for server in servers.iter().filter_map(named) {
                    let _ = frames.send(Frame::Close(Close { server, over: *over, within: *within }));
                }
            }
            _ => {}
        }
    }

    /// The old process, for the status.
    pub(in crate::control) fn predecessor_status(&self) -> Option<PredecessorStatus> {
        let old = self.row.predecessor.as_ref()?;
        Some(PredecessorStatus {
            pid: old.pid,
            version: old.version.clone(),
            seconds: old.since.elapsed().as_secs_f64(),
            connections: old.progress.connections,
            tunnels: old.progress.tunnels,
            in_flight: old.progress.in_flight.iter().map(|(_, count)| u64::from(*count)).sum(),
            in_step: old.progress.heard >= old.number,
            ends_within_seconds: old.ends_within().as_secs_f64(),
        })
    }

    /// Requests are served from now on.
    pub(in crate::control) fn serving(&mut self) {
        info!("serving");
        self.shared.set_phase(Phase::Serving);
        // The service manager believes the main process alone, and that is the one before for a moment yet.
        if !self.row.is_later {
            self.notify.ready();
        }
    }
}
