//! Who is moved on purpose.

use serde::Serialize;

use crate::config::plan::LitmusPlan;

/// `false` for nobody, or every option.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum LitmusView {
    None(bool),
    Options {
        percent: u32,
        methods: Vec<String>,
        cookies: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        login: Option<String>,
        same_body: Vec<String>,
        by: &'static str,
    },
}

impl LitmusView {
    pub(super) fn of(plan: Option<&LitmusPlan>) -> Self {
        let Some(LitmusPlan { percent, methods, cookies, login, same_body, by, cookie: _ }) = plan else {
            return Self::None(false);
        };
        Self::Options {
            percent: *percent,
            methods: methods.iter().map(ToString::to_string).collect(),
            cookies: cookies.clone(),
            login: login.clone(),
            same_body: same_body.clone(),
            by: by.name(),
        }
    }
}
