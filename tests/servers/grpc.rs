//! What gRPC clients get of the proxy itself: deadlines, errors in their own words, and the health check.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Answer, Call, H2Server, Proxy, Refusing, eventually, send};
use http::{HeaderMap, HeaderValue, Response};

const CALL: &[(&str, &str)] = &[("content-type", "application/grpc+proto"), ("te", "trailers")];

fn before(address: impl std::fmt::Display, more: &str) -> Proxy {
    let check = if more.contains("check =") { "" } else { "check = \"off\"\n" };
    Proxy::start(&format!("cores = 1\n[upstream.app]\nprotocol = \"h2c\"\nservers = [\"{address}\"]\n{check}{more}\n"))
}

/// Status and message of an answer that gRPC clients understand.
fn status(answer: &Answer) -> (&str, &str) {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/grpc")));
    assert!(answer.body.is_empty());
    (answer.header("grpc-status").unwrap(), answer.header("grpc-message").unwrap())
}

#[test]
fn errors_of_the_proxy_are_answers_of_grpc() {
    let proxy = before(Refusing::new().address, "retry = { attempts = 0 }");
    let answer = proxy.client().send("POST", "/shop.Cart/Add", CALL, b"\0\0\0\0\0");
    assert_eq!(status(&answer), ("14", "The application could not be reached."));
    assert_eq!(answer.reason(), Some("connect_refused"));
    // Others get the status.
    assert_eq!(proxy.client().post("/shop.Cart/Add", b"x").status, 502);
    let web = [("content-type", "application/grpc-web")];
    assert_eq!(proxy.client().send("POST", "/shop.Cart/Add", &web, b"x").status, 502);
}

#[test]
fn a_deadline_of_the_client_ends_the_request_and_is_passed_on() {
    let server = H2Server::start(|mut call: Call| async move {
        call.until_reset().await;
    });
    let proxy = before(server.address, "");
    let (call, began) = ([CALL, &[("grpc-timeout", "300m")]].concat(), Instant::now());
    let answer = proxy.client().send("POST", "/shop.Cart/Add", &call, b"\0\0\0\0\0");
    assert_eq!(status(&answer).0, "4");
    assert_eq!(answer.reason(), Some("request_timeout"));
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(server.asked()[0].headers["grpc-timeout"], "300m");
    // Nothing was wrong with the server.
    assert_eq!(proxy.metric("evenkeel_server_failures_total", &[]), 0.0);
}

/// Answers health checks with this status of the protocol.
fn health(status: Arc<AtomicU8>) -> H2Server {
    H2Server::start(move |mut call: Call| {
        let status = Arc::clone(&status);
        async move {
            assert_eq!(call.request.uri().path(), "/grpc.health.v1.Health/Check");
            let (asked, _) = call.body().await.unwrap();
            assert_eq!(asked, b"\0\0\0\0\x0b\x0a\x09shop.Cart");
            let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let Ok(stream) = call.respond.send_response(response, false) else { return };
            let message = [0, 0, 0, 0, 2, 8, status.load(Ordering::SeqCst)];
            let Some(mut stream) = send(stream, Bytes::copy_from_slice(&message), false).await else { return };
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
            let _ = stream.send_trailers(trailers);
        }
    })
}

#[test]
fn the_health_check_of_grpc_decides() {
    let says = Arc::new(AtomicU8::new(1));
    let server = health(Arc::clone(&says));
    let check = "check = { grpc = { service = \"shop.Cart\", interval = \"100ms\", timeout = \"5s\" } }";
    let proxy = before(server.address, check);
    let name = server.address.to_string();
    assert_eq!(proxy.server("app", &name).operational, "healthy");
    says.store(2, Ordering::SeqCst);
    eventually("it is taken out", || (proxy.server("app", &name).operational == "unhealthy").then_some(()));
    assert_eq!(proxy.server("app", &name).last_check_error.as_deref(), Some("the status is NOT_SERVING"));
    says.store(1, Ordering::SeqCst);
    eventually("it is back", || (proxy.server("app", &name).operational == "healthy").then_some(()));
}
