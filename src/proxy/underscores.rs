//! Header names with an underscore.
//!
//! Gateways that hand headers on as variables (RFC 3875 §4.1.18) turn a dash into an underscore, and so two
//! names into one: `X_Forwarded_For` of a client would stand beside, or in the place of, what the proxy
//! says. Only requests in which such a name was noted come here.

use http::HeaderMap;
use http::header::HeaderName;

use crate::config::plan::{HeaderEdits, Underscores};
use crate::error::{Kind, ProxyError};
use crate::metrics::cells::CoreCells;

/// What is not a client's to say, or is settled before a request goes on.
const OWN: [&str; 28] = [
    "client-cert",
    "client-cert-chain",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-client-cert-fingerprint",
    "x-client-cert-san",
    "x-client-cert-subject",
    "x-client-cert-verified",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-mirrored-by",
    "x-real-ip",
    "x-request-id",
    "x-session-moved",
];

/// Does with the headers of a request what the listener says.
///
/// # Errors
/// Where such a request is refused.
pub(super) fn settle(way: Underscores, headers: &mut HeaderMap, cells: &CoreCells) -> Result<(), ProxyError> {
    match way {
        Underscores::Drop => remove(headers, cells, |_| true),
        Underscores::Allow => {
            remove(headers, cells, |name| OWN.iter().any(|own| are_one(name, own)));
        }
        Underscores::Refuse => {
            return Err(ProxyError::new(Kind::BadRequest).because("the name of a header has an underscore"));
        }
    }
    Ok(())
}

/// Takes out what a server could take for headers that the route sets or removes.
pub(super) fn yield_to(edits: &HeaderEdits, headers: &mut HeaderMap, cells: &CoreCells) {
    let names = || edits.set.iter().map(|(name, _)| name).chain(&edits.remove);
    remove(headers, cells, |name| names().any(|own| are_one(name, own.as_str())));
}

fn remove(headers: &mut HeaderMap, cells: &CoreCells, which: impl Fn(&str) -> bool) {
    let with_underscore = |name: &&HeaderName| name.as_str().contains('_') && which(name.as_str());
    let names: Vec<HeaderName> = headers.keys().filter(with_underscore).cloned().collect();
    for name in names {
        headers.remove(name);
        cells.underscores_dropped.inc();
    }
}

/// Whether two names, both in lower case, are one to a server that takes `_` for `-`.
fn are_one(one: &str, other: &str) -> bool {
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
    one.len() == other.len() && one.bytes().map(dashed).eq(other.bytes().map(dashed))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn left(way: Underscores) -> (Vec<String>, u64) {
        let mut headers = HeaderMap::new();
        for name in ["accept", "x_forwarded_for", "content_length", "transfer-encoding_", "x-client_cert-san", "my_own"]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        let cells = CoreCells::default();
        settle(way, &mut headers, &cells).unwrap();
        (headers.keys().map(ToString::to_string).collect(), cells.underscores_dropped.get())
    }

    #[test]
    fn what_could_be_taken_for_another_is_taken_out() {
        assert_eq!(left(Underscores::Drop), (vec!["accept".to_owned()], 5));
        let (mut names, dropped) = left(Underscores::Allow);
        names.sort();
        assert_eq!((names.join(" ").as_str(), dropped), ("accept my_own transfer-encoding_", 3));
        let (mut headers, cells) = (HeaderMap::new(), CoreCells::default());
        assert!(settle(Underscores::Refuse, &mut headers, &cells).is_err());
    }
}
