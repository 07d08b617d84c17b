//! Verbs about the configuration as a file: check, config show. Nothing in here runs anything.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::admin::{CONFIG_FILES, config_file};
use super::args::{CheckArgs, Global};
use super::console::Console;
use super::exit::{Exit, Failure};
use super::show;
use super::table::count;
use crate::config::{self, Loaded, Plan};

/// The configuration that was named or is where one is looked for.
///
/// # Errors
/// That there is none, with ways out.
pub(super) fn file(global: &Global) -> Result<PathBuf, Failure> {
    config_file(global.config.as_deref()).ok_or_else(|| {
        let text = format!(
            "there is no configuration: neither {} nor ./{} exists. Name one with -c FILE, or do without: \
             evenkeel run --listen 0.0.0.0:8080 --to 127.0.0.1:9001. To look around: evenkeel demo",
            CONFIG_FILES[0], CONFIG_FILES[1]
        );
        Failure::new(Exit::InvalidConfig, text)
    })
}

/// Reads a configuration.
///
/// # Errors
/// The report, as a text of its own.
pub(super) fn load(file: &Path, console: &Console) -> Result<Loaded, Failure> {
    config::load(file).map_err(|report| Failure::verbatim(Exit::InvalidConfig, report.render(console.color_err)))
}

/// Tells warnings on standard error.
pub(super) fn warn(loaded: &Loaded, console: &mut Console) {
    if !loaded.warnings.is_empty() && !console.quiet {
        console.note(loaded.warnings.render(console.color_err).trim_end());
    }
}

/// `check`, and `-t`.
pub(super) fn check(args: &CheckArgs, global: &Global, console: &mut Console) -> Result<Exit, Failure> {
    let file = args.file.clone().map_or_else(|| file(global), Ok)?;
    if console.json {
        return match config::load(&file) {
            Ok(loaded) => console.json_line(&json!({ "valid": true, "problems": loaded.warnings })).map(|()| Exit::Ok),
            Err(report) => {
                console.json_line(&json!({ "valid": false, "problems": report })).map(|()| Exit::InvalidConfig)
            }
        };
    }
    let loaded = load(&file, console)?;
    warn(&loaded, console);
    console.confirm(&format!("{} is valid: {}", file.display(), summary(&loaded.plan)))?;
    Ok(Exit::Ok)
}

/// `config show`.
pub(super) fn show(global: &Global, console: &mut Console) -> Result<Exit, Failure> {
    let file = file(global)?;
    let loaded = load(&file, console)?;
    warn(&loaded, console);
    let text = if console.json {
        show::json(&loaded.plan).map_err(|error| error.to_string())
    } else {
        show::toml(&loaded.plan).map_err(|error| error.to_string())
    };
    let text = text.map_err(|error| Failure::new(Exit::Failure, format!("cannot show the configuration: {error}")))?;
    console.write(text.as_bytes())?;
    Ok(Exit::Ok)
}

fn summary(plan: &Plan) -> String {
    let servers = plan.upstreams.iter().map(|u| u.servers.len()).sum::<usize>();
    let parts = [
        count(plan.listeners.len() as u64, "listener"),
        count(plan.routes.len() as u64, "route"),
        count(plan.upstreams.len() as u64, "upstream"),
        count(servers as u64, "server"),
    ];
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;
    use crate::cli::console::capture;

    #[test]
    fn a_plan_in_one_line() {
        assert_eq!(summary(&show::fixture::plan()), "1 listener, 2 routes, 2 upstreams, 3 servers");
    }

    #[test]
    fn a_valid_file_is_summed_up_and_an_invalid_one_gets_its_report() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("evenkeel.toml");
        let global = args::parse(["evenkeel", "check", "-c", file.to_str().unwrap()]).unwrap().global;
        let valid = "[[listener]]\nbind = \"127.0.0.1:8080\"\n[upstream.shop]\nservers = [\"127.0.0.1:9001\"]\n";
        std::fs::write(&file, valid).unwrap();
        let (mut console, out, _) = capture::console();
        assert_eq!(check(&CheckArgs::default(), &global, &mut console), Ok(Exit::Ok));
        let parts = "1 listener, 1 route, 1 upstream, 1 server";
        assert_eq!(out.read(), format!("{} is valid: {parts}\n", file.display()));
        let named = CheckArgs { file: Some(dir.path().join("nowhere.toml")) };
        let failure = check(&named, &global, &mut console).unwrap_err();
        assert!(failure.message.contains("nowhere.toml"), "a file behind the verb goes first: {}", failure.message);
        assert_eq!(show(&global, &mut console), Ok(Exit::Ok));
        assert!(out.read().contains("[[upstream.shop.server]]"), "{}", out.read());

        std::fs::write(&file, valid.replace("servers", "sevrers").replace("bind", "bnid")).unwrap();
        let failure = check(&CheckArgs::default(), &global, &mut console).unwrap_err();
        assert_eq!((failure.exit, failure.verbatim), (Exit::InvalidConfig, true));
        assert!(failure.message.contains("sevrers") && failure.message.contains("bnid"), "{}", failure.message);
    }

    #[test]
    fn a_file_that_is_named_and_missing_ends_with_3() {
        let global = args::parse(["evenkeel", "check", "-c", "/nowhere/evenkeel.toml"]).unwrap().global;
        let (mut console, out, _) = capture::console();
        let failure = check(&CheckArgs::default(), &global, &mut console).unwrap_err();
        assert_eq!(failure.exit, Exit::InvalidConfig);
        assert!(failure.message.contains("/nowhere/evenkeel.toml"), "{}", failure.message);

        console.json = true;
        assert_eq!(check(&CheckArgs::default(), &global, &mut console), Ok(Exit::InvalidConfig));
        let answer: serde_json::Value = serde_json::from_str(&out.read()).unwrap();
        assert_eq!(answer["valid"], false);
        assert_eq!(answer["problems"].as_array().map(Vec::len), Some(1));
    }
}
