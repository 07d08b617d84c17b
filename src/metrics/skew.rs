//! How evenly requests were spread lately, from counts that grow only: a few looks at them, minutes apart.
//!
//! The control plane looks every ten seconds ([`PACE`]) and whenever a Snapshot is published; nothing in here
//! runs on the path of a request. A figure is of the last five minutes at most ([`WINDOW`]), and begins anew
//! when another server takes new clients, one no longer does, or a weight changes: what was even before would
//! look uneven.

mod memory;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use memory::Memory;

use crate::balance::skew::Skew;
use crate::upstream::shadow::Shade;
use crate::upstream::{Server, Snapshot, Upstream};

/// Counts are looked at so often.
pub const PACE: Duration = Duration::from_secs(10);
/// No figure is of longer ago, but for one [`PACE`].
pub const WINDOW: Duration = Duration::from_secs(300);

/// What was counted of one policy lately.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Lately {
    pub requests: u64,
    /// None without requests.
    pub skew: Option<Skew>,
    /// Requests of clients that are followed, and those of them that came to another server than the one before.
    pub followed: u64,
    pub moves: u64,
}

/// What was counted of an upstream lately.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// How long that is.
    pub seconds: f64,
    /// Of what its servers really got, retries and tunnels included.
    pub own: Lately,
    /// Of the policies in its shadow, as in [`crate::upstream::Shadow::shades`].
    pub shades: Vec<Lately>,
}

/// The looks at every upstream.
#[derive(Debug, Default)]
pub struct Looks(Mutex<HashMap<String, Window>>);

#[derive(Debug)]
struct Window {
    of: Subject,
    /// At least one, the oldest first.
    looks: VecDeque<Look>,
}

/// What has to stay as it is for counts to be compared: the servers that take new clients with their weights (0
/// for those that do not, and for the new servers of a canary), and who is in the shadow.
#[derive(Debug, PartialEq, Eq)]
struct Subject {
    servers: Vec<(u32, u32)>,
    shades: Vec<usize>,
}

#[derive(Debug)]
struct Look {
    at: Duration,
    own: Counts,
    shades: Vec<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// By position of the server.
    servers: Vec<u64>,
    followed: u64,
    moves: u64,
}

impl Looks {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks, where it is time to. `now` is of any clock that never goes back.
    pub fn look(&self, snapshot: &Snapshot, now: Duration) {
        let mut windows = self.lock();
        windows.retain(|name, _| snapshot.upstreams.iter().any(|upstream| upstream.name() == name));
        for upstream in &snapshot.upstreams {
            let of = Subject::of(upstream);
            let known = windows.get_mut(upstream.name()).filter(|window| window.of == of);
            let Some(window) = known else {
                let looks = VecDeque::from([Look::at(now, upstream)]);
                windows.insert(upstream.name().to_owned(), Window { of, looks });
                continue;
            };
            if window.looks.back().is_some_and(|last| now.saturating_sub(last.at) >= PACE) {
                window.looks.push_back(Look::at(now, upstream));
                while window.looks.get(1).is_some_and(|second| now.saturating_sub(second.at) >= WINDOW) {
                    window.looks.pop_front();
                }
            }
        }
    }

    /// What was counted of an upstream lately, as of now; none where it has not been looked at since it changed.
    #[must_use]
    pub fn lately(&self, upstream: &Upstream, now: Duration) -> Option<Figures> {
        let windows = self.lock();
        let window = windows.get(upstream.name()).filter(|window| window.of == Subject::of(upstream))?;
        let (first, last) = (window.looks.front()?, Look::at(now, upstream));
        let lately = |(old, new): (&Counts, &Counts)| new.since(old, &window.of.servers);
        Some(Figures {
            seconds: now.saturating_sub(first.at).as_secs_f64(),
            own: lately((&first.own, &last.own)),
            shades: first.shades.iter().zip(&last.shades).map(lately).collect(),
        })
    }
}

