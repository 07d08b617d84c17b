//! The path that a server gets in the place of the one that a client asked for.

use http::Uri;
use http::uri::PathAndQuery;

use super::edits::Known;
use super::exchange::Exchange;
use crate::config::plan::{PathPattern, Rewrite, RoutePlan};
use crate::error::{Kind, ProxyError};
use crate::path;

/// Puts another path in its place, where the route says so. `compared` is the path as routes see it.
pub(super) fn rewrite(
    exchange: &Exchange,
    route: &RoutePlan,
    uri: &mut Uri,
    compared: Option<&str>,
) -> Result<(), ProxyError> {
    let path = match &route.rewrite {
        Rewrite::Keep => return Ok(()),
        Rewrite::Strip => with_prefix("", uri.path(), &route.path),
        Rewrite::Prefix(prefix) => with_prefix(prefix, uri.path(), &route.path),
        Rewrite::Regex { pattern, to } => {
            let Some(captures) = pattern.regex().captures(compared.unwrap_or(uri.path())) else { return Ok(()) };
            let made = to.render(&Known { exchange, request: None, captures: Some(&captures) });
            // What a group took may be half of a segment: beside other text it can mean something else.
            let is_dots = |segment: &str| matches!(segment, "." | "..");
            if made.split('/').any(is_dots) {
                return Err(bad("the rewritten path has dot segments"));
            }
            path::clean(&made, true).map_err(bad)?.path.unwrap_or(made)
        }
    };
    if uri.path() == "*" {
        return Ok(());
    }
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    *uri = PathAndQuery::try_from(target).map(Uri::from).map_err(|_| bad("the rewritten path is too long"))?;
    Ok(())
}

fn bad(why: &'static str) -> ProxyError {
    ProxyError::new(Kind::BadRequest).because(why)
}

/// The path with the route's prefix replaced: as many segments as it has, since they may be spelled in
/// another way than the route spells them.
fn with_prefix(new: &str, path: &str, route: &PathPattern) -> String {
    let PathPattern::Prefix(prefix) = route else { return path.to_owned() };
    let segments = prefix.split('/').filter(|segment| !segment.is_empty()).count();
    let rest = path.match_indices('/').nth(segments).map_or("", |(at, _)| &path[at..]);
    let new = new.strip_suffix('/').unwrap_or(new);
    if new.is_empty() && rest.is_empty() { "/".to_owned() } else { format!("{new}{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_segment_by_segment() {
        for (new, path, prefix, wanted) in [
            ("", "/app/x", "/app", "/x"),
            ("", "/app", "/app", "/"),
            ("", "/app/", "/app/", "/"),
            ("/v2", "/api/x", "/api", "/v2/x"),
            ("/v2/", "/api/x", "/api/", "/v2/x"),
            ("/v2", "/api", "/api", "/v2"),
            ("/v2", "/x/y", "/", "/v2/x/y"),
            ("/", "/api;v=1/x", "/api", "/x"),
            ("/a/b", "/%61@/c/x", "/a@/c", "/a/b/x"),
        ] {
            assert_eq!(with_prefix(new, path, &PathPattern::Prefix(prefix.to_owned())), wanted, "{path}");
        }
    }
}
