//! What a route does to answers and beside them.

use serde::Deserialize;

use super::{At, Size, nowhere};

/// `compress` of a route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct CompressSpec {
    pub encodings: At<Vec<At<String>>>,
    pub level: LevelSpec,
    pub min_size: Size,
    pub types: Vec<At<String>>,
}

impl Default for CompressSpec {
    fn default() -> Self {
        let types = [
            "text/*",
            "application/json",
            "application/javascript",
            "application/xml",
            "application/*+json",
            "application/*+xml",
            "application/wasm",
            "image/svg+xml",
            "font/ttf",
            "font/otf",
        ];
        Self {
            encodings: nowhere(["zstd", "br", "gzip"].map(|name| nowhere(name.to_owned())).to_vec()),
            level: LevelSpec::Fast,
            min_size: Size(1024),
            types: types.map(|name| nowhere(name.to_owned())).to_vec(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LevelSpec {
    Fast,
    Balanced,
    Small,
}

/// `mirror` of a route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table that names an upstream, such as { to = \"app\" }")]
pub struct MirrorSpec {
    pub to: Option<At<String>>,
    pub percent: At<u32>,
    pub max_body: Size,
    pub max_in_flight: At<usize>,
}

impl Default for MirrorSpec {
    fn default() -> Self {
        Self { to: None, percent: nowhere(100), max_body: Size(64 << 10), max_in_flight: nowhere(100) }
    }
}
