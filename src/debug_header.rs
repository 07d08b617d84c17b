//! The header with which a client shows that it may be told why its request went where it went.
//!
//! `X-Evenkeel-Debug: EXPIRY.TAG`: Unix seconds until which it holds, and the HMAC-SHA256 of them under the
//! configured key. Whoever reads one in a log can use it until it expires, so it should be short-lived. A leaf:
//! one end signs, the other verifies.

use std::fmt::{self, Write as _};

use aws_lc_rs::hmac;

/// What is signed beside the expiry, so that no other signature under the same key is one.
const CONTEXT: &str = "evenkeel-debug:";

/// A key that headers are signed with.
pub struct Key(hmac::Key);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Key {
    /// Of a text.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    /// The value of a header that holds until `expiry`, in Unix seconds.
    #[must_use]
    pub fn sign(&self, expiry: u64) -> String {
        let tag = hmac::sign(&self.0, format!("{CONTEXT}{expiry}").as_bytes());
        let mut value = format!("{expiry}.");
        for byte in tag.as_ref() {
            let _ = write!(value, "{byte:02x}");
        }
        value
    }

    /// Whether the value is signed with this key and holds at `now`, in Unix seconds.
    #[must_use]
    pub fn honours(&self, value: &[u8], now: u64) -> bool {
        self.verify(value).is_some_and(|expiry| expiry >= now)
    }

    fn verify(&self, value: &[u8]) -> Option<u64> {
        let (expiry, tag) = std::str::from_utf8(value).ok()?.split_once('.')?;
        // Nothing is read that is not as long as it has to be.
        if expiry.len() > 20 || tag.len() != 64 || !tag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&tag[2 * i..2 * i + 2], 16).ok()?;
        }
        // In constant time, before anything of it is believed.
        hmac::verify(&self.0, format!("{CONTEXT}{expiry}").as_bytes(), &bytes).ok()?;
        expiry.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_holds_until_it_expires_and_only_as_it_was_signed() {
        let key = Key::new("a key for these tests");
        let value = key.sign(1_000);
        assert!(key.honours(value.as_bytes(), 999) && key.honours(value.as_bytes(), 1_000));
        assert!(!key.honours(value.as_bytes(), 1_001));
        assert!(!Key::new("another key of such a length").honours(value.as_bytes(), 1));
        let tag = value.split_once('.').unwrap().1;
        for forged in [
            format!("2000.{tag}"),
            format!("+1000.{tag}"),
            format!("1000.{}", tag.chars().rev().collect::<String>()),
            format!("1000.{}", &tag[1..]),
            format!("1000.+{}", &tag[1..]),
            format!("1000.{}\u{e9}", &tag[2..]),
            "1000.".to_owned(),
            tag.to_owned(),
            String::new(),
        ] {
            assert!(!key.honours(forged.as_bytes(), 1), "{forged}");
        }
        assert!(!key.honours(b"1000.\xff", 1));
        assert_eq!(format!("{key:?}"), "(secret)");
    }
}
