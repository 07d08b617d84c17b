//! TLS.

use std::path::PathBuf;
use std::time::Duration;

/// TLS of a listener. Files are named, not read: what they hold may change while the Plan does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPlan {
    /// At least one; the first is for clients that ask for no name, or an unknown one.
    pub certificates: Vec<CertificatePlan>,
    /// A handshake takes no longer, from the first byte of the connection.
    pub handshake_timeout: Duration,
}

/// A certificate in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePlan {
    pub chain: PathBuf,
    /// May be the file of the chain.
    pub key: PathBuf,
}
