//! One core: a thread with its own runtime, sockets, upstream connections, counters and cached Snapshot.
//!
//! Nothing in here is shared but what [`crate::upstream`] shares, so `Rc` and `Cell` do: no lock and no
//! contended reference count is touched by a request. A core never waits for the control plane.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tracing::warn;

use super::access_log;
use super::basic_auth::{Turns, Verifier};
use super::census::Census;
use super::complaint::Complaints;
use super::listener::{self, Stop};
use super::pool::Pools;
use super::queue::Lines;
use super::request_id;
use super::retry::Budget;
use super::tunnels::Tunnels;
use super::watch::{TICK, Watches};
use crate::balance::Scratch;
use crate::config::plan::ListenerPlan;
use crate::metrics::cells::CoreCells;
use crate::upstream::{Claim, DataPlane, Event, Events, Order, Server, Snapshot, Swap};

/// How often an idle core looks after its pools and its log.
const LONG_TICK: Duration = Duration::from_secs(1);

/// How long connections of a removed listener are served with what it had.
const RETIRED_FOR: Duration = Duration::from_secs(60);

/// A Snapshot as one core holds it: cloning it touches no shared reference count.
pub(super) type View = Rc<Arc<Snapshot>>;

/// A server by its place in a core's Snapshot.
#[derive(Debug, Clone)]
pub(super) struct ServerRef {
    view: View,
    upstream: u32,
    server: u32,
}

impl ServerRef {
    pub(super) fn new(view: &View, upstream: usize, server: usize) -> Self {
        Self { view: Rc::clone(view), upstream: upstream as u32, server: server as u32 }
    }
}

impl Deref for ServerRef {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.view.upstreams[self.upstream as usize].servers[self.server as usize]
    }
}

/// A claim held by a core.
pub(super) type CoreClaim = Claim<ServerRef>;

/// What one core remembers of one upstream.
#[derive(Debug)]
pub(super) struct UpstreamScratch {
    pub(super) policy: Scratch,
    pub(super) budget: Budget,
    /// One for each policy in the upstream's shadow, once there were any.
    pub(super) shadow: Vec<Scratch>,
    /// The same for all cores.
    pub(super) seed: u64,
}

/// One core.
pub(super) struct Core {
    pub(super) id: usize,
    pub(super) pools: Rc<Pools>,
    pub(super) watches: Rc<Watches>,
    pub(super) ids: request_id::Source,
    /// The time as of the newest request or tick.
    pub(super) clock: Cell<Instant>,
    pub(super) log: Option<RefCell<access_log::Buffer>>,
    /// Told when the process begins to stop; parked connections wait for it.
    pub(super) closing: Notify,
    /// Whose turn it is to shake hands.
    pub(super) handshakes: Semaphore,
    /// When idle connections are to be closed, once the process stops.
    pub(super) close_idle_at: Cell<Option<Instant>>,
    pub(super) tunnels: Tunnels,
    pub(super) complaints: Complaints,
    /// Connections by client, of all cores.
    pub(super) census: Arc<Census>,
    /// Names and passwords that are known to be right.
    pub(super) verifier: Verifier,
    /// Requests that wait for servers.
    pub(super) lines: Lines,
    events: Events,
    cells: Arc<[CoreCells]>,
    swap: Arc<Swap>,
    view: RefCell<View>,
    /// By slot: the last Snapshot that had it, and when it was removed.
    retired: RefCell<HashMap<usize, (View, Instant)>>,
    scratch: RefCell<Vec<UpstreamScratch>>,
    seed: u64,
    busy: Notify,
    sleeping: Cell<bool>,
    /// The time here, where it does not pass by itself.
    #[cfg(test)]
    pub(super) stopped_at: Cell<Option<Instant>>,
}

