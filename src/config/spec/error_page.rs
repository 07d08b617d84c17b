//! Pages in the place of the answers that evenkeel makes itself.

use std::path::PathBuf;

use serde::Deserialize;

use super::{At, OneOrMany};

/// One of `error_pages`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ErrorPageSpec {
    pub status: Option<At<OneOrMany>>,
    pub file: Option<At<PathBuf>>,
    /// Absent: by the ending of the file's name.
    pub content_type: Option<At<String>>,
    pub intercept: bool,
}
