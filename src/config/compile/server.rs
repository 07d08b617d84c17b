//! The servers of an upstream, and how addresses are written.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::Compiler;
use super::names::{Seen, judge};
use super::process::LONGEST_SOCKET_PATH;
use crate::config::plan::{Address, ServerPlan};
use crate::config::spec::{At, ServerSpec, UpstreamSpec};

/// Largest weight of a server.
const MOST_WEIGHT: u32 = 1_000;

/// What is wrong with an address and what would be right.
type Wrong = (String, &'static str);

impl Compiler<'_> {
    /// The servers of an upstream; `most` is the limit of those that have none of their own.
    pub(super) fn servers(&mut self, upstream: &At<String>, spec: &UpstreamSpec, most: u64) -> Vec<ServerPlan> {
        let name = upstream.get_ref();
        if spec.servers.is_empty() && spec.server.is_empty() {
            let hint = "add `servers = [\"127.0.0.1:9001\"]`";
            self.lack(Some(upstream.span()), format!("upstream `{name}` has no server"), hint);
        }
        let plain = spec.servers.iter().map(|address| {
            let server = ServerSpec { address: Some(address.clone()), ..ServerSpec::default() };
            At::new(address.span(), server)
        });
        let entries: Vec<_> = plain.chain(spec.server.iter().cloned()).collect();
        let mut names = Seen::default();
        let mut addresses = Seen::default();
        let mut plans: Vec<ServerPlan> = Vec::new();
        for entry in &entries {
            let Some(plan) = self.server(name, entry, most) else { continue };
            let server = entry.get_ref();
            let place = server.address.as_ref().map_or(entry.span(), At::span);
            if let Some(first) = addresses.insert(&plan.address.to_string(), place.clone()) {
                let message = format!("two servers of upstream `{name}` have the address {}", plan.address);
                self.twice(place.clone(), first, message, "remove one; to give it more traffic, set `weight`");
                if server.name.is_none() {
                    continue;
                }
            }
            let place = server.name.as_ref().map_or(place, At::span);
            if let Some(first) = names.insert(&plan.name, place.clone()) {
                let message = format!("two servers of upstream `{name}` are called `{}`", plan.name);
                self.twice(place, first, message, "give one of them another name");
            }
            plans.push(plan);
        }
        if !plans.is_empty() && plans.iter().all(|s| s.backup) {
            let message = format!("all servers of upstream `{name}` are backups: `backup` says nothing then");
            self.warn(upstream.span(), message, "leave one without `backup = true`");
        }
        if !plans.is_empty() && plans.len() == entries.len() && plans.iter().all(|s| s.weight == 0) {
            let message = format!("all servers of upstream `{name}` have weight 0: none takes new clients");
            self.warn(upstream.span(), message, "give at least one a weight from 1 to 1000");
        }
        plans
    }

    fn server(&mut self, upstream: &str, entry: &At<ServerSpec>, most: u64) -> Option<ServerPlan> {
        let spec = entry.get_ref();
        if let Some(name) = &spec.name {
            self.name(name, "server");
        }
        // As it was written: one out of range must not pass for a zero as well.
        let weight = *spec.weight.get_ref();
        self.within(&spec.weight, "weight", &(0..=MOST_WEIGHT));
        let max_requests = spec.max_requests.as_ref().map_or(most, |own| self.count(own, "max_requests"));
        let Some(text) = &spec.address else {
            let message = format!("this server of upstream `{upstream}` has no `address`");
            self.lack(Some(entry.span()), message, "add `address = \"127.0.0.1:9001\"`");
            return None;
        };
        match parse_address(text.get_ref()) {
            Ok(address) => {
                let name = spec.name.as_ref().map_or_else(|| address.to_string(), |name| name.get_ref().clone());
                Some(ServerPlan { name, address, weight, max_requests, backup: spec.backup })
            }
            Err((message, hint)) => {
                self.error(text.span(), message, hint);
                None
            }
        }
    }
}

/// A server that somebody names while evenkeel runs: its name, its address, and its weight. It has no limit of
/// its own.
///
/// # Errors
/// What is wrong, and what would be right, as a sentence.
pub(in crate::config) fn named(name: Option<&str>, address: &str, weight: u32) -> Result<ServerPlan, String> {
    let sentence = |(message, hint): Wrong| format!("{message}: {hint}");
    let address = parse_address(address).map_err(sentence)?;
    if let Some(name) = name {
        judge(name, "server").map_err(sentence)?;
    }
    if weight > MOST_WEIGHT {
        return Err(format!("weight {weight} is too large: it may be 0 to {MOST_WEIGHT}"));
    }
    let name = name.map_or_else(|| address.to_string(), str::to_owned);
    Ok(ServerPlan { name, address, weight, max_requests: u64::MAX, backup: false })
}

/// Reads `IP:port`, `host:port` or `unix:/path`.
pub(super) fn parse_address(text: &str) -> Result<Address, Wrong> {
    const HINT: &str = "write \"127.0.0.1:9001\", \"app.internal:9001\" or \"unix:/run/app.sock\"";
    let text = text.trim();
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err((format!("an address has no scheme, `{scheme}://` is one"), HINT));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return with_port(address.port()).map(|_| Address::Socket(address));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err((format!("`{text}` has no port"), "add it, such as \"127.0.0.1:9001\" or \"[::1]:9001\""));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        let message = if text.is_empty() { "an address is empty".to_owned() } else { format!("`{text}` has no port") };
        return Err((message, HINT));
    };
    let Some(port) = port.parse().ok().filter(|_| port.bytes().all(|b| b.is_ascii_digit())) else {
        return Err((format!("`{port}` is not a port"), "write a number from 1 to 65535"));
    };
    let port = with_port(port)?;
    let host = host.to_ascii_lowercase();
    // A name of digits and dots alone is an address with a mistake in it.
    if !is_host_name(&host) || host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err((format!("`{host}` is neither an address nor a host name"), HINT));
    }
    Ok(Address::Host { host, port })
}

fn with_port(port: u16) -> Result<u16, Wrong> {
    if port == 0 { Err(("a server cannot have port 0".to_owned(), "write a number from 1 to 65535")) } else { Ok(port) }
}

fn unix(path: &str) -> Result<Address, Wrong> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err((format!("`{}` is not an absolute path", path.escape_debug()), "write \"unix:/run/app.sock\""));
    }
    if path.len() > LONGEST_SOCKET_PATH {
        let message =
            format!("the path of a Unix socket has at most {LONGEST_SOCKET_PATH} bytes, this one {}", path.len());
        return Err((message, "use a shorter path"));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

/// Labels of letters, digits, `-` and `_` with dots between (RFC 1123 §2.1; `_` is common in practice).
pub(super) fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}
