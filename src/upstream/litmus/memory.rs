//! What another process has to know to go on with an experiment: who takes part, what became of them, and the
//! counts. What is named here is read by processes of other versions: there are numbers and texts, no names of
//! symptoms.

use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering::Relaxed;

use super::{Experiment, Told, Users};
use crate::metrics::cells::{Counter, LitmusCell, LitmusGroupCell, LitmusSymptom};

/// Grows when the words or the draw of groups are others.
const FORM: u32 = 1;

/// An experiment as it is at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What the experiment is: another one begins anew.
    of: String,
    /// Positions and words, of each group.
    users: [Vec<(usize, u64)>; 2],
    bodies: [Vec<(usize, u64)>; 2],
    introduced: u64,
    recognized: u64,
    /// Of each group: users, answers that counted, and those with each symptom.
    counts: [(u64, u64, Vec<u64>); 2],
    told: Vec<Evidence>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Evidence {
    method: String,
    path: String,
    from: String,
    to: String,
    status: u16,
    /// A bit for each.
    symptoms: u8,
}

impl Users {
    fn words(&self) -> Vec<(usize, u64)> {
        let words = self.0.iter().map(|word| word.load(Relaxed)).enumerate();
        words.filter(|(_, word)| *word != 0).collect()
    }

    fn resume(&self, words: &[(usize, u64)]) {
        for (at, word) in words {
            if let Some(free) = self.0.get(*at) {
                free.store(*word, Relaxed);
            }
        }
    }
}

impl Experiment {
    fn is(&self) -> String {
        format!("{FORM} {:?}", self.plan)
    }

    /// All that is known now.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let sum = |of: &dyn Fn(&LitmusCell) -> &Counter| self.cells.iter().map(|cell| of(cell).get()).sum();
        let counts = [0, 1].map(|group| {
            let of = |of: fn(&LitmusGroupCell) -> &Counter| sum(&|cell| of(&cell.groups[group]));
            let symptoms =
                LitmusSymptom::ALL.map(|symptom| sum(&|cell| &cell.groups[group].symptoms[symptom as usize]));
            (of(|group| &group.users), of(|group| &group.requests), symptoms.to_vec())
        });
        let evidence = |told: Told| Evidence {
            method: told.method,
            path: told.path,
            from: told.from,
            to: told.to,
            status: told.status,
            symptoms: told.symptoms.iter().map(|symptom| symptom.bit()).sum(),
        };
        Memory {
            of: self.is(),
            users: [0, 1].map(|group: usize| self.users[group].words()),
            bodies: [0, 1].map(|group: usize| self.bodies[group].words()),
            introduced: sum(&|cell| &cell.introduced),
            recognized: sum(&|cell| &cell.recognized),
            counts,
            told: self.told().into_iter().map(evidence).collect(),
        }
    }

    /// Goes on where another process was, if that had the same experiment. Only the control plane calls this, before
    /// any core counts.
    pub fn resume(&self, memory: &Memory) {
        let Some(cell) = self.cells.first().filter(|_| memory.of == self.is()) else { return };
        for group in 0..2 {
            self.users[group].resume(&memory.users[group]);
            self.bodies[group].resume(&memory.bodies[group]);
            let (users, requests, symptoms) = &memory.counts[group];
            let counts = &cell.groups[group];
            counts.users.add(*users);
            counts.requests.add(*requests);
            counts.symptoms.iter().zip(symptoms).for_each(|(counter, seen)| counter.add(*seen));
        }
        cell.introduced.add(memory.introduced);
        cell.recognized.add(memory.recognized);
        for (turn, told) in memory.told.iter().enumerate() {
            let has = |symptom: &LitmusSymptom| told.symptoms & symptom.bit() != 0;
            let told = Told {
                method: told.method.clone(),
                path: told.path.clone(),
                from: told.from.clone(),
                to: told.to.clone(),
                status: told.status,
                symptoms: LitmusSymptom::ALL.into_iter().filter(has).collect(),
            };
            self.tell(turn % self.cells.len(), told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::key_of;
    use crate::balance::litmus::Group;
    use crate::balance::split::User;
    use crate::config::plan::LitmusPlan;

    fn plan() -> LitmusPlan {
        LitmusPlan { same_body: vec!["/a".to_owned()], ..LitmusPlan::example(50) }
    }

    /// Through the form in which it travels, and with another number of cores.
    #[test]
    fn another_process_goes_on_with_it() {
        let before = Experiment::new(plan(), 3);
        let ask = |experiment: &Experiment, core: usize, user: u64, server: &str| {
            let part = experiment.join(User::of_number(user), true, core).unwrap();
            let other = experiment.is_other_body(&part, 0, key_of(server));
            if experiment.meet(&part, key_of(server)) {
                let symptoms = if other { LitmusSymptom::Body.bit() } else { 0 };
                experiment.count(&part, symptoms, core, |_| 0);
            }
            part
        };
        for user in 0..200 {
            ask(&before, 0, user, "a");
            ask(&before, 1, user, if user % 2 == 0 { "b" } else { "a" });
        }
        before.cells[2].introduced.add(7);
        before.cells[1].recognized.add(400);
        let symptoms = vec![LitmusSymptom::Refused, LitmusSymptom::Body];
        let text = |text: &str| text.to_owned();
        let told =
            Told { method: text("GET"), path: text("/a"), from: text("a"), to: text("b"), status: 200, symptoms };
        before.tell(2, told.clone());

        let memory = serde_json::to_string(&before.memory()).unwrap();
        let memory: Memory = serde_json::from_str(&memory).unwrap();
        let after = Experiment::new(plan(), 1);
        after.resume(&memory);
        for group in Group::ALL {
            assert!(before.tally(group).judged > 10);
            assert_eq!(after.tally(group), before.tally(group));
            let users = |experiment: &Experiment| -> [u64; 3] {
                let of = |of: fn(&LitmusGroupCell) -> &Counter| {
                    experiment.cells.iter().map(|cell| of(&cell.groups[group as usize]).get()).sum()
                };
                [of(|g| &g.users), of(|g| &g.requests), of(|g| &g.symptoms[LitmusSymptom::Body as usize])]
            };
            assert_eq!(users(&after), users(&before));
        }
        assert_eq!((after.cells[0].introduced.get(), after.cells[0].recognized.get()), (7, 400));
        assert_eq!(after.told(), [told]);
        // A user is the same one, was last where it was, and its first body is still the first.
        for user in [2, 3] {
            let last = if user % 2 == 0 { "b" } else { "a" };
            let part = after.join(User::of_number(user), true, 0).unwrap();
            assert_eq!(part.last(), crate::balance::litmus::mark(key_of(last)));
            assert!(after.is_other_body(&part, 0, key_of("b")) && !after.is_other_body(&part, 0, key_of("a")));
        }
        // The same users again are no new ones.
        let users = after.cells[0].groups[0].users.get();
        for user in 0..200 {
            ask(&after, 0, user, "a");
        }
        assert_eq!(after.cells[0].groups[0].users.get(), users);
    }

    #[test]
    fn another_experiment_begins_anew() {
        let before = Experiment::new(plan(), 1);
        before.join(User::of_number(1), true, 0).unwrap();
        let after = Experiment::new(LitmusPlan { percent: 49, ..plan() }, 1);
        after.resume(&before.memory());
        after.resume(&serde_json::from_str("{\"of\": \"2 later\", \"new\": 1}").unwrap());
        assert!(after.users.iter().all(|users| users.words().is_empty()));
    }
}
