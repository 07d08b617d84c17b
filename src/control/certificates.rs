//! Certificates of listeners: read from their files and made into what handshakes need.

use std::path::Path;
use std::sync::Arc;

use super::error::CommandError;
use crate::config::plan::{CertificatePlan, ListenerPlan, TlsPlan};
use crate::tls::{Certificate, Server, Settings};

/// What the handshakes of a listener are made from; none for plain HTTP.
pub(super) fn make(listener: &ListenerPlan) -> Result<Option<Arc<Server>>, CommandError> {
    let Some(plan) = &listener.tls else { return Ok(None) };
    let refuse = |why: String| CommandError::InvalidConfig { report: format!("listener `{}`: {why}", listener.name) };
    let certificates = plan.certificates.iter().map(read).collect::<Result<Vec<_>, _>>().map_err(refuse)?;
    let server = Server::new(&settings(plan), certificates).map_err(|error| refuse(error.to_string()))?;
    Ok(Some(Arc::new(server)))
}

fn settings(plan: &TlsPlan) -> Settings {
    Settings { alpn: vec![b"http/1.1".to_vec()], handshake_timeout: plan.handshake_timeout }
}

fn read(plan: &CertificatePlan) -> Result<Certificate, String> {
    let open = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let (chain, key) = (open(&plan.chain)?, open(&plan.key)?);
    Certificate::read(&chain, &key).map_err(|wrong| {
        let file = if wrong.in_key { &plan.key } else { &plan.chain };
        format!("{}: {wrong}", file.display())
    })
}
