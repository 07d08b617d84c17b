//! Ejection alone: any plan, any traffic, reloads in between. Time and chance are arguments.

use std::time::Duration;

use evenkeel::balance::Scratch;
use evenkeel::config::plan::OutlierPlan;
use evenkeel::control::outlier::{self, Change, Counts, Ejection, Look, Outlier};

use crate::{all_run, for_every_seed};

const SEEDS: u64 = 4_000;
const STEPS: usize = 150;

#[derive(Default)]
struct Member {
    outlier: Outlier,
    look: Seen,
    /// How often it fails, in tenths.
    badness: u32,
    /// The last ejection, and when it was over.
    last: Option<Ejection>,
    returned: Duration,
}

/// What traffic and orders have made of it.
#[derive(Default)]
struct Seen {
    counts: Counts,
    in_a_row: u32,
    unhealthy: bool,
    held_back: bool,
}

struct World {
    random: Scratch,
    now: Duration,
    plan: Option<OutlierPlan>,
    members: Vec<Member>,
    /// Ejections, and those of them that were not the first in a row.
    ejected: [usize; 2],
}

fn millis(millis: u32) -> Duration {
    Duration::from_millis(millis.into())
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Scratch::new(0, seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let plan = Some(any_plan(&mut random));
        let members =
            (0..1 + random.below(8)).map(|_| Member { badness: random.below(11), ..Member::default() }).collect();
        Self { random, now: Duration::ZERO, plan, members, ejected: [0; 2] }
    }

    fn step(&mut self) {
        let i = self.random.below(self.members.len() as u32) as usize;
        match self.random.below(20) {
            0..=11 => self.traffic(i),
            12 => {
                // As the supervisor does when a check brings a server down: it is the check's from then on.
                let (now, member) = (self.now, &mut self.members[i]);
                member.look.unhealthy = !member.look.unhealthy;
                if member.look.unhealthy && member.outlier.end(now) {
                    member.returned = now;
                }
            }
            13 => self.members[i].look.held_back = !self.members[i].look.held_back,
            14 => self.members[i].badness = self.random.below(11),
            // A reload.
            15 => self.plan = (self.random.below(4) > 0).then(|| any_plan(&mut self.random)),
            _ => self.now += millis(self.random.below(700)),
        }
        self.eject();
    }

    fn traffic(&mut self, i: usize) {
        for _ in 0..self.random.below(12) {
            let fails = self.random.below(10) < self.members[i].badness;
            let look = &mut self.members[i].look;
            look.counts.tries += 1;
            look.counts.faults += u64::from(fails);
            look.in_a_row = if fails { look.in_a_row + 1 } else { 0 };
        }
    }

    fn looks(&self) -> Vec<Look> {
        let look = |m: &Member| Look {
            counts: m.look.counts,
            in_a_row: m.look.in_a_row,
            healthy: !m.look.unhealthy,
            ready: !m.look.held_back,
        };
        self.members.iter().map(look).collect()
    }

    fn eject(&mut self) {
        let (now, before) = (self.now, self.looks());
        let outliers = self.members.iter_mut().map(|member| std::mem::take(&mut member.outlier));
        let mut servers: Vec<(Outlier, Look)> = outliers.zip(before.iter().copied()).collect();
        let random = &mut self.random;
        let changes = outlier::step(self.plan.as_ref(), now, || random.random(), &mut servers);
        for (member, (outlier, _)) in self.members.iter_mut().zip(servers) {
            member.outlier = outlier;
        }
        for (i, change) in &changes {
            self.members[*i].look.in_a_row = 0;
            match change {
                Change::Returned => self.members[*i].returned = now,
                Change::Ejected(ejection) => {
                    self.an_ejection_grows_and_is_bounded(*i, *ejection);
                    self.somebody_else_does_better(*i, &before);
                }
            }
        }
        if changes.iter().any(|(_, change)| matches!(change, Change::Ejected(_))) {
            self.no_more_than_the_share_is_ejected();
        }
        self.an_ejection_ends();
    }

    fn an_ejection_grows_and_is_bounded(&mut self, i: usize, ejection: Ejection) {
        let plan = self.plan.as_ref().expect("nobody is ejected without a plan");
        let member = &mut self.members[i];
        let number = match &member.last {
            Some(last) if self.now < member.returned + plan.max_ejection => last.number + 1,
            _ => 1,
        };
        assert_eq!(ejection.number, number, "{:?} before, back at {:?}", member.last, member.returned);
        let least = (plan.ejection * number).min(plan.max_ejection);
        let lasts = ejection.until - ejection.since;
        assert!(lasts >= least && lasts <= least + least / 10, "{lasts:?} of {least:?}");
        assert_eq!(ejection.since, self.now);
        self.ejected[usize::from(number > 1)] += 1;
        member.last = Some(ejection);
    }

    fn somebody_else_does_better(&self, i: usize, looks: &[Look]) {
        let does = |(j, look): (usize, &Look)| {
            i != j && look.ready && look.healthy && self.members[j].outlier.ejection().is_none()
        };
        assert!(looks.iter().enumerate().any(does), "the last that serves is not ejected");
    }

    fn no_more_than_the_share_is_ejected(&self) {
        let share = self.plan.as_ref().map_or(0, |plan| plan.max_ejected_percent as usize);
        let ready = self.members.iter().filter(|member| !member.look.held_back);
        let ejected = ready.clone().filter(|member| member.outlier.ejection().is_some()).count();
        assert!(ejected * 100 <= ready.count() * share, "{ejected} are ejected");
    }

    fn an_ejection_ends(&self) {
        for member in &self.members {
            let ejection = member.outlier.ejection();
            assert!(ejection.is_none_or(|ejection| self.plan.is_some() && self.now < ejection.until), "{ejection:?}");
        }
    }
}

fn any_plan(random: &mut Scratch) -> OutlierPlan {
    let ejection = millis(1 + random.below(2_000));
    OutlierPlan {
        consecutive_failures: random.below(6),
        failure_percent: random.below(101),
        min_requests: random.below(30).into(),
        window: millis(100 + random.below(3_000)),
        statuses: vec![503],
        ejection,
        max_ejection: ejection * (1 + random.below(4)),
        max_ejected_percent: 1 + random.below(100),
        trial_requests: random.below(5).into(),
    }
}

#[test]
fn who_is_ejected_comes_back_and_enough_are_left() {
    let done = for_every_seed(SEEDS, |seed| {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        // Time alone brings everybody back. Others may go at the same moment.
        let was_out = |member: &Member| member.outlier.ejection().is_some();
        let out: Vec<bool> = world.members.iter().map(was_out).collect();
        let ends = world.members.iter().filter_map(|member| member.outlier.ejection()).map(|ejection| ejection.until);
        world.now = world.now.max(ends.max().unwrap_or_default());
        world.eject();
        let mut both = world.members.iter().zip(out);
        assert!(!both.any(|(member, was_out)| was_out && member.outlier.ejection().is_some()), "everybody returns");
        world.ejected
    });
    let [first, again] = [0, 1].map(|i| done.iter().map(|done| done[i]).sum::<usize>());
    assert!(!all_run() || (first > 5_000 && again > 1_000), "{first} were ejected, {again} of them again");
}
