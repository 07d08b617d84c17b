//! The slow start of one server, as a pure core: its share grows from a tenth to the whole, in tenths.
//!
//! Steps come from a timer, never from a check or a request, so that a pick costs nothing more; and the
//! share is never less than a tenth, so that a server with little traffic is not starved of the very
//! requests that warm it up. Time is an argument.

use std::time::Duration;

use crate::upstream::server::WHOLE_SHARE;

/// Tenths of its share that a server has at `now`.
#[must_use]
pub(super) fn tenths(window: Duration, since: Duration, now: Duration) -> u32 {
    let passed = now.saturating_sub(since);
    if passed >= window {
        return WHOLE_SHARE;
    }
    let tenths = passed.as_nanos() * u128::from(WHOLE_SHARE) / window.as_nanos().max(1);
    (tenths as u32).clamp(1, WHOLE_SHARE - 1)
}

/// When that changes next.
#[must_use]
pub(super) fn next_step(window: Duration, since: Duration, now: Duration) -> Duration {
    // Rounded up: at that moment the step is really there.
    let step = (window / WHOLE_SHARE).saturating_add(Duration::from_nanos(u64::from(WHOLE_SHARE)));
    since + step * (tenths(window, since, now) + 1).min(WHOLE_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);
    const SINCE: Duration = Duration::from_secs(100);

    #[test]
    fn a_share_grows_from_a_tenth_to_the_whole() {
        let at = |millis| tenths(WINDOW, SINCE, SINCE + Duration::from_millis(millis));
        assert_eq!([0, 999, 1_999, 2_000, 5_500, 9_999, 10_000, 99_000].map(at), [1, 1, 1, 2, 5, 9, 10, 10]);
        assert_eq!(tenths(WINDOW, SINCE, Duration::ZERO), 1);
        assert_eq!(tenths(Duration::ZERO, SINCE, SINCE), 10);
    }

    #[test]
    fn each_step_is_there_when_it_was_said_to_be() {
        for window in [WINDOW, Duration::from_millis(7), Duration::from_nanos(3), Duration::from_secs(86_400)] {
            let (mut now, mut steps) = (SINCE, 0);
            while tenths(window, SINCE, now) < WHOLE_SHARE {
                let before = (now, tenths(window, SINCE, now));
                now = next_step(window, SINCE, now);
                assert!(now > before.0 && tenths(window, SINCE, now) > before.1, "{window:?}");
                steps += 1;
            }
            assert!(steps <= 9, "{window:?} took {steps}");
        }
    }
}
