//! Sockets that the service manager has opened (socket activation, sd_listen_fds(3)).
//!
//! They are found by their addresses, not by their names: what listens where is said in the configuration. Whoever
//! opened them keeps them too, so connections wait in their queues while evenkeel is restarted.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::admin;
use super::error::CommandError;
use super::listeners::{Listeners, Offered};

/// What was passed to this process.
#[derive(Debug, Default)]
pub struct Activated {
    tcp: Vec<(SocketAddr, TcpListener)>,
    unix: Vec<(PathBuf, UnixListener)>,
}

impl Activated {
    /// What the environment says, if that is meant for this process. To be asked before there are threads: the
    /// variables are taken out, so that no process that is started later takes them for its own.
    ///
    /// # Errors
    /// A descriptor is no listening socket of TCP or of a path.
    pub fn from_env() -> io::Result<Self> {
        let meant = std::env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
        let mut activated = Self::default();
        if !meant {
            return Ok(activated);
        }
        let mut passed = listenfd::ListenFd::from_env();
        for at in 0..passed.len() {
            if let Ok(Some(socket)) = passed.take_tcp_listener(at) {
                activated.tcp.push((socket.local_addr()?, socket));
            } else if let Ok(Some(socket)) = passed.take_unix_listener(at) {
                let address = socket.local_addr()?;
                let path = address.as_pathname().ok_or_else(|| wrong(at, "is a Unix socket without a path"))?;
                activated.unix.push((path.to_owned(), socket));
            } else {
                return Err(wrong(at, "is neither a TCP nor a Unix stream socket"));
            }
        }
        Ok(activated)
    }

    pub(super) fn offer(self, listeners: &mut Listeners, admin: &mut admin::Offered) {
        for (address, socket) in self.tcp {
            // The admin API's is told apart once it is known who wants what.
            listeners.offered.push(Offered { bind: None, address, slot: None, socket });
        }
        admin.unix.extend(self.unix.into_iter().map(|(path, socket)| (path, socket, false)));
    }
}

fn wrong(at: usize, what: &str) -> io::Error {
    // The first one has number 3 (sd_listen_fds(3)).
    io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {} of the service manager {what}", at + 3))
}

/// Refuses what was passed and is of no use: connections to it would wait for nobody, for ever.
pub(super) fn nothing_left(listeners: &Listeners, admin: &admin::Offered) -> Result<(), CommandError> {
    let sockets = listeners.offered.iter().filter(|offered| offered.slot.is_none());
    let sockets = sockets.map(|offered| offered.address.to_string());
    let paths = admin.unix.iter().filter(|(_, _, ours)| !ours).map(|(path, _, _)| format!("unix:{}", path.display()));
    let unused: Vec<String> = sockets.chain(paths).collect();
    if unused.is_empty() {
        return Ok(());
    }
    Err(CommandError::InvalidConfig {
        report: format!(
            "error: the service manager has opened {}, where nothing in the configuration listens\n  = help: write `bind` \
             of a listener, or `[admin]`, exactly so, or take it out of the socket unit\n",
            unused.join(" and ")
        ),
    })
}
