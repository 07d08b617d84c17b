//! Which route a request takes: host first, then the longest path prefix on a segment boundary.
//!
//! Compiled once per reload, read by every request: an exact host is one hash look-up, suffixes are
//! tried from the longest, paths are a short list sorted by length. No allocation.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::config::plan::{HostPattern, RoutePlan};
use crate::metrics::cells::RouteCell;

/// A rule from host and path to an upstream.
#[derive(Debug)]
pub struct Route {
    pub plan: RoutePlan,
    /// One cell per core; shared with the same route of the Snapshot before.
    pub cells: Arc<[RouteCell]>,
    /// Position of its upstream in the Snapshot.
    pub upstream: usize,
}

/// Routes by their position in [`Routes::all`], longest path first.
type Paths = Vec<(usize, Arc<Route>)>;

/// The routes of one listener.
#[derive(Debug, Default)]
pub struct Routes {
    exact: HashMap<Box<str>, Paths, foldhash::fast::RandomState>,
    suffixes: Vec<(Box<str>, Paths)>,
    any: Paths,
    /// Every route, for status and metrics.
    pub all: Vec<Arc<Route>>,
}

impl Routes {
    /// Compiles the routes of one listener.
    #[must_use]
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        let mut compiled = Self::default();
        for (index, route) in routes.iter().enumerate() {
            let entry = (index, Arc::clone(route));
            match &route.plan.host {
                HostPattern::Any => compiled.any.push(entry),
                HostPattern::Exact(host) => {
                    compiled.exact.entry(host.as_str().into()).or_default().push(entry);
                }
                HostPattern::Suffix(suffix) => match compiled.suffixes.iter_mut().find(|(s, _)| **s == **suffix) {
                    Some((_, paths)) => paths.push(entry),
                    None => compiled.suffixes.push((suffix.as_str().into(), vec![entry])),
                },
            }
        }
        let longest_first = |paths: &mut Paths| paths.sort_by_key(|(_, r)| std::cmp::Reverse(r.plan.path.len()));
        compiled.exact.values_mut().for_each(longest_first);
        compiled.suffixes.iter_mut().for_each(|(_, paths)| longest_first(paths));
        longest_first(&mut compiled.any);
        compiled.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        compiled.all = routes;
        compiled
    }

    /// The route for a host (lower case, no port) and a path, by its position in [`Routes::all`]. A more specific host wins over a longer
    /// path; where none of its paths match, the next less specific host is tried.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        if !self.exact.is_empty()
            && let Some(route) = self.exact.get(host).and_then(|paths| by_path(paths, path))
        {
            return Some(route);
        }
        for (suffix, paths) in &self.suffixes {
            if host.len() > suffix.len()
                && host.ends_with(&**suffix)
                && let Some(route) = by_path(paths, path)
            {
                return Some(route);
            }
        }
        by_path(&self.any, path)
    }

    /// Whether any route looks at the host.
    #[must_use]
    pub fn wants_host(&self) -> bool {
        !self.exact.is_empty() || !self.suffixes.is_empty()
    }
}

fn by_path(paths: &Paths, path: &str) -> Option<usize> {
    paths.iter().find(|(_, route)| has_prefix(path, &route.plan.path)).map(|(index, _)| *index)
}

/// Whether `path` lies under `prefix`: `/api` covers `/api` and `/api/x`, never `/apix`.
fn has_prefix(path: &str, prefix: &str) -> bool {
    let bare = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(bare).is_some_and(|rest| {
        if rest.is_empty() { prefix.len() == bare.len() || bare.is_empty() } else { rest.starts_with('/') }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: HostPattern, path: &str) -> Arc<Route> {
        let plan = RoutePlan { name: format!("{host:?}{path}"), host, path: path.to_owned(), ..RoutePlan::example() };
        Arc::new(Route { plan, cells: Arc::new([]), upstream: 0 })
    }

    #[test]
    fn the_most_specific_host_then_the_longest_path_wins() {
        let exact = |h: &str| HostPattern::Exact(h.to_owned());
        let suffix = |h: &str| HostPattern::Suffix(h.to_owned());
        let routes = Routes::new(vec![
            route(HostPattern::Any, "/"),
            route(HostPattern::Any, "/api/"),
            route(suffix(".example.com"), "/"),
            route(suffix(".shop.example.com"), "/"),
            route(exact("a.shop.example.com"), "/only"),
        ]);
        for (host, path, wanted) in [
            ("other", "/x", 0),
            ("other", "/api/x", 1),
            ("other", "/apix", 0),
            ("x.example.com", "/api/x", 2),
            ("x.shop.example.com", "/", 3),
            ("a.shop.example.com", "/only/this", 4),
            ("a.shop.example.com", "/else", 3),
            ("example.com", "/", 0),
        ] {
            assert_eq!(routes.find(host, path), Some(wanted), "{host} {path}");
        }
        assert_eq!(Routes::new(vec![route(exact("a"), "/")]).find("b", "/"), None);
    }

    #[test]
    fn prefixes_end_at_segments() {
        for (path, prefix, covered) in [
            ("/api", "/api", true),
            ("/api/", "/api", true),
            ("/api/x", "/api", true),
            ("/apix", "/api", false),
            ("/api", "/api/", false),
            ("/api/", "/api/", true),
            ("/", "/", true),
            ("/x", "/", true),
        ] {
            assert_eq!(has_prefix(path, prefix), covered, "{path} under {prefix}");
        }
    }
}
