//! The servers that are asked, and one request to one of them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use crate::cli::args::Global;
use crate::cli::check;
use crate::cli::console::Console;
use crate::cli::exit::{Exit, Failure};
use crate::config::plan::Address;
use crate::health::Check;
use crate::server_stream::ServerStream;
use crate::tls::{Client as Tls, ClientSettings, ClientWrong};
use crate::units::show_duration;

/// No page is larger; what is has not been made for people.
const LARGEST_BODY: usize = 16 << 20;

/// One of the servers.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) address: Address,
    tls: Option<Arc<Tls>>,
}

/// All of them, and how they say that they are well.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) all: Vec<Server>,
    /// What the hook is told that they belong to.
    pub(super) upstream: String,
    pub(super) health: Option<String>,
}

/// The head of an answer, and its body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Servers {
    /// Those that were listed.
    ///
    /// # Errors
    /// Why one of them is none.
    pub(super) fn listed(list: &[String]) -> Result<Self, Failure> {
        let read = |text: &String| Server::read(text).map_err(|why| Failure::new(Exit::Usage, why));
        let all = list.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Self { all, upstream: String::new(), health: None }.judged(Exit::Usage)
    }

    /// Those that the configuration has in an upstream.
    ///
    /// # Errors
    /// That the configuration is invalid, or has no such upstream.
    pub(super) fn configured(upstream: &str, global: &Global, console: &Console) -> Result<Self, Failure> {
        let loaded = check::load(&check::file(global)?, console)?;
        let wrong = |text: String| Failure::new(Exit::Usage, text);
        let Some(plan) = loaded.plan.upstreams.iter().find(|plan| plan.name == upstream) else {
            let known: Vec<String> = loaded.plan.upstreams.iter().map(|plan| format!("`{}`", plan.name)).collect();
            return Err(wrong(format!("there is no upstream `{upstream}` in it; there is {}", known.join(", "))));
        };
        if plan.protocol.http2().is_some() || plan.send_proxy.is_some() {
            return Err(wrong(format!(
                "servers of `{upstream}` are asked with HTTP/1.1 and without a PROXY protocol header, which is not what \
                 their `protocol` or `send_proxy` says"
            )));
        }
        let tls = plan.tls.as_ref().map(|tls| Arc::clone(&tls.client));
        let servers = plan.servers.iter().filter(|server| !server.backup);
        let server = |server: &crate::config::plan::ServerPlan| Server {
            name: server.name.clone(),
            address: server.address.clone(),
            tls: tls.clone(),
        };
        let health = match &plan.check {
            Some(Check::Http(check)) if check.port.is_none() => Some(check.path.clone()),
            _ => None,
        };
        Self { all: servers.map(server).collect(), upstream: upstream.to_owned(), health }.judged(Exit::Usage)
    }

    fn judged(self, exit: Exit) -> Result<Self, Failure> {
        let mut names: Vec<&str> = self.all.iter().map(|server| server.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Failure::new(exit, format!("two servers are called `{}`", twice[0])));
        }
        if names.len() < 2 {
            return Err(Failure::new(exit, "it takes two servers at least to go from one to another"));
        }
        Ok(self)
    }
}

