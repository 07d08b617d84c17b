//! Requests that wait for a server with room, each core's in the order in which they came.
//!
//! A request that finds every server full joins the line of its core and upstream. Whoever stands in it is
//! called when there is news for it: a request has ended ([`crate::upstream::Queue`] tells one core or all),
//! a new Snapshot says that servers came, went or changed, or a tick has passed, which is the safety net.
//! Only one in a line is called at a time, the first for whom there is news; when it has got a server, or
//! has found none, or is gone, it is the turn of the next behind it. So nobody is passed by a later one who
//! wants the same, and nobody who may go elsewhere waits behind one who insists on a full server.
//!
//! Waiting costs no timer: the deadline is that of the connection's watch. Who leaves the line, in
//! whatever way, does so in [`Place`]'s `Drop`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::core::{Core, CoreClaim, View};
use super::exchange::Exchange;
use super::request::{self, Unclaimed};
use super::sticky::Session;
use super::watch::{Phase, TICK, Watch};
use crate::balance::Pick;
use crate::error::{Kind, ProxyError};
use crate::metrics::cells::QueueCell;
use crate::upstream::{Queue, Service, Tried, Upstream, Wish};

/// The shortest wait for the next turn at a pace.
const SHORTEST: Duration = Duration::from_millis(1);

/// The lines of one core, by slot of the upstream.
#[derive(Debug, Default)]
pub(super) struct Lines(RefCell<HashMap<usize, Rc<Line>>>);

/// Those who wait on one core for one upstream.
#[derive(Debug)]
struct Line {
    slot: usize,
    core: usize,
    queue: Arc<Queue>,
    waiters: RefCell<BTreeMap<u64, Rc<Waiter>>>,
    /// How many of them not every server would do for.
    choosy: Cell<usize>,
    next: Cell<u64>,
    /// Whether a task listens for news.
    attended: Cell<bool>,
}

#[derive(Debug)]
struct Waiter {
    wish: RefCell<Wish>,
    /// The generation of the Snapshot that the wish was made by.
    made_by: Cell<u64>,
    called: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Waiter {
    /// Whether another server may be the one it wants by now: servers have come, gone or changed since it was
    /// picked, and who is picked by the client's address may be another. A pin stays what it is.
    fn is_outdated(&self, view: &View) -> bool {
        let wish = self.wish.borrow();
        wish.server.is_some() && !wish.pinned && self.made_by.get() != view.generation
    }
}

/// A place in a line; dropping it leaves the line.
struct Place {
    core: Rc<Core>,
    line: Rc<Line>,
    ticket: u64,
    waiter: Rc<Waiter>,
    since: Instant,
}

impl Lines {
    /// Calls those for whom `view` has news.
    pub(super) fn look(&self, view: &View) {
        for line in self.0.borrow().values() {
            line.call(view, 0);
        }
    }

    /// Whether anybody waits for that upstream already.
    pub(super) fn has_waiters(&self, upstream: &Upstream) -> bool {
        self.0.borrow().get(&upstream.slot).is_some_and(|line| !line.waiters.borrow().is_empty())
    }

    /// Whether nobody waits for what one who wants `wish` would take from them.
    fn lets_pass(&self, view: &View, upstream: &Upstream, wish: &Wish) -> bool {
        let wants_another = |waiter: &Rc<Waiter>| {
            let server = waiter.wish.borrow().server;
            server.is_some() && server != wish.server && !waiter.is_outdated(view)
        };
        self.0.borrow().get(&upstream.slot).is_none_or(|line| line.waiters.borrow().values().all(wants_another))
    }

    fn line(&self, core: usize, upstream: &Upstream) -> Rc<Line> {
        let mut lines = self.0.borrow_mut();
        let line = lines.entry(upstream.slot).or_insert_with(|| Rc::new(Line::new(core, upstream)));
        // An upstream that was removed and added again is another.
        if !Arc::ptr_eq(&line.queue, &upstream.queue) {
            *line = Rc::new(Line::new(core, upstream));
        }
        Rc::clone(line)
    }
}

impl Line {
    fn new(core: usize, upstream: &Upstream) -> Self {
        Self {
            slot: upstream.slot,
            core,
            queue: Arc::clone(&upstream.queue),
            waiters: RefCell::default(),
            choosy: Cell::default(),
            next: Cell::default(),
            attended: Cell::default(),
        }
    }

    fn counts(&self) -> &QueueCell {
        &self.queue.lines()[self.core].counts
    }

