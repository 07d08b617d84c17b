//! A seeded simulation of the queue: the cores of a process on one thread, requests that come, end and are given
//! up at any moment, servers that come, go, drain, fail and change their limits meanwhile, and time, which stands still but where the world lets it pass.
//!
//! It is [`claim`] itself that runs, with its lines, gates and Snapshots. Nothing in it waits long enough for the
//! tick that is the net under a lost call: who is not called waits for ever here, and is found. A failure names
//! its seed, and `SEED=n` runs that one.

use std::net::IpAddr;
use std::pin::pin;

use http::Request;
use tokio::task::{AbortHandle, JoinHandle, yield_now};

use super::*;
use crate::balance::{Policy, Scratch};
use crate::config::plan::{ListenerPlan, UpstreamPlan};
use crate::metrics::cells::RouteCell;
use crate::proxy::admit::Entry;
use crate::proxy::connection::{Conn, Link, Protocol};
use crate::proxy::core::tests::cores;
use crate::upstream::server::State;
use crate::upstream::snapshot::Listening;
use crate::upstream::{Admin, Asker, Gate, Operational, Route, Routes, Server, Snapshot, Swap};

const SEEDS: u64 = 2_000;
const STEPS: usize = 40;

/// A request that has no server yet.
struct Waiting {
    core: usize,
    client: IpAddr,
    since: Instant,
    patience: Duration,
    /// The step it came in.
    step: usize,
    task: Option<AbortHandle>,
}

/// What has happened, told by the requests themselves.
#[derive(Default)]
struct Seen {
    /// By number: who came first has the lower one.
    waiting: BTreeMap<u64, Waiting>,
    held: Vec<(Arc<Server>, CoreClaim)>,
    /// When the deadlines of each core were last looked at.
    looked: Vec<Option<Instant>>,
    steps: usize,
    /// Served at once, served after a wait, out of time, and turned away.
    served: usize,
    waited: usize,
    late: usize,
    refused: usize,
}

