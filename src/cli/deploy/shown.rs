//! What `status` says of a deploy.

use crate::cli::table::ago;
use crate::control::api::{CanaryStatus, DeployPhase, DeployStatus};

/// A line on the deploy of an upstream, and those on what is wrong with it.
pub(in crate::cli) fn lines(upstream: &str, deploy: &DeployStatus) -> (String, Vec<String>) {
    let done = deploy.turns.iter().filter(|turn| turn.phase == DeployPhase::Done).count();
    let mut first = format!(
        "deploy ({}) by {} for {}: {done} of {} servers done",
        deploy.kind,
        deploy.by,
        ago(deploy.seconds),
        deploy.turns.len()
    );
    for turn in &deploy.turns {
        let word = match turn.phase {
            DeployPhase::Waiting | DeployPhase::Done => continue,
            DeployPhase::Draining => "drains",
            DeployPhase::Hook => "in its hook",
            DeployPhase::Returning => "is waited for",
        };
        first.push_str(&format!(", {} {word}", turn.server));
    }
    let mut wrong = Vec::new();
    if deploy.orphaned {
        let silent = ago(deploy.silent_seconds);
        wrong.push(if deploy.kind == "rolling" {
            format!(
                "its command has been silent for {silent}: `evenkeel deploy {upstream} --attach` goes on, `--abandon` ends it"
            )
        } else {
            format!(
                "its command has been silent for {silent}: `evenkeel deploy {upstream} --abandon` removes what was not swapped in"
            )
        });
    }
    wrong.extend(deploy.out.iter().map(|out| format!("stays out until it is healthy: {out}")));
    (first, wrong)
}

/// A line on a canary.
pub(in crate::cli) fn canary(canary: &CanaryStatus) -> String {
    let CanaryStatus { servers, percent, allow, by } = canary;
    let allowed = if allow.is_empty() { String::new() } else { format!(", and all of {}", allow.join(", ")) };
    format!("canary: {percent} % of users, by {by}{allowed}, meet {}", servers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::DeployTurn;

    #[test]
    fn a_canary_says_who_meets_it() {
        let canary_of = |allow: &[&str]| CanaryStatus {
            servers: vec!["c".into(), "d".into()],
            percent: 2.5,
            allow: allow.iter().map(|net| (*net).to_owned()).collect(),
            by: "cookie".into(),
        };
        assert_eq!(canary(&canary_of(&[])), "canary: 2.5 % of users, by cookie, meet c, d");
        let both = "canary: 2.5 % of users, by cookie, and all of 10.0.0.0/8, meet c, d";
        assert_eq!(canary(&canary_of(&["10.0.0.0/8"])), both);
    }

    #[test]
    fn a_deploy_is_told_with_what_is_wrong() {
        let turn = |server: &str, phase| DeployTurn { server: server.to_owned(), phase };
        let deploy = DeployStatus {
            kind: "rolling".into(),
            by: "ann@host (pid 7)".into(),
            seconds: 65,
            silent_seconds: 16,
            orphaned: true,
            turns: vec![turn("a", DeployPhase::Done), turn("b", DeployPhase::Hook), turn("c", DeployPhase::Waiting)],
            out: vec!["b: connection refused".into()],
        };
        let (first, wrong) = lines("shop", &deploy);
        assert_eq!(first, "deploy (rolling) by ann@host (pid 7) for 1 min 5 s: 1 of 3 servers done, b in its hook");
        assert_eq!(
            wrong,
            [
                "its command has been silent for 16 s: `evenkeel deploy shop --attach` goes on, `--abandon` ends it",
                "stays out until it is healthy: b: connection refused"
            ]
        );
    }
}
