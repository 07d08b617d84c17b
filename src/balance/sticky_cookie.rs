//! A sealed cookie names the server.
//!
//! The cookie is all there is to a session's pin: any replica with the same key honours it, and a
//! restart forgets nothing. It is sealed, so that a client learns nothing of the servers and cannot
//! choose one. What a client sends is never trusted further than its seal, and nothing in here fails
//! on it: a cookie is honoured or the client is new.
//!
//! An application may have a cookie of its own that does as well: [`Carrier`] says whose it is.
//!
//! This room reads and writes the cookie. Whether a pinned server can take the request is decided in
//! [`super::Table::pick`]; when to set the cookie, by the caller with [`StickyCookie::needs_renewal`].

mod borrowed;
mod header;
mod keys;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

pub use borrowed::{Carrier, Given, RouteCookie, is_past, session_of};
pub use header::{find, strip};
pub use keys::{KeyError, Keys};

use super::{LeastRequests, Policy};
use crate::units;

/// `SameSite` of the cookie (RFC 6265bis §4.1.2.7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    Strict,
    #[default]
    Lax,
    None,
}

/// When the cookie is marked `Secure`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Secure {
    /// On TLS, and with `same_site = "none"`, which browsers take from secure cookies only.
    #[default]
    Auto,
    /// Also without TLS: something in front of evenkeel ends it.
    Always,
    Never,
}

/// `sticky_cookie`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct StickyCookie {
    /// Name of the cookie: a token (RFC 6265 §4.1.1) of at most 64 bytes.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Places clients that have no valid cookie; not itself a sticky cookie.
    #[serde(deserialize_with = "new_clients")]
    pub new_clients: Box<Policy>,
    /// A session not seen for longer is over. At least a second.
    #[serde(deserialize_with = "lifetime")]
    pub idle: Duration,
    /// A session older than this is over, however busy. At least a second.
    #[serde(deserialize_with = "lifetime")]
    pub max_age: Duration,
    /// `Path` of the cookie.
    #[serde(deserialize_with = "path")]
    pub path: String,
    /// `Domain` of the cookie; none keeps it to the host that was asked.
    #[serde(deserialize_with = "domain")]
    pub domain: Option<String>,
    pub same_site: SameSite,
    pub secure: Secure,
    /// Whether scripts in the page cannot read the cookie.
    pub http_only: bool,
    /// The application's own session cookie, in the place of evenkeel's: which server has begun a session is
    /// learned from its answers.
    #[serde(deserialize_with = "learned")]
    pub learn: Option<String>,
    /// The same where the application says itself, in its cookie, on which server the session is.
    pub route: Option<RouteCookie>,
}

impl Default for StickyCookie {
    fn default() -> Self {
        Self {
            name: "evenkeel".to_owned(),
            new_clients: Box::new(Policy::LeastRequests(LeastRequests::default())),
            idle: Duration::from_secs(30 * 60),
            max_age: Duration::from_secs(12 * 60 * 60),
            path: "/".to_owned(),
            domain: None,
            same_site: SameSite::default(),
            secure: Secure::default(),
            http_only: true,
            learn: None,
            route: None,
        }
    }
}

/// What a valid cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Hash of the pinned server's name ([`super::key_of`]).
    pub server: u64,
    /// Random number of the session.
    pub session: u64,
    /// When the cookie was first set, Unix seconds; below 2⁴⁰.
    pub issued: u64,
    /// When it was last renewed, Unix seconds; from `issued` to 2³² after it.
    pub seen: u64,
}

/// Why a cookie was not honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Not sealed by any known key for this cookie and upstream: forged, foreign or garbage.
    Invalid,
    /// Idle for too long, past its age, or from further ahead than clocks differ.
    Expired,
}

/// Clocks of replicas differ; more than this is no difference of clocks.
const CLOCKS_DIFFER: u64 = 24 * 60 * 60;

