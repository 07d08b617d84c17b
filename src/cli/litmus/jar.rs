//! The cookies of one client, as a browser would keep them for one host.

use std::time::SystemTime;

use crate::balance::sticky_cookie::is_past;

/// Words in the names of cookies that tell of a session.
const SESSION: [&str; 7] = ["sess", "sid", "auth", "token", "jwt", "login", "user"];
/// Words in the names of those that are anew with every answer.
const NONCE: [&str; 3] = ["csrf", "xsrf", "nonce"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Cookie {
    name: String,
    value: String,
    path: String,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Jar(Vec<Cookie>);

/// A cookie that an answer has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: String,
    /// Whether the client had sent another value of it.
    pub(super) is_other: bool,
    pub(super) http_only: bool,
}

impl Jar {
    /// `Cookie` for a request, if there is any to send.
    pub(super) fn header(&self, path: &str) -> Option<String> {
        let sent = self.0.iter().filter(|cookie| is_within(path, &cookie.path));
        let pairs: Vec<String> = sent.map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// Takes a `Set-Cookie` of the answer to a request for `path`.
    pub(super) fn take(&mut self, line: &str, path: &str) -> Option<Set> {
        let mut parts = line.split(';');
        let (name, value) = parts.next()?.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let default = path.rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent });
        let (mut of, mut http_only) = (default.to_owned(), false);
        // Max-Age goes before Expires (RFC 6265 §5.3), whichever is first.
        let (mut max_age, mut expired) = (None, false);
        for attribute in parts {
            let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            match key.trim().to_ascii_lowercase().as_str() {
                "path" if value.trim().starts_with('/') => of = value.trim().to_owned(),
                "httponly" => http_only = true,
                "max-age" => max_age = value.trim().parse::<i64>().ok().or(max_age),
                "expires" => expired = is_past(value.trim(), now_unix()),
                _ => {}
            }
        }
        let is_over = max_age.map_or(expired, |seconds| seconds <= 0);
        let sent = self.0.iter().find(|cookie| cookie.name == name && is_within(path, &cookie.path));
        let is_other = sent.is_some_and(|cookie| is_over || cookie.value != value);
        self.0.retain(|cookie| cookie.name != name || cookie.path != of);
        if !is_over {
            self.0.push(Cookie { name: name.to_owned(), value: value.to_owned(), path: of });
        }
        Some(Set { name: name.to_owned(), is_other, http_only })
    }
}

fn now_unix() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// RFC 6265 §5.1.4.
fn is_within(path: &str, of: &str) -> bool {
    path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || of.ends_with('/') || rest.starts_with('/'))
}

impl Set {
    /// Whether it is a session's: one of `named`, or one that looks like it where nobody has said.
    pub(super) fn is_session(&self, named: Option<&[String]>) -> bool {
        if let Some(named) = named {
            return named.contains(&self.name);
        }
        let name = self.name.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
        !has(&NONCE) && (self.http_only || has(&SESSION))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_kept_replaced_and_thrown_away() {
        let mut jar = Jar::default();
        assert_eq!(jar.header("/"), None);
        let set = jar.take("sid=1; Path=/; HttpOnly", "/login").unwrap();
        assert_eq!(set, Set { name: "sid".into(), is_other: false, http_only: true });
        jar.take("admin=2", "/admin/users").unwrap();
        assert_eq!(jar.header("/cart").unwrap(), "sid=1");
        assert_eq!(jar.header("/admin/x").unwrap(), "sid=1; admin=2");
        assert_eq!(jar.header("/administration").unwrap(), "sid=1");
        assert!(!jar.take("sid=1; Path=/", "/cart").unwrap().is_other, "the same is not another");
        assert!(jar.take("sid=3; Path=/", "/cart").unwrap().is_other);
        assert_eq!(jar.header("/").unwrap(), "sid=3");
        assert!(jar.take("sid=; Path=/; Max-Age=0", "/").unwrap().is_other);
        assert_eq!(jar.header("/"), None);
        let past = jar.take("admin=; Path=/admin; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "/admin/").unwrap();
        assert!(past.is_other && jar.header("/admin/").is_none());
        for (ages, stays) in [
            ("Expires=Thu, 01-Jan-1970 00:00:01 GMT", false),
            ("Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", true),
            ("Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=60", true),
            ("Max-Age=0; Expires=Wed, 01 Jan 2200 00:00:00 GMT", false),
            ("Max-Age=soon; Expires=whenever", true),
        ] {
            jar.take(&format!("sid=4; Path=/; {ages}"), "/").unwrap();
            assert_eq!(jar.header("/").is_some(), stays, "{ages}");
        }
    }

    #[test]
    fn session_cookies_are_named_or_guessed() {
        let set = |name: &str, http_only| Set { name: name.into(), is_other: true, http_only };
        assert!(set("PHPSESSID", false).is_session(None) && set("x", true).is_session(None));
        assert!(!set("theme", false).is_session(None) && !set("csrf_token", true).is_session(None));
        let named = ["theme".to_owned()];
        assert!(set("theme", false).is_session(Some(&named)) && !set("PHPSESSID", true).is_session(Some(&named)));
    }
}
