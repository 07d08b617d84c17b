use proptest::prelude::*;

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn plan() -> OutlierPlan {
    OutlierPlan {
        consecutive_failures: 5,
        failure_percent: 50,
        min_requests: 20,
        window: seconds(10),
        statuses: vec![503],
        ejection: seconds(30),
        max_ejection: seconds(100),
        max_ejected_percent: 50,
        trial_requests: 3,
    }
}

const WELL: Look = Look { counts: Counts { tries: 0, faults: 0 }, in_a_row: 0, healthy: true, ready: true };

fn failing(in_a_row: u32) -> Look {
    Look { in_a_row, ..WELL }
}

fn counted(tries: u64, faults: u64) -> Look {
    Look { counts: Counts { tries, faults }, ..WELL }
}

/// An upstream whose servers are looked at at certain moments.
struct World(Vec<Outlier>);

impl World {
    fn of(servers: usize) -> Self {
        Self(vec![Outlier::default(); servers])
    }

    fn look(&mut self, at: u64, looks: &[Look]) -> Vec<(usize, Change)> {
        self.look_by(Some(&plan()), at, looks)
    }

    fn look_by(&mut self, plan: Option<&OutlierPlan>, at: u64, looks: &[Look]) -> Vec<(usize, Change)> {
        let mut servers: Vec<_> = std::mem::take(&mut self.0).into_iter().zip(looks.iter().copied()).collect();
        let changes = step(plan, seconds(at), || 0, &mut servers);
        self.0 = servers.into_iter().map(|(outlier, _)| outlier).collect();
        changes
    }

    fn ejected(&self) -> Vec<usize> {
        (0..self.0.len()).filter(|i| self.0[*i].ejection().is_some()).collect()
    }
}

#[test]
fn failures_in_a_row_eject_and_time_returns() {
    let mut world = World::of(2);
    assert_eq!(world.look(0, &[failing(4), WELL]), []);
    let ejection = Ejection { reason: Reason::Consecutive(5), since: seconds(1), until: seconds(31), number: 1 };
    assert_eq!(world.look(1, &[failing(5), WELL]), [(0, Change::Ejected(ejection))]);
    assert_eq!(world.look(30, &[failing(9), WELL]), []);
    // What failed while it was out does not count against it.
    assert_eq!(world.look(31, &[failing(9), WELL]), [(0, Change::Returned)]);
    assert_eq!(world.ejected(), [0; 0]);
}

#[test]
fn ejections_in_a_row_grow_to_the_longest() {
    let mut world = World::of(2);
    let mut now = 0;
    for lasts in [30, 60, 90, 100, 100] {
        let changes = world.look(now, &[failing(5), WELL]);
        assert!(
            matches!(&changes[..], [(0, Change::Ejected(e))] if e.until - e.since == seconds(lasts)),
            "{changes:?}"
        );
        now += lasts;
        assert_eq!(world.look(now, &[WELL, WELL]), [(0, Change::Returned)]);
        now += 99;
    }
    // It did well for as long as an ejection may last: the next one is the first again.
    let changes = world.look(now + 1, &[failing(5), WELL]);
    assert!(matches!(&changes[..], [(0, Change::Ejected(e))] if e.number == 1), "{changes:?}");
}

