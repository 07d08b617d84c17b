//! A server that says exactly what the test writes, right or wrong.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::raw::Raw;

/// A listening socket whose connections are served by a closure, each on its own thread.
pub struct Fake {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Fake {
    /// `serve` gets the number of the connection, from 1, and the connection; it is closed after that.
    pub fn start(serve: impl Fn(usize, Raw) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (counter, serve) = (Arc::clone(&accepted), Arc::new(serve));
        // It ends with the process: nothing else would wake it.
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(number, Raw::on(stream)));
            }
        });
        Self { address, accepted }
    }

    /// Reads one request head per answer and says `answer` to it, as often as it is asked on a
    /// connection.
    pub fn saying(answer: &'static str) -> Self {
        Self::start(move |_, mut conn| {
            while !read_head(&mut conn).is_empty() {
                if conn.try_send(answer.as_bytes()).is_err() {
                    return;
                }
            }
        })
    }

    /// The same, but closes after the answer.
    pub fn saying_once(answer: &'static str) -> Self {
        Self::start(move |_, mut conn| {
            read_head(&mut conn);
            let _ = conn.try_send(answer.as_bytes());
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// The lines of one request head, in lower case, without the empty one; none at the end of the stream.
pub fn read_head(conn: &mut Raw) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = conn.line();
        if line.is_empty() {
            return lines;
        }
        lines.push(line.to_ascii_lowercase());
    }
}

/// An address that refuses connections. The port is held, so that nobody else begins to listen there.
pub struct Refusing {
    _socket: socket2::Socket,
    pub address: SocketAddr,
}

impl Refusing {
    pub fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self { _socket: socket, address }
    }
}
