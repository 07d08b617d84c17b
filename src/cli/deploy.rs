//! `deploy`: the servers of an upstream restarted in turn, with a proof of what clients saw of it.
//!
//! Servers and who may deploy them are the proxy's; what runs hooks is this command, and it alone.

mod bar;
mod canary;
mod histogram;
pub(super) mod hook;
mod hooks;
pub(super) mod interrupt;
mod ledger;
mod proof;
mod record;
mod replace;
mod report;
mod rolling;
mod sample;
pub(super) mod shown;
mod skew;

use std::time::Duration;

use self::bar::Bar;
use self::hooks::Line;
use self::interrupt::Interrupts;
use self::ledger::{Ledger, Notes};
use self::record::Record;
use self::report::{Turn, TurnResult};
use self::rolling::Rolling;
use super::args::DeployArgs;
use super::client::{Client, PROMPT};
use super::console::Console;
use super::exit::{Exit, Failure};
use super::servers;
use super::target::Target;
use crate::control::api::{DeployPhase, DeployStatus, DeployTurn, ServerStatus, Status, UpstreamStatus};

/// How often servers are asked about.
const PACE: Duration = Duration::from_millis(100);

pub(super) async fn deploy(client: &Client, args: &DeployArgs, console: &mut Console) -> Result<Exit, Failure> {
    if let Some(line) = Line::of(args) {
        line.check()?;
    }
    let status: Status = client.get("/status", PROMPT).await?;
    let upstream = find(&status, &args.upstream)?;
    if args.abandon {
        return abandon(client, args, console).await;
    }
    let interrupts = Interrupts::watch();
    if args.attach {
        return attach(client, args, upstream, &interrupts, console).await;
    }
    if !args.replace.is_empty() {
        return replace::replace(client, args, upstream, &interrupts, console).await;
    }
    let names = rolling::order(upstream, args, console)?;
    let everyone: Vec<String> = upstream.servers.iter().map(|s| s.name.clone()).collect();
    let turns: Vec<Turn> = names.iter().map(|name| Turn::of(name)).collect();
    let ledger = Ledger::open(client, args, "rolling", names, &interrupts).await?;
    let record = match Record::begin(client, args, everyone, &turns, &interrupts, console).await {
        Ok(record) => record,
        Err(failure) => {
            let _ = ledger.end().await;
            return Err(failure);
        }
    };
    roll(client, args, (ledger, record), (turns, Vec::new()), &interrupts, console).await
}

/// Goes on where a command has died.
async fn attach(
    client: &Client,
    args: &DeployArgs,
    upstream: &UpstreamStatus,
    interrupts: &Interrupts,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let name = &args.upstream;
    let fail = |text: String| Failure::new(Exit::Failure, text);
    let known = upstream.deploy.as_ref().ok_or_else(|| fail(format!("nobody deploys upstream `{name}`")))?;
    if known.kind != "rolling" && known.orphaned {
        return Err(fail(format!(
            "a deploy with --replace is not gone on with: `evenkeel deploy {name} --abandon` removes what was not \
             swapped in, and what was swapped is in force"
        )));
    }
    // The proxy says no of its own accord while the command lives; a hook that is missing is found here, before
    // anything is taken over.
    let left: Vec<&str> = unfinished(known, upstream).collect();
    if known.orphaned && !left.is_empty() && args.each.is_none() && args.exec.is_none() {
        return Err(ledger::needs_hook(&left));
    }
    let left: Vec<String> = left.into_iter().map(str::to_owned).collect();
    let (ledger, deploy) = Ledger::attach(client, args, interrupts).await?;
    let Ok(notes) = serde_json::from_value::<Notes>(deploy.notes) else {
        ledger.end().await?;
        return Err(fail("the command has died before it touched anything: begin anew".to_owned()));
    };
    let mut turns = notes.turns.clone();
    for turn in &mut turns {
        turn.result = if left.contains(&turn.server) { TurnResult::Left } else { TurnResult::Restarted };
    }
    console.note(&format!("going on with the deploy of {}: {} of {} servers left", known.by, left.len(), turns.len()));
    let is_out = |turn: &&Turn| {
        upstream.servers.iter().any(|server| server.name == turn.server && server.admin != "ready")
            && left.contains(&turn.server)
    };
    let out = turns.iter().filter(is_out).map(|turn| turn.server.clone()).collect();
    let record = Record::go_on(client, args, notes);
    roll(client, args, (ledger, record), (turns, out), interrupts, console).await
}

/// Servers whose turn has not come, or of whose hook nobody knows how it ended.
fn unfinished<'a>(deploy: &'a DeployStatus, upstream: &'a UpstreamStatus) -> impl Iterator<Item = &'a str> {
    let is_back = |name: &str| upstream.servers.iter().any(|server| server.name == name && serves(server));
    let left = deploy.turns.iter().filter(move |turn| match turn.phase {
        DeployPhase::Done => false,
        DeployPhase::Returning => !is_back(&turn.server),
        DeployPhase::Waiting | DeployPhase::Draining | DeployPhase::Hook => true,
    });
    left.map(|turn| turn.server.as_str())
}

