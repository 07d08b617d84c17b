//! Real processes: toy servers, and evenkeel in front of them.
//!
//! Each is a child of this process and ends with the [`Fleet`], by its id. What operators do (add, drain, ready,
//! remove) is done with evenkeel's own verbs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::scenario::{Action, Candidate, Scenario, Servers};

/// How long a process may take until it is there.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often is looked.
const PACE: Duration = Duration::from_millis(20);

/// The servers and the proxy of one run.
#[derive(Debug)]
pub struct Fleet {
    program: PathBuf,
    dir: PathBuf,
    servers: Servers,
    origins: Mutex<Vec<Origin>>,
    proxy: Child,
    address: SocketAddr,
}

#[derive(Debug)]
struct Origin {
    name: String,
    address: SocketAddr,
    /// None once it was ended.
    child: Option<Child>,
}

/// A child that is ended when it is dropped.
#[derive(Debug)]
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The configuration of the proxy for a candidate; servers are the pairs of name and address.
#[must_use]
pub fn configuration(scenario: &Scenario, candidate: &Candidate, servers: &[(String, SocketAddr)]) -> String {
    let mut upstream = scenario.upstream.clone();
    upstream.extend(candidate.upstream.clone());
    upstream.insert("policy".to_owned(), candidate.policy.clone());
    if !upstream.contains_key("check") {
        let check = toml::toml! { http = { path = "/healthz", interval = "500ms", timeout = "500ms" } };
        upstream.insert("check".to_owned(), check.into());
    }
    let server = |(name, address): &(String, SocketAddr)| {
        toml::Table::from_iter([
            ("name".to_owned(), name.as_str().into()),
            ("address".to_owned(), address.to_string().into()),
        ])
    };
    let servers: Vec<toml::Value> = servers.iter().map(|pair| server(pair).into()).collect();
    upstream.insert("server".to_owned(), servers.into());
    let listener = toml::toml! { bind = "127.0.0.1:0" };
    let whole = toml::Table::from_iter([
        ("listener".to_owned(), vec![toml::Value::from(listener)].into()),
        ("upstream".to_owned(), toml::Table::from_iter([("app".to_owned(), upstream.into())]).into()),
    ]);
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
        let mut origins = Vec::new();
        for number in 1..=scenario.servers.count {
            let name = format!("s{number}");
            let (child, address) = origin(program, dir, &scenario.servers, &name, None)?;
            origins.push((name, address, Guard(Some(child))));
        }
        let pairs: Vec<(String, SocketAddr)> = origins.iter().map(|(name, at, _)| (name.clone(), *at)).collect();
        let config = dir.join("proxy.toml");
        fs::write(&config, configuration(scenario, candidate, &pairs))?;
        let log = File::create(dir.join("proxy.log"))?;
        let mut command = clean(program);
        command.arg("run").arg("-c").arg(&config).arg("--admin").arg(dir.join("admin.sock"));
        let proxy = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut proxy = Guard(Some(proxy));
        let address = ready(program, dir, &mut proxy, pairs.len())?;
        let Some(proxy) = proxy.0.take() else { return Err(io::Error::other("the proxy is gone")) };
        let origins =
            origins.into_iter().map(|(name, address, mut child)| Origin { name, address, child: child.0.take() });
        Ok(Self {
            program: program.to_owned(),
            dir: dir.to_owned(),
            servers: scenario.servers.clone(),
            origins: Mutex::new(origins.collect()),
            proxy,
            address,
        })
    }

    /// Where the proxy listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does what an event says, and returns when it is done, or when it is over before that.
    ///
    /// # Errors
    /// What of it failed.
    pub fn act(&self, action: Action, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        match action {
            Action::Kill(number) => self.with(number - 1, |origin| end(origin, Signal::KILL)),
            Action::Start(number) => self.restart(number - 1),
            Action::Add(count) => (0..count).try_for_each(|_| self.add(is_over)),
            Action::Remove(count) => (0..count).try_for_each(|_| self.remove(is_over)),
            Action::Deploy => {
                let count = self.origins.lock().unwrap_or_else(PoisonError::into_inner).len();
                (0..count).try_for_each(|at| self.renew(at, is_over))
            }
        }
    }

    fn with<T>(&self, at: usize, work: impl FnOnce(&mut Origin) -> io::Result<T>) -> io::Result<T> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        work(origins.get_mut(at).ok_or_else(|| io::Error::other("there is no such server"))?)
    }

    fn restart(&self, at: usize) -> io::Result<()> {
        self.with(at, |old| {
            end(old, Signal::TERM)?;
            let (child, _) = origin(&self.program, &self.dir, &self.servers, &old.name, Some(old.address))?;
            old.child = Some(child);
            Ok(())
        })
    }

    fn add(&self, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("s{}", origins.len() + 1);
        let (child, address) = origin(&self.program, &self.dir, &self.servers, &name, None)?;
        origins.push(Origin { name: name.clone(), address, child: Some(child) });
        drop(origins);
        self.verb(&["add", &format!("app/{name}"), &address.to_string()], is_over)
    }

    fn remove(&self, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut last) = origins.pop() else { return Ok(()) };
        drop(origins);
        let removed = self.verb(&["remove", &format!("app/{}", last.name), "--wait"], is_over);
        end(&mut last, Signal::TERM)?;
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
        status(&self.program, &self.dir)
    }

    fn verb(&self, args: &[&str], is_over: &dyn Fn() -> bool) -> io::Result<()> {
        let mut command = clean(&self.program);
        command.args(args).arg("-q").arg("--admin").arg(self.dir.join("admin.sock"));
        let mut child = Guard(Some(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?));
        let running = child.0.as_mut().ok_or_else(|| io::Error::other("the verb is gone"))?;
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

    /// Ends everything and says how many requests each server has logged, health checks aside.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn stop(mut self) -> io::Result<BTreeMap<u32, u64>> {
        self.end();
        let mut counts = BTreeMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "arrivals") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let Some(number) = name.strip_prefix('s').and_then(|number| number.parse().ok()) else { continue };
                let lines = BufReader::new(File::open(&path)?).lines();
                let requests = lines.map_while(Result::ok).filter(|line| !line.contains(" GET /healthz "));
                counts.insert(number, requests.count() as u64);
            }
        }
        Ok(counts)
    }

    fn end(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
        let origins = self.origins.get_mut().unwrap_or_else(PoisonError::into_inner);
        for origin in origins {
            let _ = end(origin, Signal::KILL);
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.end();
    }
}

