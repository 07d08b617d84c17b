//! The sockets of the admin API and the connections on them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};

use super::{CommandError, Metrics, guard, router};
use crate::config::plan::AdminPlan;
use crate::control::error::ADMIN_API;
use crate::control::handle::Handle;

/// Connections at one time; further ones wait to be accepted.
const MOST_CONNECTIONS: usize = 256;
/// A request's head must be there by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request.
const MOST_HEAD: usize = 16 << 10;
/// Pause after a failed accept, which for want of descriptors would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a process that ends waits until its last answers are taken.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Owner and group may command.
const SOCKET_MODE: u32 = 0o660;

/// Where the admin API answers.
#[derive(Debug, Clone, Default)]
pub struct AdminAddresses {
    pub socket: Option<PathBuf>,
    /// The address it really has.
    pub tcp: Option<SocketAddr>,
}

/// Sockets that listen already, of the process before this one or of the service manager.
#[derive(Debug, Default)]
pub(in crate::control) struct Offered {
    /// With the path, and whether its file is evenkeel's to take away.
    pub(in crate::control) unix: Vec<(PathBuf, StdUnixListener, bool)>,
    /// With the address that was asked for.
    pub(in crate::control) tcp: Vec<(SocketAddr, StdTcpListener)>,
}

/// The admin API; ends, and takes its socket file with it, when dropped.
#[derive(Debug)]
pub(in crate::control) struct Server {
    pub(in crate::control) addresses: AdminAddresses,
    /// What it listens on, to be handed on.
    unix: Option<(PathBuf, StdUnixListener)>,
    tcp: Option<(SocketAddr, StdTcpListener)>,
    /// Whether the Unix socket is one that was offered: its file is not this process's before it starts.
    pub(in crate::control) is_taken: bool,
    /// Whether the file of the Unix socket goes when this process does.
    pub(in crate::control) is_ours: bool,
    file: Option<SocketFile>,
    router: Router,
    token: Option<Arc<str>>,
    tasks: Vec<AbortHandle>,
    permits: Arc<Semaphore>,
    /// Whether connections are to end with the answer that they are at.
    ending: watch::Sender<bool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        // The file goes with it, if it is still this process's own.
        drop(self.file.take());
    }
}

/// Binds what `plan` asks for, or takes what is offered. Nothing is answered before [`Server::start`].
///
/// # Errors
/// An address cannot be bound.
pub(in crate::control) fn bind(
    plan: &AdminPlan,
    handle: Handle,
    metrics: Metrics,
    offered: &mut Offered,
) -> Result<Server, CommandError> {
    let mut server = Server {
        addresses: AdminAddresses::default(),
        unix: None,
        tcp: None,
        is_taken: false,
        is_ours: true,
        file: None,
        router: router(handle, metrics),
        token: plan.token.as_deref().map(Arc::from),
        tasks: Vec::new(),
        permits: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        ending: watch::channel(false).0,
    };
    if let Some(path) = &plan.socket {
        let refuse = |source| CommandError::CannotBind {
            what: ADMIN_API.to_owned(),
            address: format!("unix:{}", path.display()),
            source,
        };
        let listener = match offered.unix.iter().position(|(offered, ..)| offered == path) {
            Some(at) => {
                server.is_taken = true;
                let (_, listener, is_ours) = offered.unix.remove(at);
                server.is_ours = is_ours;
                listener.set_nonblocking(true).map_err(refuse)?;
                listener
            }
            None => {
                let (listener, file) = bind_unix(path).map_err(refuse)?;
                server.file = Some(file);
                listener
            }
        };
        server.unix = Some((path.clone(), listener));
        server.addresses.socket = Some(path.clone());
    }
    if let Some(address) = plan.bind {
        let refuse =
            |source| CommandError::CannotBind { what: ADMIN_API.to_owned(), address: address.to_string(), source };
        if plan.token.is_none() && !address.ip().is_loopback() {
            return Err(CommandError::InvalidConfig {
                report: format!("admin: {address} can be reached from other machines: set a token, or bind 127.0.0.1"),
            });
        }
        let mine = offered
            .tcp
            .iter()
            .position(|(bind, listener)| *bind == address || listener.local_addr().is_ok_and(|bound| bound == address));
        let listener = match mine {
            Some(at) => offered.tcp.remove(at).1,
            None => bind_tcp(address).map_err(refuse)?,
        };
        listener.set_nonblocking(true).map_err(refuse)?;
        server.addresses.tcp = Some(listener.local_addr().map_err(refuse)?);
        server.tcp = Some((address, listener));
    }
    Ok(server)
}

impl Server {
    /// Answers from now on: on one socket even where the other one cannot be served.
    ///
    /// # Errors
    /// The system refuses a descriptor, or the file of the Unix socket.
    pub(in crate::control) fn start(&mut self) -> io::Result<()> {
        let (unix, tcp) = (self.start_unix(), self.start_tcp());
        unix.and(tcp)
    }

