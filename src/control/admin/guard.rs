//! Who may ask over TCP.
//!
//! The Unix socket is guarded by its mode. Over TCP a bearer token is asked for where one is
//! configured. A browser of this machine can be made to send requests to loopback addresses by any
//! page it shows, so what carries a foreign `Origin` is refused, and so is a `Host` that is a name:
//! a name can be pointed at a loopback address by whoever owns it (DNS rebinding).

use std::net::IpAddr;

use axum::http::{HeaderMap, header, uri::Authority};

use super::CommandError;

/// Whether a request may be answered. Without a token, `/livez` and `/readyz` are open to all who
/// reach the address: they tell nothing else.
pub(super) fn check(path: &str, headers: &HeaderMap, token: Option<&str>) -> Result<(), CommandError> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if let Some(origin) = headers.get(header::ORIGIN) {
        let own = origin.to_str().ok().and_then(|o| o.strip_prefix("http://")).is_some_and(|o| Some(o) == host);
        if !own {
            return Err(CommandError::Forbidden { message: "requests of other sites' pages are refused".to_owned() });
        }
    }
    if let Some(token) = token {
        if bearer(headers).is_some_and(|given| same(given, token)) {
            // A page that was rebound to this address does not know the token: any Host will do.
            return Ok(());
        }
        if !matches!(path, "/livez" | "/readyz") {
            return Err(CommandError::Unauthorized);
        }
    }
    if host.is_some_and(is_literal) {
        return Ok(());
    }
    let message = "`Host` must be an IP address or localhost: ask by address, or send the admin token".to_owned();
    Err(CommandError::Forbidden { message })
}

/// The token of `Authorization: Bearer …`; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares in a time that does not depend on where the two differ.
fn same(given: &str, token: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), token.as_bytes()).is_ok()
}

fn is_literal(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    !host.contains('@') && (name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &str, headers: &[(&'static str, &str)], token: Option<&str>) -> u16 {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        check(path, &headers, token).map_or_else(|error| error.status().as_u16(), |()| 200)
    }

    #[test]
    fn hosts_that_are_names_are_refused() {
        for host in ["127.0.0.1", "127.0.0.1:9191", "[::1]:9191", "localhost", "LOCALHOST:80", "10.0.0.3:9191"] {
            assert_eq!(ask("/status", &[("host", host)], None), 200, "{host}");
        }
        for host in
            ["evil.example", "evil.example:9191", "127.0.0.1.evil.example", "localhost.evil", "a@127.0.0.1", "", ":80"]
        {
            assert_eq!(ask("/status", &[("host", host)], None), 403, "{host}");
        }
        assert_eq!(ask("/status", &[], None), 403);
    }

    #[test]
    fn foreign_origins_are_refused() {
        let own = [("host", "127.0.0.1:9191"), ("origin", "http://127.0.0.1:9191")];
        assert_eq!(ask("/reload", &own, None), 200);
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080", "https://127.0.0.1:9191"] {
            assert_eq!(ask("/reload", &[("host", "127.0.0.1:9191"), ("origin", origin)], None), 403, "{origin}");
            let with_token = [("host", "127.0.0.1:9191"), ("origin", origin), ("authorization", "Bearer t")];
            assert_eq!(ask("/reload", &with_token, Some("t")), 403, "{origin}");
        }
    }

    #[test]
    fn the_token_is_asked_for() {
        let host = ("host", "127.0.0.1");
        let with = |given| ask("/status", &[host, ("authorization", given)], Some("secret"));
        assert_eq!(with("Bearer secret"), 200);
        assert_eq!(with("bearer secret"), 200);
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "Basic secret", "secret"] {
            assert_eq!(with(wrong), 401, "{wrong}");
        }
        assert_eq!(ask("/status", &[host], Some("secret")), 401);
        assert_eq!(ask("/readyz", &[host], Some("secret")), 200);
        assert_eq!(ask("/readyz", &[("host", "evil.example")], Some("secret")), 403);
        assert_eq!(ask("/status", &[("host", "lb.internal"), ("authorization", "Bearer secret")], Some("secret")), 200);
    }
}