impl Core {
    fn new(
        id: usize,
        seed: u64,
        swap: Arc<Swap>,
        cells: Arc<[CoreCells]>,
        events: Events,
        log: Option<access_log::Buffer>,
        census: Arc<Census>,
    ) -> Self {
        let view = RefCell::new(Rc::new(swap.current.load_full()));
        Self {
            id,
            pools: Rc::new(Pools::new(cells.len())),
            watches: Rc::new(Watches::default()),
            ids: request_id::Source::new(),
            clock: Cell::new(Instant::now()),
            log: log.map(RefCell::new),
            closing: Notify::new(),
            handshakes: Semaphore::new(1),
            close_idle_at: Cell::new(None),
            tunnels: Tunnels::default(),
            complaints: Complaints::default(),
            census,
            verifier: Verifier::default(),
            lines: Lines::default(),
            events,
            cells,
            swap,
            view,
            retired: RefCell::default(),
            scratch: RefCell::default(),
            seed,
            busy: Notify::new(),
            sleeping: Cell::new(false),
            #[cfg(test)]
            stopped_at: Cell::default(),
        }
    }

    /// The same with turns to verify passwords that other cores take, too.
    fn taking(self, turns: Arc<Turns>) -> Self {
        Self { verifier: Verifier::new(turns), ..self }
    }

    /// The counters of this core.
    pub(super) fn cells(&self) -> &CoreCells {
        &self.cells[self.id]
    }

    /// How many cores there are.
    pub(super) fn cores(&self) -> usize {
        self.cells.len().max(1)
    }

    /// Client connections open on all cores. Each counts for itself, so this only reads.
    pub(super) fn open_connections(&self) -> u64 {
        self.cells.iter().map(|cells| cells.connections_open.get()).fold(0, u64::wrapping_add)
    }

    /// The newest Snapshot.
    pub(super) fn view(&self) -> View {
        if self.view.borrow().generation != self.swap.generation() {
            let newest = self.swap.current.load_full();
            self.retire(&newest);
            *self.view.borrow_mut() = Rc::new(newest);
        }
        Rc::clone(&self.view.borrow())
    }

    /// The Snapshot for connections of the listener in `slot`: the newest, or the last that had it, so
    /// that those it accepted before it was removed are not turned away.
    pub(super) fn view_of(&self, slot: usize) -> View {
        let view = self.view();
        if view.listeners.get(slot).is_some_and(Option::is_some) {
            return view;
        }
        self.retired.borrow().get(&slot).map_or(view, |(last, _)| Rc::clone(last))
    }

    /// Asks the plan of the listener in `slot`, where it is still configured; of one that is not all is true.
    pub(super) fn with_listener(&self, slot: usize, ask: impl FnOnce(&ListenerPlan) -> bool) -> bool {
        let view = self.view();
        view.listeners.get(slot).and_then(Option::as_ref).is_none_or(|listening| ask(&listening.plan))
    }

    /// Notes the listeners that `newest` no longer has.
    fn retire(&self, newest: &Snapshot) {
        let view = Rc::clone(&self.view.borrow());
        let mut retired = self.retired.borrow_mut();
        retired.retain(|slot, _| !newest.listeners.get(*slot).is_some_and(Option::is_some));
        for (slot, _) in view.listeners.iter().enumerate().filter(|(_, listening)| listening.is_some()) {
            if !newest.listeners.get(slot).is_some_and(Option::is_some) {
                retired.insert(slot, (Rc::clone(&view), self.clock.get()));
            }
        }
    }

    /// Notes and returns the time.
    pub(super) fn now(&self) -> Instant {
        #[cfg(not(test))]
        let now = Instant::now();
        #[cfg(test)]
        let now = self.stopped_at.get().unwrap_or_else(Instant::now);
        self.clock.set(now);
        now
    }

    /// Whether connections of the listener in `slot` are to end: the process stops, or the listener was
    /// removed.
    pub(super) fn is_leaving(&self, slot: usize) -> bool {
        self.close_idle_at.get().is_some() || !self.view.borrow().listeners.get(slot).is_some_and(Option::is_some)
    }

