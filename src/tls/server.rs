//! What the handshakes of one listener are made from.
//!
//! The whole is replaced at once when a file has changed, so no handshake sees half of a renewal, and
//! connections that are there keep what they were made with.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, version};

use super::choice::Choice;
use super::clients::{Clients, Lists};
use super::tickets::{Secrets, Tickets};
use super::{Certificate, provider};

/// What the handshakes of a listener do; everything but what files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What is agreed on of what the client offers, best first.
    pub alpn: Vec<Vec<u8>>,
    /// From the first byte to the last.
    pub handshake_timeout: Duration,
    /// Whether TLS 1.2 is refused.
    pub tls13_only: bool,
}

/// What clients resume sessions with: for how long at least, and sealed by what.
#[derive(Debug, Clone)]
pub struct Resumption {
    pub lifetime: Duration,
    pub secrets: Secrets,
}

/// What a certificate in use tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// What people call it: its file.
    pub label: String,
    pub names: Vec<String>,
    pub algorithm: &'static str,
    /// Unix seconds.
    pub not_after: i64,
}

/// Everything that is made from files.
#[derive(Debug, Clone)]
pub struct Material {
    /// With what people call each; at least one, the first for clients that ask for no known name.
    pub certificates: Vec<(String, Certificate)>,
    pub clients: Option<Clients>,
    pub resumption: Option<Resumption>,
}

#[derive(Debug)]
struct Inner {
    config: Arc<ServerConfig>,
    in_use: Vec<InUse>,
    lists: Option<Lists>,
}

/// What the handshakes of one listener are made from.
#[derive(Debug)]
pub struct Server {
    inner: ArcSwap<Inner>,
    /// Why the newest files are not in use.
    problem: ArcSwapOption<String>,
    pub handshake_timeout: Duration,
}

impl Server {
    /// Settings and what the files hold become one thing that handshakes can be made from.
    ///
    /// # Errors
    /// What the TLS library says of them.
    pub fn new(settings: &Settings, material: Material) -> Result<Self, rustls::Error> {
        Ok(Self {
            inner: ArcSwap::from_pointee(Inner::new(settings, material)?),
            problem: ArcSwapOption::empty(),
            handshake_timeout: settings.handshake_timeout,
        })
    }

    /// Puts other material in the place of what is in use.
    ///
    /// # Errors
    /// What the TLS library says; the old material stays then.
    pub fn renew(&self, settings: &Settings, material: Material) -> Result<(), rustls::Error> {
        self.inner.store(Arc::new(Inner::new(settings, material)?));
        self.problem.store(None);
        Ok(())
    }

    /// Notes that the newest files cannot be used.
    pub fn note_problem(&self, problem: Option<String>) {
        self.problem.store(problem.map(Arc::new));
    }

    /// Why the newest files are not in use, if they are not.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.load().as_deref().cloned()
    }

    /// For one handshake of the data plane.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.inner.load().config)
    }

    /// The certificates in use.
    #[must_use]
    pub fn in_use(&self) -> Vec<InUse> {
        self.inner.load().in_use.clone()
    }

    /// How long the revocation lists in use are good, where they say.
    #[must_use]
    pub fn lists(&self) -> Option<Lists> {
        self.inner.load().lists
    }
}

impl Inner {
    fn new(settings: &Settings, material: Material) -> Result<Self, rustls::Error> {
        let Material { certificates, clients, resumption } = material;
        let in_use = certificates
            .iter()
            .map(|(label, certificate)| InUse {
                label: label.clone(),
                names: certificate.names.clone(),
                algorithm: certificate.algorithm,
                not_after: certificate.not_after,
            })
            .collect();
        let config = ServerConfig::builder_with_provider(provider());
        let config = if settings.tls13_only {
            config.with_protocol_versions(&[&version::TLS13])?
        } else {
            config.with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        };
        let identity = clients.as_ref().map_or([0; 32], |clients| clients.digest);
        let lists = clients.as_ref().and_then(|clients| clients.lists);
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(clients) => config.with_client_cert_verifier(clients.verifier),
        };
        let choice = Choice::new(certificates.into_iter().map(|(_, certificate)| certificate));
        let mut config = config.with_cert_resolver(Arc::new(choice));
        config.alpn_protocols.clone_from(&settings.alpn);
        // Records of 16 KiB, which is what the library makes unless told otherwise: smaller ones would show a
        // browser the first bytes earlier on a bad network, and cost everybody else.
        config.max_fragment_size = None;
        // Sessions are remembered by clients, or not at all: a table here would be shared by cores.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if let Some(resumption) = resumption {
            config.ticketer = Arc::new(Tickets::new(&resumption, identity));
        } else {
            config.send_tls13_tickets = 0;
        }
        Ok(Self { config: Arc::new(config), in_use, lists })
    }
}
