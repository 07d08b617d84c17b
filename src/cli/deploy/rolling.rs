//! Servers restarted in turn.
//!
//! The order of each turn is what makes it safe: out of rotation with its sessions, disabled so that nothing
//! of its past health counts, restarted by the hook, and back only once its check has seen it again.

use tokio::time::{Instant, sleep};

use super::bar::Bar;
use super::hooks::{self, Ended, Line, Of};
use super::interrupt::Interrupts;
use super::ledger::Ledger;
use super::record::Record;
use super::report::{Turn, TurnResult};
use super::{PACE, serves, takes_anybody, why_not};
use crate::cli::args::DeployArgs;
use crate::cli::client::{Client, PROMPT};
use crate::cli::console::Console;
use crate::cli::exit::{Exit, Failure};
use crate::cli::servers;
use crate::cli::target::Target;
use crate::control::api::{Deadlines, DeployPhase, ServerChange, ServerStatus, Status, UpstreamStatus};
use crate::units::show_duration;

/// A deploy under way.
pub(super) struct Rolling<'a> {
    pub(super) client: &'a Client,
    pub(super) args: &'a DeployArgs,
    /// In the order of their turns.
    pub(super) turns: Vec<Turn>,
    /// Servers that are out of rotation because of the deploy.
    pub(super) out: Vec<String>,
    pub(super) interrupts: &'a Interrupts,
    pub(super) ledger: &'a Ledger,
    pub(super) record: &'a Record,
    pub(super) batch: usize,
    pub(super) deadlines: &'a Deadlines,
    pub(super) bar: Bar,
}

/// Whose turn comes when; servers that somebody else took out are left alone.
pub(super) fn order(
    upstream: &UpstreamStatus,
    args: &DeployArgs,
    console: &mut Console,
) -> Result<Vec<String>, Failure> {
    let fail = |text: String| Err(Failure::new(Exit::Failure, text));
    for name in &args.only {
        if !upstream.servers.iter().any(|s| s.name == *name) {
            return fail(format!("upstream `{}` has no server `{name}`", upstream.name));
        }
    }
    let mut named = Vec::new();
    for server in &upstream.servers {
        if !args.only.is_empty() && !args.only.contains(&server.name) {
            continue;
        }
        if server.admin == "ready" {
            named.push(server);
        } else {
            console.note(&format!("{}/{} is {}: it is left alone", upstream.name, server.name, server.admin));
        }
    }
    if named.is_empty() {
        return fail(format!("upstream `{}` has no ready server to deploy", upstream.name));
    }
    // Who is healthy may be another with each turn, and is looked at then: a server that is not may be just what
    // the deploy repairs.
    let may_serve = |server: &&ServerStatus| server.admin == "ready" && server.weight > 0;
    let ready = upstream.servers.iter().filter(may_serve).count();
    let taken = usize::from(args.batch).min(named.iter().copied().filter(may_serve).count());
    if ready <= taken {
        return fail(format!(
            "{} of upstream `{}` would be left to serve: a deploy needs more ready servers than --batch takes out",
            if ready == 0 { "nobody" } else { "nobody else" },
            upstream.name
        ));
    }
    // Those that serve nobody come first: the others need them.
    named.sort_by_key(|server| serves(server));
    Ok(named.into_iter().map(|server| server.name.clone()).collect())
}

