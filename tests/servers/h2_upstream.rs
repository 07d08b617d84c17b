//! HTTP/2 to servers: what they get, how connections are shared, and what becomes of a request that a
//! server refuses.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use h2::server::Builder;
use harness::{
    Call, Client2, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, H2Server, HEADERS, PING, Proxy, RST_STREAM,
    WINDOW_UPDATE, eventually, request, send,
};
use http::{HeaderMap, HeaderValue, Response};
use tokio::sync::Barrier;

/// One core, so one pool, before one server; `more` goes into the upstream's table.
pub(crate) fn before(address: impl std::fmt::Display, more: &str) -> Proxy {
    let protocol = if more.contains("protocol") { "" } else { "protocol = \"h2c\"\n" };
    Proxy::start(&format!("cores = 1\n[upstream.app]\ncheck = \"off\"\nservers = [\"{address}\"]\n{protocol}{more}\n"))
}

/// Asks `count` times at once; statuses in no order.
fn at_once(proxy: &Proxy, count: usize) -> Vec<u16> {
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..count).map(|_| scope.spawn(|| proxy.get("/").status)).collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    })
}

async fn hello(mut call: Call) {
    call.reply("hello").await;
}

#[test]
fn a_server_gets_a_request_as_http2_has_it() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "");
    let headers = [
        ("host", "shop.example:81"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip, trailers"),
        ("x-kept", "yes"),
    ];
    let mut conn = proxy.raw();
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    conn.send(format!("GET /a/b?c=d HTTP/1.1\r\n{lines}\r\n").as_bytes());
    let answer = conn.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let asked = &server.asked()[0];
    assert_eq!((asked.method.as_str(), asked.uri.as_str()), ("GET", "http://shop.example:81/a/b?c=d"));
    for gone in ["host", "connection", "keep-alive", "x-hop", "transfer-encoding"] {
        assert!(!asked.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(asked.headers["te"], "trailers");
    assert_eq!(asked.headers["x-kept"], "yes");
    assert_eq!(asked.headers["x-forwarded-for"], "127.0.0.1");
}

#[test]
fn targets_without_a_path_or_a_host_have_a_form_in_http2() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "");
    let mut conn = proxy.raw();
    conn.send(b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(conn.answer().status, 200);
    let mut conn = proxy.raw();
    conn.send(b"GET /old HTTP/1.0\r\n\r\n");
    assert_eq!(conn.answer().status, 200);
    let asked = server.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].uri.as_str()), ("OPTIONS", "http://a*"));
    assert_eq!(asked[1].uri, format!("http://{}/old", server.address));
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let server = H2Server::start(|mut call: Call| async move {
        let (body, trailers) = call.body().await.unwrap();
        let sum = trailers.and_then(|t| t.get("x-sum").cloned()).unwrap_or(HeaderValue::from_static("none"));
        let response = Response::builder().header("trailer", "x-back").header("x-sum", sum).body(()).unwrap();
        let stream = call.respond.send_response(response, false).unwrap();
        let mut stream = send(stream, Bytes::from(body), false).await.unwrap();
        let back = HeaderMap::from_iter([("x-back".parse().unwrap(), HeaderValue::from_static("7"))]);
        stream.send_trailers(back).unwrap();
    });
    let proxy = before(server.address, "");
    let mut conn = proxy.raw();
    let rest = "transfer-encoding: chunked\r\ntrailer: x-sum\r\nte: trailers\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n";
    conn.send((request("POST", "/", "a") + rest).as_bytes());
    let answer = conn.answer();
    assert_eq!((answer.header("x-sum"), answer.text().as_str()), (Some("42"), "abc"));
    assert_eq!(answer.trailers, [("x-back".to_owned(), "7".to_owned())]);
}

