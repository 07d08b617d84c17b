//! What of a try counts against its server: no connection, no answer, or an answer whose status says so.
//!
//! Nothing is decided in here. The control plane reads what is counted about once a second, and is told
//! at once where a row of failures is as long as the upstream's plan allows.

use std::time::Duration;

use super::core::{Core, CoreClaim};
use crate::config::plan::UpstreamPlan;
use crate::upstream::Event;

/// A request has failed after its connection was there, by the server's doing.
pub(super) fn failed(core: &Core, plan: &UpstreamPlan, claim: &CoreClaim) {
    claim.cell().counts.failures.inc();
    note(core, plan, claim);
}

/// The head of an answer is there.
pub(super) fn answered(core: &Core, plan: &UpstreamPlan, claim: &CoreClaim, status: u16) {
    if status >= 500 && plan.outliers.as_ref().is_some_and(|outliers| outliers.blames(status)) {
        note(core, plan, claim);
    } else {
        claim.server().succeeded();
    }
}

/// A try counts against its server.
#[cold]
pub(super) fn note(core: &Core, plan: &UpstreamPlan, claim: &CoreClaim) {
    if let Some(decay) = plan.policy.decay() {
        claim.server().observe(Duration::ZERO, true, decay);
    }
    let Some(outliers) = &plan.outliers else { return };
    claim.cell().counts.faults.inc();
    let in_a_row = claim.server().failed();
    if in_a_row.checked_rem(outliers.consecutive_failures) == Some(0) || claim.server().is_on_trial() {
        core.report(Event::Failing { server: claim.server().uid, in_a_row });
    }
}
