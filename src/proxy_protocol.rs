//! The PROXY protocol, versions 1 and 2: who the client is, said ahead of its first byte.
//!
//! Parser and encoder stand side by side, so that what one writes the other reads. Both are pure: no
//! socket and no clock. Nothing may be guessed in here: whether a header is expected is
//! decided by who the peer is, never by the first bytes, or anybody could say who they are.
//!
//! A header is parsed from a growing prefix. As long as the answer is [`Parsed::Partial`] every byte
//! seen belongs to the header, so a reader that takes no more than that never reads into what follows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::Deserialize;

/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const V2_FIXED: usize = 16;
/// The longest line of version 1, its end included.
const V1_LONGEST: usize = 107;
/// The longest header of version 2 that is taken. The addresses need 232 bytes at most; the rest are
/// extensions (TLVs), a client certificate's name among them.
const V2_LONGEST: usize = 4096;

/// How a header is written; in the configuration `"v1"` and `"v2"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A line of text.
    V1,
    /// Bytes.
    V2,
}

impl Version {
    /// The name that the configuration uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// Writes a header.
    #[must_use]
    pub fn encode(self, header: &Header) -> Vec<u8> {
        match self {
            Self::V1 => encode_v1(header),
            Self::V2 => encode_v2(header),
        }
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Nothing about a client: the sender speaks for itself (a health check), or the client's address
    /// is of a kind that is not TCP over IP. The peer of the connection is the client.
    Local,
    /// The connection that the sender accepted.
    Proxied { source: SocketAddr, destination: SocketAddr },
}

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// All of them belong to a header that is not complete.
    Partial,
    /// A header, and its length in bytes.
    Complete(Header, usize),
    /// No header, and no more bytes will make them one.
    Invalid(&'static str),
}

/// Parses the header at the beginning of `bytes`.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    if bytes.is_empty() {
        return Parsed::Partial;
    }
    if is_prefix(bytes, SIGNATURE) {
        return if bytes.len() < SIGNATURE.len() { Parsed::Partial } else { v2(bytes) };
    }
    if is_prefix(bytes, b"PROXY ") {
        return v1(bytes);
    }
    Parsed::Invalid("neither version 1 nor version 2")
}

/// Whether one is the beginning of the other.
fn is_prefix(bytes: &[u8], of: &[u8]) -> bool {
    let len = bytes.len().min(of.len());
    bytes[..len] == of[..len]
}

fn v1(bytes: &[u8]) -> Parsed {
    let within = &bytes[..bytes.len().min(V1_LONGEST)];
    // What is no line of text is refused at once rather than when it is long enough.
    let end = within.iter().position(|b| !(b' '..=b'~').contains(b));
    let Some(end) = end else {
        return if bytes.len() < V1_LONGEST { Parsed::Partial } else { Parsed::Invalid("the line does not end") };
    };
    match within[end..] {
        [b'\r'] if bytes.len() < V1_LONGEST => return Parsed::Partial,
        [b'\r', b'\n', ..] => {}
        _ => return Parsed::Invalid("the line has bytes that are no text"),
    }
    let Ok(line) = std::str::from_utf8(&within[..end]) else { return Parsed::Invalid("the line is no text") };
    let mut words = line.split(' ').skip(1);
    let header = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => Some(Header::Local),
        Some("TCP4") => v1_addresses::<Ipv4Addr>(&mut words),
        Some("TCP6") => v1_addresses::<Ipv6Addr>(&mut words),
        _ => return Parsed::Invalid("the protocol is none of TCP4, TCP6 and UNKNOWN"),
    };
    header.map_or(Parsed::Invalid("the addresses are malformed"), |header| Parsed::Complete(header, end + 2))
}

fn v1_addresses<'a, A: FromStr + Into<IpAddr>>(words: &mut impl Iterator<Item = &'a str>) -> Option<Header> {
    let source: A = words.next()?.parse().ok()?;
    let destination: A = words.next()?.parse().ok()?;
    let source = SocketAddr::new(source.into(), v1_port(words.next()?)?);
    let destination = SocketAddr::new(destination.into(), v1_port(words.next()?)?);
    words.next().is_none().then_some(Header::Proxied { source, destination })
}

