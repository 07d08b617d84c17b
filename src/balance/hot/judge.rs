//! Who is hot, and whose key is spread.
//!
//! A key is hot while its part of the requests of the last [`WINDOW`] is more than `share` times what its server
//! would get if all were even; only what is sure counts, so a stream of made-up addresses makes nobody hot who is
//! not. It is spread while, with the key as one, its server is above `max_load`: requests that belong there go
//! elsewhere, and the sum says so, too. Once it is spread the server is at ease because of that, so what undoes it
//! is the sum: what the server would have if the key came back.

use std::collections::VecDeque;
use std::time::Duration;

use super::space_saving::Summary;
use super::{KEPT, Key};
use crate::balance::max_load::MaxLoad;

/// What of the past counts.
pub const WINDOW: Duration = Duration::from_secs(5);
/// How often is looked.
pub const PACE: Duration = Duration::from_secs(1);
/// Hot keys of one upstream that are told apart.
pub const MOST: usize = 5;
/// Requests in the window below which nobody is hot: a server does not suffer from twenty in a second.
const FEWEST: u64 = 100;
/// A hot key cools down below this part of what makes it hot.
const COOL: f64 = 0.75;
/// A spread key comes back once its server would have less than this part of its bound, for [`AT_EASE`].
const EASY: f64 = 0.8;
const AT_EASE: Duration = Duration::from_secs(3);
/// A server is above its bound while more than this part of what belongs to it goes elsewhere.
const PASSED_ON: f64 = 0.05;

/// One server as the judge sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Stands for the server, whatever its position.
    pub server: u64,
    pub weight: u32,
    pub takes_new: bool,
    /// Requests so far that belonged to it and went elsewhere because of its bound.
    pub passed_on: u64,
}

/// What is known at one moment.
pub struct Look<'a> {
    pub now: Duration,
    /// What came since the look before.
    pub came: Summary<Key>,
    pub places: &'a [Place],
    /// The position of the server that a key belongs to, if any takes it.
    pub home: &'a dyn Fn(Key) -> Option<usize>,
    /// How many times a server's share is hot.
    pub share: f64,
    /// The bound, where keys may be spread.
    pub max_load: Option<MaxLoad>,
}

impl std::fmt::Debug for Look<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Look").field("now", &self.now).finish_non_exhaustive()
    }
}

/// A key that is hot.
#[derive(Debug, Clone, PartialEq)]
pub struct Hot {
    pub key: Key,
    /// Its part of all requests, 0 to 1; not less.
    pub share: f64,
    /// Its requests in a second.
    pub rate: f64,
    /// The server it belongs to ([`Place::server`]).
    pub server: u64,
    /// What that server would have with it, in parts of what it should have.
    pub load: f64,
    pub since: Duration,
    pub is_spread: bool,
    /// Whether its server was above its bound at the last looks, the newest in the lowest bit.
    pub crowded: u8,
    /// Since when its server would be at ease with it.
    pub easy_since: Option<Duration>,
}

/// What a look has shown.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A key is hot that was not, or is for another server.
    Began(Hot),
    Ended(Hot),
    /// From now on it is one key for each user.
    Spread(Hot),
    /// It is one key again.
    Gathered(Hot),
}

/// What is remembered from look to look.
#[derive(Debug, Default)]
pub struct Judge {
    moments: VecDeque<(Duration, Summary<Key>)>,
    hot: Vec<Hot>,
    /// [`Place::passed_on`] at the last look, by server.
    passed_on: Vec<(u64, u64)>,
}

impl Judge {
    /// Those that are hot, the hottest first.
    #[must_use]
    pub fn hot(&self) -> &[Hot] {
        &self.hot
    }

    /// One that goes on with what another has remembered: what came at some moments, and who is hot.
    #[must_use]
    pub fn resumed(moments: Vec<(Duration, Summary<Key>)>, hot: Vec<Hot>) -> Self {
        Self { moments: moments.into(), hot, passed_on: Vec::new() }
    }

    /// What came lately, by moment.
    pub fn moments(&self) -> impl Iterator<Item = &(Duration, Summary<Key>)> {
        self.moments.iter()
    }

    /// Keys that are spread.
    pub fn spread(&self) -> impl Iterator<Item = Key> {
        self.hot.iter().filter(|hot| hot.is_spread).map(|hot| hot.key)
    }

