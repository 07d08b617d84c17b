//! Who has to say a name and a password, as it is written.

use std::collections::BTreeMap;

use serde::Serialize;

use super::MASK;
use crate::config::plan::BasicAuthPlan;

#[derive(Serialize)]
pub(super) struct BasicAuthView<'a> {
    realm: &'a str,
    forward: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    users_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<BTreeMap<&'a str, &'static str>>,
}

impl<'a> BasicAuthView<'a> {
    pub(super) fn of(plan: &'a BasicAuthPlan) -> Self {
        // The challenge follows from the realm.
        let BasicAuthPlan { realm, challenge: _, users, users_file, forward } = plan;
        Self {
            realm,
            forward: *forward,
            users_file: users_file.as_ref().map(|file| file.display().to_string()),
            users: users_file.is_none().then(|| users.names().map(|name| (name, MASK)).collect()),
        }
    }
}
