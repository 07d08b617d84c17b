//! The bound on a server's load: at most so many times its share of what is in flight.
//!
//! With a bound of 1.25 no server has more than ⌈1.25 · (m + 1) · w / W⌉ requests at once, m those in flight
//! on all servers, w its weight and W that of all that take clients (Mirrokni, Thorup and Zadimoghaddam,
//! *Consistent Hashing with Bounded Loads*, 2018, <https://arxiv.org/abs/1608.01350>).

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use super::View;

/// How many times its share a server may have, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxLoad(u32);

impl MaxLoad {
    /// Thousandths, 1,000 to 100,000.
    #[must_use]
    pub fn from_thousandths(thousandths: u32) -> Option<Self> {
        (1_000..=100_000).contains(&thousandths).then_some(Self(thousandths))
    }

    /// The factor as a number.
    #[must_use]
    pub fn factor(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// What a server of `weight` may have in flight with one more than `total` in flight in all.
    pub(super) fn most(self, total: u64, weight: u32, all_weights: u64) -> u64 {
        let part = u128::from(self.0) * u128::from(total + 1) * u128::from(weight);
        let most = part.div_ceil(1000 * u128::from(all_weights.max(1)));
        u64::try_from(most).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for MaxLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.factor())
    }
}

/// Reads a bound: a number from 1 to 100, or `"off"`.
pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MaxLoad>, D::Error> {
    struct NumberOrOff;

    impl Visitor<'_> for NumberOrOff {
        type Value = Option<MaxLoad>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number from 1 to 100, such as 1.25, or \"off\"")
        }

        fn visit_f64<E: de::Error>(self, factor: f64) -> Result<Self::Value, E> {
            let thousandths = (factor * 1000.0).round();
            let bound =
                if (0.0..=1e6).contains(&thousandths) { MaxLoad::from_thousandths(thousandths as u32) } else { None };
            bound.map(Some).ok_or_else(|| {
                E::custom(format!("a bound of {factor} times the share: write 1 to 100, such as 1.25, or \"off\""))
            })
        }

        fn visit_i64<E: de::Error>(self, factor: i64) -> Result<Self::Value, E> {
            self.visit_f64(factor as f64)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            if text == "off" { Ok(None) } else { Err(E::invalid_value(de::Unexpected::Str(text), &self)) }
        }
    }

    deserializer.deserialize_any(NumberOrOff)
}

impl<'de> Deserialize<'de> for MaxLoad {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer)?.ok_or_else(|| de::Error::custom("a bound is a number from 1 to 100"))
    }
}

/// What is in flight on all servers, as one core saw it a few picks ago.
///
/// Adding up all servers for each pick would make it cost more the more there are; once in n/8 picks it
/// costs eight servers for each.
#[derive(Debug, Clone, Default)]
pub(super) struct Load {
    total: u64,
    picks_left: u32,
}

impl Load {
    /// Of these servers.
    pub(super) fn total(&mut self, servers: &[u32], view: &impl View) -> u64 {
        match self.picks_left.checked_sub(1) {
            Some(left) => self.picks_left = left,
            None => {
                self.total = servers.iter().map(|index| u64::from(view.in_flight(*index as usize))).sum();
                self.picks_left = servers.len() as u32 / 8;
            }
        }
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: 99 in flight and one more, ten servers, 1.25: ⌈12.5⌉; a third of the weight: ⌈41.7⌉.
    #[test]
    fn the_bound_is_that_of_the_paper() {
        let bound = MaxLoad::from_thousandths(1250).unwrap();
        assert_eq!(bound.most(99, 1, 10), 13);
        assert_eq!(bound.most(0, 1, 10), 1);
        assert_eq!(bound.most(99, 5, 15), 42);
        assert_eq!(bound.to_string(), "1.25");
    }

    #[test]
    fn a_bound_is_from_1_to_100() {
        assert!(MaxLoad::from_thousandths(999).is_none());
        assert!(MaxLoad::from_thousandths(100_000).is_some() && MaxLoad::from_thousandths(100_001).is_none());
    }
}
