//! What servers are told of a client's certificate.
//!
//! The headers are the proxy's alone: what a client sends under these names is taken out, on every
//! listener, as soon as one listener asks clients for certificates, because a server cannot know which
//! listener a request came through.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::tls::ClientIdentity;

const VERIFIED: HeaderName = HeaderName::from_static("x-client-cert-verified");
const SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const SAN: HeaderName = HeaderName::from_static("x-client-cert-san");
const FINGERPRINT: HeaderName = HeaderName::from_static("x-client-cert-fingerprint");
/// RFC 9440 §2.2.
const CERTIFICATE: HeaderName = HeaderName::from_static("client-cert");

/// Without the dashes, which some servers take for underscores (RFC 3875 §4.1.18).
const NAMES: [&str; 6] = [
    "xclientcertverified",
    "xclientcertsubject",
    "xclientcertsan",
    "xclientcertfingerprint",
    "clientcert",
    "clientcertchain",
];

/// The headers of one connection.
#[derive(Debug)]
pub(super) struct ClientCert(Vec<(HeaderName, HeaderValue)>);

impl ClientCert {
    /// For a client that was asked and has shown that certificate, or none.
    pub(super) fn of(identity: Option<&ClientIdentity>) -> Self {
        let Some(identity) = identity else {
            return Self(vec![(VERIFIED, HeaderValue::from_static("NONE"))]);
        };
        let mut headers = vec![(VERIFIED, HeaderValue::from_static("SUCCESS"))];
        let der = format!(":{}:", STANDARD.encode(&identity.der));
        for (name, text) in [
            (SUBJECT, &identity.subject),
            (SAN, &identity.alternative_names),
            (FINGERPRINT, &identity.fingerprint),
            (CERTIFICATE, &der),
        ] {
            if let (false, Ok(value)) = (text.is_empty(), HeaderValue::from_str(text)) {
                headers.push((name, value));
            }
        }
        Self(headers)
    }

    pub(super) fn write(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// Whether it is one of these names, or one that a server takes for them.
pub(super) fn is_ours(name: &HeaderName) -> bool {
    let bare: String = name.as_str().chars().filter(|c| !matches!(c, '-' | '_')).collect();
    NAMES.contains(&bare.as_str())
}

/// Takes out what a client says under these names.
pub(super) fn hide(headers: &mut HeaderMap) {
    let forged: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_forged_header_is_taken_out() {
        let mut headers = HeaderMap::new();
        for name in
            ["X-Client-Cert-Subject", "x_client_cert_subject", "X-Client_Cert-Verified", "Client-Cert", "x-client"]
        {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("admin"));
        }
        hide(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-client"]);
    }
}
