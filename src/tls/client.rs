//! TLS with servers: whom evenkeel believes, and who it says it is.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Certificate, Wrong, provider};

/// What TLS with the servers of an upstream is made from. Files are read: two are equal if nothing
/// would change.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// Asked for, and looked for in the certificate; the host of the address by default.
    pub server_name: Option<String>,
    /// Certificates of authorities, PEM; those of the system by default.
    pub ca: Option<String>,
    /// Chain and key that servers may ask for, PEM.
    pub certificate: Option<(String, String)>,
    /// Whether the server's certificate is verified.
    pub verify: bool,
    /// Whether HTTP/2 is spoken, which the server has to agree to (RFC 9113 §3.2).
    pub http2: bool,
}

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the key nothing is said, not even in a panic.
        f.debug_struct("ClientSettings")
            .field("server_name", &self.server_name)
            .field("own_ca", &self.ca.is_some())
            .field("certificate", &self.certificate.is_some())
            .field("verify", &self.verify)
            .field("http2", &self.http2)
            .finish()
    }
}

/// What is wrong with the settings.
#[derive(Debug)]
pub enum ClientWrong {
    Ca(String),
    Certificate(Wrong),
    /// The authorities of the system.
    System(String),
}

/// TLS with the servers of an upstream, for the data plane and for checks. Sessions are resumed.
#[derive(Clone)]
pub struct Client {
    pub settings: ClientSettings,
    connector: TlsConnector,
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl Client {
    /// Makes one from its settings.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(settings: ClientSettings) -> Result<Self, ClientWrong> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientWrong::System(error.to_string()))?;
        let builder = if settings.verify {
            builder.with_root_certificates(roots(settings.ca.as_deref())?)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        };
        let mut config = match &settings.certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let own = Certificate::read(chain, key).map_err(ClientWrong::Certificate)?;
                let own = (*own.certified).clone();
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
        };
        config.alpn_protocols = vec![if settings.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Ok(Self { settings, connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Shakes hands over `stream` with the server that is at `host`, which is none for a Unix socket.
    ///
    /// # Errors
    /// What went wrong, in words for an operator.
    pub async fn connect<S>(&self, host: Option<&str>, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.settings.server_name.as_deref().or(host).unwrap_or("localhost");
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let stream = self.connector.connect(name, stream).await?;
        if self.settings.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("the server does not offer HTTP/2 (ALPN h2)"));
        }
        Ok(stream)
    }
}

fn roots(ca: Option<&str>) -> Result<RootCertStore, ClientWrong> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = ca else {
        let found = rustls_native_certs::load_native_certs();
        // Systems carry certificates that nobody can read; they are no reason to trust none.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
            return Err(ClientWrong::System(format!("this system has no certificates of authorities{why}")));
        }
        return Ok(roots);
    };
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|error| ClientWrong::Ca(format!("it cannot be read: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| ClientWrong::Ca(format!("a certificate in it is of no use: {error}")))?;
    }
    if roots.is_empty() {
        return Err(ClientWrong::Ca("there is no certificate in this file".to_owned()));
    }
    Ok(roots)
}

/// Believes everybody who owns the key of the certificate shown, whoever that is.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