/// A number without sign and leading zeros.
fn v1_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn v2(bytes: &[u8]) -> Parsed {
    match bytes.get(12) {
        None | Some(0x20 | 0x21) => {}
        Some(byte) if byte >> 4 != 2 => return Parsed::Invalid("the version is not 2"),
        Some(_) => return Parsed::Invalid("the command is neither LOCAL nor PROXY"),
    }
    let (Some(family), Some(&[high, low])) = (bytes.get(13), bytes.get(14..V2_FIXED).and_then(|l| l.first_chunk()))
    else {
        return Parsed::Partial;
    };
    let len = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if len > V2_LONGEST {
        return Parsed::Invalid("the header is longer than 4096 bytes");
    }
    let is_local = bytes[12] == 0x20;
    let addresses = match family {
        // Nothing that is known of them counts: UNSPEC, datagrams, Unix sockets.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => 0,
        0x11 => 12,
        0x21 => 36,
        // A LOCAL header's family is to be ignored.
        _ if is_local => 0,
        _ => return Parsed::Invalid("the address family or the transport is unknown"),
    };
    if !is_local && len < V2_FIXED + addresses {
        return Parsed::Invalid("the header is too short for its addresses");
    }
    let Some(block) = bytes.get(V2_FIXED..len) else { return Parsed::Partial };
    let header = match addresses {
        12 if !is_local => v2_addresses::<4>(block),
        36 if !is_local => v2_addresses::<16>(block),
        _ => Some(Header::Local),
    };
    header.map_or(Parsed::Invalid("the addresses are malformed"), |header| Parsed::Complete(header, len))
}

/// Two addresses of `N` bytes, then two ports. What follows are extensions, which are skipped.
fn v2_addresses<const N: usize>(block: &[u8]) -> Option<Header>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk()?;
    let destination_port = rest.first_chunk()?;
    Some(Header::Proxied {
        source: SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes(*source_port)),
        destination: SocketAddr::new(IpAddr::from(*destination), u16::from_be_bytes(*destination_port)),
    })
}

/// Writes a header of version 1.
#[must_use]
pub fn encode_v1(header: &Header) -> Vec<u8> {
    let Header::Proxied { source, destination } = header else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let ports = format!("{} {}", source.port(), destination.port());
    let line = match same_family(source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => format!("PROXY TCP4 {from} {to} {ports}\r\n"),
        (from, to) => format!("PROXY TCP6 {} {} {ports}\r\n", v1_v6(as_v6(from)), v1_v6(as_v6(to))),
    };
    line.into_bytes()
}

/// Writes a header of version 2, without extensions.
#[must_use]
pub fn encode_v2(header: &Header) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    let Header::Proxied { source, destination } = header else {
        bytes.extend([0x20, 0x00, 0, 0]);
        return bytes;
    };
    match same_family(source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([0x21, 0x11, 0, 12]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (from, to) => {
            bytes.extend([0x21, 0x21, 0, 36]);
            bytes.extend(as_v6(from).octets());
            bytes.extend(as_v6(to).octets());
        }
    }
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes
}

/// A header has one family for both ends: IPv4 where both are (mapped ones, too), else IPv6.
fn same_family(source: IpAddr, destination: IpAddr) -> (IpAddr, IpAddr) {
    let (from, to) = (source.to_canonical(), destination.to_canonical());
    if from.is_ipv4() && to.is_ipv4() { (from, to) } else { (as_v6(from).into(), as_v6(to).into()) }
}

/// In hexadecimal all through: version 1 knows no dots in an IPv6 address.
fn v1_v6(address: Ipv6Addr) -> String {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => format!("::ffff:{high:x}:{low:x}"),
        _ => address.to_string(),
    }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests;
