//! Who asks when: drawn from the seed once, and the same for every policy.
//!
//! Each group is a Poisson process of its rate, and each request is of one of its users, all alike. What the
//! servers answer changes nothing of it: that is what makes the load open-loop, and its latencies free of
//! coordinated omission.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::scenario::{Group, Items, Scenario};
use crate::balance::Scratch;

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// After the beginning.
    pub at: Duration,
    /// Position of its group.
    pub group: u16,
    /// Its user's number within the group.
    pub user: u32,
    /// The item that is asked for, where users ask for items.
    pub item: u32,
}

impl Arrival {
    /// What its user is called.
    #[must_use]
    pub fn name(&self) -> String {
        format!("g{}u{}", self.group, self.user)
    }
}

/// Everything that is due, in its order.
#[must_use]
pub fn schedule(scenario: &Scenario) -> Vec<Arrival> {
    let mut all = Vec::new();
    let popular = scenario.items.as_ref().map(Items::likelihoods);
    for (number, group) in (0u16..).zip(&scenario.groups) {
        let mut chance = Scratch::new(usize::from(number), scenario.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1AB);
        let end = group.until(scenario.duration).as_secs_f64();
        let mut at = group.from.as_secs_f64();
        loop {
            // Uniform on (0, 1], so that its logarithm is a number.
            let uniform = ((chance.random() >> 11) + 1) as f64 / (1u64 << 53) as f64;
            at -= uniform.ln() / group.rate;
            if at >= end {
                break;
            }
            let user = chance.below(group.users);
            let item = popular.as_ref().map_or(0, |popular| Items::draw(popular, &mut chance));
            all.push(Arrival { at: Duration::from_secs_f64(at), group: number, user, item });
        }
    }
    all.sort_by_key(|arrival| arrival.at);
    all
}

/// The source address of a user: one of 127.16.0.0 and on, each group in a network of its own. Where a group
/// has more addresses than there are, which is in virtual time only, it is one that nobody listens on.
#[must_use]
pub fn address(number: u16, group: &Group, user: u32) -> Ipv4Addr {
    let place = user % group.addresses();
    if group.addresses() > 250 * 256 {
        return Ipv4Addr::from_bits((1 + u32::from(number)) << 24 | place);
    }
    Ipv4Addr::new(127, 16 + number as u8, (place / 250) as u8, 1 + (place % 250) as u8)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lab::scenario::Limits;

    fn scenario(seed: u64) -> Scenario {
        Scenario::read(
            &format!(
                "title = 't'\nduration = '20s'\nseed = {seed}\n[servers]\ncount = 2\n\
             [[group]]\nname = 'office'\nusers = 300\naddresses = 1\nrate = 100\n\
             [[group]]\nname = 'home'\nusers = 300\nrate = 50\nfrom = '10s'\n\
             [[policy]]\nname = 'p'\npolicy = 'round_robin'\n"
            ),
            Limits::REAL,
        )
        .unwrap()
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals() {
        assert_eq!(schedule(&scenario(7)), schedule(&scenario(7)));
        assert_ne!(schedule(&scenario(7)), schedule(&scenario(8)));
    }

    #[test]
    fn rates_are_kept_and_moments_are_random() {
        let all = schedule(&scenario(1));
        let of = |group| all.iter().filter(|a| a.group == group).count() as f64;
        // Within four standard deviations of a Poisson count.
        assert!((of(0) - 2000.0).abs() < 4.0 * 2000f64.sqrt(), "{}", of(0));
        assert!((of(1) - 500.0).abs() < 4.0 * 500f64.sqrt(), "{}", of(1));
        assert!(all.iter().filter(|a| a.group == 1).all(|a| a.at >= Duration::from_secs(10)));
        assert!(all.is_sorted_by_key(|a| a.at));
        // Gaps of a Poisson process vary as much as they are long.
        let times: Vec<f64> = all.iter().filter(|a| a.group == 0).map(|a| a.at.as_secs_f64()).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.15, "{deviation} {mean}");
    }

    #[test]
    fn an_office_has_one_address_and_homes_have_their_own() {
        let scenario = scenario(1);
        let all = |number: u16| -> BTreeSet<Ipv4Addr> {
            let group = &scenario.groups[usize::from(number)];
            (0..group.users).map(|user| address(number, group, user)).collect()
        };
        assert_eq!((all(0).len(), all(1).len()), (1, 300));
        assert!(all(0).is_disjoint(&all(1)));
    }
}
