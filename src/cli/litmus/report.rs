//! What a run has shown, in words, as a table and as JSON.

use serde::Serialize;

use super::run::{Group, Seen, Setup};
use super::symptom::Symptom;
use super::verdict::{Compared, Judgement, Pair, probability};
use crate::cli::console::Console;
use crate::cli::exit::{Exit, Failure};
use crate::cli::stats::Of;
use crate::cli::table::{Cell, Row, Style, count, render};

/// How many requests are shown that gave it away.
const SHOWN: usize = 5;
/// What ends a script for a client: it cannot have done what comes then.
const ENDS: [Symptom; 4] = [Symptom::Refused, Symptom::Login, Symptom::Failed, Symptom::Unexpected];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli) enum Verdict {
    Stateful,
    /// None was seen.
    NoDifference,
    /// Nothing can be said.
    Unclear,
}

impl Verdict {
    pub(in crate::cli) fn exit(self) -> Exit {
        match self {
            Self::Stateful => Exit::NotMet,
            Self::NoDifference => Exit::Ok,
            Self::Unclear => Exit::Failure,
        }
    }
}

/// A request that gave it away.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Evidence {
    client: usize,
    step: usize,
    request: String,
    from: Option<String>,
    to: String,
    restarted: bool,
    what: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) verdict: Verdict,
    pub(super) said: Vec<String>,
    moving: usize,
    staying: usize,
    servers: Vec<String>,
    steps: Vec<String>,
    moved: Judgement,
    /// Those who stayed and whose servers were restarted, beside those who waited as long without that.
    restarted: Option<Judgement>,
    evidence: Vec<Evidence>,
}

/// How many clients of a group had a symptom in a step: each asks once there.
fn hits(seen: &[Seen], group: Group, step: usize, symptom: Symptom) -> u64 {
    let of_step = seen.iter().filter(|seen| seen.group == group && seen.step == step);
    of_step.filter(|seen| seen.symptoms.contains(&symptom)).count() as u64
}

/// What is compared of a group and its control, from a step on.
fn pairs(setup: &Setup, seen: &[Seen], groups: (Group, Group), first: usize, clients: usize) -> Vec<Pair> {
    let steps = &setup.script.steps;
    let mut pairs = Vec::new();
    for (step, asked) in steps.iter().enumerate().skip(first) {
        for symptom in Symptom::ALL.into_iter().filter(|symptom| *symptom != Symptom::Body || asked.same_body) {
            let of = |group| Of::new(hits(seen, group, step, symptom), clients as u64);
            pairs.push(Pair { step: Some(step), symptom, treated: of(groups.0), control: of(groups.1) });
        }
    }
    pairs
}

/// The first step at which a server fails more than half of the clients that stay there: with `all` one at which
/// every server does, else one at which some do and others do not. And what such a client got there.
fn first_failure(setup: &Setup, seen: &[Seen], group: Group, clients: usize, all: bool) -> Option<String> {
    let servers = setup.servers.all.len();
    let fails = |step: usize, server: usize| {
        // Clients are dealt out to servers by turns.
        let there = clients / servers + usize::from(server < clients % servers);
        let stays = |seen: &&Seen| seen.group == group && seen.step == step && seen.to == server;
        let failed = seen.iter().filter(stays).filter(|seen| ENDS.iter().any(|end| seen.symptoms.contains(end)));
        failed.count() * 2 > there
    };
    (0..setup.script.steps.len()).find_map(|step| {
        let failing: Vec<usize> = (0..servers).filter(|server| fails(step, *server)).collect();
        let first = failing.first().copied()?;
        ((failing.len() == servers) == all).then(|| failure(setup, seen, group, step, first))
    })
}

/// What a client that stayed at that server got there.
fn failure(setup: &Setup, seen: &[Seen], group: Group, step: usize, server: usize) -> String {
    let stays = |seen: &&Seen| seen.group == group && seen.step == step && seen.to == server;
    let what = seen.iter().find(stays).map_or("", |seen| seen.what.as_str());
    format!(
        "at step {} ({}) from {}: {what}",
        step + 1,
        setup.script.steps[step].name(),
        setup.servers.all[server].name
    )
}