struct World {
    random: Scratch,
    cores: Vec<Rc<Core>>,
    swap: Arc<Swap>,
    queue: Arc<Queue>,
    listener: Arc<ListenerPlan>,
    routes: Arc<Routes>,
    plan: Arc<UpstreamPlan>,
    servers: Vec<Arc<Server>>,
    next_uid: u32,
    next: u64,
    tasks: Vec<JoinHandle<()>>,
    seen: Rc<RefCell<Seen>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Scratch::new(0, seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // A table of ip_hash is dear to build: few worlds have it. There everybody wants a server of their own.
        let policy =
            if seed.is_multiple_of(60) { "ip_hash" } else { ["round_robin", "least_requests"][seed as usize % 2] };
        let text = format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[upstream.app]\npolicy = \"{policy}\"\nfail_open = {}\n\
             queue = {{ size = {}, timeout = \"{}ms\" }}\nservers = [\"127.0.0.1:9000\"]\n",
            random.below(2) == 0,
            random.below(16),
            50 + random.below(2_000)
        );
        let plan = crate::config::parse(&text, "simulation").unwrap_or_else(|report| panic!("{report}")).plan;
        let swap = Arc::new(Swap::default());
        let count = 1 + random.below(3) as usize;
        let cores: Vec<_> = cores(count, &swap).into_iter().map(Rc::new).collect();
        // Time passes where the world says so, however slow the machine is.
        for core in &cores {
            core.stopped_at.set(Some(Instant::now()));
            core.now();
        }
        let cells = (0..count).map(|_| RouteCell::default()).collect();
        let route = Route::new(plan.routes[0].clone(), cells, &plan.upstreams);
        let looked = vec![None; count];
        let mut world = Self {
            random,
            queue: Arc::new(Queue::new(count)),
            cores,
            swap,
            listener: Arc::new(plan.listeners[0].clone()),
            routes: Arc::new(Routes::new(vec![Arc::new(route)])),
            plan: Arc::new(plan.upstreams[0].clone()),
            servers: Vec::new(),
            next_uid: 0,
            next: 0,
            tasks: Vec::new(),
            seen: Rc::new(RefCell::new(Seen { looked, ..Seen::default() })),
        };
        (0..1 + world.random.below(3)).for_each(|_| world.add());
        world.publish();
        world
    }

    fn add(&mut self) {
        let uid = self.next_uid;
        self.next_uid += 1;
        let name = format!("s{uid}");
        let address = self.plan.servers[0].address.clone();
        let server = Server::new(uid, "app".into(), name.as_str().into(), address, 1, self.cores.len());
        let limit = 1 + u64::from(self.random.below(4));
        let server = server.behind(Gate::new(limit, Arc::clone(&self.queue)));
        server.set_state(State { operational: Operational::Healthy, admin: Admin::Ready });
        self.servers.push(Arc::new(server));
    }

    /// As the control plane does it: a Snapshot, and then an order to look at it, which the cores come to in any
    /// order.
    fn publish(&mut self) {
        let upstream = Upstream::new(0, Arc::clone(&self.plan), self.servers.clone(), None, None);
        let upstream = upstream.behind(Arc::clone(&self.queue), Service::Open);
        let listening = Listening { plan: Arc::clone(&self.listener), routes: Arc::clone(&self.routes), tls: None };
        self.swap.publish(Snapshot {
            max_connections: 100,
            listeners: vec![Some(listening)],
            upstreams: vec![Arc::new(upstream)],
            ..Snapshot::default()
        });
        let first = self.random.below(self.cores.len() as u32) as usize;
        for i in 0..self.cores.len() {
            let core = &self.cores[(first + i) % self.cores.len()];
            core.lines.look(&core.view());
        }
    }

    fn any(&mut self) -> Arc<Server> {
        Arc::clone(&self.servers[self.random.below(self.servers.len() as u32) as usize])
    }

    async fn step(&mut self) {
        self.seen.borrow_mut().steps += 1;
        match self.random.below(10) {
            0 => self.reload(),
            1 => self.pass_time(),
            // Several at once, before any of those who wait has its turn.
            _ => (0..1 + self.random.below(4)).for_each(|_| self.act()),
        }
        self.settle().await;
        self.look();
    }

    fn act(&mut self) {
        match self.random.below(17) {
            0..=7 => self.request(),
            8..=12 => self.finish(),
            13 => self.give_up(),
            14 => self.order(),
            15 => self.change_limit(),
            _ => self.come_or_go(),
        }
    }

    /// Those who wait keep the patience they came with.
    fn reload(&mut self) {
        let mut plan = (*self.plan).clone();
        plan.queue.timeout = Duration::from_millis(50 + u64::from(self.random.below(2_000)));
        plan.queue.size = self.random.below(16);
        self.plan = Arc::new(plan);
        self.publish();
    }

    /// Runs until nobody has anything left to do.
    async fn settle(&mut self) {
        let turns = 2 * self.seen.borrow().waiting.len() + 6;
        for _ in 0..turns {
            yield_now().await;
        }
        for over in self.tasks.extract_if(.., |task| task.is_finished()) {
            if let Err(error) = over.await
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }

    fn request(&mut self) {
        let core = self.random.below(self.cores.len() as u32) as usize;
        let client = IpAddr::from([127, 0, 0, self.random.below(6) as u8]);
        let number = self.next;
        self.next += 1;
        let (since, patience) = (self.cores[core].now(), self.plan.queue.timeout);
        let step = self.seen.borrow().steps;
        let waiting = Waiting { core, client, since, patience, step, task: None };
        self.seen.borrow_mut().waiting.insert(number, waiting);
        let conn = conn(&self.cores[core], &self.listener);
        let (seen, queue) = (Rc::clone(&self.seen), Arc::clone(&self.queue));
        let task = tokio::task::spawn_local(ask(conn, client, number, seen, queue));
        if let Some(waiting) = self.seen.borrow_mut().waiting.get_mut(&number) {
            waiting.task = Some(task.abort_handle());
        }
        self.tasks.push(task);
    }

    fn finish(&mut self) {
        let mut seen = self.seen.borrow_mut();
        if !seen.held.is_empty() {
            let at = self.random.below(seen.held.len() as u32) as usize;
            drop(seen.held.swap_remove(at));
        }
    }

    /// A client leaves that has waited.
    fn give_up(&mut self) {
        let mut seen = self.seen.borrow_mut();
        let at = self.random.below(seen.waiting.len().max(1) as u32) as usize;
        if let Some(number) = seen.waiting.keys().nth(at).copied()
            && let Some(Waiting { task: Some(task), .. }) = seen.waiting.remove(&number)
        {
            task.abort();
        }
    }

    /// An operator, or a check.
    fn order(&mut self) {
        let server = self.any();
        let admin = [Admin::Ready, Admin::Ready, Admin::Draining, Admin::Drained][self.random.below(4) as usize];
        let operational = [Operational::Healthy, Operational::Healthy, Operational::Unhealthy, Operational::Ejected];
        server.set_state(State { operational: operational[self.random.below(4) as usize], admin });
        self.publish();
    }

    fn change_limit(&mut self) {
        let server = self.any();
        if self.random.below(2) == 0 {
            server.gate.set_limit(1 + u64::from(self.random.below(5)));
        } else {
            server.gate.set_share(1 + self.random.below(10));
        }
        self.publish();
    }

    fn come_or_go(&mut self) {
        if self.servers.len() > 1 && self.random.below(2) == 0 {
            let at = self.random.below(self.servers.len() as u32) as usize;
            self.servers.remove(at);
        } else if self.servers.len() < 5 {
            self.add();
        }
        self.publish();
    }

    fn pass_time(&mut self) {
        let passed = Duration::from_millis(u64::from(self.random.below(600)));
        for (i, core) in self.cores.iter().enumerate() {
            core.stopped_at.set(core.stopped_at.get().map(|now| now + passed));
            let now = core.now();
            self.seen.borrow_mut().looked[i] = Some(now);
            core.watches.look(now, None);
        }
    }

    fn look(&self) {
        let seen = self.seen.borrow();
        self.nobody_waits_past_the_deadline(&seen);
        self.nobody_waits_for_a_free_server(&seen);
        assert_eq!(self.queue.waiting() as usize, seen.waiting.len(), "who waits is counted, and nobody else");
        let held = |server: &Server| seen.held.iter().filter(|(held, _)| held.uid == server.uid).count();
        for server in &self.servers {
            assert_eq!(server.in_flight() as usize, held(server), "a claim is never lost");
        }
    }

    fn nobody_waits_past_the_deadline(&self, seen: &Seen) {
        for (number, waiting) in &seen.waiting {
            let looked = seen.looked[waiting.core];
            assert!(looked.is_none_or(|now| now < waiting.since + waiting.patience), "{number} waits for too long");
        }
    }

    fn nobody_waits_for_a_free_server(&self, seen: &Seen) {
        for (number, waiting) in &seen.waiting {
            let view = self.cores[waiting.core].view();
            let upstream = &view.upstreams[0];
            let asker =
                Asker { client: waiting.client, key: None, spread: None, pin: None, to_new: false, litmus: None };
            let pick = upstream.pick(&asker, &Tried::default(), &mut Scratch::new(0, 1));
            let wish = upstream.wish(pick.filter(|pick| upstream.insists(*pick)), &Tried::default());
            assert!(!upstream.has_news_for(&wish), "{number} was not called");
        }
    }
}