/// This program, deaf to what the environment says of evenkeel, and to Ctrl-C: that is for the lab.
fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.process_group(0);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("EVENKEEL_")) {
        command.env_remove(name);
    }
    command
}

fn end(origin: &mut Origin, signal: Signal) -> io::Result<()> {
    if let Some(mut child) = origin.child.take() {
        kill_process(Pid::from_child(&child), signal)?;
        child.wait()?;
    }
    Ok(())
}

/// Starts a server; its log is appended to, so that of one that comes back it is whole.
fn origin(
    program: &Path,
    dir: &Path,
    servers: &Servers,
    name: &str,
    address: Option<SocketAddr>,
) -> io::Result<(Child, SocketAddr)> {
    let listen = address.map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string());
    let mut command = clean(program);
    command.args(["origin", "--name", name, "--listen", &listen]);
    command.arg("--arrivals").arg(dir.join(format!("{name}.arrivals")));
    if !servers.work.is_zero() {
        command.args(["--work", &format!("{}ms", servers.work.as_millis())]);
        if let Some(workers) = servers.workers {
            command.args(["--workers", &workers.to_string()]);
        }
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut child = Guard(Some(child));
    let said = child.0.as_mut().and_then(|child| child.stderr.take());
    let mut line = String::new();
    if let Some(said) = said {
        BufReader::new(said).read_line(&mut line)?;
    }
    let address = line.trim().rsplit_once("http://").and_then(|(_, address)| address.parse().ok());
    let address = address.ok_or_else(|| io::Error::other(format!("server {name} did not start: {}", line.trim())))?;
    let child = child.0.take().ok_or_else(|| io::Error::other("the server is gone"))?;
    Ok((child, address))
}

fn status(program: &Path, dir: &Path) -> io::Result<Value> {
    let mut command = clean(program);
    let output = command.args(["status", "--output", "json", "--admin"]).arg(dir.join("admin.sock")).output()?;
    serde_json::from_slice(&output.stdout).map_err(io::Error::other)
}

/// The names of the servers that are healthy.
fn healthy(status: &Value) -> std::collections::BTreeSet<&str> {
    let servers = status["upstreams"][0]["servers"].as_array();
    let healthy = servers.into_iter().flatten().filter(|server| server["operational"] == "healthy");
    healthy.filter_map(|server| server["name"].as_str()).collect()
}

/// Waits until the proxy serves and its servers are healthy; where it listens.
fn ready(program: &Path, dir: &Path, proxy: &mut Guard, servers: usize) -> io::Result<SocketAddr> {
    let began = Instant::now();
    let log = dir.join("proxy.log");
    loop {
        let is_gone = proxy.0.as_mut().is_some_and(|proxy| proxy.try_wait().is_ok_and(|status| status.is_some()));
        if is_gone || began.elapsed() > PATIENCE {
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(io::Error::other(format!("the proxy did not become ready:\n{}", said.trim_end())));
        }
        if let Ok(status) = status(program, dir)
            && status["phase"] == "serving"
            && healthy(&status).len() == servers
            && let Some(address) = status["listeners"][0]["address"].as_str().and_then(|address| address.parse().ok())
        {
            return Ok(address);
        }
        std::thread::sleep(PACE);
    }
}
