//! The control plane: one thread, one runtime, one inbox.
//!
//! It owns the configuration in force and everything that is slow or rare: checks, drains, reloads,
//! name resolution, signals, the admin API. It meets the data plane in [`crate::upstream`] alone; no
//! request waits for anything in here, and nothing in here may import the data plane.

mod activation;
pub mod admin;
pub mod api;
pub mod default_socket;
pub mod drain;
pub mod outlier;

mod asked;
mod bind;
mod canary;
mod certificates;
mod change;
mod checks;
mod deploys;
mod error;
mod forecast;
mod forgotten;
mod handle;
mod hot;
mod ledger;
mod listeners;
mod litmus;
mod members;
mod membership;
mod notify;
mod planning;
mod prober;
mod registry;
mod reload;
mod resolve;
mod service;
mod shared;
mod signals;
mod slow_start;
mod state;
mod status;
mod stop;
mod supervisor;
mod swap;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod traffic;
mod upgrade;
mod why;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

pub use activation::Activated;
pub use error::CommandError;
pub use handle::Handle;
pub use shared::Phase;
pub use upgrade::{Inherited, Program};

use admin::AdminAddresses;
use certificates::Terminators;
use forgotten::Forgotten;
use listeners::Listeners;
use notify::Notify;
use registry::Registry;
use reload::{Load, Source};
use resolve::Resolver;
use shared::Shared;
use state::Store;
use supervisor::{Message, Signal, Supervisor};
use upgrade::{Inheriting, Row};

use crate::config::Plan;
use crate::upstream::{DataPlane, Event};

/// Messages that may wait in the inbox; senders wait when it is full.
const INBOX: usize = 1_024;

/// Why the control plane did not start. [`CommandError::CannotBind`] names the address.
pub type StartError = CommandError;

/// Changes every Plan that is read, before it is used.
pub type Adjust = Arc<dyn Fn(&mut Plan) + Send + Sync>;

/// What [`start`] needs beside the data plane.
pub struct Options {
    pub plan: Plan,
    /// The file that a reload reads; none refuses reloads.
    pub config_path: Option<PathBuf>,
    /// Applied to every Plan that a reload reads.
    pub adjust: Option<Adjust>,
    /// Writes the metrics in the Prometheus text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Opens log files anew, by name.
    pub reopen_logs: Arc<dyn Fn() + Send + Sync>,
    /// Whether signals of the process are commands. A library that runs in a foreign process says no.
    pub handle_signals: bool,
    /// How a process is started that is to take over; none refuses upgrades.
    pub program: Option<Program>,
    /// What the process before this one has given, if there is one to take over from.
    pub inherited: Option<Inherited>,
    /// What the service manager listens on for this process.
    pub activated: Activated,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("config_path", &self.config_path).finish_non_exhaustive()
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every connection had ended.
    Drained,
    /// The deadline passed with that many connections open.
    Deadline { connections: u64 },
    /// It was told twice, or told to stop at once, with that many connections open.
    AtOnce { connections: u64 },
    /// The control plane failed: a fault in evenkeel.
    Failed,
}

/// The running control plane. Dropping it leaves it running.
#[derive(Debug)]
pub struct Control {
    handle: Handle,
    shared: Arc<Shared>,
    admin: AdminAddresses,
    thread: JoinHandle<Outcome>,
}

/// Starts the control plane on a thread of its own. On return every listener is bound and handed to
/// the cores, the admin API answers, and the first Snapshot is published.
///
/// # Errors
/// An address cannot be bound, a key cannot be used, or the system refuses a thread.
pub fn start(options: Options, data_plane: DataPlane, events: mpsc::Receiver<Event>) -> Result<Control, StartError> {
    let adjust = options.adjust.clone();
    let load = move |source: Source<'_>| {
        let mut loaded = reload::load(source)?;
        if let Some(adjust) = &adjust {
            adjust(&mut loaded.0);
        }
        Ok(loaded)
    };
    start_with(options, data_plane, events, Arc::new(load))
}

fn start_with(
    options: Options,
    data_plane: DataPlane,
    events: mpsc::Receiver<Event>,
    load: Load,
) -> Result<Control, StartError> {
    let shared = Arc::new(Shared::new());
    let (inbox, received) = mpsc::channel(INBOX);
    let handle = Handle::new(inbox.clone(), Arc::clone(&shared), Arc::clone(&load));
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let thread = {
        let (shared, handle) = (Arc::clone(&shared), handle.clone());
        std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            // Whoever waits for the start must not wait for ever, whatever ends this thread.
            let _end = End(Arc::clone(&shared));
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(source) => {
                    let _ = tell.send(Err(CommandError::System { doing: "starting the control plane", source }));
                    return Outcome::Failed;
                }
            };
            let outcome = runtime.block_on(async move {
                match begin(options, data_plane, inbox, shared, handle, load).await {
                    Ok(supervisor) => {
                        let _ = tell.send(Ok(supervisor.admin.addresses.clone()));
                        supervisor.run(received, events).await
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
                        Outcome::Failed
                    }
                }
            });
            // A look-up or a read of the configuration may hang; the process must not.
            runtime.shutdown_background();
            outcome
        })
    };
    let thread = thread.map_err(|source| CommandError::System { doing: "starting the control plane", source })?;
    let ended = |_| CommandError::System {
        doing: "starting the control plane",
        source: std::io::Error::other("it ended before it had begun"),
    };
    let admin = told.recv().map_err(ended)??;
    Ok(Control { handle, shared, admin, thread })
}

struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.set_phase(Phase::Stopped);
    }
}

async fn begin(
    options: Options,
    plane: DataPlane,
    inbox: mpsc::Sender<Message>,
    shared: Arc<Shared>,
    handle: Handle,
    load: Load,
) -> Result<Supervisor, StartError> {
    let Options {
        plan,
        config_path,
        adjust: _,
        metrics,
        reopen_logs,
        handle_signals,
        program,
        mut inherited,
        activated,
    } = options;
    if handle_signals {
        signals::watch(&inbox).map_err(|source| CommandError::System { doing: "listening for signals", source })?;
    }
    let mut listeners = Listeners::default();
    let mut offered = admin::Offered::default();
    if let Some(inherited) = &mut inherited {
        inherited.offer(&mut listeners.offered, &mut offered);
    }
    let mut inheriting = inherited.map(Inheriting::new);
    activated.offer(&mut listeners, &mut offered);
    let begun = Instant::now();
    let (store, started) = match &inheriting {
        None => (Store::open(plan.state_dir.as_deref()), begun),
        Some(inheriting) => (
            Store::inherit(plan.state_dir.as_deref(), inheriting.state().clone()),
            begun.checked_sub(inheriting.now()).unwrap_or(begun),
        ),
    };
    let mut members = store.members();
    members.prune(&plan);
    let deploys = store.deploys();
    let (file, plan) = (plan.clone(), members.over(&plan));
    if let Some(bind) = plan.admin.bind {
        let (admin, others) = listeners.offered.into_iter().partition(|one| one.slot.is_none() && one.address == bind);
        listeners.offered = others;
        let admin: Vec<listeners::Offered> = admin;
        offered.tcp.extend(admin.into_iter().map(|one| (bind, one.socket)));
    }
    let admin = admin::bind(&plan.admin, handle, metrics, &mut offered)?;
    if let (Some(inheriting), Some(path)) = (&mut inheriting, admin.own_file()) {
        inheriting.made(path);
    }
    let mut supervisor = Supervisor {
        config_path,
        load,
        plane,
        registry: Registry::default(),
        listeners,
        route_cells: HashMap::new(),
        routes: Vec::new(),
        tls: Vec::new(),
        terminators: Terminators::default(),
        store,
        members,
        deploys,
        // What another process says of them holds.
        restored: inheriting.is_some(),
        admin,
        // Of a program that embeds evenkeel others know when it is ready.
        notify: if handle_signals { Notify::from_env() } else { Notify::default() },
        row: Row::new(program, inheriting),
        file,
        resolver: Resolver::new(&plan.dns),
        reopen_logs,
        shared,
        inbox,
        started,
        begun,
        stopping: None,
        stale: false,
        next_look: Duration::ZERO,
        next_hot: Duration::ZERO,
        forgotten: Forgotten::default(),
        requests_seen: 0,
        sampling: None,
        debug: None,
        plan: plan.clone(),
    };
    let prepared = supervisor.prepare(&plan)?;
    activation::nothing_left(&supervisor.listeners, &offered)?;
    if !supervisor.row.is_inheriting() {
        let refused = |source| CommandError::System { doing: "serving the admin API", source };
        supervisor.admin.start().map_err(refused)?;
    }
    supervisor.put_in_force(plan, prepared);
    supervisor.terminators.watch();
    Ok(supervisor)
}

impl Control {
    /// Names of the listeners in force and the addresses they really have.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.shared.addresses()
    }

    /// The TCP address of the admin API, if it has one.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.tcp
    }

    /// The Unix socket of the admin API, if it has one.
    #[must_use]
    pub fn admin_socket(&self) -> Option<&Path> {
        self.admin.socket.as_deref()
    }

    /// A way to give commands from asynchronous code.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Blocks until every server was checked for the first time. The answer is whether it serves: it
    /// may have been told to stop before.
    pub fn ready(&self) -> bool {
        self.shared.wait_started() == Phase::Serving
    }

    /// Begins to drain the process; [`Self::wait`] returns when it has ended.
    pub fn stop(&self) {
        self.handle.signal(Signal::Stop { because: "the program", insist: false });
    }

    /// Ends without waiting for anything.
    pub fn stop_now(&self) {
        self.handle.signal(Signal::StopNow);
    }

    /// Blocks until the control plane has ended. By then it has let go of the cores: their channels of
    /// orders are closed.
    #[must_use]
    pub fn wait(self) -> Outcome {
        self.thread.join().unwrap_or(Outcome::Failed)
    }
}
