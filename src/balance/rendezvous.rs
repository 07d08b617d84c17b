//! Weighted rendezvous in integers: of several contenders for one hash, the one that wins is the same in
//! every process, version and machine.
//!
//! The least −log2(u)/weight wins, u a hash of what is placed and of the contender (the logarithmic
//! method). A weight that changes moves only what it has to: what goes to or comes from the contender
//! whose share grew or shrank. Nothing here may ever change its results, because replicas of different
//! versions have to agree.

/// Fractional bits of a logarithm.
pub(super) const FRACTION: u32 = 48;

/// One that may win.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Stable hash of its name.
    pub(super) key: u64,
    pub(super) weight: u32,
}

/// A candidate's claim to a hash: `log / weight` is to be low, then `hash` high.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contender {
    hash: u64,
    log: u64,
    weight: u32,
}

impl Contender {
    pub(super) fn new(placed: u64, candidate: &Candidate) -> Self {
        let hash = mix(placed ^ candidate.key);
        Self { hash, log: minus_log2(hash), weight: candidate.weight }
    }

    pub(super) fn beats(&self, other: &Self) -> bool {
        let mine = u128::from(self.log) * u128::from(other.weight);
        let theirs = u128::from(other.log) * u128::from(self.weight);
        mine < theirs || (mine == theirs && self.hash > other.hash)
    }
}

/// The winner of a hash among candidates of any weight above zero, by the number that stands beside it.
/// Their order does not matter. There is at least one.
pub(super) fn winner(placed: u64, candidates: &[(u16, Candidate)]) -> u16 {
    let (mut owner, first) = candidates[0];
    let mut best = Contender::new(placed, &first);
    for (index, candidate) in &candidates[1..] {
        let hash = mix(placed ^ candidate.key);
        if u128::from(at_least(hash)) * u128::from(best.weight) > u128::from(best.log) * u128::from(candidate.weight) {
            continue;
        }
        let contender = Contender::new(placed, candidate);
        if contender.beats(&best) {
            (owner, best) = (*index, contender);
        }
    }
    owner
}

/// A one-to-one mixing of 64 bits (Stafford's variant 13 of the MurmurHash3 finalizer, which SplitMix64
/// uses: Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, 2014).
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// −log2(`hash` / 2⁶⁴) with [`FRACTION`] fractional bits, never rising with `hash`; 0 counts as 1.
///
/// Digit by digit: squaring a number doubles its logarithm, and whether the square reaches 2 is the
/// next binary digit. Every step rounds down, so the result is never below the true value.
pub(super) fn minus_log2(hash: u64) -> u64 {
    let hash = hash.max(1);
    let whole = u64::from(hash.ilog2());
    let mut mantissa = hash << hash.leading_zeros();
    let mut log = whole;
    for _ in 0..FRACTION {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let digit = (square >> 64) as u64;
        mantissa = (square >> digit) as u64;
        log = log << 1 | digit;
    }
    (64 << FRACTION) - log
}

/// A bound that [`minus_log2`] does not go below: −log2(u) ≥ (1 − u)·log2(e), and log2(e) > 1477/1024.
/// Close for the high hashes that win, and far cheaper.
pub(super) fn at_least(hash: u64) -> u64 {
    ((!hash >> (64 - FRACTION)) * 1477) >> 10
}
