//! What operators say of an upstream as a whole: pause, resume, maintenance.
//!
//! It holds until it is taken back, over reloads, but not over a restart: whoever restarts a proxy wants it
//! to serve. A pause has an end, so that one that was forgotten is an incident of seconds.

use std::time::{Duration, Instant};

use tracing::info;

use super::api::ServiceChange;
use super::error::CommandError;
use super::supervisor::Supervisor;
use crate::units;
use crate::upstream::{Notice, Service};

/// How long a pause lasts if nothing else is said, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3_600));
/// When clients of a closed upstream may try again if nothing else is said, and at most.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(86_400));
/// Most characters of a message.
const LONGEST_MESSAGE: usize = 2_000;
/// Most requests a second that a release may have.
const MOST_RATE: u32 = 1_000_000;

impl Supervisor {
    /// Opens, pauses or closes an upstream.
    pub(super) fn serve(&mut self, upstream: &str, change: &ServiceChange) -> Result<(), CommandError> {
        let group = self.registry.group(upstream).ok_or_else(|| CommandError::no_upstream(upstream))?;
        let now = Instant::now();
        let ServiceChange { service, lasts, rate, message, retry_after } = change;
        let misplaced = [
            ("for", lasts.is_some(), "paused"),
            ("rate", rate.is_some(), "open"),
            ("message", message.is_some(), "maintenance"),
            ("retry_after", retry_after.is_some(), "maintenance"),
        ];
        if let Some((key, _, of)) = misplaced.iter().find(|(_, is_given, of)| *is_given && of != service) {
            return Err(bad(format!("`{key}` belongs to `{of}`")));
        }
        let new = match service.as_str() {
            "open" => {
                let waiting = group.queue.waiting();
                let held = matches!(group.service, Service::Paused { .. } | Service::Releasing { .. });
                match rate {
                    Some(rate) if !(1..=MOST_RATE).contains(rate) => {
                        return Err(bad(format!("rate {rate} is out of range: it may be 1 to {MOST_RATE} a second")));
                    }
                    Some(rate) if held && waiting > 0 => {
                        let takes = Duration::from_secs(u64::from(waiting.div_ceil(*rate)));
                        Service::Releasing { rate: *rate, until: now + takes + group.plan.queue.timeout }
                    }
                    _ => Service::Open,
                }
            }
            "paused" => Service::Paused { until: now + time("for", lasts.as_deref(), PAUSE)? },
            "maintenance" => {
                let message = message.as_deref().unwrap_or("This service is down for maintenance.").trim();
                if message.is_empty() || message.chars().count() > LONGEST_MESSAGE {
                    return Err(bad(format!("a message has 1 to {LONGEST_MESSAGE} characters")));
                }
                let retry_after = time("retry_after", retry_after.as_deref(), RETRY_AFTER)?.as_secs().max(1);
                let retry_after = u32::try_from(retry_after).unwrap_or(u32::MAX);
                Service::Closed(Notice { message: message.into(), retry_after })
            }
            other => return Err(bad(format!("`{other}` is no service: write `open`, `paused` or `maintenance`"))),
        };
        if group.service != new {
            info!(upstream, service = new.name(), "service changed by operator");
            self.registry.set_service(upstream, new);
            self.stale = true;
        }
        Ok(())
    }

    /// Whether any upstream holds its requests.
    pub(super) fn holds(&self) -> bool {
        self.registry
            .groups()
            .any(|(_, group)| matches!(group.service, Service::Paused { .. } | Service::Releasing { .. }))
    }

    /// Opens upstreams whose pause is over, or whose requests are all released.
    pub(super) fn end_holds(&mut self) {
        let now = Instant::now();
        let is_over = |service: &Service, waiting: u32| match service {
            Service::Paused { until } => *until <= now,
            Service::Releasing { until, .. } => *until <= now || waiting == 0,
            Service::Open | Service::Closed(_) => false,
        };
        let over = self.registry.groups().filter(|(_, group)| is_over(&group.service, group.queue.waiting()));
        let over: Vec<(String, &str)> = over.map(|(name, group)| (name.to_owned(), group.service.name())).collect();
        for (upstream, was) in over {
            info!(upstream, was, "upstream is open again");
            self.registry.set_service(&upstream, Service::Open);
            self.stale = true;
        }
    }
}

fn time(key: &str, text: Option<&str>, (default, most): (Duration, Duration)) -> Result<Duration, CommandError> {
    let Some(text) = text else { return Ok(default) };
    let time = units::parse_duration(text).map_err(|error| bad(format!("{key}: {error}")))?;
    if time.is_zero() || time > most {
        return Err(bad(format!("{key}: write a time above zero, at most {}", units::show_duration(most))));
    }
    Ok(time)
}

fn bad(message: String) -> CommandError {
    CommandError::BadRequest { message }
}
