//! What a client's HTTP/2 frames cost, and whether one is only half there.
//!
//! The protocol library bounds what it keeps. It does not bound what a client makes it do: pings,
//! settings, resets and empty frames cost the sender a few bytes each and the receiver an answer. Here
//! each frame that moves nothing has a price; what moves something earns it back, and so does time. Who
//! has spent everything is told to calm down (RFC 9113 §10.5, ENHANCE_YOUR_CALM).
//!
//! Only frame headers are looked at: type, flags and length (RFC 9113 §4.1). Pure; the time is an
//! argument.

use std::time::{Duration, Instant};

/// What a connection begins with, and the most it can have.
const FULL: u32 = 1000;
/// What a second gives back.
const PER_SECOND: u32 = 20;
/// What a request that was served to its end gives back.
const PER_REQUEST: u32 = 10;
/// What a piece of an answer gives back that the client's window did not cut short. Clients of gRPC answer
/// each with an update of the window and, to measure the path, a ping.
const PER_PIECE: u32 = 3;
/// How many bytes to or from the client give back one.
const BYTES_PER_POINT: usize = 2048;

const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Where in the stream of frames the last byte was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// So many bytes of the client's preface are there.
    Preface(usize),
    /// So many bytes of a frame's header are there.
    Header(usize),
    /// So many bytes of a frame's payload are to come.
    Payload(usize),
}

/// How a connection began: its first frame has to be SETTINGS (RFC 9113 §3.4), which the library does not
/// insist on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Awaited,
    Right,
    Wrong,
}

