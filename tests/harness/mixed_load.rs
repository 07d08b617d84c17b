//! The load of the proofs: 300 requests a second of every kind, at their times whatever the answers take.
//!
//! It is a client as decent ones are. A kept connection that was closed while nothing was asked is seen to
//! be closed and another is opened; a GET that met the close on its way is sent again on a fresh
//! connection, as browsers do, and counted as a race; a POST that met it is not sent again by anybody, and
//! has failed. A WebSocket that is closed with code 1001 is opened again; one that ends without a close has
//! failed.
//!
//! Every POST has an id of its own. Servers started by [`super::Service`] write down what arrives before
//! they do anything about it, to files that outlive them: what was delivered twice is found there.

mod connection;
mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use evenkeel::lab::origin::pattern;

use super::Answer;
use super::websocket::{Said, WebSocket};
use connection::Connection;
pub use report::{Count, Report};

/// No load runs for longer, whatever becomes of the test.
const LONGEST: Duration = Duration::from_secs(90);
/// The body of a slow download: more than fits into the sockets on its way.
const DOWNLOAD: usize = 512 << 10;
/// What a user does before leaving, and how long it takes to read a page.
const VISITS: usize = 8;
const READS_FOR: Duration = Duration::from_millis(40);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A GET on a connection that is kept.
    GetKept,
    /// A GET on a connection of its own.
    GetNew,
    PostKept,
    PostNew,
    /// A GET whose answer takes a while to begin.
    SlowAnswer,
    /// A body that is read slowly.
    Download,
    /// A message that comes back.
    Message,
    /// A page for a user who is logged in on one server. Only with [`MixedLoad::start_with_users`].
    Visit,
}

/// How many of a kind in a second, and by how many clients: enough that nobody waits for an answer before
/// the next request is due.
const LOAD: [(Kind, usize, usize); 7] = [
    (Kind::GetKept, 100, 8),
    (Kind::GetNew, 60, 6),
    (Kind::PostKept, 50, 6),
    (Kind::PostNew, 30, 4),
    (Kind::SlowAnswer, 14, 8),
    (Kind::Download, 6, 8),
    (Kind::Message, 40, 10),
];
const USERS: usize = 3;

/// Runs until it is told to end.
pub struct MixedLoad {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    arrivals: Vec<PathBuf>,
}

/// What all clients have in common.
struct Shared {
    address: SocketAddr,
    began: Instant,
    over: AtomicBool,
    /// Tells the POSTs of this load from those of others that the same servers got.
    id: String,
    counts: Mutex<Report>,
}

impl MixedLoad {
    /// Begins. `arrivals` are the files that the servers write, see [`super::Service::arrivals`].
    pub fn start<P: AsRef<Path>>(address: SocketAddr, arrivals: &[P]) -> Self {
        Self::of(address, arrivals, 0)
    }

    /// The same, with users who log in, stay for a moment and leave. The upstream has to be sticky.
    pub fn start_with_users<P: AsRef<Path>>(address: SocketAddr, arrivals: &[P]) -> Self {
        Self::of(address, arrivals, USERS)
    }

    fn of<P: AsRef<Path>>(address: SocketAddr, arrivals: &[P], users: usize) -> Self {
        static LOADS: AtomicUsize = AtomicUsize::new(0);
        let id = format!("{}.{}", std::process::id(), LOADS.fetch_add(1, Relaxed));
        let (began, over) = (Instant::now(), AtomicBool::new(false));
        let shared = Arc::new(Shared { address, began, over, id, counts: Mutex::default() });
        let mut clients = Vec::new();
        for (kind, rate, count) in LOAD {
            let turns = Arc::new(Turns { rate, next: AtomicUsize::new(0) });
            for _ in 0..count {
                let (shared, turns) = (Arc::clone(&shared), Arc::clone(&turns));
                clients.push(std::thread::spawn(move || shared.client(kind, &turns)));
            }
        }
        for _ in 0..users {
            let shared = Arc::clone(&shared);
            clients.push(std::thread::spawn(move || shared.users()));
        }
        Self { shared, clients, arrivals: arrivals.iter().map(|file| file.as_ref().to_owned()).collect() }
    }

    /// How many requests and messages were answered so far.
    pub fn answered(&self) -> usize {
        self.shared.counts.lock().unwrap().answered()
    }

    /// Ends when every request that was begun has had its answer, and tells what was found.
    pub fn stop(mut self) -> Report {
        self.shared.over.store(true, Relaxed);
        self.clients.drain(..).for_each(|client| client.join().unwrap());
        let mut report = std::mem::take(&mut *self.shared.counts.lock().unwrap());
        report.took = self.shared.began.elapsed();
        report.look_at(&self.arrivals, &self.shared.id);
        report
    }
}

impl Drop for MixedLoad {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
    }
}

/// Whose turn it is, and when.
struct Turns {
    rate: usize,
    next: AtomicUsize,
}

