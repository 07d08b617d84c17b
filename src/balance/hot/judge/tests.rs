use proptest::prelude::*;

use super::*;
use crate::balance::hot::SpaceSaving;

const SERVERS: usize = 4;

fn key(network: u32) -> Key {
    Key::V4 { network, bits: 32 }
}

/// A key's server is its number, modulo their count.
fn home(key: Key) -> Option<usize> {
    match key {
        Key::V4 { network, .. } => Some(network as usize % SERVERS),
        _ => None,
    }
}

/// A judge with a clock, and servers that pass on what they are told to.
#[derive(Default)]
struct Court {
    judge: Judge,
    seconds: u64,
    passed_on: [u64; SERVERS],
}

impl Court {
    /// The next second: requests by key, and how many requests each server has passed on meanwhile.
    fn second(&mut self, came: &[(u32, u64)], passed_on: [u64; SERVERS], bound: Option<f64>) -> Vec<Change> {
        let mut sketch = SpaceSaving::new(64);
        for (network, count) in came {
            (0..*count).for_each(|_| sketch.add(key(*network)));
        }
        self.seconds += 1;
        for (sum, more) in self.passed_on.iter_mut().zip(passed_on) {
            *sum += more;
        }
        let place = |(at, sum): (usize, &u64)| Place { server: at as u64, weight: 1, takes_new: true, passed_on: *sum };
        let places: Vec<Place> = self.passed_on.iter().enumerate().map(place).collect();
        self.judge.look(Look {
            now: Duration::from_secs(self.seconds),
            came: sketch.take(),
            places: &places,
            home: &home,
            share: 0.5,
            max_load: bound.and_then(|bound| MaxLoad::from_thousandths((bound * 1000.0) as u32)),
        })
    }
}

/// Forty homes, two requests each, of which ten belong to each server.
fn homes(and: &[(u32, u64)]) -> Vec<(u32, u64)> {
    (100..140).map(|network| (network, 2)).chain(and.iter().copied()).collect()
}

#[test]
fn an_office_is_hot_and_homes_are_not() {
    let mut court = Court::default();
    assert_eq!(court.second(&homes(&[]), [0; 4], None), [], "too few to say");
    // By hand: 80 of the office and 160 of homes in the window, of which a server's share is 60.
    let changes = court.second(&homes(&[(1, 80)]), [0; 4], None);
    let [Change::Began(hot)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((hot.key, hot.server, hot.rate), (key(1), 1, 40.0));
    assert!((hot.share - 80.0 / 240.0).abs() < 1e-9, "{hot:?}");
    // Its own third in quarters, and a quarter of the rest.
    assert!((hot.load - (4.0 / 3.0 + 2.0 / 3.0)).abs() < 1e-9, "{hot:?}");
    assert_eq!(court.second(&homes(&[(1, 80)]), [0; 4], None), [], "that is no news");
    // It cools down: a little less does not end it, much less does.
    let mut ended = Vec::new();
    for _ in 0..5 {
        ended.extend(court.second(&homes(&[]), [0; 4], None));
    }
    assert!(matches!(&ended[..], [Change::Ended(hot)] if hot.key == key(1)), "{ended:?}");
    assert!(court.judge.hot().is_empty());
}

#[test]
fn few_requests_and_one_server_make_nobody_hot() {
    let mut court = Court::default();
    for _ in 0..4 {
        assert_eq!(court.second(&[(1, 19)], [0; 4], None), []);
    }
    let place = Place { server: 0, weight: 1, takes_new: true, passed_on: 0 };
    let out = Place { server: 1, takes_new: false, ..place };
    for places in [&[place][..], &[place, out], &[place, Place { weight: 0, ..out }], &[]] {
        let mut sketch = SpaceSaving::new(8);
        (0..1_000).for_each(|_| sketch.add(key(4)));
        let (now, came) = (Duration::from_secs(1), sketch.take());
        let look = Look { now, came, places, home: &home, share: 0.5, max_load: None };
        assert_eq!(Judge::default().look(look), []);
    }
}

#[test]
fn it_is_spread_while_its_server_is_above_its_bound() {
    let mut court = Court::default();
    let office = homes(&[(1, 80)]);
    let kinds = |changes: Vec<Change>| -> Vec<&'static str> {
        let kind = |change: &Change| match change {
            Change::Began(_) => "began",
            Change::Ended(_) => "ended",
            Change::Spread(_) => "spread",
            Change::Gathered(_) => "gathered",
        };
        changes.iter().map(kind).collect()
    };
    assert_eq!(kinds(court.second(&office, [0; 4], Some(1.25))), ["began"]);
    // Hot, but nothing goes elsewhere; another server's bound is not its own.
    for _ in 0..5 {
        assert_eq!(kinds(court.second(&office, [40, 0, 40, 40], Some(1.25))), [""; 0]);
    }
    assert_eq!(kinds(court.second(&office, [0, 40, 0, 0], Some(1.25))), [""; 0], "a burst");
    assert_eq!(kinds(court.second(&office, [0; 4], Some(1.25))), [""; 0]);
    assert_eq!(kinds(court.second(&office, [0, 40, 0, 0], Some(1.25))), ["spread"], "two of three");
    assert_eq!(court.judge.spread().collect::<Vec<_>>(), [key(1)]);
    // Spread, its server is at ease: that alone gathers nobody, or it would be spread again at once.
    for _ in 0..10 {
        assert_eq!(kinds(court.second(&office, [0; 4], Some(1.25))), [""; 0]);
    }
    // By hand: 9 of 89 are 0.40 of a share, and 80 of 89 are 0.90: 1.3 shares are less than 0.8 · 2, in which case
    // it comes back, and are not less than 0.8 · 1.5.
    let mut calm = |bound: f64| -> Vec<&str> {
        (0..12).flat_map(|_| kinds(court.second(&homes(&[(1, 9)]), [0; 4], Some(bound)))).collect()
    };
    assert_eq!((calm(1.5), calm(2.0)), (vec![], vec!["gathered"]));
    assert_eq!(court.judge.spread().count(), 0);
}

