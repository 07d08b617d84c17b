//! What strangers send to the data plane, as functions from bytes: targets of `fuzz/`.
//!
//! Each reads its input as the proxy would and asserts what must hold whatever it is. Nothing here is
//! used by the proxy.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};

use super::check::{self, LONGEST_HOST};
use super::client::{self, Peer};
use super::head::{Inspector, Verdict};
use super::headers::{self, X_FORWARDED_FOR};
use super::http2::{connect_to_upgrade, settle};
use super::prepare;
use crate::config;
use crate::config::plan::{ListenerPlan, Plan};
use crate::metrics::cells::CoreCells;
use crate::path;
use crate::proxy_protocol::{self, Header, Parsed};
use crate::upstream::{Asked, Route, Routes};

const CONFIGURATION: &str = r#"
[[listener]]
bind = "127.0.0.1:8080"
trusted_proxies = ["10.0.0.0/8"]
forwarded = "both"

[[route]]
path = "/admin/"
upstream = "admin"

[[route]]
host = "*.example.com"
path = "/api"
upstream = "app"

[[route]]
host = "www.example.com"
upstream = "app"

[[route]]
upstream = "app"

[upstream.app]
servers = ["127.0.0.1:9001"]

[upstream.admin]
servers = ["127.0.0.1:9002"]
"#;

/// The configuration that inputs are judged by, and its routes.
fn configured() -> &'static (Plan, Routes) {
    static CONFIGURED: OnceLock<(Plan, Routes)> = OnceLock::new();
    CONFIGURED.get_or_init(|| {
        let plan = config::parse_alone(CONFIGURATION).map(|loaded| loaded.plan);
        let plan = plan.unwrap_or_else(|report| unreachable!("{report}"));
        let route = |r: &config::plan::RoutePlan| Arc::new(Route::new(r.clone(), Arc::new([]), &plan.upstreams));
        let routes = Routes::new(plan.routes.iter().map(route).collect());
        (plan, routes)
    })
}

fn listener() -> &'static ListenerPlan {
    &configured().0.listeners[0]
}

/// The name of the upstream that a request goes to.
fn upstream_of(host: &str, path: &str) -> Option<&'static str> {
    let (plan, routes) = configured();
    let (method, headers, client) = (&Method::GET, &HeaderMap::new(), IpAddr::from([192, 0, 2, 1]));
    let route = routes.find(&Asked { host, path, query: None, method, headers, client })?;
    let upstream = routes.all[route].plan.action.upstreams().next()?;
    Some(&plan.upstreams[upstream].name)
}

/// From the bytes of a request to its route. The first byte says how the rest is cut into reads.
pub fn request(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    if !is_inspected_alike(bytes, usize::from(*cut).max(1)) {
        return;
    }
    let Some(mut request) = read_head(bytes) else { return };
    let noted = headers::note(request.headers());
    if check::check(&mut request, noted).is_err() {
        return;
    }
    assert!(request.headers().get_all(header::HOST).iter().count() <= 1, "one host");
    assert!(request.uri().authority().is_none(), "origin-form");
    let Ok(cleaned) = prepare::clean_path(&mut request, listener().merge_slashes) else { return };
    let target = request.uri().path();
    if target == "*" {
        return;
    }
    assert!(target.starts_with('/'));
    let again = path::clean(target, listener().merge_slashes);
    assert!(again.as_ref().is_ok_and(|again| again.path.is_none()), "{target:?} has one form, not {again:?}");
    let compared = cleaned.compared.as_deref().unwrap_or(target);
    assert!(!target.split('/').any(|segment| matches!(segment, "." | "..")), "{target:?}");
    assert!(!target.contains("//") && !compared.contains("//"), "{target:?} {compared:?}");
    assert!(!target.bytes().any(|b| b.is_ascii_control()), "{target:?}");
    let mut buffer = [0; LONGEST_HOST + 1];
    let host = check::routing_host(request.headers(), &mut buffer);
    assert!(!host.bytes().any(|b| b.is_ascii_uppercase()), "{host:?}");
    let upstream = upstream_of(host, compared);
    assert!(upstream.is_some(), "the last route takes everything");
    // Who decodes once and takes off parameters must not find itself below a prefix that the route was not
    // chosen for. The other way round is harmless: some read more into a path than others.
    let seen = as_a_server_sees(target);
    let is_admin = seen.strip_prefix("/admin").is_some_and(|rest| rest.starts_with('/'));
    if is_admin && cleaned.escapes == path::Escapes::default() && !host.ends_with("example.com") {
        assert_eq!(upstream, Some("admin"), "{target:?} is {seen:?} to a server");
    }
}

