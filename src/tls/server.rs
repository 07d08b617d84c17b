//! What the handshakes of one listener are made from.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Certificate, provider};

/// What the handshakes of a listener do; everything but certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What is agreed on of what the client offers, best first.
    pub alpn: Vec<Vec<u8>>,
    /// From the first byte to the last.
    pub handshake_timeout: Duration,
}

/// What the handshakes of one listener are made from.
#[derive(Debug)]
pub struct Server {
    /// For the data plane.
    pub config: Arc<ServerConfig>,
    pub handshake_timeout: Duration,
}

impl Server {
    /// Certificates and settings become one thing that handshakes can be made from.
    ///
    /// # Errors
    /// What the TLS library says; the configuration cannot cause it.
    pub fn new(settings: &Settings, certificates: Vec<Certificate>) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver { certificates }));
        config.alpn_protocols.clone_from(&settings.alpn);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), handshake_timeout: settings.handshake_timeout })
    }
}

#[derive(Debug)]
struct Resolver {
    certificates: Vec<Certificate>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificates.first().map(|certificate| Arc::clone(&certificate.certified))
    }
}
