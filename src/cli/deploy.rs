//! `deploy`: the servers of an upstream, restarted in turn, with a proof of what clients saw of it.
//!
//! The order of each turn is what makes it safe: out of rotation with its sessions, disabled so that nothing
//! of its past health counts, restarted by the hook, and back only once its check has seen it again.

mod hook;
mod proof;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::hook::{Hook, Place};
use self::proof::{Sample, Span, Toll};
use super::args::DeployArgs;
use super::client::{Client, PROMPT};
use super::console::Console;
use super::exit::{Exit, Failure};
use super::servers;
use super::target::Target;
use crate::control::api::{ServerChange, ServerStatus, Status, UpstreamStatus};
use crate::units::show_duration;

/// How often servers are asked about.
const PACE: Duration = Duration::from_millis(100);

/// What the proof file says.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Proof {
    upstream: String,
    /// Unix seconds.
    began: u64,
    outcome: String,
    servers: Vec<Turn>,
    before: Span,
    during: Span,
    after: Span,
    #[serde(flatten)]
    toll: Toll,
}

/// One server's turn.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Turn {
    server: String,
    /// `restarted`, `failed`, or `left` where its turn did not come.
    result: &'static str,
    drain_seconds: f64,
    hook_seconds: f64,
    healthy_seconds: f64,
}

/// A deploy under way.
struct Deploy<'a> {
    client: &'a Client,
    args: &'a DeployArgs,
    /// In the order of their turns.
    turns: Vec<Turn>,
    /// Servers that are out of rotation because of the deploy.
    out: Vec<String>,
}

pub(super) async fn deploy(client: &Client, args: &DeployArgs, console: &mut Console) -> Result<Exit, Failure> {
    let status: Status = client.get("/status", PROMPT).await?;
    let upstream = find(&status, &args.upstream)?;
    let names = order(upstream, args, console)?;
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let turn = |name: &String| Turn { server: name.clone(), result: "left", ..Turn::default() };
    let turns = names.iter().map(turn).collect();
    let mut deploy = Deploy { client, args, turns, out: Vec::new() };
    let everyone: Vec<String> = upstream.servers.iter().map(|s| s.name.clone()).collect();

    let first = Sample::take(client).await?;
    sleep(args.watch).await;
    let (start, clock) = (Sample::take(client).await?, Instant::now());
    let result = tokio::select! {
        result = deploy.all(console) => result,
        () = interrupted() => Err("it was interrupted".to_owned()),
    };
    if result.is_err() {
        deploy.restore(console).await;
    }
    let spans = Spans { first, start, seconds: clock.elapsed().as_secs_f64(), began, everyone };
    let outcome = result.as_ref().err().cloned().unwrap_or_else(|| "done".to_owned());
    let told = tell(client, args, deploy.turns, outcome, &spans, console).await;
    match (result, told) {
        (Ok(()), told) => judge(&told?.toll, args),
        (Err(why), told) => {
            if let Err(failure) = told {
                console.fail(&failure);
            }
            Err(Failure::new(Exit::NotMet, format!("the deploy was stopped: {why}")))
        }
    }
}

/// What was seen up to the end of the last turn.
struct Spans {
    first: Sample,
    start: Sample,
    seconds: f64,
    began: u64,
    everyone: Vec<String>,
}

/// Watches for a while longer, then writes the proof.
async fn tell(
    client: &Client,
    args: &DeployArgs,
    servers: Vec<Turn>,
    outcome: String,
    spans: &Spans,
    console: &mut Console,
) -> Result<Proof, Failure> {
    let Spans { first, start, seconds, began, everyone } = spans;
    let end = Sample::take(client).await?;
    sleep(args.watch).await;
    let last = Sample::take(client).await?;
    let watch = args.watch.as_secs_f64();
    let proof = Proof {
        upstream: args.upstream.clone(),
        began: *began,
        outcome,
        servers,
        before: Span::between(first, start, &args.upstream, watch),
        during: Span::between(start, &end, &args.upstream, *seconds),
        after: Span::between(&end, &last, &args.upstream, watch),
        toll: Toll::between(start, &last, &args.upstream, everyone),
    };
    let file = write(&proof, args)?;
    if console.json {
        console.json_line(&proof)?;
    } else {
        for line in summary(&proof) {
            console.line(&line)?;
        }
        console.confirm(&format!("proof: {}", file.display()))?;
    }
    Ok(proof)
}

fn find<'a>(status: &'a Status, name: &str) -> Result<&'a UpstreamStatus, Failure> {
    status.upstreams.iter().find(|u| u.name == name).ok_or_else(|| {
        let names: Vec<&str> = status.upstreams.iter().map(|u| u.name.as_str()).collect();
        Failure::new(Exit::Failure, format!("there is no upstream `{name}`; there is {}", names.join(", ")))
    })
}

