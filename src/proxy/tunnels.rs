//! The tunnels of a core, and when each of them has to end: an order of the control plane reaches them here.
//!
//! WebSockets are closed one after the other, spread over a time, so that their clients do not all come
//! back at once. Everything else is cut.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use crate::config::plan::DrainPlan;

/// When a tunnel has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leave {
    /// When it begins to.
    at: Instant,
    /// When whatever is left is cut.
    by: Instant,
}

/// One tunnel.
#[derive(Debug)]
pub(super) struct Entry {
    server: u32,
    /// For one that can be closed: how.
    closes: Option<DrainPlan>,
    leave: Cell<Option<Leave>>,
    told: Notify,
}

impl Entry {
    fn tell(&self, leave: Option<Leave>) {
        self.leave.set(leave);
        self.told.notify_one();
    }

    /// Waits until the tunnel has to begin to end; by when it has to be over.
    pub(super) async fn due(&self) -> Instant {
        loop {
            match self.leave.get() {
                None => self.told.notified().await,
                Some(leave) if leave.at <= Instant::now() => return leave.by,
                Some(leave) => tokio::select! {
                    () = sleep_until(leave.at.into()) => {}
                    () = self.told.notified() => {}
                },
            }
        }
    }

    /// Waits until it is cut.
    pub(super) async fn cut(&self) {
        loop {
            self.told.notified().await;
            if self.leave.get().is_some_and(|leave| leave.by <= Instant::now()) {
                return;
            }
        }
    }
}

/// The tunnels of a core.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    list: RefCell<Vec<Rc<Entry>>>,
    /// When the process ends.
    ends: Cell<Option<Instant>>,
}

impl Tunnels {
    /// Adds one to a server; `closes` for a WebSocket.
    pub(super) fn add(&self, server: u32, closes: Option<DrainPlan>) -> Rc<Entry> {
        let entry = Rc::new(Entry { server, closes, leave: Cell::new(None), told: Notify::new() });
        if let (Some(plan), Some(ends)) = (closes, self.ends.get()) {
            // It has come too late for its place in the row.
            let now = Instant::now();
            let (from, over) = plan.closing(ends.saturating_duration_since(now));
            entry.leave.set(Some(Leave { at: now + from + over, by: ends }));
        }
        self.list.borrow_mut().push(Rc::clone(&entry));
        entry
    }

    pub(super) fn remove(&self, entry: &Rc<Entry>) {
        self.list.borrow_mut().retain(|listed| !Rc::ptr_eq(listed, entry));
    }

    /// Closes the WebSockets of these servers, spread over `over`; whatever is left `within` is cut.
    pub(super) fn close(&self, servers: &[u32], over: Duration, within: Duration, core: (usize, usize)) {
        let now = Instant::now();
        self.spread(core, |entry| servers.contains(&entry.server), |_| (now, over, now + within));
    }

    /// Closes every WebSocket before `ends`.
    pub(super) fn stop(&self, now: Instant, ends: Instant, core: (usize, usize)) {
        self.ends.set(Some(ends));
        let left = ends.saturating_duration_since(now);
        self.spread(
            core,
            |_| true,
            |plan| {
                let (from, over) = plan.closing(left);
                (now + from, over, ends)
            },
        );
    }

    /// Each has a part of the time and ends in the middle of it; cores take turns.
    fn spread(
        &self,
        (core, cores): (usize, usize),
        which: impl Fn(&Entry) -> bool,
        when: impl Fn(&DrainPlan) -> (Instant, Duration, Instant),
    ) {
        let list = self.list.borrow();
        let chosen: Vec<_> = list.iter().filter(|entry| which(entry)).collect();
        let closing: Vec<_> = chosen.iter().filter_map(|entry| Some((entry, entry.closes.as_ref()?))).collect();
        let parts = (closing.len() * cores) as f64;
        for (i, (entry, plan)) in closing.into_iter().enumerate() {
            let (from, over, by) = when(plan);
            let at = from + over.mul_f64(((i * cores + core) as f64 + 0.5) / parts);
            // Of two orders the earlier one holds.
            if entry.leave.get().is_none_or(|leave| at < leave.at) {
                entry.tell(Some(Leave { at, by }));
            }
        }
    }

    /// Lets tunnels of these servers go on that have not begun to end.
    pub(super) fn stay(&self, servers: &[u32]) {
        if self.ends.get().is_none() {
            self.of(servers, |entry| entry.tell(None));
        }
    }

    /// Ends those of these servers now.
    pub(super) fn cut(&self, servers: &[u32]) {
        let now = Instant::now();
        self.of(servers, |entry| entry.tell(Some(Leave { at: now, by: now })));
    }

    fn of(&self, servers: &[u32], tell: impl Fn(&Entry)) {
        self.list.borrow().iter().filter(|entry| servers.contains(&entry.server)).for_each(|entry| tell(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::UpstreamPlan;

    fn plan(close_spread: u64) -> DrainPlan {
        DrainPlan { close_spread: Duration::from_secs(close_spread), ..UpstreamPlan::example().drain }
    }

    fn of_two_cores(plans: &[Option<DrainPlan>]) -> Vec<(Tunnels, Vec<Rc<Entry>>)> {
        let one = || {
            let tunnels = Tunnels::default();
            let entries = plans.iter().map(|plan| tunnels.add(1, *plan)).collect();
            (tunnels, entries)
        };
        vec![one(), one()]
    }

    #[test]
    fn they_are_spread_evenly_over_all_cores() {
        let cores = of_two_cores(&[Some(plan(10)), None, Some(plan(10))]);
        let mut at = Vec::new();
        for (core, (tunnels, entries)) in cores.iter().enumerate() {
            let other = tunnels.add(2, Some(plan(10)));
            let now = Instant::now();
            tunnels.close(&[1], Duration::from_secs(8), Duration::from_secs(9), (core, 2));
            assert_eq!((other.leave.get(), entries[1].leave.get()), (None, None));
            at.extend([0, 2].map(|i| (entries[i].leave.get().unwrap().at - now).as_secs()));
        }
        at.sort_unstable();
        assert_eq!(at, [1, 3, 5, 7]);
        let (tunnels, entries) = &cores[0];
        tunnels.stay(&[1]);
        assert!(entries.iter().all(|entry| entry.leave.get().is_none()));
    }

    #[test]
    fn the_end_of_the_process_closes_each_in_the_time_of_its_upstream() {
        let tunnels = Tunnels::default();
        let (soon, late) = (tunnels.add(1, Some(plan(20))), tunnels.add(2, Some(plan(1))));
        let now = Instant::now();
        let ends = now + Duration::from_secs(30);
        tunnels.stop(now, ends, (0, 1));
        let at = |entry: &Entry| (entry.leave.get().unwrap().at - now).as_secs();
        // 9 s and a quarter of 20 s; 28 s and three quarters of 1 s.
        assert_eq!((at(&soon), at(&late)), (14, 28));
        let newest = tunnels.add(1, Some(plan(20)));
        assert!(newest.leave.get().is_some_and(|leave| leave.by == ends));
        tunnels.stay(&[1]);
        assert!(soon.leave.get().is_some(), "nothing keeps the process");
    }
}
