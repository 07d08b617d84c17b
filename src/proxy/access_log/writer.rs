//! The thread that alone touches the file.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};

use super::format::Formatter;
use super::{CAPACITY, Message, Shared, lines};
use crate::config::plan::AccessLogFormat;

/// Where lines end up.
pub(super) struct Sink {
    /// None for what cannot be opened again.
    pub(super) path: Option<PathBuf>,
    pub(super) out: Box<dyn Write + Send>,
}

impl Sink {
    /// Opens a file, or standard output where there is none.
    pub(super) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let out = match &path {
            Some(path) => open_file(path)?,
            // A descriptor of its own: blocks are whole already, std's line buffer would only copy them.
            None => File::from(io::stdout().as_fd().try_clone_to_owned()?),
        };
        Ok(Self { path, out: Box::new(Patient(out)) })
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    // Opening a pipe for writing alone waits for a reader, and start-up or a rotation must not. Also
    // open for reading, it stays usable when its reader goes and comes back (fifo(7)).
    let pipe = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
    OpenOptions::new().append(true).read(pipe).create(true).mode(0o640).open(path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot open the access log {}: {error}", path.display()))
    })
}

/// A file that is waited for when it is non-blocking: standard output may share that flag with
/// another process.
struct Patient(File);

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The writer thread's state.
pub(super) struct Writer {
    sink: Sink,
    formatter: Formatter,
    inbox: Receiver<Message>,
    shared: Arc<Shared>,
    /// The last write failed.
    failing: bool,
    /// The output ends within a line.
    torn: bool,
    /// Lines lost here that the log does not say yet.
    unsaid: u64,
}

impl Writer {
    pub(super) fn new(sink: Sink, format: AccessLogFormat, inbox: Receiver<Message>, shared: Arc<Shared>) -> Self {
        let formatter = Formatter::new(format);
        Self { sink, formatter, inbox, shared, failing: false, torn: false, unsaid: 0 }
    }

    /// Writes blocks until the log is closed, then what is still queued.
    pub(super) fn run(mut self) {
        while let Ok(message) = self.inbox.recv() {
            self.take(message);
            if self.shared.closing.load(Acquire) {
                break;
            }
        }
        while let Ok(message) = self.inbox.try_recv() {
            self.take(message);
        }
        self.unsaid += self.shared.unsaid.swap(0, Acquire);
        self.confess();
    }

    fn take(&mut self, message: Message) {
        if self.shared.reopen.swap(false, Acquire) {
            self.reopen();
        }
        if let Message::Block { bytes, lost, home } = message {
            self.unsaid += lost;
            self.write(&bytes);
            give_back(bytes, &home);
        }
    }

    fn reopen(&mut self) {
        let Some(path) = self.sink.path.clone() else { return };
        match Sink::open(Some(path)) {
            Ok(sink) => {
                self.sink = sink;
                self.torn = false;
                tracing::info!("access log: opened again");
            }
            Err(error) => tracing::warn!(%error, "access log: the old file stays in use"),
        }
    }

    /// Writes whole lines; what cannot be written is lost and counted.
    fn write(&mut self, block: &[u8]) {
        let written = if self.confess() { self.put(block) } else { 0 };
        if written < block.len() {
            let lost = lines(&block[written..]);
            self.unsaid += lost;
            self.shared.lost.fetch_add(lost, Release);
        }
    }

    /// Ends a torn line and says how many lines were lost, where there are any. Whether the log can
    /// be written to.
    fn confess(&mut self) -> bool {
        if !self.torn && self.unsaid == 0 {
            return true;
        }
        let mut prefix = Vec::new();
        if self.torn {
            prefix.push(b'\n');
        }
        if self.unsaid > 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.formatter.lost(&mut prefix, now.as_millis() as u64, self.unsaid);
        }
        let done = self.put(&prefix) == prefix.len();
        if done {
            self.unsaid = 0;
        }
        done
    }

    /// Writes as much as it can and tells how much that was; reports when it begins and ceases to fail.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        let failure = loop {
            if written == bytes.len() {
                break None;
            }
            match self.sink.out.write(&bytes[written..]) {
                Ok(0) => break Some(io::Error::from(ErrorKind::WriteZero)),
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        if written > 0 {
            self.torn = bytes[written - 1] != b'\n';
        }
        match failure {
            Some(ref error) if !self.failing => {
                tracing::warn!(%error, "access log: cannot be written; lines are lost until it can");
            }
            None if self.failing => tracing::info!(lost = self.unsaid, "access log: can be written again"),
            _ => {}
        }
        self.failing = failure.is_some();
        written
    }
}

/// Sends a block back to its core; one that a huge line has blown up is trimmed first.
fn give_back(mut block: Vec<u8>, home: &SyncSender<Vec<u8>>) {
    block.clear();
    if block.capacity() > 2 * CAPACITY {
        block.shrink_to(CAPACITY);
    }
    // Refused only when the core is gone.
    let _ = home.try_send(block);
}
