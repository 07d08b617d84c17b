use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::balance::rendezvous::{at_least, minus_log2};
use crate::balance::tests::{Servers, members};

/// Health does not rebuild the table; a name, a weight or an order does.
#[test]
fn owners_are_taken_over_while_names_and_weights_stay() {
    let before = members(&[1, 2, 3]);
    let first = Slots::new(&before, None, None);
    let taken_over = |members: &[Member]| {
        Arc::ptr_eq(&Slots::new(members, MaxLoad::from_thousandths(2000), Some(&first)).owners, &first.owners)
    };
    let mut down = before.clone();
    down[0].takes_new = false;
    assert!(taken_over(&down));
    let mut heavier = before.clone();
    heavier[0].weight = 2;
    assert!(!taken_over(&heavier));
    assert!(!taken_over(&before[..2]));
    let mut turned = before.clone();
    turned.reverse();
    assert!(!taken_over(&turned));
}

/// Replicas of any version and platform agree: these numbers may never change.
#[test]
fn owners_never_change() {
    let digest = |weights: &[u32]| {
        let slots = Slots::new(&members(weights), None, None);
        xxh3_64(&slots.owners.slots.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>())
    };
    assert_eq!(digest(&[1; 10]), 0xAE92_328C_0DC3_2950);
    assert_eq!(digest(&[1, 2, 3, 4, 5, 60, 700, 1000]), 0x68E0_7340_375F_41C5);
}

fn spread(slots: &Slots, view: &mut Servers, hashes: impl Iterator<Item = u64>) {
    let mut scratch = Scratch::new(0, 1);
    for hash in hashes {
        let index = slots.pick(hash, &mut scratch, view).unwrap();
        view.in_flight[index] += 1;
    }
}

/// Two thousand requests at once from one address: without a bound one server has them all, with one of
/// 1.25 none of ten has more than ⌈1.25 · 2000 / 10⌉, weights counted.
#[test]
fn a_bound_spreads_what_one_key_sends() {
    for weights in [&[1u32; 10][..], &[1, 2, 3, 4]] {
        let bound = MaxLoad::from_thousandths(1250);
        let (free, bounded) = (Slots::new(&members(weights), None, None), Slots::new(&members(weights), bound, None));
        let mut view = Servers::up(weights.len());
        spread(&free, &mut view, std::iter::repeat_n(7, 2000));
        assert_eq!(view.in_flight.iter().filter(|n| **n > 0).count(), 1);
        let mut view = Servers::up(weights.len());
        spread(&bounded, &mut view, std::iter::repeat_n(7, 2000));
        let all: u32 = weights.iter().sum();
        for (n, weight) in view.in_flight.iter().zip(weights) {
            assert!(*n <= (2500 * weight).div_ceil(all), "{:?}", view.in_flight);
        }
    }
}

/// What one that drains still has is nothing to share.
#[test]
fn a_server_that_drains_does_not_lift_the_bound() {
    let mut members = members(&[1; 4]);
    members[3].takes_new = false;
    let bounded = Slots::new(&members, MaxLoad::from_thousandths(1250), None);
    let mut view = Servers::up(4);
    (view.takes_new[3], view.in_flight[3]) = (false, 1000);
    spread(&bounded, &mut view, std::iter::repeat_n(7, 30));
    assert!(view.in_flight[..3].iter().all(|n| *n <= 13), "{:?}", view.in_flight);
}

/// While nobody has more than the bound, a bound changes nothing.
#[test]
fn a_bound_moves_nobody_who_need_not_move() {
    let members = members(&[1; 10]);
    let (free, bounded) =
        (Slots::new(&members, None, None), Slots::new(&members, MaxLoad::from_thousandths(2000), None));
    let mut view = Servers::up(10);
    view.in_flight = vec![100; 10];
    let mut scratch = Scratch::new(0, 1);
    for n in 0..10_000u64 {
        let hash = mix(n);
        assert_eq!(free.pick(hash, &mut scratch, &view), bounded.pick(hash, &mut scratch, &view));
    }
    // One that is overloaded passes on what is its own, to all others.
    let hot = free.pick(mix(1), &mut scratch, &view).unwrap();
    view.in_flight[hot] = 400;
    let mut to = [0u32; 10];
    for n in 0..10_000u64 {
        let (before, after) =
            (free.pick(mix(n), &mut scratch, &view).unwrap(), bounded.pick(mix(n), &mut scratch, &view).unwrap());
        assert!(before == after || before == hot, "only its own move");
        to[after] += u32::from(before != after);
    }
    assert!(to.iter().enumerate().all(|(i, n)| (*n == 0) == (i == hot)), "{to:?}");
}

/// The definition, said in floating point: the least −log2(u)/weight owns the slot.
#[test]
fn integer_logarithms_agree_with_the_definition() {
    for hash in [1, 2, 3, 1 << 63, u64::MAX >> 1, 0x9E37_79B9_7F4A_7C15, u64::MAX - (1 << 40), 12_345_678_901] {
        let exact = -(hash as f64 / 2f64.powi(64)).log2();
        let fixed = minus_log2(hash) as f64 / 2f64.powi(48);
        assert!((exact - fixed).abs() < 1e-12, "{hash}: {fixed} instead of {exact}");
    }
    let servers = members(&[1, 7, 20, 300, 1000]);
    let slots = Slots::new(&servers, None, None);
    for (slot, owner) in slots.owners.slots.iter().enumerate() {
        let cost = |i: usize| {
            let u = mix(hash_of(slot) ^ servers[i].key) as f64 / 2f64.powi(64);
            -u.log2() / f64::from(servers[i].weight)
        };
        let least = (0..servers.len()).map(cost).fold(f64::MAX, f64::min);
        assert!(cost(usize::from(*owner)) <= least * (1.0 + 1e-9));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn logarithms_fall_and_stay_above_their_bound(a: u64, b: u64, near in 0u64..1 << 50) {
        let (low, high) = (a.min(b), a.max(b));
        prop_assert!(minus_log2(low) >= minus_log2(high));
        for hash in [a, b, !near] {
            prop_assert!(at_least(hash) <= minus_log2(hash));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Neither the order of the servers nor a short cut changes an owner.
    #[test]
    fn short_cuts_agree_with_the_whole_comparison(
        keys in prop::collection::hash_set(any::<u64>(), 1..20),
        weights in prop::collection::vec(1u32..=1000, 20),
        equal: bool,
        slots in prop::collection::vec(0..SLOTS, 20),
    ) {
        let servers: Vec<(u16, Candidate)> = (0u16..)
            .zip(keys)
            .map(|(i, key)| (i, Candidate { key, weight: if equal { 7 } else { weights[usize::from(i)] } }))
            .collect();
        let turned: Vec<(u16, Candidate)> = servers.iter().rev().copied().collect();
        for slot in slots {
            let slot_hash = hash_of(slot);
            let whole = servers.iter().map(|(i, s)| (*i, Contender::new(slot_hash, s)));
            let best = whole.reduce(|a, b| if b.1.beats(&a.1) { b } else { a }).map(|(i, _)| i);
            prop_assert_eq!(Some(winner(slot_hash, &servers)), best);
            prop_assert_eq!(Some(winner(slot_hash, &turned)), best);
            if equal {
                prop_assert_eq!(Some(highest(slot_hash, &servers)), best);
            }
        }
    }
}
