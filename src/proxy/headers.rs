//! Reading and rewriting header sections.
//!
//! One pass over a section notes what is there ([`Noted`]); only what was noted is touched afterwards.
//! Removing header by header costs a hash look-up each, present or not.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use memchr::memchr;

use super::client_cert;

/// The headers that a proxy has business with, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Noted(u32);

macro_rules! bits {
    ($($name:ident = $bit:literal,)*) => { impl Noted { $(pub(super) const $name: Self = Self(1 << $bit);)* } };
}

bits! {
    HOST = 0,
    CONNECTION = 1,
    UPGRADE = 2,
    TRANSFER_ENCODING = 3,
    TE = 4,
    KEEP_ALIVE = 5,
    PROXY_CONNECTION = 6,
    PROXY_AUTHENTICATE = 7,
    EXPECT = 8,
    FORWARDED = 9,
    X_FORWARDED_FOR = 10,
    X_FORWARDED_PROTO = 11,
    X_FORWARDED_HOST = 12,
    REQUEST_ID = 13,
    COOKIE = 14,
    X_REAL_IP = 15,
    TWO_HOSTS = 16,
    TWO_TRANSFER_ENCODINGS = 17,
    HTTP2_SETTINGS = 18,
    PROXY_AUTHORIZATION = 19,
    GRPC_TIMEOUT = 20,
    UNDERSCORE = 21,
    MIRRORED_BY = 22,
    SESSION_MOVED = 23,
}

