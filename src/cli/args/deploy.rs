//! What may be typed behind `deploy`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum, ValueHint};
use ipnet::IpNet;

use super::DeadlineArgs;
use crate::config;
use crate::units::parse_duration;

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct DeployArgs {
    /// Which upstream
    #[arg(value_name = "UPSTREAM")]
    pub upstream: String,

    /// A command for each server, run by `sh -c`; {name}, {address} and {upstream} are filled in
    #[arg(long, value_name = "COMMAND", value_parser = parse_command, required_unless_present_any = ["exec", "attach", "abandon", "replace"], conflicts_with = "exec")]
    pub each: Option<String>,

    /// A program for each server, run without a shell; it finds EVENKEEL_SERVER, EVENKEEL_ADDRESS and
    /// EVENKEEL_UPSTREAM in its environment, as commands of --each do
    #[arg(long, value_name = "PROGRAM", value_hint = ValueHint::ExecutablePath)]
    pub exec: Option<PathBuf>,

    /// How many servers at a time
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    pub batch: u16,

    /// Only these servers
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    pub only: Vec<String>,

    /// A server must be healthy this long after its hook has ended
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    pub healthy_within: Duration,

    /// A hook may take this long
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub hook_within: Duration,

    /// How long requests are watched before the first server and after the last one, to compare with
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub watch: Duration,

    /// End with 6 when more requests than this failed
    #[arg(long, value_name = "N")]
    pub max_failed: Option<u64>,

    /// End with 6 when more sticky sessions than this had to move while they were in use
    #[arg(long, value_name = "N")]
    pub max_lost: Option<u64>,

    /// Where the proof is written [default: evenkeel-deploy-UPSTREAM-TIME.json in this directory]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub proof: Option<PathBuf>,

    /// Deploy this new server beside the old ones; may be given several times. All of them are swapped in at
    /// once when they are healthy, and the old ones are drained and removed. Hooks are run for new servers, to
    /// start them
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = parse_replacement, conflicts_with_all = ["attach", "abandon"])]
    pub replace: Vec<Replacement>,

    /// Before the swap, send this share of users to the new servers and compare them with the old ones: the swap
    /// comes when they are not worse, and otherwise they are taken away again
    #[arg(long, value_name = "PERCENT", requires = "replace", value_parser = parse_percent)]
    pub percent: Option<f64>,

    /// How long they are compared
    #[arg(long = "for", value_name = "TIME", default_value = "5m", requires = "percent", value_parser = parse_duration)]
    pub lasts: Duration,

    /// All clients of this network meet the new servers; may be given several times
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = parse_network, requires = "percent")]
    pub allow: Vec<String>,

    /// What users are known by, where they have no sticky cookie [default: cookie]
    #[arg(long, value_name = "WHAT", requires = "percent")]
    pub by: Option<CanaryBy>,

    /// A command for each old server once it is drained and removed, such as one that stops it; run like --each
    #[arg(long, value_name = "COMMAND", requires = "replace", value_parser = parse_command)]
    pub after: Option<String>,

    /// Go on with a deploy whose command has died: servers, --batch and deadlines are those of that one
    #[arg(long, conflicts_with_all = ["only", "batch", "in_flight", "sessions_max", "sessions_idle"])]
    pub attach: bool,

    /// End a deploy whose command has died, and take back what it has out
    #[arg(long, conflicts_with_all = ["attach", "each", "exec", "only"])]
    pub abandon: bool,

    /// The proxy takes this command for dead when it hears nothing of it for this long, 1s to 10m
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    pub lease: Duration,

    #[command(flatten)]
    pub deadlines: DeadlineArgs,
}

/// A server that comes in the place of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Replacement {
    pub name: String,
    pub address: String,
}

/// What the users of a canary are known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum CanaryBy {
    Cookie,
    Address,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.trim_end_matches('%').trim().parse::<f64>().ok();
    percent
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| "write a share of users, 0 to 100".to_owned())
}

fn parse_command(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("an empty command does nothing; write what is to be run, or `true`".to_owned());
    }
    Ok(text.to_owned())
}

/// Refused here, before anything is watched; the proxy reads it.
fn parse_network(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.parse::<IpNet>().is_err() && text.parse::<IpAddr>().is_err() {
        return Err("write a network such as 10.0.0.0/8, or an address".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_replacement(text: &str) -> Result<Replacement, String> {
    match text.split_once('=') {
        Some((name, address)) if !name.is_empty() && !address.is_empty() => {
            config::server(Some(name), address, 1)?;
            Ok(Replacement { name: name.to_owned(), address: address.to_owned() })
        }
        _ => Err("write the new server's name and its address, such as `a2=10.0.0.1:3001`".to_owned()),
    }
}
