//! When servers are ejected for what traffic shows of them.

use super::Compiler;
use crate::config::plan::OutlierPlan;
use crate::config::spec::{At, OutliersSpec, Switch};

impl Compiler<'_> {
    pub(super) fn outliers(&mut self, spec: &Switch<OutliersSpec>, servers: usize) -> Option<OutlierPlan> {
        let spec = spec.0.as_ref()?;
        let mut statuses = Vec::new();
        for status in &spec.statuses {
            let number = *status.get_ref();
            if !(500..=599).contains(&number) {
                let message = format!("an answer with status {number} is no failure of a server");
                self.error(status.span(), message, "write statuses from 500 to 599");
            } else if !statuses.contains(&number) {
                statuses.push(number);
            }
        }
        let plan = OutlierPlan {
            consecutive_failures: self.within(&spec.consecutive_failures, "consecutive_failures", &(0..=1000)),
            failure_percent: self.within(&spec.failure_percent, "failure_percent", &(0..=100)),
            min_requests: self.within(&spec.min_requests, "min_requests", &(1..=1_000_000)),
            window: self.positive(&spec.window, "window"),
            statuses,
            ejection: self.positive(&spec.ejection, "ejection"),
            max_ejection: self.positive(&spec.max_ejection, "max_ejection"),
            max_ejected_percent: self.within(&spec.max_ejected_percent, "max_ejected_percent", &(1..=100)),
            trial_requests: self.within(&spec.trial_requests, "trial_requests", &(0..=1000)),
        };
        if plan.consecutive_failures == 0 && plan.failure_percent == 0 {
            let message = "`consecutive_failures` and `failure_percent` are both 0: nothing would eject a server";
            self.warn(spec.failure_percent.span(), message, "write `outliers = false`");
        }
        if plan.ejection > plan.max_ejection {
            // The one that was written is the one to look at.
            let place = [&spec.ejection, &spec.max_ejection].map(At::span);
            let place = if place[0] == (0..0) { &place[1] } else { &place[0] };
            let message = "`ejection` is longer than `max_ejection`, which bounds it";
            self.warn(place.clone(), message, "write a shorter one, or raise `max_ejection`");
        }
        let most = servers * plan.max_ejected_percent as usize / 100;
        if most == 0 && servers > 1 && spec.max_ejected_percent.span() != (0..0) {
            let message =
                format!("{} % of {servers} servers is less than one: none is ever ejected", plan.max_ejected_percent);
            self.warn(spec.max_ejected_percent.span(), message, "raise it, or write `outliers = false`");
        }
        Some(plan)
    }
}
