//! From a request of an HTTP/2 stream to the form that the rest of the proxy serves.
//!
//! The protocol library has refused what RFC 9113 §8 calls malformed: pseudo-headers that are missing,
//! repeated or late, upper-case names, connection headers. What is left is what only matters to who
//! forwards to HTTP/1.1. Pure.

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Version};

use crate::config::plan::ListenerPlan;
use crate::error::{Kind, ProxyError};

/// `Sec-WebSocket-Key` and what a server makes of it (RFC 6455 §4.2.2), which HTTP/2 leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) accept: String,
}

/// Joins the crumbs of `Cookie` (RFC 9113 §8.2.3): HTTP/1.1 has one.
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(header::COOKIE, value);
    }
}

/// An extended CONNECT for a WebSocket (RFC 8441 §4) becomes the upgrade request that HTTP/1.1 servers
/// know, with a key made of `random`. What the server has to answer to it comes back. None for any other
/// protocol, and then nothing is changed.
pub(crate) fn connect_to_upgrade(parts: &mut Parts, protocol: &str, random: [u8; 16]) -> Option<Challenge> {
    use base64::Engine as _;

    if !protocol.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let key = base64::engine::general_purpose::STANDARD.encode(random);
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    parts.method = Method::GET;
    parts.version = Version::HTTP_11;
    let headers = &mut parts.headers;
    // What of the handshake HTTP/2 replaces does not count where a client sends it all the same.
    headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).ok()?);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let (None, Some(authority)) = (headers.get(header::HOST), parts.uri.authority()) {
        headers.insert(header::HOST, HeaderValue::from_str(authority.as_str()).ok()?);
    }
    join_cookies(headers);
    Some(Challenge { accept })
}

/// Makes the head of a request what `check` expects of any client: an authority, or a `Host` without
/// one, over a path.
///
/// # Errors
/// A request that HTTP/1.1 could not carry in one reading: 400.
pub(crate) fn settle<B>(request: &mut Request<B>, plan: &ListenerPlan) -> Result<(), ProxyError> {
    join_cookies(request.headers_mut());
    if request.headers().len() > plan.max_headers {
        return Err(ProxyError::new(Kind::HeadersTooLarge).because("more header lines than `max_headers`"));
    }
    // What its first line would be in HTTP/1.1.
    let target = request.uri().path_and_query().map_or(1, |target| target.as_str().len());
    if request.method().as_str().len() + target + " / HTTP/1.1".len() - 1 > plan.max_request_line {
        return Err(ProxyError::new(Kind::UriTooLong));
    }
    let bad = |why: &'static str| ProxyError::new(Kind::BadRequest).because(why);
    if request.headers().contains_key(header::TRANSFER_ENCODING) {
        return Err(bad("Transfer-Encoding in HTTP/2"));
    }
    // The protocol library takes several that agree; who reads the same over HTTP/1.1 need not.
    if request.headers().get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(bad("more than one Content-Length"));
    }
    let path = request.uri().path();
    if path == "*" && *request.method() == Method::OPTIONS {
        // The authority moves to `Host`, for the target of the server-wide form has none.
        if let Some(authority) = request.uri().authority() {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad("the authority is malformed"))?;
            let given = request.headers().get(header::HOST);
            if given.is_some_and(|given| !given.as_bytes().eq_ignore_ascii_case(host.as_bytes())) {
                return Err(bad("Host and the authority differ"));
            }
            request.headers_mut().insert(header::HOST, host);
        }
        *request.uri_mut() = Uri::from(PathAndQuery::from_static("*"));
    } else if *request.method() != Method::CONNECT && !path.starts_with('/') {
        return Err(bad("the path does not start with a slash"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(request: http::request::Builder) -> Parts {
        request.version(Version::HTTP_2).body(()).unwrap().into_parts().0
    }

    #[test]
    fn crumbs_become_one_cookie_in_their_order() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2", "c=3"] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn a_websocket_over_http2_becomes_the_handshake_of_http1() {
        let mut connect = parts(Request::builder().method("CONNECT").uri("https://a/chat"));
        let challenge = connect_to_upgrade(&mut connect, "websocket", [7; 16]).unwrap();
        assert_eq!(connect.method, Method::GET);
        assert_eq!(connect.headers[header::SEC_WEBSOCKET_KEY], "BwcHBwcHBwcHBwcHBwcHBw==");
        assert_eq!(challenge.accept.len(), 28);
        let mut other = parts(Request::builder().method("CONNECT").uri("https://a/chat"));
        assert_eq!(connect_to_upgrade(&mut other, "connect-udp", [7; 16]), None);
        assert_eq!(other.method, Method::CONNECT);
    }

    #[test]
    fn what_has_no_one_reading_in_http1_is_refused() {
        let request = |builder: http::request::Builder| builder.version(Version::HTTP_2).body(()).unwrap();
        let mut options = request(Request::builder().method("OPTIONS").uri(Uri::from_static("*")));
        assert!(settle(&mut options, &ListenerPlan::example()).is_ok());
        let mut coded = request(Request::builder().uri("http://a/").header("transfer-encoding", "chunked"));
        assert_eq!(settle(&mut coded, &ListenerPlan::example()).unwrap_err().kind, Kind::BadRequest);
        let lengths = Request::builder().uri("http://a/").header("content-length", "5").header("content-length", "5");
        assert_eq!(settle(&mut request(lengths), &ListenerPlan::example()).unwrap_err().kind, Kind::BadRequest);
    }
}
