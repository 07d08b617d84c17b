//! Canaries: new servers that only some users meet, as long as somebody watches.
//!
//! A canary lives within a deploy. When that ends, or its command dies, nobody compares the new servers with
//! the others any more, and their users go back: nothing that was not found good stays for want of a judge.
//! Nor does it outlive the process: to the next one its servers are servers in waiting.

use std::sync::Arc;

use ipnet::IpNet;
use tracing::info;

use super::api::{CanaryStatus, NewCanary};
use super::error::CommandError;
use super::registry::Member;
use super::supervisor::Supervisor;
use crate::balance::canary::{Canary, CanaryBy, WHOLE};
use crate::upstream::Operational;

impl Supervisor {
    /// Sends some users to servers that have had none.
    pub(super) fn begin_canary(&mut self, upstream: &str, new: &NewCanary) -> Result<(), CommandError> {
        let group = self.registry.group(upstream).ok_or_else(|| CommandError::no_upstream(upstream))?;
        let whole = group.uids.len();
        if self.deploys.get(upstream).is_none_or(|ledger| ledger.orphaned) {
            return Err(
                bad("a canary is part of a deploy, which ends it whatever happens: begin one first".to_owned()),
            );
        }
        let NewCanary { servers, percent, allow, by } = new;
        if !(0.0..=100.0).contains(percent) {
            return Err(bad(format!("{percent} is no share of users: say 0 to 100 percent")));
        }
        let by = match by.as_deref() {
            None | Some("cookie") => CanaryBy::Cookie,
            Some("address") => CanaryBy::Address,
            Some(other) => return Err(bad(format!("users are known by `cookie` or `address`, not by `{other}`"))),
        };
        let allow = allow.iter().map(|text| network(text)).collect::<Result<Vec<IpNet>, _>>()?;
        let uids = servers.iter().map(|name| self.registry.find(upstream, name)).collect::<Result<Vec<u32>, _>>()?;
        if uids.is_empty() || uids.len() >= whole {
            return Err(bad("a canary is of some servers, and not of all".to_owned()));
        }
        for (uid, name) in uids.iter().zip(servers) {
            let member = self.registry.member(*uid);
            if member.is_some_and(|member| member.asked.wants()) {
                return Err(bad(format!("`{name}` asks for its drain: no canary has begun")));
            }
            if member.map(Member::state).is_none_or(|s| s.operational != Operational::Healthy) {
                return Err(bad(format!("`{name}` is not seen to be healthy: no canary has begun")));
            }
        }
        let share = (percent / 100.0 * f64::from(WHOLE)).round() as u32;
        info!(upstream, ?servers, percent, "a canary begins");
        let canary = Arc::new(Canary::new(by, share, allow));
        self.registry.set_canary(upstream, Some((canary, uids.clone())));
        for uid in uids {
            self.make_ready(uid);
        }
        self.stale = true;
        Ok(())
    }

    /// Sends everybody back. Those who were at the new servers move with their next request.
    pub(super) fn end_canary(&mut self, upstream: &str) {
        let Some((_, uids)) = self.registry.group(upstream).and_then(|group| group.canary.clone()) else { return };
        info!(upstream, "the canary ends: its users go back");
        self.registry.set_canary(upstream, None);
        // As in a swap: nobody is sent there, and then they take nobody.
        self.registry.set_outgoing(upstream, uids.clone());
        self.stale = true;
        self.publish();
        self.registry.set_outgoing(upstream, Vec::new());
        for uid in uids {
            self.disable(uid, None);
        }
        self.stale = true;
    }

    pub(super) fn canary_status(&self, upstream: &str) -> Option<CanaryStatus> {
        let group = self.registry.group(upstream)?;
        let (canary, uids) = group.canary.as_ref()?;
        let members = uids.iter().filter_map(|uid| self.registry.member(*uid));
        let by = if group.sticky.is_some() { "sticky_cookie" } else { canary.by.name() };
        Some(CanaryStatus {
            servers: members.map(|member| member.server.name.to_string()).collect(),
            percent: f64::from(canary.share) * 100.0 / f64::from(WHOLE),
            allow: canary.allow.iter().map(ToString::to_string).collect(),
            by: by.to_owned(),
        })
    }
}

/// A network, or an address alone.
fn network(text: &str) -> Result<IpNet, CommandError> {
    let alone = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| alone()).map_err(|_| bad(format!("`{text}` is no network: write one such as 10.0.0.0/8")))
}

fn bad(message: String) -> CommandError {
    CommandError::BadRequest { message }
}
