//! Deadlines without a timer per request.
//!
//! Each client connection has one [`Watch`]: what it is waiting for ([`Phase`]) and until when. A
//! request only writes these cells. A core looks through its watches a few times a second while any
//! connection is active and wakes the tasks whose deadline has passed; so a deadline is kept to about
//! [`TICK`], never early, and costs no system call, no allocation and no timer entry per request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::error::{Kind, Side};

/// How late a deadline may be noticed.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// A connection without a request for this long gives up its parser and buffers.
pub(super) const PARK_AFTER: Duration = Duration::from_secs(1);

/// No limit, in a form that can be added to an instant.
pub(super) const FOREVER: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// What a client connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The next request.
    Idle,
    /// The rest of a request's head.
    Head,
    /// More of the client's body.
    ClientBody,
    /// The server to take more of the client's body.
    UpstreamWrite,
    /// The client to take its answer.
    ClientWrite,
    /// The client to take the end of an answer whose exchange is over.
    Flush,
    /// A server to have room.
    Queue,
    /// A connection to a server.
    Connect,
    /// The head of the answer.
    FirstByte,
    /// More of the answer's body.
    UpstreamBody,
    /// A password to be verified.
    Verify,
    /// Nothing that is timed here: a tunnel has its own clock.
    Tunnel,
    /// An HTTP/2 connection: more frames. Requests on it have watches of their own.
    Open,
    /// An HTTP/2 stream whose request has not been looked at.
    Begun,
}

impl Phase {
    /// What is said when the deadline passes in this phase.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Idle | Self::Head | Self::Tunnel | Self::Open | Self::Begun => Kind::HeaderTimeout,
            Self::ClientBody => Kind::BodyTimeout,
            Self::ClientWrite | Self::Flush => Kind::ClientGone,
            Self::Verify => Kind::AuthBusy,
            Self::Queue => Kind::QueueTimeout,
            Self::Connect => Kind::ConnectTimeout,
            Self::FirstByte => Kind::FirstByteTimeout,
            Self::UpstreamBody | Self::UpstreamWrite => Kind::BetweenBytesTimeout,
        }
    }
}

/// What has come upon a connection from outside its own task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alarm {
    /// The deadline of the phase has passed.
    Deadline,
    /// The request has taken longer than it may in all.
    Total,
    /// The server it uses is cut.
    Cut,
    /// The server sends interim answers without end.
    Overrun,
    /// The client sends its body too slowly, though without a pause.
    SlowBody,
    /// The client takes its answer too slowly, though without a pause.
    SlowTaking,
    /// It was idle long enough to be parked.
    Park,
    /// It is idle and the process stops.
    Close,
}

/// How much must move while the client is waited for.
#[derive(Debug, Clone, Copy)]
struct Pace {
    least: u64,
    span: Duration,
}

/// The deadline of one client connection.
#[derive(Debug)]
pub(super) struct Watch {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    deadline: Cell<Instant>,
    /// End of the whole request, where one is set.
    total: Cell<Option<Instant>>,
    /// Whether that end is a deadline of the client's own.
    hurried: Cell<bool>,
    /// Uid of the server in use plus one; 0 is none.
    server: Cell<u32>,
    alarm: Cell<Option<Alarm>>,
    /// Whether an HTTP/2 connection has heard that the process stops.
    told: Cell<bool>,
    /// How much must move while the client is waited for, where that is bounded.
    pace: Cell<Option<Pace>>,
    /// Bytes that have moved since the pace was last judged.
    moved: Cell<u64>,
    /// How long the client was waited for since, as far as was looked.
    waited: Cell<Duration>,
    looked: Cell<Instant>,
    waker: RefCell<Option<Waker>>,
}

impl Watch {
    fn new(now: Instant, idle: Duration) -> Self {
        Self {
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            deadline: Cell::new(now + idle),
            total: Cell::new(None),
            hurried: Cell::new(false),
            server: Cell::new(0),
            alarm: Cell::new(None),
            told: Cell::new(false),
            pace: Cell::new(None),
            moved: Cell::new(0),
            waited: Cell::new(Duration::ZERO),
            looked: Cell::new(now),
            waker: RefCell::new(None),
        }
    }

    /// Enters a phase that must end within `limit` of `now`.
    pub(super) fn enter(&self, phase: Phase, now: Instant, limit: Duration) {
        self.phase.set(phase);
        self.since.set(now);
        if phase == Phase::Idle {
            self.moved.set(0);
            self.waited.set(Duration::ZERO);
        }
        self.extend(now, limit);
    }

