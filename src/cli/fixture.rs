//! A status and an admin API for tests.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixListener;

use super::admin::{Admin, AdminAddress};
use super::client::Client;
use crate::control::api::{DrainStatus, ListenerStatus, QueueStatus, ServerStatus, Status, UpstreamStatus};

pub(super) fn server(name: &str, address: &str) -> ServerStatus {
    ServerStatus {
        name: name.into(),
        address: address.into(),
        operational: "healthy".into(),
        admin: "ready".into(),
        set_by: String::new(),
        asks_for_drain: false,
        weight: 1,
        configured_weight: 1,
        backup: false,
        in_flight: 0,
        in_flight_of_predecessor: 0,
        max_requests: None,
        on_trial: false,
        tunnels: 0,
        sessions: None,
        requests: 0,
        last_check_error: None,
        p50_ms: None,
        p99_ms: None,
        added: false,
        leaving: false,
        drain: None,
        ejection: None,
        slow_start: None,
    }
}

pub(super) fn draining(sessions_left: usize, in_flight: u32) -> ServerStatus {
    ServerStatus {
        admin: "draining".into(),
        set_by: "operator".into(),
        in_flight,
        sessions: Some(sessions_left),
        drain: Some(DrainStatus {
            seconds: 12.0,
            sessions_left,
            in_flight,
            ends_within_seconds: 840.0,
            sessions_over_in_seconds: None,
        }),
        ..server("b", "127.0.0.1:9002")
    }
}

/// Upstream `shop` with `a` and `b`, upstream `api` with `a` and a server on a Unix socket.
pub(super) fn status() -> Status {
    let a = ServerStatus {
        sessions: Some(12),
        requests: 12_345,
        in_flight: 3,
        p50_ms: Some(1.24),
        p99_ms: Some(18.0),
        weight: 10,
        configured_weight: 100,
        ..server("a", "127.0.0.1:9001")
    };
    let down = ServerStatus {
        max_requests: Some(20),
        operational: "unhealthy".into(),
        last_check_error: Some("connection refused".into()),
        ..server("a", "127.0.0.1:9011")
    };
    Status {
        version: "0.1.0".into(),
        pid: 42,
        uptime_seconds: 185,
        phase: "serving".into(),
        config: Some("/etc/evenkeel/evenkeel.toml".into()),
        state: Some("/var/lib/evenkeel/state.json".into()),
        upgrade: None,
        predecessor: None,
        generation: 3,
        cores: 2,
        connections: 7,
        listeners: vec![ListenerStatus { name: "main".into(), address: "0.0.0.0:8080".into() }],
        certificates: Vec::new(),
        forgotten_proxy: None,
        upstreams: vec![
            UpstreamStatus {
                removed: Vec::new(),
                deploy: None,
                canary: None,
                litmus: None,
                hot_keys: Vec::new(),
                skew: None,
                shadow: None,
                name: "shop".into(),
                policy: "sticky_cookie".into(),
                failing_open: false,
                service: None,
                queue: None,
                servers: vec![a, draining(3, 2)],
            },
            UpstreamStatus {
                removed: Vec::new(),
                deploy: None,
                canary: None,
                litmus: None,
                hot_keys: Vec::new(),
                skew: None,
                shadow: None,
                name: "api".into(),
                policy: "round_robin".into(),
                failing_open: true,
                service: None,
                queue: Some(QueueStatus { waiting: 3, size: 100, queued: 1234, timeouts: 2, overflows: 0 }),
                servers: vec![down, server("unix:/run/x.sock", "unix:/run/x.sock")],
            },
        ],
    }
}

/// What was asked of the server: method, path with query, `Authorization`, body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub method: Method,
    pub path: String,
    pub authorization: Option<String>,
    pub body: String,
}

/// An admin API on a Unix socket in a directory of its own, which answers what `answer` says.
pub(super) struct Api {
    pub client: Client,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    _dir: TempDir,
}

impl Api {
    pub(super) fn start(answer: impl Fn(&Seen) -> (u16, String) + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let answer = Arc::new(answer);
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let header = |name| head.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
                        assert_eq!(header("host").as_deref(), Some("localhost"));
                        let seen = Seen {
                            method: head.method.clone(),
                            path: head.uri.to_string(),
                            authorization: header("authorization"),
                            body: String::from_utf8(body.to_vec()).unwrap(),
                        };
                        let (status, text) = answer(&seen);
                        log.lock().unwrap().push(seen);
                        let mut response = Response::new(Full::new(Bytes::from(text)));
                        *response.status_mut() = StatusCode::from_u16(status).unwrap();
                        Ok::<_, Infallible>(response)
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        let admin = Admin { address: AdminAddress::Unix(path), token: Some("secret".into()), doubt: None };
        Self { client: Client::new(admin), seen, _dir: dir }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}
