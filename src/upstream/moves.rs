//! Why a sticky session goes to another server than the one that it is pinned to.

use super::{Admin, Operational, Server, State, Upstream};
use crate::balance::sticky_cookie::Pin;
use crate::metrics::cells::MoveReason;

impl Upstream {
    /// The position of the server that a pin names, if it is still a member.
    pub(super) fn position_of(&self, pin: &Pin) -> Option<usize> {
        self.position(pin.server)
    }

    fn position(&self, key: u64) -> Option<usize> {
        let found = self.by_key.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(self.by_key[found].1)
    }

    /// The server that a pin names, if it is still a member.
    #[must_use]
    pub fn pinned(&self, pin: &Pin) -> Option<&Server> {
        self.member(pin.server)
    }

    /// The server of that key ([`crate::balance::key_of`]), if it is a member.
    #[must_use]
    pub fn member(&self, key: u64) -> Option<&Server> {
        self.position(key).map(|position| &*self.servers[position])
    }

    /// The server of that uid, if it is a member.
    #[must_use]
    pub fn member_by_uid(&self, uid: u32) -> Option<&Server> {
        let found = self.by_uid.binary_search_by_key(&uid, |(uid, _)| *uid).ok()?;
        Some(&*self.servers[self.by_uid[found].1])
    }

    /// Whether the server of that pin drains, so that the session may as well leave it; not where the
    /// others are no better than a last resort.
    #[must_use]
    pub fn may_leave(&self, pin: &Pin) -> bool {
        !self.failing_open && self.pinned(pin).is_some_and(|server| server.state().admin == Admin::Draining)
    }

    /// Why a request with that pin was not sent to the server that it names.
    #[must_use]
    pub fn why_moved(&self, pin: &Pin) -> MoveReason {
        let Some(server) = self.pinned(pin) else { return MoveReason::Gone };
        match server.state() {
            State { admin: Admin::Drained, .. } => MoveReason::Drained,
            State { admin: Admin::Disabled, .. } => MoveReason::Disabled,
            State { operational: Operational::Ejected, .. } => MoveReason::Ejected,
            State { operational: Operational::Starting | Operational::Unhealthy, .. } => MoveReason::Unhealthy,
            // It would have taken the request, and was tried.
            State { operational: Operational::Healthy, .. } => MoveReason::Failed,
        }
    }
}
