//! What another process has to know of the policies in a shadow: what was counted, and where clients were last.
//!
//! What would be in flight is left out: those requests end where they began.

use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use super::clients::{Clients, Known};
use super::{Kept, Tally, id};
use crate::metrics::cells::{ShadowCell, ShadowServerCell};

/// A shadow as it is at one moment. Servers are named: their numbers are of one process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    known_by: String,
    /// First the upstream's own.
    policies: Vec<Counted>,
    clients: Known,
    /// What stands for servers among clients.
    ids: Vec<(u16, String)>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Counted {
    policy: String,
    followed: u64,
    moves: u64,
    unplaced: u64,
    /// Requests of each server.
    servers: Vec<(String, u64)>,
}

impl Tally {
    /// What tells its policy from another.
    #[must_use]
    pub fn is(&self) -> String {
        format!("{:?}", self.policy)
    }

    fn memory(&self, servers: &[(u32, &str)]) -> Counted {
        let (followed, moves) = self.moves();
        let known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = |uid: &u32| known.get(uid).map(|cells| cells.iter().map(|cell| cell.requests.get()).sum());
        let servers = servers.iter().filter_map(|(uid, name)| Some(((*name).to_owned(), requests(uid)?)));
        Counted { policy: self.is(), followed, moves, unplaced: self.unplaced(), servers: servers.collect() }
    }

    fn resume(&self, counted: &Counted, servers: &[(u32, &str)]) {
        let Some(ShadowCell { followed, moves, unplaced }) = self.cores.first() else { return };
        followed.add(counted.followed);
        moves.add(counted.moves);
        unplaced.add(counted.unplaced);
        let mut known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || -> Arc<[ShadowServerCell]> { self.cores.iter().map(|_| ShadowServerCell::default()).collect() };
        for (name, requests) in &counted.servers {
            if let Some((uid, _)) = servers.iter().find(|(_, named)| named == name)
                && let Some(cell) = known.entry(*uid).or_insert_with(new).first()
            {
                cell.requests.add(*requests);
            }
        }
    }
}

impl Kept {
    /// All that is known now. `servers` are the upstream's, by number and name.
    #[must_use]
    pub fn memory(&self, servers: &[(u32, &str)]) -> Memory {
        Memory {
            known_by: format!("{:?}", self.known_by),
            policies: self.tallies.iter().map(|tally| tally.memory(servers)).collect(),
            clients: self.clients.known(),
            ids: servers.iter().map(|(uid, name)| (id(*uid), (*name).to_owned())).collect(),
        }
    }

    /// Goes on where another process was, as over a reload: with the counts of each policy that is the same, and with
    /// where clients were if all are. Only the control plane calls this, before any core counts; the upstream is built
    /// anew after it.
    pub fn resume(&mut self, memory: &Memory, servers: &[(u32, &str)]) {
        for (number, tally) in self.tallies.iter().enumerate() {
            // The upstream's own is what really happened; that is another thing than what would have.
            let mut counted = memory.policies.iter().enumerate().filter(|(at, _)| (*at == 0) == (number == 0));
            if let Some((_, counted)) = counted.find(|(_, counted)| counted.policy == tally.is()) {
                tally.resume(counted, servers);
            }
        }
        let same = self.tallies.len() == memory.policies.len()
            && self.tallies.iter().zip(&memory.policies).all(|(tally, counted)| tally.is() == counted.policy)
            && memory.known_by == format!("{:?}", self.known_by);
        if same {
            let name_of = |old: u16| memory.ids.iter().find(|(id, _)| *id == old).map(|(_, name)| name.as_str());
            let new_id = |name: &str| servers.iter().find(|(_, named)| *named == name).map(|(uid, _)| id(*uid));
            let server = |old: u16| name_of(old).and_then(new_id);
            self.clients = Arc::new(Clients::resumed(self.tallies.len(), &memory.clients, server));
        }
    }
}