#[test]
fn answers_without_a_body_have_none() {
    let server = H2Server::start(|mut call: Call| async move {
        let status = if call.request.uri().path() == "/none" { 204 } else { 200 };
        let mut response = Response::builder().status(status);
        if status == 200 {
            response = response.header("content-length", 5);
        }
        let is_head = call.request.method() == http::Method::HEAD;
        call.respond.send_response(response.body(()).unwrap(), true).unwrap();
        assert!(is_head || status == 204);
    });
    let proxy = before(server.address, "");
    let mut client = proxy.client();
    assert_eq!(client.send("HEAD", "/", &[], b"").header("content-length"), Some("5"));
    assert_eq!(client.get("/none").status, 204);
    assert_eq!(server.accepted(), 1);
}

#[test]
fn requests_share_a_connection() {
    // No request is answered before all have come.
    let all = Arc::new(Barrier::new(6));
    let server = H2Server::start(move |mut call: Call| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            call.reply("together").await;
        }
    });
    let proxy = before(server.address, "");
    assert_eq!(at_once(&proxy, 6), [200; 6]);
    assert_eq!(server.accepted(), 1);
    eventually("it is idle", || (proxy.metric("evenkeel_server_idle_connections", &[]) == 1.0).then_some(()));
}

#[test]
fn a_connection_carries_no_more_requests_at_once_than_the_server_allows() {
    let all = Arc::new(Barrier::new(6));
    let mut settings = Builder::new();
    settings.max_concurrent_streams(2);
    let server = H2Server::with(settings, move |mut call: Call| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            call.reply("two by two").await;
        }
    });
    // A refused request would be an error, since there is no retry.
    let proxy = before(server.address, "retry = { attempts = 0 }");
    assert_eq!(at_once(&proxy, 6), [200; 6]);
    let mut on: Vec<usize> = server.asked().iter().map(|asked| asked.connection).collect();
    on.sort_unstable();
    assert_eq!(on, [1, 1, 2, 2, 3, 3]);
}

#[test]
fn nor_more_than_the_configuration_says() {
    let all = Arc::new(Barrier::new(4));
    let server = H2Server::start(move |mut call: Call| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            call.reply("one each").await;
        }
    });
    let proxy = before(server.address, "protocol = { h2c = { max_streams = 1 } }");
    assert_eq!(at_once(&proxy, 4), [200; 4]);
    assert_eq!(server.accepted(), 4);
}

#[test]
fn a_connection_is_closed_when_it_has_carried_what_it_may() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "pool = { max_requests = 2 }");
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").status, 200);
    }
    let on: Vec<usize> = server.asked().iter().map(|asked| asked.connection).collect();
    assert_eq!(on, [1, 1, 2, 2, 3]);
    eventually("the used-up ones are closed", || (server.open() == 1).then_some(()));
}

#[test]
fn a_connection_is_idle_no_longer_than_it_may() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "pool = { idle_timeout = \"300ms\" }");
    assert_eq!(proxy.get("/").status, 200);
    eventually("it is closed", || (server.open() == 0).then_some(()));
    assert_eq!(proxy.metric("evenkeel_server_idle_connections", &[]), 0.0);
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(server.accepted(), 2);
}

#[test]
fn a_refused_request_goes_elsewhere_whatever_its_method() {
    let refusing = H2Server::start(|mut call: Call| async move {
        // Even with the body in its hands: RFC 9113 §8.7 says that nothing was done with it.
        call.body().await.unwrap();
        call.reset(Reason::REFUSED_STREAM);
    });
    let taking = H2Server::start(|mut call: Call| async move {
        let (body, _) = call.body().await.unwrap();
        call.reply(body).await;
    });
    let (a, b) = (refusing.address, taking.address);
    let proxy = Proxy::start(&format!(
        "cores = 1\n[upstream.app]\ncheck = \"off\"\noutliers = false\nprotocol = \"h2c\"\nservers = [\"{a}\", \"{b}\"]\n"
    ));
    let mut client = proxy.client();
    for _ in 0..4 {
        let answer = client.post("/pay", b"ten euros");
        assert_eq!((answer.status, answer.text().as_str()), (200, "ten euros"));
    }
    assert!(!refusing.asked().is_empty());
    // More than is kept of a body cannot be sent again.
    let large = vec![b'x'; 200_000];
    let refused = (0..2).map(|_| client.post("/", &large)).find(|answer| answer.status != 200).unwrap();
    assert_eq!((refused.status, refused.reason()), (503, Some("stream_refused")));
    // Nor can very many pieces, however small they are.
    let pieces = "transfer-encoding: chunked\r\n\r\n".to_owned() + &"1\r\nx\r\n".repeat(1000) + "0\r\n\r\n";
    let in_pieces = || {
        let mut conn = proxy.raw();
        conn.send((request("POST", "/", "a") + &pieces).as_bytes());
        conn.answer()
    };
    let refused = (0..2).map(|_| in_pieces()).find(|answer| answer.status != 200).unwrap();
    assert_eq!((refused.status, refused.reason()), (503, Some("stream_refused")));
}

