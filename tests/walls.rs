//! Who may use whom. A wall that is broken here is broken in the design, not in this test.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends so")]

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, and the rooms of the crate that each may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("asks", &[]),
    ("debug_header", &[]),
    ("named", &[]),
    ("units", &[]),
    ("path", &[]),
    ("error", &[]),
    ("proxy_protocol", &[]),
    ("tls", &[]),
    ("server_stream", &[]),
    ("balance", &["named", "units"]),
    ("health", &["asks", "named", "proxy_protocol", "server_stream", "tls", "units"]),
    ("config", &["balance", "health", "named", "path", "proxy_protocol", "tls", "units"]),
    ("metrics", &["balance", "config", "error", "upstream"]),
    ("upstream", &["balance", "config", "debug_header", "metrics", "tls"]),
    (
        "proxy",
        &[
            "asks",
            "balance",
            "config",
            "error",
            "metrics",
            "path",
            "proxy_protocol",
            "server_stream",
            "tls",
            "upstream",
        ],
    ),
    ("control", &["balance", "config", "health", "metrics", "tls", "units", "upstream"]),
    ("lab", &["balance", "units"]),
    ("fuzzing", &["balance", "config", "proxy"]),
    ("engine", &["config", "control", "metrics", "proxy", "upstream"]),
    (
        "cli",
        &[
            "balance",
            "config",
            "control",
            "debug_header",
            "engine",
            "error",
            "health",
            "lab",
            "path",
            "proxy_protocol",
            "server_stream",
            "tls",
            "units",
        ],
    ),
];

/// Pure rooms: what time it is and what chance decides are arguments there.
const TIMELESS: &[&str] = &[
    "src/balance",
    "src/health/streak.rs",
    "src/control/drain.rs",
    "src/control/ledger.rs",
    "src/control/outlier.rs",
    "src/control/slow_start.rs",
];

fn sources(at: &Path, into: &mut Vec<PathBuf>) {
    if at.is_dir() {
        for entry in fs::read_dir(at).unwrap() {
            sources(&entry.unwrap().path(), into);
        }
    } else if at.extension().is_some_and(|e| e == "rs") {
        into.push(at.to_owned());
    }
}

/// The code of a file without its tests and comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn is_test(path: &Path) -> bool {
    let name = path.to_string_lossy();
    ["tests.rs", "fixture.rs", "testing.rs", "/tests/"].iter().any(|t| name.contains(t))
}

fn rooms_used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with("in ") {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if !name.is_empty() && !used.contains(&name) {
            used.push(name);
        }
    }
    used
}

#[test]
fn every_room_uses_only_what_it_may() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    for entry in fs::read_dir(&src).unwrap() {
        let path = entry.unwrap().path();
        let room = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if ["main", "lib"].contains(&room.as_str()) {
            continue;
        }
        let (_, allowed) = MAY_USE
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("{room}: a new room needs its walls"));
        let mut files = Vec::new();
        sources(&path, &mut files);
        for file in files.iter().filter(|f| !is_test(f)) {
            for used in rooms_used(&code(file)) {
                if used != room && !allowed.contains(&used.as_str()) {
                    broken.push(format!("{} uses crate::{used}", file.strip_prefix(&src).unwrap().display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn pure_rooms_do_not_ask_the_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for place in TIMELESS {
        let mut files = Vec::new();
        sources(&root.join(place), &mut files);
        assert!(!files.is_empty(), "{place} is gone");
        for file in files.iter().filter(|f| !is_test(f)) {
            let code = code(file);
            for clock in ["Instant::now", "SystemTime::now", ".elapsed()", "thread_rng", "sleep("] {
                assert!(!code.contains(clock), "{} uses {clock}", file.display());
            }
        }
    }
}

#[test]
fn this_test_sees_a_broken_wall() {
    assert_eq!(rooms_used("use crate::control::api;\nlet x: crate::proxy::Body;"), ["control", "proxy"]);
    assert_eq!(rooms_used("pub(in crate::cli) fn f() {}"), Vec::<String>::new());
}
