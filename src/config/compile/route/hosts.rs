//! The hosts that a route is for.

use std::net::Ipv6Addr;
use std::ops::Range;

use super::super::Compiler;
use super::super::server::is_host_name;
use crate::config::plan::HostPattern;
use crate::config::spec::{At, RouteSpec};

impl Compiler<'_> {
    pub(super) fn hosts(&mut self, entry: &At<RouteSpec>) -> Vec<(Range<usize>, HostPattern)> {
        let spec = entry.get_ref();
        let Some(named) = &spec.host else {
            let place = if spec.path.span() == (0..0) { entry.span() } else { spec.path.span() };
            return vec![(place, HostPattern::Any)];
        };
        if named.get_ref().0.is_empty() {
            self.error(named.span(), "this route has no host", "name one, or leave the key out for any");
        }
        let mut hosts = Vec::new();
        for text in &named.get_ref().0 {
            match parse_host(text.get_ref()) {
                Ok(host) => hosts.push((text.span(), host)),
                Err((message, hint)) => self.error(text.span(), message, hint),
            }
        }
        hosts
    }
}

pub(super) fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Any => "*".to_owned(),
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

/// Reads `shop.example.com`, `*.example.com`, an IP address, or `*` for any.
fn parse_host(text: &str) -> Result<HostPattern, (String, &'static str)> {
    let lower = text.trim().to_lowercase();
    let host = lower.strip_suffix('.').unwrap_or(&lower);
    if host == "*" {
        return Ok(HostPattern::Any);
    }
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(address) = address.unwrap_or(host).parse::<Ipv6Addr>() {
        return Ok(HostPattern::Exact(format!("[{address}]")));
    }
    let suffix = host.strip_prefix('*').filter(|rest| rest.starts_with('.'));
    let plain = suffix.map_or(host, |suffix| &suffix[1..]);
    let shown = text.escape_debug();
    if !plain.is_ascii() {
        return Err((
            format!("the host `{shown}` is not ASCII"),
            "write its form for the wire, which starts with xn--",
        ));
    }
    if plain.contains('/') {
        return Err((
            format!("the host `{shown}` has a path or a scheme"),
            "write the host alone; a prefix goes to `path`",
        ));
    }
    if plain.contains('*') {
        return Err((format!("in the host `{shown}` a star is not the first label"), "write \"*.example.com\""));
    }
    if plain.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
        return Err((format!("the host `{shown}` has a port"), "write the host alone; ports belong to listeners"));
    }
    if !is_host_name(plain) {
        return Err((format!("`{shown}` is not a host name"), "write \"shop.example.com\" or \"*.example.com\""));
    }
    Ok(match suffix {
        Some(suffix) => HostPattern::Suffix(suffix.to_owned()),
        None => HostPattern::Exact(plain.to_owned()),
    })
}
