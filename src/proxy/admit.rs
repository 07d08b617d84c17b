//! What is settled about a connection before its first byte is anybody's: who is at the other end.
//!
//! Runs once for a connection, before TLS and before any parser, and takes from the socket nothing that
//! belongs to them.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::connection::plan_of;
use super::core::Core;
use super::proxy_protocol::{self, Header, Parsed};
use crate::config::plan::ProxyProtocolPlan;

/// How much of a header is looked at in one go: all of it, if it carries few extensions.
const PEEK: usize = 512;

/// Lets a connection in: the stream, and the address of who is at the other end of it. None when it was
/// refused, and so is over.
pub(super) async fn admit(
    core: &Rc<Core>,
    slot: usize,
    mut stream: TcpStream,
    peer: SocketAddr,
) -> Option<(TcpStream, SocketAddr)> {
    let plan = plan_of(core, slot)?;
    let Some(expected) = plan.proxy_protocol.as_ref().filter(|expected| expected.is_expected_from(peer.ip())) else {
        return Some((stream, peer));
    };
    match read_header(&mut stream, expected).await {
        Ok(Header::Proxied { source, .. }) => Some((stream, source)),
        Ok(Header::Local) => Some((stream, peer)),
        Err(error) => {
            core.cells().bad_proxy_headers.inc();
            core.complaints.proxy_header.warn(core.clock.get(), |more| {
                tracing::warn!(listener = plan.name, %peer, %error, more, "connection closed: no valid PROXY header");
            });
            None
        }
    }
}

/// Reads one header within the time it has, and not a byte more.
async fn read_header(stream: &mut TcpStream, expected: &ProxyProtocolPlan) -> io::Result<Header> {
    match tokio::time::timeout(expected.timeout, Box::pin(take_header(stream))).await {
        Ok(read) => read,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn take_header(stream: &mut TcpStream) -> io::Result<Header> {
    let mut bytes = Vec::with_capacity(PEEK);
    loop {
        let before = bytes.len();
        bytes.resize(before + PEEK, 0);
        let seen = stream.peek(&mut bytes[before..]).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(before + seen);
        let (parsed, ours) = match proxy_protocol::parse(&bytes) {
            // All of it is the header's: taken, or the socket would stay readable and this loop spin.
            Parsed::Partial => (None, bytes.len()),
            Parsed::Complete(header, len) => (Some(header), len),
            Parsed::Invalid(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        };
        stream.read_exact(&mut bytes[before..ours]).await?;
        if let Some(header) = parsed {
            return Ok(header);
        }
    }
}