impl Report {
    /// `seen` of all groups, each of so many clients; servers were restarted before step `restart`, if at all.
    pub(super) fn of(setup: &Setup, seen: &[Seen], clients: usize, restart: Option<usize>) -> Self {
        // With the first request nobody comes from anywhere.
        let moved = pairs(setup, seen, (Group::Shuffled, Group::Pinned), 1, clients);
        let restarted = restart.map(|step| pairs(setup, seen, (Group::Restarted, Group::Waited), step, clients));
        // One run errs as seldom with two questions as with one.
        let among = moved.len() + restarted.as_ref().map_or(0, Vec::len);
        let moved = Judgement::of(&moved, among);
        let restarted = restarted.map(|pairs| Judgement::of(&pairs, among));
        let mut report = Self {
            verdict: Verdict::NoDifference,
            said: Vec::new(),
            moving: clients,
            staying: clients,
            servers: setup.servers.all.iter().map(|server| server.name.clone()).collect(),
            steps: setup.script.steps.iter().map(super::script::Step::name).collect(),
            evidence: Vec::new(),
            moved,
            restarted,
        };
        report.conclude(setup, seen, clients);
        report
    }

    fn conclude(&mut self, setup: &Setup, seen: &[Seen], clients: usize) {
        // Who is moved meets a server that does not work sooner or later, and who stays elsewhere never does: what
        // comes of that looks like state.
        if let Some(failure) = first_failure(setup, seen, Group::Pinned, clients, false) {
            self.verdict = Verdict::Unclear;
            self.said.push(format!(
                "unclear: some servers work and others do not: {failure}. Take those out that do not work"
            ));
            return;
        }
        let moved = self.moved.worst().cloned();
        let restarted = self.restarted.as_ref().and_then(Judgement::worst).cloned();
        for (worst, group) in [(&moved, Group::Shuffled), (&restarted, Group::Restarted)] {
            let Some(worst) = worst else { continue };
            self.verdict = Verdict::Stateful;
            self.said.push(self.blame(worst, group));
            let gave_away = |seen: &&Seen| seen.group == group && seen.symptoms.contains(&worst.symptom);
            let gave_away = seen.iter().filter(gave_away).filter(|seen| Some(seen.step + 1) == worst.step);
            self.evidence.extend(gave_away.take(SHOWN).map(|seen| Evidence::of(setup, seen)));
        }
        if self.verdict != Verdict::Stateful
            && let Some(failure) = first_failure(setup, seen, Group::Pinned, clients, true)
        {
            self.verdict = Verdict::Unclear;
            self.said.push(format!("unclear: clients that stay do not get through the script either: {failure}"));
            return;
        }
        if moved.is_none() {
            match self.moved.limits() {
                Some(limits) => self.said.push(format!(
                    "no difference seen between those who were moved and those who stayed; with {clients} clients on each side \
                     {limits}"
                )),
                None => {
                    self.verdict = Verdict::Unclear;
                    self.said.push("unclear: nothing could have been told from chance".to_owned());
                }
            }
        }
        if let (Some(judgement), None) = (&self.restarted, restarted) {
            let waited = |all| first_failure(setup, seen, Group::Waited, clients, all);
            let limits = match waited(true).or_else(|| waited(false)) {
                Some(failure) => Err(format!("clients that waited as long without one do not get through: {failure}")),
                None => judgement.limits().ok_or_else(|| "nothing could have been told from chance".to_owned()),
            };
            match limits {
                Ok(limits) => self.said.push(format!("no difference seen after a restart of all servers; {limits}")),
                Err(why) => {
                    if self.verdict != Verdict::Stateful {
                        self.verdict = Verdict::Unclear;
                    }
                    self.said.push(format!("unclear after a restart of all servers: {why}"));
                }
            }
        }
    }

    /// Of these servers a connection has outlived the hook: nobody else can tell whether it restarts them.
    pub(super) fn doubt(&mut self, stayed: &[String]) {
        if !stayed.is_empty() {
            self.said.push(format!(
                "a connection from before the hook was still open after it, to {}: what was not restarted has lost nothing",
                stayed.join(", ")
            ));
        }
    }

