//! Hooks of several servers at a time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::hook::{self, GRACE, Hook, Place};
use super::interrupt::Interrupts;
use crate::cli::args::DeployArgs;
use crate::cli::console::Console;
use crate::cli::exit::{Exit, Failure};
use crate::units::show_duration;

/// What is run for a server.
#[derive(Debug, Clone)]
pub(super) enum Line {
    Shell(String),
    Program(PathBuf),
}

impl Line {
    /// `--each` or `--exec`.
    pub(super) fn of(args: &DeployArgs) -> Option<Self> {
        let program = || args.exec.clone().map(Self::Program);
        args.each.clone().map(Self::Shell).or_else(program)
    }

    /// Whether it can be run, as far as that can be known before it is.
    ///
    /// # Errors
    /// That there is no such program.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let Self::Program(program) = self else { return Ok(()) };
        hook::runnable(program)
            .map_err(|why| Failure::new(Exit::Usage, format!("--exec {} cannot be run: {why}", program.display())))
    }

    fn hook(&self) -> Hook<'_> {
        match self {
            Self::Shell(line) => Hook::Shell(line),
            Self::Program(program) => Hook::Program(Path::new(program)),
        }
    }
}

/// A server that a hook is for.
#[derive(Debug, Clone)]
pub(super) struct Of {
    /// Its turn.
    pub(super) at: usize,
    pub(super) name: String,
    pub(super) address: String,
}

/// How a hook ended.
pub(super) struct Ended {
    pub(super) at: usize,
    pub(super) result: Result<(), String>,
    pub(super) seconds: f64,
}

/// Runs a hook for each server at the same time, and tells of each that has ended. None goes on when this
/// returns.
pub(super) async fn together(
    line: &Line,
    servers: Vec<Of>,
    (upstream, within): (&str, Duration),
    interrupts: &Interrupts,
    console: &mut Console,
    mut tell: impl FnMut(Ended, &mut Console),
) {
    let mut hooks = JoinSet::new();
    for Of { at, name, address } in servers {
        let (line, upstream, interrupts) = (line.clone(), upstream.to_owned(), interrupts.clone());
        hooks.spawn(async move {
            let began = Instant::now();
            let place = Place { upstream: &upstream, name: &name, address: &address };
            let result = line.hook().run(place, within, &interrupts).await;
            Ended { at, result, seconds: began.elapsed().as_secs_f64() }
        });
    }
    let mut told = interrupts.times() > 0;
    loop {
        let ended = tokio::select! {
            ended = hooks.join_next() => ended,
            () = interrupts.at_least(1), if !told => {
                told = true;
                let grace = show_duration(GRACE);
                let why = if interrupts.lost().is_some() { "stopped" } else { "interrupted" };
                console.note(&format!("{why}: what hooks run gets TERM, and {grace} to end (Ctrl-C: at once)"));
                continue;
            }
        };
        match ended {
            Some(Ok(ended)) => tell(ended, console),
            // A hook that panics is a bug of this command; its processes are killed with it.
            Some(Err(_)) => {}
            None => return,
        }
    }
}
