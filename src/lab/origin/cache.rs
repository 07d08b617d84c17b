//! Items from a store behind the server, kept in a cache: its own, or one that all servers share.
//!
//! A cache of its own is empty when a server starts, and whoever asks a new server for anything asks the store. One that
//! is shared is as warm as it was. Items never change and are never thrown away: what is looked at is how a cache fills.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::answers::{Answer, broken, query, text};
use super::server::Shared;
use super::sessions::{Broken, Store, StoreAddress};

/// Items that a server keeps; more are asked for each time.
const MAX: usize = 100_000;
/// A store that does not answer within this has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where items come from, and where they are kept.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// A toy server that has the items.
    pub items: SocketAddr,
    /// A Redis that all servers share; none is a cache of this server's own.
    pub shared: Option<StoreAddress>,
}

pub(super) struct Cache {
    items: SocketAddr,
    kept: Kept,
}

enum Kept {
    Own(Mutex<HashMap<u64, Bytes>>),
    Shared(Store),
}

impl Cache {
    /// Must be called within a tokio runtime where the cache is shared.
    pub(super) fn new(options: &CacheOptions) -> Result<Self, Broken> {
        let kept = match &options.shared {
            Some(at) => Kept::Shared(Store::new(at)?),
            None => Kept::Own(Mutex::default()),
        };
        Ok(Self { items: options.items, kept })
    }

    async fn look_up(&self, key: u64) -> Result<Option<Bytes>, Broken> {
        match &self.kept {
            Kept::Own(own) => Ok(lock(own).get(&key).cloned()),
            Kept::Shared(store) => Ok(store.get(&format!("item:{key}")).await?.map(Bytes::from)),
        }
    }

    async fn keep(&self, key: u64, item: &Bytes) -> Result<(), Broken> {
        match &self.kept {
            Kept::Own(own) => {
                let mut own = lock(own);
                if own.len() < MAX {
                    own.insert(key, item.clone());
                }
                Ok(())
            }
            Kept::Shared(store) => store.set(&format!("item:{key}"), item).await,
        }
    }

    /// Asks the store. Two who miss the same item at the same time both ask.
    async fn fetch(&self, key: u64) -> Result<Bytes, Broken> {
        let asking = async {
            let mut stream = TcpStream::connect(self.items).await?;
            let head = format!("GET /item?key={key} HTTP/1.1\r\nhost: items\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let failed = |why: &dyn std::fmt::Display| Broken(format!("the items: {why}"));
        let answer = timeout(PATIENCE, asking).await.map_err(|late| failed(&late))?.map_err(|error| failed(&error))?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        match end {
            Some(end) if answer.starts_with(b"HTTP/1.1 200 ") => Ok(Bytes::from(answer).slice(end + 4..)),
            _ => Err(failed(&"no item came")),
        }
    }
}

fn lock(own: &Mutex<HashMap<u64, Bytes>>) -> MutexGuard<'_, HashMap<u64, Bytes>> {
    own.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers `/item`: from the cache, or from the store behind it; and where there is neither this server has the item.
pub(super) async fn item(shared: &Shared, request: &Request<Incoming>) -> Answer {
    let key: u64 = match query(request, "key") {
        Ok(key) => key.unwrap_or(0),
        Err(wrong) => return *wrong,
    };
    let Some(cache) = &shared.cache else { return text(StatusCode::OK, format!("item {key}\n")) };
    let found = async {
        if let Some(item) = cache.look_up(key).await? {
            return Ok((item, "hit"));
        }
        let item = cache.fetch(key).await?;
        cache.keep(key, &item).await?;
        Ok((item, "miss"))
    };
    match found.await {
        Ok((item, how)) => {
            let mut answer = text(StatusCode::OK, item);
            answer.headers_mut().insert("x-cache", HeaderValue::from_static(how));
            answer
        }
        Err(error) => broken(&error),
    }
}
