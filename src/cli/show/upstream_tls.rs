//! TLS with servers.

use serde::Serialize;

use crate::config::plan::UpstreamTls;

/// `false` for none, or every option.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum UpstreamTlsView {
    None(bool),
    Options {
        #[serde(skip_serializing_if = "Option::is_none")]
        server_name: Option<String>,
        verify: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        ca: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        certificate: Option<FilesView>,
    },
}

#[derive(Serialize)]
pub(super) struct FilesView {
    chain: String,
    key: String,
}

impl UpstreamTlsView {
    pub(super) fn of(plan: Option<&UpstreamTls>) -> Self {
        let Some(UpstreamTls { client, ca, certificate }) = plan else { return Self::None(false) };
        Self::Options {
            server_name: client.settings.server_name.clone(),
            verify: client.settings.verify,
            ca: ca.as_ref().map(|path| path.display().to_string()),
            certificate: certificate.as_ref().map(|files| FilesView {
                chain: files.chain.display().to_string(),
                key: files.key.display().to_string(),
            }),
        }
    }
}
