//! What a session is, in memory and on its way to somewhere else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use std::fmt::Write as _;

/// One session: whose it is, how often it was seen, when it ends, and what else the application keeps in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) user: String,
    /// Grows with each write, so that of two copies the newer one is known. The largest one there is means
    /// that the session was ended: nothing written before may bring it back.
    pub(super) version: u64,
    /// Milliseconds since 1970.
    pub(super) ends: u64,
    pub(super) data: Vec<u8>,
}

impl Record {
    /// A new session of so many bytes.
    pub(super) fn new(user: &str, size: usize, life: Duration) -> Self {
        let ends = now().saturating_add(life.as_millis() as u64);
        // Not zeros: pages that nobody has written to would take no memory.
        Self { user: user.to_owned(), version: 0, ends, data: vec![b's'; size] }
    }

    /// What is left of one that was ended.
    pub(super) fn ended(&self) -> Self {
        Self { user: self.user.clone(), version: u64::MAX, ends: self.ends, data: Vec::new() }
    }

    pub(super) fn lives(&self) -> bool {
        self.version != u64::MAX && now() < self.ends
    }

    /// With its id, as bytes; [`decode`] reads them back.
    pub(super) fn encode(&self, id: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24 + id.len() + self.user.len() + self.data.len());
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(&self.ends.to_be_bytes());
        for text in [id, &self.user] {
            bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&self.data);
        bytes
    }
}

/// The id and the session that [`Record::encode`] has written; none for anything else.
pub(super) fn decode(bytes: &[u8]) -> Option<(String, Record)> {
    let (version, rest) = bytes.split_first_chunk::<8>()?;
    let (ends, rest) = rest.split_first_chunk::<8>()?;
    let (id, rest) = text(rest)?;
    let (user, data) = text(rest)?;
    let (version, ends) = (u64::from_be_bytes(*version), u64::from_be_bytes(*ends));
    Some((id, Record { user, version, ends, data: data.to_vec() }))
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((String::from_utf8(text.to_vec()).ok()?, rest))
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A random id of 128 bits.
///
/// # Errors
/// When the system has no randomness to give.
pub(super) fn random_id() -> Result<String, aws_lc_rs::error::Unspecified> {
    let mut random = [0_u8; 16];
    rand::fill(&mut random)?;
    Ok(random.iter().fold(String::with_capacity(32), |mut id, byte| {
        // Writing to a String cannot fail.
        let _ = write!(id, "{byte:02x}");
        id
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_as_it_was_and_nothing_else_is_read() {
        let record = Record { version: 7, ..Record::new("änne", 100, Duration::from_secs(60)) };
        let bytes = record.encode("id");
        assert_eq!(decode(&bytes), Some(("id".to_owned(), record.clone())));
        for length in 0..24 + "id".len() + "änne".len() {
            assert_eq!(decode(&bytes[..length]), None, "{length}");
        }
        assert!(record.lives() && !record.ended().lives());
        assert!(!Record::new("a", 0, Duration::ZERO).lives());
    }
}
