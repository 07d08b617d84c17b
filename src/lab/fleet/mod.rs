//! Real processes: toy servers, and evenkeel in front of them.
//!
//! Each is a child of this process and ends with the [`Fleet`], by its id; where this process gets SIGKILL, its [leash]
//! ends them. What operators do (add, drain, ready, remove) is done with evenkeel's own verbs.

mod child;
pub mod leash;
mod origin;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use child::{Guard, Redis};
pub use child::{end_all, resident};
use leash::Home;
use origin::{Origin, Setup};

use super::scenario::{Action, Candidate, Each, Scenario};

/// How long a process may take until it is there.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often is looked.
const PACE: Duration = Duration::from_millis(20);
/// What the store is called that has the items.
const ITEMS: &str = "items";

/// The servers and the proxy of one run.
#[derive(Debug)]
pub struct Fleet {
    program: PathBuf,
    setup: Setup,
    origins: Mutex<Vec<Origin>>,
    /// Servers that are not behind this proxy: one of another service, and the store that has the items.
    others: Mutex<Vec<Origin>>,
    redis: Option<Redis>,
    proxy: Guard,
    address: SocketAddr,
    weights: Each,
    /// Last: what is left of the children ends with it.
    home: Home,
}

/// Requests of users, as logs say.
#[derive(Debug, Default)]
pub struct Logged {
    /// By the server's number.
    pub servers: BTreeMap<u32, u64>,
    /// Of the store that has the items: when each arrived there, in seconds since 1970.
    pub items: Option<Vec<f64>>,
}

/// Why a candidate cannot be run on this machine, if it cannot.
#[must_use]
pub fn missing(candidate: &Candidate) -> Option<String> {
    (candidate.needs_redis() && !Redis::is_installed()).then(|| "redis-server is not installed".to_owned())
}

/// The configuration of the proxy for a candidate; servers are the pairs of name and address.
#[must_use]
pub fn configuration(scenario: &Scenario, candidate: &Candidate, servers: &[(String, String)]) -> String {
    let mut upstream = scenario.upstream.clone();
    upstream.extend(candidate.upstream.clone());
    upstream.insert("policy".to_owned(), candidate.policy.clone());
    if !upstream.contains_key("check") {
        let check = if scenario.targets.is_empty() {
            toml::toml! { http = { path = "/healthz", interval = "500ms", timeout = "500ms" } }
        } else {
            toml::toml! { tcp = { interval = "1s" } }
        };
        upstream.insert("check".to_owned(), check.into());
    }
    let weights = scenario.weights(candidate);
    let server = |(number, (name, address)): (usize, &(String, String))| {
        toml::Table::from_iter([
            ("name".to_owned(), name.as_str().into()),
            ("address".to_owned(), address.as_str().into()),
            ("weight".to_owned(), i64::from(weights.of(number)).into()),
        ])
    };
    let servers: Vec<toml::Value> = (1..).zip(servers).map(|pair| server(pair).into()).collect();
    upstream.insert("server".to_owned(), servers.into());
    // Half of all users may share an address here, and that is what is looked at.
    let listener = toml::toml! { bind = "127.0.0.1:0" max_connections_per_client = "unlimited" };
    let mut whole = toml::Table::from_iter([
        ("listener".to_owned(), vec![toml::Value::from(listener)].into()),
        ("upstream".to_owned(), toml::Table::from_iter([("app".to_owned(), upstream.into())]).into()),
    ]);
    if !scenario.targets.is_empty() {
        // Toy servers say who they are; for others the proxy does.
        let route = toml::toml! { upstream = "app" response_headers = { set = { X-Server = "{server}" } } };
        whole.insert("route".to_owned(), vec![toml::Value::from(route)].into());
    }
    whole.to_string()
}

