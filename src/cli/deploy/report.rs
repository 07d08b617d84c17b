//! What a deploy says in the end: the proof in a file, and a summary of it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::canary::Comparison;
use super::proof::{Span, Toll};
use super::skew::Look;
use crate::cli::args::DeployArgs;
use crate::cli::exit::{Exit, Failure};

/// What the proof file says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Proof {
    pub(super) upstream: String,
    /// Unix seconds.
    pub(super) began: u64,
    pub(super) outcome: String,
    pub(super) servers: Vec<Turn>,
    pub(super) before: Span,
    pub(super) during: Span,
    pub(super) after: Span,
    #[serde(flatten)]
    pub(super) toll: Toll,
    /// New servers and old ones in the same minutes, where there was a canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) canary: Option<Comparison>,
    /// Why counters could not be read in the end, if so: then what they would have said is not in here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_counted: Option<String>,
    /// Each second of what one command has seen; one that attaches begins anew.
    pub(super) skew_over_time: Vec<Look>,
}

/// One server's turn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Turn {
    pub(super) server: String,
    pub(super) result: TurnResult,
    pub(super) drain_seconds: f64,
    pub(super) hook_seconds: f64,
    pub(super) healthy_seconds: f64,
}

impl Turn {
    pub(super) fn of(server: &str) -> Self {
        Self { server: server.to_owned(), ..Self::default() }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TurnResult {
    Restarted,
    /// In service in the place of others.
    SwappedIn,
    /// Drained and taken out.
    Removed,
    Failed,
    /// Its turn did not come.
    #[default]
    Left,
}

pub(super) fn write(proof: &Proof, args: &DeployArgs) -> Result<PathBuf, Failure> {
    let default = || PathBuf::from(format!("evenkeel-deploy-{}-{}.json", args.upstream, proof.began));
    let file = args.proof.clone().unwrap_or_else(default);
    let fail = |error: String| {
        Failure::new(Exit::Failure, format!("the proof cannot be written to {}: {error}", file.display()))
    };
    let text = serde_json::to_string_pretty(proof).map_err(|error| fail(error.to_string()))?;
    std::fs::write(&file, text + "\n").map_err(|error| fail(error.to_string()))?;
    Ok(file)
}

pub(super) fn summary(proof: &Proof) -> Vec<String> {
    let Proof { servers, before, during, after, toll, .. } = proof;
    let count = |result| servers.iter().filter(|turn| turn.result == result).count();
    let (swapped, seconds) = (count(TurnResult::SwappedIn), during.seconds);
    let mut lines = vec![if swapped > 0 {
        format!(
            "{} servers drained and removed, {swapped} in their place, in {seconds:.1} s",
            count(TurnResult::Removed)
        )
    } else {
        format!("{} of {} servers restarted in {seconds:.1} s", count(TurnResult::Restarted), servers.len())
    }];
    let reasons: Vec<String> = toll.failed_by_reason.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    lines.push(format!(
        "requests: {}, {} failed{why}, {} retried, {} held, {} answered 5xx by servers",
        during.requests, toll.failed, toll.retried, toll.held, toll.server_errors
    ));
    lines.push(format!(
        "sessions: {} requests stayed, {} sessions moved, {} of them lost",
        toll.sessions_kept, toll.sessions_moved, toll.sessions_lost
    ));
    let show = |span: &Span| {
        let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        format!("{} / {}", ms(span.p50_ms), ms(span.p99_ms))
    };
    if toll.connections_cut > 0 || toll.websockets_closed > 0 {
        lines.push(format!(
            "connections: {} cut at a deadline, {} WebSockets closed with code 1001",
            toll.connections_cut, toll.websockets_closed
        ));
    }
    if let Some(why) = &proof.not_counted {
        lines.push(format!("what came last is not counted in here: {why}"));
    }
    if toll.evenkeel_restarted {
        lines.push("evenkeel itself was restarted meanwhile: what it had counted before is not in here".to_owned());
    }
    lines.push(format!("p50 / p99: before {}, during {}, after {}", show(before), show(during), show(after)));
    lines
}

pub(super) fn judge(toll: &Toll, args: &DeployArgs) -> Result<Exit, Failure> {
    if let Some(most) = args.max_failed.filter(|most| toll.failed > *most) {
        return Err(Failure::new(Exit::NotMet, format!("{} requests failed, --max-failed is {most}", toll.failed)));
    }
    if let Some(most) = args.max_lost.filter(|most| toll.sessions_lost > *most) {
        let text = format!("{} sessions were lost, --max-lost is {most}", toll.sessions_lost);
        return Err(Failure::new(Exit::NotMet, text));
    }
    if toll.evenkeel_restarted && (args.max_failed.is_some() || args.max_lost.is_some()) {
        let text = "evenkeel itself was restarted or upgraded during the deploy, and what it had counted before is gone: whether \
                    --max-failed and --max-lost are met cannot be said";
        return Err(Failure::new(Exit::NotMet, text.to_owned()));
    }
    Ok(Exit::Ok)
}