impl Subject {
    fn of(upstream: &Upstream) -> Self {
        let weight = |(index, server): (usize, &Arc<Server>)| {
            // New servers of a canary get what its share says, whatever their weights are.
            let is_new = upstream.canary.as_ref().is_some_and(|branch| branch.has(index));
            let takes = server.state().takes_new(upstream.failing_open) && !server.is_backup() && !is_new;
            // One in its slow start has less than its share.
            if takes { server.weight() * server.share() } else { 0 }
        };
        let shades = upstream.shadow.iter().flat_map(|shadow| &shadow.shades);
        Self {
            servers: upstream.servers.iter().enumerate().map(|one| (one.1.uid, weight(one))).collect(),
            shades: shades.map(|shade| Arc::as_ptr(&shade.tally).addr()).collect(),
        }
    }
}

impl Look {
    fn at(now: Duration, upstream: &Upstream) -> Self {
        let picks = |server: &Server| server.cells.iter().map(|c| c.counts.picks.get()).fold(0, u64::wrapping_add);
        let own = Counts { servers: upstream.servers.iter().map(|s| picks(s)).collect(), ..Counts::default() };
        let counts = |shade: &Shade| {
            let (followed, moves) = shade.tally.moves();
            Counts { servers: shade.requests(), followed, moves }
        };
        let shades = upstream.shadow.iter().flat_map(|shadow| &shadow.shades).map(counts).collect();
        Self { at: now, own, shades }
    }
}

impl Counts {
    /// Requests of servers that took no new clients, or those of a canary only, count for the sum only.
    fn since(&self, before: &Self, servers: &[(u32, u32)]) -> Lately {
        let by_server: Vec<u64> =
            self.servers.iter().zip(&before.servers).map(|(new, old)| grown(*new, *old)).collect();
        Lately {
            requests: by_server.iter().sum(),
            skew: Skew::of(by_server.iter().copied().zip(servers.iter().map(|(_, weight)| *weight))),
            followed: grown(self.followed, before.followed),
            moves: grown(self.moves, before.moves),
        }
    }
}

