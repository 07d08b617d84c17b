//! Sending one request as a stream of an HTTP/2 connection.
//!
//! What a server has certainly not processed may be sent again whatever its method (RFC 9113 §8.7): a
//! stream that it refused, and one above the last that its GOAWAY names. The beginning of a body is
//! kept until the head of the answer is there, so that this holds for requests that have one.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::Reason;
use http::header;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body::Body;

use super::upload::Upload;
use super::{Failure, connect, guarded};
use crate::config::plan::{Address, Http2, UpstreamPlan};
use crate::error::{Kind, ProxyError, Sent, Side};
use crate::proxy::body::{Flow, RequestBody};
use crate::proxy::connection::Conn;
use crate::proxy::core::CoreClaim;
use crate::proxy::fault;
use crate::proxy::inbound::Received;
use crate::proxy::pool::Lease;
use crate::proxy::pool::http2::{self, Opener, Place, Turn};
use crate::proxy::retry;
use crate::proxy::server_body::ServerBody;
use crate::proxy::watch::Phase;
use crate::upstream::Server;

/// Sends the `request` to the claimed server and waits for the head of the answer. `fresh` asks for a
/// connection that carried no request before.
pub(super) async fn send(
    conn: &Conn,
    plan: &UpstreamPlan,
    options: &Http2,
    claim: &CoreClaim,
    request: &mut Option<Request<RequestBody>>,
    flow: Option<&Flow>,
    fresh: bool,
) -> Result<(Response<ServerBody>, Lease), Failure> {
    let (core, counts) = (&conn.core, &claim.cell().counts);
    let scheme = if plan.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    loop {
        let mut place = match place(conn, plan, options, claim, fresh).await {
            Ok(place) => place,
            Err(error) => return Err(Failure::Returned(error)),
        };
        let reused = place.is_reused();
        if reused {
            counts.reused.inc();
        }
        conn.watch.enter(Phase::FirstByte, core.clock.get(), plan.timeouts.first_byte);
        let Some(taken) = request.take() else { return Err(Failure::none()) };
        let mut stream = match Stream::open(&place, taken, claim.server(), scheme.clone()) {
            Ok(stream) => stream,
            // It is going away since a moment ago.
            Err((unsent, None)) if reused => {
                *request = Some(unsent);
                continue;
            }
            Err((unsent, error)) => {
                let error = error.unwrap_or_else(|| ProxyError::new(Kind::Reset));
                *request = Some(unsent);
                return Err(Failure::Returned(error));
            }
        };
        let error = match guarded(&conn.watch, poll_fn(|cx| stream.poll(cx))).await {
            Ok(Ok(response)) => {
                if let Some(rest) = stream.rest() {
                    place.sends_by(tokio::task::spawn_local(rest).abort_handle());
                }
                return Ok((response, Lease::Http2(place)));
            }
            Ok(Err(error)) => error,
            Err(kind) => {
                if conn.watch.blames_server(kind) {
                    fault::failed(core, plan, claim);
                }
                if kind == Kind::FirstByteTimeout {
                    place.suspect();
                }
                return Err(Failure::Lost { error: ProxyError::sent(kind, Sent::Maybe), stale: false });
            }
        };
        let (error, leaving) = judge(error, flow);
        let stale = reused && error.kind == Kind::Reset;
        match stream.unprocessed().filter(|_| error.sent == Sent::Nothing) {
            Some(unsent) => {
                *request = Some(unsent);
                if !(stale && leaving) {
                    fault::failed(core, plan, claim);
                    return Err(Failure::Returned(error));
                }
            }
            None => {
                if !stale && conn.watch.blames_server(error.kind) {
                    fault::failed(core, plan, claim);
                }
                return Err(Failure::Lost { error, stale });
            }
        }
    }
}

/// A place on a connection: one that is open, one that another request is opening, or a new one.
async fn place(
    conn: &Conn,
    plan: &UpstreamPlan,
    options: &Http2,
    claim: &CoreClaim,
    fresh: bool,
) -> Result<Place, ProxyError> {
    let core = &conn.core;
    loop {
        match core.pools.http2.turn(claim.server(), plan, options, core.clock.get(), fresh) {
            Turn::Place(place) => return Ok(place),
            Turn::Wait(opening) => {
                conn.watch.enter(Phase::Connect, core.clock.get(), plan.timeouts.connect);
                guarded(&conn.watch, pin!(opening.wait()))
                    .await
                    .and_then(|outcome| outcome)
                    .map_err(ProxyError::new)?;
            }
            Turn::Open(opener) => return open(conn, plan, options, claim, opener).await,
        }
    }
}

async fn open(
    conn: &Conn,
    plan: &UpstreamPlan,
    options: &Http2,
    claim: &CoreClaim,
    opener: Opener,
) -> Result<Place, ProxyError> {
    let outings = claim.server().outings();
    let stream = match connect(conn, plan, claim, None).await {
        Ok(stream) => stream,
        Err(error) => {
            if !is_own(error.kind) {
                opener.fail(error.kind);
            }
            return Err(error);
        }
    };
    let error = match guarded(&conn.watch, pin!(http2::handshake(stream, plan, options, outings))).await {
        Ok(Ok(open)) => return Ok(opener.opened(open)),
        Ok(Err(error)) => ProxyError::new(Kind::ConnectFailed).because(error),
        Err(kind) => ProxyError::new(kind),
    };
    if !is_own(error.kind) {
        fault::failed(&conn.core, plan, claim);
        opener.fail(error.kind);
    }
    Err(error)
}

