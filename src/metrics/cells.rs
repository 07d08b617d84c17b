//! Counters and histograms that one core writes and the control plane reads.
//!
//! Every cell has one writer, its core, so an increment is a plain load and store: no locked
//! instruction, no shared cache line. Readers sum the cells of all cores and may see a value that is
//! a moment old, never a torn one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::strangers::Strangers;

/// A count that only its own core increases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Only the owning core may call this.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`. Only the owning core may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes one off; for gauges such as open connections. Only the owning core may call this.
    pub fn dec(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    /// Sets a gauge. Only the owning core may call this.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value, from any thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Sub-buckets per power of two: the relative width of a bucket is at most 1/8.
const SUB: usize = 8;
const SUB_BITS: u32 = 3;
/// Powers of two covered above the first `SUB` microseconds: up to 2^27 µs, 134 s.
const OCTAVES: usize = 25;
const BUCKETS: usize = SUB + OCTAVES * SUB;

/// A log-linear histogram of durations in microseconds, from 1 µs to 134 s, 12.5 % wide buckets.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

fn bucket_of(micros: u64) -> usize {
    if micros < SUB as u64 {
        return micros as usize;
    }
    let octave = 63 - micros.leading_zeros();
    let sub = (micros >> (octave - SUB_BITS)) as usize & (SUB - 1);
    ((octave - SUB_BITS) as usize * SUB + SUB + sub).min(BUCKETS - 1)
}

/// The smallest number of microseconds that falls into the bucket after `bucket`.
fn upper_edge(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64 + 1;
    }
    let (octave, sub) = ((bucket - SUB) / SUB, (bucket - SUB) % SUB);
    ((SUB + sub + 1) as u64) << octave
}

impl Histogram {
    /// Records one duration. Only the owning core may call this.
    pub fn record(&self, duration: Duration) {
        let micros = duration.as_micros() as u64;
        self.buckets[bucket_of(micros)].inc();
        self.sum.add(micros);
    }

    /// Adds what this histogram holds to `into`.
    pub fn add_to(&self, into: &mut Totals) {
        for (total, cell) in into.buckets.iter_mut().zip(&self.buckets) {
            *total += cell.get();
        }
        into.sum_micros += self.sum.get();
    }
}

/// Histograms of several cores, summed.
#[derive(Debug, Clone)]
pub struct Totals {
    buckets: [u64; BUCKETS],
    /// Sum of all recorded durations in microseconds.
    pub sum_micros: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum_micros: 0 }
    }
}

impl Totals {
    /// How many durations were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How many of them were below `micros`, exact where `micros` is a power of two.
    #[must_use]
    pub fn below(&self, micros: u64) -> u64 {
        self.buckets.iter().enumerate().take_while(|(i, _)| upper_edge(*i) <= micros).map(|(_, n)| n).sum()
    }

    /// The duration below which the share `quantile` (0 to 1) lies, or none when nothing was recorded.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((count as f64 * quantile).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return Some(Duration::from_micros(upper_edge(i)));
            }
        }
        None
    }
}

/// Why a TLS handshake with a client failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFailure {
    Timeout,
    Closed,
    PlainHttp,
    ClientCertificate,
    Alert,
    Protocol,
}

impl TlsFailure {
    /// Each with the name it is counted by, in the order of its number.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Timeout, "timeout"),
        (Self::Closed, "closed"),
        (Self::PlainHttp, "plain_http"),
        (Self::ClientCertificate, "client_certificate"),
        (Self::Alert, "alert"),
        (Self::Protocol, "protocol"),
    ];
}

/// Why a sticky session was moved to another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveReason {
    Drain,
    Drained,
    Disabled,
    Unhealthy,
    Ejected,
    Failed,
    Gone,
}