#[test]
fn without_a_bound_what_was_spread_is_gathered() {
    let mut court = Court::default();
    let office = homes(&[(1, 80)]);
    (0..3).for_each(|_| drop(court.second(&office, [0, 40, 0, 0], Some(1.25))));
    assert_eq!(court.judge.spread().count(), 1);
    assert!(matches!(&court.second(&office, [0; 4], None)[..], [Change::Gathered(_)]));
    assert_eq!(court.judge.hot().len(), 1, "it is hot all the same");
}

/// A hundred offices at once: five are told of, and one that is spread keeps its place.
#[test]
fn few_are_told_apart_and_the_spread_ones_stay() {
    let mut court = Court::default();
    for _ in 0..3 {
        court.second(&homes(&[(1, 80)]), [0, 60, 0, 0], Some(1.25));
    }
    assert_eq!(court.judge.spread().collect::<Vec<_>>(), [key(1)]);
    let crowd: Vec<(u32, u64)> = (0..6).map(|n| (4 * n + 2, 90)).chain([(1, 150)]).collect();
    for _ in 0..10 {
        court.second(&crowd, [0; 4], Some(1.25));
        assert!(court.judge.hot().len() <= MOST);
        assert!(court.judge.spread().any(|spread| spread == key(1)), "{:?}", court.judge.hot());
    }
    assert_eq!(court.judge.hot().len(), MOST);
}

/// An address for each request: none of them is hot, whatever the sketch owes whom, and the office still is.
#[test]
fn made_up_addresses_make_nobody_hot() {
    let mut court = Court::default();
    for second in 0..10u32 {
        let made_up = (0..2_000).map(|n| (1_000_000 + second * 2_000 + n, 1));
        let came: Vec<(u32, u64)> = (0..20).flat_map(|_| [(1, 40)]).chain(made_up).collect();
        court.second(&came, [0; 4], None);
    }
    let hot: Vec<Key> = court.judge.hot().iter().map(|hot| hot.key).collect();
    assert_eq!(hot, [key(1)]);
}

proptest! {
    /// Whatever comes: who is hot has its share, few are hot, and each that began ends at the most once.
    #[test]
    fn what_is_said_adds_up(
        seconds in proptest::collection::vec(
            (proptest::collection::vec((0..30u32, 0..60u64), 0..20), proptest::array::uniform4(0..40u64)), 1..40),
        bound in proptest::option::of(1.0..3.0f64),
    ) {
        let mut court = Court::default();
        let (mut hot, mut spread) = (Vec::<(Key, u64)>::new(), Vec::<Key>::new());
        for (came, passed_on) in seconds {
            for change in court.second(&came, passed_on, bound) {
                match change {
                    Change::Began(new) => {
                        prop_assert!(!hot.contains(&(new.key, new.server)));
                        hot.push((new.key, new.server));
                    }
                    Change::Spread(new) => {
                        prop_assert!(!spread.contains(&new.key) && hot.iter().any(|(key, _)| *key == new.key));
                        prop_assert!(new.load > bound.unwrap() - 0.001);
                        spread.push(new.key);
                    }
                    Change::Gathered(old) => {
                        prop_assert!(spread.contains(&old.key));
                        spread.retain(|key| *key != old.key);
                    }
                    Change::Ended(old) => {
                        prop_assert!(!spread.contains(&old.key), "gathered first");
                        hot.retain(|(key, _)| *key != old.key);
                    }
                }
            }
            prop_assert!(court.judge.hot().len() <= MOST);
            let total: f64 = court.judge.hot().iter().map(|hot| hot.share).sum();
            prop_assert!(total <= 1.0 + 1e-9);
            let mut now: Vec<Key> = court.judge.spread().collect();
            now.sort();
            spread.sort();
            prop_assert_eq!(&now, &spread);
        }
    }
}