/// Whether a request gave up on a connection for reasons of its own. Others that wait for the same
/// connection have theirs: one of them tries next.
fn is_own(kind: Kind) -> bool {
    kind.side() != Side::Upstream || matches!(kind, Kind::RequestTimeout | Kind::Cut)
}

/// What an error of the stream means, and whether it is because the server leaves the connection.
fn judge(error: h2::Error, flow: Option<&Flow>) -> (ProxyError, bool) {
    let leaving = error.is_go_away() && error.is_remote();
    let refused = error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
    let (kind, sent) = match flow.and_then(|flow| flow.fault.get()) {
        Some(fault) => (fault, Sent::Maybe),
        // Only streams that the server has not processed end with its GOAWAY.
        None if leaving => (Kind::Reset, Sent::Nothing),
        None if refused => (Kind::StreamRefused, Sent::Nothing),
        None if error.is_io() || error.is_remote() => (Kind::Reset, Sent::Maybe),
        None => (Kind::BadAnswer, Sent::Answered),
    };
    (ProxyError::sent(kind, sent).because(error), leaving)
}

/// A request under way.
struct Stream {
    answer: h2::client::ResponseFuture,
    upload: Option<Upload>,
    /// The head, where it may be needed again and nobody else has it.
    head: Option<http::request::Parts>,
}

impl Stream {
    /// Sends the head. Gives the request back where that cannot be done: without an error because the
    /// connection is over, else because the request cannot be sent like this.
    #[expect(clippy::result_large_err, reason = "the request goes back the way it came")]
    fn open(
        place: &Place,
        request: Request<RequestBody>,
        server: &Server,
        scheme: Scheme,
    ) -> Result<Self, (Request<RequestBody>, Option<ProxyError>)> {
        let Some(mut sender) = place.sender() else { return Err((request, None)) };
        let (parts, body) = request.into_parts();
        let is_over = body.is_end_stream();
        let Some(head) = head(&parts, server, scheme) else {
            let error = ProxyError::new(Kind::BadRequest).because("Host is not an authority");
            return Err((Request::from_parts(parts, body), Some(error)));
        };
        match sender.send_request(head, is_over) {
            Ok((answer, stream)) => {
                let replayed = body.is_empty() && retry::is_idempotent(&parts.method);
                let upload = (!is_over).then(|| Upload::new(body, stream));
                Ok(Self { answer, upload, head: (!replayed).then_some(parts) })
            }
            Err(error) => {
                let over = error.is_go_away() || error.is_io();
                let error = (!over).then(|| ProxyError::new(Kind::Reset).because(error));
                Err((Request::from_parts(parts, body), error))
            }
        }
    }

    /// Sends the body until the head of the answer is there.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<ServerBody>, h2::Error>> {
        if let Some(upload) = &mut self.upload {
            let _ = upload.poll(cx);
        }
        let (mut head, stream) = ready!(Pin::new(&mut self.answer).poll(cx))?.into_parts();
        head.extensions.clear();
        let unheard = self.upload.as_ref().map(|upload| Rc::clone(&upload.unheard));
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Poll::Ready(Ok(Response::from_parts(head, ServerBody::Http2(Received::new(stream, length), unheard))))
    }

    /// What is left to be sent of the body.
    fn rest(self) -> Option<impl Future<Output = ()>> {
        let mut upload = self.upload.filter(|upload| !upload.is_over())?;
        upload.forget();
        Some(poll_fn(move |cx| upload.poll(cx)))
    }

    /// The request as it was before it was sent, unless too much of its body is gone.
    fn unprocessed(self) -> Option<Request<RequestBody>> {
        let body = match self.upload {
            None => RequestBody::default(),
            Some(upload) => upload.unsent()?,
        };
        Some(Request::from_parts(self.head?, body))
    }
}

/// The head as HTTP/2 has it (RFC 9113 §8.3.1): no Host and nothing that belongs to a connection.
fn head(parts: &http::request::Parts, server: &Server, scheme: Scheme) -> Option<Request<()>> {
    let mut headers = parts.headers.clone();
    headers.remove(header::TRANSFER_ENCODING);
    let authority = match headers.remove(header::HOST).filter(|host| !host.is_empty()) {
        Some(host) => Authority::try_from(host.as_bytes()).ok()?,
        // Only a client of HTTP/1.0 sends none.
        None => match &server.address {
            Address::Unix(_) => Authority::from_static("localhost"),
            address => Authority::try_from(address.to_string()).ok()?,
        },
    };
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme);
    uri.authority = Some(authority);
    uri.path_and_query = parts.uri.path_and_query().cloned();
    let mut head = Request::new(());
    *head.method_mut() = parts.method.clone();
    *head.uri_mut() = Uri::from_parts(uri).ok()?;
    *head.version_mut() = http::Version::HTTP_2;
    *head.headers_mut() = headers;
    Some(head)
}
