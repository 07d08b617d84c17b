//! The lab: what it reports agrees with what the servers themselves have logged, and its pages can be looked at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

#[path = "../harness/mod.rs"]
mod harness;

mod pages;
mod replay;
mod runs;
mod scenarios;
mod shipped;
mod simulated;
mod weights;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::command;
use serde_json::Value;

/// What a lab has left.
struct Run {
    out: PathBuf,
    report: Value,
    said: String,
    _dir: tempfile::TempDir,
}

impl Run {
    fn policies(&self) -> &[Value] {
        self.report["policies"].as_array().unwrap()
    }

    /// The directory in which the servers of the n-th policy, counted from 0, have their logs.
    fn logs(&self, policy: usize) -> PathBuf {
        self.out.join(format!("run-{}", policy + 1))
    }
}

/// Has `lab run` or `lab simulate` do a scenario.
#[track_caller]
fn lab(verb: &str, scenario: &str) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("scenario.toml"), dir.path().join("out"));
    std::fs::write(&file, scenario).unwrap();
    let done = harness::run(&mut command(&["lab", verb, file.to_str().unwrap(), "--out", out.to_str().unwrap()]));
    let said = done.ends(0).out;
    Run { report: report(&out), out, said, _dir: dir }
}

fn report(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap()
}

/// When requests of users arrived at each server, in seconds since 1970, as the servers' own logs say.
fn arrived(run: &Path) -> BTreeMap<String, Vec<f64>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(run).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "arrivals") {
            let text = std::fs::read_to_string(&path).unwrap();
            let users = text.lines().filter(|line| !line.contains("/healthz") && !line.contains(" /sessions"));
            let times = users.filter_map(|line| line.rsplit_once(" at=")?.1.parse().ok()).collect();
            all.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), times);
        }
    }
    all
}

/// Requests of users by server, by the same logs.
fn counted(run: &Path) -> BTreeMap<String, u64> {
    arrived(run).into_iter().map(|(name, times)| (name, times.len() as u64)).collect()
}
