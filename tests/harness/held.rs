//! A server that answers no request before the test lets it.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};

use super::{Fake, PATIENCE, eventually};

#[derive(Default)]
struct State {
    /// How many answers may still go out.
    allowed: usize,
    /// Paths of the requests, in their order.
    paths: Vec<String>,
    inside: usize,
    most: usize,
}

/// Holds its requests back; [`Held::release`] lets answers go.
pub struct Held {
    fake: Fake,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Held {
    pub fn start(name: &'static str) -> Self {
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let shared = Arc::clone(&state);
        let fake = Fake::answering(move |_, _, head| {
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let (lock, changed) = &*shared;
            let mut state = lock.lock().unwrap();
            state.paths.push(path);
            state.inside += 1;
            state.most = state.most.max(state.inside);
            let (mut state, late) = changed.wait_timeout_while(state, PATIENCE, |state| state.allowed == 0).unwrap();
            state.inside -= 1;
            if late.timed_out() {
                return None;
            }
            if state.allowed != usize::MAX {
                state.allowed -= 1;
            }
            Some(format!("HTTP/1.1 200 OK\r\nx-server: {name}\r\ncontent-length: 2\r\n\r\nok"))
        });
        Self { fake, state }
    }

    pub fn address(&self) -> SocketAddr {
        self.fake.address()
    }

    /// Lets `count` requests be answered, those here or still to come; `usize::MAX` is all for ever.
    pub fn release(&self, count: usize) {
        let (lock, changed) = &*self.state;
        let mut state = lock.lock().unwrap();
        state.allowed = state.allowed.saturating_add(count);
        changed.notify_all();
    }

    /// Paths of the requests that came, in their order.
    pub fn paths(&self) -> Vec<String> {
        self.state.0.lock().unwrap().paths.clone()
    }

    /// The most requests that were here at once.
    pub fn most(&self) -> usize {
        self.state.0.lock().unwrap().most
    }

    /// Waits until `count` requests have come.
    #[track_caller]
    pub fn has(&self, count: usize) {
        eventually("the requests to come", || (self.paths().len() >= count).then_some(()));
    }
}
