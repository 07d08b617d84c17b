//! Request ids: taken from the client when they are harmless, made otherwise.
//!
//! A made id is 26 lower-case hexadecimal digits: 64 random bits drawn once per core, then a count.
//! Unique without a system call, a lock or shared state; not a secret.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};

use bytes::Bytes;
use http::HeaderValue;

/// Longest id that is taken from a client.
const LONGEST: usize = 128;
const DIGITS: &[u8; 16] = b"0123456789abcdef";
const COUNT_DIGITS: usize = 10;
const LEN: usize = 16 + COUNT_DIGITS;

/// Makes ids for one core.
#[derive(Debug)]
pub(super) struct Source {
    prefix: [u8; 16],
    next: Cell<u64>,
}

/// A number that differs between cores and processes, from the operating system's randomness through
/// the standard library's hasher keys.
pub(super) fn random_u64() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

impl Source {
    pub(super) fn new() -> Self {
        let random = random_u64();
        Self { prefix: std::array::from_fn(|i| DIGITS[(random >> (60 - 4 * i)) as usize & 15]), next: Cell::new(0) }
    }

    /// A new id.
    pub(super) fn make(&self) -> HeaderValue {
        let count = self.next.get();
        self.next.set(count.wrapping_add(1));
        let mut text = [0_u8; LEN];
        text[..16].copy_from_slice(&self.prefix);
        for (i, digit) in text[16..].iter_mut().enumerate() {
            *digit = DIGITS[(count >> (4 * (COUNT_DIGITS - 1 - i))) as usize & 15];
        }
        HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text)).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

/// Whether a client's id may be taken over: 1 to 128 letters, digits and `-_.:=+/@`, so that it can
/// stand in any log unescaped.
pub(super) fn is_harmless(id: &[u8]) -> bool {
    !id.is_empty() && id.len() <= LONGEST && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:=+/@".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_are_unique_and_harmless() {
        let (a, b) = (Source::new(), Source::new());
        let ids: std::collections::HashSet<_> = (0..1000).flat_map(|_| [a.make(), b.make()]).collect();
        assert_eq!(ids.len(), 2000);
        assert!(ids.iter().all(|id| id.len() == LEN && is_harmless(id.as_bytes())));
    }

    #[test]
    fn ids_that_could_forge_a_log_line_are_not_taken() {
        assert!(is_harmless(b"01H-abc_def.9:1"));
        for bad in [&b""[..], b"a b", b"a\"b", b"a\xffb", &[b'a'; 129]] {
            assert!(!is_harmless(bad));
        }
    }
}
