//! What an old and a new process say to each other.
//!
//! They may be of different versions: a field that one does not know is ignored, one that is missing has its
//! default, and a frame of a kind that one does not know is passed over. So fields are only ever added.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::carried::{Carried, CarriedService};
use crate::upstream::{Admin, Operational};

/// One message, in either direction.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(in crate::control) enum Frame {
    /// Old to new, first: what there is. The descriptors follow.
    Hello(Box<Hello>),
    /// New to old: it cannot go on, and why.
    Failed(Failed),
    /// New to old: the file of a Unix socket that it has made, to be removed if it is killed.
    Made { path: PathBuf },
    /// New to old: everything that can fail is done. It waits for the last word.
    Ready(Ready),
    /// Old to new: everything as it is now. From here on the new one is the one that counts.
    Commit(Box<Carried>),
    /// New to old: it accepts connections; let go.
    Taken,
    /// New to old: how servers are now.
    States(States),
    /// New to old: close the WebSockets of a server.
    Close(Close),
    /// New to old: cut what is in flight on a server.
    Cut(Named),
    /// Old to new: what is left.
    Progress(Progress),
    /// Of another version.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::control) struct Hello {
    pub(in crate::control) version: String,
    pub(in crate::control) pid: u32,
    /// What each descriptor is, in the order in which they come.
    pub(in crate::control) descriptors: Vec<Descriptor>,
    pub(in crate::control) carried: Carried,
}

/// What a descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(in crate::control) enum Descriptor {
    /// A socket that clients connect to. `name` tells those apart that were bound to port 0.
    Listener {
        bind: SocketAddr,
        name: Option<String>,
        address: SocketAddr,
        /// Its number in the old process.
        slot: usize,
    },
    AdminSocket {
        path: PathBuf,
        /// Whether the file belongs to the service manager.
        #[serde(default)]
        foreign: bool,
    },
    AdminTcp {
        /// As it was asked for, and as it really is.
        bind: SocketAddr,
        address: SocketAddr,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::control) struct Failed {
    /// `invalid_config`, `cannot_bind` or anything else.
    pub(in crate::control) kind: String,
    /// A report, or a sentence.
    pub(in crate::control) message: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::control) struct Ready {
    pub(in crate::control) version: String,
    /// Listeners, by their numbers in the old process, whose sockets the new one has taken.
    pub(in crate::control) slots: Vec<usize>,
    /// Whether it has taken the admin API's Unix socket.
    pub(in crate::control) admin_socket: bool,
}

/// A server by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::control) struct Named {
    pub(in crate::control) upstream: String,
    pub(in crate::control) server: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::control) struct Close {
    pub(in crate::control) server: Named,
    pub(in crate::control) over: Duration,
    pub(in crate::control) within: Duration,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::control) struct States {
    /// Grows; comes back in [`Progress::heard`].
    pub(in crate::control) number: u64,
    pub(in crate::control) servers: Vec<ServerState>,
    /// What operators said of upstreams as a whole.
    pub(in crate::control) services: Vec<(String, CarriedService)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::control) struct ServerState {
    pub(in crate::control) name: Named,
    pub(in crate::control) operational: Operational,
    pub(in crate::control) admin: Admin,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::control) struct Progress {
    /// The newest [`States`] that are in force.
    pub(in crate::control) heard: u64,
    pub(in crate::control) connections: u64,
    pub(in crate::control) tunnels: u64,
    /// Servers that have requests in flight, and how many.
    pub(in crate::control) in_flight: Vec<(Named, u32)>,
    pub(in crate::control) ends_within: Duration,
}
