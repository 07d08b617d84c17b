//! The experiment on live traffic: who takes part, what became of them, and what gave it away.
//!
//! It is there only where the configuration asks for it. Each user who takes part has one word, which all cores
//! share since a user's connections are on several: the server it met last, how many of its answers counted, what
//! one of them was like that was drawn by lot, and whether any was bad. Which is drawn is decided as they come
//! (each takes the place of the one before with a probability of one in so many), so that of each user exactly one
//! counts: requests of one user are no independent witnesses. Words are never given up; when all are taken,
//! whoever comes takes no part. Nothing in here waits or locks.

mod memory;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

pub use memory::Memory;

use super::{Live, Tried, Upstream};
use crate::balance::litmus::{Group, Place, away, home, mark};
use crate::balance::split::User;
use crate::balance::{Scratch, View};
use crate::config::plan::LitmusPlan;
use crate::metrics::cells::{LitmusCell, LitmusSymptom};

/// Users who may take part.
const WORDS: usize = 1 << 16;
/// How far from its place a user's word may be.
const PROBES: usize = 8;
/// Requests that are told of, on each core.
const TOLD: usize = 8;

/// The bits of all symptoms.
const SYMPTOMS: u8 = (1 << LitmusSymptom::ALL.len()) - 1;

/// A user's word, unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Word {
    /// Part of the hash of the user, never 0.
    tag: u16,
    /// Mark of the server that it met last; 0 is none.
    last: u16,
    /// Answers that counted.
    trials: u16,
    /// Symptoms of the one that was drawn, a bit for each.
    drawn: u8,
    /// Those of any of them.
    any: u8,
}

impl Word {
    fn pack(self) -> u64 {
        let Self { tag, last, trials, drawn, any } = self;
        u64::from(tag) | u64::from(last) << 16 | u64::from(trials) << 32 | u64::from(drawn) << 48 | u64::from(any) << 56
    }

    fn unpack(word: u64) -> Self {
        Self {
            tag: word as u16,
            last: (word >> 16) as u16,
            trials: (word >> 32) as u16,
            drawn: (word >> 48) as u8 & SYMPTOMS,
            any: (word >> 56) as u8 & SYMPTOMS,
        }
    }
}

/// Which group a word belongs to is not in it: there is a table for each.
#[derive(Debug)]
struct Users(Box<[AtomicU64]>);

/// A request that gave it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub method: String,
    /// Without the query, parameters, and long parts.
    pub path: String,
    pub from: String,
    pub to: String,
    pub status: u16,
    pub symptoms: Vec<LitmusSymptom>,
}

/// The experiment; outlives reloads that do not change it.
#[derive(Debug)]
pub struct Experiment {
    pub plan: LitmusPlan,
    /// One for each core.
    pub cells: Box<[LitmusCell]>,
    users: [Users; 2],
    /// Beside each word what bodies of the user were like, 16 bits for each path; empty where none is compared.
    bodies: [Users; 2],
    told: Box<[[OnceLock<Told>; TOLD]]>,
}

/// A user who takes part with this request.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub group: Group,
    user: User,
    word: usize,
    /// Mark of the server that the user met last.
    last: u16,
    /// Whether this request may go elsewhere.
    moves: bool,
}

/// What becomes of users of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Users of whom an answer counted.
    pub judged: u64,
    /// Those whose drawn answer had the symptom, by position of [`LitmusSymptom::ALL`].
    pub drawn: [u64; LitmusSymptom::ALL.len()],
    /// Those of whom any had.
    pub any: [u64; LitmusSymptom::ALL.len()],
}

impl Experiment {
    /// A new one.
    #[must_use]
    pub fn new(plan: LitmusPlan, cores: usize) -> Self {
        let some = |count: usize| Users((0..count).map(|_| AtomicU64::new(0)).collect());
        let users = || some(WORDS);
        let bodies = || some(if plan.same_body.is_empty() { 0 } else { WORDS });
        Self {
            bodies: [bodies(), bodies()],
            plan,
            cells: (0..cores).map(|_| LitmusCell::default()).collect(),
            users: [users(), users()],
            told: (0..cores).map(|_| std::array::from_fn(|_| OnceLock::new())).collect(),
        }
    }

