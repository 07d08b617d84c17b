//! What the tests of this room share: plans in one line, and a data plane that is only channels.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::reload::{Load, Source};
use super::{Activated, CommandError, Control, Options, start_with};
use crate::balance::{Policy, RoundRobin, StickyCookie};
use crate::config::Plan;
use crate::config::plan::*;
use crate::health::{Check, TcpCheck};
use crate::metrics::cells::CoreCells;
use crate::upstream::{DataPlane, Event, Order, Server, Snapshot, Swap};

pub(super) const CORES: usize = 2;

pub(super) fn listener(name: &str) -> ListenerPlan {
    ListenerPlan { name: name.to_owned(), ..ListenerPlan::example() }
}

pub(super) fn server(uid: u32, address: SocketAddr) -> Arc<Server> {
    Arc::new(Server::new(uid, "shop".into(), "a".into(), Address::Socket(address), 1, CORES))
}

pub(super) fn member(name: &str, address: SocketAddr) -> ServerPlan {
    ServerPlan {
        name: name.to_owned(),
        address: Address::Socket(address),
        weight: 1,
        max_requests: u64::MAX,
        backup: false,
    }
}

pub(super) fn upstream(name: &str, servers: Vec<ServerPlan>) -> UpstreamPlan {
    UpstreamPlan {
        name: name.to_owned(),
        policy: Policy::RoundRobin(RoundRobin::default()),
        check: None,
        fail_open: false,
        timeouts: UpstreamTimeouts {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(5),
            between_bytes: Duration::from_secs(5),
            request: None,
            tunnel_idle: Duration::from_secs(60),
            tunnel_half_closed: Duration::from_secs(60),
        },
        pool: PoolPlan {
            max_idle: 8,
            idle_timeout: Duration::from_secs(60),
            max_age: Duration::from_secs(600),
            max_requests: 1_000,
        },
        retry: RetryPlan { attempts: 1, budget_percent: 20, budget_floor: 3 },
        drain: DrainPlan {
            in_flight: Duration::from_secs(30),
            sessions_idle: Duration::from_secs(900),
            sessions_max: Duration::from_secs(3_600),
            close_spread: Duration::from_secs(10),
            move_sessions: MoveSessions::Never,
        },
        servers,
        ..UpstreamPlan::example()
    }
}

pub(super) fn sticky() -> Policy {
    Policy::StickyCookie(StickyCookie::default())
}

/// A TCP check that runs often and decides fast.
pub(super) fn fast_check() -> Option<Check> {
    Some(Check::Tcp(TcpCheck {
        interval: Duration::from_millis(30),
        timeout: Duration::from_secs(1),
        healthy_threshold: 1,
        unhealthy_threshold: 2,
        ..TcpCheck::default()
    }))
}

pub(super) fn plan(upstreams: Vec<UpstreamPlan>) -> Plan {
    let routes = upstreams
        .iter()
        .enumerate()
        .map(|(i, upstream)| RoutePlan {
            name: upstream.name.clone(),
            path: format!("/{}", upstream.name).as_str().into(),
            action: Action::Upstream(i),
            ..RoutePlan::example()
        })
        .collect();
    Plan {
        cores: CORES,
        state_dir: None,
        max_connections: 8000,
        admin: AdminPlan::default(),
        log: LogPlan { level: "info".to_owned(), format: LogFormat::Text },
        access_log: None,
        shutdown: ShutdownPlan {
            announce: Duration::ZERO,
            idle_grace: Duration::ZERO,
            deadline: Duration::from_secs(30),
        },
        debug: DebugPlan::default(),
        upgrade: UpgradePlan {
            ready_within: Duration::from_secs(30),
            idle_grace: Duration::ZERO,
            deadline: Duration::from_secs(30),
        },
        dns: DnsPlan { servers: Vec::new(), min_ttl: Duration::from_secs(1), max_ttl: Duration::from_secs(300) },
        listeners: vec![listener("web")],
        routes,
        upstreams,
    }
}

/// An address of this machine on which nothing listens.
pub(super) fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A control plane, and the ends of the channels that the cores would hold.
pub(super) struct Fixture {
    pub(super) control: Control,
    pub(super) swap: Arc<Swap>,
    pub(super) cells: Arc<[CoreCells]>,
    pub(super) orders: Vec<mpsc::UnboundedReceiver<Order>>,
    pub(super) events: mpsc::Sender<Event>,
    /// What the next reload reads.
    pub(super) file: Arc<Mutex<Result<Plan, String>>>,
}

pub(super) fn try_start(plan: Plan) -> Result<Fixture, CommandError> {
    start_by(plan, false, Arc::new(|| {}))
}

/// One that takes signals of the test process, and tells when logs are to be reopened.
pub(super) fn start_with_signals(plan: Plan, reopen_logs: Arc<dyn Fn() + Send + Sync>) -> Fixture {
    start_by(plan, true, reopen_logs).unwrap()
}

fn start_by(
    plan: Plan,
    handle_signals: bool,
    reopen_logs: Arc<dyn Fn() + Send + Sync>,
) -> Result<Fixture, CommandError> {
    let swap = Arc::new(Swap::default());
    let cells: Arc<[CoreCells]> = (0..CORES).map(|_| CoreCells::default()).collect();
    let (senders, orders) = (0..CORES).map(|_| mpsc::unbounded_channel()).unzip();
    let (events, received) = mpsc::channel(64);
    let file = Arc::new(Mutex::new(Ok(plan.clone())));
    let read = Arc::clone(&file);
    let load: Load = Arc::new(move |_: Source<'_>| {
        let plan = read.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Ok((plan, Vec::new()))
    });
    let options = Options {
        plan,
        config_path: Some("evenkeel.toml".into()),
        adjust: None,
        metrics: Arc::new(|| "evenkeel_up 1\n".to_owned()),
        reopen_logs,
        handle_signals,
        program: None,
        inherited: None,
        activated: Activated::default(),
    };
    let plane = DataPlane { swap: Arc::clone(&swap), orders: senders, cells: Arc::clone(&cells) };
    let control = start_with(options, plane, received, load)?;
    Ok(Fixture { control, swap, cells, orders, events, file })
}

pub(super) fn start(plan: Plan) -> Fixture {
    try_start(plan).unwrap()
}

impl Fixture {
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.swap.current.load_full()
    }

    /// A server as requests see it now.
    pub(super) fn server(&self, upstream: &str, name: &str) -> Option<Arc<Server>> {
        let snapshot = self.snapshot();
        let upstream = snapshot.upstreams.iter().find(|u| u.name() == upstream)?;
        upstream.servers.iter().find(|s| &*s.name == name).cloned()
    }

    /// Orders that the first core got since it was last asked.
    pub(super) fn orders(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| self.orders[0].try_recv().ok()).collect()
    }

    pub(super) fn set_file(&self, file: Result<Plan, String>) {
        *self.file.lock().unwrap() = file;
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(super) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
