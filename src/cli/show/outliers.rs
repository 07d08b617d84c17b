//! When servers are ejected.

use serde::Serialize;

use crate::config::plan::OutlierPlan;
use crate::units::show_duration;

/// `false` for never, or every option.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum OutliersView {
    None(bool),
    Options {
        consecutive_failures: u32,
        failure_percent: u32,
        min_requests: u64,
        window: String,
        statuses: Vec<u16>,
        ejection: String,
        max_ejection: String,
        max_ejected_percent: u32,
        trial_requests: u64,
    },
}

impl OutliersView {
    pub(super) fn of(plan: Option<&OutlierPlan>) -> Self {
        let Some(plan) = plan else { return Self::None(false) };
        let OutlierPlan {
            consecutive_failures,
            failure_percent,
            min_requests,
            window,
            statuses,
            ejection,
            max_ejection,
            max_ejected_percent,
            trial_requests,
        } = plan;
        Self::Options {
            consecutive_failures: *consecutive_failures,
            failure_percent: *failure_percent,
            min_requests: *min_requests,
            window: show_duration(*window),
            statuses: statuses.clone(),
            ejection: show_duration(*ejection),
            max_ejection: show_duration(*max_ejection),
            max_ejected_percent: *max_ejected_percent,
            trial_requests: *trial_requests,
        }
    }
}
