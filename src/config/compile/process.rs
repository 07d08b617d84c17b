//! What belongs to the process as a whole: cores, admin API, logs, shutdown, name servers.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::{Compiler, listener};
use crate::config::plan::{
    AccessLogFormat, AccessLogPlan, AdminPlan, DebugPlan, DnsPlan, LogFormat, LogPlan, ShutdownPlan, UpgradePlan,
};
use crate::config::spec::{
    AccessLogFormatSpec, AccessLogSpec, AdminSpec, At, Count, DebugSpec, DnsSpec, LogFormatSpec, LogSpec, ShutdownSpec,
    UpgradeSpec,
};
use crate::config::suggest;

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
/// Descriptors that are not for connections: listeners, pollers, logs, checks, the admin API.
const OWN_DESCRIPTORS: u64 = 128;
const SHORTEST_TOKEN: usize = 16;
/// Requests that a core may remember: some hundred MiB at the very most.
const MOST_REMEMBERED: usize = 100_000;
/// The longest path of a Unix socket, its end mark aside: `sun_path` of unix(7).
pub(super) const LONGEST_SOCKET_PATH: usize = 107;

impl Compiler<'_> {
    pub(super) fn cores(&mut self, cores: Option<&At<usize>>) -> usize {
        let available = self.around.cores.max(1);
        let Some(cores) = cores else { return available };
        let number = self.within(cores, "cores", &(1..=1024));
        if number > available {
            let message = format!("`cores` is {number}, but this process may use {available}");
            self.warn(cores.span(), message, "leave the key out to use what there is");
        }
        number
    }

    pub(super) fn max_connections(&mut self, most: Option<&At<Count>>) -> u64 {
        let descriptors = self.around.descriptors;
        let Some(most) = most else {
            // A connection that is served needs another one, to a server.
            return (descriptors.saturating_sub(OWN_DESCRIPTORS) / 2).max(1);
        };
        let number = self.count(most, "max_connections");
        if number > descriptors && number != u64::MAX {
            let message =
                format!("`max_connections` is {number}, but this process may have {descriptors} descriptors open");
            self.warn(most.span(), message, "raise the limit of open files (LimitNOFILE of systemd, ulimit -n)");
        }
        number
    }

    pub(super) fn admin(&mut self, spec: &AdminSpec) -> AdminPlan {
        if let Some(socket) = &spec.socket {
            let length = socket.get_ref().as_os_str().len();
            if length == 0 || length > LONGEST_SOCKET_PATH {
                let message =
                    format!("the path of a Unix socket has 1 to {LONGEST_SOCKET_PATH} bytes, this one {length}");
                self.error(socket.span(), message, "write another path");
            }
        }
        let bind = spec.bind.as_ref().and_then(|bind| self.address(bind.span(), &bind.get_ref().0));
        let token = self.token(spec);
        if let (Some(address), Some(place)) = (bind, &spec.bind) {
            let named = token.is_some() || spec.token.is_some() || spec.token_file.is_some();
            if !address.ip().to_canonical().is_loopback() && !named && !self.gaps.any {
                let message = format!("the admin API on {address} would be open to everyone who reaches it");
                self.error(place.span(), message, "bind to 127.0.0.1, or set `token` or `token_file`");
            }
        }
        AdminPlan { socket: spec.socket.as_ref().map(|s| s.get_ref().clone()), bind, token }
    }

    fn token(&mut self, spec: &AdminSpec) -> Option<String> {
        if let (Some(token), Some(file)) = (&spec.token, &spec.token_file) {
            self.twice(file.span(), token.span(), "`token` and `token_file` are both set", "keep one of them");
        }
        let (place, token) = match (&spec.token, &spec.token_file) {
            (Some(token), _) => (token.span(), token.get_ref().0.clone()),
            (None, Some(file)) => (file.span(), self.file(file, "token_file")?.trim().to_owned()),
            (None, None) => return None,
        };
        let hint = "make one with `openssl rand -hex 32`";
        if token.is_empty() {
            self.error(place, "the token is empty", hint);
        } else if !token.bytes().all(|b| b.is_ascii_graphic()) {
            self.error(place, "the token has characters that an HTTP header cannot carry", hint);
        } else if token.len() < SHORTEST_TOKEN {
            self.warn(place, format!("the token is shorter than {SHORTEST_TOKEN} characters"), hint);
        }
        Some(token)
    }

    pub(super) fn log(&mut self, spec: &LogSpec) -> LogPlan {
        let level = spec.level.get_ref();
        if !level.contains('=') && !level.contains(',') {
            if !LEVELS.contains(&level.as_str()) {
                let hint = suggest::hint(level, "levels", &LEVELS).unwrap_or_default();
                self.error(spec.level.span(), format!("unknown level `{level}`"), &hint);
            }
        } else if let Err(error) = EnvFilter::try_new(level) {
            let hint = "write a level, or a filter such as \"info,evenkeel=debug\"";
            self.error(spec.level.span(), format!("`{level}` is not a log filter: {error}"), hint);
        }
        let format = match spec.format {
            LogFormatSpec::Text => LogFormat::Text,
            LogFormatSpec::Json => LogFormat::Json,
        };
        LogPlan { level: level.clone(), format }
    }

    pub(super) fn access_log(&self, spec: Option<&AccessLogSpec>) -> Option<AccessLogPlan> {
        let spec = spec?;
        let format = match spec.format {
            AccessLogFormatSpec::Json => AccessLogFormat::Json,
            AccessLogFormatSpec::Combined => AccessLogFormat::Combined,
        };
        Some(AccessLogPlan { file: spec.file.clone().filter(|file| file.as_os_str() != "-"), format })
    }

    pub(super) fn shutdown(&mut self, spec: &ShutdownSpec) -> ShutdownPlan {
        let plan = ShutdownPlan {
            announce: self.time(&spec.announce, "announce"),
            idle_grace: self.time(&spec.idle_grace, "idle_grace"),
            deadline: self.time(&spec.deadline, "deadline"),
        };
        self.grace(spec.idle_grace.span(), plan.idle_grace, plan.deadline);
        plan
    }

    pub(super) fn debug(&mut self, spec: &DebugSpec) -> DebugPlan {
        let remember = self.within(&spec.remember, "remember", &(0..=MOST_REMEMBERED));
        if let (Some(key), Some(file)) = (&spec.key, &spec.key_file) {
            self.twice(file.span(), key.span(), "`key` and `key_file` are both set", "keep one of them");
        }
        let (place, key) = match (&spec.key, &spec.key_file) {
            (Some(key), _) => (key.span(), Some(key.get_ref().0.clone())),
            (None, Some(file)) => (file.span(), self.file(file, "key_file").map(|text| text.trim().to_owned())),
            (None, None) => return DebugPlan { remember, key: None },
        };
        if let Some(key) = key.as_ref().filter(|key| key.len() < SHORTEST_TOKEN) {
            let message = format!("the key has {} characters: it is to have {SHORTEST_TOKEN} or more", key.len());
            self.error(place, message, "make one with `openssl rand -hex 32`");
        }
        DebugPlan { remember, key }
    }

    pub(super) fn upgrade(&mut self, spec: &UpgradeSpec) -> UpgradePlan {
        let plan = UpgradePlan {
            ready_within: self.positive(&spec.ready_within, "ready_within"),
            idle_grace: self.time(&spec.idle_grace, "idle_grace"),
            deadline: self.time(&spec.deadline, "deadline"),
        };
        self.grace(spec.idle_grace.span(), plan.idle_grace, plan.deadline);
        plan
    }

    fn grace(&mut self, place: Range<usize>, idle_grace: Duration, deadline: Duration) {
        if idle_grace > deadline {
            let message = "`idle_grace` is longer than `deadline`, which cuts idle connections first";
            self.warn(place, message, "write a shorter one");
        }
    }

    pub(super) fn dns(&mut self, spec: &DnsSpec) -> DnsPlan {
        let servers = spec.servers.iter().filter_map(|server| self.name_server(server)).collect();
        let min_ttl = self.positive(&spec.min_ttl, "min_ttl");
        let max_ttl = self.positive(&spec.max_ttl, "max_ttl");
        if min_ttl > max_ttl {
            self.error(spec.min_ttl.span(), "`min_ttl` is longer than `max_ttl`", "write a shorter one");
        }
        DnsPlan { servers, min_ttl, max_ttl: max_ttl.max(min_ttl) }
    }

    /// The address of a name server, on port 53 unless it says otherwise.
    fn name_server(&mut self, server: &At<String>) -> Option<SocketAddr> {
        let text = server.get_ref().trim();
        let address = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
        match address {
            Ok(address) if address.port() != 0 => Some(address),
            _ => {
                let message = format!("`{text}` is not the address of a name server");
                self.error(server.span(), message, "write an IP address, such as \"10.0.0.2\" or \"127.0.0.1:8600\"");
                None
            }
        }
    }

    /// An address to listen on.
    pub(super) fn address(&mut self, place: Range<usize>, text: &str) -> Option<SocketAddr> {
        match listener::parse_bind(text) {
            Ok(address) => Some(address),
            Err((message, hint)) => {
                self.error(place, message, hint);
                None
            }
        }
    }
}
