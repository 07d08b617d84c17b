//! The one owner of what runs: the Plan in force, the registry of servers, the listeners.
//!
//! Everything that changes it comes through one inbox and is done one at a time, so no two changes
//! ever meet half-way. Reports of probes and drains are taken in batches and published together;
//! a command is published before it is answered, so that its caller sees it in force.
//!
//! Nothing in this room may wait for the data plane, or for the network.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::Outcome;
use super::admin;
use super::api::{
    Deadlines, Deploy, Explained, NewCanary, NewServer, Reloaded, ServerChange, ServerStatus, ServiceChange, Status,
    Swap, Upgraded, UpstreamStatus,
};
use super::certificates::{Terminator, Terminators};
use super::deploys::DeployOrder;
use super::drain::TICK;
use super::error::CommandError;
use super::forgotten::Forgotten;
use super::ledger::Ledgers;
use super::listeners::Listeners;
use super::members::Members;
use super::notify::Notify;
use super::planning::{Foretold, Proposed};
use super::registry::Registry;
use super::reload::Load;
use super::resolve::Resolver;
use super::shared::{Phase, Shared};
use super::state::Store;
use super::stop::Stopping;
use super::upgrade::frames::Frame;
use super::upgrade::{News, Row};
use crate::config::Plan;
use crate::config::plan::DebugPlan;
use crate::health::Says;
use crate::metrics::cells::RouteCell;
use crate::metrics::skew::PACE;
use crate::upstream::explain::Debug;
use crate::upstream::sampler::Sampler;
use crate::upstream::snapshot::Listening;
use crate::upstream::{DataPlane, Event, Routes, Snapshot, clock};

/// Messages taken in before what they changed is published.
const BATCH: usize = 256;

/// All that comes through the inbox.
#[derive(Debug)]
pub(super) enum Message {
    Command(Command),
    Report(Report),
    Signal(Signal),
}

/// A command that is answered.
#[derive(Debug)]
pub(super) enum Command {
    Reload {
        reply: oneshot::Sender<Result<Reloaded, CommandError>>,
    },
    Change {
        upstream: String,
        server: String,
        change: ServerChange,
        reply: Reply<ServerStatus>,
    },
    Server {
        upstream: String,
        server: String,
        reply: Reply<ServerStatus>,
    },
    Add {
        upstream: String,
        server: NewServer,
        reply: Reply<ServerStatus>,
    },
    Remove {
        upstream: String,
        server: String,
        deadlines: Deadlines,
        reply: Reply<ServerStatus>,
    },
    Serve {
        upstream: String,
        change: ServiceChange,
        reply: Reply<UpstreamStatus>,
    },
    Canary {
        upstream: String,
        canary: Option<NewCanary>,
        reply: Reply<UpstreamStatus>,
    },
    Swap {
        upstream: String,
        swap: Swap,
        reply: Reply<UpstreamStatus>,
    },
    Deploy {
        upstream: String,
        order: DeployOrder,
        reply: Reply<Deploy>,
    },
    /// Sets a configuration against the one in force and puts nothing of it in force.
    Propose {
        proposed: Box<Proposed>,
        reply: Reply<Box<Proposed>>,
    },
    /// What is remembered of a request.
    Why {
        request_id: String,
        reply: Reply<Vec<Explained>>,
    },
    Sample {
        lasts: Duration,
        reply: Reply<Arc<Sampler>>,
    },
    Foretell {
        proposed: Box<Proposed>,
        /// For how long clients were looked at.
        looked: Duration,
        reply: oneshot::Sender<Foretold>,
    },
    Status {
        reply: oneshot::Sender<Status>,
    },
    /// Answered when another process has taken over, or could not.
    Upgrade {
        reply: Reply<Upgraded>,
    },
}

impl Command {
    /// Whether anything is another way afterwards.
    fn changes(&self) -> bool {
        match self {
            Self::Server { .. } | Self::Status { .. } | Self::Upgrade { .. } => false,
            Self::Propose { .. } | Self::Sample { .. } | Self::Foretell { .. } | Self::Why { .. } => false,
            Self::Reload { .. } | Self::Change { .. } | Self::Add { .. } | Self::Remove { .. } => true,
            Self::Serve { .. } | Self::Swap { .. } | Self::Canary { .. } | Self::Deploy { .. } => true,
        }
    }

