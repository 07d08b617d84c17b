//! TLS with servers: the files are read and judged here, so that `evenkeel check` knows, and a reload
//! sees what changed in them.

use std::sync::Arc;

use super::Compiler;
use crate::config::plan::{Address, CertificatePlan, Protocol, ServerPlan, UpstreamTls};
use crate::config::spec::{At, CertificateSpec, TlsOrNot, UpstreamSpec};
use crate::tls::{Client, ClientSettings, ClientWrong};

impl Compiler<'_> {
    pub(super) fn upstream_tls(&mut self, spec: &UpstreamSpec, servers: &[ServerPlan]) -> Option<UpstreamTls> {
        let protocol = *spec.protocol.get_ref();
        let Some(tls) = &spec.tls.get_ref().0 else {
            if let Protocol::H2(_) = protocol {
                let hint = "add `tls = true`, or write `protocol = \"h2c\"` for HTTP/2 in clear";
                self.error(spec.protocol.span(), "`h2` is HTTP/2 over TLS, and there is no `tls` here", hint);
            }
            return None;
        };
        if let Protocol::H2c(_) = protocol {
            let hint = "write `protocol = \"h2\"`, or remove `tls`";
            self.error(spec.protocol.span(), "`h2c` is HTTP/2 in clear, and `tls` is set", hint);
        }
        if let Some(name) = &tls.server_name
            && rustls::pki_types::ServerName::try_from(name.get_ref().as_str()).is_err()
        {
            let message = format!("`{}` is neither a host name nor an address", name.get_ref().escape_debug());
            self.error(name.span(), message, "write the name that the server's certificate is for");
        }
        let by_socket = servers.iter().any(|server| matches!(server.address, Address::Unix(_)));
        if tls.server_name.is_none() && by_socket && *tls.verify.get_ref() {
            let message = "a server on a Unix socket has no name that its certificate could be for";
            self.error(spec.tls.span(), message, "add `server_name` to `tls`");
        }
        if !tls.verify.get_ref() {
            let message =
                "servers are not verified: whoever gets between them and evenkeel can read and change everything";
            self.warn(tls.verify.span(), message, "remove `verify = false`, and name the authority with `ca`");
        }
        let ca = match &tls.ca {
            Some(path) => Some(self.file(path, "ca")?),
            None => None,
        };
        let certificate = match &tls.certificate {
            Some(entry) => Some(self.own_certificate(entry)?),
            None => None,
        };
        let settings = ClientSettings {
            server_name: tls.server_name.as_ref().map(|name| name.get_ref().clone()),
            ca,
            certificate,
            verify: *tls.verify.get_ref(),
            http2: matches!(protocol, Protocol::H2(_)),
        };
        let files = tls.certificate.as_ref().and_then(|own| Some((own.get_ref(), own.get_ref().chain.as_ref()?)));
        Some(UpstreamTls {
            client: self.made(&spec.tls, settings)?,
            ca: tls.ca.as_ref().map(|path| path.get_ref().clone()),
            certificate: files.map(|(own, chain)| CertificatePlan {
                chain: chain.get_ref().clone(),
                key: own.key.as_ref().unwrap_or(chain).get_ref().clone(),
            }),
        })
    }

    fn made(&mut self, spec: &At<TlsOrNot>, settings: ClientSettings) -> Option<Arc<Client>> {
        let tls = spec.get_ref().0.as_ref()?;
        let wrong = match Client::new(settings) {
            Ok(client) => return Some(Arc::new(client)),
            Err(wrong) => wrong,
        };
        match wrong {
            ClientWrong::Ca(message) => {
                let Some(path) = &tls.ca else { return None };
                let message = format!("{}: {message}", path.get_ref().display());
                self.error(path.span(), message, "the file must hold certificates of authorities in PEM form");
            }
            ClientWrong::Certificate(wrong) => {
                let place = tls.certificate.as_ref().map_or(spec.span(), At::span);
                self.error(place, wrong.to_string(), wrong.hint);
            }
            ClientWrong::System(message) => {
                self.error(spec.span(), message, "install them (ca-certificates), or name a file with `ca`");
            }
        }
        None
    }

    /// Chain and key.
    fn own_certificate(&mut self, entry: &At<CertificateSpec>) -> Option<(String, String)> {
        let spec = entry.get_ref();
        let Some(chain) = &spec.chain else {
            self.lack(Some(entry.span()), "this certificate has no `chain`", "name the file that holds it");
            return None;
        };
        let chain_pem = self.file(chain, "chain")?;
        let key_pem = match &spec.key {
            Some(key) => self.file(key, "key")?,
            None => chain_pem.clone(),
        };
        Some((chain_pem, key_pem))
    }
}