    /// Calls the first from `from` on for whom there is news, unless one who was called has yet to act.
    fn call(&self, view: &View, from: u64) {
        let waiters = self.waiters.borrow();
        if waiters.is_empty() {
            return;
        }
        let upstream = upstream_of(view, self.slot);
        for waiter in waiters.range(from..).map(|(_, waiter)| waiter) {
            if waiter.called.get() {
                return;
            }
            let has_news = |upstream: &Upstream| {
                let is_paused = matches!(upstream.service, Service::Paused { .. });
                upstream.has_news_for(&waiter.wish.borrow()) || (waiter.is_outdated(view) && !is_paused)
            };
            if upstream.is_none_or(has_news) {
                if let Some(rate) = upstream.and_then(released_at)
                    && !self.queue.pace.take(rate)
                {
                    return;
                }
                waiter.called.set(true);
                if let Some(waker) = &*waiter.waker.borrow() {
                    waker.wake_by_ref();
                }
                return;
            }
            if self.choosy.get() == 0 {
                // What is no news for one is none for those who want the same.
                return;
            }
        }
    }

    fn set_choosy(&self, from: bool, to: bool) {
        if from == to {
            return;
        }
        self.queue.set_choosy(to);
        self.choosy.set(if to { self.choosy.get() + 1 } else { self.choosy.get() - 1 });
    }
}

/// Listens for news while anybody waits.
async fn attend(core: Rc<Core>, line: Rc<Line>) {
    loop {
        let call = &line.queue.lines()[line.core].call;
        let releasing = upstream_of(&core.view(), line.slot).and_then(released_at).is_some();
        let wait = if releasing { line.queue.pace.wait().clamp(SHORTEST, TICK) } else { TICK };
        let _ = tokio::time::timeout(wait, call.notified()).await;
        if line.waiters.borrow().is_empty() {
            line.attended.set(false);
            return;
        }
        line.call(&core.view(), 0);
    }
}

fn upstream_of(view: &View, slot: usize) -> Option<&Upstream> {
    view.upstreams.iter().find(|upstream| upstream.slot == slot).map(|upstream| &**upstream)
}

/// How many of those who wait are served in a second, where it is said.
fn released_at(upstream: &Upstream) -> Option<u32> {
    if let Service::Releasing { rate, .. } = upstream.service { Some(rate) } else { None }
}

/// Whether who comes now has to join those who wait.
fn joins(core: &Core, upstream: &Upstream) -> bool {
    let others = match upstream.service {
        Service::Paused { .. } => return true,
        Service::Releasing { .. } => upstream.queue.waiting() > 0,
        Service::Open | Service::Closed(_) => false,
    };
    others || core.lines.has_waiters(upstream)
}

fn is_choosy(wish: &Wish) -> bool {
    wish.server.is_some() || !wish.not.is_empty()
}

impl Place {
    /// The last place in the line, or the wish back where as many wait as may.
    fn take(core: &Rc<Core>, view: &View, upstream: &Upstream, wish: Wish) -> Result<Self, Wish> {
        let line = core.lines.line(core.id, upstream);
        if !line.queue.join(core.id, upstream.plan.queue.size) {
            return Err(wish);
        }
        line.counts().queued.inc();
        let ticket = line.next.replace(line.next.get() + 1);
        line.set_choosy(false, is_choosy(&wish));
        let waiter = Rc::new(Waiter {
            wish: RefCell::new(wish),
            made_by: Cell::new(view.generation),
            called: Cell::new(false),
            waker: RefCell::default(),
        });
        line.waiters.borrow_mut().insert(ticket, Rc::clone(&waiter));
        if !line.attended.replace(true) {
            tokio::task::spawn_local(attend(Rc::clone(core), Rc::clone(&line)));
        }
        // What ended meanwhile has told nobody.
        line.call(&core.view(), 0);
        Ok(Self { core: Rc::clone(core), line, ticket, waiter, since: core.clock.get() })
    }

