use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;

/// What one connection brings until the other side closes it.
fn talk(origin: &Origin, request: &str) -> String {
    let mut socket = dial(origin);
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

fn dial(origin: &Origin) -> TcpStream {
    let socket = TcpStream::connect(origin.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// GET with `Connection: close` and further header lines.
fn get(origin: &Origin, target: &str, headers: &str) -> String {
    talk(origin, &format!("GET {target} HTTP/1.1\r\nHost: o\r\nConnection: close\r\n{headers}\r\n"))
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// The `sid` pair of an answer's `Set-Cookie`, as a `Cookie` line.
fn session(answer: &str) -> String {
    let line = answer.lines().find(|line| line.starts_with("set-cookie: sid=")).unwrap();
    assert!(line.contains("; HttpOnly"), "{line}");
    let pair = line.trim_start_matches("set-cookie: ").split(';').next().unwrap();
    format!("Cookie: other=1; {pair}\r\n")
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn every_answer_names_its_server() {
    let origin = Origin::start("a").unwrap();
    for target in ["/", "/healthz", "/login", "/count", "/bytes?n=3", "/bytes?n=x", "/echo", "/status?code=204", "/x"] {
        assert!(get(&origin, target, "").contains("\r\nx-server: a\r\n"), "{target}");
    }
    assert_eq!(status(&get(&origin, "/nowhere", "")), "404");
    assert_eq!(status(&get(&origin, "/status?code=418", "")), "418");
    assert_eq!(status(&get(&origin, "/status?code=101", "")), "400");
    assert_eq!(status(&get(&origin, "/bytes?n=-1", "")), "400");
    let wrong = Origin::start("a\r\nb").unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_session_lives_in_one_servers_memory_only() {
    let mut origin = Origin::start("a").unwrap();
    let other = Origin::start("b").unwrap();
    assert_eq!(status(&get(&origin, "/count", "")), "401");
    let cookie = session(&get(&origin, "/login", ""));
    assert_eq!(body(&get(&origin, "/count", &cookie)), "1\n");
    assert_eq!(body(&get(&origin, "/count", &cookie)), "2\n");
    assert_eq!(status(&get(&other, "/count", &cookie)), "401");
    origin.restart().unwrap();
    assert_eq!(status(&get(&origin, "/count", &cookie)), "401");
}

#[test]
fn the_page_counts_visits_and_suits_its_reader() {
    let origin = Origin::start("<a>").unwrap();
    let first = get(&origin, "/", "Accept: */*\r\n");
    assert_eq!(body(&first), "server <a>, visit 1 of your session.\n");
    let cookie = session(&first);
    let second = get(&origin, "/", &format!("{cookie}Accept: text/html,*/*;q=0.8\r\n"));
    assert!(second.contains("\r\ncontent-type: text/html; charset=utf-8\r\n"), "{second}");
    assert!(body(&second).contains("<b>&lt;a></b>") && body(&second).contains("Visit 2 of"), "{second}");
    assert!(!second.contains("set-cookie"), "{second}");
    let lost = get(&origin, "/", "Cookie: sid=foreign\r\n");
    assert!(lost.contains("not known here") && lost.contains("set-cookie: sid="), "{lost}");
}

#[test]
fn health_is_switched() {
    let origin = Origin::start("a").unwrap();
    assert_eq!(body(&get(&origin, "/healthz", "")), "ok\n");
    origin.set_healthy(false);
    assert_eq!(status(&get(&origin, "/healthz", "")), "503");
    assert_eq!(status(&get(&origin, "/", "")), "200");
    origin.set_healthy(true);
    origin.behave(|behaviour| behaviour.status = Some(500));
    assert_eq!(status(&get(&origin, "/healthz", "")), "200");
    assert_eq!(status(&get(&origin, "/", "")), "500");
    origin.behave(|behaviour| *behaviour = Behaviour { hang_up: true, ..Behaviour::default() });
    assert_eq!(get(&origin, "/", ""), "");
}

#[test]
fn delays_are_kept() {
    let origin = Origin::start("a").unwrap();
    let start = Instant::now();
    get(&origin, "/slow?ms=40", "");
    assert!(start.elapsed() >= Duration::from_millis(40));
    origin.behave(|behaviour| behaviour.health_delay = Duration::from_millis(30));
    let start = Instant::now();
    get(&origin, "/healthz", "");
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[test]
fn bytes_come_with_and_without_a_length() {
    let origin = Origin::start("a").unwrap();
    let expected: String = (0..200_000).map(|i| char::from(pattern(i))).collect();
    let sized = get(&origin, "/bytes?n=200000", "");
    assert!(sized.contains("\r\ncontent-length: 200000\r\n"));
    assert!(body(&sized) == expected);
    let chunked = get(&origin, "/bytes?n=20&chunked=1", "");
    assert!(chunked.contains("\r\ntransfer-encoding: chunked\r\n"), "{chunked}");
    assert_eq!(body(&chunked), format!("14\r\n{}\r\n0\r\n\r\n", &expected[..20]));
    let cut = get(&origin, "/bytes?n=200000&cut=70000", "");
    assert!(cut.contains("\r\ncontent-length: 200000\r\n"));
    assert!(body(&cut) == &expected[..70_000]);
    assert_eq!(body(&get(&origin, "/bytes?n=0", "")), "");
}

#[test]
fn head_has_the_length_and_no_body() {
    let origin = Origin::start("a").unwrap();
    let answer = talk(&origin, "HEAD /bytes?n=1000 HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n");
    assert!(answer.contains("\r\ncontent-length: 1000\r\n"), "{answer}");
    assert_eq!(body(&answer), "");
}

#[test]
fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let origin = Origin::start("a").unwrap();
    let answers = talk(
        &origin,
        "GET /slow?ms=20 HTTP/1.1\r\nHost: o\r\n\r\nPOST /sink HTTP/1.1\r\nHost: o\r\nX-Request-Id: r1\r\n\
         Content-Length: 3\r\n\r\nabcGET /status?code=404 HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n",
    );
    let order: Vec<_> = ["that took a while", "took 3 bytes as r1", "404 Not Found\n"]
        .map(|text| answers.find(text).unwrap_or_else(|| panic!("{text}: {answers}")))
        .into();
    assert!(order.is_sorted(), "{answers}");
    assert!(origin.requests().iter().all(|served| served.connection == 1));
}

#[test]
fn echo_tells_what_was_sent() {
    let origin = Origin::start("a").unwrap();
    let answer = talk(
        &origin,
        "PUT /echo?x=1 HTTP/1.1\r\nHost: shop\r\nX-Two: 1\r\nX-Two: \u{e9}\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-sum\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    let told: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(told["method"], "PUT");
    assert_eq!(told["target"], "/echo?x=1");
    assert_eq!(told["body_length"], 3);
    assert_eq!(told["trailers"], serde_json::json!([["x-sum", "7"]]));
    let headers = told["headers"].as_array().unwrap();
    assert!(headers.contains(&serde_json::json!(["host", "shop"])));
    let two: Vec<_> = headers.iter().filter(|pair| pair[0] == "x-two").map(|pair| pair[1].as_str().unwrap()).collect();
    assert_eq!(two, ["1", "\u{c3}\u{a9}"], "bytes beyond ASCII come as Latin-1");
}

#[test]
fn mirror_sends_back_while_it_receives() {
    let origin = Origin::start("a").unwrap();
    let mut socket = dial(&origin);
    socket.write_all(b"POST /mirror HTTP/1.1\r\nHost: o\r\nContent-Length: 8\r\n\r\nfour").unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while !seen.ends_with(b"four\r\n") && !seen.ends_with(b"four") {
        let read = socket.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..read]);
    }
}

#[test]
fn the_sink_tells_a_request_that_was_delivered_twice() {
    let origin = Origin::start("a").unwrap();
    let post = |id: &str| {
        format!(
            "POST /sink HTTP/1.1\r\nHost: o\r\nX-Request-Id: {id}\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        )
    };
    talk(&origin, &(post("one") + "12345"));
    talk(&origin, &(post("two") + "12345"));
    talk(&origin, &(post("two") + "12345"));
    let mut broken = dial(&origin);
    broken.write_all((post("broken") + "12").as_bytes()).unwrap();
    broken.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = broken.read_to_end(&mut Vec::new());
    let deliveries: Vec<_> = origin.deliveries().into_iter().collect();
    assert_eq!(deliveries, [("broken".to_owned(), 1), ("one".to_owned(), 1), ("two".to_owned(), 2)]);
    let served = origin.requests();
    assert_eq!((served[0].body, served[0].status), (5, Some(200)));
    eventually("the broken one is entered without a status", || {
        origin.requests().last().is_some_and(|served| (served.body, served.status) == (2, None))
    });
    origin.clear();
    assert!(origin.requests().is_empty());
    assert_eq!(status(&get(&origin, "/sink", "")), "405");
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_command_logs_every_request_and_stops_when_told() {
    let lines = Lines::default();
    let mut options = Options::new("127.0.0.1:0".parse().unwrap(), "a");
    options.log = Some(Box::new(lines.clone()));
    let server = Server::bind(options).unwrap();
    let address = server.address();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let client = tokio::task::spawn_blocking(move || {
        let mut socket = TcpStream::connect(address).unwrap();
        let request = "GET /count HTTP/1.1\r\nHost: o\r\nX-Request-Id: r7\r\nCookie: sid=s1\r\n\
                       X-Forwarded-For: 192.0.2.9\r\n\r\n";
        socket.write_all(request.as_bytes()).unwrap();
        assert_ne!(socket.read(&mut [0; 1024]).unwrap(), 0);
        stop.send(()).unwrap();
        // The idle connection is closed, or this would never return.
        assert_eq!(socket.read(&mut [0; 1]).unwrap(), 0);
    });
    server.serve(async { stopped.await.unwrap() }).await;
    client.await.unwrap();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text, "a #1 GET /count 401 request=r7 session=s1 for=192.0.2.9\n");
}

#[test]
fn killed_it_resets_connections_refuses_new_ones_and_comes_back_on_its_port() {
    let mut origin = Origin::start("a").unwrap();
    let address = origin.address();
    let mut waiting = dial(&origin);
    waiting.write_all(b"POST /sink HTTP/1.1\r\nHost: o\r\nX-Request-Id: lost\r\nContent-Length: 5\r\n\r\n12").unwrap();
    eventually("the request has arrived", || !origin.requests().is_empty());
    origin.kill();
    assert_eq!(waiting.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(origin.connections(), 0);
    origin.restart().unwrap();
    assert_eq!(origin.address(), address);
    assert_eq!(status(&get(&origin, "/healthz", "")), "200");
    assert_eq!(origin.deliveries()["lost"], 1);
}

#[test]
fn stopped_it_answers_what_it_has_begun() {
    let mut origin = Origin::start("a").unwrap();
    let mut busy = dial(&origin);
    let mut idle = dial(&origin);
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: o\r\n\r\n").unwrap();
    assert_ne!(idle.read(&mut [0; 1024]).unwrap(), 0);
    busy.write_all(b"GET /slow?ms=60 HTTP/1.1\r\nHost: o\r\n\r\n").unwrap();
    eventually("the slow request has arrived", || origin.requests().len() == 2);
    origin.stop();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), "200");
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(TcpStream::connect(origin.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn refusing_keeps_what_is_open() {
    let mut origin = Origin::start("a").unwrap();
    let mut open = dial(&origin);
    let ask = b"GET /healthz HTTP/1.1\r\nHost: o\r\n\r\n";
    open.write_all(ask).unwrap();
    assert_ne!(open.read(&mut [0; 1024]).unwrap(), 0);
    origin.refuse().unwrap();
    assert_eq!(TcpStream::connect(origin.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    open.write_all(ask).unwrap();
    assert_ne!(open.read(&mut [0; 1024]).unwrap(), 0);
    origin.accept_again().unwrap();
    assert_eq!(status(&get(&origin, "/healthz", "")), "200");
    origin.close_connections();
    assert_eq!(open.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(status(&get(&origin, "/healthz", "")), "200");
}

#[tokio::test]
async fn a_web_socket_echoes_and_is_told_when_the_server_stops() {
    let mut origin = Origin::start("a").unwrap();
    let stream = tokio::net::TcpStream::connect(origin.address()).await.unwrap();
    let (mut socket, answer) = tokio_tungstenite::client_async("ws://o/ws", stream).await.unwrap();
    assert_eq!(answer.headers()["x-server"], "a");
    for message in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    assert_eq!(origin.connections(), 1);
    let stopping = tokio::task::spawn_blocking(move || origin.stop());
    let Message::Close(Some(close)) = socket.next().await.unwrap().unwrap() else { panic!("no close frame") };
    assert_eq!(close.code, CloseCode::Away);
    assert!(socket.next().await.is_none());
    stopping.await.unwrap();
    let origin = Origin::start("b").unwrap();
    let refused = tokio::task::spawn_blocking(move || get(&origin, "/ws", "")).await.unwrap();
    assert_eq!(status(&refused), "426");
}

#[test]
fn a_tunnel_speaks_any_protocol_and_echoes_bytes() {
    let origin = Origin::start("a").unwrap();
    let mut socket = dial(&origin);
    socket
        .write_all(b"GET /tunnel HTTP/1.1\r\nHost: o\r\nConnection: Upgrade\r\nUpgrade: dice/2, x\r\n\r\nroll")
        .unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while !seen.ends_with(b"roll") {
        let read = socket.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..read]);
    }
    let head = String::from_utf8(seen).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("\r\nupgrade: dice/2\r\n"), "{head}");
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(socket.read(&mut buffer).unwrap(), 0);
    eventually("the tunnel is gone", || origin.connections() == 0);
}
