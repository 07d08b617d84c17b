//! Whose requests go from server to server on purpose, in live traffic, and whose stay beside them.
//!
//! A user is drawn once: who is in at 5 % is in whatever happens to them. What they are drawn by is that of
//! [`super::split`] with another seed, so an experiment behind a split takes its share of each side; it is the
//! same on every replica, or a user would be moved here and kept there.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Scratch;
use super::split::User;

/// Seed of the draw, and of homes.
const SEED: u64 = 0x6576_656E_6B6C_6974;

/// What becomes of a user's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Each goes to another server than the one before, where its method may.
    Shuffled,
    /// They stay at one server.
    Control,
}

impl Group {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Shuffled, Self::Control];

    /// The name that the status and the metrics use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shuffled => "shuffled",
            Self::Control => "control",
        }
    }

    /// The group that a user is in, of which each has `percent` of all; most users are in none.
    #[must_use]
    pub fn of(user: User, percent: u32) -> Option<Self> {
        let drawn = xxh3_64_with_seed(&user.number().to_be_bytes(), SEED);
        // A draw of 0 to 9,999 (Lemire's multiply-shift).
        let drawn = ((drawn >> 32) * 10_000) >> 32;
        let share = u64::from(percent) * 100;
        match drawn {
            drawn if drawn < share => Some(Self::Shuffled),
            drawn if drawn < 2 * share => Some(Self::Control),
            _ => None,
        }
    }
}

/// A server that may be gone to.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub index: usize,
    /// Stable hash of its name.
    pub key: u64,
    pub weight: u32,
}

/// What tells a server from the others where there is little room; never 0.
#[must_use]
pub fn mark(key: u64) -> u16 {
    (key as u16).max(1)
}

/// Where a user is at home: by the highest weighted draw, so that it is the same until that server goes.
#[must_use]
pub fn home(user: User, places: impl Iterator<Item = Place>) -> Option<usize> {
    let score = |place: &Place| {
        let drawn = xxh3_64_with_seed(&(user.number() ^ place.key).to_be_bytes(), SEED);
        // In (0, 1): of 53 bits, and never an end.
        let drawn = ((drawn >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(place.weight) / drawn.ln()
    };
    places.max_by(|a, b| score(a).total_cmp(&score(b))).map(|place| place.index)
}

/// Another server than the one marked so, by lot and weight.
#[must_use]
pub fn away(last: u16, places: &(impl Iterator<Item = Place> + Clone), scratch: &mut Scratch) -> Option<usize> {
    let others = || places.clone().filter(|place| mark(place.key) != last);
    let all: u32 = others().map(|place| place.weight).sum();
    if all == 0 {
        return None;
    }
    let mut left = scratch.below(all);
    let mut found = None;
    for place in others() {
        found = Some(place.index);
        match left.checked_sub(place.weight) {
            Some(rest) => left = rest,
            None => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::key_of;

    fn places(weights: &[u32]) -> Vec<Place> {
        let place =
            |(index, weight): (usize, &u32)| Place { index, key: key_of(&format!("s{index}")), weight: *weight };
        weights.iter().enumerate().map(place).collect()
    }

    #[test]
    fn both_groups_have_their_share_and_nobody_is_in_both() {
        let drawn = |percent| (0..20_000).map(move |n| Group::of(User::of_number(n), percent));
        let count = |percent, group| drawn(percent).filter(|drawn| *drawn == group).count();
        for group in Group::ALL {
            // Five standard deviations of a binomial of 20,000 draws.
            assert!(count(5, Some(group)).abs_diff(1_000) < 155, "{group:?}");
        }
        assert_eq!(count(50, None), 0, "half and half");
    }

    #[test]
    fn homes_are_shared_by_weight_and_kept_when_another_goes() {
        let places = places(&[1, 2, 1]);
        let homes: Vec<usize> = (0..4_000).map(|n| home(User::of_number(n), places.iter().copied()).unwrap()).collect();
        for (index, share) in [(0, 1_000), (1, 2_000), (2, 1_000)] {
            let there = homes.iter().filter(|home| **home == index).count();
            assert!(there.abs_diff(share) < 160, "{index}: {there}");
        }
        for (n, before) in homes.iter().enumerate() {
            let now = home(User::of_number(n as u64), places.iter().copied().filter(|p| p.index != 0)).unwrap();
            assert!(now == *before || *before == 0);
        }
        assert_eq!(home(User::of_number(1), [].into_iter()), None);
    }

    #[test]
    fn away_is_never_where_it_was() {
        let places = places(&[1, 1, 3]);
        let mut scratch = Scratch::new(0, 1);
        let mut counts = [0; 3];
        for _ in 0..1_000 {
            counts[away(mark(places[1].key), &places.iter().copied(), &mut scratch).unwrap()] += 1;
        }
        assert!(counts[1] == 0 && counts[2] > 2 * counts[0] && counts[0] > 150, "{counts:?}");
        assert_eq!(away(mark(places[0].key), &places[..1].iter().copied(), &mut scratch), None);
    }
}
