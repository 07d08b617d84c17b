//! Sending clients to https.

use std::fmt;

use http::{HeaderValue, Request, Response, StatusCode, header};

use super::check::{LONGEST_HOST, routing_host};
use crate::config::plan::RedirectToHttps;
use crate::error::{Kind, ProxyError};

/// Where certificate authorities look (RFC 8555 §8.3), always over plain HTTP.
const ACME: &str = "/.well-known/acme-challenge/";

/// Where the client is sent.
#[derive(Debug)]
struct Location(HeaderValue);

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sent to https")
    }
}

impl std::error::Error for Location {}

/// The redirect for a request without TLS; none where it is served as it is. A request without a host
/// cannot be sent anywhere.
pub(super) fn required<B>(redirect: &RedirectToHttps, request: &Request<B>) -> Option<ProxyError> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    if redirect.acme && target.starts_with(ACME) {
        return None;
    }
    let mut buffer = [0; LONGEST_HOST + 1];
    let host = routing_host(request.headers(), &mut buffer);
    if host.is_empty() {
        return Some(ProxyError::new(Kind::BadRequest).because("no host to be sent to"));
    }
    let target = if target == "*" { "/" } else { target };
    let location = match redirect.port {
        443 => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    };
    let Ok(location) = HeaderValue::try_from(location) else { return Some(ProxyError::new(Kind::BadRequest)) };
    let mut error = ProxyError::new(Kind::HttpsRequired).because(Location(location));
    error.status = StatusCode::from_u16(redirect.status).ok();
    Some(error)
}

/// Says in the answer where the client is sent, if it is.
pub(super) fn tell<B>(error: &ProxyError, response: &mut Response<B>) {
    if let Some(Location(location)) = error.source.as_ref().and_then(|source| source.downcast_ref()) {
        response.headers_mut().insert(header::LOCATION, location.clone());
        response.headers_mut().remove(header::CACHE_CONTROL);
    }
}
