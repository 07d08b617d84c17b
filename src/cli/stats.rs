//! Whether one rate of failures is higher than another, and what could not have been seen.
//!
//! Exact, so that small numbers need no rule of thumb: Fisher's test of a two-by-two table, one-sided, and
//! tails of the binomial distribution. Pure functions of counts.

/// How many of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::cli) struct Of {
    pub(in crate::cli) hits: u64,
    pub(in crate::cli) all: u64,
}

impl Of {
    /// The hits cannot be more than all.
    pub(in crate::cli) fn new(hits: u64, all: u64) -> Self {
        Self { hits: hits.min(all), all }
    }

    pub(in crate::cli) fn percent(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.hits as f64 * 100.0 / self.all as f64 }
    }
}

/// The natural logarithm of the gamma function for x > 0: Stirling's series, shifted to where four terms of it
/// are exact to twelve digits.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 12.0 {
        shift += x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let series = (1.0 / 12.0 - inverse * (1.0 / 360.0 - inverse * (1.0 / 1260.0 - inverse / 1680.0))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - shift
}

fn ln_choose(n: u64, k: u64) -> f64 {
    ln_gamma(n as f64 + 1.0) - ln_gamma(k as f64 + 1.0) - ln_gamma((n - k) as f64 + 1.0)
}

/// A sum of terms from `first` on, each `ratio(k)` times the one before; it ends where they no longer count.
fn tail(ln_first: f64, first: u64, last: u64, ratio: impl Fn(u64) -> f64) -> f64 {
    let (mut term, mut sum) = (ln_first.exp(), 0.0);
    // A first term that is too small for a number is followed by larger ones: begin as high as that may be.
    let scale = if term == 0.0 { ln_first } else { 0.0 };
    if term == 0.0 {
        term = 1.0;
    }
    for k in first..=last {
        sum += term;
        let next = ratio(k);
        if next < 1.0 && term < sum * 1e-17 {
            break;
        }
        term *= next;
        if !sum.is_finite() {
            return 1.0;
        }
    }
    (sum.ln() + scale).exp().min(1.0)
}

/// How probable it is that as many hits or more fall on `new` by chance alone, given how many there were in all:
/// Fisher's exact test, one-sided.
pub(in crate::cli) fn fisher(new: Of, old: Of) -> f64 {
    let (hits, all) = (new.hits + old.hits, new.all + old.all);
    let last = hits.min(new.all);
    // Fewer cannot fall there than the others have no room for.
    let first = new.hits.max(hits.saturating_sub(old.all));
    if new.hits <= hits.saturating_sub(old.all) {
        return 1.0;
    }
    let ln_first = ln_choose(hits, first) + ln_choose(all - hits, new.all - first) - ln_choose(all, new.all);
    tail(ln_first, first, last, |k| {
        let (k, misses) = (k as f64, (all - hits) as f64);
        let (up, down) = ((hits as f64 - k) * (new.all as f64 - k), (k + 1.0) * (misses - new.all as f64 + k + 1.0));
        if down <= 0.0 { 0.0 } else { up / down }
    })
}

/// How probable at least `hits` of `all` are where each is one with probability `p`.
pub(in crate::cli) fn at_least(hits: u64, all: u64, p: f64) -> f64 {
    if hits == 0 || p >= 1.0 {
        return 1.0;
    }
    if hits > all || p <= 0.0 {
        return 0.0;
    }
    let odds = p / (1.0 - p);
    let ln_first = ln_choose(all, hits) + hits as f64 * p.ln() + (all - hits) as f64 * (1.0 - p).ln();
    tail(ln_first, hits, all, |k| (all - k) as f64 / (k + 1) as f64 * odds)
}

