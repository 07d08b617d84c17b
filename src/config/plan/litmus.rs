//! Users whose requests go from server to server on purpose.

use http::Method;

use crate::balance::SplitCookie;
use crate::balance::canary::CanaryBy;

/// Session cookies that may be named: what a request had of them is kept until its answer comes.
pub const MOST_LITMUS_COOKIES: usize = 4;

/// The cookie that users are known by.
pub const LITMUS_COOKIE: &str = "evenkeel_litmus";

/// Paths whose bodies may be compared: a user's digests are parts of one number.
pub const MOST_LITMUS_BODIES: usize = 4;

/// The experiment of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LitmusPlan {
    /// Share of all users that are moved, and of those who stay beside them, 1 to 50.
    pub percent: u32,
    /// Requests with other methods stay at home.
    pub methods: Vec<Method>,
    /// Names of session cookies.
    pub cookies: Vec<String>,
    /// The path that users are sent to who have to log in.
    pub login: Option<String>,
    /// Paths whose answers are the same for the same user.
    pub same_body: Vec<String>,
    pub by: CanaryBy,
    /// The one that users are known by, where it is a cookie.
    pub cookie: SplitCookie,
}

impl LitmusPlan {
    /// The cookie that users are known by, for a day.
    #[must_use]
    pub fn cookie() -> SplitCookie {
        SplitCookie { name: LITMUS_COOKIE.to_owned(), max_age: std::time::Duration::from_secs(24 * 3600) }
    }

    /// One for tests of other rooms.
    #[cfg(test)]
    pub(crate) fn example(percent: u32) -> Self {
        let (methods, cookies) = (vec![Method::GET, Method::HEAD], vec!["sid".to_owned()]);
        let (login, same_body, by) = (None, Vec::new(), CanaryBy::Cookie);
        Self { percent, methods, cookies, login, same_body, by, cookie: Self::cookie() }
    }
}
