//! What requests are served in.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::plan::ListenerPlan;
use crate::proxy::admit::Entry;
use crate::proxy::client::Peer;
use crate::proxy::core::Core;
use crate::proxy::stream::Wire;
use crate::proxy::tls::{self, Secure};
use crate::proxy::upgrade::Tunnel;
use crate::proxy::watch::{Phase, Watch};

/// What all requests of one connection share.
pub(in crate::proxy) struct Link {
    pub(in crate::proxy) core: Rc<Core>,
    pub(in crate::proxy) slot: usize,
    pub(in crate::proxy) peer: Peer,
    pub(in crate::proxy) entry: Rc<Entry>,
    pub(in crate::proxy) plan: Arc<ListenerPlan>,
    pub(in crate::proxy) protocol: Protocol,
    /// None in clear.
    pub(in crate::proxy) secure: Option<Rc<Secure>>,
}

impl Link {
    /// Whether the connection is to end when what it carries now has: it has carried as many requests as
    /// one may, its listener was removed or is secured in another way now, or the process stops.
    pub(in crate::proxy) fn is_ending(&self) -> bool {
        let secure = self.secure.as_deref();
        self.entry.is_spent(&self.plan)
            || self.core.is_leaving(self.slot)
            || !self.core.with_listener(self.slot, |plan| tls::is_as_agreed(plan, secure))
    }
}

/// What a client's connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Protocol {
    Http1,
    Http2,
}

/// What requests are served in, one at a time: an HTTP/1 connection, or one stream of an HTTP/2
/// connection.
pub(in crate::proxy) struct Conn {
    pub(in crate::proxy) link: Rc<Link>,
    pub(in crate::proxy) watch: Rc<Watch>,
    /// Set by the request that switched protocols.
    pub(in crate::proxy) tunnel: RefCell<Option<Tunnel>>,
    /// Whether the last request was answered before the end of its body, so that what comes next may
    /// be the rest of it.
    pub(in crate::proxy) linger: Cell<bool>,
    /// What interim answers come by; of an HTTP/1 connection also what its stream and its parser share.
    pub(in crate::proxy) wire: Option<Rc<Wire>>,
}

impl Link {
    pub(in crate::proxy) fn new(
        core: &Rc<Core>,
        slot: usize,
        entry: &Rc<Entry>,
        plan: &Arc<ListenerPlan>,
        protocol: Protocol,
        secure: Option<Rc<Secure>>,
    ) -> Self {
        let (core, entry, plan) = (Rc::clone(core), Rc::clone(entry), Arc::clone(plan));
        Self { core, slot, peer: Peer::new(entry.peer), entry, plan, protocol, secure }
    }

    /// The same for requests that may outlive the connection, and do not keep its place.
    pub(in crate::proxy) fn aside(&self) -> Self {
        let entry = Rc::new(self.entry.uncounted());
        Self::new(&self.core, self.slot, &entry, &self.plan, self.protocol, self.secure.clone())
    }
}

impl Deref for Conn {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Conn {
    pub(in crate::proxy) fn new(link: &Rc<Link>, watch: &Rc<Watch>) -> Self {
        Self {
            link: Rc::clone(link),
            watch: Rc::clone(watch),
            tunnel: RefCell::new(None),
            linger: Cell::new(false),
            wire: None,
        }
    }

    /// The exchange is over; the next request may come.
    pub(in crate::proxy) fn idle(&self) {
        // What came up for the exchange that is over must not meet the next one.
        self.watch.take_alarm();
        self.watch.limit_total(None, false);
        match self.protocol {
            Protocol::Http1 => self.watch.enter(Phase::Idle, self.core.clock.get(), self.plan.idle_timeout),
            // A stream has no next request: its client has to take what is left.
            Protocol::Http2 => self.watch.enter(Phase::Flush, self.core.clock.get(), self.plan.between_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::core::tests::core;
    use std::time::Duration;

    #[test]
    fn what_came_up_for_an_exchange_that_is_over_does_not_meet_the_next() {
        let core = Rc::new(core());
        let plan = Arc::new(ListenerPlan::example());
        let entry = Rc::new(Entry::alone(&core));
        let (watches, now) = (Rc::clone(&core.watches), core.now());
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let watched = watches.add(now, plan.idle_timeout);
            let link = Rc::new(Link::new(&core, 0, &entry, &plan, protocol, None));
            let conn = Conn::new(&link, &watched.watch);
            watched.watch.limit_total(Some(now), false);
            watched.watch.enter(Phase::FirstByte, now, Duration::ZERO);
            watches.look(now + Duration::from_secs(1), None);
            assert!(watched.watch.alarm().is_some(), "it was raised while the exchange ran");
            conn.idle();
            assert_eq!((watched.watch.alarm(), watched.watch.fault()), (None, None));
            watched.watch.enter(Phase::FirstByte, now, Duration::from_secs(9));
            watches.look(now + Duration::from_secs(1), None);
            assert_eq!(watched.watch.alarm(), None, "nor does the end of the whole request");
        }
    }
}
