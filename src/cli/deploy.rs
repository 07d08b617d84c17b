//! `deploy`: the servers of an upstream restarted in turn, with a proof of what clients saw of it.
//!
//! What decides is the proxy's; what runs hooks is this command, and it alone.

mod hook;
mod interrupt;
mod proof;
mod report;
mod rolling;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep};

use self::interrupt::Interrupts;
use self::proof::{Sample, Span, Toll};
use self::report::{Proof, Turn};
use self::rolling::Rolling;
use super::args::DeployArgs;
use super::client::{Client, PROMPT};
use super::console::Console;
use super::exit::{Exit, Failure};
use crate::control::api::{ServerStatus, Status, UpstreamStatus};
use crate::units::show_duration;

/// How often servers are asked about.
const PACE: Duration = Duration::from_millis(100);

pub(super) async fn deploy(client: &Client, args: &DeployArgs, console: &mut Console) -> Result<Exit, Failure> {
    let status: Status = client.get("/status", PROMPT).await?;
    let upstream = find(&status, &args.upstream)?;
    let names = rolling::order(upstream, args, console)?;
    let interrupts = Interrupts::watch();
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let turn = |name: &String| Turn { server: name.clone(), result: "left", ..Turn::default() };
    let turns = names.iter().map(turn).collect();
    let mut rolling = Rolling { client, args, turns, out: Vec::new(), interrupts: &interrupts };
    let everyone: Vec<String> = upstream.servers.iter().map(|s| s.name.clone()).collect();

    let first = Sample::take(client).await?;
    if !watched(args.watch, "before the first turn", &interrupts, console).await {
        return Err(Failure::new(Exit::NotMet, "interrupted before anything was touched"));
    }
    let (start, clock) = (Sample::take(client).await?, Instant::now());
    let result = rolling.all(console).await;
    if result.is_err() {
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
    let spans = Spans { first, start, seconds: clock.elapsed().as_secs_f64(), began, everyone };
    let outcome = result.as_ref().err().cloned().unwrap_or_else(|| "done".to_owned());
    let turns = std::mem::take(&mut rolling.turns);
    let told = tell(client, args, turns, outcome, &spans, &interrupts, console).await;
    match (result, told) {
        (Ok(()), told) => report::judge(&told?.toll, args),
        (Err(why), told) => {
            if let Err(failure) = told {
                console.fail(&failure);
            }
            Err(Failure::new(Exit::NotMet, format!("the deploy was stopped: {why}")))
        }
    }
}

/// Lets time pass in which requests are counted. Whether nobody interrupted that.
async fn watched(time: Duration, when: &str, interrupts: &Interrupts, console: &mut Console) -> bool {
    let _ = console.confirm(&format!("watching for {} {when}", show_duration(time)));
    tokio::select! {
        () = sleep(time) => true,
        () = interrupts.at_least(1) => false,
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
    interrupts: &Interrupts,
    console: &mut Console,
) -> Result<Proof, Failure> {
    let Spans { first, start, seconds, began, everyone } = spans;
    let end = Sample::take(client).await?;
    let clock = Instant::now();
    // Whoever has interrupted the deploy wants to go, and whoever interrupts this.
    if interrupts.times() == 0 && !watched(args.watch, "after the last turn", interrupts, console).await {
        let watched = show_duration(Duration::from_millis(clock.elapsed().as_millis() as u64));
        console.note(&format!("interrupted: watched for {watched} only; the deploy itself is over"));
    }
    let after = clock.elapsed().as_secs_f64();
    let last = Sample::take(client).await?;
    let proof = Proof {
        upstream: args.upstream.clone(),
        began: *began,
        outcome,
        servers,
        before: Span::between(first, start, &args.upstream, args.watch.as_secs_f64()),
        during: Span::between(start, &end, &args.upstream, *seconds),
        after: Span::between(&end, &last, &args.upstream, after),
        toll: Toll::between(start, &last, &args.upstream, everyone),
    };
    let file = report::write(&proof, args)?;
    if console.json {
        console.json_line(&proof)?;
    } else {
        for line in report::summary(&proof) {
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

fn serves(server: &ServerStatus) -> bool {
    server.admin == "ready" && server.operational == "healthy"
}

/// Whether new clients may come to it.
fn takes_anybody(server: &ServerStatus) -> bool {
    serves(server) && server.weight > 0
}