#[test]
fn a_refused_request_is_sent_again_with_its_trailers() {
    let refusing = H2Server::start(|mut call: Call| async move {
        call.body().await.unwrap();
        call.reset(Reason::REFUSED_STREAM);
    });
    let silent = H2Server::start(|mut call: Call| async move {
        let (_, trailers) = call.body().await.unwrap();
        assert_eq!(trailers.unwrap()["x-sum"], "42");
        call.until_reset().await;
    });
    let (a, b) = (refusing.address, silent.address);
    let timeouts = "timeouts = { first_byte = \"300ms\", between_bytes = \"20s\" }\nretry = { attempts = 1 }";
    let proxy = Proxy::start(&format!(
        "cores = 1\n[upstream.app]\ncheck = \"off\"\nprotocol = \"h2c\"\nservers = [\"{a}\", \"{b}\"]\n{timeouts}\n"
    ));
    let rest = "transfer-encoding: chunked\r\ntrailer: x-sum\r\nte: trailers\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n";
    for _ in 0..2 {
        let mut conn = proxy.raw();
        conn.send((request("POST", "/", "a") + rest).as_bytes());
        let answer = conn.answer();
        // All was sent, so it is the answer that is waited for, and the connection serves on.
        assert_eq!((answer.status, answer.reason()), (504, Some("first_byte_timeout")));
        assert_ne!(answer.header("connection"), Some("close"));
    }
    assert!(!refusing.asked().is_empty());
}

#[test]
fn a_drained_server_keeps_no_connection() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "");
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(server.open(), 1);
    proxy.change("app", &server.address.to_string(), &serde_json::json!({ "admin": "disabled" }));
    eventually("it is closed", || (server.open() == 0).then_some(()));
}

#[test]
fn requests_that_come_while_a_connection_is_refused_do_not_wait_for_each_other() {
    let refusing = harness::Refusing::new();
    let proxy = before(refusing.address, "retry = { attempts = 0 }");
    assert_eq!(at_once(&proxy, 8), [502; 8]);
}

#[test]
fn an_upgrade_is_an_ordinary_request_to_a_server_that_knows_none() {
    let server = H2Server::start(hello);
    let proxy = before(server.address, "");
    let mut conn = proxy.raw();
    conn.send((request("GET", "/", "a") + "connection: upgrade\r\nupgrade: websocket\r\n\r\n").as_bytes());
    assert_eq!(conn.answer().status, 200);
    assert!(!server.asked()[0].headers.contains_key("upgrade"));
}

#[test]
fn the_protocol_changes_by_a_reload() {
    let server = H2Server::start(hello);
    let old = format!("[upstream.app]\ncheck = \"off\"\nservers = [\"{}\"]\n", server.address);
    let proxy = Proxy::start(&old);
    assert_eq!(proxy.get("/").status, 502);
    proxy.reload(&format!("{old}protocol = \"h2c\"\n")).unwrap();
    assert_eq!(proxy.get("/").status, 200);
}

