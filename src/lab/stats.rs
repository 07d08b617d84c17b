//! The figures that reports are made of. Pure; each is tested against values worked out by hand.

use crate::balance::Scratch;
pub use crate::balance::skew::{jain, max_over_mean};

/// The value that a share `q` of all, 0 to 1, does not exceed (nearest rank); none of no values.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(sorted.len().checked_sub(1)?)).copied()
}

/// The interval that holds the true share with 95 % confidence where `hits` of `n` were seen.
///
/// Wilson's score interval (*Probable Inference, the Law of Succession, and Statistical Inference*, 1927), which
/// also holds where few were seen, or none. Without any it is everything.
#[must_use]
pub fn wilson(hits: u64, n: u64) -> (f64, f64) {
    /// Of the standard normal distribution, 2.5 % are above.
    const Z: f64 = 1.959_963_984_540_054;
    if n == 0 {
        return (0.0, 1.0);
    }
    let (p, n) = (hits as f64 / n as f64, n as f64);
    let z2 = Z * Z;
    let centre = p + z2 / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    (((centre - half) / (1.0 + z2 / n)).max(0.0), ((centre + half) / (1.0 + z2 / n)).min(1.0))
}

/// The interval that holds with 95 % confidence how much larger the true share is where `a` of so many were hits
/// than where `b` of so many were.
///
/// Newcombe's hybrid score interval (*Interval Estimation for the Difference Between Independent Proportions*,
/// 1998, method 10), made of two of [`wilson`].
#[must_use]
pub fn newcombe(a: (u64, u64), b: (u64, u64)) -> (f64, f64) {
    let share = |(hits, n): (u64, u64)| if n == 0 { 0.5 } else { hits as f64 / n as f64 };
    let (p, q) = (share(a), share(b));
    let ((p_low, p_high), (q_low, q_high)) = (wilson(a.0, a.1), wilson(b.0, b.1));
    let low = p - q - ((p - p_low).powi(2) + (q_high - q).powi(2)).sqrt();
    let high = p - q + ((p_high - p).powi(2) + (q - q_low).powi(2)).sqrt();
    (low.max(-1.0), high.min(1.0))
}

/// A difference, and the interval within which the true one is likely to be.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Difference {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Difference {
    /// Whether it can be told from none at all.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// By how much the quantile `q` of `with` is above that of `without`; none where one of them has no values.
