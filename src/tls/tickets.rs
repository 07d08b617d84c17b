//! Session tickets: a client keeps its session, sealed, and comes back without a whole handshake.
//!
//! Keys are made from a secret and the time, so that replicas with the same secret open each other's
//! tickets, a reload or restart loses none, and a key is used for one period only. The secret of a
//! listener is bound to how its clients prove who they are: a ticket carries that proof with it, and
//! must not carry it to a listener, or past a revocation list, that would not have accepted it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, Prk, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

use super::server::Resumption;

const KEY: usize = 32;
/// Says which key sealed a ticket; made like the key, so it tells nothing.
const NAME: usize = 16;
const NONCE: usize = 12;
const TAG: usize = 16;

/// What ticket keys are made from, first the one that seals.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets(pub Vec<String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

/// Fresh random text for [`Secrets`].
///
/// # Errors
/// The system has no randomness.
pub fn fresh_secret() -> Result<String, &'static str> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| "the system has no randomness")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Seals and opens tickets.
pub(super) struct Tickets {
    /// Of each secret.
    roots: Vec<Prk>,
    identity: [u8; 32],
    period: u64,
    now: fn() -> u64,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("period", &self.period).finish_non_exhaustive()
    }
}

impl Tickets {
    pub(super) fn new(resumption: &Resumption, identity: [u8; 32]) -> Self {
        let salt = Salt::new(HKDF_SHA256, b"evenkeel session tickets");
        let roots = resumption.secrets.0.iter().map(|secret| salt.extract(secret.as_bytes())).collect();
        Self { roots, identity, period: resumption.lifetime.as_secs().max(1), now: unix_seconds }
    }

    fn epoch(&self) -> u64 {
        (self.now)() / self.period
    }

    /// The name and the key of one period.
    fn derive(&self, root: &Prk, epoch: u64) -> Option<([u8; NAME], LessSafeKey)> {
        let mut bytes = [0; KEY + NAME];
        let (period, epoch) = (self.period.to_be_bytes(), epoch.to_be_bytes());
        let info: [&[u8]; 4] = [b"v1", &self.identity, &period, &epoch];
        root.expand(&info, Length).ok()?.fill(&mut bytes).ok()?;
        let mut name = [0; NAME];
        name.copy_from_slice(&bytes[KEY..]);
        Some((name, LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes[..KEY]).ok()?)))
    }
}

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        KEY + NAME
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.period).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let (name, key) = self.derive(self.roots.first()?, self.epoch())?;
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(NAME + NONCE + plain.len() + TAG);
        ticket.extend_from_slice(&name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let sealed = &mut ticket[NAME + NONCE..];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&name), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE)?;
        let now = self.epoch();
        // The next one, because a replica's clock may be ahead.
        for epoch in [Some(now), now.checked_sub(1), now.checked_add(1)].into_iter().flatten() {
            for root in &self.roots {
                let (theirs, key) = self.derive(root, epoch)?;
                if theirs != name {
                    continue;
                }
                let mut opened = sealed.to_vec();
                let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
                let length = key.open_in_place(nonce, Aad::from(&theirs), &mut opened).ok()?.len();
                opened.truncate(length);
                return Some(opened);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(secrets: &[&str], identity: u8, now: fn() -> u64) -> Tickets {
        let secrets = Secrets(secrets.iter().map(|s| (*s).to_owned()).collect());
        let resumption = Resumption { lifetime: Duration::from_secs(3_600), secrets };
        Tickets { now, ..Tickets::new(&resumption, [identity; 32]) }
    }

    const NOON: fn() -> u64 = || 12 * 3_600 + 5;

    #[test]
    fn replicas_with_the_same_secret_open_each_others_tickets() {
        let ticket = tickets(&["one"], 0, NOON).encrypt(b"session").unwrap();
        assert_eq!(tickets(&["one"], 0, NOON).decrypt(&ticket).unwrap(), b"session");
        assert!(tickets(&["two"], 0, NOON).decrypt(&ticket).is_none());
    }

    #[test]
    fn both_halves_of_a_rotation_are_accepted() {
        let old = tickets(&["one"], 0, NOON).encrypt(b"session").unwrap();
        let rotated = tickets(&["two", "one"], 0, NOON);
        assert_eq!(rotated.decrypt(&old).unwrap(), b"session");
        let new = rotated.encrypt(b"session").unwrap();
        assert!(tickets(&["one"], 0, NOON).decrypt(&new).is_none());
        assert_eq!(tickets(&["one", "two"], 0, NOON).decrypt(&new).unwrap(), b"session");
    }

    #[test]
    fn a_ticket_of_another_proof_of_identity_is_worth_nothing() {
        let ticket = tickets(&["one"], 1, NOON).encrypt(b"session").unwrap();
        assert!(tickets(&["one"], 2, NOON).decrypt(&ticket).is_none());
    }

    #[test]
    fn a_ticket_outlives_its_period_by_one() {
        let ticket = tickets(&["one"], 0, NOON).encrypt(b"session").unwrap();
        assert!(tickets(&["one"], 0, || 11 * 3_600 + 3_599).decrypt(&ticket).is_some(), "a clock behind");
        assert!(tickets(&["one"], 0, || 13 * 3_600 + 3_599).decrypt(&ticket).is_some());
        assert!(tickets(&["one"], 0, || 14 * 3_600).decrypt(&ticket).is_none());
    }

    #[test]
    fn what_was_changed_or_cut_is_worth_nothing() {
        let tickets = tickets(&["one"], 0, NOON);
        let good = tickets.encrypt(b"session").unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(tickets.decrypt(&bad).is_none(), "byte {at}");
            assert!(tickets.decrypt(&good[..at]).is_none(), "{at} bytes");
        }
    }
}