impl Fleet {
    /// Starts the servers of a scenario and the proxy for a candidate, and waits until all are healthy. What
    /// they write is in `dir`.
    ///
    /// # Errors
    /// What did not start, and what it said.
    pub fn start(program: &Path, dir: &Path, scenario: &Scenario, candidate: &Candidate) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let config = dir.join("proxy.toml");
        // Marks the directory as one of the lab's, also where nothing below comes up.
        fs::write(&config, "# Servers did not become ready.\n")?;
        let home = Home::new(program)?;
        let redis = candidate.needs_redis().then(|| Redis::start(dir, &home)).transpose()?;
        let store = redis.as_ref().map(|redis| &redis.socket);
        let (program, dir) = (program.to_owned(), dir.to_owned());
        let of_items =
            |items| Setup::of_items(program.clone(), dir.clone(), home.group(), items).start(ITEMS, None, &[]);
        let items = scenario.items.as_ref().map(of_items).transpose()?;
        let items_at = items.as_ref().map(|items| items.address);
        let setup = Setup::new(program.clone(), dir.clone(), home.group(), scenario, candidate, store, items_at);
        let mut origins: Vec<Origin> = Vec::new();
        let own = if scenario.targets.is_empty() { scenario.servers.count } else { 0 };
        for number in 1..=own {
            let others: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
            origins.push(setup.start(&format!("s{number}"), None, &others)?);
        }
        let toys = origins.iter().map(|origin| (origin.name.clone(), origin.address.to_string()));
        let targets = (1..).zip(&scenario.targets).map(|(number, address)| (format!("s{number}"), address.clone()));
        let pairs: Vec<(String, String)> = toys.chain(targets).collect();
        fs::write(&config, configuration(scenario, candidate, &pairs))?;
        let log = File::create(dir.join("proxy.log"))?;
        let mut command = home.command(&program);
        command.arg("run").arg("-c").arg(&config).arg("--admin").arg(home.admin());
        let mut proxy = Guard::new(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        let address = ready(&program, &dir, &home, &mut proxy, pairs.len())?;
        let (origins, others) = (Mutex::new(origins), Mutex::new(items.into_iter().collect()));
        let weights = scenario.weights(candidate).clone();
        Ok(Self { program, setup, origins, others, redis, proxy, address, weights, home })
    }

