//! The clients: each connection sends the next request when the last was answered.

use std::cell::{Cell as Counter, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::Result;
use crate::proxy::Proxy;
use crate::report::Cell;
use crate::scenario::{Scenario, Unit, Use};
use crate::tls::Stream;

/// Before the clock starts: connections open, caches fill.
const WARM: Duration = Duration::from_millis(250);
/// An exchange that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the clients of one measurement share.
#[derive(Default)]
struct Count {
    exchanges: Counter<u64>,
    bytes: Counter<u64>,
    stop: Counter<bool>,
    errors: Counter<u64>,
    first_error: RefCell<Option<String>>,
}

impl Count {
    fn units(&self, unit: Unit) -> f64 {
        match unit {
            Unit::MebibyteDown => self.bytes.get() as f64 / f64::from(1 << 20),
            Unit::Exchange(_) | Unit::Connection => self.exchanges.get() as f64,
        }
    }

    fn error(&self, error: &io::Error) {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| error.to_string());
    }
}

/// Measures one scenario once.
pub(crate) async fn run(
    scenario: &'static Scenario,
    proxy: &Proxy,
    connector: &TlsConnector,
    time: Duration,
) -> Result<Cell> {
    let count = Rc::new(Count::default());
    let mut clients = JoinSet::new();
    let address = if scenario.tls { proxy.tls_address } else { proxy.address };
    for number in 0..scenario.connections {
        let (count, connector) = (Rc::clone(&count), scenario.tls.then(|| connector.clone()));
        clients.spawn_local(async move {
            if let Err(error) = client(scenario, address, connector.as_ref(), number, &count).await {
                count.error(&error);
            }
        });
    }
    tokio::time::sleep(WARM).await;
    let (start, cpu, units) = (Instant::now(), proxy.cpu()?, count.units(scenario.unit));
    tokio::time::sleep(time).await;
    let (elapsed, cpu, units) = (start.elapsed(), proxy.cpu()? - cpu, count.units(scenario.unit) - units);
    count.stop.set(true);
    let all = async { while clients.join_next().await.is_some() {} };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        return Err(format!("{} clients still wait for an answer", clients.len()).into());
    }
    if let Some(error) = count.first_error.take() {
        return Err(format!("{} errors, the first: {error}", count.errors.get()).into());
    }
    if units <= 0.0 {
        return Err("nothing was answered".into());
    }
    Ok(Cell::measured(cpu.as_secs_f64() * 1e6 / units, units / elapsed.as_secs_f64()))
}

async fn client(
    scenario: &Scenario,
    address: SocketAddr,
    connector: Option<&TlsConnector>,
    number: usize,
    count: &Count,
) -> io::Result<()> {
    if scenario.using == Use::WebSocket {
        return web_socket(scenario, address, number, count).await;
    }
    let mut request = request(scenario, None);
    let open = || Connection::open(address, number, connector);
    let mut connection = open().await?;
    let mut server = None;
    let mut pinned = false;
    while !count.stop.get() {
        let answer = connection.exchange(&request, scenario, count).await?;
        count.exchanges.set(count.exchanges.get() + 1);
        match scenario.using {
            Use::Sticky => {
                if *server.get_or_insert(answer.server) != answer.server {
                    return Err(io::Error::other("a pinned client came to another server"));
                }
                if !pinned {
                    // A proxy that sets none hashes the one that it is sent; the server may then change once.
                    let none = format!("sticky=client{number}");
                    server = answer.cookie.is_some().then_some(answer.server);
                    request = self::request(scenario, Some(answer.cookie.as_deref().unwrap_or(&none)));
                    pinned = true;
                }
            }
            Use::Once => {
                connection.expect_end().await?;
                connection = open().await?;
            }
            Use::KeepAlive | Use::WebSocket | Use::Idle | Use::Http2 => {}
        }
    }
    Ok(())
}

fn request(scenario: &Scenario, cookie: Option<&str>) -> Vec<u8> {
    let method = if scenario.upload > 0 { "POST" } else { "GET" };
    let mut head = format!("{method} {} HTTP/1.1\r\nHost: shop.example.com\r\n{}", scenario.path, scenario.headers);
    if scenario.upload > 0 {
        head += &format!("Content-Length: {}\r\n", scenario.upload);
    }
    if let Some(cookie) = cookie {
        head += &format!("Cookie: {cookie}\r\n");
    }
    let mut request = (head + "\r\n").into_bytes();
    request.resize(request.len() + scenario.upload, b'0');
    request
}

struct Answer {
    /// The first byte of the body: which server it was.
    server: u8,
    cookie: Option<String>,
}

struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
    first: bool,
}

