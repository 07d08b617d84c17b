//! What may be typed behind `origin`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum, ValueHint};

use crate::lab::origin::StoreAddress;
use crate::units::{parse_duration, parse_size};

#[derive(Debug, ClapArgs)]
pub(in crate::cli) struct OriginArgs {
    /// Where it listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9001")]
    pub listen: SocketAddr,

    /// The name it answers with in X-Server
    #[arg(long, default_value = "a")]
    pub name: String,

    /// Append a line for each request to this file as soon as it arrives, whatever becomes of it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub arrivals: Option<PathBuf>,

    /// Work on so many requests at once, while others wait [default: all]
    #[arg(long, value_name = "N", requires = "work", value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: Option<u16>,

    /// How long a request takes a worker, to the millisecond
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub work: Option<Duration>,

    /// How sessions are kept
    #[arg(long, value_enum, value_name = "HOW", default_value_t = KeepArg::Memory, help_heading = "Sessions")]
    pub sessions: KeepArg,

    /// What the application has in each session, such as 4KiB; a token has none of it
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size, help_heading = "Sessions")]
    pub session_size: u64,

    /// How long a session lasts
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration, help_heading = "Sessions")]
    pub session_life: Duration,

    /// Another server that replicates; may be given several times, and one that starts later makes itself known
    #[arg(long, value_name = "ADDRESS", help_heading = "Sessions")]
    pub peer: Vec<SocketAddr>,

    /// The Redis of --sessions store and --cache shared: 127.0.0.1:6379 or unix:/path
    #[arg(long, value_name = "PLACE")]
    pub store: Option<StoreAddress>,

    /// The key of --sessions token, the same for all servers
    #[arg(
        long,
        env = "EVENKEEL_ORIGIN_TOKEN_KEY",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = "Sessions"
    )]
    pub token_key: Option<String>,

    /// Another toy server, which has the items that /item?key= asks for; this one has a cache of them
    #[arg(long, value_name = "ADDRESS", help_heading = "Items")]
    pub items: Option<SocketAddr>,

    /// Where the cache is
    #[arg(long, value_enum, value_name = "WHERE", default_value = "own", requires = "items", help_heading = "Items")]
    pub cache: CacheArg,
}

/// Where the toy server's cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum CacheArg {
    /// In its own memory
    Own,
    /// In a Redis that all servers share
    Shared,
}

/// How the toy server keeps sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum KeepArg {
    /// Not at all: whoever has the cookie is believed
    None,
    /// In its own memory, and in no other
    Memory,
    /// In the memory of every server: each sends its writes to all others
    Replicated,
    /// In a Redis that all servers ask
    Store,
    /// In a signed token (JWT) that the client carries
    Token,
}

impl fmt::Display for KeepArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Memory => "memory",
            Self::Replicated => "replicated",
            Self::Store => "store",
            Self::Token => "token",
        })
    }
}
