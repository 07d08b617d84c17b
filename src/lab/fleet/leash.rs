//! What ends the children of a lab that is gone.
//!
//! Nobody can clean up after itself once it got SIGKILL. So each fleet has one process more, the leash, which leads the
//! process group that all children of the fleet are born into, and waits for the end of a pipe that the lab holds and never
//! writes to. The kernel closes that pipe whatever the lab ends by, and the leash then kills the group, itself included. A
//! child is in the group before its program begins, so there is no moment in which it could be missed, and a group keeps its
//! number as long as its leader lives, so no stranger can be hit.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, getpgrp, getpid, kill_current_process_group};

use super::child::{Nook, clean};

/// The lab's end of it: as long as this is, the children may live.
#[derive(Debug)]
struct Leash(Child);

impl Leash {
    fn start(program: &Path, nook: &Nook) -> io::Result<Self> {
        let mut command = clean(program, None);
        command.args(["lab", "leash"]).arg(nook.path());
        Ok(Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?))
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        // Closes the pipe, and with it ends whatever is left of the group.
        self.0.stdin = None;
        let _ = self.0.wait();
    }
}

/// Where a fleet's children are at home: their sockets, and the group that they are born into.
#[derive(Debug)]
pub(super) struct Home {
    leash: Leash,
    // Goes last, when nobody is left who has a socket in it.
    nook: Nook,
}

impl Home {
    pub(super) fn new(program: &Path) -> io::Result<Self> {
        let nook = Nook::new()?;
        Ok(Self { leash: Leash::start(program, &nook)?, nook })
    }

    /// The number of the group.
    pub(super) fn group(&self) -> u32 {
        self.leash.0.id()
    }

    /// A program that is about to be born into it.
    pub(super) fn command(&self, program: &Path) -> Command {
        clean(program, Some(self.group()))
    }

    /// Where the proxy's admin socket is.
    pub(super) fn admin(&self) -> PathBuf {
        self.nook.path().join("admin.sock")
    }

    /// Where Redis has its socket.
    pub(super) fn redis(&self) -> PathBuf {
        self.nook.path().join("redis.sock")
    }
}

/// The leash itself: waits until whoever holds the other end of standard input is gone, removes the directory in which the
/// children's sockets are, and kills the process group that it leads.
///
/// # Errors
/// When it leads none, or standard input is nothing to wait for.
pub fn wait(nook: &Path) -> io::Result<()> {
    if getpgrp() != getpid() {
        return Err(io::Error::other("this process leads no group of its own: it is started by `lab run` only"));
    }
    let mut stdin = io::stdin().lock();
    let mut buffer = [0; 64];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Without a way to know, the children had better end now.
            Err(_) => break,
        }
    }
    if Nook::is_one(nook) {
        let _ = std::fs::remove_dir_all(nook);
    }
    kill_current_process_group(Signal::KILL)?;
    Ok(())
}
