//! Clients who ask one after the other without end, each over a connection of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use super::Client;

/// They ask until they are let go, or this is dropped.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Each gets 200 every time.
    pub fn of(clients: Vec<Client>) -> Self {
        Self::asking(clients, |client| assert_eq!(client.get("/").status, 200))
    }

    /// They follow whoever serves: a connection that was idle may be closed in the moment of the request.
    pub fn following(clients: Vec<Client>) -> Self {
        Self::asking(clients, |client| {
            if client.try_send("GET", "/", &[], b"").is_err() {
                client.hang_up();
            }
        })
    }

    fn asking(clients: Vec<Client>, ask: fn(&mut Client)) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let begin = |mut client: Client| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Relaxed) {
                    ask(&mut client);
                }
            })
        };
        Self { threads: clients.into_iter().map(begin).collect(), stop: Arc::clone(&stop) }
    }

    /// Lets them go, and says whether all went well.
    pub fn leaves(mut self) {
        self.stop.store(true, Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
