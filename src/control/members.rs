//! What operators said of servers while evenkeel ran: which are in service beside those of the file, which
//! are not, and how each is marked.
//!
//! Pure: values over a Plan. The file of the configuration says what should be; this says what somebody
//! wanted since, and is kept in the state file until the configuration says it, too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Plan;
use crate::config::plan::{Address, ServerPlan, UpstreamPlan};
use crate::upstream::Admin;

/// By name of the upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Members(BTreeMap<String, Said>);

/// What was said of one upstream's servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Said {
    /// In service beside those of the file, in the order in which they came.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    added: Vec<Added>,
    /// In the file and not in service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed: Vec<String>,
    /// By name of the server.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    marks: BTreeMap<String, Mark>,
}

/// A server that the file does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Added {
    name: String,
    address: String,
    weight: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    backup: bool,
    /// None is that of the upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_requests: Option<u64>,
}

/// What one server was set to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Mark {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admin: Option<Kept>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<u32>,
    /// It is to be removed once it is drained.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) leaving: bool,
}

/// The administrative states that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kept {
    Draining,
    Drained,
    Disabled,
}

impl Kept {
    pub(super) fn of(admin: Admin) -> Option<Self> {
        match admin {
            Admin::Ready => None,
            Admin::Draining => Some(Self::Draining),
            Admin::Drained => Some(Self::Drained),
            Admin::Disabled => Some(Self::Disabled),
        }
    }
}

impl Members {
    /// Nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets what the configuration says now, and what is about servers and upstreams that are no more.
    pub(super) fn prune(&mut self, file: &Plan) {
        self.0.retain(|name, said| {
            let Some(upstream) = file.upstreams.iter().find(|u| u.name == *name) else { return false };
            let configured = |name: &str| upstream.servers.iter().any(|server| server.name == name);
            said.added.retain(|added| !configured(&added.name) && added.plan().is_some());
            said.removed.retain(|name| configured(name));
            let Said { added, removed, marks } = said;
            marks.retain(|name, mark| {
                let there = configured(name) && !removed.contains(name) || added.iter().any(|a| a.name == *name);
                there && *mark != Mark::default()
            });
            *said != Said::default()
        });
        // An upstream without servers is none; whoever took the last of the file out wants the others gone, too.
        for upstream in &file.upstreams {
            if let Some(said) = self.0.get_mut(&upstream.name)
                && said.added.is_empty()
                && said.removed.len() == upstream.servers.len()
            {
                said.removed.clear();
            }
        }
    }

    /// What is to be in force when the file says `file`.
    pub(super) fn over(&self, file: &Plan) -> Plan {
        let mut plan = file.clone();
        for upstream in &mut plan.upstreams {
            self.apply(upstream);
        }
        plan
    }

    fn apply(&self, upstream: &mut UpstreamPlan) {
        let Some(said) = self.0.get(&upstream.name) else { return };
        upstream.servers.retain(|server| !said.removed.contains(&server.name));
        let most = upstream.max_requests;
        let limited =
            |added: &Added| Some(ServerPlan { max_requests: added.max_requests.unwrap_or(most), ..added.plan()? });
        upstream.servers.extend(said.added.iter().filter_map(limited));
    }

    /// A server comes into service that the file does not have; without a limit of its own it has that of
    /// the upstream.
    pub(super) fn add(&mut self, upstream: &str, server: &ServerPlan, limit: Option<u64>) {
        let ServerPlan { name, address, weight, max_requests: _, backup } = server;
        let (name, address) = (name.clone(), written(address));
        let added = Added { name, address, weight: *weight, backup: *backup, max_requests: limit };
        self.0.entry(upstream.to_owned()).or_default().added.push(added);
    }

    /// A server of the file comes back into service. Whether it was out.
    pub(super) fn bring_back(&mut self, upstream: &str, server: &str) -> bool {
        self.0.get_mut(upstream).is_some_and(|said| {
            let before = said.removed.len();
            said.removed.retain(|name| name != server);
            said.removed.len() != before
        })
    }

    /// A server goes out of service; `configured`: the file has it.
    pub(super) fn remove(&mut self, upstream: &str, server: &str, configured: bool) {
        let said = self.0.entry(upstream.to_owned()).or_default();
        said.added.retain(|added| added.name != server);
        said.marks.remove(server);
        if configured && !said.removed.iter().any(|name| name == server) {
            said.removed.push(server.to_owned());
        }
    }

    /// Puts `marks` in place of those of the upstream.
    pub(super) fn mark(&mut self, upstream: &str, marks: BTreeMap<String, Mark>) {
        if marks.is_empty() && !self.0.contains_key(upstream) {
            return;
        }
        let said = self.0.entry(upstream.to_owned()).or_default();
        said.marks = marks;
        if *said == Said::default() {
            self.0.remove(upstream);
        }
    }

