//! Sealing and opening: the value of the cookie.
//!
//! ```text
//! base64url, no padding, of:  key id (1) | nonce (12) | sealed (25) | tag (16)      72 characters
//! sealed:                     server (8) | session (8) | issued (5) | seen after issued (4)
//! ```
//!
//! Numbers are big-endian. The cipher is AES-256-GCM with the name of the cookie and that of the
//! upstream as associated data, so a cookie is good for one place only. Keys are derived from secrets
//! by HKDF-SHA256 (RFC 5869); the version in its `info` names this layout, and another layout must have
//! another.
//!
//! Nonces are random, so a key must not seal more than 2³² cookies (NIST SP 800-38D §8.3): a thousand
//! a second, renewals included, for seven weeks. Busier sites rotate their key more often than that.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use thiserror::Error;

use super::{Pin, Refused, StickyCookie};

/// Shortest secret in bytes.
const SHORTEST: usize = 16;
const SALT: &[u8] = b"evenkeel sticky cookie";
const INFO: &[u8] = b"v1 aes-256-gcm";

const PIN: usize = 25;
const TAG: usize = 16;
const NONCE_AT: usize = 1;
const PIN_AT: usize = NONCE_AT + NONCE_LEN;
const TAG_AT: usize = PIN_AT + PIN;
const BYTES: usize = TAG_AT + TAG;
/// Characters of a value; whole groups of three bytes, so that every value has one spelling.
const CHARACTERS: usize = BYTES / 3 * 4;
const _: () = assert!(BYTES.is_multiple_of(3));

/// Keys that seal and open cookies: the first seals, all open, so that a key is rotated by putting a
/// new one first and removing the old one when its cookies have expired. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    ring: Arc<[Key]>,
}

struct Key {
    /// Found in the value, so that one key is tried and not all.
    id: u8,
    cipher: LessSafeKey,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("ids", &self.ring.iter().map(|k| k.id).collect::<Vec<_>>()).finish()
    }
}

/// Why secrets make no keys. Never says a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("no secret for the sticky cookie: give at least one")]
    None,
    /// Counted from 1.
    #[error("secret {position} for the sticky cookie has {bytes} bytes: give at least 16, random ones")]
    Short { position: usize, bytes: usize },
    /// Counted from 1.
    #[error("secret {position} for the sticky cookie is the same as secret {first}: give each once")]
    Repeated { position: usize, first: usize },
    #[error("the cryptographic library could not derive a key or draw random bytes")]
    Library,
}

impl Keys {
    /// Derives a key from each secret, the one that seals first. White space around a secret does not
    /// count, for files end in a line break and variables do not.
    ///
    /// # Errors
    /// No secret, one below 16 bytes, or one given twice.
    pub fn new(secrets: &[String]) -> Result<Self, KeyError> {
        if secrets.is_empty() {
            return Err(KeyError::None);
        }
        let secrets: Vec<&str> = secrets.iter().map(|s| s.trim_ascii()).collect();
        let key = |(i, secret): (usize, &&str)| {
            if secret.len() < SHORTEST {
                return Err(KeyError::Short { position: i + 1, bytes: secret.len() });
            }
            match secrets[..i].iter().position(|earlier| earlier == secret) {
                Some(first) => Err(KeyError::Repeated { position: i + 1, first: first + 1 }),
                None => Key::derive(secret),
            }
        };
        let ring: Arc<[Key]> = secrets.iter().enumerate().map(key).collect::<Result<_, _>>()?;
        Ok(Self { ring })
    }

    /// A fresh secret for [`Self::new`]: 32 random bytes as 64 hexadecimal digits, to be kept by the
    /// caller. For the control plane only; it asks the operating system for the bytes.
    ///
    /// # Errors
    /// No random bytes were to be had.
    pub fn fresh_secret() -> Result<String, KeyError> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| KeyError::Library)?;
        Ok(bytes
            .iter()
            .flat_map(|b| [b >> 4, b & 15])
            .map(|d| char::from(b"0123456789abcdef"[usize::from(d)]))
            .collect())
    }

    /// The value of the cookie for `pin`: 72 characters of base64url. `nonce` must be random.
    ///
    /// Times beyond their ranges (see [`Pin`]) are capped. Should the cipher fail, which it does for
    /// gigabytes only, the value is empty: a cookie that nobody honours.
    #[must_use]
    pub fn seal(&self, cookie: &StickyCookie, upstream: &str, pin: &Pin, nonce: [u8; NONCE_LEN]) -> String {
        let key = &self.ring[0];
        let mut bytes = [0; BYTES];
        bytes[0] = key.id;
        bytes[NONCE_AT..PIN_AT].copy_from_slice(&nonce);
        bytes[PIN_AT..TAG_AT].copy_from_slice(&pack(pin));
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = with_place(cookie, upstream, |place| {
            key.cipher.seal_in_place_separate_tag(nonce, Aad::from(place), &mut bytes[PIN_AT..TAG_AT])
        });
        let Ok(tag) = sealed else { return String::new() };
        bytes[TAG_AT..].copy_from_slice(tag.as_ref());
        encode(&bytes)
    }

    /// What the value of a cookie says, if it is one of ours for this place and not too old. Cheap on
    /// whatever a stranger sends: a wrong length is refused before anything is read.
    ///
    /// # Errors
    /// Why the cookie is not honoured.
    pub fn open(&self, cookie: &StickyCookie, upstream: &str, value: &[u8], now_unix: u64) -> Result<Pin, Refused> {
        let bytes = value.try_into().ok().and_then(decode).ok_or(Refused::Invalid)?;
        let pin = with_place(cookie, upstream, |place| {
            self.ring.iter().filter(|key| key.id == bytes[0]).find_map(|key| key.open(&bytes, place))
        });
        let pin = pin.ok_or(Refused::Invalid)?;
        cookie.check_age(&pin, now_unix)?;
        Ok(pin)
    }
}

