//! Sockets, connections and their end.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::answers;
use super::behaviour::Behaviour;
use super::cache::{Cache, CacheOptions};
use super::journal::Journal;
use super::sessions::{SessionOptions, Sessions};

/// A listener that cannot accept, because descriptors ran out, is asked again after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// What an origin needs to know to run.
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What it calls itself in `X-Server` and in its log.
    pub name: String,
    /// Where a line for each request goes; none writes none.
    pub log: Option<Box<dyn io::Write + Send>>,
    /// Where a line goes for each request that has arrived, before it is answered: unlike the log it tells
    /// of those that the server died over. Written to without a buffer.
    pub arrivals: Option<Box<dyn io::Write + Send>>,
    /// How long requests in flight may take to end once it shall stop.
    pub grace: Duration,
    /// Requests that are worked on at once, health checks aside; others wait for their turn. None is no limit.
    pub workers: Option<usize>,
    /// How long a request takes a worker.
    pub work: Duration,
    pub sessions: SessionOptions,
    /// None where it has all items itself.
    pub cache: Option<CacheOptions>,
}

impl Options {
    /// An origin that writes no log and gives requests five seconds to end.
    #[must_use]
    pub fn new(listen: SocketAddr, name: impl Into<String>) -> Self {
        Self {
            listen,
            name: name.into(),
            log: None,
            arrivals: None,
            grace: Duration::from_secs(5),
            workers: None,
            work: Duration::ZERO,
            sessions: SessionOptions::default(),
            cache: None,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("name", &self.name)
            .field("log", &self.log.is_some())
            .field("arrivals", &self.arrivals.is_some())
            .field("grace", &self.grace)
            .finish()
    }
}

/// Listens and serves until `shutdown` is ready; then lets what is in flight end.
///
/// # Errors
/// When the address cannot be bound, or the name cannot stand in a header.
pub async fn serve(options: Options, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    Server::bind(options)?.serve(shutdown).await;
    Ok(())
}

/// A bound origin that does not serve yet.
pub struct Server {
    /// None once it was shut down from outside.
    listener: Option<TcpListener>,
    /// What takes the place of one that was shut down.
    listeners: mpsc::UnboundedReceiver<std::net::TcpListener>,
    address: SocketAddr,
    grace: Duration,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the address. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound, or the name cannot stand in a header.
    pub fn bind(options: Options) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(options.listen)?;
        let workers = options.workers.map(Semaphore::new);
        let sessions = Sessions::new(options.sessions).map_err(|broken| io::Error::other(broken.0))?;
        let cache = options.cache.as_ref().map(Cache::new).transpose().map_err(|broken| io::Error::other(broken.0))?;
        let journal = Journal::new(options.name.clone(), 0, options.log, options.arrivals);
        let shared = Shared::new(&options.name, journal, Workers { workers, work: options.work }, sessions, cache)?;
        let (_, none_follow) = mpsc::unbounded_channel();
        Self::on(listener, none_follow, shared, options.grace)
    }

    /// Serves on a non-blocking listener that someone else has bound, and on those that follow it
    /// once it is shut down.
    pub(super) fn on(
        listener: std::net::TcpListener,
        listeners: mpsc::UnboundedReceiver<std::net::TcpListener>,
        shared: Arc<Shared>,
        grace: Duration,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Self { address: listener.local_addr()?, listener: Some(listener), listeners, grace, shared })
    }

    /// The address it listens on, with its real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready; then lets what is in flight end, for the grace time at most.
    pub async fn serve(mut self, shutdown: impl Future<Output = ()>) {
        self.shared.sessions.begin(self.address);
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                Some(next) = self.listeners.recv() => {
                    self.listener = TcpListener::from_std(next).ok();
                    continue;
                }
                accepted = accept(self.listener.as_ref()) => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Made here, so that a cut before the task's first turn is not missed.
                    let cut = self.shared.cut();
                    connections.spawn(connection(Arc::clone(&self.shared), stream, cut));
                }
                // What accept says of a socket that no longer listens.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.listener = None,
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            }
        }
        drop(self.listener);
        if self.shared.reset.load(Ordering::Relaxed) {
            return;
        }
        self.shared.ending.send_modify(|ending| ending.stopping = true);
        let ended = async {
            while connections.join_next().await.is_some() {}
            self.shared.no_tunnels().await;
        };
        let _ = tokio::time::timeout(self.grace, ended).await;
        self.shared.ending.send_modify(|ending| ending.cuts += 1);
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// What all connections of an origin have in common.
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) server_header: HeaderValue,
    pub(super) journal: Arc<Journal>,
    pub(super) sessions: Sessions,
    pub(super) cache: Option<Cache>,
    pub(super) behaviour: Mutex<Behaviour>,
    workers: Workers,
    pub(super) ending: watch::Sender<Ending>,
    /// Sockets are reset instead of closed from now on.
    pub(super) reset: AtomicBool,
    /// Sockets that are open now, tunnels too.
    pub(super) open: AtomicUsize,
    tunnels: watch::Sender<usize>,
    accepted: AtomicU64,
}

