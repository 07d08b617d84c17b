//! The experiment of an upstream, in its status.

use serde::{Deserialize, Serialize};

/// Users who are moved on purpose, and those who stay beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LitmusStatus {
    /// Share of users of each group.
    pub percent: u32,
    pub shuffled: LitmusGroup,
    pub control: LitmusGroup,
    /// A few requests that gave something away.
    pub evidence: Vec<LitmusEvidence>,
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
    pub symptoms: Vec<LitmusSymptomStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LitmusSymptomStatus {
    /// `refused`, `login`, `reissued` or `failed`.
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