    /// What is looked for: the rest could be seen in no answer.
    pub fn symptoms(&self) -> impl Iterator<Item = LitmusSymptom> {
        LitmusSymptom::ALL.into_iter().filter(|symptom| match symptom {
            LitmusSymptom::Refused | LitmusSymptom::Failed => true,
            LitmusSymptom::Login => self.plan.login.is_some(),
            LitmusSymptom::Reissued => !self.plan.cookies.is_empty(),
            LitmusSymptom::Body => !self.plan.same_body.is_empty(),
        })
    }

    /// Takes a user in, if it is drawn. `moves` says whether this request may leave its server.
    pub fn join(&self, user: User, moves: bool, core: usize) -> Option<Part> {
        let group = Group::of(user, self.plan.percent)?;
        let number = user.number();
        let tag = ((number >> 48) as u16).max(1);
        let words = &self.users[group as usize].0;
        for probe in 0..PROBES {
            let at = (number as usize).wrapping_add(probe) % WORDS;
            let mut word = words[at].load(Relaxed);
            if word == 0 {
                let new = Word { tag, ..Word::default() }.pack();
                match words[at].compare_exchange(0, new, Relaxed, Relaxed) {
                    Ok(_) => {
                        self.cells[core].groups[group as usize].users.inc();
                        word = new;
                    }
                    // Another core was faster; it may be the same user.
                    Err(other) => word = other,
                }
            }
            let found = Word::unpack(word);
            if found.tag == tag {
                return Some(Part { group, user, word: at, last: found.last, moves });
            }
        }
        None
    }

    /// Whether a core has room to tell of another request.
    #[must_use]
    pub fn has_room(&self, core: usize) -> bool {
        self.told[core][TOLD - 1].get().is_none()
    }

    /// Notes that the server with that key has answered. Says whether the answer counts: only one of a user who
    /// was moved, or in the control group stayed, and only to a request that may be moved. In both groups the same
    /// requests have to be compared: others may well be answered otherwise.
    pub fn meet(&self, part: &Part, server: u64) -> bool {
        let to = mark(server);
        let _ =
            self.word(part).fetch_update(Relaxed, Relaxed, |word| Some(Word { last: to, ..Word::unpack(word) }.pack()));
        part.moves && part.last != 0 && (part.last == to) == (part.group == Group::Control)
    }

    /// Counts an answer. `lot` is a number by chance below its argument.
    pub fn count(&self, part: &Part, symptoms: u8, core: usize, lot: impl Fn(u32) -> u32) {
        let cell = &self.cells[core].groups[part.group as usize];
        cell.requests.inc();
        for symptom in LitmusSymptom::ALL.into_iter().filter(|symptom| symptoms & symptom.bit() != 0) {
            cell.symptoms[symptom as usize].inc();
        }
        let _ = self.word(part).fetch_update(Relaxed, Relaxed, |before| {
            let mut word = Word::unpack(before);
            word.trials = word.trials.saturating_add(1);
            word.any |= symptoms;
            if lot(word.trials.into()) == 0 {
                word.drawn = symptoms;
            }
            Some(word.pack())
        });
    }

    fn word(&self, part: &Part) -> &AtomicU64 {
        &self.users[part.group as usize].0[part.word]
    }

    /// Whether a body is another than the first that the user had of that path, by its position in the plan. Of
    /// two that differ one in 65,536 are taken for the same.
    pub fn is_other_body(&self, part: &Part, path: usize, digest: u64) -> bool {
        let Some(seen) = self.bodies[part.group as usize].0.get(part.word) else { return false };
        let (shift, digest) = (16 * path, u64::from(digest as u16).max(1));
        let first = |seen: u64| seen >> shift & 0xffff;
        // Whichever of two answers at once is the first, the other is compared with it.
        let update = |seen| (first(seen) == 0).then_some(seen | digest << shift);
        match seen.fetch_update(Relaxed, Relaxed, update) {
            Ok(_) => false,
            Err(seen) => first(seen) != digest,
        }
    }

    /// Tells of a request that gave it away, where there is room.
    pub fn tell(&self, core: usize, told: Told) {
        if let Some(free) = self.told[core].iter().find(|place| place.get().is_none()) {
            let _ = free.set(told);
        }
    }