    /// Lends what this core remembers of the upstream in `slot`.
    pub(super) fn with_scratch<T>(&self, slot: usize, f: impl FnOnce(&mut UpstreamScratch) -> T) -> T {
        let mut all = self.scratch.borrow_mut();
        while all.len() <= slot {
            let seed = self.seed ^ (all.len() as u64).wrapping_mul(0xD134_2543_DE82_EF95);
            all.push(UpstreamScratch {
                policy: Scratch::new(self.id, seed),
                budget: Budget::default(),
                shadow: Vec::new(),
                seed,
            });
        }
        f(&mut all[slot])
    }

    /// Reports to the control plane; lost rather than waited for when it is behind.
    pub(super) fn report(&self, event: Event) {
        let _ = self.tell(event);
    }

    /// The same, saying whether it has got through.
    pub(super) fn tell(&self, event: Event) -> bool {
        self.events.try_send(event).is_ok()
    }

    /// Tells the ticker that there is something to watch.
    pub(super) fn wake_ticker(&self) {
        if self.sleeping.get() {
            self.sleeping.set(false);
            self.busy.notify_one();
        }
    }
}

/// What the cores are started with.
pub struct Settings {
    /// How many, at least 1.
    pub cores: usize,
    /// Where events go.
    pub events: Events,
    /// Makes the access-log buffer of each core, where there is a log.
    pub access_log: Option<Box<dyn Fn() -> access_log::Buffer>>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("cores", &self.cores).finish_non_exhaustive()
    }
}

