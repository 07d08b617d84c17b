//! A server that says exactly what the test writes, right or wrong.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::raw::Raw;
use super::{Proxy, unchecked};

/// A listening socket whose connections are served by a closure, each on its own thread.
pub struct Fake {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// `serve` gets the number of the connection, from 0, and the connection; it is closed after that.
    pub fn start(serve: impl Fn(usize, Raw) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (counter, serve) = (Arc::clone(&accepted), Arc::new(serve));
        // It ends with the process: nothing else would wake it.
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(number, Raw::on(stream)));
            }
        });
        Self { address, accepted, heads: Arc::default() }
    }

    /// Reads whole requests and answers them. `script` gets the number of the connection and of the
    /// request on it, both from 0, and the head as it was sent; it returns the bytes of the answer, or
    /// none to close the connection without one.
    pub fn answering(script: impl Fn(usize, usize, &str) -> Option<String> + Send + Sync + 'static) -> Self {
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&heads);
        let fake = Self::start(move |connection, mut conn| {
            for request in 0.. {
                let Some(head) = read_request(&mut conn) else { return };
                seen.lock().unwrap().push(head.clone());
                let Some(answer) = script(connection, request, &head) else { return };
                if conn.try_send(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        Self { heads, ..fake }
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

    /// The head of every request that was answered by a script, in the order of arrival.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// An answer with this status and body.
pub fn answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} Scripted\r\nx-server: scripted\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The lines of one request head, in lower case, without the empty one; none at the end of the stream.
pub fn read_head(conn: &mut Raw) -> Vec<String> {
    let head = conn.head().unwrap_or_default();
    head.lines().map(|line| line.trim_end().to_ascii_lowercase()).filter(|line| !line.is_empty()).collect()
}

/// Reads one request with its body, if it has a length; the head as it was sent.
fn read_request(conn: &mut Raw) -> Option<String> {
    let head = conn.head()?;
    let length = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    conn.try_read(length.unwrap_or(0)).ok()?;
    Some(head)
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

/// A listener whose queue is full: to connect to it is to wait. With what fills it.
pub fn full_backlog() -> (TcpListener, Vec<TcpStream>) {
    full_backlog_at(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// The same at an address.
pub fn full_backlog_at(address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(0).unwrap();
    let listener: TcpListener = socket.into();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue never fills");
    }
    (listener, queued)
}

/// What a server is sent for these bytes: the lines of the head, in lower case.
#[track_caller]
pub fn forwarded(bytes: &[u8]) -> Vec<String> {
    let (tell, told) = std::sync::mpsc::channel();
    let fake = Fake::start(move |_, mut conn| {
        tell.send(read_head(&mut conn)).unwrap();
        conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    let proxy = Proxy::start(&unchecked(fake.address(), ""));
    let mut conn = proxy.raw();
    conn.send(bytes);
    assert_eq!(conn.answer().status, 200);
    told.recv().unwrap()
}
