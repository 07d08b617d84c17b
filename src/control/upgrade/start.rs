//! How the old process starts the new one and begins to talk with it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use tracing::warn;

use super::channel::{self, Channel};
use super::frames::{Descriptor, Frame, Hello};
use super::inherited::FROM;
use super::successor::News;
use crate::control::supervisor::{Message, Report, Supervisor};

/// How a process like this one is started: anew from its path, so that a new file there is a new binary.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    pub args: Vec<OsString>,
}

impl Supervisor {
    pub(super) fn hello(&self) -> Hello {
        let listeners = self.listeners.sockets().flat_map(|(slot, bind, name, bound)| {
            let one = Descriptor::Listener { bind, name: name.map(str::to_owned), address: bound.address, slot };
            std::iter::repeat_n(one, bound.sockets.len())
        });
        let unix = self
            .admin
            .unix()
            .map(|(path, _)| Descriptor::AdminSocket { path: path.clone(), foreign: !self.admin.is_ours });
        let tcp = self.admin.tcp().zip(self.admin.addresses.tcp);
        let tcp = tcp.map(|((bind, _), address)| Descriptor::AdminTcp { bind: *bind, address });
        Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            descriptors: listeners.chain(unix).chain(tcp).collect(),
            carried: self.carried(&[]),
        }
    }

    /// In the order of [`Self::hello`].
    pub(super) fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let listeners = self.listeners.sockets().flat_map(|(_, _, _, bound)| bound.sockets.iter().map(AsFd::as_fd));
        let unix = self.admin.unix().map(|(_, socket)| socket.as_fd());
        let tcp = self.admin.tcp().map(|(_, socket)| socket.as_fd());
        listeners.chain(unix).chain(tcp).map(|socket| socket.try_clone_to_owned()).collect()
    }
}

pub(super) fn start(program: &Program, channel: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(&program.path);
    command.args(&program.args).stdin(Stdio::from(channel)).env(FROM, std::process::id().to_string());
    // Those of the service manager were for this process.
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
    command.spawn()
}

/// Begins to talk with the new process, in threads.
pub(super) fn talk(
    mut channel: Channel,
    hello: Hello,
    sockets: Vec<OwnedFd>,
    attempt: u64,
    inbox: tokio::sync::mpsc::Sender<Message>,
) -> io::Result<mpsc::Sender<Frame>> {
    let mut reading = channel.try_clone()?;
    let writing = channel.try_clone()?;
    let told = inbox.clone();
    std::thread::Builder::new().name("upgrade-hello".to_owned()).spawn(move || {
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        let sent = channel.send(&Frame::Hello(Box::new(hello))).and_then(|()| channel.send_descriptors(&sockets));
        if let Err(error) = sent {
            // It has closed its end, which the reader notices.
            tracing::debug!(%error, "the new process did not take what it was told");
        }
    })?;
    std::thread::Builder::new().name("upgrade-read".to_owned()).spawn(move || {
        loop {
            let frame = reading.receive().unwrap_or_else(|error| {
                warn!(%error, "the channel to the new process is broken");
                None
            });
            let is_end = frame.is_none();
            let news = frame.map_or(News::Gone { looks: 0 }, |frame| News::Said(Box::new(frame)));
            if inbox.blocking_send(Message::Report(Report::Successor(attempt, news))).is_err() || is_end {
                return;
            }
        }
    })?;
    channel::writer(writing, move |frame| {
        // What it does from here on has a time, however long it took to be told.
        if matches!(frame, Frame::Commit(_)) {
            let _ = told.blocking_send(Message::Report(Report::Successor(attempt, News::Told)));
        }
    })
}
