//! The server that is expected to answer soonest.
//!
//! Of two servers drawn at random the one with the lower latency × (requests in flight + 1) / weight is
//! taken. Latency is a moving average that jumps up to a slow answer at once and comes down with time (the
//! peak EWMA of Finagle): one slow answer takes load off, and only patience or quick answers bring it back.
//! A server that has not answered yet gets one request at a time until it has.
//!
//! Servers that fail fast would look fast: an error never lowers the average. Taking such a server out is
//! what ejection is for.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::{Member, Scratch, View};
use crate::units;

/// `peak_ewma`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeakEwma {
    /// After this time an average has come down by 63 % of the way to newer answers; 100 ms to 10 min.
    #[serde(deserialize_with = "decay")]
    pub decay: Duration,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self { decay: Duration::from_secs(10) }
    }
}

fn decay<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let decay = units::parse_duration(&text).map_err(de::Error::custom)?;
    if (Duration::from_millis(100)..=Duration::from_secs(600)).contains(&decay) {
        Ok(decay)
    } else {
        Err(de::Error::custom(format!("a decay of {text}: write \"100ms\" to \"10m\"")))
    }
}

/// What a server is taken to need that has failed before it ever answered, in microseconds.
const UNKNOWN: f32 = 1e6;

/// A server's average latency and when it was last seen; packed, it fits an atomic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Average {
    /// Microseconds.
    latency: f32,
    /// Milliseconds on any clock; it may wrap.
    at: u32,
}

impl Average {
    /// Reads what [`Self::pack`] made; none of 0, which it never makes.
    #[must_use]
    pub fn unpack(packed: u64) -> Option<Self> {
        (packed != 0).then(|| Self { latency: f32::from_bits((packed >> 32) as u32), at: packed as u32 })
    }

    /// Both in one number, never 0.
    #[must_use]
    pub fn pack(self) -> u64 {
        u64::from(self.latency.to_bits()) << 32 | u64::from(self.at)
    }

    /// The average after an answer that took `latency`, or a failure; `before` is none for the first.
    #[must_use]
    pub fn after(before: Option<Self>, latency: Duration, is_error: bool, now: u32, decay: Duration) -> Self {
        let sample = (latency.as_secs_f32() * 1e6).max(1.0);
        let latency = match before {
            // How fast a server fails says nothing of how fast it answers.
            None if is_error => sample.max(UNKNOWN),
            Some(before) if is_error => sample.max(before.latency),
            None => sample,
            Some(before) if sample >= before.latency_at(now, decay) => sample,
            Some(before) => {
                let kept = before.kept(now, decay);
                before.latency * kept + sample * (1.0 - kept)
            }
        };
        Self { latency: latency.max(1.0), at: now }
    }

    /// Microseconds that the next answer is expected to take.
    #[must_use]
    pub fn latency_at(self, now: u32, decay: Duration) -> f32 {
        self.latency * self.kept(now, decay)
    }

    /// The part of the average that time has left.
    fn kept(self, now: u32, decay: Duration) -> f32 {
        // Two cores may cross by a moment.
        let passed = now.wrapping_sub(self.at);
        let passed = if passed > u32::MAX / 2 { 0 } else { passed };
        (-(passed as f32) / (decay.as_secs_f32() * 1000.0)).exp()
    }
}

/// Servers with a weight.
#[derive(Debug, Clone)]
pub struct Table {
    servers: Vec<(u32, u32)>,
}

impl PeakEwma {
    pub(super) fn table(&self, members: &[Member]) -> Table {
        let usable = (0u32..).zip(members).filter(|(_, member)| member.takes_new && member.weight > 0);
        Table { servers: usable.map(|(index, member)| (index, member.weight)).collect() }
    }
}