impl MoveReason {
    /// Each with the name it is counted by, in the order of its number.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Drain, "drain"),
        (Self::Drained, "drained"),
        (Self::Disabled, "disabled"),
        (Self::Unhealthy, "unhealthy"),
        (Self::Ejected, "ejected"),
        (Self::Failed, "failed"),
        (Self::Gone, "gone"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// One counter for each kind of error.
#[derive(Debug)]
pub struct ByKind([Counter; crate::error::Kind::COUNT]);

impl Default for ByKind {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl std::ops::Index<usize> for ByKind {
    type Output = Counter;

    fn index(&self, kind: usize) -> &Counter {
        &self.0[kind]
    }
}

/// What one core counts that belongs to no route and no server.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CoreCells {
    /// Client connections accepted.
    pub connections_accepted: Counter,
    /// Client connections open now (a gauge).
    pub connections_open: Counter,
    /// Client connections parked now: idle, without a parser (a gauge).
    pub connections_parked: Counter,
    /// Accept calls that failed for want of descriptors or memory.
    pub accept_errors: Counter,
    /// Connections that ended with a parse error, a time-out or a panic before or between requests.
    pub bad_requests: Counter,
    /// Connections closed for want of a valid PROXY protocol header.
    pub bad_proxy_headers: Counter,
    /// Connections closed because as many as there may be were open.
    pub refused_full: Counter,
    /// Connections closed because their client had as many as it may.
    pub refused_client: Counter,
    /// Connections closed because they were idle for too long.
    pub idle_closed: Counter,
    /// Connections on which HTTP/2 was spoken.
    pub http2_connections: Counter,
    /// Those that were closed because their frames were a flood.
    pub http2_floods: Counter,
    /// Panics caught in a connection.
    pub panics: Counter,
    /// Requests whose client was settled.
    pub requests: Counter,
    /// Who sent forwarded headers that were discarded.
    pub strangers: Strangers,
    /// Requests that no route matched.
    pub no_route: Counter,
    /// Forwarded headers of untrusted peers that were discarded.
    pub forwarded_discarded: Counter,
    /// Addresses in trusted forwarded headers that could not be read.
    pub forwarded_invalid: Counter,
    /// Headers of requests that were taken out for an underscore in their name.
    pub underscores_dropped: Counter,
    /// Access log lines lost because the writer was behind.
    pub log_lines_lost: Counter,
    /// TLS handshakes with clients, whole ones.
    pub tls_full: Counter,
    /// Those that a ticket made short.
    pub tls_resumed: Counter,
    /// Those that failed, by position of [`TlsFailure`].
    pub tls_failures: [Counter; TlsFailure::ALL.len()],
    /// Errors the proxy answered with, by position of their kind in [`crate::error::Kind::ALL`].
    pub errors: ByKind,
}

/// What one core counts for one route.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct RouteCell {
    /// Answers by class of status: index 0 is 1xx (an upgrade's 101), 4 is 5xx.
    pub answers: [Counter; 5],
    /// From the request's head to the last byte of its answer.
    pub duration: Histogram,
    /// Bytes of request bodies.
    pub bytes_in: Counter,
    /// Bytes of response bodies.
    pub bytes_out: Counter,
    /// Copies of requests under way (a gauge).
    pub mirrors_open: Counter,
    /// Copies that were answered.
    pub mirrors_answered: Counter,
    /// Copies that were not.
    pub mirrors_failed: Counter,
    /// Requests drawn to be copied that were not, for want of room.
    pub mirrors_skipped: Counter,
    /// Answers compressed.
    pub compressed: Counter,
    /// Their bytes before that.
    pub compressed_bytes: Counter,
}

/// What one core counts for one server; [`crate::upstream::Server`] adds the in-flight count.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ServerCell {
    /// Picks, first tries and retries alike.
    pub picks: Counter,
    /// Requests that belonged here and went elsewhere, since the server had what `max_load` allows.
    pub passed_on: Counter,
    /// Answers by class of status: index 0 is 1xx, 4 is 5xx.
    pub answers: [Counter; 5],
    /// Requests sent again elsewhere after a failure here.
    pub retries: Counter,
    /// Connections opened.
    pub connects: Counter,
    /// Connections that could not be opened.
    pub connect_failures: Counter,
    /// Requests that went over a connection used before.
    pub reused: Counter,
    /// Requests that failed after the connection was there.
    pub failures: Counter,
    /// Tries that count against the server: no connection, no answer, or one whose status says so.
    pub faults: Counter,
    /// Idle connections held now (a gauge).
    pub idle: Counter,
    /// Tunnels (WebSockets and other upgrades) open now (a gauge).
    pub tunnels: Counter,
    /// WebSockets that evenkeel closed with a close frame for both sides.
    pub websockets_closed: Counter,
    /// From the beginning of a try to the head of its answer: a new connection and the request's body
    /// included.
    pub first_byte: Histogram,
}