/// By how much a count has grown since. The one before may be that of another process, from before the beginning here.
fn grown(new: u64, old: u64) -> u64 {
    let grown = new.wrapping_sub(old);
    if grown > u64::MAX / 2 { 0 } else { grown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::canary::{Canary, CanaryBy};
    use crate::config::plan::{Address, UpstreamPlan};
    use crate::upstream::{Admin, Change, Operational, State};

    fn servers(weights: &[u32]) -> Vec<Arc<Server>> {
        let server = |(uid, weight): (u32, &u32)| {
            let address = Address::Socket("127.0.0.1:9001".parse().unwrap());
            let server = Server::new(uid, "app".into(), format!("s{uid}").into(), address, *weight, 2);
            server.set_state(State { operational: Operational::Healthy, admin: Admin::Ready });
            Arc::new(server)
        };
        (1..).zip(weights).map(server).collect()
    }

    fn snapshot(servers: &[Arc<Server>]) -> Snapshot {
        let plan = Arc::new(UpstreamPlan::example());
        let upstream = Upstream::new(0, plan, servers.to_vec(), None, None);
        Snapshot { upstreams: vec![Arc::new(upstream)], ..Snapshot::default() }
    }

    fn serve(servers: &[Arc<Server>], requests: &[u64]) {
        for (server, requests) in servers.iter().zip(requests) {
            server.cells[1].counts.picks.add(*requests);
        }
    }

    /// Figures go on in a process whose counts begin at nothing, and whose servers have other numbers.
    #[test]
    fn another_process_goes_on_with_the_figures() {
        let (before, after) = (Looks::default(), Looks::default());
        let (old, mut new) = (servers(&[1, 1, 2]), servers(&[1, 1, 2]));
        before.look(&snapshot(&old), seconds(100));
        serve(&old, &[10, 20, 70]);
        before.look(&snapshot(&old), seconds(110));
        serve(&old, &[5, 5, 0]);
        new.reverse();
        let (was, is) = (snapshot(&old), snapshot(&new));
        after.look(&is, seconds(112));
        let memory = serde_json::to_string(&before.memory(&was.upstreams[0], seconds(112)).unwrap()).unwrap();
        after.resume(&is.upstreams[0], &serde_json::from_str(&memory).unwrap(), seconds(112));
        let figures = |looks: &Looks, snapshot: &Snapshot, now| looks.lately(&snapshot.upstreams[0], now).unwrap();
        let (told, goes_on) = (figures(&before, &was, seconds(112)), figures(&after, &is, seconds(112)));
        assert_eq!((goes_on.seconds, goes_on.own.requests), (12.0, 110));
        let skew = |figures: &Figures| figures.own.skew.map(|skew| (skew.max_over_mean, skew.jain));
        assert_eq!((goes_on.seconds, skew(&goes_on)), (told.seconds, skew(&told)));
        serve(&new, &[0, 0, 7]);
        assert_eq!(figures(&after, &is, seconds(115)).own.requests, 117);
        // With another weight it is another thing.
        let other = servers(&[1, 1, 1]);
        let other = snapshot(&other);
        after.look(&other, seconds(116));
        after.resume(&other.upstreams[0], &serde_json::from_str(&memory).unwrap(), seconds(116));
        assert_eq!(figures(&after, &other, seconds(116)).own.requests, 0);
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn figures_are_of_the_last_minutes_by_weight() {
        let (looks, servers) = (Looks::default(), servers(&[1, 1, 2]));
        let snapshot = snapshot(&servers);
        let lately = |now| looks.lately(&snapshot.upstreams[0], seconds(now)).unwrap();
        assert_eq!(looks.lately(&snapshot.upstreams[0], seconds(0)), None);
        serve(&servers, &[1000, 0, 0]);
        looks.look(&snapshot, seconds(0));
        assert_eq!((lately(1).own.requests, lately(1).own.skew), (0, None));
        serve(&servers, &[30, 10, 20]);
        // By hand, as in `balance::skew`: 30 for a mean of 15.
        let figures = lately(5);
        let skew = figures.own.skew.unwrap();
        assert_eq!((figures.seconds, figures.own.requests, skew.max_over_mean, skew.busiest), (5.0, 60, 2.0, 0));
        (1..=60).for_each(|look| looks.look(&snapshot, seconds(look * 5)));
        serve(&servers, &[1, 1, 2]);
        assert_eq!((lately(300).seconds, lately(300).own.requests), (300.0, 64));
        looks.look(&snapshot, seconds(310));
        // Of the first look nothing is left.
        let figures = lately(311);
        let skew = figures.own.skew.unwrap();
        assert_eq!((figures.seconds, figures.own.requests, skew.max_over_mean, skew.jain), (301.0, 4, 1.0, 1.0));
        let looked = looks.0.lock().unwrap()["app"].looks.len();
        assert!(looked <= 32, "{looked}");
    }

    /// Its share of requests is no matter of weights.
    #[test]
    fn the_new_servers_of_a_canary_make_nothing_uneven() {
        let (looks, servers) = (Looks::default(), servers(&[1, 1, 1]));
        let canary = Arc::new(Canary::new(CanaryBy::Address, 100, Vec::new()));
        let change = Change { outgoing: &[], canary: Some((&canary, &[3])) };
        let plan = Arc::new(UpstreamPlan::example());
        let upstream = Upstream::with(change, 0, plan, servers.clone(), None, None, None);
        let during = Snapshot { upstreams: vec![Arc::new(upstream)], ..Snapshot::default() };
        looks.look(&during, seconds(0));
        serve(&servers, &[50, 50, 1]);
        let own = looks.lately(&during.upstreams[0], seconds(1)).unwrap().own;
        let skew = own.skew.unwrap();
        assert_eq!((own.requests, skew.max_over_mean, skew.jain), (101, 1.0, 1.0));
        let after = snapshot(&servers);
        assert_eq!(looks.lately(&after.upstreams[0], seconds(2)), None, "with its end everything begins anew");
    }

    #[test]
    fn who_comes_or_goes_makes_nothing_uneven() {
        let (looks, servers) = (Looks::default(), servers(&[1, 1]));
        let before = snapshot(&servers);
        looks.look(&before, seconds(0));
        serve(&servers, &[50, 50]);
        servers[1].set_state(State { operational: Operational::Healthy, admin: Admin::Draining });
        let after = snapshot(&servers);
        assert_eq!(looks.lately(&after.upstreams[0], seconds(1)), None);
        looks.look(&after, seconds(1));
        serve(&servers, &[40, 5]);
        let own = looks.lately(&after.upstreams[0], seconds(2)).unwrap().own;
        let skew = own.skew.unwrap();
        assert_eq!((own.requests, skew.max_over_mean, skew.jain), (45, 1.0, 1.0));
        looks.look(&Snapshot::default(), seconds(3));
        assert!(looks.0.lock().unwrap().is_empty(), "an upstream that is gone leaves nothing");
    }
}
