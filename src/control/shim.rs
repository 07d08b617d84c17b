//! The seams to rooms that are being built: to be replaced by what they export.

use std::path::Path;

use crate::balance::sticky_cookie::Keys;
use crate::config::Plan;

pub(super) struct Loaded {
    pub(super) plan: Plan,
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Diff {
    pub(super) changes: Vec<String>,
    pub(super) needs_restart: Vec<String>,
}

pub(super) fn load(path: &Path) -> Result<Loaded, String> {
    Err(format!("{} cannot be read yet", path.display()))
}

pub(super) fn diff(old: &Plan, new: &Plan) -> Diff {
    let mut diff = Diff::default();
    if old.cores != new.cores {
        diff.needs_restart.push("cores".to_owned());
    }
    if old.listeners != new.listeners || old.routes != new.routes || old.upstreams != new.upstreams {
        diff.changes.push("listeners, routes or upstreams".to_owned());
    }
    diff
}

pub(super) fn keys(_secrets: &[String]) -> Result<Keys, String> {
    Ok(Keys {})
}

pub(super) fn make_key() -> String {
    let mut bytes = [0u8; 32];
    // The generator of the system cannot fail once the process runs; a failure aborts inside the library.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
