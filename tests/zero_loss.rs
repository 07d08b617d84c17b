//! Four servers are killed and started again, one after the other, while 300 requests a second come
//! in: no GET fails.
//!
//! Everything is a process of its own, so that a kill is a kill.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

mod harness;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::{Client, Process, Running, eventually, origin_process, reserved};

const REQUESTS: usize = 10_000;
const RATE: f64 = 300.0;
/// Enough that none is waited for: the load is open, a slow answer does not hold up the next request.
const CLIENTS: usize = 32;

fn healthy(evenkeel: &Running) -> usize {
    evenkeel.status().upstreams[0].servers.iter().filter(|s| s.operational == "healthy").count()
}

#[derive(Default)]
struct Tally {
    sent: AtomicUsize,
    failed: Mutex<Vec<String>>,
    /// Longest time from when a request was due to its answer.
    slowest: Mutex<Duration>,
}

impl Tally {
    /// Sends every request whose turn it is, at its time. Every other client opens a connection for
    /// each.
    fn load(&self, address: SocketAddr, keep_alive: bool, began: Instant) {
        let mut client = Client::to(address);
        loop {
            let number = self.sent.fetch_add(1, Relaxed);
            if number >= REQUESTS {
                return;
            }
            let due = began + Duration::from_secs_f64(number as f64 / RATE);
            // The rate is the test's, not the proxy's.
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if !keep_alive {
                client.hang_up();
            }
            match client.try_send("GET", "/bytes?n=2000", &[], b"") {
                Ok(answer) if answer.status == 200 && answer.body.len() == 2000 => {}
                Ok(answer) => self.fail(format!("{number}: {} {:?}", answer.status, answer.reason())),
                Err(error) => self.fail(format!("{number}: {error}")),
            }
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = slowest.max(due.elapsed());
        }
    }

    fn fail(&self, what: String) {
        self.failed.lock().unwrap().push(what);
    }
}

#[test]
fn no_get_fails_while_servers_are_killed_and_restarted() {
    let names = ["a", "b", "c", "d"];
    let places: Vec<_> = names.iter().map(|_| reserved()).collect();
    let mut origins: Vec<Process> =
        names.iter().zip(&places).map(|(name, (_, at))| origin_process(name, *at)).collect();

    let servers: String = names
        .iter()
        .zip(&places)
        .map(|(name, (_, at))| format!("[[upstream.app.server]]\nname = \"{name}\"\naddress = \"{at}\"\n"))
        .collect();
    let evenkeel = Running::start(&format!(
        "[upstream.app]\ncheck = {{ http = {{ path = \"/healthz\", interval = \"500ms\", timeout = \"5s\" }} }}\n{servers}"
    ));
    eventually("four healthy servers", || (healthy(&evenkeel) == 4).then_some(()));

    let address = evenkeel.address;
    let (tally, done, began) = (Tally::default(), AtomicBool::new(false), Instant::now());
    let mut kills = 0;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|i| {
                scope.spawn({
                    let tally = &tally;
                    move || tally.load(address, i % 2 == 0, began)
                })
            })
            .collect();
        let watch = scope.spawn(|| {
            clients.into_iter().for_each(|c| c.join().unwrap());
            done.store(true, Relaxed);
        });
        while !done.load(Relaxed) {
            let turn = kills % names.len();
            origins[turn].kill();
            kills += 1;
            // Down for as long as it takes to be found out, in other rounds for less than that.
            if kills % 2 == 0 {
                eventually("the dead server is found out", || (healthy(&evenkeel) == 3).then_some(()));
            } else {
                std::thread::sleep(Duration::from_millis(30));
            }
            origins[turn] = origin_process(names[turn], places[turn].1);
            eventually("it is back", || std::net::TcpStream::connect(places[turn].1).ok());
            eventually("four healthy servers", || (healthy(&evenkeel) == 4).then_some(()));
        }
        watch.join().unwrap();
    });

    let failed = tally.failed.lock().unwrap();
    println!(
        "{REQUESTS} GETs in {:.1} s, {kills} kills, {} retries, {} failed connections, {} broken ones, slowest {:?}, {} failed",
        began.elapsed().as_secs_f64(),
        evenkeel.metric("evenkeel_server_retries_total", &[]),
        evenkeel.metric("evenkeel_server_connect_failures_total", &[]),
        evenkeel.metric("evenkeel_server_failures_total", &[]),
        tally.slowest.lock().unwrap(),
        failed.len(),
    );
    assert!(failed.is_empty(), "{failed:?}\n{}", evenkeel.process.err());
    assert!(kills >= 8, "each was killed twice at least: {kills}");
}
