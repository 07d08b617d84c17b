//! What a new process has from the old one before it has taken over.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::carried::Carried;
use super::channel::Channel;
use super::frames::{Descriptor, Failed, Frame};
use crate::control::admin;
use crate::control::listeners::{self, Orders};
use crate::control::state::State;
use crate::upstream::clock;

/// Says to a process, by the number of the old one, that its standard input is the channel.
pub(super) const FROM: &str = "EVENKEEL_UPGRADE_FROM";

/// What the old process has given.
#[derive(Debug)]
pub struct Inherited {
    pub(super) pid: u32,
    pub(super) version: String,
    descriptors: Vec<(Descriptor, OwnedFd)>,
    pub(super) carried: Carried,
    pub(super) channel: Channel,
}

/// A way to say that it cannot go on, for who still has to find that out.
#[derive(Debug)]
pub struct Regret(Channel);

impl Inherited {
    /// What the process that started this one has given, if it is one that is to be taken over from. Standard
    /// input is empty afterwards. It has to be asked before anything else looks at a clock.
    ///
    /// # Errors
    /// The old process has ended, or is none that this one understands.
    pub fn from_parent() -> io::Result<Option<Self>> {
        let from = std::env::var(FROM).ok().and_then(|from| from.parse::<i32>().ok());
        // Whoever has the variable from further up is not meant.
        let parent = rustix::process::getppid().map(rustix::process::Pid::as_raw_pid);
        if from.is_none() || from != parent {
            return Ok(None);
        }
        let channel = io::stdin().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        let mut channel = Channel::new(UnixStream::from(channel));
        let hello = loop {
            match channel.receive()? {
                Some(Frame::Hello(hello)) => break hello,
                Some(_) => {}
                None => return Err(io::Error::other("the process to take over from has ended")),
            }
        };
        let descriptors = channel.receive_descriptors(hello.descriptors.len())?;
        clock::go_on(hello.carried.clock);
        let descriptors = hello.descriptors.into_iter().zip(descriptors).collect();
        Ok(Some(Self { pid: hello.pid, version: hello.version, descriptors, carried: hello.carried, channel }))
    }

    /// The number of the process before.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A way to say so if anything fails.
    ///
    /// # Errors
    /// The system refuses a descriptor.
    pub fn regret(&self) -> io::Result<Regret> {
        self.channel.try_clone().map(Regret)
    }

    /// Sorts the sockets by who wants them.
    pub(in crate::control) fn offer(&mut self, listeners: &mut Vec<listeners::Offered>, admin: &mut admin::Offered) {
        for (what, socket) in self.descriptors.drain(..) {
            match what {
                Descriptor::Listener { bind, name, address, slot } => listeners.push(listeners::Offered {
                    bind: Some((bind, name)),
                    address,
                    slot: Some(slot),
                    socket: TcpListener::from(socket),
                }),
                Descriptor::AdminSocket { path, foreign } => {
                    admin.unix.push((path, UnixListener::from(socket), !foreign));
                }
                Descriptor::AdminTcp { bind, .. } => admin.tcp.push((bind, TcpListener::from(socket))),
                Descriptor::Unknown => {}
            }
        }
    }
}

impl Regret {
    /// Says that this process cannot go on. `kind` is that of a refusal of the admin API.
    pub fn say(mut self, kind: &str, message: &str) {
        // If the old process is gone, nobody is left to tell.
        let _ = self.0.send(&Frame::Failed(Failed { kind: kind.to_owned(), message: message.to_owned() }));
    }
}

/// A process that gets ready to take over.
#[derive(Debug)]
pub(in crate::control) struct Inheriting {
    pub(super) pid: u32,
    pub(super) version: String,
    pub(super) channel: Channel,
    pub(super) carried: Carried,
    /// What the cores are told once it has.
    pub(super) orders: Option<Orders>,
    pub(super) is_ready: bool,
}

impl Inheriting {
    pub(in crate::control) fn new(inherited: Inherited) -> Self {
        let Inherited { pid, version, descriptors: _, carried, channel } = inherited;
        Self { pid, version, channel, carried, orders: None, is_ready: false }
    }

    /// What the old process kept when it started this one.
    pub(in crate::control) fn state(&self) -> &State {
        &self.carried.state
    }

    /// Says which file this process has made: it cannot take it away itself if it is killed.
    pub(in crate::control) fn made(&mut self, path: &Path) {
        // If the old process is gone, this one goes on.
        let _ = self.channel.send(&Frame::Made { path: path.to_owned() });
    }

    /// What its clock said.
    pub(in crate::control) fn now(&self) -> Duration {
        self.carried.now
    }
}
