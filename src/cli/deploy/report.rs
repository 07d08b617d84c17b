//! What a deploy says in the end: the proof in a file, and a summary of it.

use std::path::PathBuf;

use serde::Serialize;

use super::proof::{Span, Toll};
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
}

/// One server's turn.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Turn {
    pub(super) server: String,
    /// `restarted`, `failed`, or `left` where its turn did not come.
    pub(super) result: &'static str,
    pub(super) drain_seconds: f64,
    pub(super) hook_seconds: f64,
    pub(super) healthy_seconds: f64,
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

pub(super) fn judge(toll: &Toll, args: &DeployArgs) -> Result<Exit, Failure> {
    if let Some(most) = args.max_failed.filter(|most| toll.failed > *most) {
        return Err(Failure::new(Exit::NotMet, format!("{} requests failed, --max-failed is {most}", toll.failed)));
    }
    if let Some(most) = args.max_lost.filter(|most| toll.sessions_lost > *most) {
        let text = format!("{} sessions were lost, --max-lost is {most}", toll.sessions_lost);
        return Err(Failure::new(Exit::NotMet, text));
    }
    Ok(Exit::Ok)
}
