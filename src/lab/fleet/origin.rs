//! One toy server as a process.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use super::child::{Guard, clean};
use crate::lab::scenario::{Cached, Candidate, Each, Items, Kept, Scenario};

/// What signs tokens: known to all servers of the lab, and worth nothing elsewhere.
const TOKEN_KEY: &str = "the lab's own key, which guards nothing";

/// What all servers of a fleet are started with.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    program: PathBuf,
    pub(super) dir: PathBuf,
    /// The process group that servers are born into.
    group: u32,
    args: Vec<OsString>,
    workers: Option<Each>,
    pub(super) replicates: bool,
}

#[derive(Debug)]
pub(super) struct Origin {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) guard: Guard,
}

impl Setup {
    /// For a candidate; `store` is the socket of the Redis, where it needs one.
    pub(super) fn new(
        program: PathBuf,
        dir: PathBuf,
        group: u32,
        scenario: &Scenario,
        candidate: &Candidate,
        store: Option<&PathBuf>,
        items: Option<SocketAddr>,
    ) -> Self {
        let mut args: Vec<OsString> = Vec::new();
        let servers = &scenario.servers;
        if !servers.work.is_zero() {
            args.extend(["--work".into(), format!("{}ms", servers.work.as_millis()).into()]);
        }
        let workers = servers.workers.clone().filter(|_| !servers.work.is_zero());
        if let Some(kept) = candidate.sessions {
            args.extend(["--sessions".into(), kept.as_str().into()]);
        }
        if let Some(strategies) = &scenario.strategies {
            args.extend(["--session-size".into(), strategies.session.to_string().into()]);
        }
        if let Some(socket) = store {
            let mut place = OsString::from("unix:");
            place.push(socket);
            args.extend(["--store".into(), place]);
        }
        if let Some(items) = items {
            let cache = if candidate.cache == Some(Cached::Shared) { "shared" } else { "own" };
            args.extend(["--items".into(), items.to_string().into(), "--cache".into(), cache.into()]);
        }
        Self { program, dir, group, args, workers, replicates: candidate.sessions == Some(Kept::Replicated) }
    }

    /// For the store that has the items.
    pub(super) fn of_items(program: PathBuf, dir: PathBuf, group: u32, items: &Items) -> Self {
        let mut args: Vec<OsString> = vec!["--work".into(), format!("{}ms", items.work.as_millis()).into()];
        if let Some(workers) = items.workers {
            args.extend(["--workers".into(), workers.to_string().into()]);
        }
        Self { program, dir, group, args, workers: None, replicates: false }
    }

    /// Starts a server. Its logs are appended to, so that those of one that comes back are whole.
    pub(super) fn start(&self, name: &str, address: Option<SocketAddr>, others: &[SocketAddr]) -> io::Result<Origin> {
        let listen = address.map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string());
        let log = OpenOptions::new().append(true).create(true).open(self.dir.join(format!("{name}.log")))?;
        let mut command = clean(&self.program, Some(self.group));
        command.args(["origin", "--name", name, "--listen", &listen]);
        command.arg("--arrivals").arg(self.dir.join(format!("{name}.arrivals"))).args(&self.args);
        command.env("EVENKEEL_ORIGIN_TOKEN_KEY", TOKEN_KEY);
        if let Some(workers) = &self.workers {
            // One of another service is like the first.
            let number = name.strip_prefix('s').and_then(|number| number.parse().ok()).unwrap_or(1);
            command.args(["--workers", &workers.of(number).to_string()]);
        }
        if self.replicates {
            others.iter().for_each(|other| _ = command.args(["--peer", &other.to_string()]));
        }
        let child = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::piped()).spawn()?;
        let mut guard = Guard::new(child);
        let said = guard.child().and_then(|child| child.stderr.take());
        let mut line = String::new();
        if let Some(said) = said {
            BufReader::new(said).read_line(&mut line)?;
        }
        let address = line.trim().rsplit_once("http://").and_then(|(_, address)| address.parse().ok());
        let address =
            address.ok_or_else(|| io::Error::other(format!("server {name} did not start: {}", line.trim())))?;
        Ok(Origin { name: name.to_owned(), address, guard })
    }
}
