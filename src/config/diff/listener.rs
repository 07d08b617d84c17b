//! What changes in a listener.

use super::{Diff, Event, Subject, count};
use crate::config::plan::ListenerPlan;

impl Diff {
    pub(super) fn listener(&mut self, event: &Event<'_, ListenerPlan>) {
        let Some((old, new)) = self.both(event, |l| Subject::Listener(l.name.clone())) else { return };
        let ListenerPlan {
            name,
            bind,
            tls,
            hsts,
            redirect_to_https,
            // Follows from `tls` of any listener.
            hides_client_cert: _,
            // Told by the socket, not by the name.
            backlog: _,
            trusted_proxies,
            forwarded,
            access,
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
        } = old;
        let mut fields = self.of(Subject::Listener(name.clone()));
        fields.value("bind", bind, &new.bind);
        fields.key("tls", *tls == new.tls);
        fields.key("hsts", *hsts == new.hsts);
        fields.key("redirect_to_https", *redirect_to_https == new.redirect_to_https);
        fields.key("trusted_proxies", *trusted_proxies == new.trusted_proxies);
        fields.key("forwarded", *forwarded == new.forwarded);
        fields.access(access, &new.access);
        fields.value("request_id", request_id, &new.request_id);
        fields.value("merge_slashes", merge_slashes, &new.merge_slashes);
        fields.key("underscores_in_headers", *underscores_in_headers == new.underscores_in_headers);
        fields.time("header_timeout", *header_timeout, new.header_timeout);
        fields.time("idle_timeout", *idle_timeout, new.idle_timeout);
        fields.time("between_bytes", *between_bytes, new.between_bytes);
        fields.value("http2", http2, &new.http2);
        fields.value("http2_max_streams", http2_max_streams, &new.http2_max_streams);
        fields.value("min_rate", min_rate, &new.min_rate);
        fields.value("max_request_line", max_request_line, &new.max_request_line);
        fields.value("max_header_bytes", max_header_bytes, &new.max_header_bytes);
        fields.value("max_headers", max_headers, &new.max_headers);
        fields.value("max_body", &count(*max_body), &count(new.max_body));
        fields.value(
            "max_connections_per_client",
            &count(*max_connections_per_client),
            &count(new.max_connections_per_client),
        );
        fields.key("unlimited_clients", *unlimited_clients == new.unlimited_clients);
        fields.value(
            "max_requests_per_connection",
            &count(*max_requests_per_connection),
            &count(new.max_requests_per_connection),
        );
        fields.key("error_pages", *error_pages == new.error_pages);
        fields.key("proxy_protocol", *proxy_protocol == new.proxy_protocol);
    }
}
