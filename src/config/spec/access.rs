//! Who may come: what `basic_auth` may say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::{At, Secret, nowhere};

/// `basic_auth` of a route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct BasicAuthSpec {
    pub realm: At<String>,
    /// By name; absent: those of `users_file`.
    pub users: Option<At<BTreeMap<At<String>, At<Secret>>>>,
    pub users_file: Option<At<PathBuf>>,
    pub forward: bool,
}

impl Default for BasicAuthSpec {
    fn default() -> Self {
        Self { realm: nowhere("Restricted".to_owned()), users: None, users_file: None, forward: false }
    }
}
