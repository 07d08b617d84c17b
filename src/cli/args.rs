//! What may be typed. Help, completions and the man page are made from this and from nothing else.

mod deploy;
mod lab;
mod litmus;
mod origin;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, Args as ClapArgs, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

pub(super) use deploy::{CanaryBy, DeployArgs, Replacement};
pub(super) use lab::{LabArgs, LabReplayArgs, LabRunArgs, LabVerb};
pub(super) use litmus::LitmusArgs;
pub(super) use origin::{CacheArg, KeepArg, OriginArgs};

use super::admin::AdminAddress;
use super::exit;
use crate::units::parse_duration;

/// A load balancer and reverse proxy for people who run app servers.
#[derive(Debug, Parser)]
#[command(
    name = "evenkeel",
    version,
    about = "A load balancer and reverse proxy for people who run app servers",
    long_about = "A load balancer and reverse proxy for people who run app servers.\n\n\
                  Without a verb it runs: with the configuration file, or from --listen and --to alone. \
                  New here? Try `evenkeel demo`.",
    after_help = exit::help(),
    max_term_width = 100,
    disable_help_subcommand = true
)]
pub(super) struct Args {
    #[command(flatten)]
    pub global: Global,

    /// Check the configuration and exit, as the verb `check` does
    #[arg(short = 't', long = "test", help_heading = "Options without a verb")]
    pub test: bool,

    #[command(flatten)]
    pub run: RunArgs,

    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// Options of every verb.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Options of every verb")]
pub(super) struct Global {
    /// The configuration [default: /etc/evenkeel/evenkeel.toml, then ./evenkeel.toml]
    #[arg(short, long, global = true, env = "EVENKEEL_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,

    /// Where the admin API is: unix:/path, /path, http://host:port or host:port
    #[arg(
        long,
        global = true,
        env = "EVENKEEL_ADMIN",
        value_name = "ADDRESS",
        long_help = "Where the admin API is: unix:/path, /path, http://host:port or host:port. By default it is \
                     read from the configuration, and is this user's own socket where the configuration does \
                     not say. With `run` it is where the admin API is served"
    )]
    pub admin: Option<AdminAddress>,

    /// Token of the admin API, where it listens on a TCP address and asks for one
    #[arg(long, global = true, env = "EVENKEEL_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub admin_token: Option<String>,

    /// How results are written: for people, or as JSON
    #[arg(long, global = true, env = "EVENKEEL_OUTPUT", value_name = "FORM", default_value = "human")]
    pub output: Output,

    /// When to use colours; NO_COLOR is honoured
    #[arg(long, global = true, env = "EVENKEEL_COLOR", value_name = "WHEN", default_value = "auto")]
    pub color: Color,

    /// Say less: no confirmations, and only errors in the log
    #[arg(short, long, global = true, env = "EVENKEEL_QUIET", value_parser = FalseyValueParser::new())]
    pub quiet: bool,

    /// Say more: -v debug, -vv trace
    #[arg(short, long, global = true, env = "EVENKEEL_VERBOSE", action = ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Human,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    Auto,
    Always,
    Never,
}

/// A proxy without a file.
#[derive(Debug, Clone, Default, ClapArgs)]
#[command(next_help_heading = "Instead of a configuration")]
pub(super) struct RunArgs {
    /// Listen here, with --to and without a configuration; may be given several times
    #[arg(long, value_name = "ADDRESS", requires = "to")]
    pub listen: Vec<String>,