impl Connection {
    /// Every client has an address in a network of its own, so that any hash of addresses can spread them.
    async fn open(proxy: SocketAddr, number: usize, connector: Option<&TlsConnector>) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        let own = Ipv4Addr::new(127, 1 + (number >> 8) as u8, number as u8, 1);
        socket.bind((own, 0).into())?;
        let stream = tokio::time::timeout(PATIENCE, socket.connect(proxy)).await??;
        stream.set_nodelay(true)?;
        let stream = match connector {
            Some(connector) => tokio::time::timeout(PATIENCE, Stream::tls(stream, connector)).await??,
            None => Stream::Plain(stream),
        };
        Ok(Self { stream, buffer: vec![0; 2 << 10], first: true })
    }

    async fn exchange(&mut self, request: &[u8], scenario: &Scenario, count: &Count) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let mut filled = 0;
        let head = loop {
            match self.stream.read(&mut self.buffer[filled..]).await? {
                0 => return Err(io::Error::other("the connection ended before its answer")),
                read => filled += read,
            }
            if let Some(head) = end_of_head(&self.buffer[..filled]) {
                break head;
            }
            if filled == self.buffer.len() {
                return Err(io::Error::other("the answer's head is too long"));
            }
        };
        let text = &self.buffer[..head];
        if !text.starts_with(b"HTTP/1.1 200 ") {
            let line = text.split(|&byte| byte == b'\r').next().unwrap_or_default();
            return Err(io::Error::other(String::from_utf8_lossy(line).into_owned()));
        }
        let length = field(text, b"content-length").and_then(|value| str::from_utf8(value).ok()?.parse().ok());
        if length != Some(scenario.answer) {
            return Err(io::Error::other(format!("announced length {length:?}, not {}", scenario.answer)));
        }
        let cookie = self.first.then(|| field(text, b"set-cookie")).flatten().map(|value| {
            let pair = value.split(|&byte| byte == b';').next().unwrap_or_default();
            String::from_utf8_lossy(pair).into_owned()
        });
        self.first = false;
        while filled == head {
            filled += self.read_more(head).await?;
        }
        let server = self.buffer[head];
        let mut received = filled - head;
        count.bytes.set(count.bytes.get() + received as u64);
        if received < scenario.answer {
            self.buffer.resize(scenario.answer.min(256 << 10), 0);
        }
        while received < scenario.answer {
            let read = self.read_more(0).await?;
            received += read;
            count.bytes.set(count.bytes.get() + read as u64);
        }
        if received > scenario.answer {
            return Err(io::Error::other("more bytes than announced"));
        }
        Ok(Answer { server, cookie })
    }

    async fn read_more(&mut self, from: usize) -> io::Result<usize> {
        match self.stream.read(&mut self.buffer[from..]).await? {
            0 => Err(io::Error::other("the answer is shorter than announced")),
            read => Ok(read),
        }
    }

    async fn expect_end(&mut self) -> io::Result<()> {
        match self.stream.read(&mut self.buffer).await {
            Ok(0) => Ok(()),
            // An end of TCP without one of TLS, after an answer that had a length.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::other("more bytes than announced")),
        }
    }
}

async fn web_socket(scenario: &Scenario, address: SocketAddr, number: usize, count: &Count) -> io::Result<()> {
    let mut connection = Connection::open(address, number, None).await?;
    let upgrade = format!(
        "GET {} HTTP/1.1\r\nHost: shop.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        scenario.path
    );
    connection.stream.write_all(upgrade.as_bytes()).await?;
    let mut filled = 0;
    while end_of_head(&connection.buffer[..filled]).is_none() {
        filled += connection.read_more(filled).await?;
    }
    // The answer to the example key of RFC 6455 §1.3.
    let accept = field(&connection.buffer[..filled], b"sec-websocket-accept");
    if !connection.buffer.starts_with(b"HTTP/1.1 101 ") || accept != Some(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
        return Err(io::Error::other("no WebSocket"));
    }
    let payload = b"ping of 16 bytes";
    let ping = [&[0x82, 0x80 | payload.len() as u8, 0, 0, 0, 0][..], payload].concat();
    let pong = [&[0x82, payload.len() as u8][..], payload].concat();
    while !count.stop.get() {
        connection.stream.write_all(&ping).await?;
        let mut filled = 0;
        while filled < pong.len() {
            filled += connection.read_more(filled).await?;
        }
        if connection.buffer[..filled] != pong {
            return Err(io::Error::other("another message than the one sent"));
        }
        count.exchanges.set(count.exchanges.get() + 1);
    }
    Ok(())
}

/// Memory that idle connections hold once it no longer shrinks, in KiB each.
pub(crate) async fn idle(proxy: &Proxy) -> Result<Cell> {
    let Some(scenario) = crate::SCENARIOS.iter().find(|scenario| scenario.using == Use::Idle) else {
        return Err("there is no such scenario".into());
    };
    let count = Count::default();
    let request = request(scenario, None);
    let mut open = Vec::new();
    for number in 0..200 {
        // What the first requests load into memory is not the connections'.
        let mut connection = Connection::open(proxy.address, number, None).await?;
        connection.exchange(&request, scenario, &count).await?;
        drop(connection);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = proxy.memory()?;
    for number in 0..scenario.connections {
        let mut connection = Connection::open(proxy.address, number, None).await?;
        connection.exchange(&request, scenario, &count).await?;
        connection.buffer = Vec::new();
        open.push(connection);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut after = proxy.memory()?;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = proxy.memory()?;
        let settled = now * 100 > after * 99;
        after = now;
        if settled {
            break;
        }
    }
    let mut still_open = 0;
    for connection in &mut open {
        still_open += usize::from(
            connection.stream.socket().try_read(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock),
        );
    }
    if still_open != scenario.connections {
        return Err(format!("{still_open} of {} idle connections were kept", scenario.connections).into());
    }
    Ok(Cell::measured(after.saturating_sub(before) as f64 / 1024.0 / scenario.connections as f64, 0.0))
}

/// Whether the proxy answers.
pub(crate) async fn answers(address: SocketAddr) -> bool {
    let scenario = &crate::SCENARIOS[0];
    let ask = async {
        let mut connection = Connection::open(address, 0, None).await?;
        connection.exchange(&request(scenario, None), scenario, &Count::default()).await
    };
    ask.await.is_ok()
}

/// Where a head ends, past its empty line.
pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// The first field of that name, which must be given in lower case.
pub(crate) fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    memmem::find_iter(head, b"\r\n").find_map(|at| {
        let line = head[at + 2..].split(|&byte| byte == b'\r').next()?;
        let (key, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        key.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
    })
}
