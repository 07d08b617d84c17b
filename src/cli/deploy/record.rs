//! What is seen of a deploy from before its first turn to after its last, and the proof that is made of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep};

use super::canary::Comparison;
use super::interrupt::Interrupts;
use super::ledger::Notes;
use super::proof::{Counts, Span, Toll};
use super::report::{self, Proof, Turn};
use super::sample::Sample;
use super::skew::Skew;
use crate::cli::args::DeployArgs;
use crate::cli::client::Client;
use crate::cli::console::Console;
use crate::cli::exit::{Exit, Failure};
use crate::control::api::Deadlines;
use crate::units::show_duration;

/// What was seen up to now.
pub(super) struct Record {
    notes: Notes,
    skew: Skew,
    /// What a canary has shown.
    pub(super) canary: Option<Comparison>,
}

pub(super) async fn count(client: &Client, upstream: &str) -> Result<Counts, Failure> {
    Ok(Counts::of(&Sample::take(client).await?, upstream))
}

impl Record {
    /// Watches for a while before the first turn.
    pub(super) async fn begin(
        client: &Client,
        args: &DeployArgs,
        everyone: Vec<String>,
        turns: &[Turn],
        interrupts: &Interrupts,
        console: &mut Console,
    ) -> Result<Self, Failure> {
        let began = unix() as u64;
        let skew = Skew::watch(client, &args.upstream);
        let (first, clock) = (count(client, &args.upstream).await?, Instant::now());
        if !watched(args.watch, "before the first turn", interrupts, console).await {
            let why = interrupts.lost().unwrap_or_else(|| "interrupted".to_owned());
            return Err(Failure::new(Exit::NotMet, format!("{why} before anything was touched")));
        }
        let start = count(client, &args.upstream).await?;
        let before = Span::between(&first, &start, clock.elapsed().as_secs_f64());
        let show = |time: Option<Duration>| time.map(show_duration);
        let deadlines = Deadlines {
            in_flight: show(args.deadlines.in_flight),
            sessions_max: show(args.deadlines.sessions_max),
            sessions_idle: show(args.deadlines.sessions_idle),
        };
        let (started, batch) = (unix(), args.batch);
        let notes = Notes { began, started, batch, deadlines, everyone, turns: turns.to_vec(), before, start };
        Ok(Self { notes, skew, canary: None })
    }

    /// Goes on with what another command has seen.
    pub(super) fn go_on(client: &Client, args: &DeployArgs, notes: Notes) -> Self {
        Self { notes, skew: Skew::watch(client, &args.upstream), canary: None }
    }

    /// What another command would need.
    pub(super) fn notes(&self, turns: &[Turn]) -> Notes {
        Notes { turns: turns.to_vec(), ..self.notes.clone() }
    }

    pub(super) fn deadlines(&self) -> &Deadlines {
        &self.notes.deadlines
    }

    pub(super) fn batch(&self) -> usize {
        usize::from(self.notes.batch)
    }

    /// Watches for a while longer, then writes the proof.
    pub(super) async fn end(
        self,
        client: &Client,
        args: &DeployArgs,
        servers: Vec<Turn>,
        outcome: String,
        interrupts: &Interrupts,
        console: &mut Console,
    ) -> Result<Proof, Failure> {
        let Notes { began, started, everyone, before, start, .. } = self.notes;
        let during = unix() - started;
        let (end, clock) = (count(client, &args.upstream).await, Instant::now());
        // Whoever has interrupted the deploy wants to go, and whoever interrupts this.
        if interrupts.times() == 0 && !watched(args.watch, "after the last turn", interrupts, console).await {
            let watched = show_duration(Duration::from_millis(clock.elapsed().as_millis() as u64));
            console.note(&format!("interrupted: watched for {watched} only; the deploy itself is over"));
        }
        let after = clock.elapsed().as_secs_f64();
        let last = count(client, &args.upstream).await;
        // What cannot be read is not there, and the rest is written all the same.
        let missing = [&end, &last].into_iter().find_map(|counts| counts.as_ref().err().cloned());
        let mut end = end.unwrap_or_else(|_| last.as_ref().unwrap_or(&start).clone());
        let mut last = last.unwrap_or_else(|_| end.clone());
        let canary = self.canary.as_ref().map(|canary| canary.counts.clone());
        for seen in [Some(self.skew.counts()), canary].into_iter().flatten() {
            end.keep_gone(&seen);
            last.keep_gone(&seen);
        }
        let proof = Proof {
            upstream: args.upstream.clone(),
            began,
            outcome,
            servers,
            before,
            during: Span::between(&start, &end, during),
            after: Span::between(&end, &last, after),
            toll: Toll::between(&start, &last, &everyone),
            canary: self.canary,
            not_counted: missing.as_ref().map(|failure| failure.message.clone()),
            skew_over_time: self.skew.seen(),
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
        missing.map_or(Ok(proof), Err)
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

fn unix() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
