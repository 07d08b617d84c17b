//! What a new process is told of the old one: all that is known and is not in the configuration.
//!
//! Moments are durations since the first process of the row began; the clock behind them is the machine's, so
//! they mean the same in each. Servers are named, not numbered: numbers are of one process.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::asked::{Asked, By};
use crate::control::drain::Stage;
use crate::control::hot::CarriedHot;
use crate::control::outlier::Ejected;
use crate::control::state::State;
use crate::metrics::skew;
use crate::upstream::{Admin, Operational, litmus, shadow};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::control) struct Carried {
    /// What `now` is.
    pub(super) now: Duration,
    /// What the clock of the sessions says, in seconds.
    pub(super) clock: Duration,
    /// Keys, and what operators said of servers.
    pub(super) state: State,
    pub(super) upstreams: Vec<CarriedUpstream>,
    /// Whether the configuration has changed since the new process read it.
    pub(super) reload: bool,
    /// By core: where round robin goes on, by name of the upstream.
    pub(super) cursors: Vec<Vec<(String, usize)>>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct CarriedUpstream {
    pub(super) name: String,
    pub(super) service: CarriedService,
    pub(super) servers: Vec<CarriedServer>,
    /// Session, position of its server in the list, and when it was seen in seconds of the clock.
    pub(super) sessions: Vec<(u64, usize, u32)>,
    /// What was measured of its traffic, where that is asked for.
    pub(super) litmus: Option<litmus::Memory>,
    pub(super) hot: Option<CarriedHot>,
    pub(super) shadow: Option<shadow::Memory>,
    pub(super) looks: Option<skew::Memory>,
}

/// What an operator said of an upstream as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(in crate::control) enum CarriedService {
    /// Until it is opened, at most so long.
    Paused {
        left: Duration,
    },
    Releasing {
        rate: u32,
        left: Duration,
    },
    Maintenance {
        message: String,
        retry_after: u32,
    },
    #[default]
    #[serde(other)]
    Open,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CarriedServer {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) operational: Operational,
    pub(super) admin: Admin,
    /// Who has set that, and what the server itself asks for.
    #[serde(default)]
    pub(super) by: By,
    #[serde(default)]
    pub(super) asked: Asked,
    /// Where an operator set it.
    #[serde(default)]
    pub(super) weight: Option<u32>,
    #[serde(default)]
    pub(super) leaving: bool,
    /// What results of checks have come to: up or down, and how many in a row say otherwise.
    #[serde(default)]
    pub(super) up: Option<bool>,
    #[serde(default)]
    pub(super) against: u32,
    #[serde(default)]
    pub(super) known: bool,
    #[serde(default)]
    pub(super) last_error: Option<String>,
    #[serde(default)]
    pub(super) resolved: Vec<SocketAddr>,
    #[serde(default)]
    pub(super) drain: Option<CarriedDrain>,
    #[serde(default)]
    pub(super) ejected: Ejected,
    #[serde(default)]
    pub(super) slow_since: Option<Duration>,
}

/// A drain under way.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct CarriedDrain {
    pub(super) in_flight: Duration,
    pub(super) sessions_idle: Duration,
    pub(super) sessions_max: Duration,
    pub(super) began: Duration,
    pub(super) stage: Stage,
    #[serde(default)]
    pub(super) unknown_until: Option<Duration>,
}
