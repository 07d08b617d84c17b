//! TLS of listeners: what the files hold is judged here, so that `evenkeel check` knows.

use std::path::PathBuf;

use super::Compiler;
use crate::config::plan::{CertificatePlan, TlsPlan};
use crate::config::spec::{At, CertificateSpec, TlsSpec};
use crate::tls::Certificate;

const LACKS: &str = "add `certificate = { chain = \"/path/fullchain.pem\", key = \"/path/key.pem\" }`";

impl Compiler<'_> {
    pub(super) fn tls(&mut self, entry: &At<TlsSpec>) -> Option<TlsPlan> {
        let spec = entry.get_ref();
        let certificates = spec.certificate.as_ref().map_or(&[][..], |list| &list.get_ref().0);
        if certificates.is_empty() {
            let place = spec.certificate.as_ref().map_or(entry.span(), At::span);
            self.lack(Some(place), "this listener has no certificate", LACKS);
        }
        Some(TlsPlan {
            certificates: certificates.iter().filter_map(|entry| self.certificate(entry)).collect(),
            handshake_timeout: self.positive(&spec.handshake_timeout, "handshake_timeout"),
        })
    }

    fn certificate(&mut self, entry: &At<CertificateSpec>) -> Option<CertificatePlan> {
        let spec = entry.get_ref();
        let Some(chain) = &spec.chain else {
            self.lack(Some(entry.span()), "this certificate has no `chain`", "name the file that holds it");
            return None;
        };
        let key = spec.key.as_ref().unwrap_or(chain);
        self.judge(chain, key);
        Some(CertificatePlan { chain: chain.get_ref().clone(), key: key.get_ref().clone() })
    }

    /// Reads a certificate and says what is wrong with it.
    fn judge(&mut self, chain: &At<PathBuf>, key: &At<PathBuf>) -> Option<Certificate> {
        let chain_pem = self.file(chain, "chain");
        let key_pem = if key == chain { chain_pem.clone() } else { self.file(key, "key") };
        match Certificate::read(&chain_pem?, &key_pem?) {
            Ok(certificate) => Some(certificate),
            Err(wrong) => {
                let file = if wrong.in_key { key } else { chain };
                let message = format!("{}: {wrong}", file.get_ref().display());
                self.error(file.span(), message, wrong.hint);
                None
            }
        }
    }
}
