//! Listeners.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::Compiler;
use super::names::Seen;
use crate::config::plan::{AdminPlan, Forwarded, ListenerPlan, ProxyProtocolPlan, Underscores};
use crate::config::spec::{
    At, CONNECTIONS_PER_CLIENT, ForwardedSpec, ListenerSpec, ProxyProtocolSpec, Size, Spec, UnderscoresSpec,
};
use crate::units::show_size;

const HEADER_BYTES: RangeInclusive<u64> = 8 << 10..=1 << 20;
/// Longer targets than these are not parsed.
const REQUEST_LINE: RangeInclusive<u64> = 1 << 10..=64 << 10;

impl Compiler<'_> {
    pub(super) fn listeners(&mut self, spec: &Spec, admin: &AdminPlan, max_connections: u64) -> Vec<ListenerPlan> {
        if spec.listener.is_empty() {
            self.lack(None, "no listener", "add `[[listener]]` with `bind = \"0.0.0.0:8080\"`");
        }
        let mut names = Seen::default();
        let mut addresses = Seen::default();
        let mut plans = Vec::new();
        for entry in &spec.listener {
            let Some(plan) = self.listener(entry, max_connections) else { continue };
            let listener = entry.get_ref();
            let bind = listener.bind.as_ref().map_or(entry.span(), At::span);
            // Two listeners may both ask for any free port.
            if plan.bind.port() != 0 {
                if let Some(first) = addresses.insert(&plan.bind.to_string(), bind.clone()) {
                    let message = format!("two listeners are bound to {}", plan.bind);
                    self.twice(bind, first, message, "remove one, or give it another address");
                    continue;
                }
                if admin.bind == Some(plan.bind) {
                    let place = spec.admin.bind.as_ref().map_or(0..0, At::span);
                    let message = format!("a listener and the admin API are both bound to {}", plan.bind);
                    self.twice(bind, place, message, "give one of them another address");
                    continue;
                }
            }
            let place = listener.name.as_ref().map_or(bind, At::span);
            if let Some(first) = names.insert(&plan.name, place.clone()) {
                let message = format!("two listeners are called `{}`", plan.name);
                self.twice(place, first, message, "give one of them another name");
            }
            plans.push(plan);
        }
        self.https_elsewhere(spec, &plans);
        // A server that believes these headers cannot know which listener a request came through.
        let told = plans.iter().any(|plan| plan.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some()));
        plans.iter_mut().for_each(|plan| plan.hides_client_cert = told);
        plans
    }

    /// Redirects to a port where no listener speaks TLS. What stands in front may; where something is said
    /// to stand there, nothing is said of it.
    fn https_elsewhere(&mut self, spec: &Spec, plans: &[ListenerPlan]) {
        // Any free port may be the one.
        let listens = |port| plans.iter().any(|plan| plan.tls.is_some() && [port, 0].contains(&plan.bind.port()));
        for listener in spec.listener.iter().map(At::get_ref) {
            let redirect = listener.redirect_to_https.get_ref();
            let port = *redirect.port.get_ref();
            let in_front = !listener.trusted_proxies.is_empty() || listener.proxy_protocol.is_some();
            if redirect.on && !in_front && !self.gaps.any && !listens(port) {
                let message = format!("`redirect_to_https` leads to port {port}, where no listener has `tls`");
                let hint = "give a listener on that port `tls`, or write `redirect_to_https = { port = ... }`";
                self.warn(listener.redirect_to_https.span(), message, hint);
            }
        }
    }

    fn listener(&mut self, entry: &At<ListenerSpec>, max_connections: u64) -> Option<ListenerPlan> {
        let spec = entry.get_ref();
        if let Some(name) = &spec.name {
            self.name(name, "listener");
        }
        let max_header_bytes = self.size_within(&spec.max_header_bytes, "max_header_bytes", &HEADER_BYTES);
        let max_request_line = self.size_within(&spec.max_request_line, "max_request_line", &REQUEST_LINE);
        let trusted_proxies = spec.trusted_proxies.iter().filter_map(|text| self.network(text)).collect();
        let unlimited_clients = spec.unlimited_clients.iter().filter_map(|text| self.any_network(text)).collect();
        let plan = ListenerPlan {
            name: listener_name(spec).unwrap_or_default(),
            bind: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
            tls: spec.tls.as_ref().map(|tls| self.tls(tls)),
            hsts: spec.hsts.as_ref().map(|hsts| self.hsts(hsts, spec.tls.is_some())),
            redirect_to_https: self.redirect_to_https(&spec.redirect_to_https, spec.tls.is_some()),
            hides_client_cert: false,
            backlog: self.within(&spec.backlog, "backlog", &(1..=65_535)),
            trusted_proxies,
            forwarded: match spec.forwarded {
                ForwardedSpec::XForwarded => Forwarded::XForwarded,
                ForwardedSpec::Rfc7239 => Forwarded::Rfc7239,
                ForwardedSpec::Both => Forwarded::Both,
                ForwardedSpec::Off => Forwarded::Off,
            },
            access: self.access(spec.allow.as_ref(), spec.deny.as_ref()),
            request_id: spec.request_id,
            merge_slashes: spec.merge_slashes,
            underscores_in_headers: match spec.underscores_in_headers {
                UnderscoresSpec::Drop => Underscores::Drop,
                UnderscoresSpec::Allow => Underscores::Allow,
                UnderscoresSpec::Refuse => Underscores::Refuse,
            },
            header_timeout: self.positive(&spec.header_timeout, "header_timeout"),
            idle_timeout: self.positive(&spec.idle_timeout, "idle_timeout"),
            between_bytes: self.positive(&spec.between_bytes, "between_bytes"),
            http2: spec.http2,
            http2_max_streams: self.within(&spec.http2_max_streams, "http2_max_streams", &(1..=10_000)),
            min_rate: spec.min_rate.0,
            // A line that alone fills a head, its end aside, is too long before the head is too large.
            max_request_line: max_request_line.min(max_header_bytes.saturating_sub(2)),
            max_header_bytes,
            max_headers: self.within(&spec.max_headers, "max_headers", &(1..=10_000)),
            max_body: spec.max_body.0,
            max_connections_per_client: match &spec.max_connections_per_client {
                Some(most) => self.count(most, "max_connections_per_client"),
                None => CONNECTIONS_PER_CLIENT.min(max_connections / 4).max(1),
            },
            unlimited_clients,
            max_requests_per_connection: self.count(&spec.max_requests_per_connection, "max_requests_per_connection"),
            error_pages: self.error_pages(&spec.error_pages),
            proxy_protocol: spec.proxy_protocol.as_ref().and_then(|spec| self.proxy_protocol(spec)),
        };
        let Some(bind) = &spec.bind else {
            self.lack(Some(entry.span()), "this listener has no `bind`", "add `bind = \"0.0.0.0:8080\"`");
            return None;
        };
        Some(ListenerPlan { bind: self.address(bind.span(), &bind.get_ref().0)?, ..plan })
    }

    fn proxy_protocol(&mut self, entry: &At<ProxyProtocolSpec>) -> Option<ProxyProtocolPlan> {
        let spec = entry.get_ref();
        if spec.from.is_empty() {
            let hint = "add `from = [\"10.0.0.0/8\"]` with the networks of what stands in front";
            self.lack(Some(entry.span()), "`proxy_protocol` has nobody to come `from`", hint);
        }
        let from = spec.from.iter().filter_map(|text| self.network(text)).collect();
        Some(ProxyProtocolPlan { from, timeout: self.positive(&spec.timeout, "timeout") })
    }

    fn size_within(&mut self, size: &At<Size>, key: &str, range: &RangeInclusive<u64>) -> usize {
        let bytes = size.get_ref().0;
        if !range.contains(&bytes) {
            let hint =
                format!("write a size from \"{}\" to \"{}\"", show_size(*range.start()), show_size(*range.end()));
            self.error(size.span(), format!("`{key}` is {bytes} bytes, which is out of range"), &hint);
        }
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Proxies that are believed.
    fn network(&mut self, text: &At<String>) -> Option<IpNet> {
        let network = self.any_network(text)?;
        if network.prefix_len() == 0 {
            let message = format!("`{}` trusts everyone to say who the client is", text.get_ref().trim());
            self.warn(text.span(), message, "name the networks of your own proxies only");
        }
        Some(network)
    }

    pub(super) fn any_network(&mut self, text: &At<String>) -> Option<IpNet> {
        let given = text.get_ref().trim();
        let Ok(network) = given.parse::<IpNet>().or_else(|_| given.parse::<IpAddr>().map(IpNet::from)) else {
            let message = format!("`{}` is not a network", given.escape_debug());
            self.error(text.span(), message, "write an address and a prefix length, such as \"10.0.0.0/8\"");
            return None;
        };
        if network.trunc() != network {
            let message = format!("`{given}` has bits beyond its prefix length, which are ignored");
            self.warn(text.span(), message, &format!("write \"{}\"", network.trunc()));
        }
        if let IpNet::V6(mapped) = network
            && let Some(v4) = mapped.trunc().addr().to_ipv4_mapped()
        {
            // Addresses are compared in their own family, so it would stand for nobody.
            let shorter = mapped.prefix_len().saturating_sub(96);
            let message = format!("`{given}` is a network of IPv4 in the form of IPv6");
            self.error(text.span(), message, &format!("write \"{v4}/{shorter}\""));
            return None;
        }
        Some(network.trunc())
    }
}