/// Whose turn comes when; servers that somebody else took out are left alone.
fn order(upstream: &UpstreamStatus, args: &DeployArgs, console: &mut Console) -> Result<Vec<String>, Failure> {
    let fail = |text: String| Err(Failure::new(Exit::Failure, text));
    for name in &args.only {
        if !upstream.servers.iter().any(|s| s.name == *name) {
            return fail(format!("upstream `{}` has no server `{name}`", upstream.name));
        }
    }
    let mut names = Vec::new();
    for server in &upstream.servers {
        if !args.only.is_empty() && !args.only.contains(&server.name) {
            continue;
        }
        if server.admin == "ready" {
            names.push(server.name.clone());
        } else {
            console.note(&format!("{}/{} is {}: it is left alone", upstream.name, server.name, server.admin));
        }
    }
    if names.is_empty() {
        return fail(format!("upstream `{}` has no ready server to deploy", upstream.name));
    }
    let serving = upstream.servers.iter().filter(|s| takes_anybody(s)).count();
    if serving <= usize::from(args.batch).min(names.len()) {
        return fail(format!(
            "{} of upstream `{}` would be left to serve: a deploy needs more healthy servers than --batch takes out",
            if serving == 0 { "nobody" } else { "nobody else" },
            upstream.name
        ));
    }
    Ok(names)
}

fn serves(server: &ServerStatus) -> bool {
    server.admin == "ready" && server.operational == "healthy"
}

/// Whether new clients may come to it.
fn takes_anybody(server: &ServerStatus) -> bool {
    serves(server) && server.weight > 0
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut term) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = term.recv() => {}
            }
        }
        // Without it the signals end this process, as they do by default.
        Err(_) => std::future::pending().await,
    }
}