/// What a request is served in.
fn conn(core: &Rc<Core>, plan: &Arc<ListenerPlan>) -> Rc<Conn> {
    let watched = core.watches.add(core.now(), plan.idle_timeout);
    let entry = Rc::new(Entry::alone(core));
    let link = Rc::new(Link::new(core, 0, &entry, plan, Protocol::Http1, None));
    let conn = Rc::new(Conn::new(&link, &watched.watch));
    // For as long as the world: it takes itself out when it is dropped, and nothing else holds it.
    std::mem::forget(watched);
    conn
}

/// One request, up to its server.
async fn ask(conn: Rc<Conn>, client: IpAddr, number: u64, seen: Rc<RefCell<Seen>>, queue: Arc<Queue>) {
    let core = Rc::clone(&conn.core);
    let view = core.view();
    let size = view.upstreams[0].plan.queue.size;
    let mut exchange = Exchange::begin(&conn, view, &Request::new(()), core.clock.get());
    (exchange.client, exchange.route, exchange.target) = (client, Some(0), Some(0));
    let mut tried = Tried::default();
    let claimed = {
        // Whoever looks at deadlines wakes the connection, which is what polls its request.
        let mut claiming = pin!(claim(&mut exchange, None, &mut tried));
        poll_fn(|cx| {
            conn.watch.set_waker(cx.waker());
            claiming.as_mut().poll(cx)
        })
        .await
    };
    let mut seen = seen.borrow_mut();
    let Some(me) = seen.waiting.remove(&number) else { panic!("{number} had given up") };
    let upstream = Arc::clone(&exchange.view.upstreams[0]);
    match claimed {
        Ok(Some((pick, claim))) => {
            let server = Arc::clone(&upstream.servers[pick.index]);
            seen.held.push((Arc::clone(&server), claim));
            let held = seen.held.iter().filter(|(held, _)| held.uid == server.uid).count();
            assert!(
                server.gate.limit().is_some_and(|limit| held <= limit as usize),
                "{held} at once on {}",
                server.name
            );
            let is_any = !matches!(upstream.plan.policy, Policy::IpHash(_));
            let alike = |other: &Waiting| other.core == me.core && (is_any || other.client == me.client);
            let passed = seen.waiting.iter().find(|(before, other)| **before < number && alike(other));
            assert!(passed.is_none(), "{number} has passed {:?}", passed.map(|(before, _)| before));
            if seen.steps > me.step { seen.waited += 1 } else { seen.served += 1 }
        }
        Ok(None) => {
            let takes = |server: &Arc<Server>| server.state().takes_new(upstream.failing_open) && server.weight() > 0;
            assert!(!upstream.servers.iter().any(takes), "{number} was sent away although somebody serves");
        }
        Err(error) if error.kind == Kind::QueueTimeout => {
            let looked = seen.looked[me.core];
            assert!(looked.is_some_and(|now| now >= me.since + me.patience), "{number} was sent away before its time");
            seen.late += 1;
        }
        Err(error) => {
            assert_eq!(error.kind, Kind::QueueFull);
            assert!(queue.waiting() >= size, "{number} was sent away while there was room to wait");
            seen.refused += 1;
        }
    }
}

