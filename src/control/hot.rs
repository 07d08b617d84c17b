//! Hot keys and the forgotten proxy: what cores have counted of clients, looked at once a second.
//!
//! Who is hot and whose key is spread is decided in [`crate::balance::hot`]; here it is put in force, shown and
//! said. A line in the log names an address and a server once, not with each look.

mod carried;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

pub(super) use carried::CarriedHot;

use super::api::{ForgottenProxy, HotKeyStatus};
use super::registry::Group;
use super::supervisor::Supervisor;
use crate::balance::hot::judge::PACE;
use crate::balance::hot::{Change, Hot, HotKeys, Judge, Key, Look, Summary};
use crate::balance::{Policy, SplitCookie};
use crate::metrics::cells::CoreCells;
use crate::upstream::hot::{Counts, Shown, Watch};

/// Pairs of address and server that were named and are remembered.
const REMEMBERED: usize = 64;
/// Lines in the log within [`SPELL`]: whoever comes from ever new addresses does not fill it.
const MOST_NAMED: usize = 20;
const SPELL: Duration = Duration::from_secs(60);

/// What is known of the hot keys of one upstream.
#[derive(Debug)]
pub(super) struct Watched {
    counts: Arc<Counts>,
    cookie: Option<SplitCookie>,
    judge: Judge,
    spread: Box<[Key]>,
    named: Named,
}

/// Who was named in the log.
#[derive(Debug, Default)]
struct Named {
    pairs: VecDeque<(Key, u64)>,
    times: VecDeque<Duration>,
}

impl Named {
    /// Whether that address and that server are to be named now.
    fn is_news(&mut self, key: Key, server: u64, now: Duration) -> bool {
        if self.pairs.contains(&(key, server)) || !self.has_room(now) {
            return false;
        }
        if self.pairs.len() == REMEMBERED {
            self.pairs.pop_front();
        }
        self.pairs.push_back((key, server));
        true
    }

    /// Whether one more line is not too much; it is counted.
    fn has_room(&mut self, now: Duration) -> bool {
        while self.times.front().is_some_and(|at| *at + SPELL <= now) {
            self.times.pop_front();
        }
        let has_room = self.times.len() < MOST_NAMED;
        if has_room {
            self.times.push_back(now);
        }
        has_room
    }
}

impl Watched {
    /// Nothing known yet; none where the policy does not look for hot keys.
    pub(super) fn of(policy: &Policy, cores: usize) -> Option<Self> {
        let hot_keys = policy.hot_keys();
        (*hot_keys != HotKeys::Off).then(|| Self {
            counts: Arc::new(Counts::new(cores)),
            cookie: hot_keys.cookie(),
            judge: Judge::default(),
            spread: Box::default(),
            named: Named::default(),
        })
    }

    /// What requests meet of it.
    pub(super) fn watch(&self) -> Watch {
        Watch { counts: Arc::clone(&self.counts), spread: self.spread.clone(), cookie: self.cookie.clone() }
    }

    /// Takes over which keys are spread, and says whether those are others than before.
    fn settle(&mut self) -> bool {
        // In an order of their own: who is the hottest of them changes with each look and is no news.
        let mut spread: Vec<Key> = self.judge.spread().collect();
        spread.sort_unstable();
        let spread = spread.into_boxed_slice();
        let is_other = spread != self.spread;
        self.spread = spread;
        is_other
    }

    /// What is shown of hot keys.
    pub(super) fn status(&self, now: Duration) -> Vec<HotKeyStatus> {
        let status = |shown: &Shown| HotKeyStatus {
            key: shown.key.clone(),
            server: shown.server.to_string(),
            share_percent: percent(shown.share),
            requests_per_second: shown.rate,
            spread: shown.is_spread,
            seconds: now.saturating_sub(shown.since).as_secs_f64(),
        };
        self.counts.shown().iter().map(status).collect()
    }
}

impl Supervisor {
    /// Looks at what clients have done, when it is time to.
    pub(super) fn step_hot(&mut self) {
        let now = self.now();
        if now < self.next_hot {
            return;
        }
        self.next_hot = now + PACE;
        // Most clients are at another process by then.
        if self.row.is_over() {
            return;
        }
        for group in self.registry.watched() {
            self.stale |= look(group, now);
        }
        self.look_for_proxies(now);
    }

