//! What happened, how long it took, and how long until servers that came carried their share.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{PolicyReport, Report, dash, seconds};
use crate::lab::load::Outcome;
use crate::lab::run::Measured;
use crate::lab::scenario::{Action, Scenario};

/// Width of the moment in which a share is looked at, in seconds, and how far apart moments are.
const MOMENT: f64 = 1.0;
const STEP: f64 = 0.1;
/// So much of its fair share is carrying it: chance takes some away.
const ENOUGH: f64 = 0.9;
/// Fewer requests in a moment say nothing.
const FEWEST: usize = 10;

/// Something that happened.
#[derive(Debug, Serialize)]
pub struct EventReport {
    pub at_seconds: f64,
    pub took_seconds: f64,
    pub what: String,
    pub problem: Option<String>,
    /// Where servers were added.
    pub carried: Option<Carried>,
}

/// How servers that were added got their share of the requests.
#[derive(Debug, PartialEq, Serialize)]
pub struct Carried {
    pub servers: Vec<String>,
    /// By weight, of the requests to all servers.
    pub fair_share: f64,
    /// From the event until a second begins in which they have at least nine tenths of it; none where none does before
    /// the next event or the end.
    pub after_seconds: Option<f64>,
    /// Their share of the requests in the last second before that.
    pub share_at_the_end: f64,
}

/// The events of a run, as they were planned and as they happened.
pub(super) fn of(scenario: &Scenario, measured: &Measured) -> Vec<EventReport> {
    let weights = scenario.weights_under(&measured.policy);
    // The number of each server that runs, and its weight.
    let mut running: BTreeMap<usize, u32> = (1..=scenario.servers.count).map(|n| (n, weights.of(n))).collect();
    let mut count = scenario.servers.count;
    let mut told = Vec::new();
    for (number, event) in measured.events.iter().enumerate() {
        let mut added = Vec::new();
        match scenario.events.get(number).map(|planned| planned.action) {
            Some(Action::Kill(server)) => _ = running.remove(&server),
            Some(Action::Start(server)) => _ = running.insert(server, weights.of(server)),
            Some(Action::Add(more)) => {
                added.extend(count + 1..=count + more);
                running.extend(added.iter().map(|server| (*server, weights.of(*server))));
                count += more;
            }
            Some(Action::Remove(fewer)) => {
                (count - fewer + 1..=count).for_each(|server| _ = running.remove(&server));
                count -= fewer;
            }
            Some(Action::Deploy) | None => {}
        }
        let until = measured.events.get(number + 1).map_or(scenario.duration.as_secs_f64(), |next| next.at);
        let weight = |servers: &mut dyn Iterator<Item = &u32>| servers.map(|weight| f64::from(*weight)).sum::<f64>();
        let theirs = weight(&mut added.iter().filter_map(|server| running.get(server)));
        let fair = theirs / weight(&mut running.values()).max(1.0);
        let is_told = !added.is_empty() && event.problem.is_none() && measured.sockets.is_none();
        told.push(EventReport {
            at_seconds: event.at,
            took_seconds: event.took,
            what: event.what.clone(),
            problem: event.problem.clone(),
            carried: is_told.then(|| carried(&measured.outcomes, &added, fair, event.at, until)),
        });
    }
    told
}

fn carried(outcomes: &[Outcome], servers: &[usize], fair: f64, from: f64, until: f64) -> Carried {
    // By when they were due, which is their order.
    let within = |from: f64| {
        let begin = outcomes.partition_point(|outcome| outcome.at < from);
        let end = outcomes.partition_point(|outcome| outcome.at < (from + MOMENT).min(until));
        let all = outcomes.get(begin..end).unwrap_or_default();
        let theirs = all.iter().filter(|o| o.server.is_some_and(|server| servers.contains(&(server as usize))));
        (theirs.count() as f64 / all.len().max(1) as f64, all.len())
    };
    let moments = (0u32..).map(|n| f64::from(n) * STEP).take_while(|after| from + after + MOMENT <= until);
    let is_enough = |after: &f64| {
        let (share, requests) = within(from + after);
        requests >= FEWEST && share >= ENOUGH * fair
    };
    Carried {
        servers: servers.iter().map(|server| format!("s{server}")).collect(),
        fair_share: fair,
        after_seconds: { moments }.find(is_enough),
        share_at_the_end: within((until - MOMENT).max(from)).0,
    }
}

impl EventReport {
    /// Until its servers carried their share, in words; nothing where none came.
    pub(super) fn carried(&self) -> String {
        let Some(carried) = &self.carried else { return dash() };
        let end = format!("{:.0} of {:.0} % at the end", carried.share_at_the_end * 100.0, carried.fair_share * 100.0);
        carried.after_seconds.map_or(format!("never: {end}"), seconds)
    }
}

