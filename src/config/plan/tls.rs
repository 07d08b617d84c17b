//! TLS.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::tls::{Client, Secrets};

/// TLS of a listener. Files are named, not read: what they hold may change while the Plan does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPlan {
    pub certificates: Certificates,
    /// Whether TLS 1.2 is refused.
    pub tls13_only: bool,
    /// A handshake takes no longer, from the first byte of the connection.
    pub handshake_timeout: Duration,
    /// How long tickets are good at least; none gives out no tickets.
    pub tickets: Option<Duration>,
    /// What tickets are sealed with, first the one that seals; empty: made once and kept.
    pub ticket_secrets: Secrets,
    pub client_auth: Option<ClientAuthPlan>,
}

/// Where the certificates of a listener come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificates {
    /// At least one; the first is for clients that ask for no name, or an unknown one.
    Files(Vec<CertificatePlan>),
    /// Made by evenkeel, for development.
    SelfSigned,
}

/// A certificate in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePlan {
    pub chain: PathBuf,
    /// May be the file of the chain.
    pub key: PathBuf,
}

/// Which certificates of clients are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuthPlan {
    pub ca: PathBuf,
    /// Whether a client without a certificate is turned away.
    pub required: bool,
    pub crl: Option<PathBuf>,
}

/// Where requests without TLS are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedirectToHttps {
    pub port: u16,
    /// 301, 302, 307 or 308.
    pub status: u16,
    /// Whether requests of certificate authorities (RFC 8555 §8.3) are served instead.
    pub acme: bool,
}

/// What browsers are told to insist on (RFC 6797).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hsts {
    pub max_age: Duration,
    pub include_subdomains: bool,
    pub preload: bool,
}

impl std::fmt::Display for Hsts {
    /// The header (§6.1).
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "max-age={}", self.max_age.as_secs())?;
        f.write_str(if self.include_subdomains { "; includeSubDomains" } else { "" })?;
        f.write_str(if self.preload { "; preload" } else { "" })
    }
}

/// TLS with the servers of an upstream. Its files are read, so that two Plans differ when those do.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamTls {
    pub client: Arc<Client>,
    /// Where the authorities came from; none is the system.
    pub ca: Option<PathBuf>,
    pub certificate: Option<CertificatePlan>,
}
