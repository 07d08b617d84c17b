//! Where log lines go: standard error, in the form that the configuration names.
//!
//! The library only emits them; a program that embeds evenkeel has its own place for them.

use tracing_subscriber::EnvFilter;

use super::console::Console;
use super::exit::{Exit, Failure};
use crate::config::plan::{LogFormat, LogPlan};

/// Starts logging for the rest of the process.
///
/// # Errors
/// A level that is none.
pub(super) fn start(plan: &LogPlan, console: &Console) -> Result<(), Failure> {
    let level = level(&plan.level, console.quiet, console.verbose);
    let filter = EnvFilter::try_new(&level)
        .map_err(|error| Failure::new(Exit::InvalidConfig, format!("`{level}` is not a log level: {error}")))?;
    let builder =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(console.color_err).with_env_filter(filter);
    let started = match plan.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Already started by whoever called us as a library: theirs stays.
    let _ = started;
    Ok(())
}

/// `-q` and `-v` win over the configuration. More is told of evenkeel, not of the libraries below it,
/// which would bury it.
fn level(configured: &str, quiet: bool, verbose: u8) -> String {
    match (quiet, verbose) {
        (true, _) => "error".to_owned(),
        (false, 0) => configured.to_owned(),
        (false, 1) => "info,evenkeel=debug".to_owned(),
        (false, _) => "debug,evenkeel=trace".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_configuration() {
        assert_eq!(level("warn", false, 0), "warn");
        assert_eq!(level("warn", true, 2), "error");
        for verbose in 0..3 {
            assert!(EnvFilter::try_new(level("evenkeel=debug", false, verbose)).is_ok());
        }
    }
}
