//! Who comes most often, in a fixed room: the Space-Saving algorithm (Metwally, Agrawal and El Abbadi,
//! *Efficient Computation of Frequent and Top-k Elements in Data Streams*, 2005).
//!
//! With k counters over N requests every key that came more than N/k times is counted, and no count is off by
//! more than N/k, whatever the order and however many keys there are. Only those who are counted are held, so
//! memory is bounded by k and not by how many addresses somebody can make up.
//!
//! What cores counted apart is put together as [`Summary`]s. As with other mergeable summaries (Agarwal et al.,
//! *Mergeable Summaries*, 2012) their errors add up, and so do their requests: the bound of the whole is N/k
//! again.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

/// Counts keys; at most as many as it has counters.
#[derive(Debug)]
pub struct SpaceSaving<K> {
    slots: Vec<Slot<K>>,
    /// Positions in `slots`, by key.
    index: HashTable<u16>,
    hasher: DefaultHashBuilder,
    capacity: usize,
    /// A lower bound of all counts once every slot is in use. No slot before `cursor` has it.
    least: u64,
    cursor: usize,
    /// The highest count that a key had which lost its slot; they only grow.
    lost: u64,
    total: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot<K> {
    key: K,
    hash: u64,
    count: u64,
    /// What of the count may be that of keys that had the slot before.
    error: u64,
}

impl<K: Copy + Eq + Hash> SpaceSaving<K> {
    /// Nothing counted yet. `capacity` is 1 to 65,536.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, 1 << 16);
        Self {
            slots: Vec::with_capacity(capacity),
            // With as much room again, so that keys that come and go never make it grow.
            index: HashTable::with_capacity(2 * capacity),
            hasher: DefaultHashBuilder::default(),
            capacity,
            least: 0,
            cursor: 0,
            lost: 0,
            total: 0,
        }
    }

    /// Counts one request. Allocates nothing.
    pub fn add(&mut self, key: K) {
        self.total += 1;
        let hash = self.hasher.hash_one(key);
        let slots = &mut self.slots;
        if let Some(at) = self.index.find(hash, |at| slots[usize::from(*at)].key == key) {
            slots[usize::from(*at)].count += 1;
            return;
        }
        let at = if slots.len() < self.capacity {
            slots.push(Slot { key, hash, count: 1, error: 0 });
            slots.len() - 1
        } else {
            let at = self.least_slot();
            let Slot { hash: old, count, .. } = self.slots[at];
            if let Ok(entry) = self.index.find_entry(old, |other| usize::from(*other) == at) {
                entry.remove();
            }
            self.slots[at] = Slot { key, hash, count: count + 1, error: count };
            self.lost = count;
            at
        };
        let slots = &self.slots;
        self.index.insert_unique(hash, at as u16, |at| slots[usize::from(*at)].hash);
    }

    /// A slot with the least count.
    ///
    /// Counts only grow, and the least one at most every `capacity` requests: each time it has, all slots are
    /// gone through twice, so that it is two steps a request in the long run.
    fn least_slot(&mut self) -> usize {
        loop {
            let rest = &self.slots[self.cursor..];
            if let Some(ahead) = rest.iter().position(|slot| slot.count == self.least) {
                self.cursor += ahead;
                return self.cursor;
            }
            self.least = self.slots.iter().map(|slot| slot.count).min().unwrap_or(0);
            self.cursor = 0;
        }
    }

    /// What was counted; the count begins anew.
    pub fn take(&mut self) -> Summary<K> {
        let sure = |slot: &Slot<K>| (slot.key, slot.count - slot.error);
        let counts = self.slots.iter().map(sure).filter(|(_, count)| *count > 0).collect();
        let summary = Summary { counts, error: self.lost, total: self.total };
        self.slots.clear();
        self.index.clear();
        (self.least, self.cursor, self.lost, self.total) = (0, 0, 0, 0);
        summary
    }
}

/// What is known of the keys of some requests: each came as often as its count says, or up to `error` times more
/// often. That holds for a key that is not in here with a count of 0.
#[derive(Debug, Clone)]
pub struct Summary<K> {
    counts: HashMap<K, u64>,
    error: u64,
    total: u64,
}

impl<K> Default for Summary<K> {
    fn default() -> Self {
        Self { counts: HashMap::new(), error: 0, total: 0 }
    }
}

impl<K: Copy + Eq + Hash> Summary<K> {
    /// One of which all is known.
    pub fn of(counts: impl Iterator<Item = (K, u64)>, error: u64, total: u64) -> Self {
        Self { counts: counts.collect(), error, total }
    }

    /// Adds what another one knows.
    pub fn merge(&mut self, other: &Self) {
        for (key, count) in &other.counts {
            *self.counts.entry(*key).or_default() += count;
        }
        self.error += other.error;
        self.total += other.total;
    }

    /// Keeps the `most` keys with the highest counts. The error grows by the highest count that is dropped, which
    /// is less than `total / most`.
    pub fn shorten(&mut self, most: usize) {
        if self.counts.len() <= most {
            return;
        }
        let mut counts: Vec<u64> = self.counts.values().copied().collect();
        let (_, dropped, _) = counts.select_nth_unstable_by(most, |a, b| b.cmp(a));
        let dropped = *dropped;
        // Of equal ones all go.
        self.counts.retain(|_, count| *count > dropped);
        self.error += dropped;
    }

