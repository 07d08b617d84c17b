//! One stream: a request, its answer, and the window that the client gives it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body as _;

use super::convert::{self, Challenge};
use super::tunnel::Channel;
use super::{Shared, date};
use crate::error::Kind;
use crate::proxy::body::Body;
use crate::proxy::connection::Conn;
use crate::proxy::inbound::{Inbound, Received};
use crate::proxy::watch::Phase;
use crate::proxy::{request, request_id, upgrade};

/// The most of the window that a stream asks for at once, so that it leaves some to others.
const MOST_RESERVED: usize = 64 * 1024;

/// Serves one stream to its end.
pub(super) async fn serve(
    conn: &Rc<Conn>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: &Rc<Shared>,
) {
    let (request, tunnel) = take(request);
    let Some(response) = answer(conn, request, &mut respond).await else { return };
    let (mut head, mut body) = response.into_parts();
    head.version = Version::HTTP_2;
    if let Some((stream, challenge)) = tunnel {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            switch(shared, conn, head, stream, respond, &challenge).await;
            return;
        }
        if head.status.is_success() {
            // To the client that would say that the tunnel is there (RFC 8441 §5).
            body.give_up(Kind::BadAnswer);
            refuse(respond);
            return;
        }
    }
    // Those of the proxy's own answers to HTTP/1; servers' are gone already (RFC 9113 §8.2.2).
    head.headers.remove(header::CONNECTION);
    head.headers.entry(header::DATE).or_insert_with(date::now);
    let ends = body.is_end_stream();
    let Ok(send) = respond.send_response(Response::from_parts(head, ()), ends) else { return };
    if !ends {
        let mut pipe = Pipe { conn, shared, body, send, rest: Bytes::new(), is_last: false };
        if poll_fn(|cx| pipe.poll(cx)).await.is_err() {
            return;
        }
    }
    shared.meter.borrow_mut().served();
}

/// The request as the rest of the proxy serves it, and what a tunnel needs where it asks for one.
fn take(request: Request<RecvStream>) -> (Request<Inbound>, Option<(RecvStream, Challenge)>) {
    let (mut parts, stream) = request.into_parts();
    if let Some(protocol) = parts.extensions.remove::<Protocol>() {
        let random = u128::from(request_id::random_u64()) << 64 | u128::from(request_id::random_u64());
        if let Some(challenge) = convert::connect_to_upgrade(&mut parts, protocol.as_str(), random.to_be_bytes()) {
            return (Request::from_parts(parts, Inbound::Empty), Some((stream, challenge)));
        }
    }
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
    (Request::from_parts(parts, Inbound::Http2(Received::new(stream, length))), None)
}

/// The answer, unless the client takes the request back before it is there. One that was taken back at
/// once never reaches a server.
async fn answer(
    conn: &Rc<Conn>,
    request: Request<Inbound>,
    respond: &mut SendResponse<Bytes>,
) -> Option<Response<Body>> {
    let mut handling = request::handle(Rc::clone(conn), request);
    poll_fn(|cx| {
        conn.watch.set_waker(cx.waker());
        if respond.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        if conn.wire.as_ref().is_some_and(|wire| wire.is_overrun()) {
            conn.watch.overrun();
        }
        let handled = handling.as_mut().poll(cx);
        for (status, fields) in conn.wire.iter().flat_map(|wire| wire.take_interim()) {
            let mut interim = Response::new(());
            (*interim.status_mut(), *interim.headers_mut()) = (status, fields);
            // One that cannot be sent is one that the client does without (RFC 9110 §15.2).
            let _ = respond.send_informational(interim);
        }
        handled.map(Result::ok)
    })
    .await
}

/// A stream that was given up, by either side.
struct Gone;

/// An answer's body on its way into a stream.
struct Pipe<'a> {
    conn: &'a Conn,
    shared: &'a Shared,
    body: Body,
    send: SendStream<Bytes>,
    /// What of a frame is still to be sent.
    rest: Bytes,
    /// Whether nothing comes after it.
    is_last: bool,
}

