//! What chance can have done, and what it cannot.
//!
//! Requests of one client are no independent witnesses: whoever is logged out is refused again and again. So
//! clients are counted, never requests, and each at most once in a comparison: how many of those who were
//! moved had a symptom, and how many of those who were not. With several comparisons each has to be surer by
//! their number (Bonferroni), whatever they ask, so that all together err no more often than [`ALPHA`].

use serde::Serialize;

use super::symptom::Symptom;
use crate::cli::stats::{Of, detectable, fisher};
use crate::lab::stats::newcombe;

/// How often a service that keeps nothing may be called stateful.
pub(in crate::cli) const ALPHA: f64 = 0.01;
/// How surely a share would have been seen that is told to be the least.
const POWER: f64 = 0.95;

/// Clients with a symptom, beside those of the control group.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) struct Pair {
    /// Where it is looked for: the number of a step, if there are any.
    pub(in crate::cli) step: Option<usize>,
    pub(in crate::cli) symptom: Symptom,
    pub(in crate::cli) treated: Of,
    pub(in crate::cli) control: Of,
}

/// A pair, judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::cli) struct Compared {
    /// From 1.
    pub(in crate::cli) step: Option<usize>,
    pub(in crate::cli) symptom: Symptom,
    pub(in crate::cli) moved: u64,
    pub(in crate::cli) moved_of: u64,
    pub(in crate::cli) control: u64,
    pub(in crate::cli) control_of: u64,
    /// Percentage points that moving adds, with 95 % confidence.
    pub(in crate::cli) added_low: f64,
    pub(in crate::cli) added_high: f64,
    /// How probable as many are by chance alone, times the number of all comparisons of the run.
    pub(in crate::cli) p: f64,
    pub(in crate::cli) differs: bool,
}

/// All comparisons of one question.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(in crate::cli) struct Judgement {
    /// How many there were; those without any symptom are not listed.
    pub(in crate::cli) comparisons: usize,
    pub(in crate::cli) compared: Vec<Compared>,
    /// The least share of clients with a symptom that would have been seen with 95 % probability, wherever one
    /// could be seen. None where nothing could.
    pub(in crate::cli) seen_95: Option<f64>,
    /// Comparisons that say nothing, since the control group has the symptom, too.
    pub(in crate::cli) blind: usize,
}

impl Judgement {
    /// `among` is how many comparisons there are in all, those of other questions of the same run too.
    pub(in crate::cli) fn of(pairs: &[Pair], among: usize) -> Self {
        let times = among.max(1) as f64;
        let alpha = ALPHA / times;
        let mut judgement = Self { comparisons: pairs.len(), ..Self::default() };
        for pair in pairs {
            match detectable(pair.treated.all, pair.control, alpha, POWER) {
                Some(share) => judgement.seen_95 = Some(judgement.seen_95.unwrap_or(0.0).max(share)),
                None => judgement.blind += 1,
            }
            if pair.treated.hits + pair.control.hits == 0 {
                continue;
            }
            let p = fisher(pair.treated, pair.control);
            let points = |of: Of| (of.hits, of.all);
            let (low, high) = newcombe(points(pair.treated), points(pair.control));
            judgement.compared.push(Compared {
                step: pair.step.map(|step| step + 1),
                symptom: pair.symptom,
                moved: pair.treated.hits,
                moved_of: pair.treated.all,
                control: pair.control.hits,
                control_of: pair.control.all,
                added_low: low * 100.0,
                added_high: high * 100.0,
                p: (p * times).min(1.0),
                differs: p <= alpha,
            });
        }
        judgement
    }

    /// The surest of those that differ, if any does.
    pub(in crate::cli) fn worst(&self) -> Option<&Compared> {
        self.compared.iter().filter(|compared| compared.differs).min_by(|a, b| a.p.total_cmp(&b.p))
    }

    /// What could not have gone unseen; none where everything could.
    pub(in crate::cli) fn limits(&self) -> Option<String> {
        let share = self.seen_95?;
        let blind = match self.blind {
            0 => String::new(),
            n => format!(
                "; {n} of {} comparisons say nothing, since the control group has the symptom, too",
                self.comparisons
            ),
        };
        Some(format!(
            "a symptom in {:.0} % of those who were moved would have been seen with 95 % probability{blind}",
            (share * 100.0).ceil()
        ))
    }
}

/// A probability as people read it.
pub(in crate::cli) fn probability(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".to_owned() } else { format!("{p:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(step: usize, treated: (u64, u64), control: (u64, u64)) -> Pair {
        let (treated, control) = (Of::new(treated.0, treated.1), Of::new(control.0, control.1));
        Pair { step: Some(step), symptom: Symptom::Refused, treated, control }
    }

    /// One way of C(8,4) = 70 for four of four beside none of four, which two comparisons make 2 of 70.
    #[test]
    fn several_comparisons_have_to_be_surer() {
        let pairs = [pair(1, (4, 4), (0, 4)), pair(2, (0, 4), (0, 4))];
        let judged = Judgement::of(&pairs, 2);
        assert_eq!((judged.comparisons, judged.compared.len()), (2, 1));
        assert!((judged.compared[0].p - 2.0 / 70.0).abs() < 1e-12, "{judged:?}");
        assert_eq!((judged.worst(), judged.limits()), (None, None), "eight clients are too few");
        assert_eq!(judged.blind, 2);
        // Another question with three of them counts as well, and only what was asked here is counted here.
        let judged = Judgement::of(&pairs, 5);
        assert!((judged.compared[0].p - 5.0 / 70.0).abs() < 1e-12, "{judged:?}");
        assert_eq!(judged.comparisons, 2);
    }

    #[test]
    fn what_moves_with_the_clients_is_seen_and_what_all_have_is_not() {
        let judged =
            Judgement::of(&[pair(1, (50, 50), (50, 50)), pair(2, (30, 50), (1, 50)), pair(3, (2, 50), (0, 50))], 3);
        assert_eq!(judged.worst().map(|worst| worst.step), Some(Some(3)));
        assert_eq!(judged.compared.iter().map(|c| c.differs).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(judged.blind, 1, "where everybody has it, nothing is seen");
        let added = &judged.compared[1];
        assert!(added.added_low > 30.0 && added.added_high < 80.0, "{added:?}");
    }

    /// Nine of 50 beside none of 50 have p = C(50,9)/C(100,9) = 0.0013, eight 0.0029: at 0.01 for five, nine it
    /// is, which a share of 28 % reaches with 95 %.
    #[test]
    fn limits_by_hand() {
        let pairs: Vec<Pair> = (0..5).map(|step| pair(step, (0, 50), (0, 50))).collect();
        let judged = Judgement::of(&pairs, 5);
        let share = judged.seen_95.unwrap();
        let below = (0..9).map(|k| choose(50, k) * share.powi(k) * (1.0 - share).powi(50 - k)).sum::<f64>();
        assert!((below - 0.05).abs() < 1e-6, "{share} {below}");
        assert!(judged.limits().unwrap().starts_with("a symptom in 28 % of"), "{:?}", judged.limits());
    }

    fn choose(n: i32, k: i32) -> f64 {
        (0..k).map(|i| f64::from(n - i) / f64::from(i + 1)).product()
    }
}