/// What HTTP/1 would not say, HTTP/2 can: all that a trailer may not be is left out (RFC 9110 §6.5.1).
#[test]
fn trailers_that_belong_into_a_head_are_left_out_both_ways() {
    const FORGED: [&str; 7] =
        ["x-client-cert-subject", "x_forwarded_for", "host", "content-length", "x-request-id", "cookie", "x-sum"];
    fn forged() -> HeaderMap {
        FORGED.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("1"))).collect()
    }
    let (tell, told) = std::sync::mpsc::channel();
    let server = H2Server::start(move |mut call: Call| {
        let tell = tell.clone();
        async move {
            let only_forged = call.request.uri().path() == "/none";
            tell.send(call.body().await.unwrap().1).unwrap();
            let stream = call.respond.send_response(Response::new(()), false).unwrap();
            let mut stream = send(stream, Bytes::from_static(b"body"), false).await.unwrap();
            let mut trailers = forged();
            if only_forged {
                trailers.remove("x-sum");
            }
            stream.send_trailers(trailers).unwrap();
        }
    });
    let proxy = before(server.address, "");
    let client = Client2::to(proxy.address);
    let left = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("1"))]);
    let answer = client.send_with_trailers(Client2::request("POST", "/").body(()).unwrap(), b"abc", forged());
    assert_eq!((answer.body.as_slice(), answer.trailers), (&b"body"[..], Some(left.clone())));
    assert_eq!(told.recv().unwrap(), Some(left));
    // Where nothing is left there are none, and both bodies end all the same.
    let mut none = forged();
    none.remove("x-sum");
    let answer = client.send_with_trailers(Client2::request("POST", "/none").body(()).unwrap(), b"abc", none);
    assert_eq!((answer.body.as_slice(), answer.trailers), (&b"body"[..], None));
    assert_eq!(told.recv().unwrap(), None);
}

#[test]
fn an_answer_that_ends_with_its_head_is_not_called_compressed() {
    let server = H2Server::start(|mut call: Call| async move {
        let response = Response::builder().header("content-type", "text/plain").body(()).unwrap();
        call.respond.send_response(response, true).unwrap();
    });
    let proxy = Proxy::start(&format!(
        "[[route]]\nname = \"r\"\nupstream = \"app\"\ncompress = true\n\
         [upstream.app]\ncheck = \"off\"\nservers = [\"{}\"]\nprotocol = \"h2c\"\n",
        server.address
    ));
    let mut client = proxy.client();
    let answer = client.send("GET", "/", &[("accept-encoding", "gzip")], b"");
    assert_eq!((answer.status, answer.header("content-encoding"), answer.body.len()), (200, None, 0));
}

/// As of a client's stream of gRPC: more small messages than the server takes for now.
#[test]
fn many_small_frames_wait_for_a_slow_server() {
    let (let_go, go) = tokio::sync::watch::channel(false);
    let mut settings = Builder::new();
    settings.initial_window_size(1 << 10);
    let server = H2Server::with(settings, move |mut call: Call| {
        let mut go = go.clone();
        async move {
            let _ = go.wait_for(|go| *go).await;
            let length = call.body().await.map_or(0, |(body, _)| body.len());
            call.reply(length.to_string()).await;
        }
    });
    let proxy = before(server.address, "");
    let ask = |frames: &mut Frames| {
        // The connection's window is small until it is said otherwise.
        frames.next_of(&[WINDOW_UPDATE]).unwrap();
        let post = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
        frames.send(HEADERS, END_HEADERS, 1, &Frames::block(&post));
    };
    let mut frames = Frames::to(proxy.address);
    ask(&mut frames);
    let message = Frames::frame(DATA, 0, 1, &[b'x'; 16]);
    // All that the window of a stream lets through.
    frames.raw(&message.repeat(32_000));
    frames.send(PING, 0, 0, &[7; 8]);
    let next = frames.next_of(&[PING, GOAWAY, RST_STREAM]).unwrap();
    assert_eq!((next.kind, next.payload), (PING, vec![7; 8]), "it is there and waits");

    let_go.send(true).unwrap();
    frames.send(DATA, END_STREAM, 1, b"");
    let answer = frames.next_of(&[DATA]).unwrap();
    assert_eq!(answer.payload, b"512000");
}
