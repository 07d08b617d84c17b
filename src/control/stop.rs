//! How the process ends: announced, then drained, then at its deadline.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Outcome;
use super::shared::Phase;
use super::supervisor::Supervisor;
use crate::upstream::Order;

/// How often the number of open connections is read while the process drains.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
pub(super) enum Stopping {
    /// `/readyz` says 503 and everything else goes on, so that an outer balancer turns away first.
    Announced {
        until: Instant,
    },
    /// Cores drain. `looks` counts how often in a row no connection was open.
    Draining {
        until: Instant,
        looks: u32,
    },
    AtOnce,
}

impl Supervisor {
    /// Begins to stop. When it is stopping already and someone insists, it stops at once.
    pub(super) fn begin_stop(&mut self, because: &'static str, insist: bool) {
        if self.stopping.is_some() {
            if insist && self.hurry(because) {
                return;
            }
            if insist {
                warn!(because, "stopping at once");
                self.stop_now();
            }
            return;
        }
        let connections = self.plane.open_connections();
        info!(because, connections, "stopping");
        self.notify.tell("STOPPING=1");
        self.shared.set_phase(Phase::Draining);
        self.stopping = Some(Stopping::Announced { until: Instant::now() + self.plan.shutdown.announce });
    }

    pub(super) fn stop_now(&mut self) {
        self.shared.set_phase(Phase::Draining);
        self.stopping = Some(Stopping::AtOnce);
    }

    /// Goes on with stopping, if it was asked for: when to look again, or how it ended.
    pub(super) fn step_stop(&mut self) -> Result<Option<Instant>, Outcome> {
        let Some(stopping) = self.stopping else { return Ok(None) };
        let now = Instant::now();
        let connections = self.plane.open_connections();
        match stopping {
            Stopping::Announced { until } if now < until => return Ok(Some(until)),
            Stopping::Announced { .. } => {
                let (idle_grace, within) = (self.plan.shutdown.idle_grace, self.plan.shutdown.deadline);
                for core in &self.plane.orders {
                    let _ = core.send(Order::Drain { idle_grace, within, left: [].into() });
                }
                self.listeners.close();
                self.stopping = Some(Stopping::Draining { until: now + self.plan.shutdown.deadline, looks: 0 });
            }
            // Twice, because a core may have accepted one more before it read its order.
            Stopping::Draining { looks, .. } if connections == 0 && looks > 0 => {
                info!("stopped: every connection has ended");
                return Err(Outcome::Drained);
            }
            Stopping::Draining { until, .. } if now >= until => {
                warn!(connections, "stopped: the deadline has passed and the connections left are cut");
                return Err(Outcome::Deadline { connections });
            }
            Stopping::Draining { until, looks } => {
                let looks = if connections == 0 { looks + 1 } else { 0 };
                self.stopping = Some(Stopping::Draining { until, looks });
            }
            Stopping::AtOnce => return Err(Outcome::AtOnce { connections }),
        }
        Ok(Some(now + LOOK))
    }
}
