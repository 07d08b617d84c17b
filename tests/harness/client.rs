//! A plain, blocking HTTP/1.1 client, written over the socket so that it shares no code with the proxy.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::PATIENCE;

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Trailers of a chunked answer.
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Every header of that name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The origin that answered.
    pub fn server(&self) -> &str {
        self.header("x-server").unwrap_or_else(|| panic!("no X-Server: {} {}", self.status, self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// What `/echo` says the server was sent under that name.
    pub fn echoed(&self, name: &str) -> Vec<String> {
        self.echoed_in("headers", name)
    }

    /// The same of the trailers.
    pub fn echoed_trailer(&self, name: &str) -> Vec<String> {
        self.echoed_in("trailers", name)
    }

    fn echoed_in(&self, part: &str, name: &str) -> Vec<String> {
        let json = self.json();
        let pairs = json[part].as_array().expect("an answer of /echo").iter();
        pairs.filter(|p| p[0] == name).map(|p| p[1].as_str().unwrap().to_owned()).collect()
    }

    /// The reason that the proxy gave for an error of its own.
    pub fn reason(&self) -> Option<&str> {
        self.header("server-timing")?.strip_prefix("evenkeel;desc=\"")?.strip_suffix('"')
    }

    /// `name=value` of the cookie that was set.
    pub fn cookie(&self, name: &str) -> Option<String> {
        let set = self.all("set-cookie").into_iter().find(|c| c.starts_with(&format!("{name}=")))?;
        Some(set.split(';').next().unwrap().to_owned())
    }
}

/// One connection. It reconnects when the other side has closed it.
pub struct Client {
    address: SocketAddr,
    source: Option<IpAddr>,
    stream: Option<BufReader<TcpStream>>,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
}

impl Client {
    pub fn to(address: SocketAddr) -> Self {
        Self { address, source: None, stream: None, headers: Vec::new() }
    }

    /// The same client at an address of its own; on Linux all of 127.0.0.0/8 is this machine.
    pub fn from(mut self, source: impl Into<IpAddr>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Gives up the connection: the next request opens another.
    pub fn hang_up(&mut self) {
        self.stream = None;
    }

    fn connect(&self) -> std::io::Result<BufReader<TcpStream>> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(self.address), socket2::Type::STREAM, None)?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect(&self.address.into())?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }

    /// The same client with a header on every request.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    pub fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        self.send("POST", path, &[], body)
    }

    /// A request; panics when there is no answer.
    #[track_caller]
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, path, headers, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    pub fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut head = request(method, path, &self.address.to_string());
        for (name, value) in self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).chain(headers.iter().copied()) {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || method == "POST" || method == "PUT" {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let answer = read_answer(&mut stream, method)?;
        let closes = answer.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
        if !closes {
            self.stream = Some(stream);
        }
        Ok(answer)
    }
}

/// The beginning of a request's head.
pub fn request(method: &str, path: &str, host: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n")
}

/// Reads one answer; 1xx are skipped.
pub fn read_answer(stream: &mut impl BufRead, method: &str) -> std::io::Result<Answer> {
    loop {
        let line = read_line(stream)?;
        let status =
            line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| std::io::Error::other(line.clone()))?;
        let headers = read_headers(stream)?;
        let mut answer = Answer { status, headers, body: Vec::new(), trailers: Vec::new() };
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        if method == "HEAD" || status == 101 || status == 204 || status == 304 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|te| te.eq_ignore_ascii_case("chunked")) {
            loop {
                let size = read_line(stream)?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or(""), 16)
                    .map_err(|_| std::io::Error::other(format!("chunk size {size:?}")))?;
                if size == 0 {
                    answer.trailers = read_headers(stream)?;
                    break;
                }
                let at = answer.body.len();
                answer.body.resize(at + size, 0);
                stream.read_exact(&mut answer.body[at..])?;
                read_line(stream)?;
            }
        } else if let Some(length) = answer.header("content-length").and_then(|l| l.parse::<usize>().ok()) {
            answer.body = vec![0; length];
            stream.read_exact(&mut answer.body)?;
        } else {
            stream.read_to_end(&mut answer.body)?;
        }
        return Ok(answer);
    }
}

fn read_line(stream: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
}

fn read_headers(stream: &mut impl BufRead) -> std::io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream)?;
        match line.split_once(':') {
            Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
            None => return Ok(headers),
        }
    }
}

/// One call over the admin API's Unix socket: status and body.
pub fn admin(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = request(method, path, "localhost");
    let length = body.len();
    let text =
        format!("{head}content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).unwrap();
    let answer = read_answer(&mut BufReader::new(stream), method).unwrap();
    (answer.status, answer.text())
}
