//! How many requests a server may have at once over all cores, and who is told when one of them ends.
//!
//! A [`Gate`] belongs to a server, a [`Queue`] to an upstream. Both only count and wake: which request is
//! next is decided by the core that it came to, in its own order.
//!
//! Invariant *a limit is never passed*: one atomic per server counts the claims of all cores, and is
//! raised only while it is below the limit. It is not touched where there is none.
//!
//! Invariant *nobody waits for a free server*: who waits first says so in [`Queue::waiting`] and then looks
//! at the gate once more; who leaves the gate first lowers its count and then looks whether anybody waits.
//! All of it is sequentially consistent, so at least one of them sees the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use tokio::sync::Notify;

use super::server::WHOLE_SHARE;
use super::service::Pace;
use crate::metrics::cells::QueueCell;

/// No limit.
const UNLIMITED: u32 = u32::MAX;

/// The limit of one server and what counts against it.
#[derive(Debug)]
pub struct Gate {
    /// The limit that is configured.
    whole: AtomicU32,
    /// Tenths of it that hold now.
    share: AtomicU32,
    /// What follows from both.
    limit: AtomicU32,
    held: AtomicU32,
    /// Requests of another process behind the same limit.
    elsewhere: AtomicU32,
    queue: Arc<Queue>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(u64::MAX, Arc::default())
    }
}

impl Gate {
    /// A gate for `limit` claims at once, where those who find it full wait in `queue`.
    #[must_use]
    pub fn new(limit: u64, queue: Arc<Queue>) -> Self {
        let gate = Self {
            whole: AtomicU32::new(UNLIMITED),
            share: AtomicU32::new(WHOLE_SHARE),
            limit: AtomicU32::new(UNLIMITED),
            held: AtomicU32::new(0),
            elsewhere: AtomicU32::new(0),
            queue,
        };
        gate.set_limit(limit);
        gate
    }

    /// Sets the limit; `u64::MAX` is none. Only the control plane calls this. Claims that were taken while
    /// there was none are not counted.
    pub fn set_limit(&self, limit: u64) {
        self.whole.store(u32::try_from(limit).unwrap_or(UNLIMITED), Relaxed);
        self.settle();
    }

    /// Sets the tenths of the limit that hold, for a server in its slow start. Only the control plane calls
    /// this, and then publishes a new Snapshot, by which those who wait learn of it.
    pub fn set_share(&self, tenths: u32) {
        self.share.store(tenths.min(WHOLE_SHARE), Relaxed);
        self.settle();
    }

    fn settle(&self) {
        let (whole, share) = (self.whole.load(Relaxed), self.share.load(Relaxed));
        // At least one, or nobody could ever warm the server up.
        let part = || (u64::from(whole) * u64::from(share)).div_ceil(u64::from(WHOLE_SHARE)).max(1) as u32;
        self.limit.store(if whole == UNLIMITED { UNLIMITED } else { part() }, Relaxed);
    }

    /// The limit of a server that is not in its slow start, if there is one.
    #[must_use]
    pub fn whole(&self) -> Option<u32> {
        Some(self.whole.load(Relaxed)).filter(|limit| *limit != UNLIMITED)
    }

    /// Most claims at once, if there is a limit.
    #[must_use]
    pub fn limit(&self) -> Option<u32> {
        let limit = Some(self.limit.load(Relaxed)).filter(|limit| *limit != UNLIMITED);
        limit.map(|limit| limit.saturating_sub(self.elsewhere.load(Relaxed)))
    }

    /// Says how many requests another process has in flight behind the same limit. Only the control plane calls
    /// this, and what that process takes before it is said here is not counted.
    pub(super) fn set_elsewhere(&self, count: u32) {
        if self.elsewhere.swap(count, SeqCst) > count {
            self.queue.tell();
        }
    }

    /// Most claims at once for one more: all that a server may have for a client that is pinned to it, whom
    /// no other server can spare it in its slow start.
    #[must_use]
    pub fn limit_for(&self, pinned: bool) -> Option<u32> {
        if pinned { self.whole() } else { self.limit() }
    }

    /// Whether as many claims are held as there may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full_for(false)
    }

    /// Whether they are for a client that may be pinned here.
    #[must_use]
    pub fn is_full_for(&self, pinned: bool) -> bool {
        self.limit_for(pinned).is_some_and(|limit| self.held.load(SeqCst) >= limit)
    }

    /// Enters, where there is room: whoever does has to leave.
    pub(super) fn enter(&self, limit: u32) -> bool {
        self.held.fetch_update(SeqCst, SeqCst, |held| (held < limit).then_some(held + 1)).is_ok()
    }

    pub(super) fn leave(&self) {
        self.held.fetch_sub(1, SeqCst);
        self.queue.tell();
    }
}

/// Those who wait for the servers of one upstream. It outlives reloads.
#[derive(Debug, Default)]
pub struct Queue {
    /// Of all cores.
    waiting: AtomicU32,
    /// Those of them whom not every server would do.
    choosy: AtomicU32,
    /// Whose turn it is to be told.
    turn: AtomicUsize,
    /// At what pace they are served after a pause.
    pub pace: Pace,
    /// One per core.
    lines: Box<[Line]>,
}

