use super::*;
use crate::config::plan::Level;

fn plan() -> CompressPlan {
    CompressPlan {
        encodings: Encoding::ALL.to_vec(),
        level: Level::Fast,
        min_size: 1024,
        types: vec!["text/*".into(), "application/json".into(), "application/*+json".into()],
    }
}

fn accepted(lines: &[&'static str]) -> Option<Encoding> {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
    }
    negotiate(&plan(), &headers)
}

#[test]
fn the_client_chooses_and_the_configuration_breaks_ties() {
    use Encoding::{Br, Gzip, Zstd};
    for (said, wanted) in [
        (&[][..], None),
        (&[""], None),
        (&["gzip"], Some(Gzip)),
        (&["GZIP"], Some(Gzip)),
        (&["x-gzip"], Some(Gzip)),
        (&["deflate, compress"], None),
        (&["gzip, deflate, br"], Some(Br)),
        (&["gzip, deflate, br, zstd"], Some(Zstd)),
        (&["gzip", "zstd"], Some(Zstd)),
        (&["gzip;q=1.0, br;q=0.5"], Some(Gzip)),
        (&["gzip; q=0.001 ,br;Q=0.002"], Some(Br)),
        (&["gzip;q=0"], None),
        (&["gzip;q=0, *"], Some(Zstd)),
        (&["*;q=0"], None),
        (&["*;q=0, br"], Some(Br)),
        (&["*"], Some(Zstd)),
        (&["identity"], None),
        (&["identity, gzip;q=0.5"], None),
        (&["identity;q=0.5, gzip"], Some(Gzip)),
        (&["identity, gzip"], Some(Gzip)),
        (&["gzip;q=banana"], None),
        (&["gzip;q=2"], None),
        (&["gzip;q=-1"], None),
        (&["gzip;q=NaN"], None),
        (&["gzip;q"], Some(Gzip)),
        (&["gzip;x=1;q=0"], None),
        (&[",,;,"], None),
    ] {
        assert_eq!(accepted(said), wanted, "{said:?}");
    }
}

fn head(status: u16, lines: &[(&'static str, &'static str)]) -> response::Parts {
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in lines {
        response.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    response.into_parts().0
}

#[test]
fn only_what_is_worth_it_is_compressed() {
    const TEXT: (&str, &str) = ("content-type", "text/html; charset=utf-8");
    for (status, lines, length, wanted) in [
        (200, &[TEXT][..], None, true),
        (200, &[TEXT], Some(1024), true),
        (200, &[TEXT], Some(1023), false),
        (404, &[TEXT], None, true),
        (206, &[TEXT], None, false),
        (204, &[TEXT], None, false),
        (304, &[TEXT], None, false),
        (200, &[], None, false),
        (200, &[("content-type", "image/png")], None, false),
        (200, &[("content-type", "Application/Problem+JSON")], None, true),
        (200, &[("content-type", "application/+json")], None, false),
        (200, &[("content-type", "application/grpc+json")], None, false),
        (200, &[TEXT, ("content-encoding", "br")], None, false),
        (200, &[TEXT, ("content-encoding", "identity")], None, false),
        (200, &[TEXT, ("content-range", "bytes 0-1/2")], None, false),
        (200, &[TEXT, ("cache-control", "public, No-Transform")], None, false),
        (200, &[TEXT, ("content-digest", "sha-256=:x:")], None, false),
    ] {
        let mut head = head(status, lines);
        assert_eq!(apply(&plan(), Some(Encoding::Gzip), &mut head, length), wanted, "{status} {lines:?} {length:?}");
        assert_eq!(head.headers.get(header::VARY).is_some(), wanted, "{status} {lines:?} {length:?}");
    }
}

#[test]
fn the_head_says_so() {
    let lines = [
        ("content-type", "text/plain"),
        ("content-length", "5000"),
        ("accept-ranges", "bytes"),
        ("etag", "\"abc\""),
        ("vary", "origin"),
    ];
    let mut compressed = head(200, &lines);
    assert!(apply(&plan(), Some(Encoding::Zstd), &mut compressed, Some(5000)));
    let headers = &compressed.headers;
    assert_eq!(headers[header::CONTENT_ENCODING], "zstd");
    assert_eq!(headers[header::ETAG], "W/\"abc\"");
    assert!(!headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::ACCEPT_RANGES));
    assert_eq!(headers.get_all(header::VARY).iter().collect::<Vec<_>>(), ["origin", "accept-encoding"]);

    let mut plain = head(200, &lines);
    assert!(!apply(&plan(), None, &mut plain, Some(5000)), "for those who do not take it");
    assert_eq!(plain.headers[header::ETAG], "\"abc\"");
    assert_eq!(plain.headers.get_all(header::VARY).iter().count(), 2, "caches must know all the same");

    let mut told = head(200, &[("content-type", "text/plain"), ("etag", "W/\"abc\""), ("vary", "Accept-Encoding")]);
    assert!(apply(&plan(), Some(Encoding::Br), &mut told, None));
    assert_eq!(told.headers[header::ETAG], "W/\"abc\"");
    assert_eq!(told.headers.get_all(header::VARY).iter().count(), 1);
}
