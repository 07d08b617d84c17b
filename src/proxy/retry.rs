//! When a request may be sent again.
//!
//! The rule (design: retry) is made of types: [`Sent`] says what may have reached a server, and only
//! `Sent::Nothing` allows a request that is not idempotent. A budget keeps retries from multiplying
//! an outage: a share of the requests, with a floor for quiet times.

use http::Method;

use crate::config::plan::RetryPlan;
use crate::error::Sent;

/// Thousandths of a retry that a burst may have saved up.
const CAP_SECONDS: u32 = 10;

/// The retries that one core may still make for one upstream.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// Thousandths of a retry earned by requests.
    earned: u32,
    /// Retries left of this second's floor.
    floor_used: u32,
}

impl Budget {
    /// A request came: it earns its share of a retry.
    pub(super) fn earn(&mut self, plan: &RetryPlan) {
        let cap = plan.budget_floor.max(1).saturating_mul(CAP_SECONDS).saturating_mul(1000).max(100_000);
        self.earned = self.earned.saturating_add(plan.budget_percent.saturating_mul(10)).min(cap);
    }

    /// Takes one retry, if there is one left.
    pub(super) fn take(&mut self, plan: &RetryPlan) -> bool {
        if self.floor_used < plan.budget_floor {
            self.floor_used += 1;
            return true;
        }
        if self.earned >= 1000 {
            self.earned -= 1000;
            return true;
        }
        false
    }

    /// A second has passed.
    pub(super) fn refill(&mut self) {
        self.floor_used = 0;
    }
}

/// Whether what may have happened allows another try: certainly nothing was sent, or the method is
/// idempotent (RFC 9110 §9.2.2) and no part of an answer was there.
pub(super) fn allowed(sent: Sent, idempotent: bool) -> bool {
    match sent {
        Sent::Nothing => true,
        Sent::Maybe => idempotent,
        Sent::Answered => false,
    }
}

/// RFC 9110 §9.2.2.
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: RetryPlan = RetryPlan { attempts: 2, budget_percent: 20, budget_floor: 3 };

    #[test]
    fn the_floor_comes_back_each_second_and_the_share_is_earned() {
        let mut budget = Budget::default();
        assert_eq!((0..10).filter(|_| budget.take(&PLAN)).count(), 3);
        budget.refill();
        (0..100).for_each(|_| budget.earn(&PLAN));
        assert_eq!((0..100).filter(|_| budget.take(&PLAN)).count(), 3 + 20);
    }

    #[test]
    fn a_post_that_may_have_been_sent_is_never_sent_again() {
        assert!(!allowed(Sent::Maybe, is_idempotent(&Method::POST)));
        assert!(allowed(Sent::Nothing, is_idempotent(&Method::POST)));
        assert!(allowed(Sent::Maybe, is_idempotent(&Method::GET)));
        assert!(!allowed(Sent::Answered, true));
    }
}
