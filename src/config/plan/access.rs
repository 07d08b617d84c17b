//! Who may come.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderValue;
use ipnet::IpNet;

/// Which clients are let in, by their address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Only these; empty: everybody.
    pub allow: Vec<IpNet>,
    /// Not these, whatever `allow` says.
    pub deny: Vec<IpNet>,
}

impl Access {
    /// Whether a client is let in.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&client));
        (self.allow.is_empty() || is_in(&self.allow)) && !is_in(&self.deny)
    }
}

/// Who has to say a name and a password (RFC 7617).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicAuthPlan {
    pub realm: String,
    /// What is asked of those who do not.
    pub challenge: HeaderValue,
    pub users: Arc<Users>,
    /// Where they were read from.
    pub users_file: Option<PathBuf>,
    /// Whether servers get the credentials, too.
    pub forward: bool,
}

/// Names and the bcrypt hashes of their passwords, which no message and no log may show.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Users {
    /// By name.
    sorted: Vec<(Box<str>, Arc<str>)>,
}

impl Users {
    /// Of names that differ and hashes that are right.
    #[must_use]
    pub fn new(users: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut sorted: Vec<_> = users.into_iter().map(|(name, hash)| (name.into(), hash.into())).collect();
        sorted.sort();
        Self { sorted }
    }

    /// The hash of a user's password.
    #[must_use]
    pub fn hash_of(&self, name: &str) -> Option<&Arc<str>> {
        let at = self.sorted.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.sorted[at].1)
    }

    /// The hash of some user, always the same for the same number.
    #[must_use]
    pub fn any_hash(&self, number: u64) -> Option<&Arc<str>> {
        let count = u64::try_from(self.sorted.len()).ok()?;
        self.sorted.get(usize::try_from(number.checked_rem(count)?).ok()?).map(|(_, hash)| hash)
    }

    /// Every name, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sorted.iter().map(|(name, _)| &**name)
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_is_denied_and_only_what_is_allowed_is_allowed() {
        let access = |allow: &[&str], deny: &[&str]| {
            let networks = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
            Access { allow: networks(allow), deny: networks(deny) }
        };
        for (access, client, admitted) in [
            (access(&[], &[]), "192.0.2.1", true),
            (access(&["192.0.2.0/24"], &[]), "192.0.2.1", true),
            (access(&["192.0.2.0/24"], &[]), "192.0.3.1", false),
            (access(&["192.0.2.0/24"], &[]), "2001:db8::1", false),
            (access(&["192.0.2.0/24", "2001:db8::/32"], &[]), "2001:db8::1", true),
            (access(&[], &["192.0.2.1/32"]), "192.0.2.1", false),
            (access(&[], &["192.0.2.1/32"]), "192.0.2.2", true),
            (access(&["192.0.2.0/24"], &["192.0.2.1/32"]), "192.0.2.1", false),
            (access(&["192.0.2.1/32"], &["192.0.2.0/24"]), "192.0.2.1", false),
            (access(&[], &["0.0.0.0/0"]), "2001:db8::1", true),
        ] {
            assert_eq!(access.admits(client.parse().unwrap()), admitted, "{access:?} {client}");
        }
    }
}
