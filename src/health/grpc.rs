//! The health protocol of gRPC: `grpc.health.v1.Health/Check`, answered with SERVING.
//!
//! Both messages have one field each, so they are written and read by hand: a request is the name of
//! the service as field 1, an answer the status as field 1, each behind gRPC's prefix of five bytes.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, TE, USER_AGENT};
use http::{Method, Request, Uri};
use tokio::time::Instant;

use super::http2;
use super::tcp::{self, Target, Wire};
use super::{GrpcCheck, Outcome};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Asks once. The caller bounds the time; `deadline` is shared out among addresses.
pub(super) async fn probe(check: &GrpcCheck, target: &Target, wire: &Wire, deadline: Instant) -> Outcome {
    let stream = tcp::open(target, wire, check.port, deadline).await?;
    let scheme = if wire.tls.is_some() { "https" } else { "http" };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(check.host.as_deref().unwrap_or(target.host()))
        .path_and_query("/grpc.health.v1.Health/Check")
        .build();
    let request = uri.and_then(|uri| {
        Request::builder()
            .method(Method::POST)
            .uri(uri)
            .version(http::Version::HTTP_2)
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, "evenkeel-check")
            .body(request(&check.service))
    });
    let request = request.map_err(|error| format!("the request cannot be built: {error}"))?;
    let reply = http2::ask(stream, request).await?;
    if reply.status != 200 {
        return Err(format!("HTTP status {}, expected 200", reply.status));
    }
    let found = |name: &HeaderName| reply.trailers.get(name).or(reply.headers.get(name));
    let text = |name: &HeaderName| found(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text(&GRPC_STATUS).as_deref() {
        Some("0") => judge(&reply.body),
        Some("5") => Err(format!("the service {:?} is unknown to the server (grpc-status 5)", check.service)),
        Some("12") => Err("the server has no health service (grpc-status 12)".to_owned()),
        Some(status) => Err(format!("grpc-status {status} {}", text(&GRPC_MESSAGE).unwrap_or_default())),
        None => Err("an answer without grpc-status".to_owned()),
    }
}

/// A `HealthCheckRequest` with its prefix: not compressed, and its length.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

fn put_varint(into: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        into.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    into.put_u8(number as u8);
}

/// Judges a `HealthCheckResponse` with its prefix.
fn judge(framed: &[u8]) -> Outcome {
    let malformed = || "an answer that is no HealthCheckResponse".to_owned();
    let (prefix, message) = framed.split_at_checked(5).ok_or_else(malformed)?;
    if prefix[0] != 0 || u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize != message.len() {
        return Err(malformed());
    }
    match status(message).ok_or_else(malformed)? {
        1 => Ok(()),
        0 => Err("the status is UNKNOWN".to_owned()),
        2 => Err("the status is NOT_SERVING".to_owned()),
        3 => Err("the status is SERVICE_UNKNOWN".to_owned()),
        other => Err(format!("the status is {other}")),
    }
}

/// Field 1 of a message, 0 where it is absent; fields that a later version may have are skipped.
fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match tag & 7 {
            0 => {
                let number = take_varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = number;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_as_protobuf_writes_them() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("a.B")[..], *b"\x00\x00\x00\x00\x05\x0a\x03a.B");
        let long = request(&"x".repeat(200));
        assert_eq!(&long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn only_serving_is_well() {
        assert_eq!(judge(b"\x00\x00\x00\x00\x02\x08\x01"), Ok(()));
        // A field of a later version in front.
        assert_eq!(judge(b"\x00\x00\x00\x00\x06\x12\x02ab\x08\x01"), Ok(()));
        assert_eq!(judge(b"\x00\x00\x00\x00\x02\x08\x02").unwrap_err(), "the status is NOT_SERVING");
        assert_eq!(judge(b"\x00\x00\x00\x00\x00").unwrap_err(), "the status is UNKNOWN");
        for malformed in
            [&b""[..], b"\x00\x00\x00\x00\x03\x08\x01", b"\x01\x00\x00\x00\x02\x08\x01", b"\x00\x00\x00\x00\x01\x08"]
        {
            assert_eq!(judge(malformed).unwrap_err(), "an answer that is no HealthCheckResponse");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_judged(bytes: Vec<u8>) {
            let _ = judge(&bytes);
        }

        #[test]
        fn numbers_are_read_as_they_are_written(number: u64) {
            let mut written = BytesMut::new();
            put_varint(&mut written, number);
            let mut rest = &written[..];
            prop_assert_eq!(take_varint(&mut rest), Some(number));
            prop_assert!(rest.is_empty());
        }
    }
}
