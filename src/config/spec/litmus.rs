//! `litmus` of an upstream.

use serde::Deserialize;

use super::{At, nowhere};

/// `[upstream.NAME.litmus]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct LitmusSpec {
    pub percent: At<u32>,
    pub methods: At<Vec<At<String>>>,
    pub cookies: At<Vec<At<String>>>,
    pub login: Option<At<String>>,
    pub same_body: At<Vec<At<String>>>,
    pub by: LitmusBySpec,
}

impl Default for LitmusSpec {
    fn default() -> Self {
        Self {
            percent: nowhere(5),
            methods: nowhere(["GET", "HEAD"].map(|name| nowhere(name.to_owned())).to_vec()),
            cookies: nowhere(Vec::new()),
            login: None,
            same_body: nowhere(Vec::new()),
            by: LitmusBySpec::Cookie,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LitmusBySpec {
    Cookie,
    Address,
}
