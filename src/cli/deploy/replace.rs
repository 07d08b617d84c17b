//! A new set of servers beside the old one, swapped in at once.
//!
//! Until the swap the new servers get no clients, so whatever fails is undone by taking them away again. The
//! swap is one act of the proxy, and from then on the proxy ends the rest by itself: old servers are drained
//! and removed, whether this command is there or not.

use std::time::Duration;

use http::Method;
use tokio::time::{Instant, sleep};

use super::bar::Bar;
use super::canary::{Canary, Comparison};
use super::hooks::{self, Ended, Line, Of};
use super::interrupt::Interrupts;
use super::ledger::Ledger;
use super::record::Record;
use super::report::{Turn, TurnResult};
use super::{PACE, does_well, finish, why_not};
use crate::cli::args::{DeployArgs, Replacement};
use crate::cli::client::{Client, ClientError, PROMPT};
use crate::cli::console::Console;
use crate::cli::exit::{Exit, Failure};
use crate::cli::servers;
use crate::cli::target::{self, Target};
use crate::control::api::{Deadlines, DeployPhase, NewServer, ServerStatus, Status, Swap, UpstreamStatus};
use crate::units::show_duration;

pub(super) async fn replace(
    client: &Client,
    args: &DeployArgs,
    upstream: &UpstreamStatus,
    interrupts: &Interrupts,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let old = old(upstream, args, console)?;
    let new: Vec<String> = args.replace.iter().map(|server| server.name.clone()).collect();
    let ledger = Ledger::open(client, args, "replace", new.clone(), interrupts).await?;
    let everyone = upstream.servers.iter().map(|server| server.name.clone()).chain(new).collect();
    let turns: Vec<Turn> = args.replace.iter().map(|server| Turn::of(&server.name)).collect();
    let mut record = match Record::begin(client, args, everyone, &turns, interrupts, console).await {
        Ok(record) => record,
        Err(failure) => {
            let _ = ledger.end().await;
            return Err(failure);
        }
    };
    let deadlines = record.deadlines().clone();
    let mut set =
        Set { client, args, turns, old, added: Vec::new(), deadlines, interrupts, ledger: &ledger, seen: None };
    let result = match set.bring(console).await {
        Ok(()) => set.see_off(console).await,
        Err(why) => {
            set.undo(console).await;
            Err(why)
        }
    };
    let turns = std::mem::take(&mut set.turns);
    record.canary = set.seen.take();
    finish(client, args, (ledger, record), (turns, result), interrupts, console).await
}

/// A server that goes.
struct Old {
    name: String,
    address: String,
}

/// Who goes: those that nobody else has taken out.
fn old(upstream: &UpstreamStatus, args: &DeployArgs, console: &mut Console) -> Result<Vec<Old>, Failure> {
    let fail = |text: String| Err(Failure::new(Exit::Failure, text));
    let known = |name: &String| upstream.servers.iter().any(|server| server.name == *name);
    if let Some(name) = args.only.iter().find(|name| !known(name)) {
        return fail(format!("upstream `{}` has no server `{name}`", upstream.name));
    }
    for (at, Replacement { name, .. }) in args.replace.iter().enumerate() {
        if known(name) || args.replace[..at].iter().any(|other| other.name == *name) {
            return fail(format!(
                "a new server needs a name of its own: upstream `{}` has a server `{name}`",
                upstream.name
            ));
        }
    }
    let mut old = Vec::new();
    for server in upstream.servers.iter().filter(|s| args.only.is_empty() || args.only.contains(&s.name)) {
        if server.admin == "ready" {
            old.push(Old { name: server.name.clone(), address: server.address.clone() });
        } else {
            console.note(&format!("{}/{} is {}: it is left alone", upstream.name, server.name, server.admin));
        }
    }
    if old.is_empty() { fail(format!("upstream `{}` has no ready server to replace", upstream.name)) } else { Ok(old) }
}

