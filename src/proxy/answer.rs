//! Answers that the proxy makes itself.
//!
//! They say what happened and the short reason code, never a server's address or a cause that could
//! hold one.

use std::borrow::Cow;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response};

use super::body::Body;
use super::grpc;
use crate::error::{Kind, ProxyError};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What the answer's form depends on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Form {
    html: bool,
    is_head: bool,
    is_grpc: bool,
}

impl Form {
    /// HTML for whoever accepts it by name, as browsers do; a status for gRPC; JSON for everything else.
    pub(super) fn of(method: &Method, headers: &HeaderMap) -> Self {
        let html = headers
            .get(header::ACCEPT)
            .is_some_and(|accept| memchr::memmem::find(accept.as_bytes(), b"text/html").is_some());
        Self { html, is_head: *method == Method::HEAD, is_grpc: grpc::is_asked(method, headers) }
    }

    pub(super) fn is_html(self) -> bool {
        self.html
    }

    pub(super) fn is_grpc(self) -> bool {
        self.is_grpc
    }

    pub(super) fn is_head(self) -> bool {
        self.is_head
    }
}

/// The answer for an error, and the length of its body.
pub(super) fn error(error: &ProxyError, form: Form, request_id: Option<&HeaderValue>) -> (Response<Body>, usize) {
    if form.is_grpc {
        let mut response = grpc::refusal(error.kind, sentence(error.kind));
        say_why(&mut response, error, request_id);
        return (response, 0);
    }
    let (status, sentence, reason) = (error.status(), message(error), error.kind.reason());
    let (kind, text) = if form.html {
        let title = status.canonical_reason().unwrap_or("Error");
        let sentence = escaped(sentence);
        let page = format!(
            "<!doctype html>\n<html lang=\"en\" style=\"color-scheme:light dark\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><title>{code} {title}</title>\n\
             <body style=\"font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem\">\n<h1>{code} {title}</h1>\n<p>{sentence}</p>\n\
             <p style=\"opacity:.6\"><code>{reason}</code></p>\n",
            code = status.as_u16(),
        );
        ("text/html; charset=utf-8", page)
    } else {
        let code = status.as_u16();
        let sentence = serde_json::Value::from(sentence);
        ("application/json", format!("{{\"status\":{code},\"error\":\"{reason}\",\"message\":{sentence}}}\n"))
    };
    let length = text.len();
    let body = if form.is_head { Body::Empty } else { Body::Text(Some(Bytes::from(text))) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status.as_u16() == 503 {
        let seconds = error.notice.as_ref().map_or(1, |(_, seconds)| *seconds);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    say_why(&mut response, error, request_id);
    (response, if form.is_head { 0 } else { length })
}

/// What an answer of any form says of the error.
fn say_why(response: &mut Response<Body>, error: &ProxyError, request_id: Option<&HeaderValue>) {
    let (headers, reason) = (response.headers_mut(), error.kind.reason());
    if let Ok(timing) = HeaderValue::from_str(&format!("evenkeel;desc=\"{reason}\"")) {
        headers.insert(SERVER_TIMING, timing);
    }
    if let Some(id) = request_id {
        headers.insert(super::headers::X_REQUEST_ID, id.clone());
    }
    if closes(error.kind) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// An answer as it is written to a client whose request was never parsed.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) bytes: Vec<u8>,
    /// Length of its body.
    pub(super) body: usize,
}

/// The answer for a request of which nothing is known but what is wrong with it.
pub(super) fn unread(kind: Kind, request_id: Option<&HeaderValue>) -> Unread {
    let (mut response, length) =
        error(&ProxyError::new(kind), Form { html: false, is_head: false, is_grpc: false }, request_id);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now())) {
        response.headers_mut().insert(header::DATE, date);
    }
    let status = response.status();
    let mut bytes =
        format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("Error")).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_ref());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    if let Body::Text(Some(text)) = response.into_body() {
        bytes.extend_from_slice(&text);
    }
    Unread { bytes, body: length }
}

/// After these the rest of the client's bytes cannot be trusted or is not wanted.
fn closes(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::BadRequest
            | Kind::BodyTooLarge
            | Kind::BodyTimeout
            | Kind::HeaderTimeout
            | Kind::MethodRefused
            | Kind::ExpectationFailed
            | Kind::Stopping
    )
}

/// What the client is told: an operator's words, where there are any.
pub(super) fn message(error: &ProxyError) -> &str {
    error.notice.as_ref().map_or(sentence(error.kind), |(message, _)| message)
}

/// The text within HTML.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

pub(super) fn sentence(kind: Kind) -> &'static str {
    match kind {
        Kind::HttpsRequired => "This is served over https only.",
        Kind::BadRequest => "The request is malformed or could be read in two ways.",
        Kind::HeaderTimeout | Kind::BodyTimeout => "The request did not arrive in time.",
        Kind::BodyTooLarge => "The request body is larger than allowed.",
        Kind::UriTooLong => "The request line is longer than allowed.",
        Kind::ExpectationFailed => "The only expectation that is understood is 100-continue.",
        Kind::HeadersTooLarge => "The request headers are larger than allowed.",
        Kind::ClientGone => "The client left.",
        Kind::MethodRefused => "This method is not served here.",
        Kind::Forbidden => "You may not come here from where you are.",
        Kind::Unauthorized => "A name and a password are needed here.",
        Kind::AuthBusy => "Too many passwords are being verified at the moment. Please try again.",
        Kind::NoRoute => "Nothing is served at this address.",
        Kind::NoServer => "No server can take this request at the moment. Please try again.",
        Kind::QueueFull | Kind::QueueTimeout => {
            "This service has as much to do as it can at the moment. Please try again."
        }
        Kind::Maintenance => "This service is down for maintenance. Please try again later.",
        Kind::Stopping => "This service is restarting. Please try again.",
        Kind::Internal => "Something went wrong here.",
        Kind::ConnectRefused | Kind::ConnectFailed | Kind::UpstreamTls | Kind::Unresolved => {
            "The application could not be reached."
        }
        Kind::Reset | Kind::Truncated => "The application ended the connection before its answer.",
        Kind::Cut => "The application is being taken out of service here, and the request took too long.",
        Kind::StreamRefused => "The application takes no more requests at the moment. Please try again.",
        Kind::BadAnswer => "The application's answer could not be understood.",
        Kind::ConnectTimeout | Kind::FirstByteTimeout | Kind::BetweenBytesTimeout | Kind::RequestTimeout => {
            "The application did not answer in time."
        }
    }
}
