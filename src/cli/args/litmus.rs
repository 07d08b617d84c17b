//! What may be typed behind `litmus`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueHint};

use crate::units::parse_duration;

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct LitmusArgs {
    /// What clients do, step by step: a TOML file such as config/litmus.toml
    #[arg(value_name = "SCRIPT", value_hint = ValueHint::FilePath, required_unless_present = "live")]
    pub script: Option<PathBuf>,

    /// Ask the running evenkeel instead, what became of users of this upstream whom its `litmus` moves
    #[arg(
        long,
        value_name = "UPSTREAM",
        conflicts_with_all = ["script", "server", "upstream", "clients", "at_once", "restart_hook"]
    )]
    pub live: Option<String>,

    /// A server to ask, such as http://10.0.0.11:3000 or a=10.0.0.11:3000; given for each, at least two
    #[arg(
        long,
        value_name = "[NAME=]URL",
        required_unless_present_any = ["upstream", "live"],
        conflicts_with = "upstream",
        value_delimiter = ','
    )]
    pub server: Vec<String>,

    /// Ask the servers that the configuration has in this upstream; backups are left out
    #[arg(long, value_name = "UPSTREAM")]
    pub upstream: Option<String>,

    /// How many clients there are, half of which stay at one server: 20 to 10000 [default: as the script says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(20..=10_000))]
    pub clients: Option<u32>,

    /// How many of them ask at once
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub at_once: u16,

    /// Also find out what a restart loses: a command that restarts a server, run by `sh -c` for each of them in
    /// the middle of the script; {name} and {address} are filled in
    #[arg(long, value_name = "COMMAND", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub restart_hook: Option<String>,

    /// A server must answer again this long after its hook has ended
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    pub healthy_within: Duration,

    /// A hook may take this long
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub hook_within: Duration,
}