/// Takes the turns that are left, and tells how it went.
async fn roll(
    client: &Client,
    args: &DeployArgs,
    (ledger, record): (Ledger, Record),
    (turns, out): (Vec<Turn>, Vec<String>),
    interrupts: &Interrupts,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let (batch, deadlines) = (record.batch(), record.deadlines().clone());
    let done = turns.iter().filter(|turn| turn.result == TurnResult::Restarted).count();
    let bar = Bar::begin(done, turns.len());
    let mut rolling = Rolling {
        client,
        args,
        turns,
        out,
        interrupts,
        ledger: &ledger,
        record: &record,
        batch,
        deadlines: &deadlines,
        bar,
    };
    let result = match ledger.note(&record.notes(&rolling.turns)).await {
        Ok(()) => rolling.all(console).await,
        Err(why) => Err(why),
    };
    if let (Err(_), None) = (&result, interrupts.lost()) {
        // Whoever insists has the prompt back, and is told what is left to do.
        let times = interrupts.times();
        let left = rolling.out.clone();
        tokio::select! {
            () = rolling.restore(console) => {}
            () = interrupts.at_least(times + 1) => console.note(&format!(
                "interrupted again: these may still be out, `evenkeel ready` takes them back: {}",
                left.join(", ")
            )),
        }
    }
    let turns = std::mem::take(&mut rolling.turns);
    finish(client, args, (ledger, record), (turns, result), interrupts, console).await
}

/// Ends the proof and the ledger.
async fn finish(
    client: &Client,
    args: &DeployArgs,
    (ledger, record): (Ledger, Record),
    (turns, result): (Vec<Turn>, Result<(), String>),
    interrupts: &Interrupts,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let outcome = result.as_ref().err().cloned().unwrap_or_else(|| "done".to_owned());
    let told = record.end(client, args, turns, outcome, interrupts, console).await;
    // Somebody else's is theirs to end.
    let ended = if interrupts.lost().is_none() { ledger.end().await } else { Ok(()) };
    match (result, told) {
        (Ok(()), told) => {
            let told = told?;
            ended?;
            report::judge(&told.toll, args)
        }
        (Err(why), told) => {
            for failure in [told.err(), ended.err()].into_iter().flatten() {
                console.fail(&failure);
            }
            Err(Failure::new(Exit::NotMet, format!("the deploy was stopped: {why}")))
        }
    }
}

/// Ends a deploy whose command is gone, and takes back what it had out.
async fn abandon(client: &Client, args: &DeployArgs, console: &mut Console) -> Result<Exit, Failure> {
    let deploy = Ledger::abandon(client, &args.upstream).await?;
    let status: Status = client.get("/status", PROMPT).await?;
    let upstream = find(&status, &args.upstream)?;
    if deploy.kind != "rolling" {
        let gone = |turn: &&DeployTurn| !upstream.servers.iter().any(|server| server.name == turn.server);
        for turn in deploy.turns.iter().filter(gone) {
            console.confirm(&format!("{}/{} is removed", args.upstream, turn.server))?;
        }
    }
    for turn in deploy.turns.iter().filter(|turn| turn.phase.is_out()) {
        if let Some(server) = upstream.servers.iter().find(|server| server.name == turn.server) {
            let target = Target { upstream: args.upstream.clone(), server: server.name.clone() };
            console.confirm(&format!("{target} {}", servers::state(server)))?;
        }
    }
    console.confirm(&format!("the deploy of {} is abandoned", args.upstream))?;
    Ok(Exit::Ok)
}

fn find<'a>(status: &'a Status, name: &str) -> Result<&'a UpstreamStatus, Failure> {
    status.upstreams.iter().find(|u| u.name == name).ok_or_else(|| {
        let names: Vec<&str> = status.upstreams.iter().map(|u| u.name.as_str()).collect();
        Failure::new(Exit::Failure, format!("there is no upstream `{name}`; there is {}", names.join(", ")))
    })
}

fn serves(server: &ServerStatus) -> bool {
    server.admin == "ready" && does_well(server)
}

/// Whether its check has seen it healthy, and it does not ask for its drain there.
fn does_well(server: &ServerStatus) -> bool {
    server.operational == "healthy" && !server.asks_for_drain
}

/// Why a server does not do well, as far as that is known.
fn why_not(server: &ServerStatus) -> String {
    match &server.last_check_error {
        Some(error) => format!(" ({error})"),
        None if server.asks_for_drain => " (it asks for its drain)".to_owned(),
        None => String::new(),
    }
}

/// Whether new clients may come to it.
fn takes_anybody(server: &ServerStatus) -> bool {
    serves(server) && server.weight > 0
}