impl Rolling<'_> {
    /// Every turn that is left. The error is why it was stopped.
    pub(super) async fn all(&mut self, console: &mut Console) -> Result<(), String> {
        let left: Vec<usize> = (0..self.turns.len()).filter(|at| self.turns[*at].result == TurnResult::Left).collect();
        for batch in left.chunks(self.batch.max(1)) {
            let interrupts = self.interrupts;
            let before = async {
                self.warmed_up(console).await?;
                self.leaves_somebody(batch).await?;
                self.phase(batch, DeployPhase::Draining).await?;
                self.drain(batch, console).await?;
                // A drain takes long: those that were left may be gone by now.
                self.leaves_somebody(batch).await?;
                self.phase(batch, DeployPhase::Hook).await
            };
            interrupts.unless(before).await?;
            // Hooks end in an order of their own.
            self.restart(batch, console).await?;
            let after = async {
                self.phase(batch, DeployPhase::Returning).await?;
                self.take_back(batch, console).await?;
                self.phase(batch, DeployPhase::Done).await?;
                self.ledger.note(&self.record.notes(&self.turns)).await
            };
            interrupts.unless(after).await?;
        }
        Ok(())
    }

    async fn phase(&self, batch: &[usize], phase: DeployPhase) -> Result<(), String> {
        let servers: Vec<String> = batch.iter().map(|at| self.turns[*at].server.clone()).collect();
        self.ledger.phase(&servers, phase).await
    }

    fn target(&self, at: usize) -> Target {
        Target { upstream: self.args.upstream.clone(), server: self.turns[at].server.clone() }
    }

    fn place(&self, at: usize) -> String {
        format!("{}/{} {}", at + 1, self.turns.len(), self.target(at))
    }

    async fn leaves_somebody(&self, batch: &[usize]) -> Result<(), String> {
        let status: Status = self.client.get("/status", PROMPT).await.map_err(|error| error.to_string())?;
        let upstream = status.upstreams.iter().find(|u| u.name == self.args.upstream);
        let serving: Vec<&ServerStatus> =
            upstream.map_or(Vec::new(), |u| u.servers.iter().filter(|s| takes_anybody(s)).collect());
        let is_taken = |server: &&ServerStatus| batch.iter().any(|at| self.turns[*at].server == server.name);
        if serving.iter().all(is_taken) {
            return Err(format!("only {} healthy, so nobody would be left to serve", serving.len()));
        }
        Ok(())
    }

    /// Waits until those that came back take as many requests at a time as before: what the next batch has
    /// carried would be more than they are let.
    async fn warmed_up(&self, console: &mut Console) -> Result<(), String> {
        let is_cold = |server: &&ServerStatus| {
            let is_back = |turn: &Turn| turn.server == server.name && turn.result == TurnResult::Restarted;
            serves(server)
                && server.max_requests.is_some()
                && server.slow_start.is_some()
                && self.turns.iter().any(is_back)
        };
        let mut told = false;
        loop {
            let status: Status = self.client.get("/status", PROMPT).await.map_err(|error| error.to_string())?;
            let mut servers = status.upstreams.iter().filter(|u| u.name == self.args.upstream).flat_map(|u| &u.servers);
            let Some(server) = servers.find(is_cold) else { return Ok(()) };
            let text = format!(
                "{}/{} is in its slow start: waiting for all of its max_requests",
                self.args.upstream, server.name
            );
            if console.live {
                self.bar.show(self.done(), 0.0, &text, console);
            } else if !std::mem::replace(&mut told, true) {
                let _ = console.confirm(&text);
            }
            sleep(PACE).await;
        }
    }

    /// Turns that are over.
    fn done(&self) -> usize {
        self.turns.iter().filter(|turn| turn.result == TurnResult::Restarted).count()
    }

    async fn set(&self, at: usize, change: &ServerChange) -> Result<ServerStatus, String> {
        self.client.put(&self.target(at).path(), change, PROMPT).await.map_err(|error| error.to_string())
    }

    /// Takes the servers of a batch out, with their sessions, and waits until nothing is left on them.
    async fn drain(&mut self, batch: &[usize], console: &mut Console) -> Result<(), String> {
        let began = Instant::now();
        let Deadlines { in_flight, sessions_max, sessions_idle } = self.deadlines.clone();
        let admin = Some("draining".to_owned());
        let change = ServerChange { admin, in_flight, sessions_max, sessions_idle, ..Default::default() };
        for at in batch.iter().copied() {
            let server = self.turns[at].server.clone();
            if self.out.contains(&server) {
                // Another command had it out. What is on it is over, and in a drain its sessions would come again.
                let now: ServerStatus =
                    self.client.get(&self.target(at).path(), PROMPT).await.map_err(|error| error.to_string())?;
                if matches!(now.admin.as_str(), "drained" | "disabled") {
                    continue;
                }
            } else {
                self.out.push(server);
            }
            self.set(at, &change).await?;
        }
        for at in batch.iter().copied() {
            let mut told = None;
            loop {
                let path = format!("{}?wait=drained&timeout=1s", self.target(at).path());
                let server: ServerStatus = self.client.get(&path, PROMPT).await.map_err(|error| error.to_string())?;
                if server.admin == "ready" {
                    return Err(format!("{} was made ready by somebody else while it drained", self.target(at)));
                }
                if matches!(server.admin.as_str(), "drained" | "disabled") && server.in_flight == 0 {
                    break;
                }
                let left = (server.drain.as_ref().map_or(0, |d| d.sessions_left), server.in_flight);
                if console.live {
                    let text = format!("{} drains: {}", self.target(at), servers::left(&server));
                    self.bar.show(self.done(), 0.2, &text, console);
                } else if told != Some(left) {
                    let _ = console.confirm(&format!("{} drains: {}", self.place(at), servers::left(&server)));
                }
                told = Some(left);
                sleep(PACE).await;
            }
            self.turns[at].drain_seconds = began.elapsed().as_secs_f64();
        }
        Ok(())
    }

    /// Runs the hooks of a batch at the same time.
    async fn restart(&mut self, batch: &[usize], console: &mut Console) -> Result<(), String> {
        let line = Line::of(self.args).ok_or("there is no hook: say --each or --exec")?;
        let mut servers = Vec::new();
        if self.interrupts.times() > 0 {
            return Err(self.interrupts.why());
        }
        for at in batch.iter().copied() {
            // What was known of its health is of the old process.
            let disabled = ServerChange { admin: Some("disabled".to_owned()), ..Default::default() };
            let ServerStatus { name, address, .. } = self.set(at, &disabled).await?;
            servers.push(Of { at, name, address });
        }
        let mut result = Err("a hook cannot be waited for".to_owned());
        let mut left = servers.len();
        let (upstream, within) = (self.args.upstream.clone(), self.args.hook_within);
        let interrupts = self.interrupts;
        let names: Vec<String> = batch.iter().map(|at| self.target(*at).to_string()).collect();
        self.bar.show(self.done(), 0.5, &format!("{} in the hook", names.join(", ")), console);
        hooks::together(&line, servers, (&upstream, within), interrupts, console, |ended, console| {
            let Ended { at, result: how, seconds } = ended;
            left -= 1;
            self.turns[at].hook_seconds = seconds;
            match how {
                Ok(()) => {
                    let _ = console.confirm(&format!("{} restarted in {seconds:.1} s", self.place(at)));
                    if left == 0 && self.turns.iter().all(|turn| turn.result != TurnResult::Failed) {
                        result = Ok(());
                    }
                }
                Err(why) => {
                    self.turns[at].result = TurnResult::Failed;
                    result = Err(format!("{}: {why}", self.target(at)));
                }
            }
        })
        .await;
        result
    }

    /// Takes servers back and waits until their checks say that they are healthy.
    async fn take_back(&mut self, batch: &[usize], console: &mut Console) -> Result<(), String> {
        let began = Instant::now();
        let ready = ServerChange { admin: Some("ready".to_owned()), heed: true, ..Default::default() };
        for at in batch.iter().copied() {
            self.set(at, &ready).await?;
        }
        for at in batch.iter().copied() {
            loop {
                let path = self.target(at).path();
                let server: ServerStatus = self.client.get(&path, PROMPT).await.map_err(|error| error.to_string())?;
                if serves(&server) {
                    break;
                }
                let text = format!("{} is {}: waiting for its check", self.target(at), server.operational);
                self.bar.show(self.done(), 0.8, &text, console);
                // Where it asked for that itself, it comes back by itself.
                if server.admin != "ready" && server.set_by != "server" {
                    return Err(format!("{} was taken out by somebody else", self.target(at)));
                }
                if began.elapsed() >= self.args.healthy_within {
                    self.turns[at].result = TurnResult::Failed;
                    let why = why_not(&server);
                    let within = show_duration(self.args.healthy_within);
                    return Err(format!("{} was not healthy within {within}{why}", self.target(at)));
                }
                sleep(PACE).await;
            }
            let turn = &mut self.turns[at];
            turn.result = TurnResult::Restarted;
            turn.healthy_seconds = began.elapsed().as_secs_f64();
            self.out.retain(|name| *name != turn.server);
            let _ = console.confirm(&format!("{} is healthy again", self.place(at)));
        }
        Ok(())
    }

    /// Takes back what the deploy took out. A server that does not answer its check gets nothing all the same.
    pub(super) async fn restore(&mut self, console: &mut Console) {
        let ready = ServerChange { admin: Some("ready".to_owned()), heed: true, ..Default::default() };
        for server in std::mem::take(&mut self.out) {
            let target = Target { upstream: self.args.upstream.clone(), server };
            match self.client.put::<ServerStatus>(&target.path(), &ready, PROMPT).await {
                Ok(now) => console.note(&format!("taken back: {target} {}", servers::state(&now))),
                Err(error) => console.note(&format!("{target} cannot be taken back: {error}")),
            }
        }
    }
}