/// Length of what HKDF gives: the id, then the key.
struct Material;

impl KeyType for Material {
    fn len(&self) -> usize {
        1 + AES_256_GCM.key_len()
    }
}

impl Key {
    fn derive(secret: &str) -> Result<Self, KeyError> {
        let mut material = [0; 33];
        let key = Salt::new(HKDF_SHA256, SALT).extract(secret.as_bytes());
        key.expand(&[INFO], Material).and_then(|okm| okm.fill(&mut material)).map_err(|_| KeyError::Library)?;
        let key = UnboundKey::new(&AES_256_GCM, &material[1..]).map_err(|_| KeyError::Library)?;
        Ok(Self { id: material[0], cipher: LessSafeKey::new(key) })
    }

    fn open(&self, bytes: &[u8; BYTES], place: &[u8]) -> Option<Pin> {
        let nonce = Nonce::try_assume_unique_for_key(&bytes[NONCE_AT..PIN_AT]).ok()?;
        let mut sealed = [0; PIN + TAG];
        sealed.copy_from_slice(&bytes[PIN_AT..]);
        let opened = self.cipher.open_in_place(nonce, Aad::from(place), &mut sealed).ok()?;
        unpack(opened)
    }
}

fn pack(pin: &Pin) -> [u8; PIN] {
    let issued = pin.issued.min((1 << 40) - 1);
    let after = u32::try_from(pin.seen.saturating_sub(issued)).unwrap_or(u32::MAX);
    let mut bytes = [0; PIN];
    bytes[..8].copy_from_slice(&pin.server.to_be_bytes());
    bytes[8..16].copy_from_slice(&pin.session.to_be_bytes());
    bytes[16..21].copy_from_slice(&issued.to_be_bytes()[3..]);
    bytes[21..].copy_from_slice(&after.to_be_bytes());
    bytes
}

fn unpack(bytes: &[u8]) -> Option<Pin> {
    let (server, rest) = bytes.split_first_chunk()?;
    let (session, rest) = rest.split_first_chunk()?;
    let (issued, after) = rest.split_first_chunk::<5>()?;
    let issued = issued.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let seen = issued + u64::from(u32::from_be_bytes(*after.first_chunk()?));
    Some(Pin { server: u64::from_be_bytes(*server), session: u64::from_be_bytes(*session), issued, seen })
}

/// Lends the associated data: the length of the cookie's name, that name, the upstream's name. Names
/// of common length need no allocation.
fn with_place<T>(cookie: &StickyCookie, upstream: &str, f: impl FnOnce(&[u8]) -> T) -> T {
    let name = cookie.name.as_bytes();
    let parts = [&(name.len() as u32).to_be_bytes()[..], name, upstream.as_bytes()];
    let len = parts.iter().map(|p| p.len()).sum();
    let mut near = [0; 160];
    let mut far = Vec::new();
    let place = match near.get_mut(..len) {
        Some(place) => place,
        None => {
            far.resize(len, 0);
            &mut far[..]
        }
    };
    let mut at = 0;
    for part in parts {
        place[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    f(place)
}

/// RFC 4648 §5.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const NO_DIGIT: u8 = 0xFF;
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut i = 0;
    while i < ALPHABET.len() {
        digits[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    digits
};

fn encode(bytes: &[u8; BYTES]) -> String {
    let mut text = String::with_capacity(CHARACTERS);
    for group in bytes.chunks_exact(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        text.extend([18, 12, 6, 0].map(|shift| char::from(ALPHABET[bits >> shift & 63])));
    }
    text
}

fn decode(text: &[u8; CHARACTERS]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    let mut all = 0;
    for (group, three) in text.chunks_exact(4).zip(bytes.chunks_exact_mut(3)) {
        let bits = group.iter().fold(0u32, |bits, character| {
            let digit = DIGITS[usize::from(*character)];
            all |= digit;
            bits << 6 | u32::from(digit & 63)
        });
        three.copy_from_slice(&bits.to_be_bytes()[1..]);
    }
    // Digits are below 64; only NO_DIGIT has the highest bit.
    (all & 0x80 == 0).then_some(bytes)
}