///
/// Both are given in blocks of the same moments. The interval is the percentile bootstrap's (Efron, *Bootstrap Methods:
/// Another Look at the Jackknife*, 1979) over whole blocks (Künsch, *The Jackknife and the Bootstrap for General
/// Stationary Observations*, 1989): what holds a machine up for a moment holds up all that was asked then, on both sides,
/// and is no evidence each time. The same moments are drawn for both a thousand times, and the middle 95 % of the
/// differences are kept.
///
/// That is 95 % confidence for quantiles in the middle of many values. The bootstrap knows no value that was not seen: for
/// the 99th percentile of some hundred it holds the true difference less often.
#[must_use]
pub fn quantile_difference(without: &[Vec<f64>], with: &[Vec<f64>], q: f64, seed: u64) -> Option<Difference> {
    const DRAWS: usize = 1000;
    let blocks = without.len().min(with.len());
    let mut chance = Scratch::new(0, seed);
    let of = |values: &[Vec<f64>], drawn: &[usize]| {
        let mut values: Vec<f64> = drawn.iter().flat_map(|block| &values[*block]).copied().collect();
        values.sort_unstable_by(f64::total_cmp);
        quantile(&values, q)
    };
    let difference = |drawn: &[usize]| Some(of(with, drawn)? - of(without, drawn)?);
    let all: Vec<usize> = (0..blocks).collect();
    let value = difference(&all)?;
    let mut draw = || all.iter().map(|_| chance.below(blocks as u32) as usize).collect::<Vec<usize>>();
    let mut differences: Vec<f64> = (0..DRAWS).filter_map(|_| difference(&draw())).collect();
    differences.sort_unstable_by(f64::total_cmp);
    Some(Difference { value, low: quantile(&differences, 0.025)?, high: quantile(&differences, 0.975)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-4
    }

    #[test]
    fn quantiles_by_hand() {
        let values = [15.0, 20.0, 35.0, 40.0, 50.0];
        for (q, expected) in
            [(0.0, 15.0), (0.05, 15.0), (0.3, 20.0), (0.4, 20.0), (0.5, 35.0), (0.99, 50.0), (1.0, 50.0)]
        {
            assert_eq!(quantile(&values, q), Some(expected), "{q}");
        }
        assert_eq!(quantile(&[], 0.5), None);
    }

    /// 10 of 100: (0.1 + 0.019207 ± 1.96 · √(0.0009 + 0.000096036)) / 1.0384146, which is 5.52 % to 17.44 %.
    #[test]
    fn wilson_by_hand() {
        let (low, high) = wilson(10, 100);
        assert!(near(low, 0.0552) && near(high, 0.1744), "{low} {high}");
        let (low, high) = wilson(0, 100);
        assert!(near(low, 0.0) && near(high, 0.0370), "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }

    /// Newcombe's own example (a) of method 10: 56 of 70 beside 48 of 80 are 5.24 to 33.39 points more.
    #[test]
    fn newcombe_by_hand() {
        let (low, high) = newcombe((56, 70), (48, 80));
        assert!(near(low, 0.0524) && near(high, 0.3339), "{low} {high}");
        // Nothing of 10 beside nothing of 10: Wilson's upper bound is 1.9600² / (10 + 1.9600²) = 27.75 % of each.
        let (low, high) = newcombe((0, 10), (0, 10));
        assert!(near(low, -0.2775) && near(high, 0.2775), "{low} {high}");
    }

    /// Of {1, 2, 3} drawn three times the median is 1 for 7 of the 27 draws (at least two 1s: 1 + 3 · 2), 3 for as many,
    /// and 2 for the other 13: the middle 95 % go from 1 to 3.
    #[test]
    fn the_bootstrap_by_hand() {
        let each = |values: &[f64]| values.iter().map(|value| vec![*value]).collect::<Vec<_>>();
        let difference = quantile_difference(&each(&[10.0; 3]), &each(&[3.0, 1.0, 2.0]), 0.5, 7).unwrap();
        assert_eq!(difference, Difference { value: -8.0, low: -9.0, high: -7.0 });
        assert!(difference.is_seen());
        // Nothing to draw from but one moment: no doubt, and no more to be known.
        let sure = quantile_difference(&[vec![5.0; 9]], &[vec![7.5; 4]], 0.99, 7).unwrap();
        assert_eq!(sure, Difference { value: 2.5, low: 2.5, high: 2.5 });
        // What holds both up at the same moments adds nothing to either, however long it takes.
        let (held_up, usual) = (vec![1000.0, 1001.0, 1002.0], vec![1.0, 2.0, 3.0]);
        let both = [held_up.clone(), usual.clone(), usual.clone(), held_up];
        let same = quantile_difference(&both, &both, 0.5, 7).unwrap();
        assert_eq!(same, Difference { value: 0.0, low: 0.0, high: 0.0 });
        // The median of n even values on 0..n has a standard error of about n / (2 √n): 7 of 200; against what never
        // changes 1.96 of them lie to each side.
        let values: Vec<f64> = (0..200).map(f64::from).collect();
        let wide = quantile_difference(&each(&[0.0; 200]), &each(&values), 0.5, 7).unwrap();
        assert!((wide.high - wide.low - 2.0 * 1.96 * 200.0 / (2.0 * 200f64.sqrt())).abs() < 6.0, "{wide:?}");
        assert_eq!(quantile_difference(&[vec![]], &[vec![1.0]], 0.5, 7), None);
        assert_eq!(quantile_difference(&[], &[vec![1.0]], 0.5, 7), None);
    }
}