    /// Send requests to this server, each in turn; may be given several times
    #[arg(long, value_name = "ADDRESS", requires = "listen")]
    pub to: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the proxy; this is also what happens without a verb
    Run(RunArgs),
    /// Check the configuration without running it
    Check(CheckArgs),
    /// Make the running evenkeel read its configuration again
    Reload,
    /// Say why a request went where it went, where [debug] has evenkeel remember it
    Why(WhyArgs),
    /// Have another process take over: a new binary, or what a reload cannot change
    ///
    /// The running evenkeel starts a process like itself, gives it its sockets and all it knows, and drains once
    /// that one serves. If the new process is not ready in time, or its configuration is invalid, the old one goes
    /// on and the exit code says why not.
    Upgrade,
    /// Say what a reload of another configuration would do, and change nothing
    ///
    /// What would change, what cannot change while it runs, and who would come to another server, from a look
    /// at the clients that come now.
    Plan(PlanArgs),
    /// Make the running evenkeel finish what is in flight and stop; with --message, turn requests away instead
    ///
    /// With --message evenkeel goes on, and answers requests for the upstreams with 503 and a page, until
    /// `resume`: the same as `maintenance`.
    Stop(StopArgs),
    /// Show servers, their states and their numbers
    Status,
    /// Take servers out of rotation gently: no new clients, time for those who are there
    ///
    /// No new clients come; pinned ones stay until their sessions end or the deadlines pass. With --wait
    /// it returns when it is safe to stop the servers.
    Drain(DrainArgs),
    /// Put servers back into rotation
    Ready(TargetArgs),
    /// Take servers out of rotation at once: their clients move with the next request
    Disable(TargetArgs),
    /// Change the share of new clients that servers get
    Weight(WeightArgs),
    /// Restart the servers of an upstream one after the other, and prove that nobody noticed
    ///
    /// For each server: drain it, run the hook, wait until its check says that it is healthy, take it back,
    /// go on. A hook that fails, a server that does not come back, or Ctrl-C stop it; what was drained is
    /// taken back, and the exit code is 6. Hooks run in this command, never in the proxy.
    Deploy(Box<DeployArgs>),
    /// Bring a server into service that the configuration does not have, or one that was removed
    ///
    /// It is kept in the state directory, over reloads and restarts, until the configuration has a server
    /// of that name or it is removed.
    Add(AddArgs),
    /// Drain servers, then take them out: for those of the configuration until they are added again
    ///
    /// With --wait it returns when they are gone and it is safe to stop them.
    Remove(DrainArgs),
    /// Hold the requests for upstreams: they wait, and what is being answered goes on
    ///
    /// As many wait as the queue of the upstream takes. The pause ends with `resume`, and after --for at the
    /// latest.
    Pause(PauseArgs),
    /// Serve upstreams again that are paused or in maintenance; without a name all of them
    Resume(ResumeArgs),
    /// Answer requests for upstreams with 503 and a page that says why, until `resume`
    ///
    /// evenkeel goes on, and so does what is being answered; `stop` is what ends it.
    Maintenance(MaintenanceArgs),
    /// Run a toy server to put a proxy in front of
    ///
    /// It keeps sessions in memory and names itself in X-Server. / counts visits, /healthz says ok, /login starts
    /// a session, /count needs one (401), /slow?ms=500 waits, /bytes?n=1000 sends so many, /echo tells what it was
    /// sent, /sink takes a POST, /status?code=503 answers that, /drop hangs up, /ws echoes a WebSocket.
    Origin(OriginArgs),
    /// Run three toy servers with evenkeel in front of them, to try things out
    Demo(DemoArgs),
    /// Measure policies against each other, over real sockets
    ///
    /// Without a verb of its own it is `lab run` of the scenario that -c names, for servers of your own.
    Lab(LabArgs),
    /// Find out whether a service keeps something of its clients in its servers
    ///
    /// Clients do the steps of a script, each of them at servers that are asked directly. Half of them go to
    /// another server with each step, the others stay at one; what only those see who move, the service has kept
    /// in a server. Ends with 0 where no difference was seen, with 6 where the service is stateful, and with 1
    /// where nothing can be said.
    Litmus(Box<LitmusArgs>),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the man page
    Man {
        /// The verb whose page is wanted, instead of the main one
        verb: Option<String>,
        /// Write the main page and the page of every verb to this directory
        #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath, conflicts_with = "verb")]
        dir: Option<PathBuf>,
    },
    /// Ask whether evenkeel is ready, for health checks of containers
    ///
    /// Ends with 0 when it is, and with 6 for every reason why it is not.
    Healthcheck {
        /// How long to wait for the answer
        #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Show the configuration as it takes effect, with every default filled in and secrets masked
    Show,
}

#[derive(Debug, ClapArgs)]
pub(super) struct TargetArgs {
    /// Which servers: UPSTREAM/SERVER, or SERVER where only one upstream has it
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct WeightArgs {
    #[command(flatten)]
    pub targets: TargetArgs,

    /// The share of new clients, relative to the other servers: 0 to 1000, 0 takes none
    #[arg(value_name = "WEIGHT", value_parser = weight)]
    pub weight: u32,
}

fn weight(text: &str) -> Result<u32, String> {
    let weight = text.parse().ok().filter(|weight| *weight <= 1000);
    weight.ok_or_else(|| "the weight comes last: write a number from 0 to 1000".to_owned())
}

#[derive(Debug, Clone, Default, ClapArgs)]
pub(super) struct CheckArgs {
    /// The configuration [default: that of -c, or where `run` looks for one]
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Clone, ClapArgs)]
pub(super) struct AddArgs {
    /// UPSTREAM/SERVER, or UPSTREAM alone to call the server by its address
    #[arg(value_name = "TARGET")]
    pub target: String,

