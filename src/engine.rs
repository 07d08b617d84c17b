//! evenkeel as one thing: the only place that starts both planes and ties them together.
//!
//! The command line and programs that embed evenkeel start it here. Neither plane knows the other;
//! what one needs of the other (metrics, reopening the log) is handed over as a function.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Loaded;
pub use crate::control::Adjust;
use crate::control::{self, Control, Outcome};
pub use crate::control::{Activated, Inherited, Program};
use crate::metrics::export::Exporter;
use crate::proxy::access_log::AccessLog;
use crate::proxy::{self, Cores};
use crate::upstream::clock;

/// Reports of the cores that may wait for the control plane; more are lost.
const EVENTS: usize = 1024;

/// How evenkeel is started.
#[derive(Default)]
pub struct Options {
    /// The file that a reload reads; none refuses reloads.
    pub config: Option<PathBuf>,
    /// Applied to every Plan that a reload reads.
    pub adjust: Option<Adjust>,
    /// Whether HUP, USR1, USR2, TERM, INT and QUIT of the process are obeyed.
    pub signals: bool,
    /// How a process is started that is to take over from this one; none refuses upgrades.
    pub program: Option<Program>,
    /// What the process before this one has given, if there is one to take over from.
    pub inherited: Option<Inherited>,
    /// What the service manager listens on for this process.
    pub activated: Activated,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("config", &self.config).field("signals", &self.signals).finish_non_exhaustive()
    }
}

/// Why evenkeel did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The control plane refused: an address cannot be bound, a key cannot be used.
    #[error(transparent)]
    Control(#[from] control::StartError),
    #[error("the access log cannot be opened: {0}")]
    AccessLog(#[source] io::Error),
    #[error("the data plane cannot be started: {0}")]
    DataPlane(#[source] io::Error),
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl StartError {
    /// Whether an address could not be bound.
    #[must_use]
    pub fn is_bind(&self) -> bool {
        matches!(self, Self::Control(control::CommandError::CannotBind { .. }))
    }
}

/// A running evenkeel. Dropping it leaves it running.
#[derive(Debug)]
pub struct Evenkeel {
    control: Control,
    cores: Cores,
    log: Option<Arc<AccessLog>>,
}

/// Starts evenkeel. On return every listener is bound; servers are checked from then on.
///
/// # Errors
/// An address cannot be bound, a key or the access log cannot be used, or the system refuses a thread.
pub fn start(loaded: Loaded, options: Options) -> Result<Evenkeel, StartError> {
    let plan = loaded.plan;
    let (events, reports) = tokio::sync::mpsc::channel(EVENTS);
    let log = match &plan.access_log {
        Some(log) => Some(Arc::new(AccessLog::start(log).map_err(StartError::AccessLog)?)),
        None => None,
    };
    let buffers = log.clone().map(|log| Box::new(move || log.buffer()) as Box<dyn Fn() -> proxy::access_log::Buffer>);
    let settings = proxy::Settings { cores: plan.cores, events, access_log: buffers };
    let (data_plane, cores) = proxy::start(&settings).map_err(StartError::DataPlane)?;
    drop(settings);
    let exporter = Exporter::new(Arc::clone(&data_plane.swap), Arc::clone(&data_plane.cells), clock::seconds)?;
    let reopened = log.clone();
    let control = control::start(
        control::Options {
            plan,
            config_path: options.config,
            adjust: options.adjust,
            metrics: Arc::new(move || exporter.render()),
            reopen_logs: Arc::new(move || {
                if let Some(log) = &reopened {
                    log.reopen();
                }
            }),
            handle_signals: options.signals,
            program: options.program,
            inherited: options.inherited,
            activated: options.activated,
        },
        data_plane,
        reports,
    )?;
    Ok(Evenkeel { control, cores, log })
}

impl Evenkeel {
    /// Names of the listeners in force and the addresses they really have.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.control.addresses()
    }

    /// The TCP address of the admin API, if it has one.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.control.admin_address()
    }

    /// The Unix socket of the admin API, if it has one.
    #[must_use]
    pub fn admin_socket(&self) -> Option<&Path> {
        self.control.admin_socket()
    }

    /// A way to give commands from asynchronous code.
    #[must_use]
    pub fn handle(&self) -> control::Handle {
        self.control.handle()
    }

    /// Blocks until every server was checked for the first time; false when it was stopped before.
    pub fn ready(&self) -> bool {
        self.control.ready()
    }

    /// Begins to drain the process; [`Self::wait`] returns when it has ended.
    pub fn stop(&self) {
        self.control.stop();
    }

    /// Ends without waiting for requests in flight.
    pub fn stop_now(&self) {
        self.control.stop_now();
    }

    /// Blocks until evenkeel has ended, and writes the last lines of the access log.
    #[must_use]
    pub fn wait(self) -> Outcome {
        let outcome = self.control.wait();
        // The cores end because their orders have: nobody is left to give any.
        self.cores.join();
        drop(self.log);
        outcome
    }
}

#[cfg(test)]
mod tests;