/// A path as a lenient server reads it: parameters off, decoded once.
fn as_a_server_sees(path: &str) -> String {
    let mut seen = Vec::new();
    for segment in path[1..].split('/') {
        seen.push(b'/');
        let name = segment.split(';').next().unwrap_or_default().as_bytes();
        let mut at = 0;
        while at < name.len() {
            let escaped =
                name.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
            match escaped.filter(|_| name[at] == b'%') {
                Some(byte) => {
                    seen.push(byte);
                    at += 3;
                }
                None => {
                    seen.push(name[at]);
                    at += 1;
                }
            }
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// Feeds the bytes at once and in pieces: what is refused, and where a message ends, must not depend on
/// how they arrive. Whether all of it passes.
fn is_inspected_alike(bytes: &[u8], piece: usize) -> bool {
    let whole = Inspector::new(listener()).feed(bytes);
    let mut inspector = Inspector::new(listener());
    let (mut fed, mut last) = (0, Verdict::Pass);
    for part in bytes.chunks(piece) {
        last = inspector.feed(part);
        if last != Verdict::Pass {
            break;
        }
        fed += part.len();
    }
    match (whole, last) {
        (Verdict::Hold { pass }, Verdict::Hold { pass: rest }) => {
            assert_eq!(pass, fed + rest, "held from one place on");
        }
        // Which of two faults is met first may depend on the pieces, and what of the head was passed on does.
        (Verdict::Refuse { in_body, .. }, Verdict::Refuse { in_body: also, .. }) => assert_eq!(in_body, also),
        (Verdict::Pass, Verdict::Pass) => {}
        (whole, pieces) => assert_eq!(whole, pieces, "in pieces of {piece}"),
    }
    whole == Verdict::Pass
}

/// The head that the bytes begin with, read as plainly as can be.
fn read_head(bytes: &[u8]) -> Option<Request<()>> {
    let mut lines = bytes.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words = lines.next()?.split(|b| *b == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let version = if version == b"HTTP/1.0" { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut request = Request::builder().method(method).uri(target).version(version).body(()).ok()?;
    *request.headers_mut() = read_headers(lines);
    Some(request)
}

fn read_headers<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines.take_while(|line| !line.is_empty()).take(100) {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}

/// From a request of an HTTP/2 stream (method, scheme, authority and path on the first line, `-` for none,
/// then header lines) to the head that an HTTP/1.1 server gets: refused, or read in one way.
pub fn http2(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let Some(mut request) = lines.next().and_then(read_pseudo_headers) else { return };
    *request.headers_mut() = read_headers(lines);
    // What the protocol library refuses: headers of a connection (RFC 9113 §8.2.2), lengths that are no
    // numbers (§8.1.1).
    for name in [header::CONNECTION, header::UPGRADE] {
        request.headers_mut().remove(name);
    }
    let is_number = |value: &HeaderValue| value.len() < 20 && value.as_bytes().iter().all(u8::is_ascii_digit);
    if !request.headers().get_all(header::CONTENT_LENGTH).iter().all(|length| is_number(length) && !length.is_empty()) {
        return;
    }
    let said = |headers: &HeaderMap, name| headers.get_all(name).iter().count();
    let crumbs = said(request.headers(), header::COOKIE);
    let authority = request.uri().authority().cloned();
    if *request.method() == Method::CONNECT {
        let (mut parts, ()) = request.into_parts();
        let switched = connect_to_upgrade(&mut parts, "websocket", [7; 16]);
        assert!(switched.is_some() && said(&parts.headers, header::SEC_WEBSOCKET_KEY) == 1);
        request = Request::from_parts(parts, ());
    }
    if settle(&mut request, listener()).is_err() {
        return;
    }
    let noted = headers::note(request.headers());
    if check::check(&mut request, noted).is_err() {
        return;
    }
    let noted = headers::note(request.headers());
    headers::strip_hop_by_hop(request.headers_mut(), noted);
    let headers = request.headers();
    assert_eq!(said(headers, header::COOKIE), crumbs.min(1), "crumbs are one cookie");
    assert_eq!(said(headers, header::HOST), 1, "one host");
    if let Some(authority) = authority {
        assert!(headers[header::HOST].as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()));
    }
    assert!(request.uri().authority().is_none() && *request.method() != Method::CONNECT);
    if request.method().as_str().contains('#') {
        // A token (RFC 9110 §9.1), but refused anywhere in the line over HTTP/1.1.
        return;
    }
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri()).into_bytes();
    for (name, value) in headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend_from_slice(b"\r\n");
    let read = Inspector::new(listener()).feed(&head);
    assert!(matches!(read, Verdict::Pass), "{read:?}: {:?}", String::from_utf8_lossy(&head));
}

fn read_pseudo_headers(line: &[u8]) -> Option<Request<()>> {
    let mut words = line.split(|b| *b == b' ').map(|word| (word != b"-").then_some(word));
    let (method, scheme, authority, path) = (words.next()??, words.next()?, words.next()?, words.next()?);
    let mut parts = http::uri::Parts::default();
    if let Some(scheme) = scheme {
        parts.scheme = Some(Scheme::try_from(scheme).ok()?);
    }
    if let Some(authority) = authority {
        parts.authority = Some(Authority::try_from(authority).ok()?);
    }
    if let Some(path) = path {
        parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    }
    let uri = Uri::from_parts(parts).ok()?;
    Request::builder().method(method).uri(uri).version(Version::HTTP_2).body(()).ok()
}

/// Who the client is, by forwarded headers of a peer. The first byte says whether the peer is trusted.
pub fn forwarded(data: &[u8]) {
    let Some((first, lines)) = data.split_first() else { return };
    let trusted = first % 2 == 1;
    let address: IpAddr = if trusted { [10, 0, 0, 1] } else { [192, 0, 2, 1] }.into();
    let mut map = read_headers(lines.split(|b| *b == b'\n'));
    let before: Vec<HeaderValue> = map.get_all(X_FORWARDED_FOR).iter().cloned().collect();
    let noted = headers::note(&map);
    let peer = Peer::new(SocketAddr::new(address, 4000));
    let identity = client::identify(&peer, listener(), false, &mut map, noted, &CoreCells::default());
    let after: Vec<&HeaderValue> = map.get_all(X_FORWARDED_FOR).iter().collect();
    assert_eq!(after.last().map(|last| last.as_bytes()), Some(address.to_string().as_bytes()), "the peer is told last");
    if trusted {
        assert_eq!(after.len(), before.len() + 1, "a trusted proxy's are kept");
        let said = identity.address == address || !before.is_empty();
        assert!(said, "{} was said by nobody", identity.address);
    } else {
        assert_eq!((identity.address, identity.is_https), (address, false), "a stranger is who it is");
        assert_eq!(after.len(), 1, "nothing of a stranger's is kept");
        assert_eq!(map.get_all(header::FORWARDED).iter().count(), 1);
    }
}

/// A PROXY protocol header, or what may look like one.
pub fn proxy_protocol(data: &[u8]) {
    let Parsed::Complete(parsed, length) = proxy_protocol::parse(data) else { return };
    assert!(length <= data.len());
    assert_eq!(proxy_protocol::parse(&data[..length]), Parsed::Complete(parsed, length), "it ends where it ends");
    for end in 0..length {
        assert_eq!(proxy_protocol::parse(&data[..end]), Parsed::Partial, "the first {end} of {length} bytes");
    }
    let same_family = match parsed {
        Header::Proxied { source, destination } => source.is_ipv4() == destination.is_ipv4(),
        Header::Local => true,
    };
    assert!(same_family, "{parsed:?}");
    for encoded in [proxy_protocol::encode_v1(&parsed), proxy_protocol::encode_v2(&parsed)] {
        let Parsed::Complete(again, read) = proxy_protocol::parse(&encoded) else {
            unreachable!("{parsed:?} is read again")
        };
        assert_eq!((canonical(again), read), (canonical(parsed), encoded.len()), "what one writes the other reads");
    }
}

/// IPv4 addresses as such where they are written as IPv6 ones.
fn canonical(header: Header) -> Header {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    match header {
        Header::Proxied { source, destination } => {
            Header::Proxied { source: plain(source), destination: plain(destination) }
        }
        Header::Local => Header::Local,
    }
}
