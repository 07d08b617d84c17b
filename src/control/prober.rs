//! When probes run. What a probe is belongs to [`crate::health`]; what its result means for traffic,
//! to the supervisor.
//!
//! One task for each server. A failed connection seen in traffic wakes it early, so that a dead
//! server is found out in less than an interval.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::supervisor::{Message, Report};
use crate::config::plan::Address;
use crate::health::tcp::{Target, Wire};
use crate::health::{Check, Hears, TcpCheck};
use crate::upstream::Server;

/// However often it is woken, a server is not probed more often than this.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// First and longest pause between attempts to reach a server that has no check of its own.
const RECOVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The probing of one server; ends when dropped.
#[derive(Debug)]
pub(super) struct Probing {
    task: AbortHandle,
    wake: Arc<Notify>,
    /// Tells its reports from those of a probing before it.
    pub(super) epoch: u64,
}

impl Probing {
    /// Asks for a probe now instead of at the end of the interval.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Probes `server` by `check` until dropped, at once for the first time.
pub(super) fn watch(
    server: Arc<Server>,
    check: Check,
    wire: Wire,
    hears: Hears,
    epoch: u64,
    inbox: mpsc::Sender<Message>,
) -> Probing {
    let wake = Arc::new(Notify::new());
    let woken = Arc::clone(&wake);
    let task = tokio::spawn(async move {
        let timing = check.timing();
        loop {
            let began = Instant::now();
            let result = check.ask(&target(&server), &wire, hears).await;
            if (result.is_ok() || !out_of_descriptors())
                && inbox.send(Message::Report(Report::Probed { uid: server.uid, epoch, result })).await.is_err()
            {
                return;
            }
            tokio::select! {
                () = sleep_until(began + jittered(timing.interval, timing.jitter, random())) => {}
                () = woken.notified() => sleep_until(began + SHORTEST_PAUSE.min(timing.interval)).await,
            }
        }
    });
    Probing { task: task.abort_handle(), wake, epoch }
}

/// Tries to connect to a server that traffic found dead and that has no check, until it accepts.
/// Without this nothing would ever bring it back.
pub(super) fn recover(
    server: Arc<Server>,
    wire: Wire,
    timeout: Duration,
    epoch: u64,
    inbox: mpsc::Sender<Message>,
) -> Probing {
    let task = tokio::spawn(async move {
        let check = Check::Tcp(TcpCheck { timeout, ..TcpCheck::default() });
        let mut pause = RECOVERY.0;
        loop {
            sleep(jittered(pause, 10, random())).await;
            let result = check.ask(&target(&server), &wire, Hears::default()).await;
            let back = result.is_ok();
            if inbox.send(Message::Report(Report::Probed { uid: server.uid, epoch, result })).await.is_err() || back {
                return;
            }
            pause = (pause * 2).min(RECOVERY.1);
        }
    });
    Probing { task: task.abort_handle(), wake: Arc::default(), epoch }
}

/// Whether this process can open no further descriptor: then a probe that failed says nothing about the
/// server. One that comes free between the two makes that failure count; it takes several in a row.
fn out_of_descriptors() -> bool {
    use rustix::io::Errno;
    let opened = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let code = opened.err().and_then(|error| error.raw_os_error());
    code.is_some_and(|code| [Errno::MFILE, Errno::NFILE].iter().any(|errno| errno.raw_os_error() == code))
}

fn target(server: &Server) -> Target {
    match &server.address {
        Address::Unix(path) => Target::Unix(path.clone()),
        address @ (Address::Socket(_) | Address::Host { .. }) => {
            Target::Net { addresses: server.resolved.load().to_vec(), host: address.to_string() }
        }
    }
}

/// `interval` made longer or shorter by up to `percent`, as `random` says.
fn jittered(interval: Duration, percent: u32, random: u64) -> Duration {
    let share = f64::from(percent.min(50)) / 100.0;
    // 53 bits are what a float holds exactly.
    let point = (random >> 11) as f64 / (1u64 << 53) as f64;
    interval.mul_f64(1.0 + share * (2.0 * point - 1.0))
}

pub(super) fn random() -> u64 {
    // Each RandomState has keys of its own.
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::control::testing;
    use crate::health::Says;

    async fn next(inbox: &mut mpsc::Receiver<Message>) -> (u64, Result<Says, String>) {
        match timeout(Duration::from_secs(5), inbox.recv()).await {
            Ok(Some(Message::Report(Report::Probed { uid: 7, epoch, result }))) => (epoch, result),
            other => panic!("not a probe of this server: {other:?}"),
        }
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let second = Duration::from_secs(1);
        assert_eq!(jittered(second, 0, u64::MAX), second);
        assert_eq!(jittered(second, 10, 0), Duration::from_millis(900));
        assert!(jittered(second, 10, u64::MAX) <= Duration::from_millis(1_100));
        let some: std::collections::HashSet<_> = (0..20).map(|_| jittered(second, 10, random())).collect();
        assert!(some.len() > 10);
    }

    #[tokio::test]
    async fn the_first_probe_is_at_once_and_a_wake_brings_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = testing::server(7, listener.local_addr().unwrap());
        let (inbox, mut reports) = mpsc::channel(8);
        let check = Check::Tcp(TcpCheck { interval: Duration::from_secs(3_600), ..TcpCheck::default() });
        let probing = watch(server, check, Wire::default(), Hears::default(), 3, inbox);
        assert_eq!(next(&mut reports).await, (3, Ok(Says::Fine)));
        drop(listener);
        let before = Instant::now();
        probing.wake();
        assert!(next(&mut reports).await.1.is_err());
        assert!(before.elapsed() < Duration::from_secs(2));
        // Wakes are not obeyed more often than every 100 ms.
        let before = Instant::now();
        for _ in 0..3 {
            probing.wake();
            next(&mut reports).await.1.unwrap_err();
        }
        assert!(before.elapsed() > Duration::from_millis(200));
        // Dropped, it ends: the channel has no sender any more.
        drop(probing);
        while reports.recv().await.is_some() {}
    }

    #[tokio::test]
    async fn recovery_goes_on_until_the_server_accepts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let (inbox, mut reports) = mpsc::channel(8);
        let _probing = recover(testing::server(7, address), Wire::default(), Duration::from_secs(1), 1, inbox);
        next(&mut reports).await.1.unwrap_err();
        let _listener = TcpListener::bind(address).await.unwrap();
        while next(&mut reports).await.1.is_err() {}
        assert!(reports.recv().await.is_none());
    }
}
