//! A listener as configuration.

use serde::Serialize;

use super::tls::{HstsView, RedirectView, TlsView};
use super::{Count, filters};
use crate::config::plan::{Access, Forwarded, ListenerPlan, ProxyProtocolPlan, Underscores};
use crate::units::{show_duration, show_size};

#[derive(Serialize)]
pub(super) struct ListenerView<'a> {
    name: &'a str,
    bind: String,
    backlog: u32,
    trusted_proxies: Vec<String>,
    forwarded: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<String>,
    request_id: bool,
    merge_slashes: bool,
    underscores_in_headers: &'static str,
    header_timeout: String,
    idle_timeout: String,
    between_bytes: String,
    http2: bool,
    http2_max_streams: u32,
    min_rate: String,
    max_request_line: String,
    max_header_bytes: String,
    max_headers: usize,
    max_body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_protocol: Option<ProxyProtocolView>,
    max_connections_per_client: Count,
    unlimited_clients: Vec<String>,
    max_requests_per_connection: Count,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    error_pages: Vec<filters::ErrorPage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hsts: Option<HstsView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect_to_https: Option<RedirectView>,
}

#[derive(Serialize)]
struct ProxyProtocolView {
    from: Vec<String>,
    timeout: String,
}

impl ProxyProtocolView {
    fn of(ProxyProtocolPlan { from, timeout }: &ProxyProtocolPlan) -> Self {
        Self { from: from.iter().map(ToString::to_string).collect(), timeout: show_duration(*timeout) }
    }
}

impl<'a> ListenerView<'a> {
    pub(super) fn of(plan: &'a ListenerPlan) -> Self {
        let ListenerPlan {
            name,
            bind,
            tls,
            hsts,
            redirect_to_https,
            // Follows from `tls` of any listener.
            hides_client_cert: _,
            backlog,
            trusted_proxies,
            forwarded,
            access: Access { allow, deny },
            request_id,
            merge_slashes,
            underscores_in_headers,
            header_timeout,
            idle_timeout,
            between_bytes,
            http2,
            http2_max_streams,
            min_rate,
            max_request_line,
            max_header_bytes,
            max_headers,
            max_body,
            proxy_protocol,
            max_connections_per_client,
            unlimited_clients,
            max_requests_per_connection,
            error_pages,
        } = plan;
        Self {
            name,
            bind: bind.to_string(),
            backlog: *backlog,
            trusted_proxies: trusted_proxies.iter().map(ToString::to_string).collect(),
            forwarded: match forwarded {
                Forwarded::XForwarded => "x_forwarded",
                Forwarded::Rfc7239 => "rfc7239",
                Forwarded::Both => "both",
                Forwarded::Off => "off",
            },
            allow: allow.iter().map(ToString::to_string).collect(),
            deny: deny.iter().map(ToString::to_string).collect(),
            request_id: *request_id,
            merge_slashes: *merge_slashes,
            underscores_in_headers: match underscores_in_headers {
                Underscores::Drop => "drop",
                Underscores::Allow => "allow",
                Underscores::Refuse => "refuse",
            },
            header_timeout: show_duration(*header_timeout),
            idle_timeout: show_duration(*idle_timeout),
            between_bytes: show_duration(*between_bytes),
            http2: *http2,
            http2_max_streams: *http2_max_streams,
            min_rate: show_size(*min_rate),
            max_request_line: show_size(*max_request_line as u64),
            max_header_bytes: show_size(*max_header_bytes as u64),
            max_headers: *max_headers,
            max_body: show_size(*max_body),
            max_connections_per_client: Count(*max_connections_per_client),
            unlimited_clients: unlimited_clients.iter().map(ToString::to_string).collect(),
            max_requests_per_connection: Count(*max_requests_per_connection),
            error_pages: error_pages.iter().map(filters::ErrorPage::of).collect(),
            proxy_protocol: proxy_protocol.as_ref().map(ProxyProtocolView::of),
            tls: tls.as_ref().map(TlsView::of),
            hsts: hsts.as_ref().map(HstsView::of),
            redirect_to_https: redirect_to_https.as_ref().map(RedirectView::of),
        }
    }
}
