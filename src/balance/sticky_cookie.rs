//! A sealed cookie names the server.

use std::time::Duration;

use serde::Deserialize;

use super::{LeastRequests, Policy};

/// `SameSite` of the cookie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    Strict,
    #[default]
    Lax,
    None,
}

/// `sticky_cookie`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StickyCookie {
    /// Name of the cookie.
    pub name: String,
    /// Places clients that have no valid cookie.
    pub new_clients: Box<Policy>,
}

impl Default for StickyCookie {
    fn default() -> Self {
        Self { name: "evenkeel".to_owned(), new_clients: Box::new(Policy::LeastRequests(LeastRequests::default())) }
    }
}

/// Keys that seal and open cookies.
#[derive(Debug, Clone)]
pub struct Keys {}

/// What a valid cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Hash of the pinned server's name ([`super::key_of`]).
    pub server: u64,
    /// Random number of the session.
    pub session: u64,
    /// When the cookie was first set, Unix seconds.
    pub issued: u64,
    /// When it was last renewed, Unix seconds.
    pub seen: u64,
}

/// Why a cookie was not honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Not sealed by any known key for this cookie and upstream: forged, foreign or garbage.
    Invalid,
    /// Idle for too long, or past its age.
    Expired,
}

const _: Option<Duration> = None;
