//! Attackers that take their time: thousands of connections that trickle heads, trickle bodies or do not
//! read their answers. Others must not notice. A file of its own, so that nothing runs beside it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::{Client, Running, eventually, origins, upstream};
use rustix::process::{Resource, getrlimit, setrlimit};

const EACH: usize = 667;
/// How long the others may wait.
const SERVED_WITHIN: Duration = Duration::from_millis(250);
const HEADER_TIMEOUT: Duration = Duration::from_secs(4);

/// What one attacker does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Attack {
    TrickleHead,
    TrickleBody,
    NeverRead,
}

/// Lets this process, and evenkeel as its child, have as many descriptors as it may.
fn raise_the_limit(needed: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(most >= needed, "{needed} descriptors are needed and {most} allowed: raise the hard limit of `ulimit -n`");
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

impl Attack {
    fn begin(self, address: SocketAddr) -> TcpStream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        if self == Self::NeverRead {
            // It is evenkeel that has to wait, not the kernel that has to buffer.
            socket.set_recv_buffer_size(4096).unwrap();
        }
        socket.connect(&address.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        let begin: &[u8] = match self {
            Self::TrickleHead => b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ",
            Self::TrickleBody => b"POST /sink HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n",
            Self::NeverRead => b"GET /bytes?n=2000000 HTTP/1.1\r\nhost: a\r\n\r\n",
        };
        stream.write_all(begin).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }
}

/// The longest that one of many requests took, half of them over new connections.
fn slowest(address: SocketAddr, time: Duration) -> Duration {
    let mut kept = Client::to(address);
    let (mut slowest, until) = (Duration::ZERO, Instant::now() + time);
    while Instant::now() < until {
        for client in [&mut kept, &mut Client::to(address)] {
            let began = Instant::now();
            let answer = client.get("/count");
            slowest = slowest.max(began.elapsed());
            assert_eq!(answer.status, 401, "the toy server's answer to a session it does not know");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    slowest
}

#[test]
fn two_thousand_slow_connections_slow_nobody_else() {
    raise_the_limit(3 * EACH as u64 * 2 + 500);
    let origins = origins(2);
    let evenkeel = Running::start(&format!(
        "header_timeout = \"{}s\"\n{}",
        HEADER_TIMEOUT.as_secs(),
        upstream("app", "\"least_requests\"", "", &origins)
    ));
    // Not in the order of arrival, so that the deadline of the first heads passes while others still come.
    let began = Instant::now();
    let attacks = [Attack::TrickleBody, Attack::NeverRead, Attack::TrickleHead];
    let attackers: Vec<(Attack, TcpStream)> =
        attacks.iter().flat_map(|attack| (0..EACH).map(|_| (*attack, attack.begin(evenkeel.address)))).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                for (attack, mut stream) in attackers.iter().map(|(attack, stream)| (attack, stream)) {
                    if *attack != Attack::NeverRead {
                        let _ = stream.write(b"x");
                    }
                }
                std::thread::sleep(Duration::from_millis(250));
            }
        });
        // A machine that is busy with something else may hold up anybody for a moment. Three tries tell
        // that from a proxy that the attack holds up.
        let tries: Vec<Duration> = std::iter::repeat_with(|| slowest(evenkeel.address, Duration::from_secs(1)))
            .take(3)
            .take_while(|slowest| *slowest > SERVED_WITHIN)
            .collect();
        let open = evenkeel.metric("evenkeel_connections_open", &[]);
        let early = began.elapsed() < HEADER_TIMEOUT;
        assert!(!early || open > 2.9 * EACH as f64, "they were all there: {open}");
        assert!(tries.len() < 3, "others waited: {tries:?}");
        // However many bytes they send, heads have one deadline.
        eventually("the trickled heads are refused", || {
            let refused = evenkeel.metric("evenkeel_errors_total", &["reason=\"header_timeout\""]);
            (refused == EACH as f64).then_some(())
        });
        over.store(true, Relaxed);
    });
    let mut cut = 0;
    for (attack, mut stream) in attackers {
        let mut answer = [0; 64];
        if attack == Attack::TrickleHead {
            stream.set_nonblocking(false).unwrap();
            let ended = match stream.read(&mut answer) {
                Ok(n) => answer[..n].starts_with(b"HTTP/1.1 408 ") || n == 0,
                Err(error) => error.kind() == ErrorKind::ConnectionReset,
            };
            assert!(ended, "{:?}", String::from_utf8_lossy(&answer));
            cut += 1;
        }
    }
    assert_eq!(cut, EACH);
    assert!(slowest(evenkeel.address, Duration::from_millis(300)) < Duration::from_secs(1));
}
