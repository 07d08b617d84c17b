//! Who may come.

use ipnet::IpNet;

use super::Compiler;
use crate::config::plan::Access;
use crate::config::spec::{At, OneOrMany};

impl Compiler<'_> {
    pub(super) fn access(&mut self, allow: Option<&At<OneOrMany>>, deny: Option<&At<OneOrMany>>) -> Access {
        let mut networks =
            |list: Option<&At<OneOrMany>>, key| list.map(|list| self.networks(list, key)).unwrap_or_default();
        Access { allow: networks(allow, "allow"), deny: networks(deny, "deny") }
    }

    /// A list of networks, which may not be empty: that would be everybody as well as nobody.
    pub(super) fn networks(&mut self, list: &At<OneOrMany>, key: &str) -> Vec<IpNet> {
        if list.get_ref().0.is_empty() {
            self.error(list.span(), format!("`{key}` is empty"), "name a network, or leave the key out");
        }
        list.get_ref().0.iter().filter_map(|text| self.any_network(text)).collect()
    }
}
