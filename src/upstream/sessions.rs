//! The ledger: which sticky sessions are alive, and on which server.

/// Remembers sessions in bounded memory.
#[derive(Debug)]
pub struct Ledger {}

impl Ledger {
    /// A ledger for at most about `max_sessions` sessions.
    #[must_use]
    pub fn new(_max_sessions: usize) -> Self {
        Self {}
    }

    /// Notes that the session was seen on that server at `now` (seconds since the process began).
    pub fn touch(&self, _session: u64, _server_uid: u32, _now: u32) {}

    /// How many sessions each server holds that were seen at or after `since`, by server uid.
    #[must_use]
    pub fn count(&self, _since: u32) -> Vec<(u32, usize)> {
        Vec::new()
    }
}
