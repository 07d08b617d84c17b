//! What no request can ever come to: warnings, because a file may be half of a change.

use std::ops::Range;

use super::super::{Compiler, upstream};
use super::Targets;
use crate::config::plan::{PathPattern, RoutePlan};
use crate::config::report::Severity;
use crate::config::spec::Spec;

/// Expressions that match every path.
const EVERYTHING: [&str; 7] = ["", "^", "^/", ".*", "^.*", "^/.*", "^/.*$"];

impl Compiler<'_> {
    pub(super) fn unused(&mut self, spec: &Spec, targets: &Targets, plans: &[RoutePlan]) {
        if self.gaps.any || plans.len() < spec.route.len() {
            return;
        }
        for (position, (name, _)) in upstream::in_order(spec).into_iter().enumerate() {
            let copied = |route: &RoutePlan| route.filters.mirror.is_some_and(|mirror| mirror.upstream == position);
            let leads = |route: &RoutePlan| route.action.upstreams().any(|upstream| upstream == position);
            if plans.iter().all(|route| !leads(route) && !copied(route)) {
                let message = format!("upstream `{name}` is never used");
                self.warn(name.span(), message, "name it in a route, or remove it");
            }
        }
        for (position, listener) in spec.listener.iter().enumerate() {
            let redirects = listener.get_ref().redirect_to_https.get_ref().on;
            if !redirects && plans.iter().all(|route| !route.listeners.contains(&position)) {
                let message =
                    format!("no route is for listener `{}`: it answers 404 only", targets.listeners[position]);
                self.warn(listener.span(), message, "name it in a route, or remove it");
            }
        }
    }

    /// Routes that another one stands before: a regular expression is asked in the order of the file,
    /// and before every prefix.
    pub(super) fn unreachable(&mut self, plans: &[(RoutePlan, Range<usize>)]) {
        for (at, (route, place)) in plans.iter().enumerate() {
            let shadow = plans.iter().enumerate().find(|(before, (other, _))| {
                let PathPattern::Regex(pattern) = &other.path else { return false };
                let takes_all = EVERYTHING.contains(&pattern.as_str());
                let covers = match &route.path {
                    PathPattern::Regex(own) => *before < at && (takes_all || pattern == own),
                    PathPattern::Prefix(_) => takes_all,
                    PathPattern::Exact(_) => false,
                };
                covers
                    && other.host == route.host
                    && route.listeners.iter().all(|listener| other.listeners.contains(listener))
                    && other.conditions.follow_from(&route.conditions)
            });
            if let Some((_, (_, first))) = shadow {
                let message = format!("no request comes to the route `{}`: another one takes them all", route.name);
                let hint = match &route.path {
                    PathPattern::Regex(_) => "put it first, or give the other one conditions",
                    // Wherever it stands, it is asked after every regular expression.
                    PathPattern::Prefix(_) | PathPattern::Exact(_) => {
                        "write it as a regular expression before the other one, or give that one conditions"
                    }
                };
                let problem = self.note(Severity::Warning, Some(place.clone()), message, hint);
                problem.related = Some((first.clone(), "this one is asked first".to_owned()));
            }
        }
    }
}
