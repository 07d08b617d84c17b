//! What a route does to answers and beside them.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LevelSpec {
    Fast,
    Balanced,
    Small,
}

// By hand, because what is derived names no place for a number, which other proxies have here.
impl<'de> Deserialize<'de> for LevelSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = LevelSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"fast\", \"balanced\" or \"small\"")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<LevelSpec, E> {
                match name {
                    "fast" => Ok(LevelSpec::Fast),
                    "balanced" => Ok(LevelSpec::Balanced),
                    "small" => Ok(LevelSpec::Small),
                    _ => Err(E::unknown_variant(name, &["fast", "balanced", "small"])),
                }
            }
        }

        deserializer.deserialize_any(Name)
    }
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
