//! A WebSocket client.

use std::io::{Error, ErrorKind, Result};
use std::net::{SocketAddr, TcpStream};

use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::{self, Message};

use super::PATIENCE;

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
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let request = ClientRequestBuilder::new(format!("ws://{host}{path}").parse().unwrap());
        let request = headers.iter().fold(request, |request, (name, value)| request.with_header(*name, *value));
        let (socket, answer) = tungstenite::client(request, stream).unwrap_or_else(|e| panic!("no WebSocket: {e}"));
        let server = answer.headers().get("x-server").map_or(String::new(), |name| name.to_str().unwrap().to_owned());
        Self { socket, server }
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
