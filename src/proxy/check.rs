//! What a request must be before anything is done with it.
//!
//! The parser refuses what is not HTTP. This room refuses what is HTTP but could be read two ways, so
//! that what is forwarded can be read in one way only: one host, one framing, an origin-form target.

use http::uri::Authority;
use http::{HeaderMap, Method, Request, Uri, Version, header};

use super::headers::Noted;
use crate::error::{Kind, ProxyError};

/// Longest host name that DNS allows (RFC 1035 §2.3.4), and so that is routed.
pub(super) const LONGEST_HOST: usize = 253;

/// Refuses a request that is ambiguous, and turns an absolute-form target into origin-form.
pub(super) fn check<B>(request: &mut Request<B>, noted: Noted) -> Result<(), ProxyError> {
    if *request.method() == Method::CONNECT {
        return Err(ProxyError::new(Kind::MethodRefused));
    }
    if matches!(*request.method(), Method::OPTIONS | Method::TRACE) {
        count_forward(request.headers_mut())?;
    }
    if noted.has(Noted::TWO_HOSTS) {
        return Err(bad("more than one Host"));
    }
    if noted.has(Noted::TRANSFER_ENCODING) {
        check_transfer_encoding(request, noted)?;
    }
    if noted.has(Noted::EXPECT) && !is_continue(request.headers()) {
        return Err(ProxyError::new(Kind::ExpectationFailed));
    }
    if request.uri().authority().is_some() {
        check_absolute_form(request, noted)?;
    } else if !is_origin_form(request.uri(), request.method()) {
        return Err(bad("the target is neither a path nor an absolute URI"));
    }
    match request.headers().get(header::HOST) {
        Some(host) if is_host(host.as_bytes()) => Ok(()),
        Some(_) => Err(bad("Host is not a host name with an optional port")),
        None if request.version() == Version::HTTP_10 => Ok(()),
        None => Err(bad("no Host")),
    }
}

