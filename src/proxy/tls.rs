//! TLS with clients: the handshake, and the stream after it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::stream::Near;
use crate::tls::Server;

/// A connection under TLS.
#[derive(Debug)]
pub(super) struct Tls(TlsStream<TcpStream>);

/// Shakes hands; none when that failed or took too long.
pub(super) async fn handshake(stream: TcpStream, server: Arc<Server>) -> Option<Near> {
    let accepting = TlsAcceptor::from(server.config()).accept(stream);
    let stream = tokio::time::timeout(server.handshake_timeout, accepting).await.ok()?.ok()?;
    Some(Near::Tls(Box::new(Tls(stream))))
}

impl Tls {
    pub(super) fn socket(&self) -> &TcpStream {
        self.0.get_ref().0
    }

    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.0.get_ref().1.alpn_protocol()
    }

    pub(super) async fn readable(&mut self) -> io::Result<()> {
        let (socket, session) = self.0.get_mut();
        if session.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() > 0) {
            return Ok(());
        }
        socket.readable().await
    }
}

impl AsyncRead for Tls {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
