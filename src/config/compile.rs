//! Spec → Plan: everything is judged, nothing is left to default later.
//!
//! Pure: what is known of the machine comes in as [`Surroundings`]. A part that is wrong is noted and
//! left out, and the rest is judged all the same.

mod access;
mod error_page;
mod filters;
mod listener;
mod litmus;
mod loops;
mod names;
mod outliers;
mod process;
mod route;
pub(super) mod server;
mod shadow;
mod tls;
mod upstream;
mod upstream_tls;

use std::fmt::Display;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use toml::de::DeTable;

use super::plan::Plan;
use super::read::Gaps;
use super::report::{Problem, Severity};
use super::spec::{At, Count, Spec, Time};
use crate::units;

/// Longer than any timeout that was meant, and short enough that a deadline can be computed.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// What of the world a Plan depends on.
pub(super) struct Surroundings<'a> {
    /// Cores that this process may use.
    pub(super) cores: usize,
    /// Files and sockets that this process may have open.
    pub(super) descriptors: u64,
    /// `EVENKEEL_COOKIE_KEYS`.
    pub(super) cookie_keys: Option<String>,
    /// `EVENKEEL_TICKET_SECRETS`.
    pub(super) ticket_secrets: Option<String>,
    /// Unix seconds.
    pub(super) now: i64,
    pub(super) read: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl Surroundings<'_> {
    pub(super) fn of_this_process() -> Self {
        let secrets = |name| std::env::var(name).ok().filter(|keys| !keys.trim().is_empty());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            descriptors: rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX),
            cookie_keys: secrets("EVENKEEL_COOKIE_KEYS"),
            ticket_secrets: secrets("EVENKEEL_TICKET_SECRETS"),
            now: i64::try_from(now).unwrap_or(i64::MAX),
            read: &|path| std::fs::read_to_string(path),
        }
    }
}

/// Judges a Spec. The Plan is there unless something is wrong with it.
pub(super) fn compile(
    spec: &Spec,
    tree: &DeTable<'_>,
    gaps: Gaps,
    around: &Surroundings<'_>,
) -> (Option<Plan>, Vec<Problem>) {
    let mut c = Compiler { tree, gaps, around, problems: Vec::new() };
    let admin = c.admin(&spec.admin);
    let max_connections = c.max_connections(spec.max_connections.as_ref());
    let listeners = c.listeners(spec, &admin, max_connections);
    let upstreams = c.upstreams(spec);
    c.loops(spec, &listeners);
    let routes = c.routes(spec);
    let plan = Plan {
        cores: c.cores(spec.cores.as_ref()),
        state_dir: spec.state_dir.clone(),
        max_connections,
        log: c.log(&spec.log),
        access_log: c.access_log(spec.access_log.as_ref()),
        shutdown: c.shutdown(&spec.shutdown),
        upgrade: c.upgrade(&spec.upgrade),
        debug: c.debug(&spec.debug),
        dns: c.dns(&spec.dns),
        admin,
        listeners,
        routes,
        upstreams,
    };
    let right = c.problems.iter().all(|p| p.severity == Severity::Warning) && !gaps.any;
    (right.then_some(plan), c.problems)
}

struct Compiler<'a> {
    tree: &'a DeTable<'a>,
    gaps: Gaps,
    around: &'a Surroundings<'a>,
    problems: Vec<Problem>,
}

impl Compiler<'_> {
    fn note(&mut self, severity: Severity, place: Option<Range<usize>>, message: String, hint: &str) -> &mut Problem {
        let span = place.filter(|span| *span != (0..0));
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        let at = self.problems.len();
        self.problems.push(Problem { severity, message, span, hint, related: None });
        &mut self.problems[at]
    }

    fn error(&mut self, place: Range<usize>, message: impl Into<String>, hint: &str) {
        self.note(Severity::Error, Some(place), message.into(), hint);
    }

    fn warn(&mut self, place: Range<usize>, message: impl Into<String>, hint: &str) {
        self.note(Severity::Warning, Some(place), message.into(), hint);
    }

    /// Something that is needed is not there. Silent where what was there is known to be wrong.
    fn lack(&mut self, place: Option<Range<usize>>, message: impl Into<String>, hint: &str) {
        if !self.gaps.any {
            self.note(Severity::Error, place, message.into(), hint);
        }
    }

    /// The same thing a second time.
    fn twice(&mut self, place: Range<usize>, first: Range<usize>, message: impl Into<String>, hint: &str) {
        let problem = self.note(Severity::Error, Some(place.clone()), message.into(), hint);
        if first != (0..0) && first != place {
            problem.related = Some((first, "first used here".to_owned()));
        }
    }

    /// A number within its range; the nearest one in it otherwise.
    fn within<T: PartialOrd + Copy + Display>(&mut self, value: &At<T>, key: &str, range: &RangeInclusive<T>) -> T {
        let number = *value.get_ref();
        if range.contains(&number) {
            return number;
        }
        let hint = format!("write a number from {} to {}", range.start(), range.end());
        self.error(value.span(), format!("`{key}` is {number}, which is out of range"), &hint);
        *range.start()
    }

    /// A number above zero, or no limit.
    fn count(&mut self, value: &At<Count>, key: &str) -> u64 {
        let number = value.get_ref().0;
        if number == 0 {
            self.error(value.span(), format!("`{key}` is zero"), "write a whole number from 1, or \"unlimited\"");
        }
        number
    }

    /// A duration that may be zero.
    fn time(&mut self, value: &At<Time>, key: &str) -> Duration {
        self.not_too_long(value.span(), value.get_ref().0, key)
    }

    /// A duration that may not be zero.
    fn positive(&mut self, value: &At<Time>, key: &str) -> Duration {
        self.positive_at(value.span(), value.get_ref().0, key)
    }

    fn positive_at(&mut self, place: Range<usize>, time: Duration, key: &str) -> Duration {
        if time.is_zero() {
            self.error(place, format!("`{key}` is zero"), "write a duration above zero, such as \"5s\"");
            return time;
        }
        self.not_too_long(place, time, key)
    }

    fn not_too_long(&mut self, place: Range<usize>, time: Duration, key: &str) -> Duration {
        if time > LONGEST {
            let hint = format!("write at most \"{}\"", units::show_duration(LONGEST));
            self.error(place, format!("`{key}` is longer than a year"), &hint);
        }
        time.min(LONGEST)
    }

    /// A file that the configuration names.
    fn file(&mut self, path: &At<std::path::PathBuf>, key: &str) -> Option<String> {
        match (self.around.read)(path.get_ref()) {
            Ok(text) => Some(text),
            Err(error) => {
                let message = format!("cannot read `{key}` {}: {error}", path.get_ref().display());
                self.error(path.span(), message, "name a file that the user running evenkeel can read");
                None
            }
        }
    }
}

#[cfg(test)]
mod refused;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod warned_tests;
