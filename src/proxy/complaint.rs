//! Warnings that strangers can cause, at a bounded rate: one in ten seconds on each core, with how many
//! were held back since the one before. Nobody may fill a log by asking.

use std::cell::Cell;
use std::time::{Duration, Instant};

const APART: Duration = Duration::from_secs(10);

/// When a warning of one kind was last written, and how many were not.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    last: Cell<Option<Instant>>,
    held_back: Cell<u64>,
}

/// The kinds that a core knows.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    pub(super) proxy_header: Complaint,
    pub(super) full: Complaint,
    pub(super) client_limit: Complaint,
    pub(super) upstream_tls: Complaint,
}

impl Complaint {
    /// Calls `write` with the number of those held back, unless one was written lately.
    pub(super) fn warn(&self, now: Instant, write: impl FnOnce(u64)) {
        if self.last.get().is_some_and(|last| now.duration_since(last) < APART) {
            self.held_back.set(self.held_back.get() + 1);
            return;
        }
        self.last.set(Some(now));
        write(self.held_back.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_written_and_the_rest_are_counted() {
        let (complaint, start) = (Complaint::default(), Instant::now());
        let written = Cell::new(None);
        let warn = |after: u64| {
            written.set(None);
            complaint.warn(start + Duration::from_secs(after), |more| written.set(Some(more)));
            written.get()
        };
        assert_eq!([warn(0), warn(1), warn(9)], [Some(0), None, None]);
        assert_eq!([warn(10), warn(11), warn(30)], [Some(2), None, Some(1)]);
    }
}
