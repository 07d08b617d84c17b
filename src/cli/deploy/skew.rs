//! How evenly requests were spread while servers came and went: a look at the servers' own counts each second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::proof::{self, Counts};
use super::record::count;
use crate::cli::client::{Client, PROMPT};
use crate::control::api::Status;

/// How often it is looked at first; twice as rarely whenever there are [`MOST`] looks.
const PACE: Duration = Duration::from_secs(1);
const MOST: usize = 600;

/// Since the look before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Look {
    /// Since the watching began.
    pub(super) seconds: f64,
    pub(super) requests_by_server: BTreeMap<String, u64>,
    /// The busiest server's share over the mean; none without requests.
    pub(super) skew: Option<f64>,
}

/// A watching under way.
pub(super) struct Skew {
    looks: Arc<Mutex<Vec<Look>>>,
    /// The newest counts, those of servers that are gone among them.
    counts: Arc<Mutex<Counts>>,
    task: JoinHandle<()>,
}

impl Skew {
    pub(super) fn watch(client: &Client, upstream: &str) -> Self {
        let looks = Arc::new(Mutex::new(Vec::new()));
        let counts = Arc::new(Mutex::new(Counts::default()));
        let (client, upstream, into) = (client.clone(), upstream.to_owned(), Arc::clone(&looks));
        let counted = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let (began, mut pace) = (Instant::now(), PACE);
            let mut before = requests(&client, &upstream).await;
            loop {
                sleep(pace).await;
                if let Ok(mut now) = count(&client, &upstream).await {
                    let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
                    now.keep_gone(&counted);
                    *counted = now;
                }
                let now = requests(&client, &upstream).await;
                let Some((old, new)) = before.as_ref().zip(now.as_ref()) else {
                    before = now;
                    continue;
                };
                let mut looks = into.lock().unwrap_or_else(PoisonError::into_inner);
                looks.push(between(old, new, began.elapsed()));
                if looks.len() >= MOST {
                    pace *= 2;
                    *looks = halved(&looks);
                }
                drop(looks);
                before = now;
            }
        });
        Self { looks, counts, task }
    }

    /// What has been counted up to the last look.
    pub(super) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn seen(&self) -> Vec<Look> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Skew {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn requests(client: &Client, upstream: &str) -> Option<BTreeMap<String, u64>> {
    let status: Status = client.get("/status", PROMPT).await.ok()?;
    let upstream = status.upstreams.into_iter().find(|u| u.name == upstream)?;
    Some(upstream.servers.into_iter().map(|server| (server.name, server.requests)).collect())
}

fn between(old: &BTreeMap<String, u64>, new: &BTreeMap<String, u64>, at: Duration) -> Look {
    let grown = |server: &String, count: &u64| count.saturating_sub(old.get(server).copied().unwrap_or(0));
    let requests_by_server: BTreeMap<String, u64> =
        new.iter().map(|(server, count)| (server.clone(), grown(server, count))).collect();
    let skew = proof::skew(&requests_by_server);
    Look { seconds: at.as_secs_f64(), requests_by_server, skew }
}

/// Two looks as one.
fn halved(looks: &[Look]) -> Vec<Look> {
    let both = looks.chunks(2).filter_map(|pair| {
        let mut last = pair.last()?.clone();
        if let [first, _] = pair {
            for (server, count) in &first.requests_by_server {
                *last.requests_by_server.entry(server.clone()).or_insert(0) += count;
            }
        }
        last.skew = proof::skew(&last.requests_by_server);
        Some(last)
    });
    both.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(server, count)| ((*server).to_owned(), *count)).collect()
    }

    #[test]
    fn looks_count_what_came_between() {
        let (old, new) = (counts(&[("a", 5), ("b", 5)]), counts(&[("a", 8), ("b", 6)]));
        let first = between(&old, &new, Duration::from_secs(1));
        assert_eq!((first.requests_by_server.clone(), first.skew), (counts(&[("a", 3), ("b", 1)]), Some(1.5)));
        let second = between(&new, &counts(&[("a", 8), ("b", 8), ("c", 4)]), Duration::from_secs(2));
        assert_eq!(second.skew, Some(2.0));
        let both = halved(&[first.clone(), second, first.clone()]);
        assert_eq!((both.len(), both[0].seconds, both[0].skew), (2, 2.0, Some(1.2)));
        assert_eq!(both[0].requests_by_server, counts(&[("a", 3), ("b", 3), ("c", 4)]));
        assert_eq!(both[1], first);
    }
}
