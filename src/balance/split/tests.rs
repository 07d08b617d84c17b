use proptest::prelude::*;

use super::*;

const USERS: u64 = 20_000;

/// Users in a row: their numbers are as little random as can be.
fn places(upstreams: &[(&str, u32)], from: u64) -> Vec<usize> {
    let split = Split::new(upstreams.iter().copied());
    (from..from + USERS).map(|n| split.pick(User::of_number(n)).unwrap()).collect()
}

fn share(places: &[usize], of: usize) -> f64 {
    places.iter().filter(|place| **place == of).count() as f64 / places.len() as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_upstream_gets_its_share(weights in prop::collection::vec(0u32..=1000, 1..6), from: u32) {
        prop_assume!(weights.iter().any(|w| *w > 0));
        let names = ["a", "b", "c", "d", "e"];
        let upstreams: Vec<_> = names.into_iter().zip(weights.iter().copied()).collect();
        let places = places(&upstreams, u64::from(from));
        let sum = f64::from(weights.iter().sum::<u32>());
        for (at, weight) in weights.iter().enumerate() {
            let due = f64::from(*weight) / sum;
            // Five standard deviations, at the worst.
            prop_assert!((share(&places, at) - due).abs() < 0.018, "{weights:?} {at} {}", share(&places, at));
            prop_assert!(*weight > 0 || share(&places, at) == 0.0);
        }
    }

    #[test]
    fn a_weight_that_grows_moves_users_to_it_only_and_no_more_than_it_grew(
        weights in prop::collection::vec(1u32..=1000, 2..6),
        more in 1u32..=1000,
        which: prop::sample::Index,
        from: u32,
    ) {
        let names = ["a", "b", "c", "d", "e"];
        let grown = which.index(weights.len());
        let mut upstreams: Vec<_> = names.into_iter().zip(weights.iter().copied()).collect();
        let before = places(&upstreams, u64::from(from));
        upstreams[grown].1 += more;
        let after = places(&upstreams, u64::from(from));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(b, a)| b != a).collect();
        prop_assert!(moved.iter().all(|(_, after)| **after == grown));
        let difference = share(&after, grown) - share(&before, grown);
        prop_assert!((moved.len() as f64 / USERS as f64 - difference).abs() < 1e-9);
    }

    #[test]
    fn neither_the_order_nor_a_common_factor_matters(
        weights in prop::collection::vec(0u32..=100, 2..6),
        factor in 1u32..=100,
        number: u64,
    ) {
        prop_assume!(weights.iter().any(|w| *w > 0));
        let names = ["a", "b", "c", "d", "e"];
        let upstreams: Vec<_> = names.into_iter().zip(weights).collect();
        let turned = Split::new(upstreams.iter().rev().map(|(name, weight)| (*name, weight * factor)));
        let user = User::of_number(number);
        let place = Split::new(upstreams.iter().copied()).pick(user).unwrap();
        prop_assert_eq!(turned.pick(user), Some(upstreams.len() - 1 - place));
    }

    #[test]
    fn a_cookie_says_its_number_and_nothing_else_is_one(number: u64, text in "[0-9a-fA-F g]{0,20}") {
        let set = SplitCookie::default().set_cookie(number, false);
        let value = set.strip_prefix("evenkeel_split=").unwrap().split(';').next().unwrap();
        prop_assert_eq!(number_in(value.as_bytes()), Some(number));
        let is_itself = number_in(text.as_bytes()).is_none_or(|number| format!("{number:016x}") == text);
        prop_assert!(is_itself, "{text}");
    }
}

/// What a release does: 5 % of the users, then 10 %.
#[test]
fn from_five_to_ten_percent_one_in_twenty_moves_and_all_of_them_to_the_new() {
    let before = places(&[("new", 5), ("old", 95)], 0);
    let after = places(&[("new", 10), ("old", 90)], 0);
    assert!((share(&before, 0) - 0.05).abs() < 0.006, "{}", share(&before, 0));
    assert!((share(&after, 0) - 0.10).abs() < 0.008, "{}", share(&after, 0));
    assert!(before.iter().zip(&after).all(|(before, after)| *before == 1 || *after == 0), "nobody goes back");
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count() as f64 / USERS as f64;
    assert!((moved - 0.05).abs() < 0.006, "{moved}");
}

/// Replicas of different versions have to agree: these never change.
#[test]
fn the_places_are_the_same_in_every_version() {
    let split = Split::new([("new", 30), ("old", 70)]);
    let of_numbers: Vec<_> = (0..24).map(|n| split.pick(User::of_number(n)).unwrap()).collect();
    assert_eq!(of_numbers, [1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1, 0]);
    let of_addresses: Vec<_> =
        (0..24).map(|n| split.pick(User::of_address(IpAddr::from([192, 0, 2, n]))).unwrap()).collect();
    assert_eq!(of_addresses, [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1]);
}

#[test]
fn an_address_is_a_user_as_far_as_it_is_one_client() {
    let user = |text: &str| User::of_address(text.parse().unwrap());
    assert_eq!(user("2001:db8:1:2:3:4:5:6"), user("2001:db8:1:2::1"));
    assert_ne!(user("2001:db8:1:2::1"), user("2001:db8:1:3::1"));
    assert_eq!(user("::ffff:192.0.2.1"), user("192.0.2.1"));
    assert_ne!(user("192.0.2.1"), user("192.0.2.2"));
    let split = Split::new([("a", 1), ("b", 1)]);
    let clients = (0..10_000u32).map(|n| IpAddr::V4((0x0A00_0000 + n).into()));
    let first = clients.filter(|client| split.pick(User::of_address(*client)) == Some(0)).count();
    assert!((4_700..=5_300).contains(&first), "{first}");
}

#[test]
fn without_weights_nobody_belongs_anywhere() {
    assert_eq!(Split::new([("a", 0), ("b", 0)]).pick(User::of_number(1)), None);
    assert_eq!(Split::new([]).pick(User::of_number(1)), None);
    assert_eq!(Split::new([("a", 0), ("b", 1)]).pick(User::of_number(1)), Some(1));
}

#[test]
fn the_cookie_has_its_attributes() {
    let cookie = SplitCookie { name: "x".to_owned(), max_age: Duration::from_secs(60) };
    assert_eq!(cookie.set_cookie(10, false), "x=000000000000000a; Path=/; Max-Age=60; SameSite=Lax; HttpOnly");
    assert_eq!(cookie.set_cookie(10, true), "x=000000000000000a; Path=/; Max-Age=60; SameSite=Lax; Secure; HttpOnly");
}