/// Who does the work.
#[derive(Debug, Default)]
pub(super) struct Workers {
    workers: Option<Semaphore>,
    work: Duration,
}

/// Why a connection shall end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ending {
    /// After what it is doing.
    pub(super) stopping: bool,
    /// At once, whenever this has grown.
    pub(super) cuts: u64,
}

impl Shared {
    pub(super) fn new(
        name: &str,
        journal: Journal,
        workers: Workers,
        sessions: Sessions,
        cache: Option<Cache>,
    ) -> io::Result<Arc<Self>> {
        let server_header = HeaderValue::from_str(name).map_err(|_| {
            let text = format!("the name {name:?} cannot stand in a header: use printable ASCII characters");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        Ok(Arc::new(Self {
            name: name.to_owned(),
            server_header,
            journal: Arc::new(journal),
            sessions,
            cache,
            behaviour: Mutex::default(),
            workers,
            ending: watch::Sender::default(),
            reset: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            tunnels: watch::Sender::new(0),
            accepted: AtomicU64::new(0),
        }))
    }

    /// Does the work of a request once a worker is free.
    pub(super) async fn work(&self) {
        let Workers { workers, work } = &self.workers;
        if work.is_zero() {
            return;
        }
        // It is never closed, so there is always a worker in the end.
        let _busy = match workers {
            Some(workers) => workers.acquire().await.ok(),
            None => None,
        };
        tokio::time::sleep(*work).await;
    }

    /// Runs a tunnel that outlives the HTTP connection it came from, until it ends or is cut.
    pub(super) fn spawn_tunnel(self: &Arc<Self>, tunnel: impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::clone(self);
        shared.tunnels.send_modify(|tunnels| *tunnels += 1);
        let counted = Counted(Arc::clone(&shared));
        tokio::spawn(async move {
            let cut = shared.cut();
            tokio::select! {
                () = cut => {}
                () = tunnel => {}
            }
            drop(counted);
        });
    }

    /// Ready once connections shall end at once.
    fn cut(&self) -> impl Future<Output = ()> + use<> {
        let mut ending = self.ending.subscribe();
        let cuts = ending.borrow().cuts;
        async move {
            // An error means that the origin itself is gone.
            let _ = ending.wait_for(|ending| ending.cuts != cuts).await;
        }
    }

    /// Ready once connections shall end when they are done.
    pub(super) fn stopping(&self) -> impl Future<Output = ()> + use<> {
        let mut ending = self.ending.subscribe();
        async move {
            let _ = ending.wait_for(|ending| ending.stopping).await;
        }
    }

    async fn no_tunnels(&self) {
        let _ = self.tunnels.subscribe().wait_for(|tunnels| *tunnels == 0).await;
    }
}

struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.tunnels.send_modify(|tunnels| *tunnels -= 1);
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, cut: impl Future<Output = ()>) {
    let stopping = shared.stopping();
    let number = shared.accepted.fetch_add(1, Ordering::Relaxed) + 1;
    let _ = stream.set_nodelay(true);
    let wire = TokioIo::new(Wire::new(stream, Arc::clone(&shared)));
    let service = service_fn(move |request| answers::answer(Arc::clone(&shared), number, request));
    let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(wire, service).with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        () = cut => return,
        // What goes wrong on a connection is the other side's to report.
        _ = connection.as_mut() => return,
        () = stopping => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// A socket that is counted, and reset instead of closed where a crash shall be played.
struct Wire {
    stream: TcpStream,
    shared: Arc<Shared>,
}

impl Wire {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        Self { stream, shared }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.shared.reset.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
