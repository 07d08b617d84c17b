//! TLS with clients: the handshake, and the stream after it.
//!
//! A handshake is a hundred times the work of a request, so the core does one at a time and looks at
//! everything else that is ready in between: a burst of new clients delays those that are there by one
//! handshake, not by all of them.

use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::HeaderValue;
use rustls::server::{Acceptor, ServerConnection};
use rustls::{Error as TlsError, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::client_cert::ClientCert;
use super::connection::linger;
use super::core::Core;
use super::stream::Near;
use crate::config::plan::ListenerPlan;
use crate::metrics::cells::TlsFailure;
use crate::tls::{ClientIdentity, Server};

/// For those who speak HTTP where TLS is spoken.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\
    content-length: 61\r\nserver-timing: evenkeel;desc=\"bad_request\"\r\n\r\n\
    This port speaks TLS: ask again with https:// in the address\n";

/// So much since the last flush is worth waiting for more.
const LARGE: usize = 8 * 1024;

/// A connection under TLS.
#[derive(Debug)]
pub(super) struct Tls {
    stream: TlsStream<TcpStream>,
    secure: Rc<Secure>,
    /// Whether large writes are gathered: HTTP/2 flushes after each frame, and would otherwise send every
    /// 16 KiB by themselves. The TLS library holds 64 KiB at most.
    gathers: bool,
    /// Bytes written since the last flush, where writes are gathered.
    fresh: usize,
}

/// What is known of a connection under TLS, made once for all its requests.
#[derive(Debug)]
pub(super) struct Secure {
    /// Who the client is, where the listener asks; none within when it did not say.
    pub(super) client: Option<ClientCert>,
    pub(super) hsts: Option<HeaderValue>,
    /// What the client was asked for, from the plan at that time.
    plan: Arc<ListenerPlan>,
    /// Where there is an access log.
    logged: Option<Logged>,
}

/// What the access log says of a connection.
#[derive(Debug)]
struct Logged {
    version: &'static str,
    /// The name that the client asked for.
    name: Option<Box<str>>,
}

/// Whether a connection was secured as its listener, whose newest plan is `plan`, secures connections: what is
/// let in after a reload has to be let in by its rules.
pub(super) fn is_as_agreed(plan: &ListenerPlan, secure: Option<&Secure>) -> bool {
    match (&plan.tls, secure) {
        (None, None) => true,
        (Some(tls), Some(secure)) => {
            secure.plan.tls.as_ref().is_some_and(|agreed| agreed.client_auth == tls.client_auth)
        }
        _ => false,
    }
}

/// Shakes hands; none when that failed or took too long, which is counted.
pub(super) async fn handshake(
    core: &Core,
    plan: &Arc<ListenerPlan>,
    socket: TcpStream,
    server: Arc<Server>,
) -> Option<Near> {
    let shaken = match tokio::time::timeout(server.handshake_timeout, shake(core, socket, &server)).await {
        Ok(shaken) => shaken,
        Err(_) => Err(TlsFailure::Timeout),
    };
    let cells = core.cells();
    match shaken {
        Ok(stream) => {
            let session = stream.get_ref().1;
            let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
            if resumed { &cells.tls_resumed } else { &cells.tls_full }.inc();
            let secure = Rc::new(Secure::of(session, Arc::clone(plan), core.log.is_some()));
            let gathers = session.alpn_protocol() == Some(b"h2");
            Some(Near::Tls(Box::new(Tls { stream, secure, gathers, fresh: 0 })))
        }
        Err(failure) => {
            cells.tls_failures[failure as usize].inc();
            None
        }
    }
}

async fn shake(core: &Core, socket: TcpStream, server: &Server) -> Result<TlsStream<TcpStream>, TlsFailure> {
    let mut first = [0];
    match socket.peek(&mut first).await {
        Ok(1..) => {}
        Ok(0) | Err(_) => return Err(TlsFailure::Closed),
    }
    // No record of TLS begins with a letter; a method does.
    if first[0].is_ascii_alphabetic() {
        let _ = socket.try_write(PLAIN_HTTP);
        linger(&mut Near::Plain(socket)).await;
        return Err(TlsFailure::PlainHttp);
    }
    let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await.map_err(|error| failure(&error))?;
    let accepting = {
        // Nobody closes it; without it the handshake would only be less polite.
        let turn = core.handshakes.acquire().await;
        let accepting = start.into_stream(server.config());
        // Whoever is next waits until everything else that is ready was looked at.
        tokio::task::yield_now().await;
        drop(turn);
        accepting
    };
    accepting.await.map_err(|error| failure(&error))
}

/// Why a handshake failed, in the words that are counted.
fn failure(error: &io::Error) -> TlsFailure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
        None => TlsFailure::Closed,
        Some(TlsError::InvalidCertificate(_) | TlsError::NoCertificatesPresented) => TlsFailure::ClientCertificate,
        Some(TlsError::AlertReceived(_)) => TlsFailure::Alert,
        Some(_) => TlsFailure::Protocol,
    }
}

impl Secure {
    fn of(session: &ServerConnection, plan: Arc<ListenerPlan>, is_logged: bool) -> Self {
        let asks = plan.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some());
        let client = asks.then(|| {
            let shown = session.peer_certificates().and_then(<[_]>::first);
            ClientCert::of(shown.and_then(|certificate| ClientIdentity::of(certificate)).as_ref())
        });
        let logged = is_logged.then(|| Logged {
            version: if session.protocol_version() == Some(ProtocolVersion::TLSv1_2) { "TLSv1.2" } else { "TLSv1.3" },
            name: session.server_name().map(Into::into),
        });
        let hsts = plan.hsts.and_then(|hsts| HeaderValue::from_str(&hsts.to_string()).ok());
        Self { client, hsts, plan, logged }
    }

    /// The version of TLS and the name asked for, for the access log.
    pub(super) fn logged(&self) -> (Option<&'static str>, Option<&str>) {
        let logged = self.logged.as_ref();
        (logged.map(|l| l.version), logged.and_then(|l| l.name.as_deref()))
    }
}

impl Tls {
    pub(super) fn socket(&self) -> &TcpStream {
        self.stream.get_ref().0
    }

    pub(super) fn secure(&self) -> &Rc<Secure> {
        &self.secure
    }

    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }

    /// Waits for content, the end or an error, and takes nothing of it. What else the client's TLS says
    /// (new keys, a part of a record) is dealt with in here and wakes nobody, so that it keeps no
    /// connection open.
    pub(super) async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.stream).poll_fill_buf(cx).map_ok(|_| ())).await
    }

    /// Has the library take what it has room for; what it holds goes out first if that is nothing.
    fn poll_gather(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut taken = self.stream.get_mut().1.writer().write_vectored(bufs)?;
        if taken == 0 {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            taken = self.stream.get_mut().1.writer().write_vectored(bufs)?;
        }
        self.fresh += taken;
        Poll::Ready(Ok(taken))
    }
}

impl AsyncRead for Tls {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            // Many clients end without saying so in TLS. What a request is missing shows in its framing.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathers {
            return self.poll_gather(cx, &[IoSlice::new(buf)]);
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if mem::take(&mut self.fresh) >= LARGE {
            // More may follow at once. If not, the task comes here again with nothing written, by itself or
            // because it was woken.
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.gathers {
            return self.poll_gather(cx, bufs);
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
