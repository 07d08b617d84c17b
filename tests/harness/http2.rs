//! HTTP/2 clients: one that speaks it properly, and one that sends frames as it is told to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, StatusCode};
use tokio::runtime::Runtime;

use super::PATIENCE;

/// An answer over HTTP/2, whole.
#[derive(Debug)]
pub struct Answer2 {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer2 {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a body of JSON")
    }
}

/// Whether a stream ended with this reset.
pub fn is_reset(error: &h2::Error, reason: h2::Reason) -> bool {
    error.is_reset() && error.reason() == Some(reason)
}

/// A client of one HTTP/2 connection, by prior knowledge.
pub struct Client2 {
    pub runtime: Runtime,
    pub sender: SendRequest<Bytes>,
    /// How the connection ended.
    pub ended: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Client2 {
    pub fn to(address: SocketAddr) -> Self {
        Self::with(address, |_| {})
    }

    pub fn with(address: SocketAddr, adjust: impl FnOnce(&mut h2::client::Builder)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut builder = h2::client::Builder::new();
        adjust(&mut builder);
        let (sender, ended) = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
            let (sender, connection) = builder.handshake(stream).await.expect("a handshake");
            (sender, tokio::spawn(connection))
        });
        Self { runtime, sender, ended }
    }

    /// The head of a request to host `a`.
    pub fn request(method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("http://a{path}"))
    }

    pub fn get(&self, path: &str) -> Answer2 {
        self.send(Self::request("GET", path).body(()).unwrap(), None).expect("an answer")
    }

    /// Sends one request with its body and takes the answer.
    pub fn send(&self, request: Request<()>, body: Option<&[u8]>) -> Result<Answer2, h2::Error> {
        self.runtime.block_on(exchange(self.sender.clone(), request, body.map(Bytes::copy_from_slice), None))
    }

    pub fn send_with_trailers(&self, request: Request<()>, body: &[u8], trailers: HeaderMap) -> Answer2 {
        let body = Some(Bytes::copy_from_slice(body));
        self.runtime.block_on(exchange(self.sender.clone(), request, body, Some(trailers))).expect("an answer")
    }

    /// Waits until the other side has ended the connection.
    pub fn wait(self) -> Result<(), h2::Error> {
        let Self { runtime, sender, ended } = self;
        let outcome = runtime.block_on(async { tokio::time::timeout(PATIENCE, ended).await.expect("an end").unwrap() });
        drop(sender);
        outcome
    }
}

/// One request and its answer.
pub async fn exchange(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Bytes>,
    trailers: Option<HeaderMap>,
) -> Result<Answer2, h2::Error> {
    let work = async {
        let mut sender = sender.ready().await?;
        let (answer, mut stream) = sender.send_request(request, body.is_none() && trailers.is_none())?;
        let sending = async {
            if let Some(mut body) = body {
                while !body.is_empty() {
                    stream.reserve_capacity(body.len());
                    match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                        Some(Ok(room)) => stream.send_data(body.split_to(room.min(body.len())), false)?,
                        Some(Err(error)) => return Err(error),
                        None => return Ok(()),
                    }
                }
                match trailers {
                    Some(trailers) => stream.send_trailers(trailers)?,
                    None => stream.send_data(Bytes::new(), true)?,
                }
            }
            Ok(())
        };
        let receiving = async {
            let (head, mut body) = answer.await?.into_parts();
            let mut bytes = Vec::new();
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                bytes.extend_from_slice(&data);
            }
            let trailers = body.trailers().await?;
            Ok(Answer2 { status: head.status, headers: head.headers, body: bytes, trailers })
        };
        // An answer may come before the body is sent.
        tokio::pin!(sending, receiving);
        tokio::select! {
            answer = &mut receiving => answer,
            sent = &mut sending => { let _ = sent; receiving.await }
        }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("an answer in time")
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM and GOAWAY (RFC 9113 §7).
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The status in a block that begins an answer.
    pub fn status(&self) -> u16 {
        match self.payload[0] {
            0x88 => 200,
            0x89 => 204,
            0x8b => 304,
            0x8c => 400,
            0x8d => 404,
            0x8e => 500,
            // Literal with the name of the static table; digits are 5 bits each when compressed.
            _ => huffman_digits(&self.payload[2..2 + usize::from(self.payload[1] & 0x7f)]),
        }
    }
}

/// Three decimal digits in the code of RFC 7541 Appendix B: `0` to `2` are 5 bits, the others 6.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: String = bytes.iter().map(|b| format!("{b:08b}")).collect();
    let (mut number, mut at) = (0, 0);
    for _ in 0..3 {
        let five = u16::from_str_radix(&bits[at..at + 5], 2).unwrap();
        if five <= 2 {
            number = number * 10 + five;
            at += 5;
        } else {
            number = number * 10 + u16::from_str_radix(&bits[at..at + 6], 2).unwrap() - 0x19 + 3;
            at += 6;
        }
    }
    number
}

/// A client that sends what it is told to.
pub struct Frames(pub TcpStream);

impl Frames {
    /// A connection on which nothing was sent.
    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// A connection whose preface is sent and settings are exchanged.
    pub fn to(address: SocketAddr) -> Self {
        let mut frames = Self::silent(address);
        frames.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frames.send(SETTINGS, 0, 0, &[]);
        frames.send(SETTINGS, ACK, 0, &[]);
        frames
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("bytes that are taken");
    }

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.raw(&Self::frame(kind, flags, stream, payload));
    }

    /// Sends where the other side may have closed already.
    pub fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        self.0.write_all(&Self::frame(kind, flags, stream, payload))
    }

    /// A header block of literals, nothing compressed (RFC 7541 §6.2.2).
    pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                let length = text.len();
                if length < 127 {
                    block.push(length as u8);
                } else {
                    block.push(127);
                    let mut rest = length - 127;
                    while rest >= 128 {
                        block.push(rest as u8 & 127 | 128);
                        rest >>= 7;
                    }
                    block.push(rest as u8);
                }
                block.extend(text.as_bytes());
            }
        }
        block
    }

    /// The pseudo-headers of a GET of `path` at host `a`.
    pub fn get(path: &str) -> Vec<(&str, &str)> {
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)]
    }

    /// Sends a request without a body.
    pub fn ask(&mut self, stream: u32, fields: &[(&str, &str)]) {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &Self::block(fields));
    }

    /// The next frame; none at the end of the connection.
    pub fn next(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.0.read_exact(&mut header).ok()?;
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes(header[5..9].try_into().unwrap());
        Some(Frame { kind: header[3], flags: header[4], stream, payload })
    }

    /// The next frame of one of these types; none at the end of the connection.
    pub fn next_of(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    /// Whether the connection ends, however, within the patience of the tests.
    pub fn is_ended(&mut self) -> bool {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut sink = [0; 4096];
        loop {
            match self.0.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(_) => return true,
            }
        }
    }

    /// Whether nothing comes for a while.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.0.set_read_timeout(Some(time)).unwrap();
        let silent = matches!(self.0.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }
}
