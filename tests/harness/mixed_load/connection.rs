//! One connection of a client that keeps to what is usual.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use super::super::client::{Answer, read_answer, request};
use super::Report;

/// The longest that an answer may pause.
const PATIENCE: Duration = Duration::from_secs(15);
/// How fast a slow reader reads: a piece, and the pause after it.
const PIECE: usize = 16 << 10;
const PAUSE: Duration = Duration::from_millis(25);

/// Kept from one request to the next, unless told otherwise.
pub(super) struct Connection {
    address: SocketAddr,
    slow: bool,
    stream: Option<BufReader<Wire>>,
}

struct Wire {
    stream: TcpStream,
    slow: bool,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if !self.slow {
            return self.stream.read(buffer);
        }
        let most = buffer.len().min(PIECE);
        let read = self.stream.read(&mut buffer[..most])?;
        // What makes it slow.
        std::thread::sleep(PAUSE);
        Ok(read)
    }
}

impl Connection {
    pub(super) fn to(address: SocketAddr, slow: bool) -> Self {
        Self { address, slow, stream: None }
    }

    /// The next request goes on a connection of its own.
    pub(super) fn hang_up(&mut self) {
        self.stream = None;
    }

    /// Asks and reads the answer; what went wrong where there is none.
    pub(super) fn ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        counts: &Mutex<Report>,
    ) -> std::result::Result<Answer, String> {
        let mut head = request(method, target, &self.address.to_string());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if method == "POST" {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        let bytes = [head.as_bytes(), body].concat();
        loop {
            let kept = self.kept(counts)?;
            let is_kept = kept.is_some();
            let mut stream = match kept {
                Some(stream) => stream,
                None => self.connect().map_err(|e| format!("connecting: {e}"))?,
            };
            // Whoever closes may have answered first, so that is looked for in either case.
            let sent = stream.get_mut().stream.write_all(&bytes);
            match stream.fill_buf().map(<[u8]>::is_empty) {
                Ok(false) => {}
                none if is_kept && method == "GET" => {
                    counts.lock().unwrap().races.push(format!("{sent:?}, {none:?}"));
                    continue;
                }
                none => {
                    let which = if is_kept { "a kept" } else { "a new" };
                    return Err(format!("no answer on {which} connection: sent {sent:?}, read {none:?}"));
                }
            }
            let answer = read_answer(&mut stream, method).map_err(|e| format!("the answer broke off: {e}"))?;
            if answer.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")) {
                counts.lock().unwrap().announced += 1;
            } else {
                self.stream = Some(stream);
            }
            return Ok(answer);
        }
    }

    /// The connection of the last request, unless the other side has closed it since.
    fn kept(&mut self, counts: &Mutex<Report>) -> std::result::Result<Option<BufReader<Wire>>, String> {
        let Some(stream) = self.stream.take() else { return Ok(None) };
        let socket = &stream.get_ref().stream;
        let looked = socket.set_nonblocking(true).and_then(|()| {
            let looked = socket.peek(&mut [0]);
            socket.set_nonblocking(false)?;
            looked
        });
        match looked {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Some(stream)),
            Ok(1..) => Err("bytes that nobody had asked for".to_owned()),
            Ok(0) | Err(_) => {
                counts.lock().unwrap().closed_between += 1;
                Ok(None)
            }
        }
    }

    fn connect(&self) -> Result<BufReader<Wire>> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(self.address), socket2::Type::STREAM, None)?;
        if self.slow {
            // Before it is connected: what fits into the sockets on the way is not slow.
            socket.set_recv_buffer_size(PIECE)?;
        }
        socket.connect(&self.address.into()).map_err(|e| Error::new(e.kind(), format!("{e}")))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(Wire { stream, slow: self.slow }))
    }
}