    /// Whether most requests come from a proxy that nobody trusts.
    fn look_for_proxies(&mut self, now: Duration) {
        let mut came = Summary::default();
        self.plane.cells.iter().for_each(|core| came.merge(&core.strangers.take()));
        let requests = self.plane.cells.iter().map(|core: &CoreCells| core.requests.get()).fold(0, u64::wrapping_add);
        let since = requests.wrapping_sub(std::mem::replace(&mut self.requests_seen, requests));
        if let Some(peer) = self.forgotten.look(now, &came, since) {
            warn!(
                peer = %peer.address,
                share_percent = percent(peer.share),
                "most requests come from one peer that says for whom it asks and is not trusted: if it is your proxy, \
                 all its clients look like one; set `trusted_proxies = [\"{}\"]` for the listener",
                peer.address
            );
        }
        let listeners = &self.listeners.plans;
        let trusts = |plan: &crate::config::plan::ListenerPlan, peer| {
            plan.trusted_proxies.iter().any(|network| network.contains(&peer))
        };
        self.forgotten.forgive(|peer| listeners.iter().all(|plan| trusts(plan, peer)));
        self.plane.swap.set_forgotten_share(self.forgotten.share());
    }

    /// The proxy that is not trusted, if there seems to be one.
    pub(super) fn forgotten_proxy(&self) -> Option<ForgottenProxy> {
        self.forgotten.found().map(|peer| ForgottenProxy {
            peer: peer.address.to_string(),
            share_percent: percent(peer.share),
            requests: peer.requests,
        })
    }
}

/// Looks at one upstream. The answer is whether its keys are spread in another way.
fn look(group: &mut Group, now: Duration) -> bool {
    let policy = &group.plan.policy;
    let (Some(upstream), Some(share)) = (group.built().cloned(), policy.hot_keys().share()) else { return false };
    let max_load = policy.max_load();
    let Some(watched) = &mut group.hot else { return false };
    let places = upstream.places();
    let changes = watched.judge.look(Look {
        now,
        came: watched.counts.take(),
        places: &places,
        home: &|key| upstream.home(key),
        share,
        max_load: max_load.filter(|_| watched.cookie.is_some()),
    });
    let name_of = |uid: u64| {
        let server = upstream.servers.iter().find(|server| u64::from(server.uid) == uid);
        server.map_or_else(|| "?".into(), |server| Arc::clone(&server.name))
    };
    for change in &changes {
        say(upstream.name(), change, &name_of, &mut watched.named, now);
    }
    watched.counts.show(watched.judge.hot().iter().map(|hot| shown(hot, &name_of)).collect());
    let is_other = watched.settle();
    if is_other {
        group.touch();
    }
    is_other
}

fn shown(hot: &Hot, name_of: &dyn Fn(u64) -> Arc<str>) -> Shown {
    Shown {
        key: hot.key.to_string(),
        share: hot.share,
        rate: (hot.rate * 10.0).round() / 10.0,
        server: name_of(hot.server),
        is_spread: hot.is_spread,
        since: hot.since,
    }
}

fn say(upstream: &str, change: &Change, name_of: &dyn Fn(u64) -> Arc<str>, named: &mut Named, now: Duration) {
    let (Change::Began(hot) | Change::Ended(hot) | Change::Spread(hot) | Change::Gathered(hot)) = change;
    let (key, server, share) = (hot.key, name_of(hot.server), percent(hot.share));
    match change {
        Change::Began(_) if named.is_news(key, hot.server, now) => {
            let times = (hot.load * 10.0).round() / 10.0;
            warn!(
                upstream, address = %key, share_percent = share, %server, times_its_share = times,
                "a hot address: it makes more requests than its part, and its server has more than the others"
            );
        }
        Change::Began(_) => debug!(upstream, address = %key, share_percent = share, %server, "a hot address"),
        Change::Ended(_) => debug!(upstream, address = %key, %server, "an address is no longer hot"),
        Change::Spread(_) | Change::Gathered(_) if !named.has_room(now) => {
            debug!(upstream, address = %key, %server, "an address is spread, or no longer");
        }
        Change::Spread(_) => warn!(
            upstream, address = %key, share_percent = share, %server,
            "the users of a hot address are spread: its server is above max_load"
        ),
        Change::Gathered(_) => info!(
            upstream, address = %key, share_percent = share, %server,
            "the users of an address are together again"
        ),
    }
}

/// With one decimal.
fn percent(share: f64) -> f64 {
    (share * 1_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_rotates_addresses_does_not_fill_the_log() {
        let mut named = Named::default();
        let at = Duration::from_secs;
        let key = |network| Key::V4 { network, bits: 32 };
        let named_at = |named: &mut Named, second: u64| {
            (0..200).filter(|n| named.is_news(key(1_000 * second as u32 + n), 1, at(second))).count()
        };
        assert_eq!(named_at(&mut named, 1), MOST_NAMED);
        assert_eq!(named_at(&mut named, 60), 0);
        assert_eq!(named_at(&mut named, 61), MOST_NAMED);
        assert!(!named.is_news(key(1_000), 1, at(300)), "it was named before");
        assert!(named.is_news(key(1_000), 2, at(300)), "not with that server");
        assert!(named.pairs.len() <= REMEMBERED && named.times.len() <= MOST_NAMED);
    }
}