/// Takes one from `Max-Forwards`. Where nothing is left this is the last recipient, which serves neither
/// of the two methods (RFC 9110 §7.6.2).
fn count_forward(headers: &mut HeaderMap) -> Result<(), ProxyError> {
    let Some(value) = headers.get(header::MAX_FORWARDS) else { return Ok(()) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let left: u32 = digits.and_then(|text| text.parse().ok()).ok_or(bad("Max-Forwards is not a number"))?;
    let left = left.checked_sub(1).ok_or(ProxyError::new(Kind::MethodRefused))?;
    headers.insert(header::MAX_FORWARDS, left.into());
    Ok(())
}

fn bad(why: &'static str) -> ProxyError {
    ProxyError::new(Kind::BadRequest).because(why)
}

/// Exactly `chunked`, once, in HTTP/1.1 (RFC 9112 §6.1): anything else is framed differently by
/// somebody.
fn check_transfer_encoding<B>(request: &Request<B>, noted: Noted) -> Result<(), ProxyError> {
    let chunked = request
        .headers()
        .get(header::TRANSFER_ENCODING)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !chunked || noted.has(Noted::TWO_TRANSFER_ENCODINGS) || request.version() != Version::HTTP_11 {
        return Err(bad("Transfer-Encoding is not a single `chunked`"));
    }
    Ok(())
}

/// Whether an answer that has a `Transfer-Encoding` is framed by one plain `chunked` and nothing else. A
/// coding that is taken off by nobody, or a length beside it, would be framed anew as something else
/// than the server meant (RFC 9112 §6.3).
pub(super) fn is_framed_once(head: &http::response::Parts, noted: Noted) -> bool {
    let coding = head.headers.get(header::TRANSFER_ENCODING);
    coding.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && !noted.has(Noted::TWO_TRANSFER_ENCODINGS)
        && !head.headers.contains_key(header::CONTENT_LENGTH)
        && head.version == Version::HTTP_11
}

fn is_continue(headers: &HeaderMap) -> bool {
    headers.get_all(header::EXPECT).iter().all(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn is_origin_form(uri: &Uri, method: &Method) -> bool {
    uri.path().starts_with('/') || (uri.path() == "*" && *method == Method::OPTIONS)
}

/// RFC 9112 §3.2.2: the target's authority counts. Where `Host` says another, the two could be routed
/// differently by different servers, so it is refused rather than replaced.
fn check_absolute_form<B>(request: &mut Request<B>, noted: Noted) -> Result<(), ProxyError> {
    let scheme_is_http = request.uri().scheme_str().is_some_and(|s| s == "http" || s == "https");
    let Some(authority) = request.uri().authority().filter(|_| scheme_is_http).cloned() else {
        return Err(bad("the target's scheme is not http"));
    };
    if let Some(host) = request.headers().get(header::HOST)
        && !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
    {
        return Err(bad("Host and the target's authority differ"));
    }
    if !noted.has(Noted::HOST) && request.version() == Version::HTTP_11 {
        return Err(bad("no Host"));
    }
    let host = host_value(&authority)?;
    let origin = match request.uri().path_and_query() {
        Some(path) if path.as_str().starts_with('/') => Uri::from(path.clone()),
        Some(path) if path.as_str().starts_with('?') => {
            // Its `Display` writes the missing slash.
            path.to_string().parse().map_err(|_| bad("the target's path is malformed"))?
        }
        _ => Uri::from_static("/"),
    };
    *request.uri_mut() = origin;
    request.headers_mut().insert(header::HOST, host);
    Ok(())
}

fn host_value(authority: &Authority) -> Result<http::HeaderValue, ProxyError> {
    http::HeaderValue::from_str(authority.as_str()).map_err(|_| bad("the target's authority is malformed"))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`. Stricter than RFC 3986 `reg-name`, which allows commas,
/// quotes and percent signs that no host name has.
fn is_host(value: &[u8]) -> bool {
    let (host, port) = split_port(value);
    let host_is_fine = match host.strip_prefix(b"[") {
        Some(rest) => rest
            .strip_suffix(b"]")
            .is_some_and(|v6| v6.len() >= 2 && v6.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))),
        None => {
            !host.is_empty()
                && host.len() <= LONGEST_HOST + 1
                && host.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
        }
    };
    host_is_fine && port.is_none_or(is_port)
}

fn is_port(port: &[u8]) -> bool {
    port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
        && port.iter().fold(0_u32, |n, b| n * 10 + u32::from(b - b'0')) <= 65_535
}

/// Host and port of an authority without userinfo.
fn split_port(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    let from = value.iter().rposition(|b| *b == b']').unwrap_or(0);
    match value[from..].iter().position(|b| *b == b':') {
        Some(colon) => (&value[..from + colon], Some(&value[from + colon + 1..])),
        None => (value, None),
    }
}

/// The host by which a request is routed: without port and trailing dot, in lower case. `buffer` holds
/// it when letters had to be changed.
pub(super) fn routing_host<'a>(headers: &'a HeaderMap, buffer: &'a mut [u8; LONGEST_HOST + 1]) -> &'a str {
    let Some(value) = headers.get(header::HOST) else { return "" };
    let (host, _) = split_port(value.as_bytes());
    let host = host.strip_suffix(b".").unwrap_or(host);
    if !host.iter().any(u8::is_ascii_uppercase) || host.len() > buffer.len() {
        return std::str::from_utf8(host).unwrap_or("");
    }
    let lower = &mut buffer[..host.len()];
    lower.copy_from_slice(host);
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::super::headers::note;
    use super::*;

    fn checked(lines: &[(&str, &str)], uri: &str) -> Result<Request<()>, Kind> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        let noted = note(request.headers());
        check(&mut request, noted).map(|()| request).map_err(|e| e.kind)
    }

    #[test]
    fn hosts_that_could_be_read_two_ways_are_refused() {
        for good in ["a", "a.example:80", "A.example.", "[::1]", "[::1]:8080", "127.0.0.1", "a_b.example"] {
            assert!(checked(&[("host", good)], "/").is_ok(), "{good}");
        }
        for bad in ["", "a,b", "a b", "u@a", "a/b", "\"a\"", "a:port", "a:99999", "a:1:2", "[::1", "::1", ":80", "a?b"]
        {
            assert_eq!(checked(&[("host", bad)], "/").unwrap_err(), Kind::BadRequest, "{bad}");
        }
        assert_eq!(checked(&[("host", "a"), ("host", "a")], "/").unwrap_err(), Kind::BadRequest);
        assert_eq!(checked(&[], "/").unwrap_err(), Kind::BadRequest);
    }

    #[test]
    fn an_absolute_target_must_agree_with_host_and_becomes_a_path() {
        let request = checked(&[("host", "A.example")], "http://a.example/x?y").unwrap();
        assert_eq!(request.uri(), "/x?y");
        assert_eq!(request.headers()[header::HOST], "a.example");
        assert_eq!(checked(&[("host", "a")], "http://a").unwrap().uri(), "/");
        assert_eq!(checked(&[("host", "a")], "http://a?x").unwrap().uri(), "/?x");
        assert!(checked(&[("host", "b")], "http://a/").is_err());
        assert!(checked(&[("host", "a")], "ftp://a/").is_err());
        assert!(checked(&[("host", "u@a")], "http://u@a/").is_err());
    }

    #[test]
    fn only_one_plain_chunked_is_a_transfer_encoding() {
        let with = |te| checked(&[("host", "a"), ("transfer-encoding", te)], "/");
        assert!(with("Chunked").is_ok());
        for bad in ["gzip, chunked", "chunked, chunked", "identity", ", chunked", "xchunked"] {
            assert!(with(bad).is_err(), "{bad}");
        }
        let two = [("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert!(checked(&two, "/").is_err());
    }

    #[test]
    fn a_star_is_for_options_only() {
        assert!(checked(&[("host", "a")], "*").is_err());
    }

    #[test]
    fn the_routing_host_is_lower_case_without_port_and_dot() {
        for (value, host) in [("Shop.Example.:80", "shop.example"), ("[::1]:80", "[::1]"), ("a", "a")] {
            let headers = HeaderMap::from_iter([(header::HOST, http::HeaderValue::from_static(value))]);
            assert_eq!(routing_host(&headers, &mut [0; LONGEST_HOST + 1]), host);
        }
    }
}