impl Pipe<'_> {
    /// Hands the body over as far as the client's window allows.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        self.conn.watch.set_waker(cx.waker());
        let moved = self.poll_move(cx);
        if moved.is_pending() && self.send.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Gone));
        }
        moved
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        loop {
            if !self.rest.is_empty() {
                ready!(self.poll_send(cx))?;
                if self.rest.is_empty() && self.is_last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.is_last = self.body.is_end_stream();
                        if data.is_empty() && self.is_last {
                            return Poll::Ready(self.send.send_data(data, true).map_err(|_| Gone));
                        }
                        self.rest = data;
                    }
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else { continue };
                        return Poll::Ready(self.send.send_trailers(trailers).map_err(|_| Gone));
                    }
                },
                // The client must not take what it has for the whole (RFC 9113 §8.1).
                Some(Err(_)) => {
                    self.send.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(Gone));
                }
                None => return Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(|_| Gone)),
            }
        }
    }

    /// Sends what the window has room for.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let watch = &self.conn.watch;
        if self.send.capacity() == 0 {
            if matches!(watch.phase(), Phase::ClientWrite | Phase::Flush) && watch.fault().is_some() {
                self.send.send_reset(Reason::CANCEL);
                return Poll::Ready(Err(Gone));
            }
            self.send.reserve_capacity(self.rest.len().min(MOST_RESERVED));
            while self.send.capacity() == 0 {
                match ready!(self.send.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(Err(Gone)),
                }
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(self.send.capacity()));
        let sent = piece.len();
        let ends = self.rest.is_empty() && self.is_last;
        self.send.send_data(piece, ends).map_err(|_| Gone)?;
        if matches!(watch.phase(), Phase::ClientWrite | Phase::Flush) {
            watch.extend(self.conn.core.clock.get(), self.conn.plan.between_bytes);
        }
        watch.moved(sent);
        let mut meter = self.shared.meter.borrow_mut();
        meter.moved(sent);
        if self.rest.is_empty() {
            meter.sent();
        }
        Poll::Ready(Ok(()))
    }
}

/// Answers an extended CONNECT whose server did something else than it was asked to.
fn refuse(mut respond: SendResponse<Bytes>) {
    let mut refused = Response::new(());
    *refused.status_mut() = StatusCode::from_u16(Kind::BadAnswer.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    if let Ok(timing) = HeaderValue::from_str(&format!("evenkeel;desc=\"{}\"", Kind::BadAnswer.reason())) {
        refused.headers_mut().insert("server-timing", timing);
    }
    refused.headers_mut().insert(header::DATE, date::now());
    let _ = respond.send_response(refused, true);
}

/// Answers an extended CONNECT whose server has switched, and moves bytes both ways.
async fn switch(
    shared: &Rc<Shared>,
    conn: &Rc<Conn>,
    mut head: http::response::Parts,
    stream: RecvStream,
    mut respond: SendResponse<Bytes>,
    challenge: &Challenge,
) {
    let Some(mut tunnel) = conn.tunnel.borrow_mut().take() else { return };
    let accepted = head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    if accepted.is_none_or(|accepted| accepted.as_bytes() != challenge.accept.as_bytes()) {
        // RFC 6455 §4.1: an answer to a handshake that nobody sent.
        tunnel.exchange.cut_short(Kind::BadAnswer);
        refuse(respond);
        return;
    }
    head.status = StatusCode::OK;
    head.headers.remove(header::CONNECTION);
    head.headers.remove(header::UPGRADE);
    head.headers.entry(header::DATE).or_insert_with(date::now);
    let Ok(send) = respond.send_response(Response::from_parts(head, ()), false) else { return };
    upgrade::run(Channel::new(stream, send, shared), Bytes::new(), tunnel).await;
}
