//! The header in which a server says something of itself, and what it may say.
//!
//! A leaf: checks and answers to requests are read by the same rule.

use http::{HeaderMap, HeaderName};

/// `X-Evenkeel`, of answers only.
pub const HEADER: HeaderName = HeaderName::from_static("x-evenkeel");

/// Whether it asks for a drain: `drain`, perhaps among other words that mean nothing yet.
#[must_use]
pub fn is_for_drain(headers: &HeaderMap) -> bool {
    let mut words =
        headers.get_all(HEADER).iter().flat_map(|value| value.as_bytes().split(|b| matches!(b, b',' | b';')));
    words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"drain"))
}
