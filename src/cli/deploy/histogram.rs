//! Counts by upper bound, as `/metrics` has them.

use serde::{Deserialize, Serialize};

/// How many took at most how long. Cumulative.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Histogram {
    /// Seconds and counts, by rising bound.
    bounds: Vec<(f64, u64)>,
    all: u64,
}

impl Histogram {
    /// Adds to the count of one bound; the infinite one is that of all.
    pub(super) fn add(&mut self, bound: f64, count: u64) {
        if !bound.is_finite() {
            self.all += count;
            return;
        }
        let at = self.bounds.partition_point(|(other, _)| *other < bound);
        match self.bounds.get_mut(at) {
            Some((there, counted)) if *there == bound => *counted += count,
            _ => self.bounds.insert(at, (bound, count)),
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        other.bounds.iter().for_each(|(bound, count)| self.add(*bound, *count));
        self.all += other.all;
    }

    pub(super) fn all(&self) -> u64 {
        self.all
    }

    /// What came since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let old = |bound: f64| before.bounds.iter().find(|(b, _)| *b == bound).map_or(0, |(_, count)| *count);
        let bounds = self.bounds.iter().map(|(bound, count)| (*bound, count.saturating_sub(old(*bound)))).collect();
        Self { bounds, all: self.all.saturating_sub(before.all) }
    }

    /// The least bound that a part of all is within, in seconds: no more is known. None where it is none.
    pub(super) fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = part * self.all as f64;
        let (bound, _) = self.bounds.iter().find(|(_, count)| self.all > 0 && *count as f64 >= wanted)?;
        Some(*bound)
    }

    /// How many took longer than `bound`, which has to be one of the bounds.
    pub(super) fn above(&self, bound: f64) -> u64 {
        let within = self.bounds.iter().rfind(|(b, _)| *b <= bound).map_or(0, |(_, count)| *count);
        self.all.saturating_sub(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: &[(f64, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        for (bound, count) in counts {
            histogram.add(*bound, *count);
        }
        histogram
    }

    #[test]
    fn quantiles_are_bounds() {
        let all = histogram(&[(f64::INFINITY, 100), (0.01, 99), (0.001, 60)]);
        assert_eq!((all.quantile(0.5), all.quantile(0.99), all.quantile(0.995)), (Some(0.001), Some(0.01), None));
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!((all.above(0.001), all.above(0.01), all.above(0.0001)), (40, 1, 100));
        let later = histogram(&[(0.001, 60), (0.01, 103), (f64::INFINITY, 104)]);
        assert_eq!(later.since(&all), histogram(&[(0.001, 0), (0.01, 4), (f64::INFINITY, 4)]));
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let all = histogram(&[(0.000_128, 1), (f64::INFINITY, 100), (0.01, 99)]);
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), all);
    }
}