impl Server {
    fn read(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| format!("`{text}`: {why}; write http://host:port, https://host:port, host:port or unix:/path");
        let (name, url) = match text.split_once('=') {
            Some((name, url)) if !name.is_empty() && !name.contains(['/', ':']) => (Some(name), url),
            _ => (None, text),
        };
        if let Some(path) = url.strip_prefix("unix:") {
            let address = Address::Unix(PathBuf::from(path));
            return Ok(Self { name: name.unwrap_or(url).to_owned(), address, tls: None });
        }
        let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = whole.parse().map_err(|_| wrong("that is no URL"))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("that is another scheme")),
        };
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(wrong("paths stand in the script"));
        }
        let host = uri.host().ok_or_else(|| wrong("the host is missing"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let address = match host.parse() {
            Ok(ip) => Address::Socket(std::net::SocketAddr::new(ip, port)),
            Err(_) => Address::Host { host: host.to_owned(), port },
        };
        let tls = is_tls.then(system_tls).transpose().map_err(|why: String| wrong(&why))?;
        Ok(Self { name: name.map_or_else(|| address.to_string(), str::to_owned), address, tls })
    }

    /// Its name, and where it is.
    pub(super) fn shown(&self) -> String {
        let address = self.address.to_string();
        if self.name == address { address } else { format!("{} ({address})", self.name) }
    }

    async fn connect(&self) -> io::Result<ServerStream> {
        let tcp = |stream: TcpStream| stream.set_nodelay(true).map(|()| ServerStream::Tcp(stream));
        let stream = match &self.address {
            Address::Socket(address) => tcp(TcpStream::connect(address).await?)?,
            Address::Host { host, port } => tcp(TcpStream::connect((host.as_str(), *port)).await?)?,
            Address::Unix(path) => ServerStream::Unix(UnixStream::connect(path).await?),
        };
        let Some(tls) = &self.tls else { return Ok(stream) };
        let stream = tls.connect(self.address.host().as_deref(), stream).await?;
        Ok(ServerStream::Tls(Box::new(stream)))
    }

    /// Sends one request over a connection of its own.
    ///
    /// # Errors
    /// Why there is no answer, for a person.
    pub(super) async fn ask(&self, request: Request<Full<Bytes>>, within: Duration) -> Result<Answer, String> {
        let asked = timeout(within, self.exchange(request)).await;
        asked.unwrap_or_else(|_| Err(format!("no answer within {}", show_duration(within))))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let (mut sender, driver) = self.open().await?;
        let answer = async {
            let answer: Response<_> =
                sender.send_request(request).await.map_err(|error| format!("no answer: {error}"))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, LARGEST_BODY).collect().await;
            let body = body.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes();
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        let answer = answer.await;
        driver.abort();
        answer
    }

    async fn open(&self) -> Result<(http1::SendRequest<Full<Bytes>>, JoinHandle<hyper::Result<()>>), String> {
        let stream = self.connect().await.map_err(|error| format!("no connection: {error}"))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("no answer: {error}"))?;
        Ok((sender, tokio::spawn(connection)))
    }

    /// A connection on which one request was answered, where the server leaves it open.
    pub(super) async fn keep(&self, path: &str, host: &str, within: Duration) -> Option<Kept> {
        let request = Request::get(path).header("host", host).body(Full::default()).ok()?;
        let kept = async {
            let (mut sender, driver) = self.open().await.ok()?;
            let kept = |sender| Kept { sender, driver: driver.abort_handle() };
            let answer = sender.send_request(request).await.ok()?;
            Limited::new(answer.into_body(), LARGEST_BODY).collect().await.ok()?;
            sender.ready().await.ok()?;
            Some(kept(sender))
        };
        timeout(within, kept).await.ok()?
    }

    /// Whether there is anybody at its address.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn is_there(&self, within: Duration) -> Result<(), String> {
        let connected = timeout(within, self.connect()).await;
        let connected = connected.map_err(|_| format!("no connection within {}", show_duration(within)))?;
        connected.map(drop).map_err(|error| format!("no connection: {error}"))
    }

    /// Whether it is well.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn is_well(&self, health: Option<&str>, host: &str, within: Duration) -> Result<(), String> {
        let Some(path) = health else { return self.is_there(within).await };
        let request = Request::get(path).header("host", host).header("connection", "close").body(Full::default());
        let answer = self.ask(request.map_err(|error| error.to_string())?, within).await?;
        if answer.status < 400 { Ok(()) } else { Err(format!("{path} answers {}", answer.status)) }
    }
}

/// A connection that is open between two requests. It outlives no restart of who has accepted it.
#[derive(Debug)]
pub(super) struct Kept {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Kept {
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// TLS as browsers speak it, with the authorities of the system.
fn system_tls() -> Result<Arc<Tls>, String> {
    let settings = ClientSettings { server_name: None, ca: None, certificate: None, verify: true, http2: false };
    Tls::new(settings).map(Arc::new).map_err(|wrong| match wrong {
        ClientWrong::System(why) | ClientWrong::Ca(why) => why,
        ClientWrong::Certificate(_) => "a certificate is wrong".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_with_and_without_names() {
        for (text, name, address, is_tls) in [
            ("http://127.0.0.1:9001", "127.0.0.1:9001", "127.0.0.1:9001", false),
            ("a=127.0.0.1:9001", "a", "127.0.0.1:9001", false),
            ("b=http://[::1]:9001/", "b", "[::1]:9001", false),
            ("shop.internal", "shop.internal:80", "shop.internal:80", false),
            ("unix:/run/x=y.sock", "unix:/run/x=y.sock", "unix:/run/x=y.sock", false),
        ] {
            let server = Server::read(text).unwrap();
            assert_eq!((server.name.as_str(), server.address.to_string().as_str()), (name, address), "{text}");
            assert_eq!(server.tls.is_some(), is_tls, "{text}");
        }
        for (text, says) in [("ftp://x", "another scheme"), ("http://x/y", "in the script"), ("http://", "no URL")] {
            let error = Server::read(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let two = |a: &str, b: &str| Servers::listed(&[a.to_owned(), b.to_owned()]).map(drop).unwrap_err().message;
        assert!(two("a=x:1", "a=x:2").contains("two servers are called `a`"));
        assert!(Servers::listed(&["x:1".to_owned()]).unwrap_err().message.contains("two servers at least"));
    }
}
