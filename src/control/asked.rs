//! What servers ask for themselves: a drain, and by doing well again, its end.
//!
//! A server is heard in its checks, and in the answers that it gives to requests. What an operator said of
//! it goes before what it asks: a server that was drained or disabled by order is not made ready by its
//! checks, and one that was made ready by order is not drained until it has ceased to ask. Nor is the last
//! server that takes new clients: there, a request that may fail is better than one that must.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::info;

use super::registry::Member;
use super::supervisor::Supervisor;
use crate::health::Hears;
use crate::upstream::Admin;

/// Who has marked a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum By {
    #[default]
    Operator,
    /// The server itself.
    Server,
}

impl By {
    /// The name in the status.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Server => "server",
        }
    }
}

/// How a server asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum How {
    /// In its checks.
    Check,
    /// In its answers to requests alone; whether a check has failed since.
    Answer { has_failed: bool },
}

/// What a server asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    how: Option<How>,
    /// Whether an operator has made it ready all the same.
    overruled: bool,
    /// Whether it was said that it is kept for want of another.
    kept: bool,
}

impl Asked {
    /// A check has asked for a drain.
    pub(super) fn in_check(&mut self) {
        self.how = Some(How::Check);
    }

    /// An answer to a request has.
    pub(super) fn in_answer(&mut self) {
        if self.how != Some(How::Check) {
            self.how = Some(How::Answer { has_failed: false });
        }
    }

    /// A check has passed without a word. It means what it says where the checks have asked; where only
    /// answers have, it takes a failure in between to tell that it is another process now.
    pub(super) fn passed(&mut self) {
        if matches!(self.how, Some(How::Check | How::Answer { has_failed: true })) {
            *self = Self::default();
        }
    }

    /// A check has failed, or a connection.
    pub(super) fn failed(&mut self) {
        if let Some(How::Answer { has_failed }) = &mut self.how {
            *has_failed = true;
        }
    }

    /// An answer to a request has none of it: an operator's word on what was asked before is spent, and one
    /// who was kept for want of another is not taken out later for what it does not say any more.
    fn answered(&mut self) {
        if (self.overruled || self.kept) && matches!(self.how, Some(How::Answer { .. })) {
            *self = Self::default();
        }
    }

    /// An operator has made the server ready.
    pub(super) fn overrule(&mut self) {
        self.overruled = self.how.is_some();
    }

    /// What was asked for may have been another process: nobody looked at the server. What an operator has
    /// said meanwhile holds.
    pub(super) fn forget(&mut self) {
        if !self.overruled {
            *self = Self::default();
        }
    }

    /// Forgets what is not heard any more.
    fn hear_only(&mut self, hears: Hears) {
        let is_heard = match self.how {
            None => true,
            Some(How::Check) => hears.check || hears.header,
            Some(How::Answer { .. }) => hears.header,
        };
        if !is_heard {
            *self = Self::default();
        }
    }

    /// Whether it asks for its drain, and nobody has said otherwise.
    pub(super) fn wants(self) -> bool {
        self.how.is_some() && !self.overruled
    }
}

impl Supervisor {
    /// An answer of a server has asked for its drain.
    pub(super) fn asks_for_drain(&mut self, uid: u32) {
        let Some(member) = self.registry.member_mut(uid) else { return };
        member.asked.in_answer();
        self.stale = true;
    }

    /// An answer of a server that has asked in one does not ask.
    pub(super) fn asks_no_more(&mut self, uid: u32) {
        if let Some(member) = self.registry.member_mut(uid) {
            member.asked.answered();
        }
    }

    /// Does what servers ask for, as far as nobody has said otherwise.
    pub(super) fn heed(&mut self) {
        // Between processes the one that serves decides.
        if self.row.is_over() || self.row.is_inheriting() {
            return;
        }
        for uid in self.registry.who_asked() {
            let Some((group, member)) = self.registry.both(uid) else { continue };
            let hears = group.plan.drain_on;
            let takes = |member: &Member| member.state().takes_new(false) && member.server.weight() > 0;
            let is_last = takes(member)
                && self.registry.members_of(&group.plan.name).all(|(other, member)| other == uid || !takes(member));
            let Some(member) = self.registry.member_mut(uid) else { continue };
            let before = member.asked;
            member.asked.hear_only(hears);
            if member.asked != before {
                member.server.forget_asking();
            }
            let is_ready = member.state().admin == Admin::Ready;
            let is_kept = member.asked.wants() && is_ready && is_last;
            let was_kept = std::mem::replace(&mut member.asked.kept, is_kept);
            if !member.asked.wants() {
                if !is_ready && member.by == By::Server {
                    self.open(uid, "it has ceased to ask for its drain");
                }
            } else if is_kept {
                if !was_kept {
                    let server = Arc::clone(&member.server);
                    info!(upstream = %server.upstream, server = %server.name, "server asks for its drain, but no other one takes new clients: it is kept until one does");
                }
            } else if is_ready {
                self.drain(uid, None, By::Server);
                self.step_drain(uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_checks_ask_for_ends_with_the_first_that_passes() {
        let mut asked = Asked::default();
        asked.in_check();
        asked.failed();
        assert!(asked.wants());
        asked.in_answer();
        asked.passed();
        assert_eq!(asked, Asked::default());
    }

    #[test]
    fn what_answers_ask_for_ends_with_a_check_that_failed_and_passed() {
        let mut asked = Asked::default();
        asked.in_answer();
        asked.passed();
        assert!(asked.wants(), "its checks have passed all the time");
        asked.failed();
        assert!(asked.wants());
        asked.passed();
        assert!(!asked.wants());
        // It goes on asking: that was no restart.
        asked.in_answer();
        asked.failed();
        asked.in_answer();
        asked.passed();
        assert!(asked.wants());
    }

    #[test]
    fn an_operator_is_not_overruled_until_it_has_ceased_to_ask() {
        let mut asked = Asked::default();
        asked.overrule();
        asked.in_check();
        assert!(asked.wants(), "nothing was asked for when the operator spoke");
        asked.overrule();
        asked.in_check();
        assert!(!asked.wants());
        asked.passed();
        asked.in_check();
        assert!(asked.wants());
    }

    #[test]
    fn what_an_operator_has_overruled_may_be_asked_for_again() {
        let mut asked = Asked::default();
        asked.in_answer();
        asked.answered();
        assert!(asked.wants(), "once is enough");
        asked.overrule();
        asked.in_answer();
        assert!(!asked.wants());
        asked.answered();
        asked.in_answer();
        assert!(asked.wants());
    }

    #[test]
    fn who_was_kept_is_not_held_to_what_it_does_not_say_any_more() {
        let mut asked = Asked::default();
        asked.in_answer();
        asked.kept = true;
        asked.answered();
        assert_eq!(asked, Asked::default());
    }

    #[test]
    fn what_was_asked_by_another_process_is_forgotten_but_for_an_operators_word() {
        let mut asked = Asked::default();
        asked.in_check();
        asked.forget();
        assert!(!asked.wants());
        asked.in_check();
        asked.overrule();
        asked.forget();
        asked.in_check();
        assert!(!asked.wants());
    }

    #[test]
    fn what_is_not_heard_any_more_is_forgotten() {
        let mut asked = Asked::default();
        asked.in_check();
        asked.hear_only(Hears { check: true, header: false });
        assert!(asked.wants());
        asked.hear_only(Hears::default());
        assert!(!asked.wants());
        asked.in_answer();
        asked.hear_only(Hears { check: true, header: false });
        assert!(!asked.wants());
    }
}
