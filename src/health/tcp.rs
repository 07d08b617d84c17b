//! A connection that can be opened; every check begins with one.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use crate::proxy_protocol::{Header, Version};
use crate::server_stream::ServerStream;
use crate::tls;

/// Where a probe goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All addresses of the server, tried in order, and what its `Host` header says by default.
    Net { addresses: Vec<SocketAddr>, host: String },
    /// A Unix socket; a check's own port means nothing here.
    Unix(PathBuf),
}

/// What is spoken with a server beside what a check says: the same as requests have.
#[derive(Debug, Clone, Default)]
pub struct Wire {
    pub tls: Option<Arc<tls::Client>>,
    /// The PROXY protocol header ahead of it.
    pub send_proxy: Option<Version>,
    /// Whether it is HTTP/2.
    pub http2: bool,
}

impl Target {
    /// The host without its port; none of a Unix socket.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Net { host, .. } => {
                let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
                Some(name.trim_start_matches('[').trim_end_matches(']'))
            }
            Self::Unix(_) => None,
        }
    }

    /// The `Host` header of a check that does not set one (RFC 9112 §3.2).
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Net { host, .. } => host,
            Self::Unix(_) => "localhost",
        }
    }
}

/// Opens a connection and says on it what comes before HTTP.
///
/// # Errors
/// What went wrong, in words for an operator.
pub async fn open(target: &Target, wire: &Wire, port: Option<u16>, deadline: Instant) -> Result<ServerStream, String> {
    let mut stream = connect(target, port, deadline).await?;
    if let Some(version) = wire.send_proxy {
        // A check speaks for nobody but the proxy.
        let sent = stream.write_all(&version.encode(&Header::Local)).await;
        sent.map_err(|error| format!("no PROXY header could be sent: {}", reason(&error)))?;
    }
    let Some(tls) = &wire.tls else { return Ok(stream) };
    let stream = tls.connect(target.name(), stream).await.map_err(|error| format!("no TLS: {error}"))?;
    Ok(ServerStream::Tls(Box::new(stream)))
}

/// Opens a connection to the first address that accepts one. An address that says nothing leaves the
/// ones after it their share of the time until `deadline`.
///
/// # Errors
/// Why each address failed, in words for an operator.
pub async fn connect(target: &Target, port: Option<u16>, deadline: Instant) -> Result<ServerStream, String> {
    let addresses = match target {
        Target::Net { addresses, .. } => addresses,
        Target::Unix(path) => {
            return match timeout_at(deadline, UnixStream::connect(path)).await {
                Ok(Ok(stream)) => Ok(ServerStream::Unix(stream)),
                Ok(Err(error)) => Err(format!("unix:{}: {}", path.display(), reason(&error))),
                Err(_) => Err(format!("unix:{}: no connection in time", path.display())),
            };
        }
    };
    let mut failures = Vec::new();
    for (i, address) in addresses.iter().enumerate() {
        let address = SocketAddr::new(address.ip(), port.unwrap_or(address.port()));
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / (addresses.len() - i) as u32;
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(ServerStream::Tcp(stream)),
            Ok(Err(error)) => failures.push(format!("{address}: {}", reason(&error))),
            Err(_) => failures.push(format!("{address}: no connection in time")),
        }
    }
    if failures.is_empty() {
        failures.push("the host name has no address yet".to_owned());
    }
    Err(failures.join("; "))
}

/// The system's words without the number it adds.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::health::{Check, TcpCheck};

    fn net(addresses: Vec<SocketAddr>) -> Target {
        Target::Net { addresses, host: "localhost".to_owned() }
    }

    #[tokio::test]
    async fn the_first_address_that_accepts_will_do() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone_address = gone.local_addr().unwrap();
        drop(gone);
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let check = Check::Tcp(TcpCheck::default());
        let target = net(vec![gone_address, open.local_addr().unwrap()]);
        assert_eq!(check.probe(&target, &Wire::default()).await, Ok(()));

        let failure = check.probe(&net(vec![gone_address]), &Wire::default()).await.unwrap_err();
        assert_eq!(failure, format!("{gone_address}: connection refused"));
        assert!(check.probe(&net(Vec::new()), &Wire::default()).await.unwrap_err().contains("no address"));
    }

    #[tokio::test]
    async fn a_check_may_have_its_own_port() {
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = open.local_addr().unwrap().port();
        let check = Check::Tcp(TcpCheck { port: Some(port), ..TcpCheck::default() });
        assert_eq!(check.probe(&net(vec!["127.0.0.1:1".parse().unwrap()]), &Wire::default()).await, Ok(()));
    }

    #[tokio::test]
    async fn a_silent_address_leaves_time_for_the_next() {
        // A listener whose queue is full never completes a handshake.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(silent)).await {
            held.push(stream);
        }
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let check = Check::Tcp(TcpCheck { timeout: Duration::from_millis(200), ..TcpCheck::default() });
        assert_eq!(check.probe(&net(vec![silent, open.local_addr().unwrap()]), &Wire::default()).await, Ok(()));
        let failure = check.probe(&net(vec![silent]), &Wire::default()).await.unwrap_err();
        assert!(failure.contains("no connection in time") || failure.contains("no result within 200ms"), "{failure}");
    }

    #[tokio::test]
    async fn unix_sockets_are_probed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let check = Check::Tcp(TcpCheck::default());
        assert!(check.probe(&Target::Unix(path.clone()), &Wire::default()).await.unwrap_err().contains("no such file"));
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        assert_eq!(check.probe(&Target::Unix(path), &Wire::default()).await, Ok(()));
    }
}