fn live(seed: u64) -> [usize; 4] {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step().await;
        }
        // When everything ends, everybody was served or had given up, and nothing is left behind.
        for server in &world.servers {
            server.set_state(State { operational: Operational::Healthy, admin: Admin::Ready });
        }
        world.publish();
        world.settle().await;
        while !world.seen.borrow().held.is_empty() {
            world.finish();
            world.settle().await;
            world.look();
        }
        assert!(world.seen.borrow().waiting.is_empty(), "whoever waits is served in the end");
        assert_eq!(world.queue.waiting(), 0);
        let seen = world.seen.borrow();
        [seen.served, seen.waited, seen.late, seen.refused]
    })
}

#[test]
fn the_queue_is_fair_bounded_and_forgets_nobody() {
    let only: Option<u64> = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let mut done = [0; 4];
    for seed in only.map_or(0..SEEDS, |seed| seed..seed + 1) {
        match std::panic::catch_unwind(|| live(seed)) {
            Ok(more) => (0..4).for_each(|i| done[i] += more[i]),
            Err(panic) => {
                println!("SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    let [served, waited, late, refused] = done;
    println!("{served} served at once, {waited} after a wait, {late} out of time, {refused} turned away");
    assert!(only.is_some() || (served > 5_000 && waited > 5_000 && late > 1_000 && refused > 1_000), "{done:?}");
}
