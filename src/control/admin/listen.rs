//! The sockets of the admin API and the connections on them.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};

use super::{CommandError, Metrics, guard, router};
use crate::config::plan::AdminPlan;
use crate::control::handle::Handle;

/// Connections at one time; further ones wait to be accepted.
const MOST_CONNECTIONS: usize = 256;
/// A request's head must be there by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request.
const MOST_HEAD: usize = 16 << 10;
/// Pause after a failed accept, which for want of descriptors would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Owner and group may command.
const SOCKET_MODE: u32 = 0o660;

/// Where the admin API answers.
#[derive(Debug, Clone, Default)]
pub struct AdminAddresses {
    pub socket: Option<PathBuf>,
    /// The address it really has.
    pub tcp: Option<SocketAddr>,
}

/// The running admin API; ends, and takes its socket file with it, when dropped.
#[derive(Debug)]
pub(in crate::control) struct Server {
    pub(in crate::control) addresses: AdminAddresses,
    tasks: Vec<AbortHandle>,
    file: Option<SocketFile>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        // The file goes with it, if it is still this process's own.
        drop(self.file.take());
    }
}

/// Binds what `plan` asks for and answers on it.
///
/// # Errors
/// An address cannot be bound.
pub(in crate::control) async fn serve(
    plan: &AdminPlan,
    handle: Handle,
    metrics: Metrics,
) -> Result<Server, CommandError> {
    let mut server = Server { addresses: AdminAddresses::default(), tasks: Vec::new(), file: None };
    let router = router(handle, metrics);
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    if let Some(path) = &plan.socket {
        let refuse = |source| CommandError::CannotBind {
            what: "the admin API".to_owned(),
            address: format!("unix:{}", path.display()),
            source,
        };
        let (listener, file) = bind_unix(path).map_err(refuse)?;
        server.file = Some(file);
        server.addresses.socket = Some(path.clone());
        let accept = async move || listener.accept().await.map(|(stream, _)| stream);
        server.tasks.push(tokio::spawn(accept_all(accept, router.clone(), Arc::clone(&permits))).abort_handle());
        info!(socket = %path.display(), "admin API");
    }
    if let Some(address) = plan.bind {
        let refuse = |source| CommandError::CannotBind {
            what: "the admin API".to_owned(),
            address: address.to_string(),
            source,
        };
        if plan.token.is_none() && !address.ip().is_loopback() {
            return Err(CommandError::InvalidConfig {
                report: format!("admin: {address} can be reached from other machines: set a token, or bind 127.0.0.1"),
            });
        }
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        let bound = listener.local_addr().map_err(refuse)?;
        server.addresses.tcp = Some(bound);
        let token: Option<Arc<str>> = plan.token.as_deref().map(Arc::from);
        let guarded = router.layer(from_fn(move |request: Request, next: Next| {
            let verdict = guard::check(request.uri().path(), request.headers(), token.as_deref());
            async move {
                match verdict {
                    Ok(()) => next.run(request).await,
                    Err(refused) => refused.into_response(),
                }
            }
        }));
        let accept = async move || listener.accept().await.map(|(stream, _)| stream);
        server.tasks.push(tokio::spawn(accept_all(accept, guarded, permits)).abort_handle());
        info!(address = %bound, "admin API");
    }
    Ok(server)
}

async fn accept_all<S>(accept: impl AsyncFn() -> io::Result<S>, router: Router, permits: Arc<Semaphore>)
where
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
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(MOST_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
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

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    let address = SockAddr::unix(path)?;
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address)?;
    let metadata = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) };
    // Nobody can connect before it listens, so there is no moment with another mode.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.set_nonblocking(true)?;
    socket.listen(128)?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

/// Removes a socket that a process left behind; one on which somebody answers stays.
fn remove_stale(path: &Path) -> io::Result<()> {
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
