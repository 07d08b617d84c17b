//! What another process has to know to go on with the figures of the last minutes: what has come since each look.
//! Its counts begin where they begin; only differences mean the same in both.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Counts, Look, Looks, Subject};
use crate::upstream::Upstream;

/// The looks at one upstream.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Servers by name, with what each weighs.
    servers: Vec<(String, u32)>,
    /// Those in the shadow.
    policies: Vec<String>,
    looks: Vec<Looked>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Looked {
    at: Duration,
    own: Since,
    shades: Vec<Since>,
}

/// What has come since.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Since {
    servers: Vec<u64>,
    followed: u64,
    moves: u64,
}

impl Since {
    fn of(old: &Counts, new: &Counts) -> Self {
        let since = |(new, old): (&u64, &u64)| new.wrapping_sub(*old);
        Self {
            servers: new.servers.iter().zip(&old.servers).map(since).collect(),
            followed: new.followed.wrapping_sub(old.followed),
            moves: new.moves.wrapping_sub(old.moves),
        }
    }

    /// The counts then, from those of now; `from` has the position there of each server here.
    fn before(&self, now: &Counts, from: &[usize]) -> Counts {
        let since = |at: &usize| self.servers.get(*at).copied().unwrap_or(0);
        Counts {
            servers: now.servers.iter().zip(from).map(|(now, at)| now.wrapping_sub(since(at))).collect(),
            followed: now.followed.wrapping_sub(self.followed),
            moves: now.moves.wrapping_sub(self.moves),
        }
    }
}

fn described(upstream: &Upstream, of: &Subject) -> (Vec<(String, u32)>, Vec<String>) {
    let weights = of.servers.iter().map(|(_, weight)| *weight);
    let servers = upstream.servers.iter().map(|server| server.name.to_string()).zip(weights).collect();
    let shades = upstream.shadow.iter().flat_map(|shadow| &shadow.shades);
    (servers, shades.map(|shade| shade.tally.is()).collect())
}

impl Looks {
    /// What is known of an upstream as of now, if it has been looked at since it changed.
    #[must_use]
    pub fn memory(&self, upstream: &Upstream, now: Duration) -> Option<Memory> {
        let of = Subject::of(upstream);
        let (servers, policies) = described(upstream, &of);
        let windows = self.lock();
        let window = windows.get(upstream.name()).filter(|window| window.of == of)?;
        let now = Look::at(now, upstream);
        let looked = |look: &Look| Looked {
            at: look.at,
            own: Since::of(&look.own, &now.own),
            shades: look.shades.iter().zip(&now.shades).map(|(old, new)| Since::of(old, new)).collect(),
        };
        Some(Memory { servers, policies, looks: window.looks.iter().map(looked).collect() })
    }

    /// Goes on where another process was, if there were the same servers and policies.
    pub fn resume(&self, upstream: &Upstream, memory: &Memory, now: Duration) {
        let of = Subject::of(upstream);
        let (servers, policies) = described(upstream, &of);
        let from: Vec<usize> =
            servers.iter().filter_map(|server| memory.servers.iter().position(|other| other == server)).collect();
        let mut windows = self.lock();
        let Some(window) = windows.get_mut(upstream.name()).filter(|window| window.of == of) else { return };
        if from.len() != memory.servers.len() || from.len() != servers.len() || policies != memory.policies {
            return;
        }
        let now = Look::at(now, upstream);
        let look = |looked: &Looked| Look {
            at: looked.at,
            own: looked.own.before(&now.own, &from),
            shades: looked.shades.iter().zip(&now.shades).map(|(since, now)| since.before(now, &from)).collect(),
        };
        if !memory.looks.is_empty() {
            window.looks = memory.looks.iter().map(look).collect();
        }
    }
}
