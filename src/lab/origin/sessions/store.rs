//! Sessions in a store that all servers ask: Redis.
//!
//! A visit reads the session and writes it back, as frameworks do that keep theirs there: two round trips. The write is
//! for a session that is still there only, so that one that was ended meanwhile stays ended.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ConnectionAddr, IntoConnectionInfo as _, RedisError};

use super::Broken;
use super::record::{Record, decode, random_id};

/// A store that does not answer within this has failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for StoreAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => text.parse().map(Self::Tcp).map_err(|_| {
                format!("`{text}` is no place of a store: write \"127.0.0.1:6379\" or \"unix:/run/redis.sock\"")
            }),
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection to the store, made when it is first used, and again when it was lost.
#[derive(Clone)]
pub(in crate::lab::origin) struct Store(ConnectionManager);

impl From<RedisError> for Broken {
    fn from(error: RedisError) -> Self {
        Self(format!("the store: {error}"))
    }
}

impl Store {
    /// Must be called within a tokio runtime.
    pub(in crate::lab::origin) fn new(at: &StoreAddress) -> Result<Self, Broken> {
        let address = match at {
            StoreAddress::Tcp(address) => ConnectionAddr::Tcp(address.ip().to_string(), address.port()),
            StoreAddress::Unix(path) => ConnectionAddr::Unix(path.clone()),
        };
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(2);
        let client = Client::open(address.into_connection_info()?)?;
        Ok(Self(ConnectionManager::new_lazy_with_config(client, config)?))
    }

    pub(super) async fn start(&self, user: &str, size: usize, life: Duration) -> Result<String, Broken> {
        let id = random_id()?;
        let record = Record::new(user, size, life);
        let life = life.as_millis() as u64;
        let (session, index) = (format!("session:{id}"), format!("user:{user}"));
        let mut both = redis::pipe();
        both.cmd("SET").arg(session).arg(record.encode(&id)).arg("PX").arg(life.max(1)).ignore();
        both.cmd("SADD").arg(&index).arg(&id).ignore();
        both.query_async::<()>(&mut self.0.clone()).await?;
        Ok(id)
    }

    pub(super) async fn visit(&self, id: &str) -> Result<Option<u64>, Broken> {
        let mut connection = self.0.clone();
        let key = format!("session:{id}");
        let found: Option<Vec<u8>> = redis::cmd("GET").arg(&key).query_async(&mut connection).await?;
        let Some((_, mut record)) = found.as_deref().and_then(decode) else { return Ok(None) };
        record.version += 1;
        let mut write = redis::cmd("SET");
        write.arg(&key).arg(record.encode(id)).arg("XX").arg("KEEPTTL");
        let written: Option<String> = write.query_async(&mut connection).await?;
        Ok(written.map(|_| record.version))
    }

    pub(super) async fn revoke(&self, user: &str) -> Result<usize, Broken> {
        let mut connection = self.0.clone();
        let index = format!("user:{user}");
        let ids: Vec<String> = redis::cmd("SMEMBERS").arg(&index).query_async(&mut connection).await?;
        let mut end = redis::cmd("DEL");
        end.arg(&index);
        for id in &ids {
            end.arg(format!("session:{id}"));
        }
        let ended: usize = end.query_async(&mut connection).await?;
        Ok(ended.saturating_sub(1))
    }

    /// A value that is kept there, if it is.
    pub(in crate::lab::origin) async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Broken> {
        Ok(redis::cmd("GET").arg(key).query_async(&mut self.0.clone()).await?)
    }

    /// Keeps a value there.
    pub(in crate::lab::origin) async fn set(&self, key: &str, value: &[u8]) -> Result<(), Broken> {
        Ok(redis::cmd("SET").arg(key).arg(value).query_async(&mut self.0.clone()).await?)
    }
}
