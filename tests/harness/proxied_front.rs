//! In front of a server: it takes a PROXY protocol header off each connection, notes it, and copies the
//! rest both ways.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use evenkeel::proxy_protocol::{Header, Parsed, parse};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, copy_bidirectional};

/// How one connection began.
#[derive(Debug, Clone)]
pub struct Introduced {
    /// None where it began with something else; then it was closed.
    pub header: Option<Header>,
    /// The header as it was sent, or what stood in its place.
    pub bytes: Vec<u8>,
}

/// A listening socket whose connections must begin with a header.
pub struct ProxiedFront {
    /// None on a Unix socket.
    address: Option<SocketAddr>,
    introduced: Arc<Mutex<Vec<Introduced>>>,
}

impl ProxiedFront {
    /// Copies to `to` what follows a header.
    pub fn start(to: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let front = Self { address: listener.local_addr().ok(), introduced: Arc::default() };
        front.serve(async move |introduced| {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, Arc::clone(&introduced), to));
            }
        });
        front
    }

    /// The same on a Unix socket.
    pub fn at(path: &Path, to: SocketAddr) -> Self {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let front = Self { address: None, introduced: Arc::default() };
        front.serve(async move |introduced| {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, Arc::clone(&introduced), to));
            }
        });
        front
    }

    fn serve(&self, accept: impl AsyncFnOnce(Arc<Mutex<Vec<Introduced>>>) + Send + 'static) {
        let introduced = Arc::clone(&self.introduced);
        // It ends with the process: nothing else would wake it.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(accept(introduced));
        });
    }

    pub fn address(&self) -> SocketAddr {
        self.address.expect("a front on TCP")
    }

    /// How every connection began, in order.
    pub fn introduced(&self) -> Vec<Introduced> {
        self.introduced.lock().unwrap().clone()
    }

    /// The connections that were opened for a client: who that was, and what it had connected to.
    pub fn clients(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let of = |introduced: &Introduced| match introduced.header {
            Some(Header::Proxied { source, destination }) => Some((source, destination)),
            _ => None,
        };
        self.introduced().iter().filter_map(of).collect()
    }
}

async fn take<S>(mut near: S, introduced: Arc<Mutex<Vec<Introduced>>>, to: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut bytes = Vec::new();
    let header = loop {
        // Byte by byte, so that nothing is taken of what follows.
        match near.read_u8().await {
            Ok(byte) => bytes.push(byte),
            Err(_) => break None,
        }
        match parse(&bytes) {
            Parsed::Partial => {}
            Parsed::Complete(header, _) => break Some(header),
            Parsed::Invalid(_) => break None,
        }
    };
    introduced.lock().unwrap().push(Introduced { header, bytes });
    if header.is_none() {
        return;
    }
    let Ok(mut far) = tokio::net::TcpStream::connect(to).await else { return };
    let _ = copy_bidirectional(&mut near, &mut far).await;
}
