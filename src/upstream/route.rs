//! Which route a request takes: host first, then the longest path prefix on a segment boundary.
//!
//! Compiled once per reload, read by every request: an exact host is one hash look-up, suffixes are
//! tried from the longest, paths are a short list sorted by length. No allocation.

use std::sync::Arc;

use hashbrown::HashMap;

use super::Upstream;
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

type Paths = Vec<Arc<Route>>;

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
        for route in &routes {
            match &route.plan.host {
                HostPattern::Any => compiled.any.push(Arc::clone(route)),
                HostPattern::Exact(host) => {
                    compiled.exact.entry(host.as_str().into()).or_default().push(Arc::clone(route));
                }
                HostPattern::Suffix(suffix) => match compiled.suffixes.iter_mut().find(|(s, _)| **s == **suffix) {
                    Some((_, paths)) => paths.push(Arc::clone(route)),
                    None => compiled.suffixes.push((suffix.as_str().into(), vec![Arc::clone(route)])),
                },
            }
        }
        let longest_first = |paths: &mut Paths| paths.sort_by_key(|r| std::cmp::Reverse(r.plan.path.len()));
        compiled.exact.values_mut().for_each(longest_first);
        compiled.suffixes.iter_mut().for_each(|(_, paths)| longest_first(paths));
        longest_first(&mut compiled.any);
        compiled.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        compiled.all = routes;
        compiled
    }

    /// The route for a host (lower case, no port) and a path. A more specific host wins over a longer
    /// path; where none of its paths match, the next less specific host is tried.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
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

fn by_path<'a>(paths: &'a Paths, path: &str) -> Option<&'a Arc<Route>> {
    paths.iter().find(|route| has_prefix(path, &route.plan.path))
}

/// Whether `path` lies under `prefix`: `/api` covers `/api` and `/api/x`, never `/apix`.
fn has_prefix(path: &str, prefix: &str) -> bool {
    let bare = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(bare).is_some_and(|rest| {
        if rest.is_empty() { prefix.len() == bare.len() || bare.is_empty() } else { rest.starts_with('/') }
    })
}

/// Resolves a route's upstream in a list of upstreams.
#[must_use]
pub fn upstream_of<'a>(route: &Route, upstreams: &'a [Arc<Upstream>]) -> &'a Arc<Upstream> {
    &upstreams[route.upstream]
}
