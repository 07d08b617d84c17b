//! What the experiment of an upstream has seen so far, for the status.

use super::api::{LitmusCookie, LitmusEvidence, LitmusGroup, LitmusStatus, LitmusSymptomStatus};
use crate::balance::canary::CanaryBy;
use crate::balance::litmus::Group;
use crate::metrics::cells::LitmusSymptom;
use crate::upstream::litmus::{Experiment, Told};

pub(super) fn status(experiment: &Experiment) -> LitmusStatus {
    let told = |told: Told| LitmusEvidence {
        method: told.method,
        path: told.path,
        from: told.from,
        to: told.to,
        status: told.status,
        symptoms: told.symptoms.into_iter().map(|symptom| symptom.name().to_owned()).collect(),
    };
    let cells = || experiment.cells.iter();
    let cookie = || LitmusCookie {
        name: experiment.plan.cookie.name.clone(),
        set: cells().map(|cell| cell.introduced.get()).sum(),
        returned: cells().map(|cell| cell.recognized.get()).sum(),
    };
    LitmusStatus {
        percent: experiment.plan.percent,
        cookie: (experiment.plan.by == CanaryBy::Cookie).then(cookie),
        shuffled: group(experiment, Group::Shuffled),
        control: group(experiment, Group::Control),
        evidence: experiment.told().into_iter().map(told).collect(),
    }
}

fn group(experiment: &Experiment, group: Group) -> LitmusGroup {
    let tally = experiment.tally(group);
    let cells = || experiment.cells.iter().map(|cell| &cell.groups[group as usize]);
    let symptom = |symptom: LitmusSymptom| LitmusSymptomStatus {
        symptom: symptom.name().to_owned(),
        judged: tally.drawn[symptom as usize],
        users: tally.any[symptom as usize],
        requests: cells().map(|cell| cell.symptoms[symptom as usize].get()).sum(),
    };
    LitmusGroup {
        users: cells().map(|cell| cell.users.get()).sum(),
        judged: tally.judged,
        requests: cells().map(|cell| cell.requests.get()).sum(),
        symptoms: experiment.symptoms().map(symptom).collect(),
    }
}
