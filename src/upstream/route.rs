//! Which route a request takes: host first, then the path, then whatever else a route asks for.
//!
//! Compiled once per reload, read by every request: an exact host is one hash look-up, suffixes are
//! tried from the longest, the routes of a host are a short list in the order in which they are asked.
//! No allocation.

mod conditions;

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use http::{HeaderMap, Method};

use crate::balance::Split;
use crate::config::plan::{Action, HostPattern, PathPattern, RoutePlan, UpstreamPlan};
use crate::metrics::cells::RouteCell;

/// A rule from what a request asks for to what becomes of it.
#[derive(Debug)]
pub struct Route {
    pub plan: RoutePlan,
    /// One cell per core; shared with the same route of the Snapshot before.
    pub cells: Arc<[RouteCell]>,
    /// Upstreams, by position, for which this route has timeouts of its own, with those in their plan.
    pub overrides: Box<[(usize, UpstreamPlan)]>,
    /// What its action is decided by, where it splits its users.
    pub split: Option<Split>,
    /// Whether it asks for more than host and path.
    is_conditional: bool,
}

impl Route {
    /// Makes a route of its plan. `upstreams` are all of them, by position.
    #[must_use]
    pub fn new(plan: RoutePlan, cells: Arc<[RouteCell]>, upstreams: &[UpstreamPlan]) -> Self {
        let of = |position: usize| Some((position, plan.timeouts.over(upstreams.get(position)?)?));
        let overrides = plan.action.upstreams().filter_map(of).collect();
        let is_conditional = plan.conditions.count() > 0;
        let split = match &plan.action {
            Action::Split { branches, .. } => {
                let name = |position: usize| upstreams.get(position).map_or("", |upstream| &*upstream.name);
                Some(Split::new(branches.iter().map(|branch| (name(branch.upstream), branch.weight))))
            }
            Action::Upstream(_) | Action::Redirect { .. } | Action::Respond { .. } => None,
        };
        Self { plan, cells, overrides, split, is_conditional }
    }

    fn takes(&self, asked: &Asked<'_>) -> bool {
        let path = match &self.plan.path {
            PathPattern::Prefix(prefix) => has_prefix(asked.path, prefix),
            PathPattern::Exact(path) => asked.path == path,
            PathPattern::Regex(pattern) => pattern.regex().is_match(asked.path),
        };
        path && (!self.is_conditional || conditions::hold(&self.plan.conditions, asked))
    }

    /// Where a route stands among those of its host: exact paths, then regular expressions in the order
    /// of the file, then prefixes from the longest. Of those with the same path the one with more
    /// conditions comes first, then the order of the file decides.
    fn rank(&self) -> (u8, Reverse<usize>, Reverse<usize>) {
        let conditions = Reverse(self.plan.conditions.count());
        match &self.plan.path {
            PathPattern::Exact(_) => (0, Reverse(0), conditions),
            PathPattern::Regex(_) => (1, Reverse(0), Reverse(0)),
            PathPattern::Prefix(path) => (2, Reverse(path.len()), conditions),
        }
    }
}

/// What of a request routes look at.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// In lower case, without port.
    pub host: &'a str,
    /// In the form that [`crate::path`] makes for comparing.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    pub client: IpAddr,
}

