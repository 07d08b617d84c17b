//! A WebSocket client that says short things and hears them back.

use std::net::SocketAddr;

use super::Raw;

pub struct WebSocket {
    raw: Raw,
}

impl WebSocket {
    /// Opens one at `path`, with further header lines.
    #[track_caller]
    pub fn open(address: SocketAddr, path: &str, headers: &str) -> Self {
        Self::on_host(address, path, "x", headers)
    }

    /// The same with a `Host`.
    #[track_caller]
    pub fn open_as(address: SocketAddr, path: &str, host: &str) -> Self {
        Self::on_host(address, path, host, "")
    }

    #[track_caller]
    fn on_host(address: SocketAddr, path: &str, host: &str, headers: &str) -> Self {
        let mut raw = Raw::to(address);
        raw.send(
            format!(
                "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
            )
            .as_bytes(),
        );
        let answer = raw.answer();
        assert_eq!(answer.status, 101, "{}", answer.text());
        Self { raw }
    }

    /// Sends a text of up to 125 bytes and reads it back.
    pub fn echo(&mut self, text: &str) -> std::io::Result<()> {
        // Masked with zeros (RFC 6455 §5.3 wants a mask, not a good one).
        let frame = [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text.as_bytes()].concat();
        self.raw.try_send(&frame)?;
        let back = self.raw.try_read(2 + text.len())?;
        if back[..2] == [0x81, text.len() as u8] && &back[2..] == text.as_bytes() {
            Ok(())
        } else {
            Err(std::io::Error::other(format!("{back:?} is not the echo of {text}")))
        }
    }

    pub fn raw(&mut self) -> &mut Raw {
        &mut self.raw
    }
}