struct Set<'a> {
    client: &'a Client,
    args: &'a DeployArgs,
    /// Of the new servers, and of the old ones once they are gone.
    turns: Vec<Turn>,
    old: Vec<Old>,
    /// New servers that the proxy has, and that get no clients yet.
    added: Vec<String>,
    deadlines: Deadlines,
    interrupts: &'a Interrupts,
    ledger: &'a Ledger,
    /// What a canary has shown.
    seen: Option<Comparison>,
}

impl Set<'_> {
    fn target(&self, server: &str) -> Target {
        Target { upstream: self.args.upstream.clone(), server: server.to_owned() }
    }

    /// Brings the new servers into service. The error is why not: then none of them has had a client.
    async fn bring(&mut self, console: &mut Console) -> Result<(), String> {
        self.add().await?;
        let all: Vec<usize> = (0..self.turns.len()).collect();
        if let Some(line) = Line::of(self.args) {
            for batch in all.chunks(usize::from(self.args.batch)) {
                self.phase(batch, DeployPhase::Hook).await?;
                self.start(&line, batch, console).await?;
            }
        }
        let interrupts = self.interrupts;
        let gate = async {
            self.phase(&all, DeployPhase::Returning).await?;
            self.wait_until_healthy(console).await?;
            // Only who is still in charge may swap.
            self.phase(&all, DeployPhase::Returning).await
        };
        interrupts.unless(gate).await?;
        if let Some(percent) = self.args.percent {
            self.try_out(percent, console).await?;
        }
        // From here on it happens or it does not: nothing interrupts it.
        if let Err(error) = self.swap().await {
            self.is_swapped_all_the_same(&error, console).await?;
        }
        self.added.clear();
        for turn in &mut self.turns {
            turn.result = TurnResult::SwappedIn;
        }
        let names = |of: &mut dyn Iterator<Item = &str>| of.collect::<Vec<_>>().join(", ");
        let new = names(&mut self.turns.iter().map(|turn| turn.server.as_str()));
        let old = names(&mut self.old.iter().map(|old| old.name.as_str()));
        let _ = console.confirm(&format!("swapped: clients go to {new} from now on, and {old} drain"));
        Ok(())
    }

    async fn phase(&self, batch: &[usize], phase: DeployPhase) -> Result<(), String> {
        let servers: Vec<String> = batch.iter().map(|at| self.turns[*at].server.clone()).collect();
        self.ledger.phase(&servers, phase).await
    }

    async fn add(&mut self) -> Result<(), String> {
        let path = target::path_of_servers(&self.args.upstream);
        for Replacement { name, address } in &self.args.replace {
            let (name, address) = (Some(name.clone()), Some(address.clone()));
            let server = NewServer { name, address, weight: None, standby: true, ..Default::default() };
            let added = self.client.tell::<ServerStatus>(Method::POST, &path, &server, PROMPT).await;
            self.added.push(added.map_err(|error| error.to_string())?.name);
        }
        Ok(())
    }

    /// Runs the hooks of new servers.
    async fn start(&mut self, line: &Line, batch: &[usize], console: &mut Console) -> Result<(), String> {
        let of = |at: &usize| {
            let Replacement { name, address } = self.args.replace[*at].clone();
            Of { at: *at, name, address }
        };
        let servers = batch.iter().map(of).collect();
        let (mut result, interrupts) = (Ok(()), self.interrupts);
        let (upstream, within) = (self.args.upstream.clone(), self.args.hook_within);
        hooks::together(line, servers, (&upstream, within), interrupts, console, |ended, console| {
            let Ended { at, result: how, seconds } = ended;
            self.turns[at].hook_seconds = seconds;
            let target = self.target(&self.turns[at].server);
            match how {
                Ok(()) => drop(console.confirm(&format!("{target} started in {seconds:.1} s"))),
                Err(why) => {
                    self.turns[at].result = TurnResult::Failed;
                    result = Err(format!("{target}: {why}"));
                }
            }
        })
        .await;
        result
    }

    async fn wait_until_healthy(&mut self, console: &mut Console) -> Result<(), String> {
        let (began, bar) = (Instant::now(), Bar::begin(0, self.turns.len()));
        for at in 0..self.turns.len() {
            let target = self.target(&self.turns[at].server);
            loop {
                let server: ServerStatus =
                    self.client.get(&target.path(), PROMPT).await.map_err(|error| error.to_string())?;
                if does_well(&server) {
                    break;
                }
                let text = format!("{target} is {}: waiting for its check", server.operational);
                bar.show(at, 0.0, &text, console);
                if began.elapsed() >= self.args.healthy_within {
                    self.turns[at].result = TurnResult::Failed;
                    let why = why_not(&server);
                    let within = show_duration(self.args.healthy_within);
                    return Err(format!("{target} was not healthy within {within}{why}"));
                }
                sleep(PACE).await;
            }
            self.turns[at].healthy_seconds = began.elapsed().as_secs_f64();
            let _ = console.confirm(&format!("{target} is healthy"));
        }
        Ok(())
    }

    /// Lets some users meet the new servers. The error is why they must go: then nobody meets them any more.
    async fn try_out(&mut self, percent: f64, console: &mut Console) -> Result<(), String> {
        let canary = Canary {
            client: self.client,
            args: self.args,
            percent,
            new: self.turns.iter().map(|turn| turn.server.clone()).collect(),
            old: self.old.iter().map(|old| old.name.clone()).collect(),
        };
        canary.begin(console).await?;
        let mut seen = None;
        let interrupts = self.interrupts;
        let result = interrupts.unless(canary.compare(&mut seen, console)).await;
        if let Some(seen) = &seen {
            let verdict = if result.is_ok() { "the new servers were not worse: " } else { "" };
            console.note(&format!("{verdict}{}", seen.limits()));
        }
        if result.is_err() && interrupts.lost().is_none() {
            canary.end(console).await;
        }
        self.seen = seen;
        result
    }

    async fn swap(&self) -> Result<(), ClientError> {
        let Deadlines { in_flight, sessions_max, sessions_idle } = self.deadlines.clone();
        let take_in = self.turns.iter().map(|turn| turn.server.clone()).collect();
        let take_out = self.old.iter().map(|old| old.name.clone()).collect();
        let swap = Swap { take_in, take_out, remove: true, in_flight, sessions_max, sessions_idle };
        let path = format!("{}/swap", target::path_of(&self.args.upstream));
        let swapped = self.client.tell::<UpstreamStatus>(Method::POST, &path, &swap, PROMPT).await;
        swapped.map(|_| ())
    }

    /// Asks whether the swap was done, whose answer was an error. The error is why it was not, or that nobody
    /// knows: then nothing is left to undo, since what it would take away may be all that serves.
    async fn is_swapped_all_the_same(&mut self, error: &ClientError, console: &mut Console) -> Result<(), String> {
        if matches!(error, ClientError::Refused { status, .. } if status.is_client_error()) {
            return Err(error.to_string());
        }
        console.note(&format!("nobody says whether the servers were swapped ({error}): looking"));
        let began = Instant::now();
        loop {
            let silence = match self.client.get::<Status>("/status", PROMPT).await {
                Ok(status) if self.are_in_service(&status) => return Ok(()),
                Ok(_) => return Err(error.to_string()),
                Err(silence) => silence,
            };
            if began.elapsed() >= PROMPT {
                let servers = std::mem::take(&mut self.added).join(", ");
                return Err(format!(
                    "{error}, and nobody knows whether the swap was done ({silence}): {servers} are left as they are, \
                     look at `evenkeel status`"
                ));
            }
            sleep(PACE).await;
        }
    }

    /// Whether the new servers serve everybody, and not those alone who meet a canary.
    fn are_in_service(&self, status: &Status) -> bool {
        let upstream = status.upstreams.iter().find(|upstream| upstream.name == self.args.upstream);
        upstream.is_some_and(|upstream| {
            let is_ready = |turn: &Turn| upstream.servers.iter().any(|s| s.name == turn.server && s.admin == "ready");
            upstream.canary.is_none() && self.turns.iter().all(is_ready)
        })
    }

    /// Waits until the old servers are drained and gone. Whatever ends that, the proxy goes on with it.
    async fn see_off(&mut self, console: &mut Console) -> Result<(), String> {
        let (interrupts, began) = (self.interrupts, Instant::now());
        let all: Vec<usize> = (0..self.turns.len()).collect();
        let bar = Bar::begin(0, self.old.len());
        let gone = async {
            self.phase(&all, DeployPhase::Done).await?;
            for at in 0..self.old.len() {
                self.wait_until_gone(at, &bar, console).await?;
                let turn = Turn::of(&self.old[at].name);
                let drain_seconds = began.elapsed().as_secs_f64();
                self.turns.push(Turn { result: TurnResult::Removed, drain_seconds, ..turn });
            }
            Ok(())
        };
        interrupts.unless(gone).await.map_err(|why| {
            format!("{why}; the swap holds: new servers serve, and old ones are removed once they are drained")
        })?;
        let Some(after) = &self.args.after else { return Ok(()) };
        let line = Line::Shell(after.clone());
        let of = |(at, Old { name, address }): (usize, &Old)| Of { at, name: name.clone(), address: address.clone() };
        let servers = self.old.iter().enumerate().map(of).collect();
        let mut result = Ok(());
        let (upstream, within) = (self.args.upstream.clone(), self.args.hook_within);
        hooks::together(&line, servers, (&upstream, within), interrupts, console, |ended, console| {
            let target = self.target(&self.old[ended.at].name);
            match ended.result {
                Ok(()) => drop(console.confirm(&format!("{target}: --after has run"))),
                Err(why) => result = Err(format!("{target}: --after: {why}; the swap holds")),
            }
        })
        .await;
        result
    }

    async fn wait_until_gone(&self, at: usize, bar: &Bar, console: &mut Console) -> Result<(), String> {
        let target = self.target(&self.old[at].name);
        let mut told = None;
        loop {
            let path = format!("{}?wait=drained&timeout=1s", target.path());
            let server: ServerStatus = match self.client.get(&path, PROMPT + Duration::from_secs(1)).await {
                Ok(server) => server,
                Err(ClientError::Refused { refusal: Some(refusal), .. }) if refusal.error == "not_found" => break,
                Err(error) => return Err(error.to_string()),
            };
            if !server.leaving {
                return Err(format!("{target} was made ready by somebody else"));
            }
            let left = (server.drain.as_ref().map_or(0, |drain| drain.sessions_left), server.in_flight);
            let text = format!("{target} drains: {}", servers::left(&server));
            if console.live {
                bar.show(at, 0.0, &text, console);
            } else if told != Some(left) {
                let _ = console.confirm(&text);
            }
            told = Some(left);
            sleep(PACE).await;
        }
        let _ = console.confirm(&format!("{target} is drained and gone: it is safe to stop it"));
        Ok(())
    }

    /// Takes away what has had no client.
    async fn undo(&mut self, console: &mut Console) {
        if self.interrupts.lost().is_some() {
            return;
        }
        for server in std::mem::take(&mut self.added) {
            let target = self.target(&server);
            let (path, deadlines) = (target.path(), Deadlines::default());
            match self.client.tell::<ServerStatus>(Method::DELETE, &path, &deadlines, PROMPT).await {
                Ok(_) => console.note(&format!("taken away again: {target}")),
                Err(error) => console.note(&format!("{target} cannot be taken away: {error}")),
            }
        }
    }
}
