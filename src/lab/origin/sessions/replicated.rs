//! Sessions in the memory of every server: each write is sent to all others.
//!
//! A server follows each of its peers over a connection on which that peer sends its writes. To be followed makes a
//! peer known: who follows says where it listens, and is followed in turn, so a server that is added needs to know
//! one of the others and they need to know nothing. Writes are sent after the request was answered or meanwhile, as
//! they are where nobody wants to wait for the slowest server: a session that is asked for elsewhere sooner than its
//! write has come is not known there.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Notify, broadcast};
use tokio::time::timeout;

use super::memory::Table;
use super::record::{Record, decode};

/// What `Upgrade` says.
pub(in crate::lab::origin) const PROTOCOL: &str = "evenkeel-sessions";
/// Where followers say that they listen.
pub(in crate::lab::origin) const FOLLOWER: &str = "x-listens-on";
/// Writes that a slow follower may be behind before it has to begin anew with a copy.
const BEHIND: usize = 4096;
/// A frame is not larger than this.
const MOST: u32 = 16 << 20;
/// How long the other side may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A peer that is gone is looked for this often, and after [`GIVEN_UP`] no more: it may be gone for good, and says so
/// itself when it is back.
const AGAIN: Duration = Duration::from_millis(200);
const GIVEN_UP: Duration = Duration::from_secs(30);
/// How long a server that starts waits to be followed.
const FOLLOWED: Duration = Duration::from_secs(2);

pub(in crate::lab::origin) struct Replicated {
    pub(super) table: Mutex<Table>,
    writes: broadcast::Sender<Bytes>,
    /// Who is followed. Told when it has said that it is there.
    peers: Mutex<HashMap<SocketAddr, Arc<Notify>>>,
    own: OnceLock<SocketAddr>,
    /// Whether the copy that a server begins with is here.
    ready: AtomicBool,
    /// Bytes that were written to followers.
    sent: AtomicU64,
}

/// What a connection to a peer brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Everything that it has, then nothing more.
    Copy,
    /// What it writes from now on.
    Writes,
}

