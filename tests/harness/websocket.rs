//! A WebSocket client.

use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::{self, Message};

use super::PATIENCE;

/// What came of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Echo,
    /// The other side is closing with code 1001.
    Away,
}

/// One that is open.
pub struct WebSocket {
    socket: tungstenite::WebSocket<TcpStream>,
    /// What the other side called itself in `X-Server`.
    pub server: String,
}

impl WebSocket {
    /// Opens one at `path`.
    #[track_caller]
    pub fn open(address: SocketAddr, path: &str) -> Self {
        Self::open_with(address, "x", path, &[])
    }

    /// The same with a `Host` and further headers.
    #[track_caller]
    pub fn open_with(address: SocketAddr, host: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_with(address, host, path, headers).unwrap_or_else(|e| panic!("no WebSocket: {e}"))
    }

    /// Opens one at `path`, where that may fail.
    pub fn try_open(address: SocketAddr, path: &str) -> Result<Self> {
        Self::try_with(address, "x", path, &[])
    }

    fn try_with(address: SocketAddr, host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let request = ClientRequestBuilder::new(format!("ws://{host}{path}").parse().unwrap());
        let request = headers.iter().fold(request, |request, (name, value)| request.with_header(*name, *value));
        let (socket, answer) = tungstenite::client(request, stream).map_err(|e| Error::other(e.to_string()))?;
        let server = answer.headers().get("x-server").map_or(String::new(), |name| name.to_str().unwrap().to_owned());
        Ok(Self { socket, server })
    }

    /// Sends a text and reads it back, or the close frame that has come instead.
    pub fn say(&mut self, text: &str) -> Result<Said> {
        // Where this meets the end of the connection, the close frame is in front of it.
        let sent = self.socket.send(Message::text(text));
        match self.read()? {
            None => Ok(Said::Away),
            Some(back) if back == Message::text(text) => sent.map(|()| Said::Echo).map_err(Error::other),
            Some(other) => Err(Error::other(format!("{other:?} is not the echo of {text}"))),
        }
    }

    /// Waits until then; false once the other side has closed it with code 1001.
    pub fn wait_until(&mut self, then: Instant) -> Result<bool> {
        let time = then.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.get_ref().set_read_timeout(Some(time))?;
        let read = self.read();
        self.socket.get_ref().set_read_timeout(Some(PATIENCE))?;
        match read {
            Ok(Some(message)) => Err(Error::other(format!("{message:?} out of nowhere"))),
            Ok(None) => Ok(false),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The next message; none for a close with code 1001, which is answered.
    fn read(&mut self) -> Result<Option<Message>> {
        match self.socket.read() {
            Ok(Message::Close(Some(close))) if u16::from(close.code) == 1001 => {
                let _ = self.socket.flush();
                Ok(None)
            }
            Ok(message) => Ok(Some(message)),
            Err(tungstenite::Error::Io(error)) => Err(error),
            Err(error) => Err(Error::other(error)),
        }
    }

    /// Sends a text and reads it back.
    pub fn echo(&mut self, text: &str) -> Result<()> {
        self.echo_message(&Message::text(text))
    }

    /// Sends a message and reads it back.
    pub fn echo_message(&mut self, message: &Message) -> Result<()> {
        self.socket.send(message.clone()).map_err(Error::other)?;
        let back = self.socket.read().map_err(Error::other)?;
        if back == *message { Ok(()) } else { Err(Error::other(format!("{back:?} is not the echo of {message:?}"))) }
    }

    /// Closes it and waits for the other side to do the same: nothing else may come.
    #[track_caller]
    pub fn close(mut self) {
        self.socket.close(None).unwrap();
        loop {
            match self.socket.read() {
                Ok(message) => assert!(message.is_close(), "{message:?}"),
                Err(tungstenite::Error::ConnectionClosed) => return,
                Err(error) => panic!("not a proper end: {error}"),
            }
        }
    }

    /// Reads up to the other side's close frame and answers it: the code in it. None for an end without.
    pub fn close_code(&mut self) -> Option<u16> {
        loop {
            if let Message::Close(close) = self.socket.read().ok()? {
                // What was read is answered with the next write.
                let _ = self.socket.flush();
                return close.map(|close| close.code.into());
            }
        }
    }

    /// Whether the other side has closed, waited for.
    pub fn is_closed(&mut self) -> bool {
        match self.socket.read() {
            Ok(message) => message.is_close(),
            Err(tungstenite::Error::Io(error)) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            Err(_) => true,
        }
    }
}