impl Report {
    /// The rows of the table of what happened; none where nothing did, or where connections are looked at instead.
    #[must_use]
    pub fn event_rows(&self) -> Option<Vec<Vec<String>>> {
        let told = |policy: &&PolicyReport| !policy.events.is_empty() && policy.sockets.is_none();
        let head = ["POLICY", "EVENT", "AT", "TOOK", "NEW CARRY THEIR SHARE AFTER"].map(str::to_owned).to_vec();
        let mut rows = vec![head];
        for policy in self.policies.iter().filter(told) {
            rows.extend(policy.events.iter().map(|event| {
                vec![
                    policy.policy.clone(),
                    event.what.clone(),
                    seconds(event.at_seconds),
                    if event.problem.is_some() { "did not work".to_owned() } else { seconds(event.took_seconds) },
                    event.carried(),
                ]
            }));
        }
        let is_carried = self.policies.iter().flat_map(|policy| &policy.events).any(|event| event.carried.is_some());
        if !is_carried {
            rows.iter_mut().for_each(|row| _ = row.pop());
        }
        (rows.len() > 1).then_some(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::run::Happened;
    use crate::lab::scenario::Limits;

    /// Two servers of weight 1 and one of weight 2 that comes after 2 s: its fair share is a half, and nine tenths of that
    /// are 45 %. Requests come every 10 ms; for a second it gets none, then each fourth, and from 4 s on each second one.
    fn measured(never: bool) -> (Scenario, Measured) {
        let scenario = Scenario::read(
            "title = 't'\nduration = '8s'\n[servers]\ncount = 2\n[[group]]\nname = 'g'\nusers = 5\nrate = 100\n\
             [[event]]\nat = '2s'\ndo = { add = 1 }\n[[event]]\nat = '7s'\ndo = { kill = 1 }\n\
             [[policy]]\nname = 'p'\npolicy = 'round_robin'\n",
            Limits::REAL,
        );
        let mut scenario = scenario.unwrap();
        // One that comes is like the last: that is not so here, so the list has a third.
        scenario.servers.weight =
            toml::from_str::<BTreeMap<String, crate::lab::scenario::Each>>("w = [1, 1, 2]").unwrap()["w"].clone();
        let outcome = |n: u32| {
            let at = f64::from(n) / 100.0;
            let each = if at < 3.0 {
                0
            } else if at < 4.0 || never {
                4
            } else {
                2
            };
            let is_new = each > 0 && n.is_multiple_of(each);
            Outcome { at, server: Some(if is_new { 3 } else { 1 + n % 2 }), status: Some(200), ..Outcome::default() }
        };
        let happened = |at: f64, what: &str| Happened { at, took: 0.5, what: what.to_owned(), problem: None };
        let measured = Measured {
            policy: "p".to_owned(),
            outcomes: (0..800).map(outcome).collect(),
            events: vec![happened(2.0, "1 more"), happened(7.0, "s1 is killed")],
            ..Measured::default()
        };
        (scenario, measured)
    }

    #[test]
    fn when_a_share_is_carried_by_hand() {
        let (scenario, measured) = measured(false);
        let told = of(&scenario, &measured);
        let carried = told[0].carried.as_ref().unwrap();
        assert_eq!((carried.servers.as_slice(), carried.fair_share), (&["s3".to_owned()][..], 0.5));
        // A second that begins x before 4 s has 25 x of the old and 50 (1 - x) of the new rate: 45 at x = 0.2.
        let after = carried.after_seconds.unwrap();
        assert!((after - 1.8).abs() < 0.11, "{after}");
        assert!((carried.share_at_the_end - 0.5).abs() < 0.02, "{carried:?}");
        assert!(told[1].carried.is_none(), "nobody came");
    }

    #[test]
    fn a_share_that_is_never_carried_is_said_to_be_none() {
        let (scenario, measured) = measured(true);
        let told = of(&scenario, &measured);
        assert_eq!(told[0].carried.as_ref().unwrap().after_seconds, None);
        assert_eq!(told[0].carried(), "never: 25 of 50 % at the end");
        let report = Report::of(&scenario, &[measured]);
        let rows = report.event_rows().unwrap();
        assert_eq!(rows[1], ["p", "1 more", "2.0 s", "0.5 s", "never: 25 of 50 % at the end"]);
        assert_eq!(rows[2], ["p", "s1 is killed", "7.0 s", "0.5 s", "-"]);
    }
}
