//! An authority, certificates and a TLS client, for tests of both sides.
//!
//! Keys are made for each test, so that no key of the repository is ever trusted by anyone.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};

use super::PATIENCE;
use super::client::{Answer, read_answer, request};

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    pub chain: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Issued {
    /// Writes the two as `NAME.pem` and `NAME.key`, whole, in the place of what was there.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        (replace(dir, &format!("{name}.pem"), &self.chain), replace(dir, &format!("{name}.key"), &self.key))
    }

    /// The value of `certificate` in a configuration, with the files in `dir`.
    pub fn toml(&self, dir: &Path, name: &str) -> String {
        let (chain, key) = self.write(dir, name);
        format!("{{ chain = {chain:?}, key = {key:?} }}")
    }
}

/// Puts a file in the place of another at once, as those do who renew certificates with care.
pub fn replace(dir: &Path, name: &str, text: &str) -> PathBuf {
    let (path, new) = (dir.join(name), dir.join(format!("{name}.new")));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, &path).unwrap();
    path
}

/// Seconds from now, into the future or the past.
pub fn from_now(seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
}

/// Who issues certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// What clients trust.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    pub fn issuer(&self) -> &CertifiedIssuer<'static, KeyPair> {
        &self.issuer
    }

    /// A certificate for these DNS names or addresses, with an ECDSA key.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, &KeyPair::generate().unwrap(), |_| {})
    }

    /// The same with an RSA key.
    pub fn issue_rsa(&self, names: &[&str]) -> Issued {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        self.issue_with(names, &key, |_| {})
    }

    /// A certificate for a client of that common name.
    pub fn issue_client(&self, common_name: &str, names: &[&str]) -> Issued {
        self.issue_with(names, &KeyPair::generate().unwrap(), |params| {
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    /// A certificate with a key of your own and whatever else differs.
    pub fn issue_with(&self, names: &[&str], key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (from_now(-3_600).into(), from_now(90 * 86_400).into());
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        Issued { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }
}

/// How a client shakes hands. Clones share their session tickets.
#[derive(Clone)]
pub struct TlsClient {
    config: ClientConfig,
}

impl TlsClient {
    /// One that trusts this authority.
    pub fn trusting(authority: &Authority) -> Self {
        Self::of(authority, rustls::ALL_VERSIONS, None)
    }

    /// One that trusts this authority, speaks these versions, and has a certificate of its own.
    pub fn of(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        certificate: Option<&Issued>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match certificate {
            None => config.with_no_client_auth(),
            Some(own) => {
                let chain = CertificateDer::pem_slice_iter(own.chain.as_bytes()).map(Result::unwrap).collect();
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(32)));
        Self { config }
    }

    /// The same client offering these protocols.
    pub fn offering(mut self, alpn: &[&str]) -> Self {
        self.config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// For clients that are not this one.
    pub fn config(&self) -> ClientConfig {
        self.config.clone()
    }

    /// Connects, asks for that name and shakes hands.
    pub fn connect(&self, address: SocketAddr, name: &str) -> std::io::Result<TlsConnection> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        self.connect_over(socket, name)
    }

    /// The same over a connection that is there.
    pub fn connect_over(&self, mut socket: TcpStream, name: &str) -> std::io::Result<TlsConnection> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut session = ClientConnection::new(Arc::new(self.config.clone()), name).map_err(std::io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        Ok(TlsConnection { stream: BufReader::new(StreamOwned::new(session, socket)) })
    }
}

/// A connection under TLS.
pub struct TlsConnection {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl TlsConnection {
    pub fn session(&self) -> &ClientConnection {
        &self.stream.get_ref().conn
    }

    pub fn socket(&self) -> &TcpStream {
        &self.stream.get_ref().sock
    }

    /// The server's own certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.session().peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// Whether a ticket spared the whole handshake.
    pub fn is_resumed(&self) -> bool {
        self.session().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub fn alpn(&self) -> Option<String> {
        self.session().alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned())
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()
    }

    /// Sends bytes beneath TLS.
    pub fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().sock.write_all(bytes)
    }

    /// Tells the other side that keys change from here on (RFC 8446 §4.6.3), and nothing else.
    pub fn send_new_keys(&mut self) -> std::io::Result<()> {
        let StreamOwned { conn, sock } = self.stream.get_mut();
        conn.refresh_traffic_keys().map_err(std::io::Error::other)?;
        while conn.wants_write() {
            conn.write_tls(sock)?;
        }
        Ok(())
    }

    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.try_answer().unwrap_or_else(|e| panic!("no answer: {e}"))
    }

    pub fn try_answer(&mut self) -> std::io::Result<Answer> {
        read_answer(&mut self.stream, "GET")
    }

    /// One GET.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }

    pub fn try_get(&mut self, path: &str) -> std::io::Result<Answer> {
        self.try_send(format!("{}\r\n", request("GET", path, "shop.example.com")).as_bytes())?;
        self.try_answer()
    }

    /// The next `n` bytes.
    #[track_caller]
    pub fn read(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.stream.read_exact(&mut bytes).unwrap_or_else(|e| panic!("{n} bytes: {e}"));
        bytes
    }

    /// Everything until the end, and whether TLS said that it was one.
    pub fn rest_and_end(mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let proper = self.stream.read_to_end(&mut bytes).is_ok();
        (bytes, proper)
    }
}
