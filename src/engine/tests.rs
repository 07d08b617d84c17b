use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Reads heads and answers each with `ok`; where the path says so, with the header at which tests have
/// the data plane panic.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(head) = head(&mut reader) {
                    if head.starts_with("GET /slow") {
                        std::thread::sleep(Duration::from_millis(300));
                    }
                    let fault = if head.starts_with("GET /fault") { "x-fault: 1\r\n" } else { "" };
                    let _ = (&stream)
                        .write_all(format!("HTTP/1.1 200 OK\r\n{fault}content-length: 2\r\n\r\nok").as_bytes());
                }
            });
        }
    });
    address
}

/// A head, if there is one.
fn head(from: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

fn ask(conn: &mut BufReader<TcpStream>, path: &str) {
    conn.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).unwrap();
}

#[track_caller]
fn is_served(conn: &mut BufReader<TcpStream>) {
    let head = head(conn).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut body = [0; 2];
    conn.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"ok");
}

fn metric(evenkeel: &Evenkeel, name: &str) -> f64 {
    let mut admin = UnixStream::connect(evenkeel.admin_socket().unwrap()).unwrap();
    admin.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    admin.read_to_string(&mut text).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[track_caller]
fn becomes(evenkeel: &Evenkeel, name: &str, value: f64) {
    let end = Instant::now() + PATIENCE;
    while metric(evenkeel, name) != value {
        assert!(Instant::now() < end, "{name} is {}", metric(evenkeel, name));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One core in front of [`server`].
fn evenkeel() -> (tempfile::TempDir, Evenkeel) {
    let dir = tempfile::tempdir().unwrap();
    let toml = format!(
        "cores = 1\n[admin]\nsocket = {:?}\n[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [upstream.app]\ncheck = \"off\"\nservers = [\"{}\"]\n",
        dir.path().join("admin.sock"),
        server()
    );
    let loaded = crate::config::parse(&toml, "test.toml").unwrap_or_else(|report| panic!("{report}"));
    let evenkeel = start(loaded, Options::default()).unwrap();
    assert!(evenkeel.ready());
    (dir, evenkeel)
}

/// The same of HTTP/2: the fault ends its stream, and the others on the connection go on.
#[test]
fn a_panic_ends_its_stream_and_no_other() {
    let (_dir, evenkeel) = evenkeel();
    let address = evenkeel.addresses()[0].1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let ask = |path: &str| {
            let request = http::Request::get(format!("http://a{path}")).body(()).unwrap();
            let sender = sender.clone();
            async move {
                let (answer, _) = sender.ready().await.unwrap().send_request(request, true).unwrap();
                tokio::time::timeout(PATIENCE, answer).await.unwrap().map(|answer| answer.status().as_u16())
            }
        };
        for _ in 0..5 {
            let (slow, broken, quick) = tokio::join!(ask("/slow"), ask("/fault"), ask("/"));
            assert!(broken.is_err_and(|error| error.is_reset()));
            assert_eq!((slow.unwrap(), quick.unwrap()), (200, 200));
        }
        assert!(!connection.is_finished());
    });
    becomes(&evenkeel, "evenkeel_panics_total", 5.0);
    becomes(&evenkeel, "evenkeel_server_in_flight", 0.0);
    evenkeel.stop_now();
    let _ = evenkeel.wait();
}

/// Over real sockets, on one core: a fault in the middle of a request ends its connection without an
/// answer, leaves nothing behind, and nobody else notices.
#[test]
fn a_panic_ends_its_connection_and_no_other() {
    let (_dir, evenkeel) = evenkeel();
    let address = evenkeel.addresses()[0].1;
    let mut bystander = connect(address);
    ask(&mut bystander, "/");
    is_served(&mut bystander);
    for faults in 1..=5 {
        let mut waiting = connect(address);
        ask(&mut waiting, "/slow");
        let mut broken = connect(address);
        ask(&mut broken, "/");
        is_served(&mut broken);
        ask(&mut broken, "/fault");
        let mut rest = Vec::new();
        let _ = broken.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
        is_served(&mut waiting);
        ask(&mut bystander, "/");
        is_served(&mut bystander);
        let mut new = connect(address);
        ask(&mut new, "/");
        is_served(&mut new);
        becomes(&evenkeel, "evenkeel_panics_total", f64::from(faults));
    }
    becomes(&evenkeel, "evenkeel_server_in_flight", 0.0);
    becomes(&evenkeel, "evenkeel_connections_open", 1.0);
    evenkeel.stop_now();
    let _ = evenkeel.wait();
}
