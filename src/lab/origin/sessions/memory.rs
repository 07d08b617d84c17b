//! Sessions in the memory of one process: what a restart without draining loses.

use std::collections::{HashMap, VecDeque};

use super::record::Record;

/// More sessions than this push out the oldest, so that a long load test stays bounded.
pub(super) const MAX: usize = 100_000;

/// The sessions that a server holds.
#[derive(Debug, Default)]
pub(super) struct Table {
    by_id: HashMap<String, Record>,
    by_age: VecDeque<String>,
}

impl Table {
    /// Puts a session in, or a newer copy of one that is there.
    pub(super) fn put(&mut self, id: String, record: Record) {
        if let Some(known) = self.by_id.get_mut(&id) {
            if record.version > known.version {
                *known = record;
            }
            return;
        }
        if self.by_age.len() == MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        self.by_age.push_back(id.clone());
        self.by_id.insert(id, record);
    }

    /// Counts a visit; the session as it is then, none where it is not known, or over.
    pub(super) fn visit(&mut self, id: &str) -> Option<&Record> {
        let record = self.by_id.get_mut(id).filter(|record| record.lives())?;
        record.version += 1;
        Some(record)
    }

    /// Ends all sessions of a user; what is left of them.
    pub(super) fn revoke(&mut self, user: &str) -> Vec<(String, Record)> {
        let own = self.by_id.iter_mut().filter(|(_, record)| record.user == user && record.version != u64::MAX);
        own.map(|(id, record)| {
            *record = record.ended();
            (id.clone(), record.clone())
        })
        .collect()
    }

    /// All of them, those that were ended too.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.by_id.iter().map(|(id, record)| (id.as_str(), record))
    }

    /// How many live, and the bytes that they are made of.
    pub(super) fn held(&self) -> (usize, usize) {
        let living = || self.by_id.iter().filter(|(_, record)| record.lives());
        (living().count(), living().map(|(id, record)| id.len() + record.user.len() + record.data.len()).sum())
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(user: &str) -> Record {
        Record::new(user, 10, Duration::from_secs(3600))
    }

    #[test]
    fn the_oldest_session_makes_room() {
        let mut table = Table::default();
        for n in 0..=MAX {
            table.put(n.to_string(), Record { data: Vec::new(), ..record("u") });
        }
        assert_eq!(table.visit("0"), None);
        assert_eq!(table.visit("1").map(|r| r.version), Some(1));
        assert_eq!(table.visit("1").map(|r| r.version), Some(2));
        assert_eq!(table.held().0, MAX);
    }

    #[test]
    fn a_newer_copy_wins_and_what_was_ended_does_not_come_back() {
        let mut table = Table::default();
        let at = |version| Record { version, ..record("anna") };
        table.put("x".to_owned(), at(5));
        table.put("x".to_owned(), at(3));
        assert_eq!(table.visit("x").map(|r| r.version), Some(6));
        table.put("y".to_owned(), record("otto"));
        assert_eq!(table.held(), (2, 2 * (1 + 4 + 10)));
        assert_eq!(table.revoke("anna").len(), 1);
        table.put("x".to_owned(), at(7));
        assert_eq!(table.visit("x"), None);
        assert_eq!(table.visit("y").map(|r| r.version), Some(1));
        assert_eq!((table.held().0, table.revoke("anna").len()), (1, 0));
        table.put("z".to_owned(), Record::new("late", 1, Duration::ZERO));
        assert_eq!(table.visit("z"), None, "it was over when it came");
    }
}
