//! When a request may be sent again.
//!
//! The rule (design: retry) is made of types: [`Sent`] says what may have reached a server, and only
//! `Sent::Nothing` allows a request that is not idempotent. A budget keeps retries from multiplying
//! an outage: a share of the requests, with a floor for quiet times.

use http::Method;

use crate::config::plan::RetryPlan;
use crate::error::Sent;

/// Seconds of the floor that quiet times may save up for a burst.
const SAVED_SECONDS: u32 = 10;
/// Retries that requests may earn beyond that.
const MOST_EARNED: u32 = 100;

/// The retries that one core may still make for one upstream, in thousandths: a bucket that fills by
/// the floor each second and by its share with each request.
#[derive(Debug, Default)]
pub(super) struct Budget {
    thousandths: u32,
    /// Whether it was filled for the first time.
    begun: bool,
}

impl Budget {
    fn add(&mut self, plan: &RetryPlan, thousandths: u32) {
        let most = plan.budget_floor.saturating_mul(SAVED_SECONDS).saturating_add(MOST_EARNED).saturating_mul(1000);
        self.thousandths = self.thousandths.saturating_add(thousandths).min(most);
    }

    /// A request came: it earns its share of a retry.
    pub(super) fn earn(&mut self, plan: &RetryPlan) {
        if !self.begun {
            self.begun = true;
            self.add(plan, plan.budget_floor.saturating_mul(SAVED_SECONDS * 1000));
        }
        self.add(plan, plan.budget_percent.saturating_mul(10));
    }

    /// Takes one retry, if there is one left.
    pub(super) fn take(&mut self) -> bool {
        let left = self.thousandths.checked_sub(1000);
        self.thousandths = left.unwrap_or(self.thousandths);
        left.is_some()
    }

    /// A second has passed.
    pub(super) fn refill(&mut self, plan: &RetryPlan) {
        self.add(plan, plan.budget_floor.saturating_mul(1000));
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
    fn quiet_times_save_up_a_burst_and_requests_earn_their_share() {
        let mut budget = Budget::default();
        budget.earn(&PLAN);
        assert_eq!((0..100).filter(|_| budget.take()).count(), 30);
        budget.refill(&PLAN);
        assert_eq!((0..100).filter(|_| budget.take()).count(), 3);
        (0..100).for_each(|_| budget.earn(&PLAN));
        assert_eq!((0..100).filter(|_| budget.take()).count(), 20);
        (0..1000).for_each(|_| budget.refill(&PLAN));
        assert_eq!((0..1000).filter(|_| budget.take()).count(), 130);
    }

    #[test]
    fn a_post_that_may_have_been_sent_is_never_sent_again() {
        assert!(!allowed(Sent::Maybe, is_idempotent(&Method::POST)));
        assert!(allowed(Sent::Nothing, is_idempotent(&Method::POST)));
        assert!(allowed(Sent::Maybe, is_idempotent(&Method::GET)));
        assert!(!allowed(Sent::Answered, true));
    }
}