/// Routes by their position in [`Routes::all`], in the order in which they are asked.
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
        let in_order = |paths: &mut Paths| paths.sort_by_key(|(index, route)| (route.rank(), *index));
        compiled.exact.values_mut().for_each(in_order);
        compiled.suffixes.iter_mut().for_each(|(_, paths)| in_order(paths));
        in_order(&mut compiled.any);
        compiled.suffixes.sort_by_key(|(suffix, _)| Reverse(suffix.len()));
        compiled.all = routes;
        compiled
    }

    /// The route for a request, by its position in [`Routes::all`]. A more specific host wins over any
    /// path; where none of its routes takes the request, the next less specific host is tried.
    #[must_use]
    pub fn find(&self, asked: &Asked<'_>) -> Option<usize> {
        let host = asked.host;
        if !self.exact.is_empty()
            && let Some(route) = self.exact.get(host).and_then(|paths| first(paths, asked))
        {
            return Some(route);
        }
        for (suffix, paths) in &self.suffixes {
            if host.len() > suffix.len()
                && host.ends_with(&**suffix)
                && let Some(route) = first(paths, asked)
            {
                return Some(route);
            }
        }
        first(&self.any, asked)
    }

    /// Whether any route looks at the host.
    #[must_use]
    pub fn wants_host(&self) -> bool {
        !self.exact.is_empty() || !self.suffixes.is_empty()
    }
}

fn first(paths: &Paths, asked: &Asked<'_>) -> Option<usize> {
    paths.iter().find(|(_, route)| route.takes(asked)).map(|(index, _)| *index)
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
    use crate::config::plan::{Conditions, Pattern};

    fn route(host: HostPattern, path: PathPattern, conditions: Conditions) -> Arc<Route> {
        let plan = RoutePlan { host, path, conditions, ..RoutePlan::example() };
        Arc::new(Route::new(plan, Arc::new([]), &[]))
    }

    fn prefix(host: HostPattern, path: &str) -> Arc<Route> {
        route(host, PathPattern::Prefix(path.to_owned()), Conditions::default())
    }

    fn find(routes: &Routes, host: &str, path: &str, method: &Method) -> Option<usize> {
        let client = IpAddr::from([192, 0, 2, 1]);
        routes.find(&Asked { host, path, query: None, method, headers: &HeaderMap::new(), client })
    }

    #[test]
    fn the_most_specific_host_then_the_longest_path_wins() {
        let exact = |h: &str| HostPattern::Exact(h.to_owned());
        let suffix = |h: &str| HostPattern::Suffix(h.to_owned());
        let routes = Routes::new(vec![
            prefix(HostPattern::Any, "/"),
            prefix(HostPattern::Any, "/api/"),
            prefix(suffix(".example.com"), "/"),
            prefix(suffix(".shop.example.com"), "/"),
            prefix(exact("a.shop.example.com"), "/only"),
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
            assert_eq!(find(&routes, host, path, &Method::GET), Some(wanted), "{host} {path}");
        }
        assert_eq!(find(&Routes::new(vec![prefix(exact("a"), "/")]), "b", "/", &Method::GET), None);
    }

    #[test]
    fn exact_then_expressions_in_the_order_of_the_file_then_prefixes_and_more_conditions_first() {
        let regex = |text: &str| PathPattern::Regex(Pattern::new(text).unwrap());
        let exact = |text: &str| PathPattern::Exact(text.to_owned());
        let post = || Conditions { methods: vec![Method::POST], ..Conditions::default() };
        let any = || Conditions::default();
        let routes = Routes::new(vec![
            prefix(HostPattern::Any, "/"),
            route(HostPattern::Any, regex("\\.php$"), any()),
            route(HostPattern::Any, regex("^/a/"), any()),
            route(HostPattern::Any, exact("/a/x.php"), any()),
            prefix(HostPattern::Any, "/b"),
            route(HostPattern::Any, PathPattern::Prefix("/b".to_owned()), post()),
            route(HostPattern::Any, exact("/only"), post()),
        ]);
        for (path, method, wanted) in [
            ("/a/x.php", Method::GET, 3),
            ("/a/y.php", Method::GET, 1),
            ("/a/y", Method::GET, 2),
            ("/b/y", Method::GET, 4),
            ("/b/y", Method::POST, 5),
            ("/only", Method::GET, 0),
            ("/only", Method::POST, 6),
            ("/only/x", Method::POST, 0),
        ] {
            assert_eq!(find(&routes, "", path, &method), Some(wanted), "{method} {path}");
        }
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
