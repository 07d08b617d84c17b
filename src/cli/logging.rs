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
        (false, 0) => without_libraries(configured),
        (false, 1) => without_libraries("info,evenkeel=debug"),
        (false, _) => "debug,evenkeel=trace".to_owned(),
    }
}

/// The libraries that speak protocols complain of each misbehaving client in lines of their own, which a
/// client could fill the log with; evenkeel counts and logs the same. A filter that names one has it.
fn without_libraries(filter: &str) -> String {
    let mut filter = filter.to_owned();
    // Only what is said of everything says something of them.
    let is_wide = |part: &str| ["warn", "info", "debug", "trace"].iter().any(|level| part.eq_ignore_ascii_case(level));
    if filter.split(',').any(|part| is_wide(part.trim())) {
        let quieted = ["h2", "hyper", "rustls"].into_iter();
        let named = |name: &str| filter.split(',').any(|part| part.trim().starts_with(name));
        let rest: String = quieted.filter(|name| !named(name)).map(|name| format!(",{name}=error")).collect();
        filter.push_str(&rest);
    }
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_configuration() {
        assert_eq!(level("evenkeel=warn", false, 0), "evenkeel=warn");
        assert_eq!(level("warn", true, 2), "error");
        for verbose in 0..3 {
            assert!(EnvFilter::try_new(level("evenkeel=debug", false, verbose)).is_ok());
            assert!(EnvFilter::try_new(level("info", false, verbose)).is_ok());
        }
    }

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        assert_eq!(level("info", false, 0), "info,h2=error,hyper=error,rustls=error");
        assert_eq!(level("debug, h2=warn", false, 0), "debug, h2=warn,hyper=error,rustls=error");
        assert_eq!(level("info,h2::proto=trace,hyper_util=info", false, 1), level("info,evenkeel=debug", false, 0));
        for untouched in ["off", "error", "h2=debug", ""] {
            assert_eq!(level(untouched, false, 0), untouched, "nothing gets louder");
        }
    }
}
