//! The old process once another has taken over: it does as that one says, tells it what is left, and ends.

use std::sync::mpsc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::carry::service_resumed;
use super::frames::{Frame, Named, Progress, States};
use super::successor::News;
use crate::control::stop::Stopping;
use crate::control::supervisor::Supervisor;
use crate::upstream::server::State;
use crate::upstream::{Order, Server};

/// How often the new process is told what is left.
const PROGRESS: Duration = Duration::from_millis(100);

/// A process that has taken over.
#[derive(Debug)]
pub(super) struct Successor {
    pub(super) attempt: u64,
    pub(super) frames: mpsc::Sender<Frame>,
    /// The newest states of servers that it has sent.
    pub(super) heard: u64,
    pub(super) told: Option<(Instant, Progress)>,
    /// Whether this process was told to stop since.
    pub(super) hurried: bool,
}

impl Supervisor {
    /// Tells the process that has taken over what is left here.
    pub(super) fn tell_progress(&mut self) {
        let now = Instant::now();
        let ends_within = match self.stopping {
            Some(Stopping::Draining { until, .. }) => until.saturating_duration_since(now),
            _ => Duration::ZERO,
        };
        let Some(successor) = &mut self.row.successor else { return };
        if successor.told.as_ref().is_some_and(|(at, told)| now < *at + PROGRESS && told.heard == successor.heard) {
            return;
        }
        let mut progress = Progress {
            heard: successor.heard,
            connections: self.plane.open_connections(),
            ends_within,
            ..Progress::default()
        };
        for server in self.registry.servers() {
            progress.tunnels += tunnels(server);
            if server.in_flight() > 0 {
                let name = Named { upstream: server.upstream.to_string(), server: server.name.to_string() };
                progress.in_flight.push((name, server.in_flight()));
            }
        }
        let news = successor.told.as_ref().is_none_or(|(at, told)| {
            *told != Progress { ends_within: told.ends_within, ..progress.clone() } || now >= *at + 10 * PROGRESS
        });
        if news {
            let _ = successor.frames.send(Frame::Progress(progress.clone()));
            successor.told = Some((now, progress));
        }
    }

    /// Does as the new process says.
    pub(super) fn follow(&mut self, news: News) {
        let News::Said(frame) = news else {
            if let News::Gone { .. } = news {
                warn!("the process that has taken over is gone; this one drains on");
            }
            return;
        };
        match *frame {
            Frame::States(States { number, servers, services }) => {
                for (upstream, service) in services {
                    self.registry.set_service(&upstream, service_resumed(&service));
                    self.stale = true;
                }
                for one in servers {
                    if let Some(server) = self.named(&one.name) {
                        server.set_state(State { operational: one.operational, admin: one.admin });
                        self.registry.touch(&one.name.upstream);
                        self.stale = true;
                    }
                }
                // Published first: who is told that it was heard may rely on it.
                self.publish();
                if let Some(successor) = &mut self.row.successor {
                    successor.heard = number;
                }
            }
            Frame::Close(close) => {
                if let Some(uid) = self.named(&close.server).map(|server| server.uid) {
                    let (over, within) = (close.over, close.within);
                    self.order(|| Order::Close { servers: [uid].into(), over, within });
                }
            }
            Frame::Cut(name) => {
                if let Some(uid) = self.named(&name).map(|server| server.uid) {
                    self.cut(&[uid]);
                }
            }
            _ => {}
        }
    }

    fn named(&self, name: &Named) -> Option<&Server> {
        let uid = self.registry.find(&name.upstream, &name.server).ok()?;
        Some(&self.registry.member(uid)?.server)
    }

    /// This process drains already because another has taken over, and is told to stop: it has the time that a
    /// process has which stops. Whether that is so; the second time it is not.
    pub(in crate::control) fn hurry(&mut self, because: &'static str) -> bool {
        let Some(successor) = self.row.successor.as_mut().filter(|successor| !successor.hurried) else { return false };
        successor.hurried = true;
        let within = self.plan.shutdown.deadline;
        let ends = Instant::now() + within;
        if let Some(Stopping::Draining { until, looks }) = self.stopping
            && ends < until
        {
            info!(because, "draining, but no longer than a process that stops");
            let idle_grace = self.plan.shutdown.idle_grace;
            self.order(|| Order::Drain { idle_grace, within, left: [].into() });
            self.stopping = Some(Stopping::Draining { until: ends, looks });
        }
        true
    }
}

fn tunnels(server: &Server) -> u64 {
    server.cells.iter().map(|cell| cell.counts.tunnels.get()).fold(0, u64::wrapping_add)
}