/// The least number of hits among `all` new ones that [`fisher`] would find too many; none where even all of
/// them are not enough.
pub(in crate::cli) fn critical(all: u64, old: Of, alpha: f64) -> Option<u64> {
    let is_found = |hits: u64| fisher(Of::new(hits, all), old) <= alpha;
    if !is_found(all) {
        return None;
    }
    let (mut low, mut high) = (0, all);
    while low < high {
        let middle = u64::midpoint(low, high);
        if is_found(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(low)
}

/// The least rate of hits on the new side that would be found with a probability of `power`, beside what was seen
/// of the old one.
pub(in crate::cli) fn detectable(all: u64, old: Of, alpha: f64, power: f64) -> Option<f64> {
    let wanted = critical(all, old, alpha)?;
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if at_least(wanted, all, middle) >= power { high = middle } else { low = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(value: f64, expected: f64) {
        assert!((value - expected).abs() <= expected.abs() * 1e-9 + 1e-12, "{value}, not {expected}");
    }

    #[test]
    fn factorials() {
        is(ln_gamma(1.0), 0.0);
        is(ln_gamma(5.0), 24.0_f64.ln());
        is(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln());
        is(ln_choose(50, 25), 126_410_606_437_752.0_f64.ln());
    }

    /// By hand, from the counts of ways: C(4,3)·C(4,1) = 16 and C(4,4)·C(4,0) = 1 of C(8,4) = 70.
    #[test]
    fn fisher_by_hand() {
        is(fisher(Of::new(3, 4), Of::new(1, 4)), 17.0 / 70.0);
        is(fisher(Of::new(4, 4), Of::new(0, 4)), 1.0 / 70.0);
        // Two of two beside none of three: one way of C(5,2) = 10.
        is(fisher(Of::new(2, 2), Of::new(0, 3)), 0.1);
        // One of two beside one of three: all but the C(3,2) = 3 ways in which both are old.
        is(fisher(Of::new(1, 2), Of::new(1, 3)), 0.7);
        // Nothing, and what cannot be otherwise, is no news.
        for (new, old) in [((0, 10), (5, 10)), ((0, 0), (0, 0)), ((3, 3), (4, 4)), ((0, 5), (0, 5))] {
            is(fisher(Of::new(new.0, new.1), Of::new(old.0, old.1)), 1.0);
        }
        // Four of four beside none of a hundred: one of C(104,4) = 4,598,126.
        is(fisher(Of::new(4, 4), Of::new(0, 100)), 1.0 / 4_598_126.0);
    }

    #[test]
    fn large_numbers_are_no_trouble() {
        let same = fisher(Of::new(1_000, 100_000), Of::new(10_000, 1_000_000));
        assert!((0.45..0.55).contains(&same), "{same}");
        assert!(fisher(Of::new(1_200, 100_000), Of::new(10_000, 1_000_000)) < 1e-8);
        let fewer = fisher(Of::new(800, 100_000), Of::new(10_000, 1_000_000));
        assert!(fewer > 0.999_999, "{fewer}");
    }

    /// By hand: 56 of 1,024 throws of ten coins have eight heads or more.
    #[test]
    fn binomial_by_hand() {
        is(at_least(8, 10, 0.5), 56.0 / 1_024.0);
        is(at_least(1, 3, 0.1), 1.0 - 0.9_f64.powi(3));
        is(at_least(0, 3, 0.1), 1.0);
        is(at_least(4, 3, 0.1), 0.0);
        is(at_least(1, 10_000, 0.5), 1.0);
    }

    #[test]
    fn what_would_have_been_seen() {
        // Beside 0 of 8, two of two are one of C(10,2) = 45 ways; one of two is one of five, which is no news.
        assert_eq!(critical(2, Of::new(0, 8), 0.05), Some(2));
        // Both with 80 %: the root of 0.8.
        is(detectable(2, Of::new(0, 8), 0.05, 0.8).unwrap(), 0.8_f64.sqrt());
        // One request beside one says nothing, whatever comes.
        assert_eq!(critical(1, Of::new(0, 1), 0.05), None);
        assert_eq!(detectable(1, Of::new(0, 1), 0.05, 0.8), None);
        // More is seen with more requests, and with less certainty.
        let with = |all, power| detectable(all, Of::new(10, 10_000), 0.01, power).unwrap();
        assert!(with(4_000, 0.8) < with(400, 0.8) && with(400, 0.2) < with(400, 0.8));
    }
}
