//! A request to one server, without the proxy: what an operator would ask.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A server that does not answer within this has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Answer {
    /// What the session's cookie was set to.
    pub(super) fn session(&self) -> Option<&str> {
        let line = self.head.lines().find_map(|line| line.strip_prefix("set-cookie: sid="))?;
        line.split(';').next()
    }
}

/// Asks, on a connection of its own.
pub(super) fn ask(server: SocketAddr, method: &str, target: &str, session: Option<&str>) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let cookie = session.map(|session| format!("cookie: sid={session}\r\n")).unwrap_or_default();
    let head = format!("{method} {target} HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n{cookie}\r\n");
    stream.write_all(head.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Logs a user in at a server; what the cookie says then.
pub(super) fn login(server: SocketAddr, user: &str, life: Option<Duration>) -> io::Result<String> {
    let life = life.map(|life| format!("&life_ms={}", life.as_millis())).unwrap_or_default();
    let answer = ask(server, "GET", &format!("/login?user={user}{life}"), None)?;
    answer.session().map(str::to_owned).ok_or_else(|| io::Error::other(format!("no session: {}", answer.body.trim())))
}

/// Whether a server lets a session in.
pub(super) fn lets_in(server: SocketAddr, session: &str) -> io::Result<bool> {
    match ask(server, "GET", "/count", Some(session))?.status {
        200 => Ok(true),
        401 => Ok(false),
        other => Err(io::Error::other(format!("a server answered {other} to a session"))),
    }
}