impl Turns {
    /// The number of the next request and when it is due.
    fn take(&self, began: Instant) -> (usize, Instant) {
        let number = self.next.fetch_add(1, Relaxed);
        (number, began + Duration::from_secs_f64(number as f64 / self.rate as f64))
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Relaxed) || self.began.elapsed() > LONGEST
    }

    fn client(&self, kind: Kind, turns: &Turns) {
        if kind == Kind::Message {
            return self.talk(turns);
        }
        let mut connection = Connection::to(self.address, kind == Kind::Download);
        loop {
            let (number, due) = turns.take(self.began);
            // The rate is the load's, not the proxy's.
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.is_over() {
                return;
            }
            if matches!(kind, Kind::GetNew | Kind::PostNew | Kind::Download) {
                connection.hang_up();
            }
            let outcome = self.one(kind, number, &mut connection);
            self.count(kind, number, due, outcome);
        }
    }

    /// One request; what is wrong with its answer.
    fn one(&self, kind: Kind, number: usize, connection: &mut Connection) -> Result<(), String> {
        match kind {
            Kind::PostKept | Kind::PostNew => {
                let id = format!("{}-{kind:?}-{number}", self.id);
                // Some are with their server for a while, so that who is killed is in the middle of one; and
                // without a body, so that nothing but the rule is in the way of sending it again.
                let slow = number.is_multiple_of(4);
                let body = if slow { Vec::new() } else { vec![b'x'; 100 + number * 37 % 8000] };
                let target = if slow { format!("/slow?id={id}&ms=100") } else { format!("/sink?id={id}") };
                let answer = self.ask(connection, "POST", &target, &[], &body)?;
                self.counts.lock().unwrap().delivered.push(id);
                let told = format!(" took {} bytes as ", body.len());
                if slow || answer.text().contains(&told) { Ok(()) } else { Err(answer.text()) }
            }
            Kind::SlowAnswer => self.ask(connection, "GET", "/slow?ms=300", &[], b"").map(|_| ()),
            Kind::Download => self.bytes(connection, DOWNLOAD),
            _ => self.bytes(connection, 2000 + number % 7 * 1000),
        }
    }

    /// A body that is compared with what it has to be.
    fn bytes(&self, connection: &mut Connection, length: usize) -> Result<(), String> {
        let body = self.ask(connection, "GET", &format!("/bytes?n={length}"), &[], b"")?.body;
        let wrong = (0_u64..).zip(&body).find(|&(at, byte)| *byte != pattern(at));
        match wrong {
            None if body.len() == length => Ok(()),
            None => Err(format!("{} of {length} bytes", body.len())),
            Some((at, _)) => Err(format!("byte {at} is another")),
        }
    }

    /// A request that is to be answered with 200.
    fn ask(
        &self,
        connection: &mut Connection,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, String> {
        let answer = connection.ask(method, target, headers, body, &self.counts)?;
        match answer.status {
            200 => Ok(answer),
            status => Err(format!("{status} {:?} {}", answer.reason().unwrap_or_default(), answer.text().trim_end())),
        }
    }

    /// One WebSocket, opened again whenever it was closed as it should be.
    fn talk(&self, turns: &Turns) {
        let mut socket: Option<WebSocket> = None;
        while !self.is_over() {
            let (number, due) = turns.take(self.began);
            // Whoever waits reads: a close is answered when it comes.
            while let Some(open) = &mut socket
                && Instant::now() < due
            {
                match open.wait_until(due) {
                    Ok(true) => {}
                    Ok(false) => self.closed(&mut socket),
                    Err(error) => {
                        socket = None;
                        self.count(Kind::Message, number, due, Err(format!("while it was silent: {error}")));
                    }
                }
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let outcome = self.say(&mut socket, &format!("message {number}"));
            self.count(Kind::Message, number, due, outcome);
        }
        if let Some(open) = socket {
            open.close();
        }
    }

    fn say(&self, socket: &mut Option<WebSocket>, text: &str) -> Result<(), String> {
        // A message that crossed the close is sent again over the next one; nobody closes a new one.
        for _ in 0..2 {
            let open = match socket {
                Some(open) => open,
                None => socket.insert(WebSocket::try_open(self.address, "/ws").map_err(|e| format!("opening: {e}"))?),
            };
            match open.say(text) {
                Ok(Said::Echo) => return Ok(()),
                Ok(Said::Away) => self.closed(socket),
                Err(error) => {
                    *socket = None;
                    return Err(error.to_string());
                }
            }
        }
        Err("closed as soon as it was open".to_owned())
    }

    fn closed(&self, socket: &mut Option<WebSocket>) {
        *socket = None;
        self.counts.lock().unwrap().away += 1;
    }

    /// Users, one after the other.
    fn users(&self) {
        while !self.is_over() {
            let mut connection = Connection::to(self.address, false);
            let due = Instant::now();
            let login = self.ask(&mut connection, "POST", "/login", &[], b"");
            let cookies = login.and_then(|login| {
                let both: Option<Vec<_>> = ["sid", "evenkeel"].iter().map(|name| login.cookie(name)).collect();
                both.map(|both| both.join("; ")).ok_or_else(|| "logged in without a cookie".to_owned())
            });
            let cookies = match cookies {
                Ok(cookies) => cookies,
                Err(wrong) => {
                    self.count(Kind::Visit, 0, due, Err(wrong));
                    continue;
                }
            };
            for visit in 1..=VISITS {
                let due = Instant::now();
                let answer = self.ask(&mut connection, "GET", "/count", &[("cookie", &cookies)], b"");
                let counted = |answer: Answer| match answer.text().trim_end() == visit.to_string() {
                    true => Ok(()),
                    false => Err(format!("visit {visit} was counted as {}", answer.text())),
                };
                self.count(Kind::Visit, visit, due, answer.and_then(counted));
                // How long a user reads.
                std::thread::sleep(READS_FOR);
            }
        }
    }

    fn count(&self, kind: Kind, number: usize, due: Instant, outcome: Result<(), String>) {
        let mut report = self.counts.lock().unwrap();
        let after = self.began.elapsed().as_secs_f64();
        let count = report.kinds.entry(kind).or_default();
        count.slowest = count.slowest.max(due.elapsed());
        match outcome {
            Ok(()) => count.answered += 1,
            Err(wrong) => count.failed.push(format!("{number} after {after:.3} s: {wrong}")),
        }
    }
}
