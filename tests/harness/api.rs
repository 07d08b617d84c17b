//! The admin API of a running evenkeel, whichever process it is in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Refusal, Reloaded, ServerStatus, Status, admin, eventually};

/// Asks over the Unix socket.
pub struct Api {
    socket: PathBuf,
}

impl Api {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A call: status and body. One that found the process that was just taken over from is made again, as the
    /// verbs do: nothing was done.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        eventually("the process that serves answers", || {
            let (status, text) = admin(&self.socket, method, path, body);
            let refused = (status == 503).then(|| serde_json::from_str::<Refusal>(&text).ok()).flatten();
            (refused.is_none_or(|refusal| refusal.error != "handed_over")).then_some((status, text))
        })
    }

    pub fn status(&self) -> Status {
        let (status, body) = self.admin("GET", "/status", "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Reloads the file as it is.
    pub fn reload_file(&self) -> Result<Reloaded, Refusal> {
        let (status, body) = self.admin("POST", "/reload", "");
        if status == 200 {
            Ok(serde_json::from_str(&body).unwrap())
        } else {
            Err(serde_json::from_str(&body).unwrap_or_else(|e| panic!("{status} {body}: {e}")))
        }
    }

    /// One server's status.
    pub fn server(&self, upstream: &str, name: &str) -> ServerStatus {
        let status = self.status();
        let upstream = status.upstreams.iter().find(|u| u.name == upstream).expect("the upstream");
        upstream.servers.iter().find(|s| s.name == name).expect("the server").clone()
    }

    /// Changes a server.
    pub fn change(&self, upstream: &str, server: &str, change: &Value) {
        let path = format!("/upstreams/{upstream}/servers/{server}");
        let (status, body) = self.admin("PUT", &path, &change.to_string());
        assert_eq!(status, 200, "{body}");
    }

    /// `/metrics` as it is written.
    pub fn scrape(&self) -> String {
        let (status, body) = self.admin("GET", "/metrics", "");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// The samples of `/metrics`, by name with labels.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let sample = |line: &str| line.rsplit_once(' ').map(|(n, v)| (n.to_owned(), v.parse().unwrap()));
        self.scrape().lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
    }

    /// The sum of all samples whose name is `name` and whose labels hold every one of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let is = |key: &str| key.split('{').next() == Some(name) && labels.iter().all(|label| key.contains(label));
        self.metrics().iter().filter(|(key, _)| is(key)).map(|(_, value)| value).sum()
    }
}
