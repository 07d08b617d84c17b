//! One line per request, buffered per core, written by one thread.
//!
//! A request must never wait for a disk. A core formats its lines into a block of its own and hands
//! full blocks to the writer thread through a bounded channel; it never blocks on it. Each core owns a
//! fixed number of blocks that come back to it when they are written, so memory is bounded and nothing
//! is allocated once all are in use. When the writer is behind, new lines are dropped, counted
//! ([`Buffer::take_lost`]) and confessed in the log itself by a line that says how many.
//!
//! The file receives whole lines in whole blocks, so a crash loses at most what was still buffered and
//! leaves half a line only where the file system itself could not take the rest.
//!
//! What may not be done in here: log `Authorization`, `Cookie` or any header that carries a secret,
//! and go through `tracing`, which formats and locks on the path of the request.

mod format;
mod writer;

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::plan::{AccessLogFormat, AccessLogPlan};

pub use format::Entry;
use format::Formatter;
use writer::{Sink, Writer};

/// A block with this many bytes is handed to the writer.
const FULL: usize = 48 * 1024;
/// Room of a block: what is left above [`FULL`] takes the last line without growing in all but the
/// strangest cases.
const CAPACITY: usize = 64 * 1024;
/// Blocks that one core owns at most; made when they are needed. With [`CAPACITY`] 4 MiB for each core:
/// at a hundred thousand lines a second, what comes while the writer is not scheduled for some 60 ms.
const BLOCKS: usize = 64;
/// Blocks that may wait for the writer, over all cores.
const QUEUE: usize = 1024;
/// How long closing waits for a writer that is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

enum Message {
    /// Whole lines, how many were lost before them, and where the block goes back to.
    Block { bytes: Vec<u8>, lost: u64, home: SyncSender<Vec<u8>> },
    /// A flag in [`Shared`] wants to be seen.
    Look,
}

/// What the handle, the buffers and the writer share beside the channel.
#[derive(Debug, Default)]
struct Shared {
    reopen: AtomicBool,
    closing: AtomicBool,
    /// Lines lost that no core has taken into its count yet.
    lost: AtomicU64,
    /// Lines lost by buffers that are gone, which the log does not say yet.
    unsaid: AtomicU64,
}

/// The access log of the process: owns the writer thread.
///
/// Dropping it writes what was handed over and waits for that, but no longer than five seconds: a
/// pipe that nobody reads must not keep the process alive. Drop (or flush) the buffers first.
#[derive(Debug)]
pub struct AccessLog {
    format: AccessLogFormat,
    to_writer: SyncSender<Message>,
    shared: Arc<Shared>,
    /// Disconnected when the writer has ended.
    ended: Mutex<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
    patience: Duration,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Block { bytes, .. } => write!(f, "Block({} bytes)", bytes.len()),
            Self::Look => f.write_str("Look"),
        }
    }
}

impl AccessLog {
    /// Opens the log and starts its writer. A file that does not exist is made with mode 0640.
    ///
    /// # Errors
    /// When the file cannot be opened (the message names it) or the thread cannot be started.
    pub fn start(plan: &AccessLogPlan) -> io::Result<Self> {
        Self::with(Sink::open(plan.file.clone())?, plan.format, PATIENCE)
    }

