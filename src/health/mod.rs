//! Checks: what a probe is, not when it runs.
//!
//! Built like [`crate::balance`]: the configured form is the running form, one file and one variant
//! for each kind. When a check runs, and what its result means for traffic, is the control plane's.

pub mod grpc;
pub mod http;
mod http2;
pub mod streak;
pub mod tcp;

use std::time::Duration;

use serde::de::MapAccess;
use serde::{Deserialize, Deserializer};

use crate::named::{self, Named};
use crate::units;

/// How a server is probed.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// A request whose answer is judged.
    Http(HttpCheck),
    /// A connection that is opened and closed.
    Tcp(TcpCheck),
    /// The health protocol of gRPC.
    Grpc(GrpcCheck),
}

/// When a check runs and how many results change a server's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the start of one probe to the start of the next, before jitter.
    pub interval: Duration,
    /// A probe without a result by then has failed.
    pub timeout: Duration,
    /// Each interval is lengthened or shortened at random by up to this share, in percent, 0 to 50.
    pub jitter: u32,
    /// Successes in a row that make an unhealthy server healthy.
    pub healthy_threshold: u32,
    /// Failures in a row that make a healthy server unhealthy.
    pub unhealthy_threshold: u32,
}

/// `http`: a GET that must be answered with an expected status, and body where one is given.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpCheck {
    pub path: String,
    /// The `Host` header; the server's own address by default.
    pub host: Option<String>,
    /// Another port than the one that gets traffic.
    pub port: Option<u16>,
    /// Statuses that are a success: `"200"`, `"200-399"`.
    pub expect_status: StatusRange,
    /// Text that the first 64 KiB of the body must contain.
    pub expect_body: Option<String>,
    #[serde(deserialize_with = "units::duration")]
    pub interval: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    pub jitter: u32,
    pub healthy_threshold: u32,
    pub unhealthy_threshold: u32,
}

impl Default for HttpCheck {
    fn default() -> Self {
        let TcpCheck { port, interval, timeout, jitter, healthy_threshold, unhealthy_threshold } = TcpCheck::default();
        Self {
            path: "/".to_owned(),
            host: None,
            port,
            expect_status: StatusRange { first: 200, last: 399 },
            expect_body: None,
            interval,
            timeout,
            jitter,
            healthy_threshold,
            unhealthy_threshold,
        }
    }
}

/// `grpc`: `grpc.health.v1.Health/Check` must say SERVING.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcCheck {
    /// The service asked about; empty is the server as a whole.
    pub service: String,
    /// The authority of the request; the server's own address by default.
    pub host: Option<String>,
    /// Another port than the one that gets traffic.
    pub port: Option<u16>,
    #[serde(deserialize_with = "units::duration")]
    pub interval: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    pub jitter: u32,
    pub healthy_threshold: u32,
    pub unhealthy_threshold: u32,
}

impl Default for GrpcCheck {
    fn default() -> Self {
        let TcpCheck { port, interval, timeout, jitter, healthy_threshold, unhealthy_threshold } = TcpCheck::default();
        let (service, host) = (String::new(), None);
        Self { service, host, port, interval, timeout, jitter, healthy_threshold, unhealthy_threshold }
    }
}

/// `tcp`: a connection that can be opened.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcpCheck {
    /// Another port than the one that gets traffic.
    pub port: Option<u16>,
    #[serde(deserialize_with = "units::duration")]
    pub interval: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    pub jitter: u32,
    pub healthy_threshold: u32,
    pub unhealthy_threshold: u32,
}

impl Default for TcpCheck {
    fn default() -> Self {
        Self {
            port: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            jitter: 10,
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        }
    }
}

/// What one probe found: nothing wrong, or what was wrong in words for an operator.
pub type Outcome = Result<(), String>;

/// What a server says of itself when it is probed and nothing is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// Nothing.
    Fine,
    /// It asks to be drained.
    Drain,
}

/// Which words of a server are heard. Of an HTTP check only: other answers have no room for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hears {
    /// Status 404, or 200 with a body that begins with the word `drain`.
    pub check: bool,
    /// The header of [`crate::asks`], on whatever answer.
    pub header: bool,
}

/// A range of statuses, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    pub first: u16,
    pub last: u16,
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if (100..=599).contains(&first) && first <= last && last <= 599 => {
                Ok(Self { first, last })
            }
            _ => Err(serde::de::Error::custom(format!(
                "`{text}` is not a status or a range of statuses: write \"200\" or \"200-399\""
            ))),
        }
    }
}

impl Check {
    /// The name that the configuration and the status use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
            Self::Grpc(_) => "grpc",
        }
    }

    /// When it runs and how many results count.
    #[must_use]
    pub fn timing(&self) -> Timing {
        match self {
            Self::Http(c) => Timing {
                interval: c.interval,
                timeout: c.timeout,
                jitter: c.jitter,
                healthy_threshold: c.healthy_threshold,
                unhealthy_threshold: c.unhealthy_threshold,
            },
            Self::Grpc(c) => Timing {
                interval: c.interval,
                timeout: c.timeout,
                jitter: c.jitter,
                healthy_threshold: c.healthy_threshold,
                unhealthy_threshold: c.unhealthy_threshold,
            },
            Self::Tcp(c) => Timing {
                interval: c.interval,
                timeout: c.timeout,
                jitter: c.jitter,
                healthy_threshold: c.healthy_threshold,
                unhealthy_threshold: c.unhealthy_threshold,
            },
        }
    }
}

impl Check {
    /// Probes `target` once, within this check's timeout.
    ///
    /// # Errors
    /// What was wrong, in words for an operator; it may name the server's address.
    pub async fn probe(&self, target: &tcp::Target, wire: &tcp::Wire) -> Outcome {
        self.ask(target, wire, Hears::default()).await.map(drop)
    }

    /// Probes once, and hears what the server says of itself.
    ///
    /// # Errors
    /// What is wrong with the server.
    pub async fn ask(&self, target: &tcp::Target, wire: &tcp::Wire, hears: Hears) -> Result<Says, String> {
        let limit = self.timing().timeout;
        let deadline = tokio::time::Instant::now() + limit;
        let probe = async {
            match self {
                Self::Grpc(check) => grpc::probe(check, target, wire, deadline).await.map(|()| Says::Fine),
                Self::Http(check) => http::ask(check, target, wire, hears, deadline).await,
                Self::Tcp(check) => tcp::open(target, wire, check.port, deadline).await.map(|_| Says::Fine),
            }
        };
        tokio::time::timeout_at(deadline, probe)
            .await
            .unwrap_or_else(|_| Err(format!("no result within {}", units::show_duration(limit))))
    }
}

impl Named for Check {
    const WHAT: &'static str = "a check";
    const NAMES: &'static [&'static str] = &["http", "tcp", "grpc"];

    fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "http" => Self::Http(HttpCheck::default()),
            "tcp" => Self::Tcp(TcpCheck::default()),
            "grpc" => Self::Grpc(GrpcCheck::default()),
            _ => return None,
        })
    }

    fn with_options<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Self>, A::Error> {
        Ok(Some(match name {
            "http" => Self::Http(map.next_value()?),
            "tcp" => Self::Tcp(map.next_value()?),
            "grpc" => Self::Grpc(map.next_value()?),
            _ => return Ok(None),
        }))
    }
}

impl<'de> Deserialize<'de> for Check {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named::deserialize(deserializer)
    }
}
