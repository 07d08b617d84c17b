//! Sending one request over one connection and getting the head of its answer.

mod http2;
mod upload;

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use tokio::io::AsyncWriteExt;

use super::body::{Flow, RequestBody};
use super::connection::Conn;
use super::core::CoreClaim;
use super::fault;
use super::pool::{self, Lease, Line};
use super::server_body::ServerBody;
use super::watch::{Phase, Watch};
use crate::config::plan::{Address, UpstreamPlan};
use crate::error::{Kind, ProxyError, Sent};
use crate::proxy_protocol::Header;
use crate::server_stream::ServerStream;
use crate::upstream::{Event, Server};

/// Why there is no answer.
pub(super) enum Failure {
    /// Certainly nothing was sent; the request is back in its place.
    Returned(ProxyError),
    /// Something may have been sent. `stale` when the connection had carried a request before and so
    /// may have been closed by the server at the same moment.
    Lost { error: ProxyError, stale: bool },
}

impl Failure {
    /// There was nothing to send, so nothing is left to be sent again.
    pub(super) fn none() -> Self {
        Self::Lost { error: ProxyError::sent(Kind::Internal, Sent::Maybe), stale: false }
    }
}

/// Runs `work`, which is pinned where it is, until it is done or something comes up for the connection.
pub(super) fn guarded<F: Future + Unpin>(
    watch: &Watch,
    mut work: F,
) -> impl Future<Output = Result<F::Output, Kind>> + use<'_, F> {
    poll_fn(move |cx| {
        if let Some(kind) = watch.fault() {
            watch.take_alarm();
            return Poll::Ready(Err(kind));
        }
        Pin::new(&mut work).poll(cx).map(Ok)
    })
}

/// The PROXY protocol header ahead of a connection for this client, where the upstream's servers get one.
pub(super) fn introduction(conn: &Conn, plan: &UpstreamPlan, client: IpAddr) -> Option<Vec<u8>> {
    let version = plan.send_proxy?;
    // The port of somebody who came through a proxy is not known.
    let port = if client == conn.peer.address { conn.peer.port } else { 0 };
    let source = SocketAddr::new(client, port);
    // Not noted of a connection that is busy since before the reload that made servers want to know.
    let destination = conn.entry.local.get().unwrap_or(conn.plan.bind);
    Some(version.encode(&Header::Proxied { source, destination }))
}

/// Opens a connection to the claimed server that begins with `introduction`, and counts and reports a
/// failure.
pub(super) async fn connect(
    conn: &Conn,
    plan: &UpstreamPlan,
    claim: &CoreClaim,
    introduction: Option<Vec<u8>>,
) -> Result<ServerStream, ProxyError> {
    let (core, server, counts) = (&conn.core, claim.server(), &claim.cell().counts);
    // Failures turn it, too, or one dead address of several would be tried first for ever.
    let turn = counts.connects.get().wrapping_add(counts.connect_failures.get()) as usize;
    conn.watch.enter(Phase::Connect, core.clock.get(), plan.timeouts.connect);
    let outcome = guarded(&conn.watch, pin!(pool::connect(server, turn, plan.timeouts.connect))).await;
    let error = match outcome {
        Ok(Ok(stream)) => match begun(conn, plan, server, stream, introduction).await {
            Ok(stream) => {
                counts.connects.inc();
                return Ok(stream);
            }
            Err(error) => error,
        },
        Ok(Err(error)) => {
            let unresolved =
                matches!(server.address, Address::Host { .. }) && error.kind() == io::ErrorKind::AddrNotAvailable;
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => Kind::ConnectRefused,
                _ if unresolved => Kind::Unresolved,
                io::ErrorKind::TimedOut => Kind::ConnectTimeout,
                _ => Kind::ConnectFailed,
            };
            ProxyError::new(kind).because(error)
        }
        Err(kind) => ProxyError::new(kind),
    };
    if !matches!(error.kind, Kind::RequestTimeout | Kind::Cut) && !is_own_shortage(&error) {
        counts.connect_failures.inc();
        fault::note(core, plan, claim);
        core.report(Event::ConnectFailed { server: server.uid });
    }
    Err(error)
}

/// The stream after what comes before HTTP: whose connection it is, then TLS.
async fn begun(
    conn: &Conn,
    plan: &UpstreamPlan,
    server: &Server,
    mut stream: ServerStream,
    introduction: Option<Vec<u8>>,
) -> Result<ServerStream, ProxyError> {
    if let Some(header) = introduction {
        match guarded(&conn.watch, pin!(stream.write_all(&header))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(ProxyError::new(Kind::ConnectFailed).because(error)),
            Err(kind) => return Err(ProxyError::new(kind)),
        }
    }
    secured(conn, plan, server, stream).await
}

