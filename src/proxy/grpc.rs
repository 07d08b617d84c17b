//! What gRPC wants of a proxy beyond HTTP/2: deadlines, and errors that its clients can read.
//!
//! A gRPC client that gets an HTTP status makes its own guess of it. So errors of the proxy are answers
//! as a gRPC server gives them: 200 with the status in what is both header section and trailers
//! ("Trailers-Only" in the protocol's words).

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response};

use super::body::Body;
use crate::error::Kind;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether a request is one of gRPC: always a POST, with a content type that begins so.
pub(super) fn is_asked(method: &Method, headers: &HeaderMap) -> bool {
    if *method != Method::POST {
        return false;
    }
    let rest = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    // gRPC-Web is another protocol with a longer name.
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// The deadline that a client sets: at most eight digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(GRPC_TIMEOUT)?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The answer for an error.
pub(super) fn refusal(kind: Kind, sentence: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(status(kind)));
    // The sentences have nothing that would have to be percent-encoded: a test holds them to that.
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(sentence));
    response
}

/// The gRPC status for an error, by its HTTP status. As the protocol maps them for clients, but for
/// deadlines and sizes, of which the proxy knows more than a status would tell.
fn status(kind: Kind) -> u16 {
    match kind.status() {
        // INTERNAL
        400 | 500 => 13,
        // UNAUTHENTICATED
        401 => 16,
        // PERMISSION_DENIED
        403 => 7,
        // UNIMPLEMENTED
        404 | 501 => 12,
        // DEADLINE_EXCEEDED
        408 | 504 => 4,
        // RESOURCE_EXHAUSTED
        413 | 414 | 431 => 8,
        // UNAVAILABLE
        429 | 502 | 503 => 14,
        // CANCELLED
        499 => 1,
        // UNKNOWN
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let asked = |kind: &str| is_asked(&Method::POST, &with(header::CONTENT_TYPE, kind));
        assert!(asked("application/grpc") && asked("application/grpc+proto") && asked("application/grpc; x=1"));
        assert!(!asked("application/grpc-web") && !asked("application/grpcx") && !asked("application/json"));
        assert!(!is_asked(&Method::GET, &with(header::CONTENT_TYPE, "application/grpc")));
    }

    #[test]
    fn deadlines_are_digits_and_a_unit() {
        let read = |text: &str| timeout(&with(GRPC_TIMEOUT, text));
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in ["", "S", "1", "1s", "123456789S", "-1S", "1.5S", "1 S"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn every_error_has_a_status_and_a_message_that_needs_no_encoding() {
        for kind in Kind::ALL {
            let response = refusal(*kind, crate::proxy::answer::sentence(*kind));
            assert_eq!(response.status(), 200);
            assert!((1..=16).contains(&status(*kind)));
            let message = response.headers()[GRPC_MESSAGE].as_bytes();
            assert!(message.iter().all(|b| (b' '..=b'~').contains(b) && *b != b'%'), "{kind:?}");
        }
        assert_eq!(status(Kind::NoServer), 14);
        assert_eq!(status(Kind::RequestTimeout), 4);
        assert_eq!(status(Kind::NoRoute), 12);
        assert_eq!(status(Kind::BadRequest), 13);
    }
}
