//! TLS of listeners.

use serde::Serialize;

use crate::config::plan::{CertificatePlan, TlsPlan};
use crate::units::show_duration;

#[derive(Serialize)]
pub(super) struct TlsView {
    handshake_timeout: String,
    certificate: Vec<CertificateView>,
}

#[derive(Serialize)]
struct CertificateView {
    chain: String,
    key: String,
}

impl TlsView {
    pub(super) fn of(plan: &TlsPlan) -> Self {
        let TlsPlan { certificates, handshake_timeout } = plan;
        let certificate = |CertificatePlan { chain, key }: &CertificatePlan| CertificateView {
            chain: chain.display().to_string(),
            key: key.display().to_string(),
        };
        Self {
            handshake_timeout: show_duration(*handshake_timeout),
            certificate: certificates.iter().map(certificate).collect(),
        }
    }
}
