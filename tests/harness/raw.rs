//! Bytes over a socket, for what a decent client would never send.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;
use super::client::{Answer, read_answer};

/// A connection that sends what it is told to.
pub struct Raw {
    stream: BufReader<TcpStream>,
}

/// Sends `bytes` to `address` and returns everything that comes back until the other side closes.
pub fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut raw = Raw::to(address);
    raw.send(bytes);
    raw.rest()
}

impl Raw {
    pub fn to(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).unwrap())
    }

    /// A connection that somebody else has accepted.
    pub fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends, whatever becomes of it: the other side may have closed already.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The next answer, to a request of that method.
    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Answer {
        read_answer(&mut self.stream, method).unwrap_or_else(|e| panic!("no answer: {e}"))
    }

    /// The next answer.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        read_answer(&mut self.stream, "GET").unwrap_or_else(|e| panic!("no answer: {e}"))
    }

    pub fn try_answer(&mut self) -> std::io::Result<Answer> {
        read_answer(&mut self.stream, "GET")
    }

    /// The next `n` bytes.
    #[track_caller]
    pub fn read(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.stream.read_exact(&mut bytes).unwrap_or_else(|e| panic!("{n} bytes: {e}"));
        bytes
    }

    /// The next head as it was sent, with the empty line; none where the stream ends before.
    pub fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read_until(b'\n', &mut head).ok()? == 0 {
                return None;
            }
        }
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// Takes what was read already and not yet asked for; how many bytes those are.
    pub fn buffered(&mut self) -> usize {
        let n = self.stream.buffer().len();
        self.stream.consume(n);
        n
    }

    /// The next line, without its end; empty at the end of the stream.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        let _ = self.stream.read_until(b'\n', &mut line);
        String::from_utf8_lossy(line.trim_ascii_end()).into_owned()
    }

    /// Whether nothing comes within `time`.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.get_ref().set_read_timeout(Some(time)).unwrap();
        let silent = matches!(self.stream.fill_buf(), Err(e) if e.kind() == ErrorKind::WouldBlock);
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }

    /// Reads whatever is there, at most `buffer`; 0 at the end.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(buffer)
    }

    /// Everything until the other side closes, and whether it was a proper end rather than a reset.
    pub fn rest_and_end(mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let proper = self.stream.read_to_end(&mut bytes).is_ok();
        (bytes, proper)
    }

    /// Closes with a reset instead of an end.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(self.stream.get_ref());
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub fn try_read(&mut self, n: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Everything until the other side closes or resets.
    pub fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        let _ = self.stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether the other side has closed.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0)) || self.stream.get_ref().take_error().ok().flatten().is_some()
    }

    pub fn shutdown_write(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }
}