impl StickyCookie {
    /// Whose cookie it is that holds clients to their servers.
    #[must_use]
    pub fn carrier(&self) -> Carrier<'_> {
        match (&self.learn, &self.route) {
            (Some(name), _) => Carrier::Learned(name),
            (None, Some(route)) => Carrier::Named(route),
            (None, None) => Carrier::Own,
        }
    }

    /// The value of `Set-Cookie` (RFC 6265 §4.1). `tls`: whether the request came over TLS.
    ///
    /// It has no `Max-Age`: the proxy enforces [`Self::idle`] and [`Self::max_age`], and a browser that
    /// is closed forgets the pin.
    #[must_use]
    pub fn set_cookie(&self, value: &str, tls: bool) -> String {
        let mut text = String::with_capacity(self.name.len() + value.len() + self.path.len() + 64);
        text.push_str(&self.name);
        text.push('=');
        text.push_str(value);
        text.push_str("; Path=");
        text.push_str(&self.path);
        if let Some(domain) = &self.domain {
            text.push_str("; Domain=");
            text.push_str(domain);
        }
        text.push_str(match self.same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
        });
        if self.is_secure(tls) {
            text.push_str("; Secure");
        }
        if self.http_only {
            text.push_str("; HttpOnly");
        }
        text
    }

    /// Whether the cookie is to be set again so that `seen` stays meaningful: not for each answer, but
    /// once a quarter of [`Self::idle`] has passed.
    #[must_use]
    pub fn needs_renewal(&self, pin: &Pin, now_unix: u64) -> bool {
        now_unix.saturating_sub(pin.seen) > self.idle.as_secs() / 4
    }

    /// Whether a pin that was sealed by us is still good.
    fn check_age(&self, pin: &Pin, now_unix: u64) -> Result<(), Refused> {
        let latest = now_unix.saturating_add(CLOCKS_DIFFER);
        let idle = now_unix.saturating_sub(pin.seen);
        let age = now_unix.saturating_sub(pin.issued);
        let good =
            pin.issued <= latest && pin.seen <= latest && idle <= self.idle.as_secs() && age <= self.max_age.as_secs();
        if good { Ok(()) } else { Err(Refused::Expired) }
    }

    fn is_secure(&self, tls: bool) -> bool {
        match self.secure {
            Secure::Auto => tls || self.same_site == SameSite::None,
            Secure::Always => true,
            Secure::Never => false,
        }
    }

    /// What no single option can tell: cookies that every browser would throw away, or that nobody sets.
    fn validate(&self) -> Result<(), String> {
        self.validate_borrowed()?;
        if self.same_site == SameSite::None && self.secure == Secure::Never {
            return Err("`same_site = \"none\"` with `secure = \"never\"`: browsers refuse such a cookie: \
                        write `secure = \"auto\"` or `same_site = \"lax\"`"
                .to_owned());
        }
        let has_prefix = |prefix: &str| self.name.get(..prefix.len()).is_some_and(|n| n.eq_ignore_ascii_case(prefix));
        let (host, secure) = (has_prefix("__Host-"), has_prefix("__Secure-"));
        if (host || secure) && self.secure == Secure::Never {
            return Err(format!("a cookie named `{}` has to be secure: write `secure = \"always\"`", self.name));
        }
        if host && (self.domain.is_some() || self.path != "/") {
            return Err(format!("a cookie named `{}` must have no `domain`, and `path = \"/\"`", self.name));
        }
        Ok(())
    }

    fn validate_borrowed(&self) -> Result<(), String> {
        let key = match (&self.learn, &self.route) {
            (None, None) => return Ok(()),
            (Some(_), Some(_)) => {
                return Err("`learn` and `route` are two ways to one end: write `route` if the application's cookie \
                            names the server, else `learn`"
                    .to_owned());
            }
            (Some(_), None) => "learn",
            (None, Some(_)) => "route",
        };
        let own = Self::default();
        let said = [
            ("name", self.name != own.name),
            ("max_age", self.max_age != own.max_age),
            ("path", self.path != own.path),
            ("domain", self.domain != own.domain),
            ("same_site", self.same_site != own.same_site),
            ("secure", self.secure != own.secure),
            ("http_only", self.http_only != own.http_only),
        ];
        match said.iter().find(|(_, is_said)| *is_said) {
            Some((option, _)) => Err(format!(
                "`{option}` is of evenkeel's own cookie, and with `{key}` there is none: write no `{option}`, the \
                 application says that of its cookie"
            )),
            None => Ok(()),
        }
    }
}

// Derived with `remote`, so that what was read is checked while the reader still knows its place.
impl<'de> Deserialize<'de> for StickyCookie {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let cookie = Self::deserialize(deserializer)?;
        cookie.validate().map_err(de::Error::custom)?;
        Ok(cookie)
    }
}

/// Whether cookies may have that name: a token (RFC 6265 §4.1.1) of at most 64 bytes.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(token)
}

pub(super) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if !is_name(&name) {
        return Err(de::Error::custom(format!(
            "`{name}` is no name for a cookie: write 1 to 64 letters, digits or any of !#$%&'*+-.^_`|~"
        )));
    }
    Ok(name)
}

fn learned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    name(deserializer).map(Some)
}

fn new_clients<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<Policy>, D::Error> {
    let policy = Policy::deserialize(deserializer)?;
    if policy.sticky().is_some() {
        return Err(de::Error::custom(
            "`sticky_cookie` cannot place new clients, which have no cookie yet: write \"least_requests\", \
             \"round_robin\" or \"ip_hash\"",
        ));
    }
    Ok(Box::new(policy))
}

pub(super) fn lifetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration = units::duration(deserializer)?;
    if duration < Duration::from_secs(1) {
        return Err(de::Error::custom(format!(
            "{} is too short: write at least \"1s\"",
            units::show_duration(duration)
        )));
    }
    Ok(duration)
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let path = String::deserialize(deserializer)?;
    if !path.starts_with('/') || !path.bytes().all(|b| (0x21..0x7F).contains(&b) && b != b';') {
        return Err(de::Error::custom(format!(
            "`{path}` is no path for a cookie: it starts with `/` and has no space, no `;` and no letters beyond ASCII"
        )));
    }
    Ok(path)
}

fn domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let domain = String::deserialize(deserializer)?;
    let label = |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if domain.len() > 253 || !domain.split('.').all(label) {
        return Err(de::Error::custom(format!(
            "`{domain}` is no domain for a cookie: write one such as \"example.com\""
        )));
    }
    Ok(Some(domain))
}