/// What one core's part of a queue shares with others.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Line {
    waiting: AtomicU32,
    /// Told when a server may have room for somebody who waits here.
    pub call: Notify,
    pub counts: QueueCell,
}

impl Queue {
    /// The queue of an upstream, with nobody in it.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { lines: (0..cores).map(|_| Line::default()).collect(), ..Self::default() }
    }

    /// Those who wait, of all cores.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    /// One part per core.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Joins the line of `core` unless `size` requests wait already. Whoever has joined has to leave.
    pub fn join(&self, core: usize, size: u32) -> bool {
        let Some(line) = self.lines.get(core) else { return false };
        let joined = self.waiting.fetch_update(SeqCst, SeqCst, |n| (n < size).then_some(n + 1)).is_ok();
        if joined {
            line.waiting.fetch_add(1, SeqCst);
        }
        joined
    }

    /// Leaves the line of `core`.
    pub fn leave(&self, core: usize) {
        self.waiting.fetch_sub(1, SeqCst);
        if self.lines[core].waiting.fetch_sub(1, SeqCst) == 1 {
            // What it was told may have been meant for several.
            self.tell();
        }
    }

    /// Says that somebody who waits has begun, or ceased, to want a certain server.
    pub fn set_choosy(&self, choosy: bool) {
        if choosy {
            self.choosy.fetch_add(1, SeqCst);
        } else {
            self.choosy.fetch_sub(1, SeqCst);
        }
    }

    /// Tells a core where somebody waits that there may be room: each in turn, or all of them where those
    /// who wait want different servers.
    pub fn tell(&self) {
        if self.waiting() == 0 {
            return;
        }
        let all = self.choosy.load(SeqCst) > 0;
        let from = self.turn.fetch_add(1, Relaxed);
        let turn = (0..self.lines.len()).map(|i| &self.lines[from.wrapping_add(i) % self.lines.len()]);
        for line in turn.filter(|line| line.waiting.load(SeqCst) > 0) {
            line.call.notify_one();
            if !all {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_never_passed() {
        let gate = Arc::new(Gate::new(3, Arc::default()));
        let most = Arc::new(AtomicU32::new(0));
        let inside = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (gate, most, inside) = (Arc::clone(&gate), Arc::clone(&most), Arc::clone(&inside));
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        if gate.enter(3) {
                            most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                            inside.fetch_sub(1, SeqCst);
                            gate.leave();
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!((1..=3).contains(&most.load(SeqCst)));
        assert!(!gate.is_full());
        assert_eq!(gate.held.load(SeqCst), 0);
    }

    #[test]
    fn a_share_of_the_limit_is_never_nothing_and_never_more() {
        let gate = Gate::new(25, Arc::default());
        for (tenths, limit) in [(1, 3), (2, 5), (9, 23), (10, 25), (11, 25), (0, 1)] {
            gate.set_share(tenths);
            assert_eq!((gate.limit(), gate.whole()), (Some(limit), Some(25)), "{tenths}");
        }
        gate.set_share(1);
        gate.set_limit(4);
        assert_eq!((gate.limit(), gate.limit_for(true)), (Some(1), Some(4)));
        assert!(gate.enter(1) && !gate.enter(1) && gate.is_full() && !gate.is_full_for(true));
        gate.leave();
        gate.set_limit(u64::MAX);
        assert_eq!((gate.limit(), gate.whole()), (None, None));
        gate.set_limit(u64::from(u32::MAX) - 1);
        gate.set_share(10);
        assert_eq!(gate.limit(), Some(u32::MAX - 1));
    }

    #[test]
    fn a_queue_takes_no_more_than_its_size_over_all_cores() {
        let queue = Queue::new(2);
        assert!(queue.join(0, 2) && queue.join(1, 2));
        assert!(!queue.join(0, 2) && !queue.join(1, 2) && !queue.join(0, 0));
        queue.leave(1);
        assert_eq!(queue.waiting(), 1);
        assert!(queue.join(0, 2));
    }

    #[tokio::test]
    async fn cores_are_told_in_turn_and_all_where_it_matters_who() {
        let queue = Queue::new(3);
        let told = |core: usize| {
            let call = &queue.lines()[core].call;
            async move { tokio::time::timeout(std::time::Duration::ZERO, call.notified()).await.is_ok() }
        };
        queue.tell();
        assert!(!told(0).await && !told(1).await && !told(2).await, "nobody waits");
        assert!(queue.join(0, 9) && queue.join(2, 9));
        queue.tell();
        queue.tell();
        assert!(told(0).await && !told(1).await && told(2).await);
        queue.tell();
        assert!(told(0).await != told(2).await);
        queue.set_choosy(true);
        queue.tell();
        assert!(told(0).await && !told(1).await && told(2).await);
    }
}