impl Deploy<'_> {
    /// Every turn. The error is why it was stopped.
    async fn all(&mut self, console: &mut Console) -> Result<(), String> {
        let count = self.turns.len();
        let step = usize::from(self.args.batch);
        for first in (0..count).step_by(step) {
            let batch = first..(first + step).min(count);
            self.leaves_somebody(batch.len()).await?;
            self.drain(batch.clone(), console).await?;
            self.restart(batch.clone(), console).await?;
            self.take_back(batch, console).await?;
        }
        Ok(())
    }

    fn target(&self, at: usize) -> Target {
        Target { upstream: self.args.upstream.clone(), server: self.turns[at].server.clone() }
    }

    fn place(&self, at: usize) -> String {
        format!("{}/{} {}", at + 1, self.turns.len(), self.target(at))
    }

    async fn leaves_somebody(&self, taken: usize) -> Result<(), String> {
        let status: Status = self.client.get("/status", PROMPT).await.map_err(|error| error.to_string())?;
        let upstream = status.upstreams.iter().find(|u| u.name == self.args.upstream);
        let serving = upstream.map_or(0, |u| u.servers.iter().filter(|s| takes_anybody(s)).count());
        if serving > taken { Ok(()) } else { Err(format!("only {serving} healthy, so nobody would be left to serve")) }
    }

    async fn set(&self, at: usize, change: &ServerChange) -> Result<ServerStatus, String> {
        self.client.put(&self.target(at).path(), change, PROMPT).await.map_err(|error| error.to_string())
    }

    /// Takes the servers of a batch out, with their sessions, and waits until nothing is left on them.
    async fn drain(&mut self, batch: std::ops::Range<usize>, console: &mut Console) -> Result<(), String> {
        let began = Instant::now();
        let show = |time: Option<Duration>| time.map(show_duration);
        let deadlines = &self.args.deadlines;
        let change = ServerChange {
            admin: Some("draining".to_owned()),
            weight: None,
            in_flight: show(deadlines.in_flight),
            sessions_max: show(deadlines.sessions_max),
            sessions_idle: show(deadlines.sessions_idle),
        };
        for at in batch.clone() {
            self.out.push(self.turns[at].server.clone());
            self.set(at, &change).await?;
        }
        for at in batch {
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
                    let _ = console.refresh(&format!("{} drains: {}", self.place(at), servers::left(&server)));
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
    async fn restart(&mut self, batch: std::ops::Range<usize>, console: &mut Console) -> Result<(), String> {
        let mut hooks = JoinSet::new();
        for at in batch {
            // What was known of its health is of the old process.
            let server =
                self.set(at, &ServerChange { admin: Some("disabled".to_owned()), ..Default::default() }).await?;
            let (each, exec) = (self.args.each.clone(), self.args.exec.clone());
            let (upstream, within) = (self.args.upstream.clone(), self.args.hook_within);
            hooks.spawn(async move {
                let began = Instant::now();
                let place = Place { upstream: &upstream, name: &server.name, address: &server.address };
                let hook = match (&each, &exec) {
                    (Some(line), _) => Hook::Shell(line),
                    (None, program) => Hook::Program(program.as_deref().unwrap_or(std::path::Path::new("true"))),
                };
                (at, hook.run(place, within).await, began.elapsed().as_secs_f64())
            });
        }
        let mut result = Ok(());
        while let Some(ended) = hooks.join_next().await {
            let (at, ended, seconds) = ended.map_err(|error| format!("a hook cannot be waited for: {error}"))?;
            self.turns[at].hook_seconds = seconds;
            match ended {
                Ok(()) => {
                    let _ = console.confirm(&format!("{} restarted in {seconds:.1} s", self.place(at)));
                }
                Err(why) => {
                    self.turns[at].result = "failed";
                    result = Err(format!("{}: {why}", self.target(at)));
                }
            }
        }
        result
    }

    /// Takes servers back and waits until their checks say that they are healthy.
    async fn take_back(&mut self, batch: std::ops::Range<usize>, console: &mut Console) -> Result<(), String> {
        let began = Instant::now();
        let ready = ServerChange { admin: Some("ready".to_owned()), ..Default::default() };
        for at in batch.clone() {
            self.set(at, &ready).await?;
        }
        for at in batch {
            loop {
                let path = self.target(at).path();
                let server: ServerStatus = self.client.get(&path, PROMPT).await.map_err(|error| error.to_string())?;
                if serves(&server) {
                    break;
                }
                if server.admin != "ready" {
                    return Err(format!("{} was taken out by somebody else", self.target(at)));
                }
                if began.elapsed() >= self.args.healthy_within {
                    self.turns[at].result = "failed";
                    let why = server.last_check_error.map(|error| format!(" ({error})")).unwrap_or_default();
                    let within = show_duration(self.args.healthy_within);
                    return Err(format!("{} was not healthy within {within}{why}", self.target(at)));
                }
                sleep(PACE).await;
            }
            let turn = &mut self.turns[at];
            turn.result = "restarted";
            turn.healthy_seconds = began.elapsed().as_secs_f64();
            self.out.retain(|name| *name != turn.server);
            let _ = console.confirm(&format!("{} is healthy again", self.place(at)));
        }
        Ok(())
    }

    /// Takes back what the deploy took out. A server that does not answer its check gets nothing all the same.
    async fn restore(&mut self, console: &mut Console) {
        let ready = ServerChange { admin: Some("ready".to_owned()), ..Default::default() };
        for server in std::mem::take(&mut self.out) {
            let target = Target { upstream: self.args.upstream.clone(), server };
            match self.client.put::<ServerStatus>(&target.path(), &ready, PROMPT).await {
                Ok(now) => console.note(&format!("taken back: {target} {}", servers::state(&now))),
                Err(error) => console.note(&format!("{target} cannot be taken back: {error}")),
            }
        }
    }
}

fn write(proof: &Proof, args: &DeployArgs) -> Result<PathBuf, Failure> {
    let default = || PathBuf::from(format!("evenkeel-deploy-{}-{}.json", args.upstream, proof.began));
    let file = args.proof.clone().unwrap_or_else(default);
    let fail = |error: String| {
        Failure::new(Exit::Failure, format!("the proof cannot be written to {}: {error}", file.display()))
    };
    let text = serde_json::to_string_pretty(proof).map_err(|error| fail(error.to_string()))?;
    std::fs::write(&file, text + "\n").map_err(|error| fail(error.to_string()))?;
    Ok(file)
}

fn summary(proof: &Proof) -> Vec<String> {
    let Proof { servers, before, during, after, toll, .. } = proof;
    let restarted = servers.iter().filter(|turn| turn.result == "restarted").count();
    let mut lines = vec![format!("{restarted} of {} servers restarted in {:.1} s", servers.len(), during.seconds)];
    let reasons: Vec<String> = toll.failed_by_reason.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    lines.push(format!(
        "requests: {}, {} failed{why}, {} retried, {} answered 5xx by servers",
        during.requests, toll.failed, toll.retried, toll.server_errors
    ));
    lines.push(format!(
        "sessions: {} requests stayed, {} sessions moved, {} of them lost",
        toll.sessions_kept, toll.sessions_moved, toll.sessions_lost
    ));
    let show = |span: &Span| {
        let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        format!("{} / {}", ms(span.p50_ms), ms(span.p99_ms))
    };
    lines.push(format!("p50 / p99: before {}, during {}, after {}", show(before), show(during), show(after)));
    lines
}

fn judge(toll: &Toll, args: &DeployArgs) -> Result<Exit, Failure> {
    if let Some(most) = args.max_failed.filter(|most| toll.failed > *most) {
        return Err(Failure::new(Exit::NotMet, format!("{} requests failed, --max-failed is {most}", toll.failed)));
    }
    if let Some(most) = args.max_lost.filter(|most| toll.sessions_lost > *most) {
        let text = format!("{} sessions were lost, --max-lost is {most}", toll.sessions_lost);
        return Err(Failure::new(Exit::NotMet, text));
    }
    Ok(Exit::Ok)
}