    /// All requests that are told of.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        self.told.iter().flatten().filter_map(OnceLock::get).cloned().collect()
    }

    /// What became of the users of a group.
    #[must_use]
    pub fn tally(&self, group: Group) -> Tally {
        let mut tally = Tally::default();
        for word in &self.users[group as usize].0 {
            let word = Word::unpack(word.load(Relaxed));
            if word.trials == 0 {
                continue;
            }
            tally.judged += 1;
            for symptom in LitmusSymptom::ALL {
                tally.drawn[symptom as usize] += u64::from(word.drawn & symptom.bit() != 0);
                tally.any[symptom as usize] += u64::from(word.any & symptom.bit() != 0);
            }
        }
        tally
    }
}

impl Part {
    /// Whether this request is to leave the server that its user met last.
    #[must_use]
    pub fn is_moved(&self) -> bool {
        self.group == Group::Shuffled && self.moves && self.last != 0
    }

    /// The same for a request that stays after all.
    #[must_use]
    pub fn stays(self) -> Self {
        Self { moves: false, ..self }
    }

    /// Mark of the server that the user met last; 0 is none.
    #[must_use]
    pub fn last(&self) -> u16 {
        self.last
    }
}

impl Upstream {
    /// The same with an experiment.
    #[must_use]
    pub fn tested(self, litmus: Option<Arc<Experiment>>) -> Self {
        Self { litmus, ..self }
    }

    /// Where a user goes who takes part: away, or home where the policy itself has no place for everybody.
    #[cold]
    pub(super) fn pick_part(&self, part: &Part, tried: &Tried, scratch: &mut Scratch) -> Option<usize> {
        let live = Live { upstream: self, tried };
        let takes = |index: &usize| {
            let server = &self.servers[*index];
            !server.is_backup() && server.weight() > 0 && !live.tried(*index) && live.takes_new(*index)
        };
        let place = |index: usize| Place { index, key: self.servers[index].key, weight: self.servers[index].weight() };
        let places = (0..self.servers.len()).filter(takes).map(place);
        if part.is_moved() {
            // For an experiment nobody waits; where all others are full, it goes on at home.
            let with_room = places.clone().filter(|place| !self.servers[place.index].gate.is_full());
            // It is a pick of this moment: a server that has just come gets as little of it as of others.
            let eased = |place: Place| Place { weight: place.weight * self.servers[place.index].share(), ..place };
            if let Some(index) = away(part.last, &with_room.map(eased), scratch) {
                return Some(index);
            }
        }
        if self.plan.policy.has_homes() { None } else { home(part.user, places) }
    }