/// The meter of one connection.
#[derive(Debug)]
pub(crate) struct Meter {
    at: At,
    header: [u8; FRAME_HEADER],
    /// Between HEADERS and the frame that ends its block.
    in_block: bool,
    start: Start,
    points: u32,
    /// Bytes that have not earned a point yet.
    bytes: usize,
    since: Instant,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            at: At::Preface(0),
            header: [0; FRAME_HEADER],
            in_block: false,
            start: Start::Awaited,
            points: FULL,
            bytes: 0,
            since: now,
        }
    }

    /// Takes in what the client has sent.
    pub(crate) fn received(&mut self, mut bytes: &[u8], now: Instant) {
        while !bytes.is_empty() {
            match self.at {
                At::Preface(have) => {
                    let taken = bytes.len().min(PREFACE - have);
                    bytes = &bytes[taken..];
                    self.at = if have + taken == PREFACE { At::Header(0) } else { At::Preface(have + taken) };
                }
                At::Header(have) => {
                    let taken = bytes.len().min(FRAME_HEADER - have);
                    self.header[have..have + taken].copy_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    self.at = At::Header(have + taken);
                    if have + taken == FRAME_HEADER {
                        self.frame(now);
                    }
                }
                At::Payload(left) => {
                    let taken = bytes.len().min(left);
                    bytes = &bytes[taken..];
                    self.at = if taken == left { At::Header(0) } else { At::Payload(left - taken) };
                }
            }
        }
    }

    fn frame(&mut self, now: Instant) {
        let [a, b, c, kind, flags, ..] = self.header;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.at = if length == 0 { At::Header(0) } else { At::Payload(length) };
        if self.start == Start::Awaited {
            self.start = if kind == SETTINGS && flags & ACK == 0 { Start::Right } else { Start::Wrong };
        }
        let ends_block = flags & END_HEADERS != 0;
        let price = match kind {
            DATA if length > 0 || flags & END_STREAM != 0 => {
                self.moved(length);
                0
            }
            HEADERS => {
                self.in_block = !ends_block;
                0
            }
            CONTINUATION => {
                self.in_block = !ends_block;
                1
            }
            // A request was begun for nothing.
            RST_STREAM => 5,
            SETTINGS if flags & ACK == 0 => 5,
            _ => 1,
        };
        if price > 0 {
            self.spend(price, now);
        }
    }

    fn spend(&mut self, price: u32, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let earned = (passed.as_millis() as u64 * u64::from(PER_SECOND) / 1000).min(u64::from(FULL)) as u32;
        if earned > 0 {
            // What is left of a point's time is kept, or many small waits would earn nothing.
            self.since += Duration::from_millis(u64::from(earned) * 1000 / u64::from(PER_SECOND));
            if passed > Duration::from_secs(u64::from(FULL)) {
                self.since = now;
            }
            self.earn(earned);
        }
        self.points = self.points.saturating_sub(price);
    }

    fn earn(&mut self, points: u32) {
        self.points = self.points.saturating_add(points).min(FULL);
    }

    /// Bytes of bodies have gone to or come from the client.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= BYTES_PER_POINT {
            self.earn(u32::try_from(self.bytes / BYTES_PER_POINT).unwrap_or(FULL));
            self.bytes %= BYTES_PER_POINT;
        }
    }

    /// A piece of an answer was sent whole.
    pub(crate) fn sent(&mut self) {
        self.earn(PER_PIECE);
    }

    /// A request was served to its end.
    pub(crate) fn served(&mut self) {
        self.earn(PER_REQUEST);
    }

    /// Whether the client has spent everything.
    pub(crate) fn is_spent(&self) -> bool {
        self.points == 0
    }

    /// Whether the connection did not begin as it has to.
    pub(crate) fn began_wrong(&self) -> bool {
        self.start == Start::Wrong
    }

    /// Whether something has begun that is not whole: a frame, or the block of a request's head.
    pub(crate) fn is_inside(&self) -> bool {
        self.in_block || self.at != At::Header(0)
    }

    /// Whether a request's head has begun and has not ended.
    pub(crate) fn is_in_block(&self) -> bool {
        self.in_block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![(length >> 16) as u8, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(FRAME_HEADER + length, 0);
        bytes
    }

    fn begun(now: Instant) -> Meter {
        let mut meter = Meter::new(now);
        meter.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now);
        meter
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let now = Instant::now();
        let mut bytes = frame(HEADERS, 0, 20);
        bytes.extend(frame(CONTINUATION, END_HEADERS, 3));
        bytes.extend(frame(DATA, END_STREAM, 300));
        for step in [1, 2, 7, 9, 10, 64, 1000] {
            let mut meter = begun(now);
            let mut inside = Vec::new();
            for piece in bytes.chunks(step) {
                assert!(!meter.is_spent());
                meter.received(piece, now);
                inside.push(meter.is_inside());
            }
            assert_eq!(inside.pop(), Some(false), "cut into {step}");
            assert_eq!(meter.points, FULL - 1);
        }
        let mut meter = begun(now);
        meter.received(&frame(HEADERS, 0, 20), now);
        assert!(meter.is_in_block() && meter.is_inside());
    }

    #[test]
    fn a_flood_spends_everything_and_time_earns_it_back() {
        let now = Instant::now();
        for (kind, flags, length, most) in
            [(6, 0, 8, 1000), (SETTINGS, 0, 0, 200), (RST_STREAM, 0, 4, 200), (DATA, 0, 0, 1000), (77, 0, 1, 1000)]
        {
            let mut meter = begun(now);
            let count = (1..5000).find(|_| {
                meter.received(&frame(kind, flags, length), now);
                meter.is_spent()
            });
            assert_eq!(count, Some(most), "frames of type {kind}");
            meter.received(&frame(kind, flags, length), now + Duration::from_secs(1));
            assert!(!meter.is_spent());
        }
    }

    #[test]
    fn a_client_that_takes_and_sends_bodies_never_runs_out() {
        let now = Instant::now();
        let mut meter = begun(now);
        for _ in 0..100_000 {
            // What a download looks like: a window update of the stream and one of the connection for
            // each 16 KiB.
            meter.moved(16 << 10);
            meter.received(&frame(8, 0, 4), now);
            meter.received(&frame(8, 0, 4), now);
            assert!(!meter.is_spent());
        }
        for _ in 0..100_000 {
            meter.received(&frame(HEADERS, END_HEADERS | END_STREAM, 30), now);
            meter.served();
            meter.received(&frame(6, 0, 8), now);
            assert!(!meter.is_spent());
        }
    }

    #[test]
    fn a_stream_of_small_messages_may_be_measured_with_pings() {
        let now = Instant::now();
        let mut meter = begun(now);
        for _ in 0..100_000 {
            meter.moved(20);
            meter.sent();
            meter.received(&frame(8, 0, 4), now);
            meter.received(&frame(6, 0, 8), now);
            assert!(!meter.is_spent());
        }
    }

    #[test]
    fn slow_pings_for_ever_are_fine() {
        let mut now = Instant::now();
        let mut meter = begun(now);
        for _ in 0..100_000 {
            now += Duration::from_millis(60);
            meter.received(&frame(6, 0, 8), now);
            assert!(!meter.is_spent());
        }
    }
}