    /// Answers that it was not done.
    fn refuse(self, why: CommandError) {
        // Whoever asked for the status alone sees that nobody answers.
        match self {
            Self::Reload { reply } => drop(reply.send(Err(why))),
            Self::Change { reply, .. }
            | Self::Server { reply, .. }
            | Self::Add { reply, .. }
            | Self::Remove { reply, .. } => drop(reply.send(Err(why))),
            Self::Serve { reply, .. } | Self::Canary { reply, .. } | Self::Swap { reply, .. } => {
                drop(reply.send(Err(why)));
            }
            Self::Deploy { reply, .. } => drop(reply.send(Err(why))),
            Self::Upgrade { reply } => drop(reply.send(Err(why))),
            Self::Propose { reply, .. } => drop(reply.send(Err(why))),
            Self::Sample { reply, .. } => drop(reply.send(Err(why))),
            Self::Why { reply, .. } => drop(reply.send(Err(why))),
            Self::Foretell { reply, .. } => drop(reply),
            Self::Status { reply } => drop(reply),
        }
    }
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, CommandError>>;

/// What tasks of the control plane found out.
#[derive(Debug)]
pub(super) enum Report {
    Probed {
        uid: u32,
        epoch: u64,
        result: Result<Says, String>,
    },
    Resolved {
        uid: u32,
        result: Result<Vec<SocketAddr>, String>,
    },
    /// The last request in flight of a server that drains has ended.
    Idle {
        uid: u32,
    },
    /// Of the process that is to take over, by the number of the attempt.
    Successor(u64, News),
    /// Of the process before this one; none: it is gone.
    Predecessor(Box<Option<Frame>>),
}

/// A command that is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Drain and end. `insist`: if it is draining already, end at once.
    Stop {
        because: &'static str,
        insist: bool,
    },
    StopNow,
    Reload,
    ReopenLogs,
    Upgrade,
}