    /// The name of the server that is marked so.
    #[must_use]
    pub fn name_of_mark(&self, wanted: u16) -> Option<&str> {
        self.servers.iter().find(|server| mark(server.key) == wanted).map(|server| &*server.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::key_of;

    fn experiment(percent: u32) -> Experiment {
        Experiment::new(LitmusPlan::example(percent), 1)
    }

    #[test]
    fn words_keep_what_they_are_told() {
        let word = Word { tag: 0xffff, last: 0x1234, trials: 0xabcd, drawn: 0b1_1010, any: 0b1_1111 };
        assert_eq!(Word::unpack(word.pack()), word);
        assert_eq!(Word::unpack(0), Word::default());
    }

    #[test]
    fn of_each_user_one_answer_counts() {
        let experiment = experiment(50);
        let (a, b) = (key_of("a"), key_of("b"));
        let refused = LitmusSymptom::Refused.bit();
        let user = (0..).map(User::of_number).find(|user| Group::of(*user, 50) == Some(Group::Shuffled)).unwrap();
        let ask = |server: u64, symptoms: u8, lot: u32| {
            let part = experiment.join(user, true, 0).unwrap();
            let counts = experiment.meet(&part, server);
            counts.then(|| experiment.count(&part, symptoms, 0, |of| lot % of));
            counts
        };
        // The first has come from nowhere; who comes back to where it was has not been moved.
        assert!(!ask(a, refused, 0) && !ask(a, refused, 0));
        assert!(ask(b, refused, 0) && ask(a, 0, 1));
        let tally = experiment.tally(Group::Shuffled);
        assert_eq!((tally.judged, tally.drawn[0], tally.any[0]), (1, 1, 1), "the second was not drawn");
        // The third is, by one chance in three.
        assert!(ask(b, 0, 0));
        let tally = experiment.tally(Group::Shuffled);
        assert_eq!((tally.judged, tally.drawn[0], tally.any[0]), (1, 0, 1));
        let cell = &experiment.cells[0].groups[0];
        assert_eq!((cell.users.get(), cell.requests.get(), cell.symptoms[0].get()), (1, 3, 1));
        assert_eq!(experiment.tally(Group::Control), Tally::default());
    }

    /// Chance is fair: of the many answers of a user each is the one that counts equally often.
    #[test]
    fn each_answer_is_drawn_equally_often() {
        let mut scratch = Scratch::new(0, 7);
        let scratch = std::cell::RefCell::new(&mut scratch);
        let (a, b) = (key_of("a"), key_of("b"));
        let users: Vec<User> = (0..12_000).map(User::of_number).collect();
        let experiment = experiment(50);
        let mut taken = 0;
        for user in users.iter().filter(|user| Group::of(**user, 50) == Some(Group::Shuffled)) {
            for turn in 0..5 {
                let part = experiment.join(*user, true, 0).unwrap();
                // The second that counts is the only bad one.
                let symptoms = if turn == 2 { LitmusSymptom::Failed.bit() } else { 0 };
                let lot = |of: u32| scratch.borrow_mut().below(of);
                if experiment.meet(&part, if turn % 2 == 0 { a } else { b }) {
                    experiment.count(&part, symptoms, 0, lot);
                }
            }
            taken += 1;
        }
        let tally = experiment.tally(Group::Shuffled);
        let failed = LitmusSymptom::Failed as usize;
        assert_eq!((tally.judged, tally.any[failed]), (taken, taken));
        // A quarter of about 6,000, within five standard deviations.
        assert!(tally.drawn[failed].abs_diff(taken / 4) < 170, "{} of {taken}", tally.drawn[failed]);
    }

    #[test]
    fn what_may_not_be_moved_counts_in_neither_group() {
        let experiment = experiment(50);
        let (a, b) = (key_of("a"), key_of("b"));
        for group in Group::ALL {
            let user = (0..).map(User::of_number).find(|user| Group::of(*user, 50) == Some(group)).unwrap();
            let ask = |moves: bool, server: u64| {
                let part = experiment.join(user, moves, 0).unwrap();
                let counts = experiment.meet(&part, server);
                counts.then(|| experiment.count(&part, 0, 0, |_| 0));
                counts
            };
            assert!(!ask(true, a));
            // At home, or from where the one before was moved to.
            assert!(!ask(false, a) && !ask(false, b) && !ask(false, a), "{group:?}");
            assert!(ask(true, if group == Group::Shuffled { b } else { a }), "{group:?}");
            // It is noted where the user was nevertheless.
            assert!(!ask(false, b));
            assert_eq!(experiment.join(user, true, 0).unwrap().last(), mark(b));
            assert_eq!(experiment.tally(group).judged, 1);
        }
    }

    #[test]
    fn bodies_are_compared_with_the_first_of_the_same_path() {
        let plan =
            LitmusPlan { same_body: ["/a", "/b", "/c", "/d"].map(str::to_owned).into(), ..LitmusPlan::example(50) };
        let experiment = Experiment::new(plan, 1);
        let parts: Vec<Part> = (0..8).filter_map(|n| experiment.join(User::of_number(n), true, 0)).collect();
        for part in &parts {
            for path in 0..4 {
                // A digest whose part is 0 is one all the same.
                let digest = [0x1_0000, 7, 0xffff, 9][path];
                assert!(!experiment.is_other_body(part, path, digest), "the first");
                assert!(!experiment.is_other_body(part, path, digest));
                assert!(experiment.is_other_body(part, path, digest ^ 8));
                assert!(!experiment.is_other_body(part, path, digest), "it is the first that counts");
            }
        }
        assert!(parts.iter().any(|part| part.group == Group::Shuffled) && parts.len() == 8);
        let none = self::experiment(50);
        let part = none.join(User::of_number(1), true, 0).unwrap();
        assert!(!none.is_other_body(&part, 0, 1) && !none.is_other_body(&part, 0, 2), "nobody asked");
    }

    #[test]
    fn only_so_many_are_told_of() {
        let experiment = experiment(5);
        let told = Told {
            method: "GET".into(),
            path: "/".into(),
            from: "a".into(),
            to: "b".into(),
            status: 401,
            symptoms: vec![LitmusSymptom::Refused],
        };
        assert!(experiment.has_room(0));
        (0..20).for_each(|_| experiment.tell(0, told.clone()));
        assert!(!experiment.has_room(0));
        assert_eq!(experiment.told().len(), TOLD);
    }
}
