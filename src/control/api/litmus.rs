//! The experiment of an upstream, in its status.

use serde::{Deserialize, Serialize};

/// Users who are moved on purpose, and those who stay beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LitmusStatus {
    /// Share of users of each group.
    pub percent: u32,
    /// Absent where users are known by their address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<LitmusCookie>,
    pub shuffled: LitmusGroup,
    pub control: LitmusGroup,
    /// A few requests that gave something away.
    pub evidence: Vec<LitmusEvidence>,
}

/// The cookie that users are known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LitmusCookie {
    pub name: String,
    /// Answers that have set it.
    pub set: u64,
    /// Requests that have sent it back.
    pub returned: u64,
}

impl LitmusStatus {
    /// Why nobody takes part, where clients keep no cookies.
    #[must_use]
    pub fn nobody(&self) -> Option<String> {
        let LitmusCookie { name, set, .. } =
            self.cookie.as_ref().filter(|cookie| cookie.set > 0 && cookie.returned == 0)?;
        let answers = if *set == 1 { "1 answer has".to_owned() } else { format!("{set} answers have") };
        Some(format!("users are told apart by the cookie `{name}`: {answers} set it, no request has sent it back"))
    }
}

/// What became of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LitmusGroup {
    /// Users who take part.
    pub users: u64,
    /// Those of whom an answer counted; of each one was drawn.
    pub judged: u64,
    /// Answers that counted.
    pub requests: u64,
    /// Those that can be seen, with what the configuration names.
    pub symptoms: Vec<LitmusSymptomStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LitmusSymptomStatus {
    /// `refused`, `login`, `reissued`, `failed` or `body`.
    pub symptom: String,
    /// Users whose drawn answer had it.
    pub judged: u64,
    /// Users of whom any answer had it.
    pub users: u64,
    /// Answers that had it.
    pub requests: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LitmusEvidence {
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The server that its user had met before, and the one that answered.
    pub from: String,
    pub to: String,
    pub status: u16,
    pub symptoms: Vec<String>,
}