pub(super) struct Supervisor {
    /// What is in force: the file with what operators said over it.
    pub(super) plan: Plan,
    /// What the file says.
    pub(super) file: Plan,
    pub(super) members: Members,
    /// Who deploys which upstream.
    pub(super) deploys: Ledgers,
    /// Whether servers are marked as they were before the start.
    pub(super) restored: bool,
    pub(super) config_path: Option<PathBuf>,
    pub(super) load: Load,
    pub(super) plane: DataPlane,
    pub(super) registry: Registry,
    pub(super) listeners: Listeners,
    /// Kept by route name while the route is configured.
    pub(super) route_cells: HashMap<String, Arc<[RouteCell]>>,
    /// Compiled routes, by position of the listener in the Plan.
    pub(super) routes: Vec<Arc<Routes>>,
    /// What handshakes are made from, by position of the listener in the Plan.
    pub(super) tls: Vec<Option<Arc<Terminator>>>,
    pub(super) terminators: Terminators,
    pub(super) store: Store,
    pub(super) admin: admin::Server,
    pub(super) notify: Notify,
    /// The processes before and after this one.
    pub(super) row: Row,
    pub(super) resolver: Resolver,
    pub(super) reopen_logs: Arc<dyn Fn() + Send + Sync>,
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: mpsc::Sender<Message>,
    /// What [`Self::now`] counts from; not later than this process.
    pub(super) started: Instant,
    /// When this process began.
    pub(super) begun: Instant,
    pub(super) stopping: Option<Stopping>,
    /// Whether something changed that the Snapshot in force does not say.
    pub(super) stale: bool,
    /// When what live traffic shows of servers is looked at again.
    pub(super) next_look: Duration,
    /// When what clients do is looked at again.
    pub(super) next_hot: Duration,
    /// Whether somebody has forgotten to say who their proxy is.
    pub(super) forgotten: Forgotten,
    /// Requests of all cores at the last look.
    pub(super) requests_seen: u64,
    /// What cores note of requests, and what asked for it.
    pub(super) debug: Option<(DebugPlan, Arc<Debug>)>,
    /// Who comes, while somebody wants to know, and until when that is.
    pub(super) sampling: Option<(Arc<Sampler>, Instant)>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Runs until evenkeel has stopped.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        mut events: mpsc::Receiver<Event>,
    ) -> Outcome {
        let mut events_open = true;
        let mut look = Instant::now();
        let mut skew = look + PACE;
        loop {
            let watching = self.stopping.is_some()
                || self.registry.drains()
                || self.holds()
                || self.deploys()
                || self.row.is_moving()
                || self.sampling.is_some();
            let traffic = self.next_traffic();
            tokio::select! {
                Some(message) = inbox.recv() => {
                    self.take(message).await;
                    for _ in 1..BATCH {
                        let Ok(message) = inbox.try_recv() else { break };
                        self.take(message).await;
                    }
                }
                event = events.recv(), if events_open => match event {
                    // What becomes of servers is the other process's to decide.
                    Some(_) if self.row.is_over() => {}
                    Some(Event::ConnectFailed { server }) => self.connect_failed(server),
                    Some(Event::Failing { server, in_a_row }) => self.failing(server, in_a_row),
                    Some(Event::AsksForDrain { server }) => self.asks_for_drain(server),
                    Some(Event::AsksNoMore { server }) => self.asks_no_more(server),
                    None => events_open = false,
                },
                () = sleep_until(look), if watching => {}
                () = sleep_until(traffic.unwrap_or(look)), if traffic.is_some() => {}
                () = sleep_until(skew) => {
                    self.plane.swap.looks.look(&self.plane.swap.current.load(), clock::elapsed());
                    skew = Instant::now() + PACE;
                }
            }
            self.step_traffic();
            self.step_hot();
            let drains = self.step_drains();
            self.take_out();
            self.end_holds();
            self.end_sample();
            self.tend_deploys();
            self.publish();
            self.step_successor();
            let stop = match self.step_stop() {
                Ok(next) => next,
                Err(outcome) => {
                    if self.row.is_over() {
                        self.admin.finish().await;
                    }
                    return outcome;
                }
            };
            let now = Instant::now();
            look = [Some(now + TICK), drains, stop]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(now)
                .max(now + Duration::from_millis(1));
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Command(command) => self.command(command).await,
            Message::Report(Report::Probed { uid, epoch, result }) => self.probed(uid, epoch, result),
            Message::Report(Report::Resolved { uid, result }) => self.resolved(uid, result),
            Message::Report(Report::Idle { uid }) => {
                self.step_drain(uid);
            }
            Message::Signal(Signal::Stop { because, insist }) => self.begin_stop(because, insist),
            Message::Signal(Signal::StopNow) => self.stop_now(),
            Message::Signal(Signal::Reload) => {
                self.notify.reloading();
                drop(self.reload().await);
                self.notify.ready();
            }
            Message::Signal(Signal::ReopenLogs) => {
                info!("reopening log files");
                (self.reopen_logs)();
            }
            Message::Signal(Signal::Upgrade) => self.upgrade(None),
            Message::Report(Report::Successor(attempt, news)) => self.successor_said(attempt, news),
            Message::Report(Report::Predecessor(frame)) => self.predecessor_said(*frame),
        }
    }

    async fn command(&mut self, command: Command) {
        if self.row.is_over() || (self.row.is_told() && command.changes()) {
            return command.refuse(CommandError::HandedOver);
        }
        // Whoever asked may be gone: then the answer is dropped.
        match command {
            Command::Upgrade { reply } => self.upgrade(Some(reply)),
            Command::Reload { reply } => drop(reply.send(self.reload().await)),
            Command::Change { upstream, server, change, reply } => {
                let result = self.change(&upstream, &server, &change);
                self.publish();
                drop(reply.send(result.and_then(|uid| self.told(uid, &upstream, &server))));
            }
            Command::Server { upstream, server, reply } => {
                let uid = self.registry.find(&upstream, &server);
                drop(reply.send(uid.and_then(|uid| self.told(uid, &upstream, &server))));
            }
            Command::Add { upstream, server, reply } => {
                let result = self.add(&upstream, &server);
                self.publish();
                drop(reply.send(
                    result.and_then(|uid| self.told(uid, &upstream, server.name.as_deref().unwrap_or_default())),
                ));
            }
            Command::Remove { upstream, server, deadlines, reply } => {
                let result = self.remove(&upstream, &server, &deadlines);
                let status = result.and_then(|uid| self.told(uid, &upstream, &server));
                self.take_out();
                self.publish();
                drop(reply.send(status));
            }
            Command::Serve { upstream, change, reply } => {
                let result = self.serve(&upstream, &change);
                self.publish();
                let status = || self.upstream_status(&upstream).ok_or_else(|| CommandError::no_upstream(&upstream));
                drop(reply.send(result.and_then(|()| status())));
            }
            Command::Canary { upstream, canary, reply } => {
                let result = match canary {
                    Some(new) => self.begin_canary(&upstream, &new),
                    None => {
                        self.end_canary(&upstream);
                        Ok(())
                    }
                };
                self.publish();
                let status = || self.upstream_status(&upstream).ok_or_else(|| CommandError::no_upstream(&upstream));
                drop(reply.send(result.and_then(|()| status())));
            }
            Command::Swap { upstream, swap, reply } => {
                let result = self.swap(&upstream, &swap);
                self.publish();
                let status = || self.upstream_status(&upstream).ok_or_else(|| CommandError::no_upstream(&upstream));
                drop(reply.send(result.and_then(|()| status())));
            }
            Command::Deploy { upstream, order, reply } => {
                let result = self.deploy(&upstream, order);
                self.publish();
                drop(reply.send(result));
            }
            Command::Propose { proposed, reply } => drop(reply.send(Ok(Box::new(self.propose(*proposed))))),
            Command::Why { request_id, reply } => drop(reply.send(self.why(&request_id))),
            Command::Sample { lasts, reply } => {
                let result = self.begin_sample(lasts);
                self.publish();
                drop(reply.send(result));
            }
            Command::Foretell { proposed, looked, reply } => drop(reply.send(self.foretell(*proposed, looked))),
            Command::Status { reply } => drop(reply.send(self.status())),
        }
    }

    fn told(&self, uid: u32, upstream: &str, server: &str) -> Result<ServerStatus, CommandError> {
        self.server_status(uid, None).ok_or_else(|| CommandError::no_server(upstream, server))
    }

    /// Publishes a Snapshot if anything changed since the one in force.
    pub(super) fn publish(&mut self) {
        if !self.stale {
            return;
        }
        self.heed();
        self.publish_now();
    }

    /// Publishes what is there.
    pub(super) fn publish_now(&mut self) {
        self.stale = false;
        let upstreams = self.plan.upstreams.iter().filter_map(|u| self.registry.upstream(&u.name)).collect();
        let mut listeners: Vec<Option<Listening>> = Vec::new();
        listeners.resize_with(self.listeners.slots(), || None);
        for ((plan, routes), tls) in self.listeners.plans.iter().zip(&self.routes).zip(&self.tls) {
            if let Some(slot) = self.listeners.slot(plan) {
                let (plan, routes, tls) = (Arc::clone(plan), Arc::clone(routes), tls.as_ref());
                let tls = tls.map(|terminator| Arc::clone(&terminator.server));
                listeners[slot] = Some(Listening { plan, routes, tls });
            }
        }
        self.keep_marks();
        self.plane.publish(Snapshot {
            generation: 0,
            max_connections: self.plan.max_connections,
            debug: self.debug.as_ref().map(|(_, debug)| Arc::clone(debug)),
            sampler: self.sampling.as_ref().map(|(sampler, _)| Arc::clone(sampler)),
            tells_local: self.plan.upstreams.iter().any(|upstream| upstream.send_proxy.is_some()),
            listeners,
            upstreams,
        });
        if self.shared.phase() == Phase::Starting && self.registry.all_decided() {
            if self.row.is_inheriting() { self.say_ready() } else { self.serving() }
        }
        self.tell_states();
        self.shared.changed();
    }

    /// Time since the start: what drains are measured by.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