impl Table {
    pub(super) fn pick(&self, scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        let len = self.servers.len() as u32;
        let (first, second) = match len {
            0 => return None,
            1 => (0, 0),
            _ => {
                let first = scratch.below(len);
                (first, (first + 1 + scratch.below(len - 1)) % len)
            }
        };
        let usable = |at: u32| {
            let index = self.servers[at as usize].0 as usize;
            !view.tried(index) && view.takes_new(index)
        };
        let at = match (usable(first), usable(second)) {
            (true, true) if self.cost(second, view) < self.cost(first, view) => second,
            (true, _) => first,
            (false, true) => second,
            (false, false) => self.scan(usable, view)?,
        };
        Some(self.servers[at as usize].0 as usize)
    }

    #[cold]
    fn scan(&self, usable: impl Fn(u32) -> bool, view: &impl View) -> Option<u32> {
        let costs = (0..self.servers.len() as u32).filter(|at| usable(*at)).map(|at| (at, self.cost(at, view)));
        costs.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
    }

    fn cost(&self, at: u32, view: &impl View) -> f32 {
        let (index, weight) = self.servers[at as usize];
        let in_flight = view.in_flight(index as usize);
        match view.latency(index as usize) {
            Some(latency) => latency.max(1.0) * (in_flight as f32 + 1.0) / weight as f32,
            None if in_flight == 0 => 0.0,
            None => f32::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::tests::{Servers, members};

    const DECAY: Duration = Duration::from_secs(10);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// By hand: e^(-1) of 100 ms is left after ten seconds, and the rest is the new answer's 10 ms.
    #[test]
    fn an_average_jumps_up_and_comes_down_slowly() {
        let first = Average::after(None, ms(10), false, 0, DECAY);
        let peak = Average::after(Some(first), ms(100), false, 1, DECAY);
        assert_eq!(peak.latency_at(1, DECAY), 100_000.0);
        let later = Average::after(Some(peak), ms(10), false, 10_001, DECAY);
        let expected = 100_000.0 * (-1.0f32).exp() + 10_000.0 * (1.0 - (-1.0f32).exp());
        assert!((later.latency_at(10_001, DECAY) - expected).abs() < 1.0, "{later:?}");
        assert!((later.latency_at(20_001, DECAY) - expected * (-1.0f32).exp()).abs() < 1.0);
        assert_eq!(Average::unpack(later.pack()), Some(later));
    }

    #[test]
    fn an_error_never_makes_a_server_look_faster() {
        let slow = Average::after(None, ms(100), false, 0, DECAY);
        let error = Average::after(Some(slow), ms(1), true, 5_000, DECAY);
        assert_eq!(error.latency_at(5_000, DECAY), 100_000.0);
        let failed_first = Average::after(None, ms(1), true, 0, DECAY);
        assert_eq!(failed_first.latency_at(0, DECAY), 1_000_000.0);
    }

    #[test]
    fn a_clock_that_wraps_or_crosses_does_no_harm() {
        let before = Average::after(None, ms(10), false, u32::MAX - 10, DECAY);
        assert!(before.latency_at(9, DECAY) > 9_900.0);
        assert_eq!(before.latency_at(u32::MAX - 20, DECAY), 10_000.0);
    }

    #[test]
    fn the_faster_of_two_gets_the_request_until_it_is_busy() {
        let table = PeakEwma::default().table(&members(&[1, 1]));
        let mut view = Servers::up(2);
        view.latency = vec![Some(10_000.0), Some(1_000.0)];
        let mut scratch = Scratch::new(0, 1);
        let mut always = |view: &Servers, index| (0..200).all(|_| table.pick(&mut scratch, view) == Some(index));
        assert!(always(&view, 1));
        view.in_flight[1] = 9;
        view.in_flight[0] = 0;
        view.latency[1] = Some(1_001.0);
        assert!(always(&view, 0));
        // One that is not known yet is tried, but by one request at a time.
        view.latency[1] = None;
        assert!(always(&view, 0));
        view.in_flight[1] = 0;
        assert!(always(&view, 1));
    }
}