/// The stream under TLS, where the upstream has it; within the time for connecting.
async fn secured(
    conn: &Conn,
    plan: &UpstreamPlan,
    server: &Server,
    stream: ServerStream,
) -> Result<ServerStream, ProxyError> {
    let Some(tls) = &plan.tls else { return Ok(stream) };
    let host = server.address.host();
    // Boxed, since a handshake's state is large and most upstreams are in clear.
    let handshake = Box::pin(tls.client.connect(host.as_deref(), stream));
    match guarded(&conn.watch, handshake).await {
        Ok(Ok(stream)) => Ok(ServerStream::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            conn.core.complaints.upstream_tls.warn(conn.core.clock.get(), |more| {
                tracing::warn!(upstream = %server.upstream, server = %server.name, %error, more, "no TLS with a server");
            });
            Err(ProxyError::new(Kind::UpstreamTls).because(error))
        }
        Err(kind) => Err(ProxyError::new(kind)),
    }
}

/// Running out of our own descriptors, ports or memory says nothing about the server.
fn is_own_shortage(error: &ProxyError) -> bool {
    use rustix::io::Errno;
    let code = error.source.as_deref().and_then(|s| s.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    code.is_some_and(|code| {
        [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL]
            .iter()
            .any(|e| e.raw_os_error() == code)
    })
}

/// Sends the request of `client` that is in `place` to the claimed server, over an idle connection where
/// `reuse` allows and there is one, and waits for the head of the answer.
pub(super) async fn send(
    conn: &Conn,
    plan: &UpstreamPlan,
    claim: &CoreClaim,
    place: &mut Option<Request<RequestBody>>,
    flow: Option<&Flow>,
    reuse: bool,
    client: IpAddr,
) -> Result<(Response<ServerBody>, Lease), Failure> {
    if let Some(options) = plan.protocol.http2() {
        return Box::pin(http2::send(conn, plan, options, claim, place, flow, !reuse)).await;
    }
    let (core, counts) = (&conn.core, &claim.cell().counts);
    if plan.send_proxy.is_some()
        && let Some(request) = place
    {
        // Nothing follows on a connection that is one client's.
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    loop {
        let idle = if reuse { core.pools.take(claim.server(), core.id, plan, core.clock.get()) } else { None };
        let mut line = match idle {
            Some(line) => {
                counts.reused.inc();
                line
            }
            // Boxed, since most requests find one that is open.
            None => match Box::pin(open(conn, plan, claim, client)).await {
                Ok(line) => line,
                Err(error) => return Err(Failure::Returned(error)),
            },
        };
        let Some(request) = place.take() else { return Err(Failure::none()) };
        conn.watch.enter(Phase::FirstByte, core.clock.get(), plan.timeouts.first_byte);
        let sent = guarded(&conn.watch, pin!(line.sender.try_send_request(request))).await;
        match sent {
            Ok(Ok(response)) => return Ok((response.map(ServerBody::Http1), Lease::Http1(line))),
            Ok(Err(mut refused)) => match refused.take_message() {
                Some(unsent) => {
                    *place = Some(unsent);
                    if !line.is_reused() {
                        fault::failed(core, plan, claim);
                        let error = ProxyError::new(Kind::Reset).because(refused.into_error());
                        return Err(Failure::Returned(error));
                    }
                }
                None => {
                    let stale = line.is_reused();
                    let error = lost(refused.into_error(), flow);
                    if !stale && conn.watch.blames_server(error.kind) {
                        fault::failed(core, plan, claim);
                    }
                    return Err(Failure::Lost { error, stale });
                }
            },
            Err(kind) => {
                if conn.watch.blames_server(kind) {
                    fault::failed(core, plan, claim);
                }
                return Err(Failure::Lost { error: ProxyError::sent(kind, Sent::Maybe), stale: false });
            }
        }
    }
}

async fn open(conn: &Conn, plan: &UpstreamPlan, claim: &CoreClaim, client: IpAddr) -> Result<Line, ProxyError> {
    let outings = claim.server().outings();
    let stream = connect(conn, plan, claim, introduction(conn, plan, client)).await?;
    let (line, driver) = pool::handshake(stream, plan, conn.core.now(), outings)
        .await
        .map_err(|error| ProxyError::new(Kind::ConnectFailed).because(error))?;
    // Its own errors reach whoever waits for an answer; there is nobody else to tell.
    tokio::task::spawn_local(async move {
        let _ = driver.await;
    });
    Ok(line)
}

/// What an error of the connection means, once the request may have been sent.
pub(super) fn lost(error: hyper::Error, flow: Option<&Flow>) -> ProxyError {
    let kind = match flow.and_then(|flow| flow.fault.get()) {
        Some(fault) => fault,
        None if error.is_parse() || error.is_parse_too_large() => Kind::BadAnswer,
        None => Kind::Reset,
    };
    // What cannot be parsed was there: the server has answered.
    let sent = if kind == Kind::BadAnswer { Sent::Answered } else { Sent::Maybe };
    ProxyError::sent(kind, sent).because(error)
}

/// The longest that waiting for the head of an answer may take, for a tunnel's handshake too.
pub(super) fn first_byte(plan: &UpstreamPlan) -> Duration {
    plan.timeouts.first_byte
}
