//! Completions, man pages and the version, all from the definition of the command line.

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Args;
use super::console::Console;
use super::exit::{Exit, Failure};

/// `completions SHELL`.
pub(super) fn completions(shell: Shell, console: &mut Console) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "evenkeel", &mut text);
    console.write(&text)?;
    Ok(Exit::Ok)
}

/// `man`: one page to standard output, or all of them to a directory.
pub(super) fn man(verb: Option<&str>, dir: Option<&Path>, console: &mut Console) -> Result<Exit, Failure> {
    let mut command = Args::command();
    command.build();
    if let Some(dir) = dir {
        std::fs::create_dir_all(dir).and_then(|()| pages(&command, dir)).map_err(|error| {
            Failure::new(Exit::Failure, format!("cannot write man pages to {}: {error}", dir.display()))
        })?;
        console.confirm(&format!("man pages are in {}", dir.display()))?;
        return Ok(Exit::Ok);
    }
    let described = match verb {
        None => &command,
        Some(name) => command
            .find_subcommand(name)
            .ok_or_else(|| Failure::new(Exit::Usage, format!("there is no verb `{name}`; see evenkeel --help")))?,
    };
    let mut text = Vec::new();
    page(described)
        .render(&mut text)
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot make the man page: {error}")))?;
    console.write(&text)?;
    Ok(Exit::Ok)
}

fn page(command: &Command) -> Man {
    Man::new(command.clone()).source(concat!("evenkeel ", env!("CARGO_PKG_VERSION"))).manual("evenkeel")
}

fn pages(command: &Command, dir: &Path) -> io::Result<()> {
    for verb in command.get_subcommands() {
        pages(verb, dir)?;
    }
    page(command).generate_to(dir).map(drop)
}

/// `version`.
pub(super) fn version(console: &mut Console) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if console.json {
        console.json_line(&serde_json::json!({ "version": version }))?;
    } else {
        console.line(&format!("evenkeel {version}"))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::cli::console::capture;

    #[test]
    fn every_shell_is_told_every_verb() {
        for shell in Shell::value_variants() {
            let (mut console, out, _) = capture::console();
            assert_eq!(completions(*shell, &mut console), Ok(Exit::Ok));
            for verb in Args::command().get_subcommands() {
                assert!(out.read().contains(verb.get_name()), "{shell} does not know {}", verb.get_name());
            }
        }
    }

    #[test]
    fn the_man_page_has_the_exit_codes_and_each_verb_has_a_page() {
        let (mut console, out, _) = capture::console();
        man(None, None, &mut console).unwrap();
        for exit in Exit::ALL {
            assert!(out.read().contains(exit.meaning()), "{exit:?}");
        }
        let (mut console, out, _) = capture::console();
        man(Some("drain"), None, &mut console).unwrap();
        assert!(out.read().contains(".TH evenkeel-drain 1") && out.read().contains("in\\-flight"), "{}", out.read());
        assert_eq!(man(Some("drian"), None, &mut console).unwrap_err().exit, Exit::Usage);

        let dir = tempfile::tempdir().unwrap();
        man(None, Some(dir.path()), &mut console).unwrap();
        for page in ["evenkeel.1", "evenkeel-drain.1", "evenkeel-config-show.1"] {
            assert!(dir.path().join(page).exists(), "{page}");
        }
    }

    #[test]
    fn the_version_is_the_package_s() {
        let (mut console, out, _) = capture::console();
        version(&mut console).unwrap();
        assert_eq!(out.read(), format!("evenkeel {}\n", env!("CARGO_PKG_VERSION")));
    }
}
