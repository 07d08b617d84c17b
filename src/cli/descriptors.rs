//! Files and sockets that this process may have open: as many as the system lets it ask for.
//!
//! Most systems give a process few and let it have many, because of programs older than epoll.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. Processes that are started later have it from this one.
pub(super) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Refused, it stays as it was, and `max_connections` follows from that.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many this process may have open; none is no limit.
pub(super) fn most() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