    fn with(sink: Sink, format: AccessLogFormat, patience: Duration) -> io::Result<Self> {
        let (to_writer, inbox) = sync_channel(QUEUE);
        let (alive, ended) = sync_channel(0);
        let shared = Arc::new(Shared::default());
        let writer = Writer::new(sink, format, inbox, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run();
            drop(alive);
        })?;
        Ok(Self { format, to_writer, shared, ended: Mutex::new(ended), thread: Some(thread), patience })
    }

    /// A buffer for one core.
    #[must_use]
    pub fn buffer(&self) -> Buffer {
        let (home, returned) = sync_channel(BLOCKS);
        Buffer {
            formatter: Formatter::new(self.format),
            block: Vec::new(),
            made: 0,
            to_writer: self.to_writer.clone(),
            home,
            returned,
            lost: 0,
            unsaid: 0,
            shared: Arc::clone(&self.shared),
        }
    }

    /// Opens the file again by its path, after a rotation; returns at once. Lines that were handed
    /// over but not yet written go to the new file. Where the path cannot be opened, the old file
    /// stays in use and the process log says so. Standard output stays as it is.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Release);
        self.wake();
    }

    /// Writes what was handed over and ends the writer; the same as dropping the log.
    pub fn close(self) {
        drop(self);
    }

    /// A full channel needs no wake-up: the writer looks at the flags after every message.
    fn wake(&self) {
        let _ = self.to_writer.try_send(Message::Look);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.closing.store(true, Release);
        self.wake();
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(self.patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("access log: the writer is stuck; lines that it still holds are given up");
            return;
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What one core writes its lines to. Neither blocks nor, once its blocks are made, allocates.
///
/// Lines become visible when a block is full or on [`Buffer::flush`], which the core calls about once
/// a second. Dropping it flushes.
#[derive(Debug)]
pub struct Buffer {
    formatter: Formatter,
    /// The block in hand; without capacity when all are with the writer.
    block: Vec<u8>,
    made: usize,
    to_writer: SyncSender<Message>,
    home: SyncSender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
    /// Lines lost since the core last asked.
    lost: u64,
    /// Lines lost since the log last said so.
    unsaid: u64,
    shared: Arc<Shared>,
}

impl Buffer {
    /// Adds one line, or loses it when the writer is behind.
    pub fn write(&mut self, entry: &Entry<'_>) {
        if !self.has_room() {
            self.lost += 1;
            self.unsaid += 1;
            return;
        }
        self.formatter.line(&mut self.block, entry);
        if self.block.len() >= FULL {
            self.hand_over();
        }
    }

    /// Hands what is there to the writer, without waiting for it.
    pub fn flush(&mut self) {
        self.hand_over();
    }

    /// Whether nothing waits for a flush.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// Lines lost since the last call, on this core or by the writer: each lost line is given out
    /// once, by whichever core asks first. For `CoreCells::log_lines_lost`, whenever the core flushes.
    #[must_use]
    pub fn take_lost(&mut self) -> u64 {
        let mut lost = mem::take(&mut self.lost);
        if self.shared.lost.load(Relaxed) > 0 {
            lost += self.shared.lost.swap(0, Acquire);
        }
        lost
    }

    fn has_room(&mut self) -> bool {
        if self.block.len() >= FULL {
            self.hand_over();
        }
        if self.block.capacity() == 0 {
            if let Ok(block) = self.returned.try_recv() {
                self.block = block;
            } else if self.made < BLOCKS {
                self.made += 1;
                self.block = Vec::with_capacity(CAPACITY);
            }
        }
        self.block.capacity() > 0 && self.block.len() < FULL
    }

    /// Gives the block to the writer; keeps it when the writer is behind.
    fn hand_over(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let block = Message::Block {
            bytes: mem::take(&mut self.block),
            lost: mem::take(&mut self.unsaid),
            home: self.home.clone(),
        };
        match self.to_writer.try_send(block) {
            Ok(()) | Err(TrySendError::Full(Message::Look) | TrySendError::Disconnected(Message::Look)) => {}
            Err(TrySendError::Full(Message::Block { bytes, lost, .. })) => {
                self.block = bytes;
                self.unsaid = lost;
            }
            Err(TrySendError::Disconnected(Message::Block { mut bytes, lost, .. })) => {
                self.lost += lines(&bytes);
                self.unsaid = lost + lines(&bytes);
                bytes.clear();
                self.block = bytes;
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.hand_over();
        let left = lines(&self.block);
        self.shared.unsaid.fetch_add(self.unsaid + left, Release);
        self.shared.lost.fetch_add(self.lost + left, Release);
    }
}

/// Lines in a block: a line holds no other line feed than its last byte.
fn lines(block: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', block).count() as u64
}

#[cfg(test)]
mod tests;
