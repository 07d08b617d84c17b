//! `GET /why/{id}`: what cores remember of a request. They write it down where `[debug]` asks for it, each
//! in a ring of its own that is read here.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::api::Explained;
use super::error::CommandError;
use super::supervisor::Supervisor;
use crate::config::plan::DebugPlan;
use crate::upstream::explain::{Debug, Explanation};

impl Supervisor {
    /// Has cores note what `plan` asks for; what they remember is kept while that is the same.
    pub(super) fn set_debug(&mut self, plan: &DebugPlan) {
        if self.debug.as_ref().is_some_and(|(before, _)| before == plan) {
            return;
        }
        let cores = self.plane.orders.len();
        let made = || (plan.clone(), Arc::new(Debug::new(cores, plan.remember, plan.key.as_deref())));
        self.debug = (*plan != DebugPlan::default()).then(made);
    }

    /// What is remembered of a request, the oldest first.
    pub(super) fn why(&self, request_id: &str) -> Result<Vec<Explained>, CommandError> {
        let Some((plan, debug)) = self.debug.as_ref().filter(|(_, debug)| debug.remembers()) else {
            let message = "nothing is remembered of requests: set `remember` in [debug]".to_owned();
            return Err(CommandError::Conflict { message });
        };
        let found = debug.find(request_id);
        if found.is_empty() {
            let newest = plan.remember;
            let what = format!("no request `{request_id}` is among the newest {newest} of each core that are over");
            return Err(CommandError::NotFound { what });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Ok(found.into_iter().map(|explanation| told(explanation, now)).collect())
    }
}

fn told(explanation: Explanation, now: u64) -> Explained {
    let Explanation {
        request_id,
        unix_millis,
        route,
        upstream,
        policy,
        servers,
        server,
        pin,
        spread,
        skipped,
        tried,
        queued,
        status,
        reason,
        duration,
    } = explanation;
    Explained {
        request_id: String::from_utf8_lossy(&request_id).into_owned(),
        seconds_ago: now.saturating_sub(unix_millis) as f64 / 1_000.0,
        route: route.map(String::from),
        upstream: upstream.map(String::from),
        policy: (!policy.is_empty()).then(|| policy.to_owned()),
        servers,
        server: server.map(|name| name.to_string()),
        pin: pin.to_string(),
        spread,
        skipped: skipped.into_iter().map(|(name, why)| (name.to_string(), why.name().to_owned())).collect(),
        tried: tried.into_iter().map(|(name, why)| (name.to_string(), why.to_owned())).collect(),
        queued_ms: queued.as_secs_f64() * 1_000.0,
        status,
        reason: reason.map(str::to_owned),
        duration_ms: duration.as_secs_f64() * 1_000.0,
    }
}
