//! What an operator says of an upstream as a whole: it serves, holds its requests, or is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::clock;

/// How far behind its pace a release may catch up at once: timers are no finer than a millisecond.
const CATCH_UP: Duration = Duration::from_millis(5);

/// What clients of a closed upstream are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Plain text.
    pub message: Arc<str>,
    /// Seconds after which they may try again.
    pub retry_after: u32,
}

/// What becomes of requests for an upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Service {
    /// They are served.
    #[default]
    Open,
    /// They wait, until then at the latest.
    Paused { until: Instant },
    /// Those who wait are served at a pace, and who comes meanwhile is behind them; until then at the
    /// latest.
    Releasing { rate: u32, until: Instant },
    /// They are answered with this.
    Closed(Notice),
}

impl Service {
    /// The names of all that it can be.
    pub const STATES: [&str; 4] = ["open", "paused", "releasing", "maintenance"];

    /// The name that the status, the admin API and the metrics use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused { .. } => "paused",
            Self::Releasing { .. } => "releasing",
            Self::Closed(_) => "maintenance",
        }
    }

    /// Whether requests are served as if nobody had said anything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::Open
    }

    /// What requests are answered with, if they are not served.
    #[must_use]
    pub fn notice(&self) -> Option<&Notice> {
        if let Self::Closed(notice) = self { Some(notice) } else { None }
    }

    /// How long requests are held at the most, from `now` on.
    #[must_use]
    pub fn holds_for(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Paused { until } | Self::Releasing { until, .. } => {
                Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
            }
            Self::Open | Self::Closed(_) => None,
        }
    }
}

/// Whose turn it is at a pace, over all cores.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the next turn is, in microseconds of [`clock::micros`].
    next: AtomicU64,
}

impl Pace {
    /// Takes a turn at `rate` turns a second, if it is time.
    pub fn take(&self, rate: u32) -> bool {
        self.take_at(rate, clock::micros())
    }

    fn take_at(&self, rate: u32, now: u64) -> bool {
        let every = 1_000_000 / u64::from(rate.max(1));
        let earliest = now.saturating_sub(CATCH_UP.as_micros() as u64);
        self.next.fetch_update(SeqCst, SeqCst, |next| (next <= now).then(|| next.max(earliest) + every)).is_ok()
    }

    /// How long it is until the next turn.
    #[must_use]
    pub fn wait(&self) -> Duration {
        Duration::from_micros(self.next.load(SeqCst).saturating_sub(clock::micros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_at_the_pace() {
        let pace = Pace::default();
        let start = 1_000_000_000;
        // Every 100 microseconds somebody asks, for ten seconds.
        let taken = (0..100_000).filter(|i| pace.take_at(50, start + i * 100)).count();
        assert!((500..=501).contains(&taken), "{taken}");
        // Nothing is saved up while nobody asks.
        let later = start + 60_000_000;
        let burst = (0..100).filter(|_| pace.take_at(50, later)).count();
        assert_eq!(burst, 1);
    }

    #[test]
    fn a_hold_has_an_end() {
        let now = Instant::now();
        let until = now + Duration::from_secs(5);
        assert_eq!(Service::Paused { until }.holds_for(now), Some(Duration::from_secs(5)));
        assert_eq!(Service::Paused { until }.holds_for(until), None);
        assert_eq!(Service::Open.holds_for(now), None);
    }
}
