//! Who the client is, and what servers are told about it.
//!
//! There is one notion of the client's address for hashing, logs and headers. Forwarded headers are
//! believed only when the peer is a trusted proxy; then `X-Forwarded-For` is walked from the right,
//! past trusted proxies, to the first address that is not one. From anyone else they are replaced.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use ipnet::IpNet;

use super::headers::{Noted, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_MIRRORED_BY};
use crate::config::plan::ListenerPlan;
use crate::metrics::cells::CoreCells;

/// What is known of the peer of a connection, made once for all its requests.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    value: HeaderValue,
}

impl Peer {
    pub(super) fn new(peer: SocketAddr) -> Self {
        let address = peer.ip().to_canonical();
        Self { address, port: peer.port(), value: header_value(address.to_string()) }
    }
}

fn header_value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// Who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) address: IpAddr,
    /// Whether it came over TLS: to the listener, or to a trusted proxy that says so.
    pub(super) is_https: bool,
}

/// Finds the client's address and writes the headers that tell servers about it.
pub(super) fn identify(
    peer: &Peer,
    plan: &ListenerPlan,
    secure: bool,
    headers: &mut HeaderMap,
    noted: Noted,
    cells: &CoreCells,
) -> Identity {
    const ANY: Noted = Noted::FORWARDED
        .or(Noted::X_FORWARDED_FOR)
        .or(Noted::X_FORWARDED_PROTO)
        .or(Noted::X_FORWARDED_HOST)
        .or(Noted::X_REAL_IP);
    const FOR: Noted = Noted::FORWARDED.or(Noted::X_FORWARDED_FOR);
    cells.requests.inc();
    let trusted = !plan.trusted_proxies.is_empty() && is_trusted(peer.address, &plan.trusted_proxies);
    let address = if trusted && noted.has(Noted::X_FORWARDED_FOR) {
        walk(peer.address, headers, &plan.trusted_proxies, cells)
    } else {
        peer.address
    };
    let is_https =
        if trusted && noted.has(Noted::X_FORWARDED_PROTO) { says_https(peer, plan, headers, noted) } else { secure };
    if !trusted && noted.has(ANY) {
        cells.forwarded_discarded.inc();
        if noted.has(FOR) {
            cells.strangers.note(peer.address);
        }
        discard(headers, noted);
    }
    if !trusted && noted.has(Noted::MIRRORED_BY) {
        headers.remove(X_MIRRORED_BY);
    }
    let scheme = if secure { "https" } else { "http" };
    if plan.forwarded.x_forwarded() {
        write_x_forwarded(peer, scheme, headers, noted, trusted);
    }
    if plan.forwarded.rfc7239() {
        write_forwarded(peer, scheme, headers, trusted);
    }
    Identity { address, is_https }
}

/// Whether a trusted proxy says that the client speaks TLS with it.
pub(super) fn says_https(peer: &Peer, plan: &ListenerPlan, headers: &HeaderMap, noted: Noted) -> bool {
    noted.has(Noted::X_FORWARDED_PROTO)
        && is_trusted(peer.address, &plan.trusted_proxies)
        && headers.get(X_FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// From the right, past trusted proxies, to the first address that is not one (or the leftmost).
fn walk(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet], cells: &CoreCells) -> IpAddr {
    let mut client = peer;
    let lines: Vec<&HeaderValue> = headers.get_all(X_FORWARDED_FOR).iter().collect();
    for part in lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|b| *b == b',')) {
        let Some(address) = parse_address(part.trim_ascii()) else {
            cells.forwarded_invalid.inc();
            return client;
        };
        client = address;
        if !is_trusted(address, trusted) {
            return client;
        }
    }
    client
}

/// An address, with or without brackets and port.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip())).map(|a| a.to_canonical())
}

fn discard(headers: &mut HeaderMap, noted: Noted) {
    for (bit, name) in [
        (Noted::FORWARDED, header::FORWARDED),
        (Noted::X_FORWARDED_FOR, X_FORWARDED_FOR),
        (Noted::X_FORWARDED_PROTO, X_FORWARDED_PROTO),
        (Noted::X_FORWARDED_HOST, X_FORWARDED_HOST),
        (Noted::X_REAL_IP, http::HeaderName::from_static("x-real-ip")),
    ] {
        if noted.has(bit) {
            headers.remove(name);
        }
    }
}