    /// What is wrong, in a sentence.
    fn blame(&self, worst: &Compared, group: Group) -> String {
        let step = worst.step.unwrap_or_default();
        let (who, beside) = match group {
            Group::Restarted => ("whose server was restarted", "that waited as long without that"),
            _ => ("that came from another server", "that stayed"),
        };
        let how = if group == Group::Restarted { "stateful, a restart loses it" } else { "stateful" };
        format!(
            "{how}: at step {step} ({}) {} of {} clients {who} got {}, and {} of {} {beside}",
            self.steps.get(step.saturating_sub(1)).map_or("", String::as_str),
            worst.moved,
            worst.moved_of,
            worst.symptom.words(),
            worst.control,
            worst.control_of
        )
    }

    /// Writes it.
    pub(super) fn tell(&self, console: &mut Console) -> Result<(), Failure> {
        if console.json {
            return console.json_line(self);
        }
        let judgements = [("", Some(&self.moved)), (" after a restart", self.restarted.as_ref())];
        for (what, judgement) in judgements {
            let Some(judgement) = judgement.filter(|judgement| !judgement.compared.is_empty()) else { continue };
            let rows = rows(judgement, &self.steps, if what.is_empty() { "MOVED" } else { "RESTARTED" });
            let text = render(&rows, "", console.color);
            console.write(format!("\n{text}\n").as_bytes())?;
        }
        for line in &self.said {
            console.line(line)?;
        }
        if !self.evidence.is_empty() {
            console.line("\nWhat gave it away:")?;
        }
        for evidence in &self.evidence {
            console.line(&format!("  {}", evidence.line()))?;
        }
        Ok(())
    }

    /// How it was done.
    pub(super) fn heading(setup: &Setup, clients: usize, restart: Option<usize>) -> String {
        let restart = restart.map_or_else(String::new, |step| {
            format!(
                ", as many whose servers are restarted before step {} and as many that wait there as long",
                step + 1
            )
        });
        format!(
            "{} that go to another server with each step, as many that stay{restart}; {}, {}",
            count(clients as u64, "client"),
            count(setup.servers.all.len() as u64, "server"),
            count(setup.script.steps.len() as u64, "step")
        )
    }
}

/// The comparisons in which anything was seen.
pub(in crate::cli) fn rows(judgement: &Judgement, steps: &[String], moved: &str) -> Vec<Row> {
    let head = |text: &str| Cell::word(text, Style::Bold);
    let mut first = vec![head("SYMPTOM"), head(moved), head("STAYED"), head("ADDED, 95 %"), head("P")];
    if !steps.is_empty() {
        first.insert(0, head("STEP"));
    }
    let mut rows = vec![Row::Cells(first)];
    for compared in &judgement.compared {
        let style = if compared.differs { Style::Bad } else { Style::Plain };
        let added = format!("{:+.0} to {:+.0} points", compared.added_low, compared.added_high);
        let mut cells = vec![
            Cell::word(compared.symptom.words(), style),
            Cell::number(format!("{} of {}", compared.moved, compared.moved_of)),
            Cell::number(format!("{} of {}", compared.control, compared.control_of)),
            Cell::number(added),
            Cell::word(probability(compared.p), style),
        ];
        if let Some(step) = compared.step.filter(|_| !steps.is_empty()) {
            let name = steps.get(step - 1).map_or("", String::as_str);
            cells.insert(0, Cell::word(format!("{step} {name}"), Style::Plain));
        }
        rows.push(Row::Cells(cells));
    }
    rows
}

impl Evidence {
    fn of(setup: &Setup, seen: &Seen) -> Self {
        let server = |at: usize| setup.servers.all[at].name.clone();
        Self {
            client: seen.client,
            step: seen.step + 1,
            request: setup.script.steps[seen.step].request(),
            from: seen.from.map(server),
            to: server(seen.to),
            restarted: seen.group == Group::Restarted,
            what: seen.what.clone(),
        }
    }

    fn line(&self) -> String {
        let way = match &self.from {
            _ if self.restarted => format!("at {}, which was restarted", self.to),
            Some(from) => format!("from {from} to {}", self.to),
            None => format!("at {}", self.to),
        };
        format!("client {}, step {}, {}, {way}: {}", self.client, self.step, self.request, self.what)
    }
}
