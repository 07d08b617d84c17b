//! Login sessions: the ways in which a server can keep them, behind one front.
//!
//! What is asked of each is the same, and the front is asynchronous because some of them have to ask elsewhere.

mod memory;
mod record;
mod replicated;
mod store;
#[cfg(test)]
mod tests;
mod token;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memory::Table;
use record::{Record, random_id};
pub(super) use replicated::{FOLLOWER, PROTOCOL, Replicated};
pub(super) use store::Store;
pub use store::StoreAddress;
use token::Token;

/// How sessions are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Keep {
    /// Not at all: who says that they have one is believed. The same work without a look-up.
    Nothing,
    /// In this server's memory, and in no other.
    #[default]
    Memory,
    /// In the memory of every server; these are others of them.
    Replicated(Vec<SocketAddr>),
    /// In a Redis.
    Store(StoreAddress),
    /// By the client, in a token signed with this key.
    Token(Vec<u8>),
}

/// Sessions as a server is told to keep them.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    pub keep: Keep,
    /// Bytes that the application has in each, besides who its user is.
    pub size: usize,
    /// How long one lasts after its login.
    pub life: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { keep: Keep::Memory, size: 0, life: Duration::from_secs(3600) }
    }
}

/// Why a session could not be started, looked up or ended.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl From<aws_lc_rs::error::Unspecified> for Broken {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self("no randomness for a session".to_owned())
    }
}

/// What a server has of sessions.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) sessions: usize,
    /// That the sessions it holds are made of.
    pub(super) bytes: usize,
    /// Servers whose writes it takes.
    pub(super) peers: usize,
    /// That it has sent to other servers.
    pub(super) sent: u64,
}

pub(super) struct Sessions {
    kept: Kept,
    size: usize,
    life: Duration,
}

enum Kept {
    Nothing,
    Memory(Mutex<Table>),
    Replicated(Arc<Replicated>, Vec<SocketAddr>),
    Store(Store),
    Token(Box<Token>),
}

impl Sessions {
    /// Must be called within a tokio runtime where sessions are kept in a store.
    pub(super) fn new(options: SessionOptions) -> Result<Self, Broken> {
        let SessionOptions { keep, size, life } = options;
        let kept = match keep {
            Keep::Nothing => Kept::Nothing,
            Keep::Memory => Kept::Memory(Mutex::default()),
            Keep::Replicated(peers) => Kept::Replicated(Arc::new(Replicated::new()), peers),
            Keep::Store(at) => Kept::Store(Store::new(&at)?),
            Keep::Token(key) => Kept::Token(Box::new(Token::new(&key))),
        };
        Ok(Self { kept, size, life })
    }

    /// Does what has to be done before it can serve, in tasks of their own; [`Sessions::is_ready`] says when.
    pub(super) fn begin(&self, own: SocketAddr) {
        if let Kept::Replicated(replicated, peers) = &self.kept {
            tokio::spawn(Arc::clone(replicated).join(own, peers.clone()));
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.replicated().is_none_or(|replicated| replicated.is_ready())
    }

    pub(super) fn replicated(&self) -> Option<&Arc<Replicated>> {
        match &self.kept {
            Kept::Replicated(replicated, _) => Some(replicated),
            _ => None,
        }
    }

    /// Starts a session of a user, for a time of its own if one is given: what the cookie says from now on.
    pub(super) async fn start(&self, user: &str, life: Option<Duration>) -> Result<String, Broken> {
        let life = life.unwrap_or(self.life);
        let new = || Record::new(user, self.size, life);
        match &self.kept {
            Kept::Nothing => Ok(random_id()?),
            Kept::Memory(table) => {
                let id = random_id()?;
                lock(table).put(id.clone(), new());
                Ok(id)
            }
            Kept::Replicated(replicated, _) => {
                let (id, record) = (random_id()?, new());
                replicated.publish(&id, &record);
                replicated.table().put(id.clone(), record);
                Ok(id)
            }
            Kept::Store(store) => store.start(user, self.size, life).await,
            Kept::Token(token) => token.start(user, life),
        }
    }

    /// Counts a visit, where visits are counted, or says 0; none for a session that is not known.
    pub(super) async fn visit(&self, id: &str) -> Result<Option<u64>, Broken> {
        Ok(match &self.kept {
            Kept::Nothing => Some(0),
            Kept::Memory(table) => lock(table).visit(id).map(|record| record.version),
            Kept::Replicated(replicated, _) => {
                let mut table = replicated.table();
                let record = table.visit(id);
                if let Some(record) = record {
                    replicated.publish(id, record);
                }
                record.map(|record| record.version)
            }
            Kept::Store(store) => store.visit(id).await?,
            Kept::Token(token) => token.is_good(id).then_some(0),
        })
    }

    /// Ends the sessions of a user as far as this server can: how many. None where no server can end any.
    pub(super) async fn revoke(&self, user: &str) -> Result<Option<usize>, Broken> {
        Ok(match &self.kept {
            Kept::Nothing | Kept::Token(_) => None,
            Kept::Memory(table) => Some(lock(table).revoke(user).len()),
            Kept::Replicated(replicated, _) => {
                let ended = replicated.table().revoke(user);
                for (id, record) in &ended {
                    replicated.publish(id, record);
                }
                Some(ended.len())
            }
            Kept::Store(store) => Some(store.revoke(user).await?),
        })
    }

    pub(super) fn held(&self) -> Held {
        let of = |table: &Table| {
            let (sessions, bytes) = table.held();
            Held { sessions, bytes, ..Held::default() }
        };
        match &self.kept {
            Kept::Memory(table) => of(&lock(table)),
            Kept::Replicated(replicated, _) => {
                let (peers, sent) = replicated.traffic();
                Held { peers, sent, ..of(&replicated.table()) }
            }
            Kept::Nothing | Kept::Store(_) | Kept::Token(_) => Held::default(),
        }
    }

    /// Forgets what is in memory, as a process does that ends.
    pub(super) fn forget(&self) {
        match &self.kept {
            Kept::Memory(table) => lock(table).clear(),
            Kept::Replicated(replicated, _) => replicated.table().clear(),
            Kept::Nothing | Kept::Store(_) | Kept::Token(_) => {}
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
