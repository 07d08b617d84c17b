//! Answers that a route makes without a server: redirects and fixed responses.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use super::body::Body;
use super::edits::{self, Asking, Known};
use super::exchange::Exchange;
use super::headers::X_REQUEST_ID;
use crate::config::plan::template::Template;
use crate::config::plan::{Action, PathPattern, RoutePlan};
use crate::error::{Kind, ProxyError};

/// The answer of a route that leads to no upstream, and the length of its body; none for one that does.
pub(super) fn reply<B>(
    exchange: &Exchange,
    route: &RoutePlan,
    request: &Request<B>,
    compared: Option<&str>,
) -> Result<Option<(Response<Body>, usize)>, ProxyError> {
    let mut response = Response::new(Body::Empty);
    let (status, text) = match &route.action {
        Action::Upstream(_) | Action::Split { .. } => return Ok(None),
        Action::Redirect { status, to } => {
            let location = location(exchange, route, request, compared, to)?;
            response.headers_mut().insert(header::LOCATION, location);
            (*status, "")
        }
        Action::Respond { status, body, content_type } => {
            if !body.is_empty() {
                response.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
            }
            (*status, body.as_str())
        }
    };
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| ProxyError::new(Kind::Internal))?;
    // RFC 9110 §8.6: neither has a length.
    if !matches!(status, 204 | 304) {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    }
    if let Some(id) = &exchange.request_id {
        response.headers_mut().insert(X_REQUEST_ID, id.clone());
    }
    if !route.response_headers.is_empty() {
        let known = Known { exchange, request: None, captures: None };
        edits::make(&route.response_headers, &known).apply(response.headers_mut());
    }
    let bytes = if *request.method() == Method::HEAD { 0 } else { text.len() };
    if bytes > 0 {
        *response.body_mut() = Body::Text(Some(Bytes::copy_from_slice(text.as_bytes())));
    }
    Ok(Some((response, bytes)))
}

/// The target of a redirect. One that begins with two slashes would name another host.
fn location<B>(
    exchange: &Exchange,
    route: &RoutePlan,
    request: &Request<B>,
    compared: Option<&str>,
    to: &Template,
) -> Result<HeaderValue, ProxyError> {
    let path = compared.unwrap_or(request.uri().path());
    let captures = match &route.path {
        PathPattern::Regex(pattern) => pattern.regex().captures(path),
        PathPattern::Prefix(_) | PathPattern::Exact(_) => None,
    };
    let made = to.render(&Known { exchange, request: Some(Asking::of(request)), captures: captures.as_ref() });
    let target = if made.starts_with('/') { format!("/{}", made.trim_start_matches(['/', '\\'])) } else { made };
    HeaderValue::try_from(target).map_err(|error| ProxyError::new(Kind::BadRequest).because(error))
}
