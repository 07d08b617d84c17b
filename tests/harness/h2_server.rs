//! A server that speaks HTTP/2 in clear and does with each request what the test writes.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};

/// A request to a server and the way to answer it.
pub struct Call {
    /// Number of the connection, from 1.
    pub connection: usize,
    /// Number of the request on it, from 1.
    pub number: usize,
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
}

/// What was asked of a server.
#[derive(Debug, Clone)]
pub struct Asked {
    pub connection: usize,
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
}

/// A listening socket that speaks HTTP/2, each connection served on its own task.
pub struct H2Server {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl H2Server {
    /// Answers every request with `serve`.
    pub fn start<F, W>(serve: F) -> Self
    where
        F: Fn(Call) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        Self::with(Builder::new(), serve)
    }

    /// The same with settings of its own.
    pub fn with<F, W>(builder: Builder, serve: F) -> Self
    where
        F: Fn(Call) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, accepted: Arc::default(), open: Arc::default(), asked: Arc::default() };
        let (accepted, open, asked) =
            (Arc::clone(&server.accepted), Arc::clone(&server.open), Arc::clone(&server.asked));
        let serve = Arc::new(serve);
        // It ends with the process: nothing else would wake it.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).unwrap();
                    let connection = accepted.fetch_add(1, Ordering::SeqCst) + 1;
                    open.fetch_add(1, Ordering::SeqCst);
                    let (serve, open, asked, builder) =
                        (Arc::clone(&serve), Arc::clone(&open), Arc::clone(&asked), builder.clone());
                    tokio::spawn(async move {
                        if let Ok(mut requests) = builder.handshake::<_, Bytes>(stream).await {
                            let mut number = 0;
                            while let Some(Ok((request, respond))) = requests.accept().await {
                                number += 1;
                                asked.lock().unwrap().push(Asked {
                                    connection,
                                    method: request.method().to_string(),
                                    uri: request.uri().to_string(),
                                    headers: request.headers().clone(),
                                });
                                tokio::spawn(serve(Call { connection, number, request, respond }));
                            }
                        }
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
        });
        server
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// What was asked, in the order of arrival.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Call {
    /// The whole body of the request and its trailers.
    pub async fn body(&mut self) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
        let stream = self.request.body_mut();
        let mut body = Vec::new();
        while let Some(data) = stream.data().await {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            body.extend_from_slice(&data);
        }
        Ok((body, stream.trailers().await?))
    }

    /// Answers 200 with this body.
    pub async fn reply(&mut self, body: impl Into<Bytes>) {
        let body = body.into();
        let response = Response::builder().header("content-length", body.len()).body(()).unwrap();
        // The client may have left.
        let Ok(stream) = self.respond.send_response(response, body.is_empty()) else { return };
        if !body.is_empty() {
            send(stream, body, true).await;
        }
    }

    pub fn reset(&mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Waits until the client resets the stream, and says why.
    pub async fn until_reset(&mut self) -> Reason {
        std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await.unwrap_or(Reason::NO_ERROR)
    }
}

/// Sends data as the client's window allows; the stream for what follows.
pub async fn send(mut stream: h2::SendStream<Bytes>, mut data: Bytes, last: bool) -> Option<h2::SendStream<Bytes>> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        let part = data.split_to(room.min(data.len()));
        let is_last = last && data.is_empty();
        stream.send_data(part, is_last).ok()?;
    }
    Some(stream)
}

/// A frame (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}
