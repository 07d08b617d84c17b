//! Listening sockets: one for each core and listener, all on one address.
//!
//! Each core accepts from its own socket (SO_REUSEPORT), so cores share no accept queue. The option
//! would also let a second evenkeel join an address unnoticed and take half of its connections, so
//! an address is first tried without it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::error::CommandError;
use crate::config::plan::ListenerPlan;

/// The sockets of one listener and the address they really have.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    /// Each once, however many cores accept from it.
    pub(super) sockets: Vec<TcpListener>,
}

impl Bound {
    /// Sockets that another process has opened and that are to be used on.
    pub(super) fn taken(
        plan: &ListenerPlan,
        address: SocketAddr,
        sockets: Vec<TcpListener>,
    ) -> Result<Self, CommandError> {
        let backlog = i32::try_from(plan.backlog).unwrap_or(i32::MAX);
        for socket in &sockets {
            let set = SockRef::from(socket).set_nonblocking(true).and_then(|()| SockRef::from(socket).listen(backlog));
            set.map_err(|source| CommandError::CannotBind {
                what: format!("listener `{}`", plan.name),
                address: address.to_string(),
                source,
            })?;
        }
        Ok(Self { address, sockets })
    }

    /// A way to accept for each of `cores`, with the number of the core. No socket is left out, or what waits
    /// in its queue would wait for ever; where there are fewer sockets than cores, several accept from one.
    pub(super) fn spread(&self, cores: usize) -> io::Result<Vec<(usize, TcpListener)>> {
        let ways = cores.max(self.sockets.len());
        (0..ways).map(|i| Ok((i % cores, self.sockets[i % self.sockets.len()].try_clone()?))).collect()
    }
}

/// Opens `cores` listening sockets for `plan`. `ours` says that this process already listens on that
/// port, on whatever address, so that it is no stranger.
pub(super) fn listen(plan: &ListenerPlan, cores: usize, ours: bool) -> Result<Bound, CommandError> {
    let refuse = |source| CommandError::CannotBind {
        what: format!("listener `{}`", plan.name),
        address: plan.bind.to_string(),
        source,
    };
    if plan.bind.port() != 0 && !ours {
        // Bound and dropped at once: fails where any other process listens.
        socket(plan.bind, false).map_err(refuse)?;
    }
    let mut address = plan.bind;
    let mut sockets = Vec::with_capacity(cores);
    for _ in 0..cores.max(1) {
        let socket = socket(address, true).map_err(refuse)?;
        // Port 0: the first socket finds a port and the others join it.
        address = socket.local_addr().map_err(refuse)?.as_socket().unwrap_or(address);
        sockets.push(socket);
    }
    // None listens before all are bound: a connection would be lost with the socket that got it.
    let backlog = i32::try_from(plan.backlog).unwrap_or(i32::MAX);
    for socket in &sockets {
        socket.listen(backlog).map_err(refuse)?;
    }
    Ok(Bound { address, sockets: sockets.into_iter().map(TcpListener::from).collect() })
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // `[::]` also takes IPv4, whatever the system's default is.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Accepted sockets inherit it, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use super::*;
    use crate::control::testing;

    fn plan(bind: &str) -> ListenerPlan {
        ListenerPlan { bind: bind.parse().unwrap(), ..testing::listener("web") }
    }

    #[test]
    fn every_core_has_a_socket_on_the_same_port() {
        let bound = listen(&plan("127.0.0.1:0"), 3, false).unwrap();
        assert_ne!(bound.address.port(), 0);
        assert_eq!(bound.sockets.len(), 3);
        for socket in &bound.sockets {
            assert_eq!(socket.local_addr().unwrap(), bound.address);
        }
        // Between them they accept what comes.
        TcpStream::connect(bound.address).unwrap().write_all(b"x").unwrap();
        let accepted = bound.sockets.iter().filter(|s| s.accept().is_ok()).count();
        assert_eq!(accepted, 1);
    }

    #[test]
    fn every_core_has_a_way_to_accept_and_no_socket_is_left_out() {
        let bound = listen(&plan("127.0.0.1:0"), 3, false).unwrap();
        let cores = |cores| bound.spread(cores).unwrap().into_iter().map(|(core, _)| core).collect::<Vec<_>>();
        assert_eq!((cores(1), cores(2), cores(3)), (vec![0, 0, 0], vec![0, 1, 0], vec![0, 1, 2]));
        let fewer = Bound { address: bound.address, sockets: bound.sockets.into_iter().take(2).collect() };
        assert_eq!(fewer.spread(5).unwrap().into_iter().map(|(core, _)| core).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn ipv6_any_takes_ipv4_too() {
        let Ok(bound) = listen(&plan("[::]:0"), 1, false) else { return };
        TcpStream::connect(("127.0.0.1", bound.address.port())).unwrap();
    }

    #[test]
    fn an_address_in_use_is_named_even_if_it_is_shared() {
        let first = listen(&plan("127.0.0.1:0"), 2, false).unwrap();
        let second = ListenerPlan { bind: first.address, ..testing::listener("web") };
        let refused = listen(&second, 2, false).unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("listener `web` cannot listen on {}: address", first.address)),
            "{refused}"
        );
        assert!(listen(&second, 2, true).is_ok());
    }

    #[test]
    fn a_foreign_address_is_refused_with_its_reason() {
        let refused = listen(&plan("192.0.2.1:8080"), 1, false).unwrap_err().to_string();
        assert!(refused.contains("192.0.2.1:8080") && refused.contains("no interface"), "{refused}");
    }
}
