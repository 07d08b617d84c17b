//! TLS of listeners.

use serde::Serialize;

use super::MASK;
use crate::config::plan::{CertificatePlan, Certificates, ClientAuthPlan, Hsts, RedirectToHttps, TlsPlan};
use crate::config::spec::SELF_SIGNED;
use crate::units::show_duration;

#[derive(Serialize)]
pub(super) struct TlsView {
    min_version: &'static str,
    handshake_timeout: String,
    tickets: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ticket_secrets: Vec<&'static str>,
    certificate: CertificatesView,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_auth: Option<ClientAuthView>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum CertificatesView {
    SelfSigned(&'static str),
    Files(Vec<CertificateView>),
}

#[derive(Serialize)]
struct CertificateView {
    chain: String,
    key: String,
}

#[derive(Serialize)]
struct ClientAuthView {
    ca: String,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    crl: Option<String>,
}

impl TlsView {
    pub(super) fn of(plan: &TlsPlan) -> Self {
        let TlsPlan { certificates, tls13_only, handshake_timeout, tickets, ticket_secrets, client_auth } = plan;
        let certificate = |CertificatePlan { chain, key }: &CertificatePlan| CertificateView {
            chain: chain.display().to_string(),
            key: key.display().to_string(),
        };
        Self {
            min_version: if *tls13_only { "1.3" } else { "1.2" },
            handshake_timeout: show_duration(*handshake_timeout),
            tickets: tickets.map_or_else(|| "off".to_owned(), show_duration),
            ticket_secrets: ticket_secrets.0.iter().map(|_| MASK).collect(),
            certificate: match certificates {
                Certificates::SelfSigned => CertificatesView::SelfSigned(SELF_SIGNED),
                Certificates::Files(files) => CertificatesView::Files(files.iter().map(certificate).collect()),
            },
            client_auth: client_auth.as_ref().map(|ClientAuthPlan { ca, required, crl }| ClientAuthView {
                ca: ca.display().to_string(),
                mode: if *required { "required" } else { "optional" },
                crl: crl.as_ref().map(|crl| crl.display().to_string()),
            }),
        }
    }
}

#[derive(Serialize)]
pub(super) struct HstsView {
    max_age: String,
    include_subdomains: bool,
    preload: bool,
}

impl HstsView {
    pub(super) fn of(Hsts { max_age, include_subdomains, preload }: &Hsts) -> Self {
        Self { max_age: show_duration(*max_age), include_subdomains: *include_subdomains, preload: *preload }
    }
}

#[derive(Serialize)]
pub(super) struct RedirectView {
    port: u16,
    status: u16,
    acme: bool,
}

impl RedirectView {
    pub(super) fn of(RedirectToHttps { port, status, acme }: &RedirectToHttps) -> Self {
        Self { port: *port, status: *status, acme: *acme }
    }
}
