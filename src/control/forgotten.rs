//! The forgotten proxy: most requests come from one peer that says for whom it asks, and nobody trusts it.
//!
//! Then all clients look like one: `ip_hash` sends them to one server, limits count them together, and the log
//! names none. More than half of all requests is what a proxy in front of evenkeel has and hardly anybody else: a
//! company whose own proxy adds such headers is one client among many. It takes [`FEWEST`] requests and
//! [`SHORTEST`] to say so, so that one who tries something out is not it.

use std::net::IpAddr;
use std::time::Duration;

use crate::balance::hot::Summary;

/// Requests below which nothing is said.
const FEWEST: u64 = 200;
/// The shortest time that they are counted.
const SHORTEST: Duration = Duration::from_secs(5);
/// Of all requests.
const MOST: f64 = 0.5;
/// Peers that are named in the log, each once; whoever comes after them is only shown.
const NAMED: usize = 16;

/// A peer that is likely a proxy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    /// Its part of all requests, 0 to 1; not less.
    pub(super) share: f64,
    /// How many requests that is a part of.
    pub(super) requests: u64,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    came: Summary<IpAddr>,
    requests: u64,
    since: Duration,
    found: Option<Peer>,
    /// Part of the requests that came from one such peer, when it was last judged.
    share: f64,
    named: Vec<IpAddr>,
}

impl Forgotten {
    /// Takes in what came since the last look: those with headers that were not believed, and all requests. The
    /// answer is to be logged.
    pub(super) fn look(&mut self, now: Duration, came: &Summary<IpAddr>, requests: u64) -> Option<Peer> {
        self.came.merge(came);
        self.requests += requests;
        if self.requests < FEWEST || now < self.since + SHORTEST {
            return None;
        }
        let (came, requests) = (std::mem::take(&mut self.came), std::mem::take(&mut self.requests));
        self.since = now;
        let most = came.counts().max_by_key(|(_, count)| *count);
        let share = most.map_or(0.0, |(_, count)| count as f64 / requests as f64);
        self.share = share.min(1.0);
        self.found = most.filter(|_| share > MOST).map(|(address, _)| Peer { address, share: self.share, requests });
        let news = self.found.filter(|peer| !self.named.contains(&peer.address) && self.named.len() < NAMED)?;
        self.named.push(news.address);
        Some(news)
    }

    /// A peer that is trusted by now is nobody's oversight.
    pub(super) fn forgive(&mut self, is_trusted: impl Fn(IpAddr) -> bool) {
        if self.found.is_some_and(|peer| is_trusted(peer.address)) {
            (self.found, self.share) = (None, 0.0);
        }
    }

    /// The peer that is likely a proxy, if there is one.
    pub(super) fn found(&self) -> Option<Peer> {
        self.found
    }

    /// The largest part of the requests that one such peer had, when it was last judged.
    pub(super) fn share(&self) -> f64 {
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::hot::SpaceSaving;

    fn came(peers: &[(u8, u64)]) -> Summary<IpAddr> {
        let mut sketch = SpaceSaving::new(8);
        for (peer, count) in peers {
            (0..*count).for_each(|_| sketch.add(IpAddr::from([10, 0, 0, *peer])));
        }
        sketch.take()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_peer_with_most_of_all_requests_is_named_once() {
        let mut forgotten = Forgotten::default();
        assert_eq!(forgotten.look(at(6), &came(&[(1, 150)]), 190), None, "too few");
        let found = forgotten.look(at(7), &came(&[(2, 3)]), 10).unwrap();
        assert_eq!((found.address, found.requests, found.share), ([10, 0, 0, 1].into(), 200, 0.75));
        assert_eq!(forgotten.look(at(20), &came(&[(1, 300)]), 300), None, "said before");
        assert_eq!(forgotten.found().unwrap().share, 1.0);
        assert_eq!(forgotten.look(at(30), &came(&[(1, 150)]), 300), None, "half is not most");
        assert_eq!((forgotten.found(), forgotten.share()), (None, 0.5));
    }

    #[test]
    fn a_burst_is_not_judged() {
        let mut forgotten = Forgotten::default();
        assert_eq!(forgotten.look(at(4), &came(&[(1, 500)]), 500), None);
        assert!(forgotten.look(at(5), &came(&[]), 400).is_some());
        assert_eq!(forgotten.look(at(9), &came(&[(2, 500)]), 500), None, "it counts anew");
    }

    #[test]
    fn who_is_trusted_is_forgiven_and_few_are_named() {
        let mut forgotten = Forgotten::default();
        let mut named = 0;
        for peer in 0..40 {
            let look = forgotten.look(at(10 * (u64::from(peer) + 1)), &came(&[(peer, 300)]), 300);
            named += usize::from(look.is_some());
        }
        assert_eq!(named, NAMED);
        forgotten.forgive(|peer| peer == IpAddr::from([10, 0, 0, 7]));
        assert!(forgotten.found().is_some());
        forgotten.forgive(|peer| peer == IpAddr::from([10, 0, 0, 39]));
        assert_eq!((forgotten.found(), forgotten.share()), (None, 0.0));
    }
}
