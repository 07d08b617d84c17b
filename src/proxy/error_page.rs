//! Pages in the place of the answers that the proxy makes itself, and of servers' own if that is wanted.
//!
//! Nothing goes into a page but what the table of errors says and the request's id, which is harmless.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, response};
use http_body::Body as _;

use super::answer::Form;
use super::body::Body;
use super::connection::Protocol;
use super::exchange::Exchange;
use super::server_body::ServerBody;
use crate::config::plan::{ErrorPagePlan, Piece, Variable};

/// What belongs to a server's body, and not to the page in its place.
const OF_THE_BODY: [HeaderName; 11] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_DISPOSITION,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::LAST_MODIFIED,
    header::TRAILER,
];

/// The page for a status: the route's, else the listener's.
fn page_of(exchange: &Exchange, status: StatusCode) -> Option<&ErrorPagePlan> {
    if exchange.form.is_grpc() {
        // Its clients read the status of the call, never a page.
        return None;
    }
    let listening = exchange.view.listeners.get(exchange.conn.slot)?.as_ref()?;
    let of_route = exchange.route().map_or(&[][..], |route| &route.plan.filters.error_pages);
    let html = exchange.form.is_html();
    [of_route, &listening.plan.error_pages]
        .into_iter()
        .filter(|pages| !pages.is_empty())
        .find_map(|pages| ErrorPagePlan::best(pages, status.as_u16(), html))
}

/// Replaces what the proxy made of an error by the page for it, if there is one: the new length.
pub(super) fn dress(response: &mut Response<Body>, exchange: &Exchange, reason: &str, message: &str) -> Option<usize> {
    let status = response.status();
    let page = page_of(exchange, status)?;
    let text = filled(page, status, reason, message, exchange.request_id.as_ref());
    let form = exchange.form;
    let length = put(response.headers_mut(), page, &text);
    *response.body_mut() = body(text, form);
    Some(if form.is_head() { 0 } else { length })
}

/// Whether a server's answer is replaced by a page.
pub(super) fn intercepts(exchange: &Exchange, status: StatusCode) -> bool {
    status.as_u16() >= 400 && page_of(exchange, status).is_some_and(|page| page.intercept)
}

/// The page in the place of a server's answer. What it sent is not read on.
pub(super) fn intercept(head: &mut response::Parts, incoming: &ServerBody, exchange: &mut Exchange) -> Body {
    let Some(page) = page_of(exchange, head.status) else { return Body::Empty };
    let text =
        filled(page, head.status, "intercepted", "The application could not answer.", exchange.request_id.as_ref());
    for name in OF_THE_BODY {
        head.headers.remove(name);
    }
    let length = put(&mut head.headers, page, &text);
    let form = exchange.form;
    exchange.bytes_out = if form.is_head() { 0 } else { length as u64 };
    exchange.reusable &= incoming.is_end_stream();
    exchange.finish();
    if exchange.conn.linger.get() && exchange.conn.protocol == Protocol::Http1 {
        // A body is left unread, so no further request can be.
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    body(text, form)
}

fn put(headers: &mut HeaderMap, page: &ErrorPagePlan, text: &str) -> usize {
    if let Ok(kind) = HeaderValue::from_str(&page.content_type) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    text.len()
}

fn body(text: String, form: Form) -> Body {
    if form.is_head() || text.is_empty() { Body::Empty } else { Body::Text(Some(Bytes::from(text))) }
}

fn filled(page: &ErrorPagePlan, status: StatusCode, reason: &str, message: &str, id: Option<&HeaderValue>) -> String {
    let mut text = String::new();
    for piece in &page.pieces {
        match piece {
            Piece::Text(piece) => text.push_str(piece),
            Piece::Variable(Variable::Status) => text.push_str(status.as_str()),
            Piece::Variable(Variable::Title) => text.push_str(status.canonical_reason().unwrap_or("Error")),
            Piece::Variable(Variable::Reason) => text.push_str(reason),
            Piece::Variable(Variable::Message) => text.push_str(message),
            Piece::Variable(Variable::RequestId) => {
                text.push_str(id.and_then(|id| id.to_str().ok()).unwrap_or_default());
            }
        }
    }
    text
}