    pub(super) fn mark_of(&self, upstream: &str, server: &str) -> Option<&Mark> {
        self.0.get(upstream)?.marks.get(server)
    }

    pub(super) fn is_added(&self, upstream: &str, server: &str) -> bool {
        self.0.get(upstream).is_some_and(|said| said.added.iter().any(|added| added.name == server))
    }

    /// Servers of the file that are out of service.
    pub(super) fn removed(&self, upstream: &str) -> &[String] {
        self.0.get(upstream).map_or(&[], |said| &said.removed)
    }
}

impl Added {
    /// None where another version wrote what this one cannot read.
    fn plan(&self) -> Option<ServerPlan> {
        // A name made from an address may hold what one that is given may not.
        let name = (self.name != self.address).then_some(self.name.as_str());
        let plan = crate::config::server(name, &self.address, self.weight).ok()?;
        Some(ServerPlan { backup: self.backup, ..plan })
    }
}

/// An address as it is read again.
fn written(address: &Address) -> String {
    address.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_alone;

    fn plan(servers: &str) -> Plan {
        let text = format!("[[listener]]\nbind = ':8080'\n[upstream.app]\n{servers}");
        parse_alone(&text).unwrap().plan
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.upstreams[0].servers.iter().map(|server| server.name.as_str()).collect()
    }

    const TWO: &str = "[[upstream.app.server]]\nname = 'a'\naddress = '127.0.0.1:1'\n\
                       [[upstream.app.server]]\nname = 'b'\naddress = '127.0.0.1:2'\n";

    #[test]
    fn what_was_said_lies_over_the_file() {
        let file = plan(TWO);
        let mut members = Members::default();
        members.add("app", &crate::config::server(Some("c"), "unix:/run/c.sock", 3).unwrap(), None);
        members.remove("app", "a", true);
        let over = members.over(&file);
        assert_eq!(names(&over), ["b", "c"]);
        assert_eq!(over.upstreams[0].servers[1].weight, 3);
        assert!(members.bring_back("app", "a") && !members.bring_back("app", "a"));
        members.remove("app", "c", false);
        assert_eq!(members.over(&file), file);
    }

    #[test]
    fn what_the_file_says_by_now_is_forgotten() {
        let mut members = Members::default();
        members.add("app", &crate::config::server(Some("b"), "127.0.0.1:9", 3).unwrap(), None);
        members.remove("app", "a", true);
        members.add("gone", &crate::config::server(Some("x"), "127.0.0.1:9", 1).unwrap(), None);
        let mark = Mark { weight: Some(7), ..Mark::default() };
        members.mark("app", [("b".to_owned(), mark.clone()), ("z".to_owned(), mark.clone())].into());
        members.prune(&plan(TWO));
        let file = plan(TWO);
        assert_eq!(names(&members.over(&file)), ["b"]);
        assert_eq!(members.over(&file).upstreams[0].servers[0].address.to_string(), "127.0.0.1:2", "the file's");
        assert_eq!((members.mark_of("app", "b"), members.mark_of("app", "z")), (Some(&mark), None));
        assert_eq!(members.removed("gone"), [""; 0]);
    }

    #[test]
    fn an_upstream_keeps_a_server() {
        let mut members = Members::default();
        members.remove("app", "a", true);
        members.remove("app", "b", true);
        members.prune(&plan(TWO));
        assert_eq!(names(&members.over(&plan(TWO))), ["a", "b"]);
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut members = Members::default();
        for address in ["127.0.0.1:1", "[::1]:2", "app.internal:3", "unix:/run/a b.sock"] {
            members.add("app", &crate::config::server(None, address, 1).unwrap(), None);
        }
        let spare = ServerPlan { backup: true, ..crate::config::server(Some("spare"), "127.0.0.1:4", 1).unwrap() };
        members.add("app", &spare, Some(7));
        members.remove("app", "a", true);
        let mark = Mark { admin: Some(Kept::Draining), weight: Some(0), leaving: true };
        members.mark("app", [("[::1]:2".to_owned(), mark)].into());
        let text = serde_json::to_string(&members).unwrap();
        assert_eq!(serde_json::from_str::<Members>(&text).unwrap(), members, "{text}");
        let over = members.over(&plan(&format!("max_requests = 9\n{TWO}")));
        let servers = &over.upstreams[0].servers;
        assert_eq!(servers.len(), 6);
        assert_eq!((servers[4].backup, servers[4].max_requests), (false, 9), "that of the upstream");
        assert_eq!((servers[5].backup, servers[5].max_requests), (true, 7));
    }
}