    /// Gives the phase another `limit` from `now`, because something moved.
    pub(super) fn extend(&self, now: Instant, limit: Duration) {
        self.deadline.set(now + limit);
        if self.alarm.get() == Some(Alarm::Deadline) {
            // What was late has come after all, before anybody acted on it.
            self.alarm.set(None);
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Sets or clears the end of the whole request. `hurried`: the client wants it, not the configuration.
    pub(super) fn limit_total(&self, end: Option<Instant>, hurried: bool) {
        self.total.set(end);
        self.hurried.set(hurried);
    }

    /// The request has waited for something else than its server: that its time is over is not the server's doing.
    pub(super) fn hurry(&self) {
        self.hurried.set(true);
    }

    /// Whether a request that failed like this says something about its server, rather than about its
    /// client or the proxy.
    pub(super) fn blames_server(&self, kind: Kind) -> bool {
        match kind {
            Kind::Cut => false,
            Kind::RequestTimeout => !self.hurried.get(),
            kind => kind.side() == Side::Upstream,
        }
    }

    /// Says which server the connection uses now, by uid.
    pub(super) fn uses(&self, server: Option<u32>) {
        self.server.set(server.map_or(0, |uid| uid.wrapping_add(1)));
    }

    /// When the phase began.
    pub(super) fn since(&self) -> Instant {
        self.since.get()
    }

    /// What has come up, left in place.
    pub(super) fn alarm(&self) -> Option<Alarm> {
        self.alarm.get()
    }

    /// Takes what has come up, if anything.
    pub(super) fn take_alarm(&self) -> Option<Alarm> {
        self.alarm.take()
    }

    /// What has come up for the request that runs, as an error; it stays until taken.
    pub(super) fn fault(&self) -> Option<Kind> {
        match self.alarm.get()? {
            Alarm::Deadline => Some(self.phase.get().kind()),
            Alarm::Total => Some(Kind::RequestTimeout),
            Alarm::Cut => Some(Kind::Cut),
            Alarm::Overrun => Some(Kind::BadAnswer),
            Alarm::SlowBody => Some(Kind::BodyTimeout),
            Alarm::SlowTaking => Some(Kind::ClientGone),
            Alarm::Park | Alarm::Close => None,
        }
    }

    /// The server sends interim answers without end.
    pub(super) fn overrun(&self) {
        self.alarm.set(Some(Alarm::Overrun));
    }

    /// Wakes the task.
    pub(super) fn waker(&self) -> Option<Waker> {
        self.waker.borrow().clone()
    }

    /// The task to wake; a task keeps its waker for life, so this is set once.
    pub(super) fn set_waker(&self, waker: &Waker) {
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|w| w.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// Has whoever sends or takes fewer than `rate` bytes per second over `span` of waiting for it given
    /// up; a rate of 0 is any.
    pub(super) fn set_pace(&self, rate: u64, span: Duration) {
        let least = u64::try_from(u128::from(rate).saturating_mul(span.as_millis()) / 1000).unwrap_or(u64::MAX);
        self.pace.set((rate > 0).then_some(Pace { least, span }));
    }

    /// Bytes have come from the client or gone to it.
    pub(super) fn moved(&self, bytes: usize) {
        self.moved.set(self.moved.get().saturating_add(bytes as u64));
    }

    /// Whether the client is too slow. It is judged by samples: each look that finds it waited for counts
    /// for the time since the look before.
    fn too_slow(&self, now: Instant) -> Option<Alarm> {
        let since = now.saturating_duration_since(self.looked.replace(now));
        let alarm = match self.phase.get() {
            Phase::ClientBody => Alarm::SlowBody,
            Phase::ClientWrite | Phase::Flush => Alarm::SlowTaking,
            _ => return None,
        };
        let pace = self.pace.get()?;
        // A core that was busy for long has not waited for long.
        let waited = self.waited.get() + since.min(2 * TICK);
        self.waited.set(waited);
        if waited < pace.span {
            return None;
        }
        self.waited.set(Duration::ZERO);
        (self.moved.take() < pace.least).then_some(alarm)
    }

    fn raise(&self, alarm: Alarm) {
        self.alarm.set(Some(alarm));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn look(&self, now: Instant, closing: Option<Instant>) {
        if self.alarm.get().is_some() {
            return;
        }
        match self.phase.get() {
            Phase::Idle => {
                if closing.is_some_and(|from| now >= from.max(self.since.get())) {
                    self.raise(Alarm::Close);
                } else if now >= self.deadline.get() {
                    self.raise(Alarm::Deadline);
                } else if closing.is_none() && now.duration_since(self.since.get()) >= PARK_AFTER {
                    self.raise(Alarm::Park);
                }
            }
            Phase::Open => {
                if closing.is_some() && !self.told.replace(true) {
                    self.raise(Alarm::Close);
                } else if now >= self.deadline.get() {
                    self.raise(Alarm::Deadline);
                }
            }
            Phase::Tunnel => {}
            _ if self.total.get().is_some_and(|end| now >= end) => self.raise(Alarm::Total),
            _ if now >= self.deadline.get() => self.raise(Alarm::Deadline),
            _ => {
                if let Some(alarm) = self.too_slow(now) {
                    self.raise(alarm);
                }
            }
        }
    }
}

/// The watches of one core.
#[derive(Debug, Default)]
pub(super) struct Watches {
    list: RefCell<Slab<Rc<Watch>>>,
}

/// Keeps a watch in its core's list; dropping it takes it out.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) watch: Rc<Watch>,
    key: usize,
    watches: Rc<Watches>,
}

impl Watches {
    /// Adds the watch of a new connection, idle from `now` for at most `idle`.
    pub(super) fn add(self: &Rc<Self>, now: Instant, idle: Duration) -> Watched {
        let watch = Rc::new(Watch::new(now, idle));
        let key = self.list.borrow_mut().insert(Rc::clone(&watch));
        Watched { watch, key, watches: Rc::clone(self) }
    }

    /// Whether any connection is active.
    pub(super) fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    /// Wakes every connection whose deadline has passed. From `closing` on, idle ones are closed.
    pub(super) fn look(&self, now: Instant, closing: Option<Instant>) {
        for (_, watch) in &*self.list.borrow() {
            watch.look(now, closing);
        }
    }

    /// Ends every request on one of these servers.
    pub(super) fn cut(&self, servers: &[u32]) {
        for (_, watch) in &*self.list.borrow() {
            let used = watch.server.get();
            if used != 0 && servers.contains(&(used - 1)) {
                watch.raise(Alarm::Cut);
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watches.list.borrow_mut().remove(self.key);
    }
}
