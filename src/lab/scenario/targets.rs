//! The part of a scenario that is about servers of the user's own.

use super::Scenario;

/// The address in what may be written as a URL.
pub(super) fn address(target: &str) -> Result<String, String> {
    if target.starts_with("https://") {
        return Err(format!(
            "{target}: write HOST:PORT, and `tls = {{}}` in [upstream] of the scenario, which may say more of it"
        ));
    }
    let rest = target.strip_prefix("http://").unwrap_or(target);
    let address = rest.trim_end_matches('/');
    if address.contains('/') && !address.starts_with("unix:") {
        return Err(format!("{target}: write HOST:PORT alone; paths are those of the groups (`path`)"));
    }
    let is_host = |host: &str| !host.is_empty() && (host.starts_with('[') || !host.contains(':'));
    let port =
        address.rsplit_once(':').filter(|(host, _)| is_host(host)).and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) && !address.starts_with("unix:/") {
        return Err(format!("{target}: write HOST:PORT, such as 127.0.0.1:9001, or unix:/path"));
    }
    Ok(address.to_owned())
}

/// Whether each of them is an address.
///
/// # Errors
/// The first that is none, and what would be.
pub fn check(targets: &[String]) -> Result<(), String> {
    targets.iter().try_for_each(|target| address(target).map(drop))
}

impl Scenario {
    /// Whether a user may be seen to lose a session.
    #[must_use]
    pub fn has_sessions(&self) -> bool {
        self.sessions || self.session_cookie.is_some()
    }

    pub(super) fn check_targets(&self) -> Result<(), String> {
        let fail = |what: &str| Err(what.to_owned());
        for group in &self.groups {
            if group
                .path
                .as_ref()
                .is_some_and(|path| path.parse::<http::uri::PathAndQuery>().is_err() || !path.starts_with('/'))
            {
                return Err(format!("group \"{}\": path: write one such as \"/shop?page=2\"", group.name));
            }
        }
        if self.targets.is_empty() {
            if self.session_cookie.is_some() || self.groups.iter().any(|group| group.path.is_some()) {
                return fail(
                    "`session_cookie` and `path` are for servers of your own: name them with --target, or leave these out",
                );
            }
            return Ok(());
        }
        if self.sessions {
            return fail(
                "`sessions` is for toy servers, which have a login that the lab knows: leave it out, and write \
                 `session_cookie` with the name of the cookie of your servers",
            );
        }
        if self.strategies.is_some() || self.items.is_some() {
            return fail("[strategies] and [items] are for toy servers: leave them out with --target");
        }
        if self.websocket.is_some() {
            return fail("[websocket] is for toy servers, which say back what they hear: leave it out with --target");
        }
        if self.servers.workers.is_some() || !self.servers.work.is_zero() {
            return fail("[servers] is about toy servers: leave it out with --target");
        }
        if !self.events.is_empty() {
            return fail(
                "an [[event]] kills and starts toy servers: leave events out with --target, and do them yourself",
            );
        }
        if self.policies.iter().any(|policy| policy.sessions.is_some() || policy.cache.is_some()) {
            return fail("`sessions` and `cache` of a policy are for toy servers: leave them out with --target");
        }
        Ok(())
    }
}
