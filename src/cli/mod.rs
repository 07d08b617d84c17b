//! The command line: arguments in, exit code out.
//!
//! Verbs that run something call the library as any other program could; verbs that talk to a running
//! evenkeel do so through the admin API and nothing else, so that all they can do, `curl` can too.
//! Nothing in here decides how the proxy behaves.

mod admin;
mod args;
mod check;
mod client;
mod console;
mod demo;
mod deploy;
mod descriptors;
mod document;
mod drain;
mod exit;
#[cfg(test)]
mod fixture;
mod lab;
mod litmus;
mod logging;
mod members;
mod origin;
mod plan;
mod process;
mod run;
mod servers;
mod service;
mod show;
mod stats;
mod status;
mod table;
mod target;
mod why;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Args, CheckArgs, ConfigVerb, Global, MaintenanceArgs, StopArgs, Verb, WhyArgs};
use client::Client;
use console::Console;
use exit::{Exit, Failure};

/// Does what the arguments say (the first is the program's own name) and gives back the exit code.
#[must_use]
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let program = program(argv.first());
    let args = match args::parse(argv) {
        Ok(args) => args,
        Err(error) => {
            // Help and version come this way too. Nobody is left to tell when this cannot be written.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage.code() } else { Exit::Ok.code() });
        }
    };
    descriptors::raise();
    let mut console = Console::new(&args.global);
    let exit = match obey(args, &program, &mut console) {
        Ok(exit) => exit,
        Err(failure) => {
            console.fail(&failure);
            failure.exit
        }
    };
    ExitCode::from(exit.code())
}

/// How the user would call this program again from the same directory.
fn program(argv0: Option<&OsString>) -> String {
    argv0.and_then(|a| a.to_str()).filter(|a| !a.contains(char::is_whitespace)).unwrap_or("evenkeel").to_owned()
}

fn obey(args: Args, program: &str, console: &mut Console) -> Result<Exit, Failure> {
    let global = &args.global;
    let verb = match args.verb {
        _ if args.test => Verb::Check(CheckArgs::default()),
        Some(verb) => verb,
        None => Verb::Run(args.run),
    };
    match verb {
        Verb::Run(flags) => run::run(&flags, global, console),
        Verb::Check(args) => check::check(&args, global, console),
        Verb::Config(ConfigVerb::Show) => check::show(global, console),
        Verb::Lab(args) => lab::lab(args, global, console),
        Verb::Litmus(args) => match &args.live {
            Some(upstream) => {
                with_client(global, console, async |client, console| litmus::live(client, upstream, console).await)
            }
            None => litmus::litmus(&args, global, console),
        },
        Verb::Origin(options) => origin::origin(&options, console),
        Verb::Demo(options) => demo::demo(&options, global, program, console),
        Verb::Completions { shell } => document::completions(shell, console),
        Verb::Man { verb, dir } => document::man(verb.as_deref(), dir.as_deref(), console),
        Verb::Version => document::version(console),
        Verb::Reload => with_client(global, console, process::reload),
        Verb::Upgrade => with_client(global, console, process::upgrade),
        Verb::Stop(StopArgs { message: None, .. }) => with_client(global, console, process::stop),
        Verb::Stop(StopArgs { upstreams, message: Some(message), retry_after }) => {
            let closed = MaintenanceArgs { upstreams, message, retry_after };
            with_client(global, console, async |client, console| service::maintenance(client, &closed, console).await)
        }
        Verb::Why(WhyArgs { sign: Some(lasts), .. }) => why::sign(lasts, global, console),
        Verb::Why(WhyArgs { request_id, .. }) => {
            let id = request_id.unwrap_or_default();
            with_client(global, console, async |client, console| why::why(client, &id, console).await)
        }
        Verb::Plan(plan) => {
            with_client(global, console, async |client, console| plan::plan(client, &plan, console).await)
        }
        Verb::Status => with_client(global, console, status::status),
        Verb::Healthcheck { timeout } => {
            with_client(global, console, async |client, console| process::healthcheck(client, timeout, console).await)
        }
        Verb::Drain(drain) => {
            with_client(global, console, async |client, console| drain::drain(client, &drain, console).await)
        }
        Verb::Deploy(deploy) => {
            with_client(global, console, async |client, console| deploy::deploy(client, &deploy, console).await)
        }
        Verb::Add(add) => {
            with_client(global, console, async |client, console| members::add(client, &add, console).await)
        }
        Verb::Remove(remove) => {
            with_client(global, console, async |client, console| members::remove(client, &remove, console).await)
        }
        Verb::Pause(pause) => {
            with_client(global, console, async |client, console| service::pause(client, &pause, console).await)
        }
        Verb::Resume(resume) => {
            with_client(global, console, async |client, console| service::resume(client, &resume, console).await)
        }
        Verb::Maintenance(closed) => {
            with_client(global, console, async |client, console| service::maintenance(client, &closed, console).await)
        }
        Verb::Ready(targets) => with_client(global, console, async |client, console| {
            servers::set_admin(client, &targets.targets, "ready", console).await
        }),
        Verb::Disable(targets) => with_client(global, console, async |client, console| {
            servers::set_admin(client, &targets.targets, "disabled", console).await
        }),
        Verb::Weight(weight) => with_client(global, console, async |client, console| {
            servers::set_weight(client, &weight.targets.targets, weight.weight, console).await
        }),
    }
}

/// Finds the admin API and runs a verb against it.
fn with_client(
    global: &Global,
    console: &mut Console,
    verb: impl AsyncFnOnce(&Client, &mut Console) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let client = Client::new(admin::find(global)?);
    if console.verbose > 0 {
        console.note(&format!("asking {}", client.address()));
    }
    block_on(verb(&client, console))
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot start: {error}")))?
        .block_on(work)
}
