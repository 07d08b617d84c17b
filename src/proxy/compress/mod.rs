//! Compressing answers: what the client takes, which answers are worth it, and what their heads say then.
//!
//! A route without `compress` never comes here. What a server has encoded itself is passed on as it is.

mod body;
mod encoder;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, response};

pub(super) use body::Compressed;

use crate::config::plan::{CompressPlan, Encoding};

/// Digests of what is sent: they would be wrong (RFC 9530; Content-MD5 of RFC 1864).
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// The encoding that the client likes best (RFC 9110 §12.5.3); among equals the one that comes first in
/// the configuration. None where it takes none, or likes none better than the plain answer.
pub(super) fn negotiate(plan: &CompressPlan, headers: &HeaderMap) -> Option<Encoding> {
    let mut given: [Option<u16>; Encoding::ALL.len()] = [None; _];
    let (mut any, mut identity) = (None, None);
    for value in headers.get_all(header::ACCEPT_ENCODING) {
        for part in value.as_bytes().split(|b| *b == b',') {
            let mut words = part.split(|b| *b == b';').map(<[u8]>::trim_ascii);
            let name = words.next().unwrap_or_default();
            let quality = words.find_map(quality).unwrap_or(1000);
            // The old names of RFC 9110 §8.4.1.
            let name = if name.eq_ignore_ascii_case(b"x-gzip") { b"gzip" } else { name };
            if name == b"*" {
                any = Some(quality);
            } else if name.eq_ignore_ascii_case(b"identity") {
                identity = Some(quality);
            } else if let Some(at) = Encoding::ALL.iter().position(|e| name.eq_ignore_ascii_case(e.name().as_bytes())) {
                given[at] = Some(quality);
            }
        }
    }
    let quality_of = |encoding: Encoding| given[encoding as usize].or(any).unwrap_or(0);
    let mut best: Option<(Encoding, u16)> = None;
    for encoding in &plan.encodings {
        let quality = quality_of(*encoding);
        if quality > best.map_or(0, |(_, quality)| quality) {
            best = Some((*encoding, quality));
        }
    }
    best.filter(|(_, quality)| *quality >= identity.unwrap_or(0)).map(|(encoding, _)| encoding)
}

/// `q=0.5` in thousandths; what cannot be read counts as not wanted. None for another parameter.
fn quality(parameter: &[u8]) -> Option<u16> {
    let (name, value) = (parameter.first()?, parameter.get(1..)?.trim_ascii_start().strip_prefix(b"=")?);
    if !name.eq_ignore_ascii_case(&b'q') {
        return None;
    }
    let value = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<f32>().ok());
    Some(value.filter(|q| (0.0..=1.0).contains(q)).map_or(0, |q| (q * 1000.0) as u16))
}

/// Whether this answer is to be compressed for those who want it; then its head is rewritten for `wanted`.
/// `length` is that of the body, where it is known.
pub(super) fn apply(
    plan: &CompressPlan,
    wanted: Option<Encoding>,
    head: &mut response::Parts,
    length: Option<u64>,
) -> bool {
    if length.is_some_and(|length| length < plan.min_size) || !is_worth_it(plan, head) {
        return false;
    }
    let headers = &mut head.headers;
    vary(headers);
    let Some(encoding) = wanted else { return false };
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
    headers.remove(header::CONTENT_LENGTH);
    // A part of the compressed answer cannot be asked of the server.
    headers.remove(header::ACCEPT_RANGES);
    weaken(headers);
    true
}

fn is_worth_it(plan: &CompressPlan, head: &response::Parts) -> bool {
    use StatusCode as S;
    let headers = &head.headers;
    let bare = [S::NO_CONTENT, S::RESET_CONTENT, S::PARTIAL_CONTENT, S::NOT_MODIFIED].contains(&head.status);
    if bare || headers.contains_key(header::CONTENT_ENCODING) || headers.contains_key(header::CONTENT_RANGE) {
        return false;
    }
    let Some(media) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let media = media.split(';').next().unwrap_or_default().trim();
    // Its messages say themselves whether they are compressed.
    let is_grpc = media.get(..16).is_some_and(|start| start.eq_ignore_ascii_case("application/grpc"));
    !is_grpc
        && plan.types.iter().any(|pattern| is_of(media, pattern))
        && !super::headers::has_token(headers.get_all(header::CACHE_CONTROL), "no-transform")
        && DIGESTS.iter().all(|name| !headers.contains_key(name))
}

/// Whether a media type is one of `text/html`, `text/*`, `application/*+json`.
fn is_of(media: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => media.eq_ignore_ascii_case(pattern),
        Some((kind, suffix)) => {
            let (media, kind, suffix) = (media.as_bytes(), kind.as_bytes(), suffix.as_bytes());
            media.len() > kind.len() + suffix.len()
                && media[..kind.len()].eq_ignore_ascii_case(kind)
                && media[media.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
        }
    }
}

/// Tells caches that the answer depends on what the client takes.
fn vary(headers: &mut HeaderMap) {
    let said = headers.get_all(header::VARY);
    if !super::headers::has_token(&said, "accept-encoding") && !super::headers::has_token(said, "*") {
        headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// A strong tag promises the same bytes (RFC 9110 §8.8.1), which these no longer are.
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) else { return };
    match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        Ok(weak) => headers.insert(header::ETAG, weak),
        Err(_) => headers.remove(header::ETAG),
    };
}

#[cfg(test)]
mod tests;