    /// IP:port, host:port or unix:/path; not needed for a server of the configuration that was removed
    #[arg(value_name = "ADDRESS")]
    pub address: Option<String>,

    /// The share of new clients, relative to the other servers: 0 to 1000 [default: 1, or as configured]
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub weight: Option<u32>,

    /// Give it new clients only where no other server can take them
    #[arg(long)]
    pub backup: bool,

    /// Most requests and tunnels it has at once [default: that of the upstream]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_requests: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct PlanArgs {
    /// The configuration that is thought of
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// How long to look at who comes, where that matters; at most 5m, and 0s for not at all
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub sample: Duration,
}

#[derive(Debug, ClapArgs)]
pub(super) struct WhyArgs {
    /// The `X-Request-Id` of an answer, or of a line of the access log
    #[arg(value_name = "REQUEST_ID", required_unless_present = "sign", conflicts_with = "sign")]
    pub request_id: Option<String>,

    /// Print a header instead with which answers tell why themselves, for this long
    ///
    /// It is signed with the key of the configuration; nobody is asked.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub sign: Option<Duration>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct PauseArgs {
    /// Which upstreams
    #[arg(required = true, value_name = "UPSTREAM")]
    pub upstreams: Vec<String>,

    /// Go on after this time at the latest, at most an hour
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub lasts: Duration,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ResumeArgs {
    /// Which upstreams [default: all that are paused or in maintenance]
    #[arg(value_name = "UPSTREAM")]
    pub upstreams: Vec<String>,

    /// Serve those who wait at this pace, in requests a second, and who comes meanwhile behind them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct StopArgs {
    /// Which upstreams, with --message [default: all]
    #[arg(value_name = "UPSTREAM", requires = "message")]
    pub upstreams: Vec<String>,

    /// Go on, but answer requests with 503 and a page that says this
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,

    /// With --message, when clients are told to try again, at most a day
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    pub retry_after: Duration,
}

#[derive(Debug, ClapArgs)]
pub(super) struct MaintenanceArgs {
    /// Which upstreams [default: all]
    #[arg(value_name = "UPSTREAM")]
    pub upstreams: Vec<String>,

    /// What clients are told
    #[arg(long, value_name = "TEXT")]
    pub message: String,

    /// When clients are told to try again, at most a day
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    pub retry_after: Duration,
}

#[derive(Debug, ClapArgs)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    pub targets: TargetArgs,

    /// Return when it is safe to stop the servers, showing what is left until then
    #[arg(long)]
    pub wait: bool,

    /// Give up waiting after this time and end with 6; the drain goes on
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "wait")]
    pub timeout: Option<Duration>,

    #[command(flatten)]
    pub deadlines: DeadlineArgs,
}

/// When a drain stops to wait, instead of when the configuration says.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct DeadlineArgs {
    /// Cut requests that are in flight this long after the last session has ended
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub in_flight: Option<Duration>,

    /// Keep sessions no longer than this in all
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub sessions_max: Option<Duration>,

    /// Do not wait for sessions that were idle for this long
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub sessions_idle: Option<Duration>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct DemoArgs {
    /// Where evenkeel listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Where the admin API listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9191")]
    pub admin_listen: SocketAddr,
}

/// Reads a command line.
///
/// # Errors
/// Wrong usage, or a request for help or version, as clap tells it.
pub(super) fn parse<I, T>(argv: I) -> Result<Args, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    let mut command = Args::command();
    let matches = command.try_get_matches_from_mut(argv)?;
    let args = Args::from_arg_matches(&matches).map_err(|e| e.format(&mut command))?;
    // Options of `run` may be given without the verb, but not beside another one: they would do nothing.
    let conflict = if args.verb.is_some() && args.test {
        Some("-t checks the configuration and takes no verb")
    } else if args.verb.is_some() && !args.run.listen.is_empty() {
        Some("--listen and --to go behind the verb `run`")
    } else if args.run_flags().is_some_and(|run| !run.listen.is_empty())
        && matches.value_source("config") == Some(ValueSource::CommandLine)
    {
        Some("--listen and --to make a proxy without a file: leave out -c")
    } else {
        None
    };
    match conflict {
        Some(text) => Err(command.error(ErrorKind::ArgumentConflict, text)),
        None => Ok(args),
    }
}

impl Args {
    /// The options of `run`, when that is what was asked for.
    #[must_use]
    pub(super) fn run_flags(&self) -> Option<&RunArgs> {
        match &self.verb {
            Some(Verb::Run(run)) => Some(run),
            None => Some(&self.run),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
#[path = "args/tests.rs"]
mod tests;
