//! Login sessions in memory: what a rolling restart without draining loses.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;

use aws_lc_rs::rand;

/// More sessions than this push out the oldest, so that a long load test stays bounded.
const MAX: usize = 100_000;

/// The sessions of one server: how often each was seen.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    visits: HashMap<String, u64>,
    by_age: VecDeque<String>,
}

impl Sessions {
    /// Starts a session with a random id of 128 bits.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub(super) fn start(&mut self) -> Result<String, aws_lc_rs::error::Unspecified> {
        let mut random = [0_u8; 16];
        rand::fill(&mut random)?;
        let id = random.iter().fold(String::with_capacity(32), |mut id, byte| {
            // Writing to a String cannot fail.
            let _ = write!(id, "{byte:02x}");
            id
        });
        if self.by_age.len() == MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.visits.remove(&oldest);
        }
        self.visits.insert(id.clone(), 0);
        self.by_age.push_back(id.clone());
        Ok(id)
    }

    /// Counts a visit; none for a session that is not known here.
    pub(super) fn visit(&mut self, id: &str) -> Option<u64> {
        let visits = self.visits.get_mut(id)?;
        *visits += 1;
        Some(*visits)
    }

    pub(super) fn len(&self) -> usize {
        self.visits.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_session_makes_room() {
        let mut sessions = Sessions::default();
        let first = sessions.start().unwrap();
        let second = sessions.start().unwrap();
        assert_ne!(first, second);
        for _ in 0..MAX - 1 {
            sessions.start().unwrap();
        }
        assert_eq!(sessions.visit(&first), None);
        assert_eq!(sessions.visit(&second), Some(1));
        assert_eq!(sessions.visit(&second), Some(2));
        assert_eq!(sessions.len(), MAX);
    }
}