/// What one core counts for one sticky upstream.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct StickyCell {
    /// Requests with a valid cookie that reached the server it names.
    pub kept: Counter,
    /// Sessions begun.
    pub new: Counter,
    /// Sessions pinned to another server, by [`MoveReason`].
    pub moved: [Counter; MoveReason::ALL.len()],
    /// Those of them that were in use and were given no chance to be saved.
    pub lost: [Counter; MoveReason::ALL.len()],
    /// Cookies that no known key opens.
    pub invalid: Counter,
    /// Cookies past their idle time or age.
    pub expired: Counter,
}

/// What an answer may show of a user whom its server did not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LitmusSymptom {
    Refused,
    Login,
    Reissued,
    Failed,
    Body,
}

impl LitmusSymptom {
    /// Each, in the order of its number.
    pub const ALL: [Self; 5] = [Self::Refused, Self::Login, Self::Reissued, Self::Failed, Self::Body];

    /// The name that it is counted by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Login => "login",
            Self::Reissued => "reissued",
            Self::Failed => "failed",
            Self::Body => "body",
        }
    }

    /// Its bit where several stand together.
    #[must_use]
    pub fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What one core counts of the experiment of one upstream.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LitmusCell {
    /// Answers that gave a user the cookie that users are known by.
    pub introduced: Counter,
    /// Requests that brought it back.
    pub recognized: Counter,
    /// By position of [`crate::balance::litmus::Group::ALL`].
    pub groups: [LitmusGroupCell; 2],
}

/// That of one group.
#[derive(Debug, Default)]
pub struct LitmusGroupCell {
    /// Users who take part.
    pub users: Counter,
    /// Answers that counted: of users who were moved, or stayed.
    pub requests: Counter,
    /// Those with a symptom.
    pub symptoms: [Counter; LitmusSymptom::ALL.len()],
}

/// What one core counts for the queue of one upstream.
#[derive(Debug, Default)]
pub struct QueueCell {
    /// Requests that have waited, or wait.
    pub queued: Counter,
    /// How long they did, however it ended.
    pub waited: Histogram,
    /// Requests that were given up because they had waited for too long.
    pub timeouts: Counter,
    /// Requests that were refused because too many waited.
    pub overflows: Counter,
}

/// What one core counts of one policy in the shadow of an upstream, or of the upstream's own beside them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShadowCell {
    /// Requests of clients that are followed.
    pub followed: Counter,
    /// Those of them that went to another server than the client's last one.
    pub moves: Counter,
    /// Requests for which there was no server.
    pub unplaced: Counter,
}

/// The same for one server.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ShadowServerCell {
    /// Requests that it would have got, or has got.
    pub requests: Counter,
    /// Those that it would have in flight (a gauge), where the policy goes by that.
    pub in_flight: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_ordered() {
        for i in 1..BUCKETS {
            assert!(upper_edge(i) > upper_edge(i - 1));
            assert_eq!(bucket_of(upper_edge(i - 1)), i);
            assert_eq!(bucket_of(upper_edge(i) - 1), i);
        }
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let h = Histogram::default();
        for micros in 1..=10_000 {
            h.record(Duration::from_micros(micros));
        }
        let mut totals = Totals::default();
        h.add_to(&mut totals);
        assert_eq!(totals.count(), 10_000);
        assert_eq!(totals.below(1024), 1023);
        let median = totals.quantile(0.5).map(|d| d.as_micros()).unwrap_or_default();
        assert!((5_000..=5_625).contains(&median), "{median}");
    }
}
