//! What a user reads when a file is wrong, word for word.

mod access;
mod actions;
mod choices;
mod debug;
mod drain;
mod edits;
mod filters;
mod listener;
mod litmus;
mod matching;
mod names;
mod outliers;
mod process;
mod queue;
mod shadow;
mod tls;
mod toml;

use super::super::*;
use super::Surroundings;

/// Checks the whole text of the report.
fn refused(text: &str, expected: &str) {
    let around = Surroundings {
        cores: 2,
        descriptors: 20_000,
        cookie_keys: None,
        ticket_secrets: None,
        now: 1_800_000_000,
        read: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    let report = parse_in(text, "evenkeel.toml", &around).expect_err("this file is wrong").to_string();
    assert_eq!(report, expected.trim_matches('\n'), "\n{report}");
}
