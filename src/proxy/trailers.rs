//! What may not be said after a body, in either direction.
//!
//! A trailer comes when routing, framing and who the client is are long settled, and after the rules for
//! heads were applied. Who merges it into the head all the same must not find there what those rules took
//! out or wrote (RFC 9110 §6.5.1). Only a message that has trailers comes here.

use http::{HeaderMap, HeaderName};

/// Without the dashes, which some servers take for underscores (RFC 3875 §4.1.18).
const NAMES: [&str; 34] = [
    // One connection's (RFC 9110 §7.6.1).
    "connection",
    "keepalive",
    "proxyconnection",
    "te",
    "trailer",
    "transferencoding",
    "upgrade",
    "http2settings",
    // Framing and the content's form.
    "contentencoding",
    "contentlength",
    "contentrange",
    "contenttype",
    // Routing and what modifies the request.
    "host",
    "expect",
    "maxforwards",
    "range",
    "cachecontrol",
    // Who asks.
    "authorization",
    "proxyauthorization",
    "proxyauthenticate",
    "wwwauthenticate",
    "cookie",
    "setcookie",
    // The proxy's own.
    "forwarded",
    "xrealip",
    "xrequestid",
    "xmirroredby",
    "xsessionmoved",
    "clientcert",
    "clientcertchain",
    "grpctimeout",
    "stricttransportsecurity",
    "location",
    "vary",
];
/// The proxy's own, however they go on.
const FAMILIES: [&str; 2] = ["xforwarded", "xclientcert"];

/// Takes out what is no trailer; whether any is left.
pub(super) fn filter(trailers: &mut HeaderMap) -> bool {
    let refused: Vec<HeaderName> = trailers.keys().filter(|name| !may_trail(name)).cloned().collect();
    for name in refused {
        trailers.remove(name);
    }
    !trailers.is_empty()
}

fn may_trail(name: &HeaderName) -> bool {
    let bare: String = name.as_str().chars().filter(|c| !matches!(c, '-' | '_')).collect();
    !NAMES.contains(&bare.as_str()) && !FAMILIES.iter().any(|family| bare.starts_with(family))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_belongs_into_a_head_is_taken_out_in_every_spelling() {
        let mut trailers = HeaderMap::new();
        for name in ["connection", "Content-Length", "x_forwarded_for", "X-Client-Cert-Subject", "host", "grpc-status"]
        {
            trailers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("1"));
        }
        trailers.append("x-sum", HeaderValue::from_static("1"));
        trailers.append("x-sum", HeaderValue::from_static("2"));
        assert!(filter(&mut trailers));
        let mut left: Vec<_> = trailers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        // Taking some out changes the order of names.
        left.sort_unstable();
        assert_eq!(left, [("grpc-status", "1"), ("x-sum", "1"), ("x-sum", "2")]);
    }
}