    /// Waits for news, or for what comes up for the connection.
    async fn called(&self, watch: &Watch) -> Result<(), Kind> {
        poll_fn(|cx| {
            // Who was called in time is served, even where the core was too busy to act on it.
            if self.waiter.called.get() {
                return Poll::Ready(Ok(()));
            }
            if let Some(kind) = watch.fault() {
                watch.take_alarm();
                return Poll::Ready(Err(kind));
            }
            *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The news was none: stays, and lets those behind have a look.
    fn stay(&self, wish: Wish) {
        let is_new = *self.waiter.wish.borrow() != wish;
        self.line.set_choosy(is_choosy(&self.waiter.wish.borrow()), is_choosy(&wish));
        *self.waiter.wish.borrow_mut() = wish;
        self.waiter.made_by.set(self.core.view().generation);
        self.waiter.called.set(false);
        // What it wants now may have come free before anybody knew that it does.
        self.line.call(&self.core.view(), if is_new { self.ticket } else { self.ticket + 1 });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let line = &self.line;
        line.waiters.borrow_mut().remove(&self.ticket);
        line.set_choosy(is_choosy(&self.waiter.wish.borrow()), false);
        line.queue.leave(line.core);
        line.counts().waited.record(self.core.now().duration_since(self.since));
        // From the front: who leaves may not have been called, and what is free now is for the first.
        line.call(&self.core.view(), 0);
    }
}

/// What a client that has not been told yet would wait for.
fn wish(exchange: &Exchange, upstream: &Upstream, session: Option<&Session>, tried: &Tried) -> Wish {
    let pin = session.and_then(Session::pin);
    let asker = exchange.asker(pin);
    let pick = exchange.conn.core.with_scratch(upstream.slot, |s| upstream.pick(&asker, tried, &mut s.policy));
    upstream.wish(pick.filter(|pick| upstream.insists(*pick)), tried)
}

/// How long a request waits: what the queue allows, after a hold.
fn patience(upstream: &Upstream, now: Instant) -> Duration {
    upstream.service.holds_for(now).unwrap_or_default() + upstream.plan.queue.timeout
}

/// Claims a server, where need be after a wait. None where no server is left to wait for.
pub(super) async fn claim(
    exchange: &mut Exchange,
    session: Option<&Session>,
    tried: &mut Tried,
) -> Result<Option<(Pick, CoreClaim)>, ProxyError> {
    let conn = Rc::clone(&exchange.conn);
    let core = &conn.core;
    let mut view = Rc::clone(&exchange.view);
    let mut position = exchange.target.ok_or(ProxyError::new(Kind::Internal))?;
    let upstream = &view.upstreams[position];
    if let Some(notice) = upstream.service.notice() {
        return Err(ProxyError::closed(&notice.message, notice.retry_after));
    }
    let first = if joins(core, upstream) {
        wish(exchange, upstream, session, tried)
    } else {
        match request::claim(exchange, upstream, position, session, tried) {
            Ok(claimed) => return Ok(Some(claimed)),
            Err(Unclaimed::Nobody) => return Ok(None),
            Err(Unclaimed::Full(wish)) => wish,
        }
    };
    let place = match Place::take(core, &view, upstream, first) {
        Ok(place) => place,
        Err(wish) => {
            // Those who wait for another server do not keep this one from its own clients.
            if matches!(upstream.service, Service::Open)
                && core.lines.lets_pass(&view, upstream, &wish)
                && let Ok(claimed) = request::claim(exchange, upstream, position, session, tried)
            {
                return Ok(Some(claimed));
            }
            core.lines.line(core.id, upstream).counts().overflows.inc();
            return Err(ProxyError::new(Kind::QueueFull));
        }
    };
    conn.watch.uses(None);
    conn.watch.enter(Phase::Queue, core.clock.get(), patience(upstream, core.clock.get()));
    let mut is_held = upstream.service.holds_for(core.clock.get()).is_some();
    loop {
        let called = place.called(&conn.watch).await;
        // Servers may have come and gone meanwhile.
        view = request::refreshed(exchange, view, tried);
        position = exchange.target.ok_or(ProxyError::new(Kind::Internal))?;
        let upstream = &view.upstreams[position];
        if let Some(notice) = upstream.service.notice() {
            return Err(ProxyError::closed(&notice.message, notice.retry_after));
        }
        let now = core.now();
        if std::mem::replace(&mut is_held, upstream.service.holds_for(now).is_some()) && !is_held && called.is_ok() {
            // The hold ended earlier than it was to: from now on it is the servers that are waited for.
            conn.watch.enter(Phase::Queue, now, patience(upstream, now));
        }
        if let Err(kind) = called {
            if kind != Kind::QueueTimeout {
                return Err(ProxyError::new(kind));
            }
            if upstream.service.holds_for(now).is_some() {
                // It came before the pause, or the pause became longer: that is not its servers' time.
                conn.watch.enter(Phase::Queue, now, patience(upstream, now));
                continue;
            }
            place.line.counts().timeouts.inc();
            return Err(ProxyError::new(kind));
        }
        if matches!(upstream.service, Service::Paused { .. }) {
            // Called at the moment the pause began.
            place.stay(wish(exchange, upstream, session, tried));
            continue;
        }
        match request::claim(exchange, upstream, position, session, tried) {
            Ok(claimed) => {
                exchange.has_waited();
                // What is left of its time is not the server's.
                conn.watch.hurry();
                return Ok(Some(claimed));
            }
            Err(Unclaimed::Nobody) => return Ok(None),
            Err(Unclaimed::Full(wish)) => place.stay(wish),
        }
    }
}

#[cfg(test)]
mod tests;
