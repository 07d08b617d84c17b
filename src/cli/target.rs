//! From what was typed to servers that exist.

use std::fmt;

use super::exit::{Exit, Failure};
use crate::control::api::{Status, UpstreamStatus};

/// A server of the running evenkeel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub upstream: String,
    pub server: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.upstream, self.server)
    }
}

impl Target {
    /// Its path in the admin API.
    #[must_use]
    pub(super) fn path(&self) -> String {
        format!("/upstreams/{}/servers/{}", encoded(&self.upstream), encoded(&self.server))
    }
}

/// The path of an upstream in the admin API.
pub(super) fn path_of(upstream: &str) -> String {
    format!("/upstreams/{}", encoded(upstream))
}

/// The path of the servers of an upstream in the admin API.
pub(super) fn path_of_servers(upstream: &str) -> String {
    format!("/upstreams/{}/servers", encoded(upstream))
}

/// The path of the deploy of an upstream in the admin API.
pub(super) fn path_of_deploy(upstream: &str) -> String {
    format!("/upstreams/{}/deploy", encoded(upstream))
}

/// The path of a request in the admin API.
pub(super) fn path_of_why(request_id: &str) -> String {
    format!("/why/{}", encoded(request_id))
}

/// Encodes everything but the unreserved characters of RFC 3986 §2.3, so that a name with a slash
/// (servers named by the path of a socket) stays one segment.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Finds every server that was named, or says which is not there; nothing is done for the others then.
///
/// # Errors
/// A name that no server has, or that several have.
pub(super) fn resolve(status: &Status, names: &[String]) -> Result<Vec<Target>, Failure> {
    let mut found: Vec<Target> = Vec::with_capacity(names.len());
    for name in names {
        let target = resolve_one(status, name).map_err(|text| Failure::new(Exit::Failure, text))?;
        if !found.contains(&target) {
            found.push(target);
        }
    }
    Ok(found)
}

fn resolve_one(status: &Status, name: &str) -> Result<Target, String> {
    let all: Vec<Target> = status
        .upstreams
        .iter()
        .flat_map(|u| u.servers.iter().map(|s| Target { upstream: u.name.clone(), server: s.name.clone() }))
        .collect();
    // Whole names first: a server may be named by a path, so a slash does not tell where to cut.
    if let Some(target) = all.iter().find(|t| t.to_string() == name) {
        return Ok(target.clone());
    }
    let mut namesakes = all.iter().filter(|t| t.server == name);
    match (namesakes.next(), namesakes.next()) {
        (Some(only), None) => return Ok(only.clone()),
        (Some(_), Some(_)) => {
            let choices: Vec<String> = all.iter().filter(|t| t.server == name).map(|t| format!("`{t}`")).collect();
            return Err(format!("several upstreams have a server `{name}`: say {}", choices.join(" or ")));
        }
        (None, _) => {}
    }
    Err(unknown(status, &all, name))
}

fn unknown(status: &Status, all: &[Target], name: &str) -> String {
    if let Some(upstream) = status.upstreams.iter().find(|u| u.name == name) {
        let servers: Vec<String> = upstream.servers.iter().map(|s| format!("`{name}/{}`", s.name)).collect();
        return format!("`{name}` is an upstream: name a server of it ({})", servers.join(", "));
    }
    let of_upstream = |u: &UpstreamStatus| name.strip_prefix(&u.name).and_then(|rest| rest.strip_prefix('/'));
    if let Some((upstream, server)) = status.upstreams.iter().find_map(|u| Some((u, of_upstream(u)?))) {
        let known = upstream.servers.iter().map(|s| s.name.as_str());
        let advice = match nearest(server, known.clone().map(|s| (s, s))) {
            Some(near) => format!("did you mean `{}/{near}`?", upstream.name),
            None => format!("it has {}", known.map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ")),
        };
        return format!("upstream `{}` has no server `{server}`; {advice}", upstream.name);
    }
    // What was left out or misspelt may be the upstream as well as the server.
    let whole: Vec<(String, &Target)> = all.iter().map(|t| (t.to_string(), t)).collect();
    let candidates =
        all.iter().map(|t| (t.server.as_str(), t)).chain(whole.iter().map(|(text, t)| (text.as_str(), *t)));
    match nearest(name, candidates) {
        Some(target) => format!("no server is called `{name}`; did you mean `{target}`?"),
        None => format!("no server is called `{name}`; `evenkeel status` lists them"),
    }
}

/// What belongs to the word that a person most likely meant. Short words have to be right: every other
/// short word is near them.
fn nearest<'a, T>(word: &str, candidates: impl Iterator<Item = (&'a str, T)>) -> Option<T> {
    let limit = (word.chars().count() / 3).min(3);
    let lower = word.to_lowercase();
    candidates
        .map(|(candidate, what)| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), what))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, what)| what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    fn resolved(names: &[&str]) -> Result<Vec<String>, String> {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        match resolve(&fixture::status(), &names) {
            Ok(targets) => Ok(targets.iter().map(ToString::to_string).collect()),
            Err(failure) => Err(failure.message),
        }
    }

    #[test]
    fn whole_names_and_names_that_are_unique() {
        assert_eq!(resolved(&["shop/a", "api/a", "b"]).unwrap(), ["shop/a", "api/a", "shop/b"]);
        assert_eq!(resolved(&["api/unix:/run/x.sock", "unix:/run/x.sock"]).unwrap(), ["api/unix:/run/x.sock"]);
    }

    #[test]
    fn names_that_do_not_tell_a_server() {
        assert_eq!(resolved(&["a"]).unwrap_err(), "several upstreams have a server `a`: say `shop/a` or `api/a`");
        assert_eq!(resolved(&["shop"]).unwrap_err(), "`shop` is an upstream: name a server of it (`shop/a`, `shop/b`)");
        assert_eq!(resolved(&["shpo/b"]).unwrap_err(), "no server is called `shpo/b`; did you mean `shop/b`?");
        for (name, advice) in [
            ("SHPO/b", "no server is called `SHPO/b`; did you mean `shop/b`?"),
            ("unix:/run/y.sock", "no server is called `unix:/run/y.sock`; did you mean `api/unix:/run/x.sock`?"),
            ("shop/B", "upstream `shop` has no server `B`; did you mean `shop/b`?"),
            ("shop/z", "upstream `shop` has no server `z`; it has `a`, `b`"),
            ("z", "no server is called `z`; `evenkeel status` lists them"),
            ("somewhere/else", "no server is called `somewhere/else`; `evenkeel status` lists them"),
        ] {
            assert_eq!(resolved(&["shop/b", name]).unwrap_err(), advice);
        }
    }

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        let target = Target { upstream: "shop".into(), server: "unix:/run/a b.sock".into() };
        assert_eq!(target.path(), "/upstreams/shop/servers/unix%3A%2Frun%2Fa%20b.sock");
    }
}
