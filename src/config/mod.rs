//! Configuration: text → [`spec::Spec`] (what the TOML says) → [`Plan`] (what is true).
//!
//! Pure but for the reading of files. Nothing in here opens a socket or keeps state, and nothing
//! stops at the first problem: a user who made five mistakes learns of five. Both planes read the
//! [`plan`] types; nobody else reads a Spec.

mod compile;
pub mod diff;
pub mod plan;
pub mod protocol;
mod read;
pub mod report;
pub mod spec;
mod suggest;

use std::path::Path;

pub use diff::{Change, Diff, diff};
pub use plan::Plan;
pub use report::{Entry, Problem, Report, Severity};

use compile::Surroundings;

/// A configuration that may be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub plan: Plan,
    /// What is allowed but hardly meant; holds no error.
    pub warnings: Report,
}

/// Reads a file, and the key and token files it names.
///
/// # Errors
/// Every problem at once, an unreadable file among them.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let file = path.display().to_string();
    let refuse = |message: String, hint: &str| {
        let hint = Some(hint.to_owned());
        let problem = Problem { severity: Severity::Error, message, span: None, hint, related: None };
        Report::new(&file, "", vec![problem])
    };
    let bytes = std::fs::read(path).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "name a file that exists",
            std::io::ErrorKind::PermissionDenied => "let the user that runs evenkeel read it",
            _ => "name a file that can be read",
        };
        let error = error.to_string();
        // The system's number says nothing that its words do not.
        let words = error.split(" (os error").next().unwrap_or_default();
        refuse(format!("cannot read the configuration: {}", words.to_lowercase()), hint)
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
        refuse(format!("not UTF-8 text, first in line {line}"), "save the file as UTF-8")
    })?;
    parse(&text, &file)
}

/// Reads a text; `file_name` is what reports call it.
///
/// # Errors
/// Every problem at once.
pub fn parse(text: &str, file_name: &str) -> Result<Loaded, Report> {
    parse_in(text, file_name, &Surroundings::of_this_process())
}

/// The same as on a machine without other files and without an environment, so that a text is judged alike
/// everywhere and reads nothing: for what strangers write.
///
/// # Errors
/// Every problem at once.
#[doc(hidden)]
pub fn parse_alone(text: &str) -> Result<Loaded, Report> {
    let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    let around = Surroundings {
        cores: 4,
        descriptors: 16_384,
        cookie_keys: None,
        ticket_secrets: None,
        now: 1_800_000_000,
        read: &read,
    };
    parse_in(text, "evenkeel.toml", &around)
}

fn parse_in(text: &str, file_name: &str, around: &Surroundings<'_>) -> Result<Loaded, Report> {
    let mut reading = read::read(text);
    let mut problems = std::mem::take(&mut reading.problems);
    let plan = reading.spec.take().map(|spec| {
        let (plan, more) = compile::compile(&spec, &reading.tree, reading.gaps, around);
        problems.extend(more);
        plan
    });
    finish(plan.flatten(), Report::new(file_name, &reading.shown, problems))
}

/// A server that is added while evenkeel runs, judged as one of a file is. Without a name it is called by its
/// address.
///
/// # Errors
/// What is wrong, and what would be right, as a sentence.
pub fn server(name: Option<&str>, address: &str, weight: u32) -> Result<plan::ServerPlan, String> {
    compile::server::named(name, address, weight)
}

/// A configuration without a file: listeners and the servers of one upstream, `default`, in turn and
/// checked by connecting.
///
/// # Errors
/// Every problem at once, placed in a text that looks like the command line.
pub fn from_flags(listen: &[String], to: &[String]) -> Result<Loaded, Report> {
    let mut text = String::from("evenkeel run");
    let mut flag = |name: &str, value: &String| {
        text.push_str(name);
        let start = text.len();
        text.push_str(value);
        spec::At::new(start..text.len(), value.clone())
    };
    let mut spec = spec::Spec::default();
    for value in listen {
        let bind = flag(" --listen ", value);
        let place = bind.span();
        let bind = Some(spec::At::new(place.clone(), spec::BindText(bind.into_inner())));
        spec.listener.push(spec::At::new(place, spec::ListenerSpec { bind, ..Default::default() }));
    }
    let servers = to.iter().map(|value| flag(" --to ", value)).collect();
    spec.upstream.insert(spec::nowhere("default".to_owned()), spec::UpstreamSpec { servers, ..Default::default() });
    let around = Surroundings::of_this_process();
    let (plan, problems) = compile::compile(&spec, &toml::de::DeTable::new(), read::Gaps::default(), &around);
    finish(plan, Report::new("command line", &text, problems))
}

fn finish(plan: Option<Plan>, report: Report) -> Result<Loaded, Report> {
    match plan {
        Some(plan) if !report.has_errors() => Ok(Loaded { plan, warnings: report }),
        _ => Err(report),
    }
}

#[cfg(test)]
mod tests;