impl Replicated {
    pub(super) fn new() -> Self {
        Self {
            table: Mutex::default(),
            writes: broadcast::Sender::new(BEHIND),
            peers: Mutex::default(),
            own: OnceLock::new(),
            ready: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Notify>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// How many peers are followed, and bytes that were sent to those that follow.
    pub(super) fn traffic(&self) -> (usize, u64) {
        (self.peers().len(), self.sent.load(Relaxed))
    }

    /// Sends a write to all who follow.
    pub(super) fn publish(&self, id: &str, record: &Record) {
        // Without a follower there is nobody to tell.
        let _ = self.writes.send(Bytes::from(record.encode(id)));
    }

    /// Joins the others: follows each, then takes a copy from one. Writes are followed first, so that none falls
    /// between the two.
    pub(super) async fn join(self: Arc<Self>, own: SocketAddr, peers: Vec<SocketAddr>) {
        let _ = self.own.set(own);
        let mut followed = 0;
        for peer in peers.iter().copied().filter(|peer| *peer != own) {
            let link = self.dial(peer, Wanted::Writes).await.ok();
            followed += usize::from(link.is_some());
            self.follow(peer, link);
        }
        for peer in peers.into_iter().filter(|peer| *peer != own) {
            if self.copy(peer).await.is_ok() {
                break;
            }
        }
        let began = Instant::now();
        while self.writes.receiver_count() < followed && began.elapsed() < FOLLOWED {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.ready.store(true, Relaxed);
    }

    /// Follows a peer unless it is followed already; then it is looked for at once, where its connection was lost.
    fn follow(self: &Arc<Self>, peer: SocketAddr, link: Option<BufReader<TcpStream>>) {
        if self.own.get() == Some(&peer) {
            return;
        }
        let mut peers = self.peers();
        if let Some(back) = peers.get(&peer) {
            back.notify_one();
            return;
        }
        let back = Arc::new(Notify::new());
        peers.insert(peer, Arc::clone(&back));
        drop(peers);
        let replicated = Arc::clone(self);
        tokio::spawn(async move {
            replicated.keep_following(peer, link, &back).await;
            replicated.peers().remove(&peer);
        });
    }

    async fn keep_following(&self, peer: SocketAddr, mut link: Option<BufReader<TcpStream>>, back: &Notify) {
        let mut seen = Instant::now();
        loop {
            let follows_anew = link.is_none();
            if let Some(mut link) = match link.take() {
                Some(link) => Some(link),
                None => self.dial(peer, Wanted::Writes).await.ok(),
            } {
                if follows_anew {
                    // What was written while the connection was lost.
                    let _ = self.copy(peer).await;
                }
                let _ = self.take(&mut link).await;
                seen = Instant::now();
            }
            if seen.elapsed() > GIVEN_UP {
                return;
            }
            let _ = timeout(AGAIN, back.notified()).await;
        }
    }

    async fn copy(&self, peer: SocketAddr) -> io::Result<()> {
        let mut link = self.dial(peer, Wanted::Copy).await?;
        timeout(PATIENCE * 5, self.take(&mut link)).await?
    }

    /// Asks a peer, and reads the head of its answer.
    async fn dial(&self, peer: SocketAddr, wanted: Wanted) -> io::Result<BufReader<TcpStream>> {
        let asking = async {
            let mut stream = TcpStream::connect(peer).await?;
            stream.set_nodelay(true)?;
            let own = self.own.get().map(|own| format!("{FOLLOWER}: {own}\r\n"));
            let (path, own) = match wanted {
                Wanted::Copy => ("/sessions/copy", None),
                Wanted::Writes => ("/sessions/writes", own),
            };
            let head = format!(
                "GET {path} HTTP/1.1\r\nhost: peer\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n{}\r\n",
                own.unwrap_or_default()
            );
            stream.write_all(head.as_bytes()).await?;
            let mut link = BufReader::new(stream);
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") && answer.len() < 8192 {
                answer.push(link.read_u8().await?);
            }
            match answer.starts_with(b"HTTP/1.1 101 ") {
                true => Ok(link),
                false => Err(io::Error::other("it does not replicate")),
            }
        };
        timeout(PATIENCE, asking).await?
    }

    /// Takes what comes, until a frame of nothing says that it was all.
    async fn take(&self, link: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        loop {
            let length = link.read_u32().await?;
            if length == 0 {
                return Ok(());
            }
            if length > MOST {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut frame = vec![0; length as usize];
            link.read_exact(&mut frame).await?;
            let (id, record) = decode(&frame).ok_or(io::ErrorKind::InvalidData)?;
            self.table().put(id, record);
        }
    }

    /// Answers `/sessions/copy`.
    pub(in crate::lab::origin) async fn give_copy(&self, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
        let frames: Vec<Vec<u8>> = self.table().iter().map(|(id, record)| record.encode(id)).collect();
        for frame in frames {
            self.give(&mut to, &frame).await?;
        }
        to.write_u32(0).await?;
        to.shutdown().await
    }

    /// What is written from now on, for `/sessions/writes`. To be called before that is answered, so that nothing is
    /// missed that is written after it.
    pub(in crate::lab::origin) fn subscribe(&self) -> broadcast::Receiver<Bytes> {
        self.writes.subscribe()
    }

    /// Answers `/sessions/writes`, and follows who has asked.
    pub(in crate::lab::origin) async fn give_writes(
        self: &Arc<Self>,
        follower: Option<SocketAddr>,
        mut writes: broadcast::Receiver<Bytes>,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        if let Some(follower) = follower {
            self.follow(follower, None);
        }
        loop {
            // One that is too far behind begins anew with a copy: its connection ends.
            let frame = writes.recv().await.map_err(io::Error::other)?;
            self.give(&mut to, &frame).await?;
        }
    }

    async fn give(&self, to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
        let mut whole = Vec::with_capacity(4 + frame.len());
        whole.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        whole.extend_from_slice(frame);
        to.write_all(&whole).await?;
        self.sent.fetch_add(whole.len() as u64, Relaxed);
        Ok(())
    }
}