/// The name of a listener: the given one, or the address as written.
pub(super) fn listener_name(spec: &ListenerSpec) -> Option<String> {
    if let Some(name) = &spec.name {
        return Some(name.get_ref().clone());
    }
    let text = spec.bind.as_ref()?.get_ref().0.trim();
    Some(if text.parse::<u16>().is_ok() { format!(":{text}") } else { text.to_owned() })
}

/// Reads `IP:port`; `:port`, `*:port` and a bare port mean every address, IPv6 and (by a dual-stack
/// socket, RFC 3493 §3.7) IPv4.
///
/// # Errors
/// What is wrong and what would be right.
pub(super) fn parse_bind(text: &str) -> Result<SocketAddr, (String, &'static str)> {
    let text = text.trim();
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let port = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")).unwrap_or(text);
    if let Ok(port) = port.parse::<u16>()
        && port_is_plain(text)
    {
        return Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    }
    if text.starts_with("unix:") || text.starts_with('/') {
        return Err((
            format!("`{text}` is a path"),
            "listeners take an IP address and a port, such as \"0.0.0.0:8080\"",
        ));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err((format!("`{text}` has no port"), "add it, such as \"0.0.0.0:8080\" or \"[::1]:8080\""));
    }
    let hint = "write an IP address and a port, such as \"0.0.0.0:8080\", \"[::1]:8080\" or \":8080\"";
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_err() && host.parse::<IpAddr>().is_ok() => {
            Err((format!("`{port}` is not a port"), "write a number from 0 to 65535"))
        }
        Some((host, _)) if host.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            Err((format!("`{host}` is a host name, not an address of this machine"), hint))
        }
        _ => Err((format!("`{text}` is not an address"), hint)),
    }
}

/// `u16` also parses `+80`.
fn port_is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b == b':' || b == b'*')
}