impl Noted {
    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn note(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Says of a copy of a request that it is one.
pub(super) const X_MIRRORED_BY: HeaderName = HeaderName::from_static("x-mirrored-by");
/// Says to which server a session belonged that comes to another now.
pub(super) const X_SESSION_MOVED: HeaderName = HeaderName::from_static("x-session-moved");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Notes what a section holds.
pub(super) fn note(headers: &HeaderMap) -> Noted {
    let mut noted = Noted::default();
    for name in headers.keys() {
        let name = name.as_str();
        // The length alone settles most names.
        let bit = match name.len() {
            2 if name == "te" => Noted::TE,
            4 if name == "host" => Noted::HOST,
            6 if name == "cookie" => Noted::COOKIE,
            6 if name == "expect" => Noted::EXPECT,
            7 if name == "upgrade" => Noted::UPGRADE,
            9 if name == "forwarded" => Noted::FORWARDED,
            9 if name == "x-real-ip" => Noted::X_REAL_IP,
            10 if name == "connection" => Noted::CONNECTION,
            10 if name == "keep-alive" => Noted::KEEP_ALIVE,
            12 if name == "x-request-id" => Noted::REQUEST_ID,
            12 if name == "grpc-timeout" => Noted::GRPC_TIMEOUT,
            13 if name == "x-mirrored-by" => Noted::MIRRORED_BY,
            14 if name == "http2-settings" => Noted::HTTP2_SETTINGS,
            15 if name == "x-forwarded-for" => Noted::X_FORWARDED_FOR,
            15 if name == "x-session-moved" => Noted::SESSION_MOVED,
            16 if name == "proxy-connection" => Noted::PROXY_CONNECTION,
            16 if name == "x-forwarded-host" => Noted::X_FORWARDED_HOST,
            17 if name == "x-forwarded-proto" => Noted::X_FORWARDED_PROTO,
            17 if name == "transfer-encoding" => Noted::TRANSFER_ENCODING,
            18 if name == "proxy-authenticate" => Noted::PROXY_AUTHENTICATE,
            19 if name == "proxy-authorization" => Noted::PROXY_AUTHORIZATION,
            _ if memchr(b'_', name.as_bytes()).is_some() => Noted::UNDERSCORE,
            _ => continue,
        };
        noted.note(bit);
    }
    // `keys` yields each name once; repeated values show only in the counts.
    if headers.len() != headers.keys_len() {
        if noted.has(Noted::HOST) && headers.get_all(header::HOST).iter().nth(1).is_some() {
            noted.note(Noted::TWO_HOSTS);
        }
        if noted.has(Noted::TRANSFER_ENCODING) && headers.get_all(header::TRANSFER_ENCODING).iter().nth(1).is_some() {
            noted.note(Noted::TWO_TRANSFER_ENCODINGS);
        }
    }
    noted
}

/// Whether a comma-separated list holds `token`, in any case.
pub(super) fn has_token<'a>(values: impl IntoIterator<Item = &'a HeaderValue>, token: &str) -> bool {
    values.into_iter().any(|value| {
        value.as_bytes().split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

/// Takes off what belongs to one connection only (RFC 9110 §7.6.1): the fixed names, and those that
/// `Connection` nominates. `TE: trailers` is kept, since trailers are passed on.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap, noted: Noted) {
    const HOP: Noted = Noted::CONNECTION
        .or(Noted::UPGRADE)
        .or(Noted::TRANSFER_ENCODING)
        .or(Noted::TE)
        .or(Noted::KEEP_ALIVE)
        .or(Noted::PROXY_CONNECTION)
        .or(Noted::HTTP2_SETTINGS)
        .or(Noted::PROXY_AUTHENTICATE)
        .or(Noted::PROXY_AUTHORIZATION);
    if !noted.has(HOP) {
        return;
    }
    if noted.has(Noted::CONNECTION) {
        strip_nominated(headers);
        headers.remove(header::CONNECTION);
    }
    if noted.has(Noted::TE) {
        let trailers = has_token(headers.get_all(header::TE), "trailers");
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    for (bit, name) in [
        (Noted::UPGRADE, header::UPGRADE),
        (Noted::TRANSFER_ENCODING, header::TRANSFER_ENCODING),
        (Noted::KEEP_ALIVE, KEEP_ALIVE),
        (Noted::PROXY_CONNECTION, PROXY_CONNECTION),
        (Noted::HTTP2_SETTINGS, HTTP2_SETTINGS),
        (Noted::PROXY_AUTHENTICATE, header::PROXY_AUTHENTICATE),
        (Noted::PROXY_AUTHORIZATION, header::PROXY_AUTHORIZATION),
    ] {
        if noted.has(bit) {
            headers.remove(name);
        }
    }
}

/// Options of `Connection` that name no header to remove.
const OWN_OPTIONS: [&[u8]; 4] = [b"keep-alive", b"close", b"upgrade", b"te"];

/// Removes the headers that `Connection` names, except those without which the message would change
/// its meaning or its framing: a client may not make the proxy drop them.
fn strip_nominated(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::CONNECTION).iter();
    if let (Some(only), None) = (values.next(), values.next())
        && OWN_OPTIONS.iter().any(|option| only.as_bytes().eq_ignore_ascii_case(option))
    {
        return;
    }
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !OWN_OPTIONS.iter().any(|option| token.eq_ignore_ascii_case(option)))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| !client_cert::is_ours(name))
        .filter(|name| {
            ![
                header::HOST,
                header::CONTENT_LENGTH,
                header::TRANSFER_ENCODING,
                header::CONTENT_TYPE,
                header::AUTHORIZATION,
                header::COOKIE,
                header::SET_COOKIE,
                header::CACHE_CONTROL,
                header::FORWARDED,
                X_FORWARDED_FOR,
                X_FORWARDED_PROTO,
                X_FORWARDED_HOST,
                X_REQUEST_ID,
            ]
            .contains(name)
        })
        .collect();
    for name in nominated {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn hop_by_hop_and_nominated_headers_go_the_rest_stays() {
        let mut headers = map(&[
            ("connection", "close, X-Secret, content-length"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("content-length", "3"),
            ("accept", "*/*"),
        ]);
        let noted = note(&headers);
        strip_hop_by_hop(&mut headers, noted);
        let left: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        assert_eq!(left.len(), 3, "{left:?}");
        assert_eq!(headers[header::TE], "trailers");
        assert_eq!(headers[header::CONTENT_LENGTH], "3");
        assert_eq!(headers[header::ACCEPT], "*/*");
    }

    #[test]
    fn repeated_hosts_are_noted() {
        let mut headers = map(&[("host", "a")]);
        assert!(!note(&headers).has(Noted::TWO_HOSTS));
        headers.append(header::HOST, HeaderValue::from_static("b"));
        assert!(note(&headers).has(Noted::TWO_HOSTS));
    }

    #[test]
    fn tokens_are_found_in_lists_of_any_case() {
        let headers = map(&[("connection", "Keep-Alive ,  UPGRADE")]);
        assert!(has_token(headers.get_all(header::CONNECTION), "upgrade"));
        assert!(!has_token(headers.get_all(header::CONNECTION), "grade"));
    }
}