    /// How often a key came at least.
    #[must_use]
    pub fn count(&self, key: &K) -> u64 {
        self.counts.get(key).copied().unwrap_or(0)
    }

    /// Keys with their counts, in no order.
    pub fn counts(&self) -> impl Iterator<Item = (K, u64)> {
        self.counts.iter().map(|(key, count)| (*key, *count))
    }

    /// By how much a count may be too low.
    #[must_use]
    pub fn error(&self) -> u64 {
        self.error
    }

    /// Requests of all keys.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn summary(capacity: usize, stream: &[u32]) -> Summary<u32> {
        let mut sketch = SpaceSaving::new(capacity);
        stream.iter().for_each(|key| sketch.add(*key));
        sketch.take()
    }

    fn exact(stream: &[u32]) -> HashMap<u32, u64> {
        let mut counts = HashMap::new();
        stream.iter().for_each(|key| *counts.entry(*key).or_default() += 1);
        counts
    }

    /// All that a summary promises.
    fn check(summary: &Summary<u32>, stream: &[u32], bound: u64) {
        assert_eq!(summary.total(), stream.len() as u64);
        assert!(summary.error() <= bound, "{} > {bound}", summary.error());
        let counts = exact(stream);
        for (key, truth) in &counts {
            let count = summary.count(key);
            assert!(count <= *truth && *truth <= count + summary.error(), "{key}: {truth}, {summary:?}");
        }
        assert!(summary.counts().all(|(key, _)| counts.contains_key(&key)), "nobody is made up");
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let stream: Vec<u32> = (0..1_000).map(|n| n % 10).collect();
        let summary = summary(10, &stream);
        check(&summary, &stream, 0);
    }

    /// By hand: a a b, then c takes the slot of b, which it may owe one, then b that of c.
    #[test]
    fn the_newest_takes_the_slot_of_the_least() {
        let mut sketch = SpaceSaving::new(2);
        [1, 1, 2, 3].into_iter().for_each(|key| sketch.add(key));
        let slots: Vec<_> = sketch.slots.iter().map(|slot| (slot.key, slot.count, slot.error)).collect();
        assert_eq!(slots, [(1, 2, 0), (3, 2, 1)]);
        let summary = sketch.take();
        assert_eq!((summary.count(&1), summary.count(&2), summary.count(&3)), (2, 0, 1));
        assert_eq!((summary.error(), summary.total()), (1, 4));
        let empty = sketch.take();
        assert_eq!((empty.counts().count(), empty.error(), empty.total()), (0, 0, 0));
    }

    /// Somebody who makes up a new address for each request wears nothing out and hides nobody.
    #[test]
    fn an_office_is_found_among_a_million_addresses() {
        let mut sketch = SpaceSaving::new(64);
        let mut office = 0;
        for n in 0..1_000_000u32 {
            let is_office = n % 20 == 0;
            office += u64::from(is_office);
            sketch.add(if is_office { u32::MAX } else { n });
        }
        assert!(sketch.index.capacity() < 64 * 8 && sketch.slots.capacity() < 64 * 2, "{}", sketch.index.capacity());
        let summary = sketch.take();
        assert!(summary.error() <= 1_000_000 / 64);
        assert!(summary.count(&u32::MAX) <= office && office <= summary.count(&u32::MAX) + summary.error());
        let most = summary.counts().max_by_key(|(_, count)| *count).unwrap();
        assert_eq!(most.0, u32::MAX, "{most:?}");
    }

    /// Few keys often and many seldom, in any order.
    fn stream() -> impl Strategy<Value = Vec<u32>> {
        vec(prop_oneof![3 => 0..5u32, 2 => 0..40u32, 1 => any::<u32>()], 0..600)
    }

    proptest! {
        #[test]
        fn no_count_is_off_by_more_than_its_part(capacity in 1..40usize, stream in stream()) {
            let summary = summary(capacity, &stream);
            check(&summary, &stream, (stream.len() / capacity) as u64);
        }

        #[test]
        fn whoever_comes_more_often_than_that_is_there(capacity in 1..40usize, stream in stream()) {
            let mut sketch = SpaceSaving::new(capacity);
            stream.iter().for_each(|key| sketch.add(*key));
            for (key, count) in exact(&stream) {
                if count > (stream.len() / capacity) as u64 {
                    prop_assert!(sketch.slots.iter().any(|slot| slot.key == key && slot.count >= count));
                }
            }
        }

        #[test]
        fn parts_put_together_know_as_much(capacity in 1..40usize, streams in vec(stream(), 1..6), most in 1..60usize) {
            let mut all = Summary::default();
            streams.iter().for_each(|stream| all.merge(&summary(capacity, stream)));
            let whole = streams.concat();
            let bound = (whole.len() / capacity) as u64;
            check(&all, &whole, bound);
            all.shorten(most);
            prop_assert!(all.counts().count() <= most);
            check(&all, &whole, bound + (whole.len() / most) as u64);
        }

        #[test]
        fn positions_and_index_agree(capacity in 1..20usize, stream in stream()) {
            let mut sketch = SpaceSaving::new(capacity);
            for key in stream {
                sketch.add(key);
                prop_assert_eq!(sketch.index.len(), sketch.slots.len());
                let total: u64 = sketch.slots.iter().map(|slot| slot.count).sum();
                prop_assert_eq!(total, sketch.total);
            }
        }
    }
}