    /// Looks, and says what changed.
    pub fn look(&mut self, mut look: Look<'_>) -> Vec<Change> {
        let mut came = std::mem::take(&mut look.came);
        let Look { now, places, .. } = look;
        came.shorten(KEPT);
        let came_now = came.total();
        self.moments.push_back((now, came));
        while self.moments.front().is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.moments.pop_front();
        }
        let mut all = Summary::default();
        self.moments.iter().for_each(|(_, moment)| all.merge(moment));
        let passed_on = self.passed_on_since(places);
        let weights: u64 = places.iter().filter(|place| place.takes_new).map(|place| u64::from(place.weight)).sum();
        // Its server's part, if all were even.
        let part_of = |at: usize| f64::from(places[at].weight) / weights.max(1) as f64;
        let found = self.candidates(&look, &all, &part_of);
        let seconds = self.moments.len() as f64 * PACE.as_secs_f64();
        let rest = 1.0 - found.iter().map(|(_, _, share)| share).sum::<f64>();
        let before = std::mem::take(&mut self.hot);
        let mut changes = Vec::new();
        for (key, at, share) in &found {
            let on_it: f64 = found.iter().filter(|(_, other, _)| other == at).map(|(_, _, share)| share).sum();
            let (key, server, load) = (*key, places[*at].server, on_it / part_of(*at) + rest);
            let known = before.iter().find(|hot| hot.key == key);
            let expected = load * part_of(*at) * came_now as f64;
            let is_crowded = passed_on[*at] > 0 && passed_on[*at] as f64 > PASSED_ON * expected;
            let mut hot = Hot {
                key,
                share: *share,
                rate: share * all.total() as f64 / seconds,
                server,
                load,
                since: known.map_or(now, |known| known.since),
                is_spread: known.is_some_and(|known| known.is_spread),
                crowded: known.map_or(0, |known| known.crowded) << 1 | u8::from(is_crowded),
                easy_since: known.and_then(|known| known.easy_since),
            };
            if known.is_none_or(|known| known.server != server) {
                changes.push(Change::Began(hot.clone()));
            }
            let was_spread = hot.is_spread;
            hot.settle(now, look.max_load.map(MaxLoad::factor));
            match (was_spread, hot.is_spread) {
                (false, true) => changes.push(Change::Spread(hot.clone())),
                (true, false) => changes.push(Change::Gathered(hot.clone())),
                _ => {}
            }
            self.hot.push(hot);
        }
        for gone in before.into_iter().filter(|gone| self.hot.iter().all(|hot| hot.key != gone.key)) {
            if gone.is_spread {
                changes.push(Change::Gathered(gone.clone()));
            }
            changes.push(Change::Ended(gone));
        }
        changes
    }

    /// The keys that are hot now, with the positions of their servers and their shares: those that are spread
    /// first, since a key that loses its place in here would be gathered.
    fn candidates(
        &self,
        look: &Look<'_>,
        all: &Summary<Key>,
        part_of: &dyn Fn(usize) -> f64,
    ) -> Vec<(Key, usize, f64)> {
        let takes = |place: &&Place| place.takes_new && place.weight > 0;
        // One server alone has all of everything.
        if all.total() < FEWEST || look.places.iter().filter(takes).count() < 2 {
            return Vec::new();
        }
        let known = |key: Key| self.hot.iter().find(|hot| hot.key == key);
        let mut found: Vec<(Key, usize, f64)> = all
            .counts()
            .filter(|(_, count)| *count >= FEWEST / 20)
            .filter_map(|(key, count)| {
                let share = count as f64 / all.total() as f64;
                let at = (look.home)(key).filter(|at| look.places.get(*at).is_some_and(|place| takes(&place)))?;
                let least = look.share * part_of(at) * if known(key).is_some() { COOL } else { 1.0 };
                (share > least).then_some((key, at, share))
            })
            .collect();
        let is_spread = |key: Key| known(key).is_some_and(|hot| hot.is_spread);
        found.sort_by(|a, b| is_spread(b.0).cmp(&is_spread(a.0)).then(b.2.total_cmp(&a.2)).then_with(|| a.0.cmp(&b.0)));
        found.truncate(MOST);
        found.sort_by(|a, b| b.2.total_cmp(&a.2));
        found
    }

    /// What servers have passed on since the look before.
    fn passed_on_since(&mut self, places: &[Place]) -> Vec<u64> {
        let before = std::mem::take(&mut self.passed_on);
        self.passed_on = places.iter().map(|place| (place.server, place.passed_on)).collect();
        let since = |place: &Place| {
            let before = before.iter().find(|(server, _)| *server == place.server);
            before.map_or(0, |(_, before)| place.passed_on.saturating_sub(*before))
        };
        places.iter().map(since).collect()
    }
}

impl Hot {
    /// Decides whether it is spread.
    fn settle(&mut self, now: Duration, bound: Option<f64>) {
        let Some(bound) = bound else {
            self.is_spread = false;
            return;
        };
        if !self.is_spread {
            // At two of the last three looks: one burst moves nobody.
            self.is_spread = self.load > bound && (self.crowded & 0b111).count_ones() >= 2;
            self.easy_since = None;
        } else if self.load >= bound * EASY {
            self.easy_since = None;
        } else if now >= *self.easy_since.get_or_insert(now) + AT_EASE {
            self.is_spread = false;
            self.crowded = 0;
        }
    }
}

#[cfg(test)]
mod tests;
