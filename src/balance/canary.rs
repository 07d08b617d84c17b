//! Which users meet new servers first: a share of them that stays the same, and those of some networks.
//!
//! A user is in by a number that is theirs alone: whoever was in at 5 % is in at 10 %, and who was not asked
//! twice is not asked anew. What users are known by is that of [`super::split`], drawn again with another
//! seed, so that a canary behind a split takes its share of each side.

use std::net::IpAddr;

use ipnet::IpNet;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::split::{SplitCookie, User};

/// Seed of the draw.
const SEED: u64 = 0x6576_656E_6B63_616E;
/// The whole, in the unit of shares.
pub const WHOLE: u32 = 10_000;

/// What a user is known by, where no sticky cookie says where they belong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CanaryBy {
    /// A random cookie that is set once.
    #[default]
    Cookie,
    /// The client's address after trusted proxies.
    Address,
}

impl CanaryBy {
    /// The name that the admin API uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cookie => "cookie",
            Self::Address => "address",
        }
    }
}

/// Who meets the new servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    pub by: CanaryBy,
    /// Of [`WHOLE`].
    pub share: u32,
    pub allow: Vec<IpNet>,
    /// The cookie that users are known by.
    pub cookie: SplitCookie,
}

impl Canary {
    /// A canary for that share of [`WHOLE`], and for all clients in `allow`.
    #[must_use]
    pub fn new(by: CanaryBy, share: u32, allow: Vec<IpNet>) -> Self {
        // A day: longer than any canary, and not for ever.
        let max_age = std::time::Duration::from_secs(24 * 3600);
        Self { by, share, allow, cookie: SplitCookie { name: "evenkeel_canary".to_owned(), max_age } }
    }

    /// Whether everybody at that address is in.
    #[must_use]
    pub fn allows(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.allow.iter().any(|network| network.contains(&client))
    }

    /// Whether a user is in.
    #[must_use]
    pub fn takes(&self, user: User) -> bool {
        let drawn = xxh3_64_with_seed(&user.number().to_be_bytes(), SEED);
        // The upper half times the whole: a draw of 0 to WHOLE - 1 (Lemire's multiply-shift).
        ((drawn >> 32) * u64::from(WHOLE)) >> 32 < u64::from(self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary(share: u32) -> Canary {
        let allow = vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        Canary::new(CanaryBy::Cookie, share, allow)
    }

    #[test]
    fn the_share_is_held_and_grows_by_whom_it_lacks() {
        let users: Vec<User> = (0..20_000).map(User::of_number).collect();
        let (few, more) = (canary(500), canary(2_000));
        let count = |canary: &Canary| users.iter().filter(|user| canary.takes(**user)).count();
        // Five standard deviations of a binomial of 20,000 draws.
        assert!(count(&few).abs_diff(1_000) < 155, "{}", count(&few));
        assert!(count(&more).abs_diff(4_000) < 283, "{}", count(&more));
        assert!(users.iter().all(|user| !few.takes(*user) || more.takes(*user)), "who was in is in");
        assert_eq!((count(&canary(0)), count(&canary(WHOLE))), (0, users.len()));
    }

    #[test]
    fn networks_are_let_in_as_a_whole() {
        let canary = canary(0);
        for (address, is_in) in
            [("10.1.2.3", true), ("10.2.2.3", false), ("::ffff:10.1.2.3", true), ("2001:db8::1", true)]
        {
            assert_eq!(canary.allows(address.parse().unwrap()), is_in, "{address}");
        }
    }
}
