//! `drain`: no new clients, and with `--wait`, back when it is safe to stop the servers.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::args::DrainArgs;
use super::client::{Client, ClientError, PROMPT};
use super::console::Console;
use super::exit::{Exit, Failure};
use super::servers::{self, Line};
use super::table::{ago, count};
use super::target::Target;
use crate::control::api::{ServerChange, ServerStatus};
use crate::units::show_duration;

/// How often a drain is asked about.
#[derive(Debug, Clone, Copy)]
struct Rhythm {
    /// How long one question waits for the end of a drain before what is left is told again.
    round: Duration,
    /// Questions are not asked faster than this, whatever the answers say.
    pace: Duration,
}

const RHYTHM: Rhythm = Rhythm { round: Duration::from_secs(1), pace: Duration::from_millis(200) };

/// `drain`.
pub(super) async fn drain(client: &Client, args: &DrainArgs, console: &mut Console) -> Result<Exit, Failure> {
    drain_in(RHYTHM, client, args, console).await
}

async fn drain_in(rhythm: Rhythm, client: &Client, args: &DrainArgs, console: &mut Console) -> Result<Exit, Failure> {
    let show = |time: Option<Duration>| time.map(show_duration);
    let change = ServerChange {
        admin: Some("draining".to_owned()),
        in_flight: show(args.deadlines.in_flight),
        sessions_max: show(args.deadlines.sessions_max),
        sessions_idle: show(args.deadlines.sessions_idle),
        ..Default::default()
    };
    if !args.wait {
        servers::change_all(client, &args.targets.targets, &change, console).await?;
        return Ok(Exit::Ok);
    }
    let deadline = args.timeout.map(|timeout| (Instant::now() + timeout, timeout));
    let changed = servers::change_each(client, &args.targets.targets, &change, console).await?;
    let mut watch: Vec<Watched> =
        changed.into_iter().map(|(target, server)| Watched { target, server, told: None }).collect();
    wait(rhythm, client, &mut watch, deadline, console).await
}

/// A server whose drain is waited for.
#[derive(Debug)]
struct Watched {
    target: Target,
    server: ServerStatus,
    /// What was last said of it: admin state, sessions left, in flight.
    told: Option<(String, usize, u32)>,
}

impl Watched {
    /// Whether nothing is left on it and nothing comes: it may be killed.
    fn done(&self) -> bool {
        matches!(self.server.admin.as_str(), "drained" | "disabled") && self.server.in_flight == 0
    }

    fn sessions_left(&self) -> usize {
        self.server.drain.as_ref().map_or(0, |drain| drain.sessions_left)
    }
}

async fn wait(
    rhythm: Rhythm,
    client: &Client,
    watch: &mut [Watched],
    deadline: Option<(Instant, Duration)>,
    console: &mut Console,
) -> Result<Exit, Failure> {
    loop {
        tell(watch, console)?;
        if watch.iter().all(Watched::done) {
            return Ok(Exit::Ok);
        }
        if let Some(revived) = watch.iter().find(|w| w.server.admin == "ready") {
            let text = format!("{} was made ready again before it was drained", revived.target);
            return Err(Failure::new(Exit::NotMet, text));
        }
        let now = Instant::now();
        let mut round = rhythm.round;
        if let Some((at, timeout)) = deadline {
            let left = at.saturating_duration_since(now);
            if left.is_zero() {
                return Err(Failure::new(Exit::NotMet, late(watch, timeout)));
            }
            round = round.min(left.max(Duration::from_millis(1)));
        }
        ask(client, watch, round).await?;
        // An answer may come at once although something is left, for example while what is in
        // flight is being cut.
        let pace = now + rhythm.pace.min(round);
        if !watch.iter().all(Watched::done) {
            sleep_until(pace).await;
        }
    }
}

/// Asks about every server that is not done, at the same time; each question waits up to `round`.
async fn ask(client: &Client, watch: &mut [Watched], round: Duration) -> Result<(), Failure> {
    let mut questions = JoinSet::new();
    for (i, watched) in watch.iter().enumerate().filter(|(_, w)| !w.done()) {
        let path = format!("{}?wait=drained&timeout={}ms", watched.target.path(), round.as_millis().max(1));
        let client = client.clone();
        questions.spawn(async move { (i, client.get::<ServerStatus>(&path, PROMPT + round).await) });
    }
    while let Some(answer) = questions.join_next().await {
        let (i, answer) = answer.map_err(|e| Failure::new(Exit::Failure, format!("cannot ask: {e}")))?;
        watch[i].server = answer.map_err(|error| gone(&watch[i].target, error))?;
    }
    Ok(())
}

fn gone(target: &Target, error: ClientError) -> Failure {
    match &error {
        ClientError::Refused { refusal: Some(refusal), .. } if refusal.error == "not_found" => Failure::new(
            Exit::NotMet,
            format!(
                "{target} was taken out of the configuration while it drained; what it still had in flight is not known"
            ),
        ),
        _ => error.into(),
    }
}

/// Tells what is left: one line that is written over on a terminal, else a line for each change.
fn tell(watch: &mut [Watched], console: &mut Console) -> Result<(), Failure> {
    if console.live && !console.quiet && !watch.iter().all(Watched::done) {
        return console.refresh(&summary(watch));
    }
    for watched in watch.iter_mut() {
        let server = &watched.server;
        let now = Some((
            server.admin.clone(),
            server.drain.as_ref().map_or(0, |drain| drain.sessions_left),
            server.in_flight,
        ));
        if watched.told == now {
            continue;
        }
        watched.told = now;
        if console.json {
            console.json_line(&Line { upstream: &watched.target.upstream, server })?;
        }
        console.confirm(&format!("{} {}", watched.target, servers::state(server)))?;
    }
    Ok(())
}

fn summary(watch: &[Watched]) -> String {
    if let [only] = watch {
        return format!("{} {}", only.target, servers::state(&only.server));
    }
    let done = watch.iter().filter(|w| w.done()).count();
    let sessions: usize = watch.iter().map(Watched::sessions_left).sum();
    let in_flight: u32 = watch.iter().map(|w| w.server.in_flight).sum();
    let ends = watch.iter().filter_map(|w| w.server.drain.as_ref()).map(|d| d.ends_within_seconds).fold(0.0, f64::max);
    let sessions_over =
        watch.iter().filter_map(|w| w.server.drain.as_ref()?.sessions_over_in_seconds).max_by(f64::total_cmp);
    format!(
        "{done} of {} drained: {} left, {in_flight} in flight, ends within {}{}",
        watch.len(),
        count(sessions as u64, "session"),
        ago(ends.ceil() as u64),
        sessions_over.map(servers::over).unwrap_or_default()
    )
}

fn late(watch: &[Watched], timeout: Duration) -> String {
    let left: Vec<String> =
        watch.iter().filter(|w| !w.done()).map(|w| format!("{} ({})", w.target, servers::left(&w.server))).collect();
    format!("not drained within {}: {}. The drain goes on", show_duration(timeout), left.join(", "))
}

#[cfg(test)]
#[path = "drain/tests.rs"]
mod tests;
