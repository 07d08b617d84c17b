//! Clients that prove who they are with a certificate.

use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{CertificateRevocationList, FromDer, GeneralName, X509Certificate};
use x509_parser::x509::X509Name;

use super::provider;

/// How clients are verified.
#[derive(Debug, Clone)]
pub struct Clients {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Of everything that decides whom it accepts.
    pub(super) digest: [u8; 32],
    /// How long the revocation lists are good, if each says when the next one comes.
    pub lists: Option<Lists>,
}

/// How long revocation lists are good: from the youngest to the first that ends. Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lists {
    pub since: i64,
    pub until: i64,
}

impl Lists {
    fn of(lists: &[CertificateRevocationListDer<'_>]) -> Option<Self> {
        let times = lists.iter().filter_map(|list| {
            let (_, list) = CertificateRevocationList::from_der(list).ok()?;
            Some(Self { since: list.last_update().timestamp(), until: list.next_update()?.timestamp() })
        });
        times.min_by_key(|times| times.until)
    }

    /// Whether one of them is too old to be believed at `now`.
    #[must_use]
    pub fn have_ended(self, now: i64) -> bool {
        now >= self.until
    }

    /// Whether the next one should be here: nine tenths of its time have passed. Lists live for hours or
    /// for months, so no fixed time would do.
    #[must_use]
    pub fn are_overdue(self, now: i64) -> bool {
        self.until.saturating_sub(now) < self.until.saturating_sub(self.since) / 10
    }
}

impl Clients {
    /// Authorities and revocation lists, PEM. Without `required` a client may come without a
    /// certificate, never with a wrong one. A list that has ended at `now` or later says nothing of
    /// anybody: nobody of its authority is accepted, for the one who could have been revoked since would be.
    ///
    /// # Errors
    /// What is wrong: in the revocation list if the flag says so, else in the authorities.
    pub fn new(ca_pem: &str, crl_pem: Option<&str>, required: bool, now: i64) -> Result<Self, (bool, String)> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            let certificate = certificate.map_err(|error| (false, format!("cannot be read: {error}")))?;
            roots.add(certificate).map_err(|error| (false, format!("holds what is no authority: {error}")))?;
        }
        if roots.is_empty() {
            return Err((false, "there is no certificate of an authority in this file".to_owned()));
        }
        let mut times = None;
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        if let Some(pem) = crl_pem {
            let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()).collect();
            let lists = lists.map_err(|error| (true, format!("cannot be read: {error}")))?;
            if lists.is_empty() {
                return Err((true, "there is no revocation list in this file".to_owned()));
            }
            times = Lists::of(&lists);
            // A list of one's own clients says nothing of authorities between.
            builder = builder.with_crls(lists).only_check_end_entity_revocation().enforce_revocation_expiration();
        }
        if !required {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder.build().map_err(|error| (crl_pem.is_some(), error.to_string()))?;
        // A ticket must not carry anybody past the end of a list either.
        let mut all = vec![u8::from(required), u8::from(times.is_some_and(|lists| lists.have_ended(now)))];
        for part in [ca_pem, crl_pem.unwrap_or_default()] {
            all.extend_from_slice(digest(&SHA256, part.as_bytes()).as_ref());
        }
        let mut whole = [0; 32];
        whole.copy_from_slice(digest(&SHA256, &all).as_ref());
        Ok(Self { verifier, digest: whole, lists: times })
    }
}

/// What a verified certificate says of its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// RFC 4514.
    pub subject: String,
    /// `DNS:…`, `URI:…`, `email:…`, `IP:…`, joined by commas. A comma in a name is `%2C`.
    pub alternative_names: String,
    /// SHA-256 of the certificate, in lower-case hexadecimal.
    pub fingerprint: String,
    /// The certificate itself.
    pub der: Vec<u8>,
}

impl ClientIdentity {
    /// Reads a certificate that was verified.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut names = Vec::new();
        if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
            for name in &alternative.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push(format!("DNS:{}", printable(name, ','))),
                    GeneralName::URI(uri) => names.push(format!("URI:{}", printable(uri, ','))),
                    GeneralName::RFC822Name(mail) => names.push(format!("email:{}", printable(mail, ','))),
                    GeneralName::IPAddress(bytes) => names.extend(address(bytes).map(|ip| format!("IP:{ip}"))),
                    _ => {}
                }
            }
        }
        Some(Self {
            subject: subject(certificate.subject()),
            alternative_names: names.join(","),
            fingerprint: digest(&SHA256, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            der: der.to_vec(),
        })
    }
}

/// Text that may stand in a header: whatever may not, and `other`, is percent-encoded, so that nobody
/// can have a name that reads as two.
fn printable(text: &str, other: char) -> String {
    let mut shown = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' && char::from(byte) != other {
            shown.push(char::from(byte));
        } else {
            let _ = write!(shown, "%{byte:02X}");
        }
    }
    shown
}

/// The name in the form of RFC 4514: the last part first, special characters escaped (§2.4).
fn subject(name: &X509Name<'_>) -> String {
    let parts = name.iter_rdn().map(|part| {
        let attributes = part.iter().map(|attribute| {
            let oid = attribute.attr_type();
            let key = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
            format!("{key}={}", escaped(attribute.as_str().unwrap_or_default()))
        });
        attributes.collect::<Vec<_>>().join("+")
    });
    let mut parts: Vec<String> = parts.collect();
    parts.reverse();
    printable(&parts.join(","), '%')
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
        if special || (at == 0 && (c == ' ' || c == '#')) || (at == last && c == ' ') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from)).ok()
}