    fn start_unix(&mut self) -> io::Result<()> {
        if let Some((path, listener)) = &mut self.unix {
            if self.file.is_none() && self.is_ours {
                self.file = Some(match SocketFile::of(path) {
                    Ok(file) => file,
                    // Somebody has taken it away: the socket that is offered cannot be found any more.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        let (anew, file) = bind_unix(path)?;
                        *listener = anew;
                        file
                    }
                    Err(error) => return Err(error),
                });
            }
            let listener = UnixListener::from_std(listener.try_clone()?)?;
            info!(socket = %path.display(), "admin API");
            let accept = async move || listener.accept().await.map(|(stream, _)| stream);
            let permits = Arc::clone(&self.permits);
            let accepting = accept_all(accept, self.router.clone(), permits, self.ending.subscribe());
            self.tasks.push(tokio::spawn(accepting).abort_handle());
        }
        Ok(())
    }

    fn start_tcp(&mut self) -> io::Result<()> {
        if let (Some((_, listener)), Some(bound)) = (&self.tcp, self.addresses.tcp) {
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            let token = self.token.clone();
            let guarded = self.router.clone().layer(from_fn(move |request: Request, next: Next| {
                let verdict = guard::check(request.uri().path(), request.headers(), token.as_deref());
                async move {
                    match verdict {
                        Ok(()) => next.run(request).await,
                        Err(refused) => refused.into_response(),
                    }
                }
            }));
            info!(address = %bound, "admin API");
            let accept = async move || listener.accept().await.map(|(stream, _)| stream);
            let accepting = accept_all(accept, guarded, Arc::clone(&self.permits), self.ending.subscribe());
            self.tasks.push(tokio::spawn(accepting).abort_handle());
        }
        Ok(())
    }

    /// The path of a Unix socket that this process has made itself.
    pub(in crate::control) fn own_file(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// What it listens on.
    pub(in crate::control) fn unix(&self) -> Option<&(PathBuf, StdUnixListener)> {
        self.unix.as_ref()
    }

    /// The same over TCP, with the address that was asked for.
    pub(in crate::control) fn tcp(&self) -> Option<&(SocketAddr, StdTcpListener)> {
        self.tcp.as_ref()
    }

    /// Accepts no more, because another process does; `file`: it has the Unix socket, too. Connections end with
    /// the answer that they are at.
    pub(in crate::control) fn hand_over(&mut self, file: bool) {
        self.tasks.drain(..).for_each(|task| task.abort());
        (self.unix, self.tcp) = (None, None);
        if let (true, Some(file)) = (file, self.file.take()) {
            file.leave();
        }
        self.ending.send_replace(true);
    }

    /// Waits, for a moment at most, until what was asked is answered.
    pub(in crate::control) async fn finish(&self) {
        let all = self.permits.acquire_many(MOST_CONNECTIONS as u32);
        let _ = tokio::time::timeout(ANSWER_TIME, all).await;
    }
}

async fn accept_all<S>(
    accept: impl AsyncFn() -> io::Result<S>,
    router: Router,
    permits: Arc<Semaphore>,
    ending: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, "the admin API cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let inner = TowerToHyperService::new(router.clone());
        let (first, mut has_asked) = watch::channel(false);
        let service = service_fn(move |request| {
            first.send_replace(true);
            inner.call(request)
        });
        let mut ending = ending.clone();
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(MOST_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let ended = async {
                drop(ending.wait_for(|ending| *ending).await);
                // One that has asked nothing yet would be closed, and its first question with it.
                drop(tokio::time::timeout(HEADER_TIMEOUT, has_asked.wait_for(|asked| *asked)).await);
            };
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = ended => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                debug!(%error, "a connection of the admin API ended early");
            }
            drop(permit);
        });
    }
}

/// The file of a listening Unix socket; removed when dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: another process may have put its own socket there since.
    identity: (u64, u64),
}

impl SocketFile {
    /// The file that is there now.
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }

    /// Leaves it where it is.
    fn leave(mut self) {
        self.identity = (0, 0);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// As a server does that may be started again at once.
fn bind_tcp(address: SocketAddr) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<(StdUnixListener, SocketFile)> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    let address = SockAddr::unix(path)?;
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address)?;
    let file = SocketFile::of(path)?;
    // Nobody can connect before it listens, so there is no moment with another mode.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.set_nonblocking(true)?;
    socket.listen(128)?;
    Ok((socket.into(), file))
}

/// Removes a socket that a process left behind; one on which somebody answers stays.
pub(in crate::control) fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in its place"));
        }
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            debug!(socket = %path.display(), "removing a socket that was left behind");
            fs::remove_file(path)
        }
        // Permission denied, a full queue: somebody may be there.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests;
