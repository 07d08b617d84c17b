//! `litmus --live`: what the experiment on live traffic has shown so far.

use serde::Serialize;

use super::report::{Verdict, rows};
use super::symptom::Symptom;
use super::verdict::{Judgement, Pair};
use crate::cli::client::{Client, PROMPT};
use crate::cli::console::Console;
use crate::cli::exit::{Exit, Failure};
use crate::cli::stats::Of;
use crate::cli::table::{count, render};
use crate::control::api::{LitmusEvidence, LitmusGroup, LitmusStatus, Status};

/// How many requests are shown that gave it away.
const SHOWN: usize = 5;

#[derive(Debug, Serialize)]
struct Live<'a> {
    verdict: Verdict,
    said: String,
    judgement: Judgement,
    seen: &'a LitmusStatus,
}

/// `litmus --live UPSTREAM`.
pub(in crate::cli) async fn live(client: &Client, upstream: &str, console: &mut Console) -> Result<Exit, Failure> {
    let status: Status = client.get("/status", PROMPT).await?;
    let fail = |text: String| Err(Failure::new(Exit::Failure, text));
    let Some(found) = status.upstreams.iter().find(|found| found.name == upstream) else {
        return fail(format!("there is no upstream `{upstream}`; `evenkeel status` lists them"));
    };
    let Some(seen) = &found.litmus else {
        return fail(format!(
            "nobody is moved in `{upstream}`: set `litmus = {{ percent = 5 }}` in [upstream.{upstream}]"
        ));
    };
    let pairs = pairs(seen);
    let judgement = Judgement::of(&pairs, pairs.len());
    let (verdict, said) = concluded(seen, &judgement);
    if found.canary.is_some() {
        console.confirm("while a canary runs, nobody takes part")?;
    }
    let live = Live { verdict, said, judgement, seen };
    if console.json {
        console.json_line(&live)?;
    } else {
        tell(&live, console)?;
    }
    Ok(verdict.exit())
}

/// Of each user the one answer that was drawn.
fn pairs(seen: &LitmusStatus) -> Vec<Pair> {
    let hits = |group: &LitmusGroup, symptom: Symptom| {
        let found = group.symptoms.iter().find(|found| found.symptom == symptom.name());
        Of::new(found.map_or(0, |found| found.judged), group.judged)
    };
    let known = |symptom: &Symptom| seen.shuffled.symptoms.iter().any(|found| found.symptom == symptom.name());
    let pair = |symptom| Pair {
        step: None,
        symptom,
        treated: hits(&seen.shuffled, symptom),
        control: hits(&seen.control, symptom),
    };
    Symptom::ALL.into_iter().filter(known).map(pair).collect()
}

fn concluded(seen: &LitmusStatus, judgement: &Judgement) -> (Verdict, String) {
    let judged = format!("{} and {}", count(seen.shuffled.judged, "user"), seen.control.judged);
    if let Some(worst) = judgement.worst() {
        let said = format!(
            "stateful: of one answer drawn of each user, {} of {} were {} at another server than before, and {} of {} at the \
             same",
            worst.moved,
            worst.moved_of,
            worst.symptom.words(),
            worst.control,
            worst.control_of
        );
        return (Verdict::Stateful, said);
    }
    match judgement.limits() {
        Some(limits) => (
            Verdict::NoDifference,
            format!("no difference seen so far between those who are moved and those who stay ({judged}); {limits}"),
        ),
        None => (Verdict::Unclear, format!("unclear: {judged} who stay are too few to tell anything from chance")),
    }
}

fn tell(live: &Live<'_>, console: &mut Console) -> Result<(), Failure> {
    let LitmusStatus { percent, shuffled, control, .. } = live.seen;
    console.line(&format!(
        "{percent} % of users are moved, and {percent} % stay beside them: {} and {} so far, with {} and {} answers that \
         count",
        count(shuffled.users, "user"),
        control.users,
        shuffled.requests,
        control.requests
    ))?;
    if let Some(why) = live.seen.nobody() {
        console.line(&why)?;
    }
    if !live.judgement.compared.is_empty() {
        let rows = rows(&live.judgement, &[], "MOVED");
        console.write(format!("\n{}\n", render(&rows, "", console.color)).as_bytes())?;
    }
    console.line(&live.said)?;
    if live.verdict == Verdict::Stateful {
        console.line("\nWhat gave it away:")?;
        for evidence in live.seen.evidence.iter().take(SHOWN) {
            console.line(&format!("  {}", line(evidence)))?;
        }
    }
    Ok(())
}

fn line(evidence: &LitmusEvidence) -> String {
    let LitmusEvidence { method, path, from, to, status, symptoms } = evidence;
    // A client has written it.
    let path: String = path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("{method} {path}, from {from} to {to}: {status} ({})", symptoms.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::LitmusSymptomStatus;

    fn group(judged: u64, refused: u64) -> LitmusGroup {
        let symptom = |name: &str, judged| LitmusSymptomStatus { symptom: name.into(), judged, users: 0, requests: 0 };
        let symptoms = vec![symptom("refused", refused), symptom("failed", 0)];
        LitmusGroup { users: judged + 1, judged, requests: judged * 3, symptoms }
    }

    fn verdict(shuffled: LitmusGroup, control: LitmusGroup) -> (Verdict, String) {
        let seen = LitmusStatus { percent: 5, cookie: None, shuffled, control, evidence: Vec::new() };
        let pairs = pairs(&seen);
        concluded(&seen, &Judgement::of(&pairs, pairs.len()))
    }

    #[test]
    fn users_are_compared_and_not_their_requests() {
        let (is, said) = verdict(group(40, 30), group(38, 1));
        assert_eq!(is, Verdict::Stateful);
        assert!(
            said.contains("30 of 40 were 401 or 403 at another server than before, and 1 of 38 at the same"),
            "{said}"
        );
        let (is, said) = verdict(group(400, 3), group(380, 1));
        assert_eq!(is, Verdict::NoDifference);
        assert!(said.contains("(400 users and 380)") && said.contains("would have been seen"), "{said}");
        let (is, said) = verdict(group(3, 3), group(3, 0));
        assert_eq!(is, Verdict::Unclear);
        assert!(said.contains("too few"), "{said}");
    }
}
