//! A name server over UDP that knows what the test tells it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What it says to every query.
#[derive(Debug, Clone)]
enum Saying {
    /// These addresses, with this TTL in seconds.
    Addresses(Vec<Ipv4Addr>, u32),
    /// SERVFAIL.
    Failure,
    /// NXDOMAIN.
    Unknown,
}

/// One that runs until it is dropped.
pub struct NameServer {
    address: SocketAddr,
    saying: Arc<Mutex<Saying>>,
    queries: Arc<Mutex<usize>>,
    stopping: Arc<Mutex<bool>>,
}

impl NameServer {
    /// One that knows every name as these addresses, for `ttl` seconds.
    pub fn start(addresses: &[Ipv4Addr], ttl: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let saying = Arc::new(Mutex::new(Saying::Addresses(addresses.to_vec(), ttl)));
        let (queries, stopping) = (Arc::<Mutex<usize>>::default(), Arc::<Mutex<bool>>::default());
        let (says, counts, stop) = (Arc::clone(&saying), Arc::clone(&queries), Arc::clone(&stopping));
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !*stop.lock().unwrap() {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                let answer = answer(&buffer[..length], &says.lock().unwrap());
                *counts.lock().unwrap() += 1;
                let _ = socket.send_to(&answer, peer);
            }
        });
        Self { address, saying, queries, stopping }
    }

    /// `[dns]` with this server alone; `more` is further keys.
    pub fn toml(&self, more: &str) -> String {
        format!("[dns]\nservers = [\"{}\"]\n{more}\n", self.address)
    }

    pub fn knows(&self, addresses: &[Ipv4Addr], ttl: u32) {
        *self.saying.lock().unwrap() = Saying::Addresses(addresses.to_vec(), ttl);
    }

    /// From now on every query is answered SERVFAIL.
    pub fn fails(&self) {
        *self.saying.lock().unwrap() = Saying::Failure;
    }

    /// From now on there is no such name.
    pub fn forgets(&self) {
        *self.saying.lock().unwrap() = Saying::Unknown;
    }

    /// Queries answered so far.
    pub fn queries(&self) -> usize {
        *self.queries.lock().unwrap()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        *self.stopping.lock().unwrap() = true;
    }
}

/// The answer to one query (RFC 1035 §4): its header and question again, and records where the question
/// is for IPv4 addresses.
fn answer(query: &[u8], saying: &Saying) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|b| *b == 0).unwrap() + 1;
    let end = name_end + 4;
    let asks_for_ipv4 = query[name_end..name_end + 2] == [0, 1];
    let (code, addresses, ttl) = match saying {
        Saying::Addresses(addresses, ttl) if asks_for_ipv4 => (0, addresses.as_slice(), *ttl),
        Saying::Addresses(..) => (0, [].as_slice(), 0),
        Saying::Failure => (2, [].as_slice(), 0),
        Saying::Unknown => (3, [].as_slice(), 0),
    };
    let mut answer = query[..end].to_vec();
    let count = u8::try_from(addresses.len()).unwrap();
    answer[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    for address in addresses {
        answer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1]);
        answer.extend_from_slice(&ttl.to_be_bytes());
        answer.extend_from_slice(&[0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    answer
}

/// `127.0.0.last`, which is this machine like all of 127.0.0.0/8.
pub fn local(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}
