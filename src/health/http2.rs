//! One request over an HTTP/2 connection of its own, for checks of servers that speak it.

use std::future::poll_fn;

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, Request};

use crate::server_stream::ServerStream;

/// How much of an answer's body is kept.
const KEPT: usize = 64 << 10;

/// An answer: of its body no more than the beginning, and trailers only where that was all.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) trailers: HeaderMap,
}

/// Sends one request and reads its answer. The connection and the exchange end together: nothing is
/// left behind when this is dropped.
pub(super) async fn ask(stream: ServerStream, request: Request<Bytes>) -> Result<Reply, String> {
    let (mut sender, connection) =
        h2::client::handshake(stream).await.map_err(|error| format!("no HTTP/2 connection: {error}"))?;
    let exchange = async {
        let invalid = |error: h2::Error| format!("no valid answer: {error}");
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(invalid)?;
        let (head, body) = request.into_parts();
        let (answer, mut stream) =
            sender.send_request(Request::from_parts(head, ()), body.is_empty()).map_err(invalid)?;
        if !body.is_empty() {
            stream.send_data(body, true).map_err(invalid)?;
        }
        let (head, body) = answer.await.map_err(invalid)?.into_parts();
        let (body, trailers) = read(body).await.map_err(|error| format!("the body ended early: {error}"))?;
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body, trailers })
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        // What the connection has read may still be in the exchange's hands once it is done.
        _ = connection => exchange.await,
    }
}

async fn read(mut stream: RecvStream) -> Result<(Vec<u8>, HeaderMap), h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data[..data.len().min(KEPT - body.len())]);
        if body.len() == KEPT {
            return Ok((body, HeaderMap::new()));
        }
    }
    Ok((body, stream.trailers().await?.unwrap_or_default()))
}
