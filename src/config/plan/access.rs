//! Who may come.

use std::net::IpAddr;

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
