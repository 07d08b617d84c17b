//! What may be typed behind `lab`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueHint};

const EXAMPLES: &str = "\
To begin with, a scenario of config/lab, which takes a minute; then open nat/report.html:
  evenkeel lab run config/lab/nat-hotspot.toml --out nat

Servers of your own, with a scenario that says who asks and which policies are tried:
  evenkeel lab --config my.toml --target 127.0.0.1:9001 --target 127.0.0.1:9002

What has happened already:
  evenkeel lab replay /var/log/nginx/access.log --servers 4

MAX/MEAN: the busiest server's requests over the mean, 1.00 is even; JAIN: 1.00 is even, 1/n is all on one";

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true, after_help = EXAMPLES)]
pub(in crate::cli) struct LabArgs {
    #[command(subcommand)]
    pub verb: Option<LabVerb>,

    /// As `lab run` of the scenario that -c names
    #[command(flatten)]
    pub wanted: LabWanted,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum LabVerb {
    /// Run a scenario against each of its policies in turn, and write a report
    ///
    /// Toy servers and evenkeel are started as processes, clients come from addresses of their own, and
    /// requests are sent when they are due, whatever has become of those before. Ctrl-C ends it early: the
    /// report is written all the same, and the exit code is 6.
    Run(LabRunArgs),
    /// Work out the same in virtual time: a million clients and a thousand servers in seconds
    ///
    /// Policies are the real ones, servers are queues. What a proxy does beside picking is not in it: checks,
    /// retries, ejection, deadlines. Events that drain are for `lab run`.
    Simulate(LabRunArgs),
    /// Read access logs, and say what each policy would have done with their requests
    ///
    /// evenkeel's own (JSON or combined) and nginx's (combined or common). With -c FILE the servers are those of the
    /// configuration; where it has several upstreams, --upstream NAME says which. No server is asked.
    Replay(LabReplayArgs),
    /// Ends what `lab run` has started, once that is gone; started by it alone
    #[command(hide = true)]
    Leash {
        /// Where the sockets are
        directory: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct LabRunArgs {
    /// The scenario, a TOML file as in config/lab
    #[arg(value_name = "SCENARIO", value_hint = ValueHint::FilePath)]
    pub scenario: PathBuf,

    #[command(flatten)]
    pub wanted: LabWanted,
}

#[derive(Debug, Clone, ClapArgs)]
pub(in crate::cli) struct LabWanted {
    /// A server of your own that gets the load, in the place of toy servers; may be given several times
    ///
    /// evenkeel is started in front of them all under each policy in turn. Groups may say which `path` they ask
    /// for, and `session_cookie` names the cookie that shows that a session was lost. Only load is sent: servers
    /// are neither stopped nor started.
    #[arg(long, value_name = "HOST:PORT")]
    pub target: Vec<String>,

    /// Where the report is written [default: evenkeel-lab-SCENARIO in this directory]
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,

    /// Only this policy of the scenario; may be given several times
    #[arg(long, value_name = "NAME")]
    pub policy: Vec<String>,

    /// What chance is drawn from, instead of the scenario's own
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct LabReplayArgs {
    /// Access logs, the oldest first, perhaps compressed with gzip; `-` is standard input
    #[arg(value_name = "LOG", required = true, value_hint = ValueHint::FilePath)]
    pub logs: Vec<PathBuf>,

    /// The servers and policies of this upstream of the configuration; of a log that names upstreams, its requests
    #[arg(long, value_name = "NAME", conflicts_with = "servers")]
    pub upstream: Option<String>,

    /// So many servers of one weight [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub servers: Option<u32>,

    /// A policy as in the configuration, such as ip_hash or '{ ip_hash = { max_load = 1.25 } }'; may be given several
    /// times [default: those of the upstream, and the usual ones]
    #[arg(long, value_name = "POLICY")]
    pub policy: Vec<String>,

    /// How long a request takes where the log does not say so
    #[arg(long, value_name = "TIME", default_value = "50ms")]
    pub took: String,

    /// Write report.html and report.json into this directory
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
}
