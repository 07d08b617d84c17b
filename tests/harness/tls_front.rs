//! TLS in front of a server in clear: it notes each handshake and copies bytes both ways.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio_rustls::TlsAcceptor;

use super::tls::{Authority, Issued};

/// One handshake that succeeded.
#[derive(Debug, Clone)]
pub struct Shaken {
    pub name: Option<String>,
    pub alpn: Option<String>,
    pub resumed: bool,
    pub client_certificate: Option<CertificateDer<'static>>,
}

/// A listening socket under TLS.
pub struct TlsFront {
    pub address: SocketAddr,
    shaken: Arc<Mutex<Vec<Shaken>>>,
}

impl TlsFront {
    /// Shows `certificate`, agrees to the first of `alpn` that the client offers, and copies to `to`. With
    /// `clients`, asks for a certificate that this authority has issued.
    pub fn start(certificate: &Issued, alpn: &[&str], clients: Option<&Authority>, to: SocketAddr) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = match clients {
            None => builder.unwrap().with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.unwrap().with_client_cert_verifier(verifier)
            }
        };
        let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let front = Self { address: listener.local_addr().unwrap(), shaken: Arc::default() };
        let shaken = Arc::clone(&front.shaken);
        // It ends with the process: nothing else would wake it.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, shaken) = (acceptor.clone(), Arc::clone(&shaken));
                    tokio::spawn(async move {
                        let Ok(mut near) = acceptor.accept(stream).await else { return };
                        let session = near.get_ref().1;
                        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                        shaken.lock().unwrap().push(Shaken {
                            name: session.server_name().map(str::to_owned),
                            alpn: session.alpn_protocol().map(text),
                            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                            client_certificate: session.peer_certificates().map(|c| c[0].clone().into_owned()),
                        });
                        let Ok(mut far) = tokio::net::TcpStream::connect(to).await else { return };
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    });
                }
            });
        });
        front
    }

    /// The handshakes that succeeded, in order.
    pub fn shaken(&self) -> Vec<Shaken> {
        self.shaken.lock().unwrap().clone()
    }
}
