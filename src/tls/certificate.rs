//! A certificate as it lies in files: a chain and its key.
//!
//! What is wrong with them is said in words that name the way out; the TLS library would only refuse.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What is wrong with the files of a certificate, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// In the file of the key, not of the chain.
    pub in_key: bool,
    pub message: String,
    pub hint: &'static str,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Wrong {}

fn chain(message: impl Into<String>, hint: &'static str) -> Wrong {
    Wrong { in_key: false, message: message.into(), hint }
}

fn key(message: impl Into<String>, hint: &'static str) -> Wrong {
    Wrong { in_key: true, message: message.into(), hint }
}

/// A certificate with its chain and key, ready to be used.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub(super) certified: Arc<CertifiedKey>,
    /// The DNS names it is for, in lower case; `*.` begins a wildcard.
    pub names: Vec<String>,
    /// Unix seconds.
    pub not_before: i64,
    pub not_after: i64,
    /// The kind of its key.
    pub algorithm: &'static str,
}

impl Certificate {
    /// Reads a chain (the server's own certificate first) and its key, both PEM.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(chain_pem: &str, key_pem: &str) -> Result<Self, Wrong> {
        if is_key_alone(chain_pem) && has_certificate(key_pem) && !has_key(key_pem) {
            return Err(chain("this is a key, and the file of the key has a certificate", "swap `chain` and `key`"));
        }
        let certificates = read_chain(chain_pem)?;
        let signing = any_supported_type(&read_key(key_pem)?).map_err(|_| {
            key(
                "the key is of a kind or size that is not supported",
                "use an ECDSA key (P-256, P-384, P-521), Ed25519, or RSA of 2048 bits or more",
            )
        })?;
        let parsed = parse_all(&certificates)?;
        let algorithm = match signing.algorithm() {
            SignatureAlgorithm::RSA => "rsa",
            SignatureAlgorithm::ECDSA => "ecdsa",
            _ => "ed25519",
        };
        let facts = Facts::of(&parsed[0]);
        let certified = CertifiedKey::new(certificates.clone(), signing);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(mismatch(&certificates, certified)),
        }
        in_order(&parsed)?;
        let Facts { names, not_before, not_after } = facts;
        Ok(Self { certified: Arc::new(certified), names, not_before, not_after, algorithm })
    }
}

/// What is told of a certificate.
struct Facts {
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

impl Facts {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut names = Vec::new();
        if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
            for name in &alternative.value.general_names {
                if let GeneralName::DNSName(name) = name {
                    names.push(name.trim_end_matches('.').to_ascii_lowercase());
                }
            }
        }
        let validity = certificate.validity();
        Self { names, not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() }
    }
}

fn has_certificate(pem: &str) -> bool {
    pem.contains("BEGIN CERTIFICATE")
}

fn has_key(pem: &str) -> bool {
    pem.contains("PRIVATE KEY-----")
}

fn is_key_alone(pem: &str) -> bool {
    has_key(pem) && !has_certificate(pem)
}

fn read_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let certificates = read.map_err(|error| {
        chain(format!("the certificate cannot be read: {error}"), "the file must hold certificates in PEM form")
    })?;
    if certificates.is_empty() {
        return Err(chain(
            "there is no certificate in this file",
            "the file must hold `-----BEGIN CERTIFICATE-----`: the server's own first, then the intermediate ones",
        ));
    }
    Ok(certificates)
}

/// The first private key of a PEM file that may hold other things.
fn read_key(pem: &str) -> Result<PrivateKeyDer<'static>, Wrong> {
    const ENCRYPTED: &str = "decrypt it (`openssl pkey -in KEY -out NEW`) and let only evenkeel read the file";
    if pem.contains("BEGIN ENCRYPTED PRIVATE KEY") || pem.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(key("the key is encrypted", ENCRYPTED));
    }
    let broken = |error| key(format!("the key cannot be read: {error}"), "the file must hold a key in PEM form");
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
        let (kind, der) = section.map_err(broken)?;
        return Ok(match kind {
            SectionKind::PrivateKey => PrivatePkcs8KeyDer::from(der).into(),
            SectionKind::RsaPrivateKey => PrivatePkcs1KeyDer::from(der).into(),
            SectionKind::EcPrivateKey => PrivateSec1KeyDer::from(der).into(),
            _ => continue,
        });
    }
    Err(key("there is no private key in this file", "name the file that holds `-----BEGIN PRIVATE KEY-----` as `key`"))
}

fn parse_all<'a>(certificates: &'a [CertificateDer<'_>]) -> Result<Vec<X509Certificate<'a>>, Wrong> {
    let parse = |(at, der): (usize, &'a CertificateDer<'_>)| {
        X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|_| {
            chain(
                format!("certificate {} of this file is not a certificate", at + 1),
                "ask whoever issued it for a new copy",
            )
        })
    };
    certificates.iter().enumerate().map(parse).collect()
}

/// The key does not belong to the first certificate: perhaps to another one of the file.
fn mismatch(certificates: &[CertificateDer<'static>], certified: CertifiedKey) -> Wrong {
    let signing = certified.key;
    let theirs = certificates[1..]
        .iter()
        .any(|other| matches!(CertifiedKey::new(vec![other.clone()], Arc::clone(&signing)).keys_match(), Ok(())));
    if theirs {
        return chain("the certificates are in the wrong order", "put the server's own certificate first");
    }
    key("the key does not belong to the certificate", "name the key that the certificate was made for")
}

/// Each certificate must be issued by the next (RFC 8446 §4.4.2 asks for it of the first; clients of
/// TLS 1.2 rely on all of it).
fn in_order(parsed: &[X509Certificate<'_>]) -> Result<(), Wrong> {
    for (at, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
            let message = format!(
                "the certificates are in the wrong order: number {} ({}) was not issued by number {} ({})",
                at + 1,
                pair[0].subject(),
                at + 2,
                pair[1].subject()
            );
            return Err(chain(message, "put each certificate before the one that issued it, the server's own first"));
        }
    }
    Ok(())
}

/// A certificate that nobody issued, for development: chain and key as one PEM text.
///
/// # Errors
/// What the library says.
pub fn self_signed() -> Result<String, String> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    Ok(made.cert.pem() + &made.signing_key.serialize_pem())
}