/// The running cores. Dropping it does not stop them: they end when every [`DataPlane`] is gone.
#[derive(Debug)]
pub struct Cores {
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Cores {
    /// Waits until every core has ended.
    pub fn join(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// Starts the cores, which accept nothing until they are ordered to.
///
/// # Errors
/// A thread or a runtime that cannot be made.
pub fn start(settings: &Settings) -> io::Result<(DataPlane, Cores)> {
    let swap = Arc::new(Swap::default());
    let cells: Arc<[CoreCells]> = (0..settings.cores).map(|_| CoreCells::default()).collect();
    let census = Arc::new(Census::default());
    // Passwords are slow on purpose: whoever guesses them leaves half of the cores to others.
    let turns = Arc::new(Turns::new(settings.cores / 2));
    let mut orders = Vec::with_capacity(settings.cores);
    let mut threads = Vec::with_capacity(settings.cores);
    // The same for all cores, so that their cursors start apart by design rather than by chance.
    let seed = request_id::random_u64();
    for id in 0..settings.cores {
        let (sender, receiver) = unbounded_channel();
        let (swap, cells, events) = (Arc::clone(&swap), Arc::clone(&cells), settings.events.clone());
        let log = settings.access_log.as_ref().map(|make| make());
        let (census, turns) = (Arc::clone(&census), Arc::clone(&turns));
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("core-{id}")).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .event_interval(61)
                .build_local(tokio::runtime::LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    let core = Core::new(id, seed, swap, cells, events, log, census).taking(turns);
                    runtime.block_on(run(core, receiver));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
        outcome.recv().unwrap_or_else(|_| Err(io::Error::other("a core ended at its start")))?;
        orders.push(sender);
        threads.push(thread);
    }
    Ok((DataPlane { swap, orders, cells }, Cores { threads }))
}

async fn run(core: Core, mut orders: UnboundedReceiver<Order>) {
    let core = Rc::new(core);
    let ticker = tokio::task::spawn_local(tick(Rc::clone(&core)));
    let mut listening: HashMap<usize, Vec<Rc<Stop>>> = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Listen { slot, socket } => match listener::adopt(socket) {
                Ok(socket) => {
                    let stop = Rc::new(Stop::default());
                    tokio::task::spawn_local(listener::accept(Rc::clone(&core), slot, socket, Rc::clone(&stop)));
                    listening.entry(slot).or_default().push(stop);
                }
                Err(error) => warn!(%error, slot, "a listening socket could not be used"),
            },
            Order::Unlisten { slot } => {
                listening.remove(&slot).iter().flatten().for_each(|stop| stop.tell(false));
            }
            Order::Look => {
                let view = core.view();
                core.pools.keep_only(&view);
                core.lines.look(&view);
            }
            Order::Cut { servers } => {
                core.watches.cut(&servers);
                core.tunnels.cut(&servers);
            }
            Order::Close { servers, over, within } => {
                core.tunnels.close(&servers, over, within, (core.id, core.cores()));
            }
            Order::Stay { servers } => core.tunnels.stay(&servers),
            Order::Tell { reply } => {
                let cursors = core.scratch.borrow().iter().map(|scratch| scratch.policy.cursor).collect();
                let _ = reply.send((core.id, cursors));
            }
            Order::GoOn { cursors } => {
                for (slot, cursor) in cursors {
                    core.with_scratch(slot, |scratch| scratch.policy.cursor = cursor);
                }
            }
            Order::Drain { idle_grace, within, left } => {
                for (slot, stops) in listening.drain() {
                    stops.iter().for_each(|stop| stop.tell(left.contains(&slot)));
                }
                let now = core.now();
                core.close_idle_at.set(Some(now + idle_grace));
                core.tunnels.stop(now, now + within, (core.id, core.cores()));
                core.closing.notify_waiters();
                core.wake_ticker();
            }
        }
    }
    ticker.abort();
    if let Some(log) = &core.log {
        log.borrow_mut().flush();
    }
}

/// Deadlines, pools and the log, off the request's path.
async fn tick(core: Rc<Core>) {
    let mut upkeep = Instant::now();
    let mut quiet = 0;
    loop {
        let slept = Instant::now();
        if quiet > 10 {
            core.sleeping.set(true);
            tokio::select! {
                () = tokio::time::sleep(LONG_TICK) => {}
                () = core.busy.notified() => {}
            }
            core.sleeping.set(false);
        } else {
            tokio::time::sleep(TICK).await;
            if slept.elapsed() > 2 * TICK {
                catch_up().await;
            }
        }
        let now = core.now();
        quiet = if core.watches.is_empty() { quiet + 1 } else { 0 };
        core.watches.look(now, core.close_idle_at.get());
        if let Some(log) = &core.log {
            let mut log = log.borrow_mut();
            log.flush();
            core.cells().log_lines_lost.add(log.take_lost());
        }
        if now.duration_since(upkeep) >= LONG_TICK {
            upkeep = now;
            let view = core.view();
            // Requests that a removed server still had have given their connections back since.
            core.pools.keep_only(&view);
            core.pools.expire(now, &view, core.id);
            core.retired.borrow_mut().retain(|_, (_, since)| now.duration_since(*since) < RETIRED_FOR);
            for upstream in &view.upstreams {
                core.with_scratch(upstream.slot, |scratch| scratch.budget.refill(&upstream.plan.retry));
            }
        }
    }
}

/// Lets every task take what has come. After a pause (a stopped process, a machine that slept, a core with
/// too much to do) what is late for the core need not be late for its deadline: it may have lain there.
async fn catch_up() {
    // From a server's socket to the client's is a few tasks; each round polls the sockets once.
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A core that no thread runs.
    pub(in crate::proxy) fn core() -> Core {
        cores(1, &Arc::default()).remove(0)
    }

    /// Some, that are those of one process.
    pub(in crate::proxy) fn cores(count: usize, swap: &Arc<Swap>) -> Vec<Core> {
        let (events, _) = tokio::sync::mpsc::channel(1);
        let cells: Arc<[CoreCells]> = (0..count).map(|_| CoreCells::default()).collect();
        let core = |id| Core::new(id, 1, Arc::clone(swap), Arc::clone(&cells), events.clone(), None, Arc::default());
        (0..count).map(core).collect()
    }
}
