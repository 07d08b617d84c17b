//! What happens after a 101: the WebSocket echo and the plain byte echo.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::answers::{self, Answer};
use super::server::Shared;

/// Buffers grow with what is sent; a thousand idle sockets should not need more than this each.
const BUFFER: usize = 4 << 10;

/// The server's half of RFC 6455 §4.2.2, then an echo of every message.
pub(super) fn web_socket(shared: &Arc<Shared>, mut request: Request<Incoming>) -> Answer {
    let headers = request.headers();
    let key = headers.get(SEC_WEBSOCKET_KEY).cloned();
    let (Some(key), true, true) = (key, lists(headers, "upgrade", "websocket"), request.method() == Method::GET) else {
        let mut answer = answers::text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket\n");
        answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        return answer;
    };
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut answer = answers::text(StatusCode::UPGRADE_REQUIRED, "only version 13 is spoken here\n");
        answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return answer;
    }
    let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return answers::text(StatusCode::BAD_REQUEST, "the key is malformed\n");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let stopping = shared.stopping();
    shared.spawn_tunnel(async move {
        if let Ok(upgraded) = upgrade.await {
            echo_messages(upgraded, stopping).await;
        }
    });
    let mut answer = switching(HeaderValue::from_static("websocket"));
    answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

async fn echo_messages(upgraded: Upgraded, stopping: impl Future<Output = ()>) {
    let config = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let mut stopping = std::pin::pin!(stopping);
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            () = &mut stopping => break,
        };
        match message {
            Some(Ok(message)) if message.is_text() || message.is_binary() => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            // Pings are answered and a close is returned while the next message is awaited.
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
    let away = CloseFrame { code: CloseCode::Away, reason: "the server is stopping".into() };
    if socket.close(Some(away)).await.is_ok() {
        while let Some(Ok(_)) = socket.next().await {}
    }
}

/// Switches to the first protocol that `Upgrade` asks for, whatever it is, and echoes bytes.
pub(super) fn bytes(shared: &Arc<Shared>, mut request: Request<Incoming>) -> Answer {
    let asked = request.headers().get(UPGRADE).cloned();
    let (Some(protocol), true) = (asked, lists(request.headers(), "connection", "upgrade")) else {
        return answers::text(StatusCode::UPGRADE_REQUIRED, "ask with Upgrade and Connection: upgrade\n");
    };
    let first = protocol.as_bytes().split(|&byte| byte == b',').next().unwrap_or_default().trim_ascii();
    let Ok(protocol) = HeaderValue::from_bytes(first) else {
        return answers::text(StatusCode::BAD_REQUEST, "the protocol is malformed\n");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let stopping = shared.stopping();
    shared.spawn_tunnel(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        tokio::select! {
            _ = tokio::io::copy(&mut read, &mut write) => {}
            () = stopping => {}
        }
        // The half that is not shut down would leave the other side waiting for the rest.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
    });
    switching(protocol)
}

pub(super) fn switching(protocol: HeaderValue) -> Answer {
    let mut answer = Response::new(answers::full(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(UPGRADE, protocol);
    answer
}

/// Whether a header's comma-separated lists hold the token, whatever its case.
fn lists(headers: &HeaderMap, name: &str, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}
