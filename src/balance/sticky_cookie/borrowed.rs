//! A session cookie that is the application's, in the place of one of evenkeel's own.
//!
//! Either it is learned which server began a session, by its answer, or the application itself says so, at the
//! end of the value. Such a cookie is never written, changed or hidden by evenkeel, and its value is kept
//! nowhere: a session is known by a hash of it.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, de};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Sessions of one value in cookies of different names are different ones.
const SEED: u64 = 0x6576_656E_6B65_656C;

/// `route`: which cookie of the application names a server, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteCookie {
    /// The application's cookie.
    #[serde(deserialize_with = "super::name")]
    pub cookie: String,
    /// What follows the last of these in its value is the name of a server.
    #[serde(default = "dot", deserialize_with = "separator")]
    pub after: char,
}

/// Whose cookie holds a client to its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier<'a> {
    /// One that evenkeel seals.
    Own,
    /// The application's of that name; where its sessions are is learned.
    Learned(&'a str),
    /// The application's, which says where its sessions are.
    Named(&'a RouteCookie),
}

/// What an answer does with a session of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// Its cookie has this value from now on: the number of that session, and the key of the server that it names.
    Session(u64, Option<u64>),
    /// The cookie is deleted.
    Over,
}

impl<'a> Carrier<'a> {
    /// The name of the application's cookie, if it is one of that.
    #[must_use]
    pub fn borrowed(self) -> Option<&'a str> {
        match self {
            Self::Own => None,
            Self::Learned(name) => Some(name),
            Self::Named(route) => Some(&route.cookie),
        }
    }

    /// The key of the server that a value names; none where values name nobody, or this one does not.
    #[must_use]
    pub fn server(self, value: &[u8]) -> Option<u64> {
        let Self::Named(route) = self else { return None };
        let value = unquoted(value);
        let at = memchr::memrchr(route.after as u8, value)?;
        let name = std::str::from_utf8(&value[at + 1..]).ok()?;
        (!name.is_empty()).then(|| crate::balance::key_of(name))
    }

    /// What the `Set-Cookie` headers of an answer do: the last one of the cookie's name counts, as for browsers.
    #[must_use]
    pub fn given<'h>(self, set_cookies: impl Iterator<Item = &'h [u8]>, now_unix: u64) -> Option<Given> {
        let name = self.borrowed()?;
        let value = set_cookies.filter_map(|line| value_set(line, name, now_unix)).last()?;
        Some(match value {
            Some(value) => Given::Session(session_of(value), self.server(value)),
            None => Given::Over,
        })
    }
}

/// The number that a session of the application goes by.
#[must_use]
pub fn session_of(value: &[u8]) -> u64 {
    xxh3_64_with_seed(unquoted(value), SEED)
}

/// What a `Set-Cookie` (RFC 6265 §4.1) says of the cookie of that name: a value, or that it is to be deleted.
fn value_set<'a>(line: &'a [u8], name: &str, now_unix: u64) -> Option<Option<&'a [u8]>> {
    let mut parts = line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let value = super::header::value_of(parts.next()?, name)?;
    let mut expired = false;
    // Max-Age goes before Expires (RFC 6265 §4.1.2.2).
    let mut max_age = None;
    for part in parts {
        let Some(at) = part.iter().position(|byte| *byte == b'=') else { continue };
        let (attribute, said) = (part[..at].trim_ascii(), part[at + 1..].trim_ascii());
        let Ok(said) = std::str::from_utf8(said) else { continue };
        if attribute.eq_ignore_ascii_case(b"max-age") {
            max_age = said.parse::<i64>().ok().or(max_age);
        } else if attribute.eq_ignore_ascii_case(b"expires") {
            expired = is_past(said, now_unix);
        }
    }
    let over = unquoted(value).is_empty() || max_age.map_or(expired, |seconds| seconds <= 0);
    Some((!over).then_some(value))
}

/// Whether that date has passed. Many applications write it with dashes, as browsers have taken it since
/// Netscape's; what cannot be read has not passed.
#[must_use]
pub fn is_past(date: &str, now_unix: u64) -> bool {
    let dashed = || date.replace('-', " ");
    let read = httpdate::parse_http_date(date).or_else(|_| httpdate::parse_http_date(&dashed()));
    read.is_ok_and(|at| at < SystemTime::UNIX_EPOCH + Duration::from_secs(now_unix))
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

fn dot() -> char {
    '.'
}

fn separator<'de, D: Deserializer<'de>>(deserializer: D) -> Result<char, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) if c.is_ascii_punctuation() && !matches!(c, ';' | ',' | '"' | '\\') => Ok(c),
        _ => Err(de::Error::custom(format!(
            "`{text}` cannot stand before the name of a server: write one of .!~:|-_ or another mark, but none of ;,\"\\"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::key_of;

    fn route(after: char) -> RouteCookie {
        RouteCookie { cookie: "JSESSIONID".to_owned(), after }
    }

    #[test]
    fn what_follows_the_last_mark_names_the_server() {
        let dot = route('.');
        let server = |value: &str| Carrier::Named(&dot).server(value.as_bytes());
        assert_eq!(server("A1B2.node1"), Some(key_of("node1")));
        assert_eq!(server("\"A1.B2.node1\""), Some(key_of("node1")));
        assert_eq!((server("A1B2"), server("A1B2."), server("")), (None, None, None));
        assert_eq!(Carrier::Named(&route('!')).server(b"x.y!b"), Some(key_of("b")));
        assert_eq!(Carrier::Learned("sid").server(b"a.b"), None);
    }

    #[test]
    fn the_last_cookie_of_the_name_is_what_an_answer_sets() {
        let given =
            |lines: &[&str]| Carrier::Learned("sid").given(lines.iter().map(|line| line.as_bytes()), 1_800_000_000);
        let session = |value: &str| Some(Given::Session(session_of(value.as_bytes()), None));
        assert_eq!(given(&[]), None);
        assert_eq!(given(&["side=1", "other=sid", "SID=1"]), None, "names are exact");
        assert_eq!(given(&["sid=abc; Path=/; HttpOnly"]), session("abc"));
        assert_eq!(given(&["sid = \"abc\""]), session("abc"), "quotes are no part of it");
        assert_eq!(given(&["sid=one", "x=1", "sid=two; Secure"]), session("two"));
        assert_eq!(
            given(&["sid=; Path=/", "sid=kept; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT"]),
            session("kept")
        );
        for over in [
            "sid=",
            "sid=\"\"; Path=/",
            "sid=deleted; max-age=0",
            "sid=deleted; Max-Age=-1; Path=/",
            "sid=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT; path=/",
            "sid=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        ] {
            assert_eq!(given(&[over]), Some(Given::Over), "{over}");
        }
        assert_eq!(given(&["sid=abc; Expires=Wed, 01 Jan 2200 00:00:00 GMT"]), session("abc"));
        assert_eq!(given(&["sid=abc; Expires=whenever; Max-Age=soon"]), session("abc"));
    }

    #[test]
    fn an_answer_may_name_another_server() {
        let dot = route('.');
        let given = Carrier::Named(&dot).given([b"JSESSIONID=9.b".as_slice()].into_iter(), 0);
        assert_eq!(given, Some(Given::Session(session_of(b"9.b"), Some(key_of("b")))));
    }
}