    /// Where the proxy listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where each server listens, in the order of their numbers.
    #[must_use]
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.origins().iter().map(|origin| origin.address).collect()
    }

    /// Resident memory of each server in bytes, in the order of their numbers.
    ///
    /// # Errors
    /// When one of them is gone.
    pub fn resident(&self) -> io::Result<Vec<u64>> {
        let of = |origin: &Origin| resident(origin.guard.id().unwrap_or(u32::MAX));
        self.origins().iter().map(of).collect()
    }

    /// Resident memory of the store in bytes, where there is one.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident_store(&self) -> io::Result<Option<u64>> {
        self.redis.as_ref().and_then(|redis| redis.guard.id()).map(resident).transpose()
    }

    /// Starts a server of another service, which is told what these are told but is none of them.
    ///
    /// # Errors
    /// When it does not start.
    pub fn other_service(&self) -> io::Result<SocketAddr> {
        let other = self.setup.start("other", None, &[])?;
        let address = other.address;
        self.others.lock().unwrap_or_else(PoisonError::into_inner).push(other);
        Ok(address)
    }

    fn origins(&self) -> MutexGuard<'_, Vec<Origin>> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what an event says, and returns when it is done, or when it is over before that.
    ///
    /// # Errors
    /// What of it failed.
    pub fn act(&self, action: Action, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        match action {
            Action::Kill(number) => self.with(number - 1, |origin| origin.guard.end(Signal::KILL)),
            Action::Start(number) => self.restart(number - 1),
            Action::Add(count) => (0..count).try_for_each(|_| self.add(is_over)),
            Action::Remove(count) => (0..count).try_for_each(|_| self.remove(is_over)),
            Action::Deploy => {
                let count = self.origins().len();
                (0..count).try_for_each(|at| self.renew(at, is_over))
            }
        }
    }

    fn with<T>(&self, at: usize, work: impl FnOnce(&mut Origin) -> io::Result<T>) -> io::Result<T> {
        let mut origins = self.origins();
        work(origins.get_mut(at).ok_or_else(|| io::Error::other("there is no such server"))?)
    }

    fn restart(&self, at: usize) -> io::Result<()> {
        let others = self.servers();
        self.with(at, |old| {
            old.guard.end(Signal::TERM)?;
            *old = self.setup.start(&old.name, Some(old.address), &others)?;
            Ok(())
        })
    }

    fn add(&self, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        let others = self.servers();
        let mut origins = self.origins();
        let number = origins.len() + 1;
        let (name, weight) = (format!("s{number}"), self.weights.of(number).to_string());
        let new = self.setup.start(&name, None, &others)?;
        let address = new.address;
        origins.push(new);
        drop(origins);
        self.verb(&["add", &format!("app/{name}"), &address.to_string(), "--weight", &weight], is_over)
    }

    fn remove(&self, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        let mut origins = self.origins();
        let Some(mut last) = origins.pop() else { return Ok(()) };
        drop(origins);
        let removed = self.verb(&["remove", &format!("app/{}", last.name), "--wait"], is_over);
        last.guard.end(Signal::TERM)?;
        removed
    }

    /// Drains a server, starts it anew, and takes it back once it is healthy.
    fn renew(&self, at: usize, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        let target = format!("app/{}", self.with(at, |origin| Ok(origin.name.clone()))?);
        self.verb(&["drain", &target, "--wait"], is_over)?;
        self.verb(&["disable", &target], is_over)?;
        self.restart(at)?;
        self.verb(&["ready", &target], is_over)?;
        let began = Instant::now();
        while !healthy(&self.status()?).contains(&target["app/".len()..]) {
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("{target} was not healthy within {PATIENCE:?}")));
            }
            std::thread::sleep(PACE);
        }
        Ok(())
    }

    fn status(&self) -> io::Result<Value> {
        status(&self.program, &self.home)
    }

    fn verb(&self, args: &[&str], is_over: &dyn Fn() -> bool) -> io::Result<()> {
        let mut command = self.home.command(&self.program);
        command.args(args).arg("-q").arg("--admin").arg(self.home.admin());
        let mut child = Guard::new(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?);
        let running = child.child().ok_or_else(|| io::Error::other("the verb is gone"))?;
        let status = loop {
            match running.try_wait()? {
                Some(status) => break status,
                None if is_over() => {
                    return Err(io::Error::other(format!(
                        "evenkeel {}: not done when the load was over",
                        args.join(" ")
                    )));
                }
                None => std::thread::sleep(PACE),
            }
        };
        let mut said = String::new();
        if let Some(mut stderr) = running.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("evenkeel {}: {}", args.join(" "), said.trim())))
        }
    }

    /// Ends everything and says how many requests each server has logged, aside from health checks and from what
    /// the lab and the other servers have asked it. Of servers of the user's own the proxy says how many they got.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn stop(mut self) -> io::Result<Logged> {
        let mut logged = Logged::default();
        if self.origins().is_empty() {
            logged.servers = counted(&self.status()?);
        }
        self.end();
        for entry in fs::read_dir(&self.setup.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "arrivals") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let lines = BufReader::new(File::open(&path)?).lines();
                let requests = lines.map_while(Result::ok).filter(|line| is_a_users(line));
                match name.strip_prefix('s').map(str::parse) {
                    Some(Ok(number)) => _ = logged.servers.insert(number, requests.count() as u64),
                    _ if name == ITEMS => logged.items = Some(requests.filter_map(|line| arrived(&line)).collect()),
                    _ => {}
                }
            }
        }
        Ok(logged)
    }

    fn end(&mut self) {
        let _ = self.proxy.end(Signal::KILL);
        for servers in [&mut self.origins, &mut self.others] {
            for origin in servers.get_mut().unwrap_or_else(PoisonError::into_inner) {
                let _ = origin.guard.end(Signal::KILL);
            }
        }
        // The store last: servers that end may still ask it.
        if let Some(redis) = &mut self.redis {
            let _ = redis.guard.end(Signal::KILL);
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether a line of a server's log is of a request that a user has sent.
fn is_a_users(line: &str) -> bool {
    !line.contains(" GET /healthz ") && !line.contains(" /sessions")
}

/// When a request arrived, as the last word of its line says.
fn arrived(line: &str) -> Option<f64> {
    line.rsplit_once(" at=")?.1.parse().ok()
}

fn status(program: &Path, home: &Home) -> io::Result<Value> {
    let mut command = home.command(program);
    let output = command.args(["status", "--output", "json", "--admin"]).arg(home.admin()).output()?;
    serde_json::from_slice(&output.stdout).map_err(io::Error::other)
}

/// Requests that each server got, by its number.
fn counted(status: &Value) -> BTreeMap<u32, u64> {
    let servers = status["upstreams"][0]["servers"].as_array().into_iter().flatten();
    let count = |server: &Value| {
        Some((server["name"].as_str()?.strip_prefix('s')?.parse().ok()?, server["requests"].as_u64()?))
    };
    servers.filter_map(count).collect()
}

/// The names of the servers that are healthy.
fn healthy(status: &Value) -> std::collections::BTreeSet<&str> {
    let servers = status["upstreams"][0]["servers"].as_array();
    let healthy = servers.into_iter().flatten().filter(|server| server["operational"] == "healthy");
    healthy.filter_map(|server| server["name"].as_str()).collect()
}

/// Waits until the proxy serves and its servers are healthy; where it listens.
fn ready(program: &Path, dir: &Path, home: &Home, proxy: &mut Guard, servers: usize) -> io::Result<SocketAddr> {
    let began = Instant::now();
    let log = dir.join("proxy.log");
    loop {
        if proxy.is_gone() || began.elapsed() > PATIENCE {
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(io::Error::other(format!("the proxy did not become ready:\n{}", said.trim_end())));
        }
        if let Ok(status) = status(program, home)
            && status["phase"] == "serving"
            && healthy(&status).len() == servers
            && let Some(address) = status["listeners"][0]["address"].as_str().and_then(|address| address.parse().ok())
        {
            return Ok(address);
        }
        std::thread::sleep(PACE);
    }
}