#[test]
fn who_is_back_is_on_trial_until_it_has_shown_that_it_does_well() {
    let mut world = World::of(2);
    world.look(0, &[failing(5), WELL]);
    assert_eq!(world.look(30, &[counted(90, 50), WELL]), [(0, Change::Returned)]);
    assert!(world.0[0].is_on_trial() && !world.0[1].is_on_trial());
    assert_eq!(world.look(31, &[counted(92, 50), WELL]), [], "two successes of three");
    let changes = world.look(32, &[counted(93, 51), WELL]);
    let again = Ejection { reason: Reason::Trial, since: seconds(32), until: seconds(92), number: 2 };
    assert_eq!(changes, [(0, Change::Ejected(again))]);
    assert!(!world.0[0].is_on_trial());
    // What a core tells of is enough: a success may have come behind it.
    world.look(92, &[counted(93, 51), WELL]);
    let changes = world.look(93, &[Look { in_a_row: 1, ..counted(93, 51) }, WELL]);
    assert!(matches!(&changes[..], [(0, Change::Ejected(e))] if e.reason == Reason::Trial), "{changes:?}");
    // After three successes a failure is one of several again.
    world.look(190, &[counted(100, 60), WELL]);
    assert_eq!(world.look(191, &[counted(103, 60), WELL]), []);
    assert!(!world.0[0].is_on_trial());
    assert_eq!(world.look(192, &[Look { in_a_row: 1, ..counted(104, 61) }, WELL]), []);
    // Where all fail alike, it is no worse than they are.
    let mut world = World::of(2);
    world.look(0, &[failing(5), WELL]);
    world.look(30, &[WELL, WELL]);
    assert_eq!(world.look(31, &[failing(1), failing(1)]), []);
    // It can be off, and an order is no return to be watched.
    let none = OutlierPlan { trial_requests: 0, ..plan() };
    let mut world = World::of(2);
    world.look(0, &[failing(5), WELL]);
    world.look_by(Some(&none), 30, &[WELL, WELL]);
    assert!(!world.0[0].is_on_trial());
    world.look(31, &[failing(5), WELL]);
    assert!(world.0[0].end(seconds(32)) && !world.0[0].is_on_trial());
}

#[test]
fn a_fault_on_trial_that_could_not_eject_begins_the_trial_anew() {
    let mut world = World::of(2);
    world.look(0, &[failing(5), WELL]);
    assert_eq!(world.look(30, &[counted(90, 50), WELL]), [(0, Change::Returned)]);
    let changes = world.look(31, &[counted(91, 50), failing(5)]);
    assert!(matches!(&changes[..], [(1, Change::Ejected(_))]), "{changes:?}");
    // No more may be ejected.
    assert_eq!(world.look(32, &[Look { in_a_row: 1, ..counted(92, 51) }, WELL]), []);
    assert_eq!(world.look(33, &[counted(94, 51), WELL]), []);
    assert!(world.0[0].is_on_trial(), "two successes of three");
    world.look(34, &[counted(95, 51), WELL]);
    assert!(!world.0[0].is_on_trial());
    // Nor does that fault count when there is room again.
    assert_eq!(world.look(61, &[counted(95, 51), WELL]), [(1, Change::Returned)]);
    assert_eq!(world.look(62, &[counted(95, 51), WELL]), []);
}

#[test]
fn many_failures_in_the_window_eject_and_few_requests_do_not() {
    let mut world = World::of(2);
    world.look(0, &[counted(1000, 1000), WELL]);
    assert_eq!(world.look(1, &[counted(1019, 1019), WELL]), [], "too few to tell");
    let changes = world.look(2, &[counted(1040, 1020), WELL]);
    let reason = Reason::Rate { faults: 20, tries: 40 };
    assert!(matches!(&changes[..], [(0, Change::Ejected(e))] if e.reason == reason), "{changes:?}");
    // Failures older than the window are forgotten.
    let mut world = World::of(2);
    world.look(0, &[counted(0, 0), WELL]);
    world.look(1, &[counted(15, 15), WELL]);
    for at in 2..=12 {
        assert_eq!(world.look(at, &[counted(15, 15), WELL]), []);
    }
    assert_eq!(world.look(13, &[counted(34, 19), WELL]), []);
    assert_eq!(world.look(14, &[counted(64, 34), WELL]), [], "19 of 49");
    assert_eq!(world.0[0].within(Counts { tries: 64, faults: 34 }), Counts { tries: 49, faults: 19 });
}

#[test]
fn each_of_the_two_can_be_off() {
    let only_rate = OutlierPlan { consecutive_failures: 0, ..plan() };
    assert_eq!(World::of(2).look_by(Some(&only_rate), 0, &[failing(900), WELL]), []);
    let only_row = OutlierPlan { failure_percent: 0, ..plan() };
    let mut world = World::of(2);
    world.look_by(Some(&only_row), 0, &[WELL, WELL]);
    assert_eq!(world.look_by(Some(&only_row), 1, &[counted(100, 100), WELL]), []);
    assert_eq!(world.look_by(Some(&only_row), 1, &[failing(5), WELL]).len(), 1);
}

