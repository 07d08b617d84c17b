//! gRPC end to end: a client and a server of another make, all four kinds of calls, and what both see of
//! each other through the proxy.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use harness::{Proxy, Refusing};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt, iter};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{NamedService, StreamingService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(uint64, tag = "1")]
    value: u64,
}

fn codec() -> ProstCodec<Number, Number> {
    ProstCodec::default()
}

/// A server whose methods take and give streams; on the wire the other kinds are streams of one.
#[derive(Clone)]
struct Numbers;

impl NamedService for Numbers {
    const NAME: &'static str = "test.Numbers";
}

impl Service<http::Request<tonic::body::Body>> for Numbers {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let method = Method(request.uri().path().rsplit('/').next().unwrap().to_owned());
        Box::pin(async move { Ok(tonic::server::Grpc::new(codec()).streaming(method, request).await) })
    }
}

struct Method(String);

type Answers = Pin<Box<dyn Stream<Item = Result<Number, Status>> + Send>>;

impl StreamingService<Number> for Method {
    type Response = Number;
    type ResponseStream = Answers;
    type Future = BoxFuture<Response<Answers>, Status>;

    fn call(&mut self, request: Request<Streaming<Number>>) -> Self::Future {
        let method = self.0.clone();
        Box::pin(async move {
            if method == "Refuse" {
                return Err(Status::not_found("no such number"));
            }
            let mut asked = request.into_inner();
            let (answers, received) = mpsc::channel(4);
            tokio::spawn(async move {
                let (mut sum, mut last) = (0, 0);
                while let Ok(Some(Number { value })) = asked.message().await {
                    (sum, last) = (sum + value, value);
                    if method == "Double" {
                        let _ = answers.send(Ok(Number { value: value * 2 })).await;
                    }
                }
                match method.as_str() {
                    "Sum" => drop(answers.send(Ok(Number { value: sum })).await),
                    "Count" => {
                        for value in 1..=last {
                            let _ = answers.send(Ok(Number { value })).await;
                        }
                    }
                    "Break" => {
                        let _ = answers.send(Ok(Number { value: last })).await;
                        let _ = answers.send(Err(Status::aborted("in the middle"))).await;
                    }
                    _ => {}
                }
            });
            Ok(Response::new(Box::pin(ReceiverStream::new(received)) as Answers))
        })
    }
}

fn server() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the process: nothing else would wake it.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
            Server::builder().add_service(Numbers).serve_with_incoming(listener).await.unwrap();
        });
    });
    address
}

fn before(address: SocketAddr) -> Proxy {
    Proxy::start(&format!(
        "[upstream.app]\nprotocol = \"h2c\"\ncheck = \"off\"\nretry = {{ attempts = 0 }}\nservers = [\"{address}\"]\n"
    ))
}

async fn client(proxy: &Proxy) -> tonic::client::Grpc<Channel> {
    let channel = Endpoint::from_shared(format!("http://{}", proxy.address)).unwrap().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    client
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

#[tokio::test]
async fn one_message_each_way() {
    let proxy = before(server());
    let mut client = client(&proxy).await;
    for value in [1, 21, u64::MAX / 2] {
        let answer = client.unary(Request::new(Number { value }), path("/test.Numbers/Double"), codec()).await.unwrap();
        assert_eq!(answer.into_inner().value, value * 2);
        client.ready().await.unwrap();
    }
}

#[tokio::test]
async fn many_messages_to_the_server() {
    let proxy = before(server());
    let mut client = client(&proxy).await;
    let numbers = iter((1..=1000).map(|value| Number { value }));
    let answer = client.client_streaming(Request::new(numbers), path("/test.Numbers/Sum"), codec()).await.unwrap();
    assert_eq!(answer.into_inner().value, 500_500);
}

#[tokio::test]
async fn many_messages_from_the_server() {
    let proxy = before(server());
    let mut client = client(&proxy).await;
    let asked = Request::new(Number { value: 1000 });
    let answers = client.server_streaming(asked, path("/test.Numbers/Count"), codec()).await.unwrap().into_inner();
    let numbers: Vec<u64> = answers.map(|number: Result<Number, _>| number.unwrap().value).collect().await;
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn messages_both_ways_in_turn() {
    let proxy = before(server());
    let mut client = client(&proxy).await;
    let (ask, asked) = mpsc::channel(1);
    let streaming = client.streaming(Request::new(ReceiverStream::new(asked)), path("/test.Numbers/Double"), codec());
    let mut answers: Streaming<Number> = streaming.await.unwrap().into_inner();
    let began = Instant::now();
    for value in 1..=300 {
        // Nothing is sent before the answer to what was sent before.
        ask.send(Number { value }).await.unwrap();
        assert_eq!(answers.message().await.unwrap(), Some(Number { value: value * 2 }));
    }
    assert!(began.elapsed() < Duration::from_secs(15), "each has to wait");
    drop(ask);
    assert_eq!(answers.message().await.unwrap(), None);
}

#[tokio::test]
async fn the_status_of_the_server_comes_through() {
    let proxy = before(server());
    let mut client = client(&proxy).await;
    let asked = || Request::new(Number { value: 3 });
    let refused: Result<Response<Number>, _> = client.unary(asked(), path("/test.Numbers/Refuse"), codec()).await;
    let status = refused.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such number"));
    client.ready().await.unwrap();
    let answers = client.server_streaming(asked(), path("/test.Numbers/Break"), codec()).await;
    let mut answers: Streaming<Number> = answers.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap(), Some(Number { value: 3 }));
    let status = answers.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Aborted, "in the middle"));
}

#[tokio::test]
async fn errors_of_the_proxy_have_a_status_of_grpc() {
    let proxy = before(Refusing::new().address);
    let mut client = client(&proxy).await;
    let asked = Request::new(Number { value: 3 });
    let refused: Result<Response<Number>, _> = client.unary(asked, path("/test.Numbers/Sum"), codec()).await;
    let status = refused.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "The application could not be reached."));
}