fn write_x_forwarded(peer: &Peer, scheme: &'static str, headers: &mut HeaderMap, noted: Noted, trusted: bool) {
    if trusted && noted.has(Noted::X_FORWARDED_FOR) {
        headers.append(X_FORWARDED_FOR, peer.value.clone());
    } else {
        headers.insert(X_FORWARDED_FOR, peer.value.clone());
    }
    if !(trusted && noted.has(Noted::X_FORWARDED_PROTO)) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if !(trusted && noted.has(Noted::X_FORWARDED_HOST))
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

/// RFC 7239 §4: an element for this hop, after those of trusted proxies.
fn write_forwarded(peer: &Peer, scheme: &str, headers: &mut HeaderMap, trusted: bool) {
    let node = match peer.address {
        IpAddr::V4(v4) => format!("for={v4}"),
        IpAddr::V6(v6) => format!("for=\"[{v6}]\""),
    };
    let element = match headers.get(header::HOST).and_then(|h| h.to_str().ok()) {
        Some(host) if host.contains([':', '[']) => format!("{node};host=\"{host}\";proto={scheme}"),
        Some(host) => format!("{node};host={host};proto={scheme}"),
        None => format!("{node};proto={scheme}"),
    };
    if trusted {
        headers.append(header::FORWARDED, header_value(element));
    } else {
        headers.insert(header::FORWARDED, header_value(element));
    }
}

#[cfg(test)]
mod tests {
    use super::super::headers::note;
    use super::*;
    use crate::config::plan::Forwarded;

    fn plan(trusted: &[&str], forwarded: Forwarded) -> ListenerPlan {
        ListenerPlan {
            trusted_proxies: trusted.iter().map(|t| t.parse().unwrap()).collect(),
            forwarded,
            ..ListenerPlan::example()
        }
    }

    fn seen(peer: &str, plan: &ListenerPlan, lines: &[(&'static str, &'static str)]) -> (String, HeaderMap) {
        let mut headers: HeaderMap = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let noted = note(&headers);
        let peer = Peer::new(SocketAddr::new(peer.parse().unwrap(), 1));
        let client = identify(&peer, plan, false, &mut headers, noted, &CoreCells::default());
        (client.address.to_string(), headers)
    }

    #[test]
    fn a_stranger_cannot_say_who_it_is() {
        let plan = plan(&["10.0.0.0/8"], Forwarded::Both);
        let lines =
            [("host", "a"), ("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4"), ("x-real-ip", "9.9.9.9")];
        let (client, headers) = seen("192.0.2.7", &plan, &lines);
        assert_eq!(client, "192.0.2.7");
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.7");
        assert_eq!(headers[header::FORWARDED], "for=192.0.2.7;host=a;proto=http");
        assert!(!headers.contains_key("x-real-ip"));
    }

    #[test]
    fn trusted_proxies_are_walked_from_the_right() {
        let plan = plan(&["10.0.0.0/8"], Forwarded::XForwarded);
        let (client, headers) =
            seen("10.0.0.1", &plan, &[("x-forwarded-for", "6.6.6.6, 192.0.2.7"), ("x-forwarded-for", "10.2.2.2")]);
        assert_eq!(client, "192.0.2.7");
        let values: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(values, ["6.6.6.6, 192.0.2.7", "10.2.2.2", "10.0.0.1"]);
    }

    #[test]
    fn garbage_in_a_trusted_header_ends_the_walk() {
        let plan = plan(&["10.0.0.0/8"], Forwarded::XForwarded);
        assert_eq!(seen("10.0.0.1", &plan, &[("x-forwarded-for", "1.1.1.1, <script>, 10.0.0.9")]).0, "10.0.0.9");
        assert_eq!(seen("10.0.0.1", &plan, &[("x-forwarded-for", "[2001:db8::1]:443")]).0, "2001:db8::1");
    }
}
