//! A new set of servers in the place of an old one, from one moment to the next.

use tracing::info;

use super::api::Swap;
use super::asked::By;
use super::change::deadlines;
use super::error::CommandError;
use super::registry::Member;
use super::supervisor::Supervisor;
use crate::upstream::{Admin, Operational};

impl Supervisor {
    /// Makes servers ready and drains others. Either all of it is done, or nothing.
    pub(super) fn swap(&mut self, upstream: &str, swap: &Swap) -> Result<(), CommandError> {
        let Swap { take_in, take_out, remove, .. } = swap;
        let group = self.registry.group(upstream).ok_or_else(|| CommandError::no_upstream(upstream))?;
        let limits = deadlines(&swap.deadlines(), group.plan.drain)?;
        let uids = |names: &[String]| -> Result<Vec<u32>, CommandError> {
            names.iter().map(|name| self.registry.find(upstream, name)).collect()
        };
        let (incoming, outgoing) = (uids(take_in)?, uids(take_out)?);
        if incoming.is_empty() {
            return Err(bad("a swap takes somebody in: say `take_in`".to_owned()));
        }
        if let Some(both) = take_in.iter().find(|name| take_out.contains(name)) {
            return Err(bad(format!("`{both}` cannot be taken in and out at once")));
        }
        for (uid, name) in incoming.iter().zip(take_in) {
            let member = self.registry.member(*uid);
            if member.is_some_and(|member| member.asked.wants()) {
                return Err(bad(format!("`{name}` asks for its drain: nothing was swapped")));
            }
            let state = member.map(Member::state);
            let is_fit = state.is_some_and(|s| s.operational == Operational::Healthy && s.admin != Admin::Disabled);
            if !is_fit {
                return Err(bad(format!("`{name}` is not seen to be healthy: nothing was swapped")));
            }
        }
        info!(upstream, ?take_in, ?take_out, "servers are swapped by order of an operator");
        for uid in incoming {
            self.make_ready(uid);
        }
        // Cores learn of both at once, and only then the old ones take nobody: whoever still holds the
        // Snapshot before finds them open until then, and a newer one after.
        self.registry.set_outgoing(upstream, outgoing.clone());
        self.registry.set_canary(upstream, None);
        self.stale = true;
        self.publish();
        self.registry.set_outgoing(upstream, Vec::new());
        for uid in outgoing {
            self.drain(uid, limits, By::Operator);
            if let Some(member) = self.registry.member_mut(uid) {
                member.leaving |= *remove;
            }
            self.step_drain(uid);
        }
        self.are_swapped_in(upstream, take_in);
        self.stale = true;
        self.take_out();
        Ok(())
    }
}

fn bad(message: String) -> CommandError {
    CommandError::BadRequest { message }
}
