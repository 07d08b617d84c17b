//! When results of checks change what a server counts as. Pure: it knows neither time nor sockets.
//!
//! The first result decides at once, so that a start is short; after that a change takes as many
//! equal results in a row as its threshold says, so that one lost packet changes nothing.

/// A change that a result brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Up,
    Down,
}

/// Results in a row of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streak {
    /// Successes in a row that bring a server up, at least 1.
    healthy: u32,
    /// Failures in a row that take it down, at least 1.
    unhealthy: u32,
    /// What it counts as; none before the first result.
    up: Option<bool>,
    /// Results in a row that contradict `up`.
    against: u32,
}

impl Streak {
    /// A streak without a result. Thresholds of 0 count as 1.
    #[must_use]
    pub fn new(healthy_threshold: u32, unhealthy_threshold: u32) -> Self {
        Self { healthy: healthy_threshold.max(1), unhealthy: unhealthy_threshold.max(1), up: None, against: 0 }
    }

    /// A streak that counts as up from the start: for servers that are not checked.
    #[must_use]
    pub fn trusting(healthy_threshold: u32, unhealthy_threshold: u32) -> Self {
        Self { up: Some(true), ..Self::new(healthy_threshold, unhealthy_threshold) }
    }

    /// The same knowledge under other thresholds; results counted so far are kept.
    #[must_use]
    pub fn with_thresholds(self, healthy_threshold: u32, unhealthy_threshold: u32) -> Self {
        Self { healthy: healthy_threshold.max(1), unhealthy: unhealthy_threshold.max(1), ..self }
    }

    /// Takes one result in. The answer is the change it brought, if any.
    pub fn record(&mut self, success: bool) -> Option<Change> {
        let threshold = match self.up {
            None => 1,
            Some(up) if up == success => {
                self.against = 0;
                return None;
            }
            Some(true) => self.unhealthy,
            Some(false) => self.healthy,
        };
        self.against += 1;
        if self.against < threshold {
            return None;
        }
        self.against = 0;
        self.up = Some(success);
        Some(if success { Change::Up } else { Change::Down })
    }

    /// Forgets results that have not changed anything yet.
    pub fn settle(&mut self) {
        self.against = 0;
    }

    /// Forgets everything: the next result decides at once.
    pub fn forget(&mut self) {
        self.up = None;
        self.against = 0;
    }

    /// What another streak had come to: what it counted as, and results in a row against it.
    #[must_use]
    pub fn resumed(self, up: Option<bool>, against: u32) -> Self {
        Self { up, against, ..self }
    }

    /// Results in a row that say otherwise than [`Self::up`].
    #[must_use]
    pub fn against(&self) -> u32 {
        self.against
    }

    /// What it counts as; none before the first result.
    #[must_use]
    pub fn up(&self) -> Option<bool> {
        self.up
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_result_decides_at_once() {
        assert_eq!(Streak::new(5, 5).record(true), Some(Change::Up));
        assert_eq!(Streak::new(5, 5).record(false), Some(Change::Down));
        assert_eq!(Streak::trusting(5, 2).record(false), None);
    }

    #[test]
    fn a_change_takes_its_threshold_in_a_row() {
        let mut streak = Streak::new(2, 3);
        streak.record(true);
        for result in [false, false, true, false, false] {
            assert_eq!(streak.record(result), None);
        }
        assert_eq!(streak.record(false), Some(Change::Down));
        assert_eq!(streak.record(true), None);
        assert_eq!(streak.record(false), None);
        assert_eq!(streak.record(true), None);
        assert_eq!(streak.record(true), Some(Change::Up));
    }

    #[test]
    fn other_thresholds_keep_what_is_known() {
        let mut streak = Streak::new(2, 3);
        streak.record(true);
        streak.record(false);
        let mut streak = streak.with_thresholds(2, 2);
        assert_eq!(streak.up(), Some(true));
        assert_eq!(streak.record(false), Some(Change::Down));
    }

    #[test]
    fn forgetting_lets_the_next_result_decide() {
        let mut streak = Streak::new(3, 3);
        streak.record(true);
        streak.forget();
        assert_eq!(streak.up(), None);
        assert_eq!(streak.record(false), Some(Change::Down));
    }

    proptest! {
        /// The state after any results is that of the last run long enough to decide.
        #[test]
        fn matches_a_plain_model(healthy in 1u32..5, unhealthy in 1u32..5, results in prop::collection::vec(any::<bool>(), 1..60)) {
            let mut streak = Streak::new(healthy, unhealthy);
            let mut up = results[0];
            for (i, result) in results.iter().enumerate() {
                let change = streak.record(*result);
                let run = results[..=i].iter().rev().take_while(|r| *r == result).count() as u32;
                let before = up;
                if i > 0 && *result != up && run >= if *result { healthy } else { unhealthy } {
                    up = *result;
                }
                prop_assert_eq!(streak.up(), Some(up));
                prop_assert_eq!(change.is_some(), i == 0 || before != up);
            }
        }
    }
}