#[test]
fn no_more_than_the_share_is_ejected() {
    for (servers, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (7, 3)] {
        let mut world = World::of(servers + 1);
        let mut looks = vec![failing(5); servers];
        // Somebody does better, but takes nobody by order.
        looks.push(Look { ready: true, ..WELL });
        looks[servers - 1].ready = false;
        world.look(0, &looks);
        assert_eq!(world.ejected().len(), most, "of {servers}");
    }
}

#[test]
fn where_all_fail_alike_nobody_is_an_outlier() {
    let mut world = World::of(4);
    assert_eq!(world.look(0, &[failing(5), failing(3), failing(1), failing(9)]), []);
    assert_eq!(world.look(1, &[failing(5), WELL, failing(1), failing(9)]).len(), 2);
    // A server that is down, or that an order holds back, is not somebody who does better.
    let down = Look { healthy: false, ..WELL };
    let drains = Look { ready: false, ..WELL };
    assert_eq!(World::of(4).look(0, &[failing(5), down, drains, failing(1)]), []);
}

#[test]
fn only_a_server_that_is_ready_and_healthy_is_ejected() {
    let mut world = World::of(3);
    assert_eq!(world.look(0, &[Look { healthy: false, ..failing(9) }, Look { ready: false, ..failing(9) }, WELL]), []);
}

#[test]
fn switched_off_everybody_returns() {
    let mut world = World::of(2);
    world.look(0, &[failing(5), WELL]);
    assert_eq!(world.look_by(None, 1, &[WELL, WELL]), [(0, Change::Returned)]);
    assert_eq!(world.look_by(None, 2, &[failing(500), WELL]), []);
}

#[test]
fn those_that_went_together_come_back_apart() {
    let looks = [failing(5), failing(5), WELL, WELL];
    let mut servers: Vec<_> = looks.into_iter().map(|look| (Outlier::default(), look)).collect();
    let mut random = 0;
    step(
        Some(&plan()),
        seconds(0),
        || {
            random += u64::MAX / 3;
            random
        },
        &mut servers,
    );
    let until: Vec<_> = servers.iter().filter_map(|(outlier, _)| outlier.ejection()).map(|e| e.until).collect();
    assert!(until[0] != until[1] && until.iter().all(|u| (seconds(30)..=seconds(33)).contains(u)), "{until:?}");
}

proptest! {
    #[test]
    fn invariants_hold_whatever_is_seen(
        looks in prop::collection::vec(prop::collection::vec((0u32..8, 0u64..30, 0u64..30, any::<bool>(), 0u8..8), 4), 1..80),
        percent in 0u32..=100,
    ) {
        let plan = OutlierPlan { max_ejected_percent: percent, ..plan() };
        let mut world = World::of(4);
        let mut counts = [Counts::default(); 4];
        let mut now = 0;
        for row in looks {
            now += 7;
            let looks: Vec<Look> = row.iter().enumerate().map(|(i, (in_a_row, tries, faults, healthy, order))| {
                counts[i].tries += tries + faults;
                counts[i].faults += faults;
                Look { counts: counts[i], in_a_row: *in_a_row, healthy: *healthy, ready: *order > 0 }
            }).collect();
            let before = world.ejected();
            let changes = world.look_by(Some(&plan), now, &looks);
            let ready = looks.iter().filter(|l| l.ready).count();
            let fresh: Vec<usize> = changes.iter().filter(|(_, c)| matches!(c, Change::Ejected(_))).map(|(i, _)| *i).collect();
            let out = world.ejected().iter().filter(|i| looks[**i].ready).count();
            prop_assert!(fresh.is_empty() || out * 100 <= ready * percent as usize, "the share");
            for i in &fresh {
                prop_assert!(looks[*i].ready && looks[*i].healthy);
                prop_assert!((0..4).any(|j| looks[j].ready && looks[j].healthy && !world.ejected().contains(&j)), "somebody is left");
            }
            for i in before.iter().filter(|i| world.ejected().contains(i)) {
                let ejection = world.0[*i].ejection().unwrap();
                prop_assert!(seconds(now) < ejection.until, "an ejection ends");
                prop_assert!(ejection.until - ejection.since <= plan.max_ejection.mul_f64(1.1));
            }
        }
    }
}
