//! Cookies that overwrite each other: a browser keeps one of a name, a domain and a path (RFC 6265 §5.3),
//! whatever the port, and has no notion of upstreams.

use std::ops::Range;

use super::super::{Compiler, upstream};
use super::Targets;
use crate::balance::SplitBy;
use crate::balance::sticky_cookie::Carrier;
use crate::config::plan::{Action, HostPattern, RoutePlan};
use crate::config::report::Severity;
use crate::config::spec::Spec;

/// A cookie that answers of a route may set.
struct Kept<'a> {
    /// Position of the upstream that sets it; none is a split.
    owner: Option<usize>,
    name: &'a str,
    path: &'a str,
    /// Hosts that it is sent to.
    hosts: Vec<HostPattern>,
    listeners: &'a [usize],
    place: Range<usize>,
}

impl Compiler<'_> {
    /// Warns of each two that meet, once.
    pub(super) fn cookies(&mut self, spec: &Spec, targets: &Targets, plans: &[(RoutePlan, Range<usize>)]) {
        if self.gaps.any {
            return;
        }
        let upstreams = upstream::in_order(spec);
        let mut kept: Vec<Kept<'_>> = Vec::new();
        for (route, place) in plans {
            let (listeners, host) = (&*route.listeners, &route.host);
            if let Action::Split { by: SplitBy::Cookie(cookie), .. } = &route.action {
                let (name, hosts, place) = (&*cookie.name, vec![host.clone()], place.clone());
                kept.push(Kept { owner: None, name, path: "/", hosts, listeners, place });
            }
            for position in route.action.upstreams() {
                let Some((_, upstream)) = upstreams.get(position) else { continue };
                let Some(options) = upstream.policy.get_ref().sticky() else { continue };
                if options.carrier() != Carrier::Own {
                    // The application's cookie is its own business.
                    continue;
                }
                let hosts = match &options.domain {
                    Some(domain) => {
                        let domain = domain.to_lowercase();
                        vec![HostPattern::Suffix(format!(".{domain}")), HostPattern::Exact(domain)]
                    }
                    None => vec![host.clone()],
                };
                let (name, path, place) = (&*options.name, &*options.path, upstream.policy.span());
                kept.push(Kept { owner: Some(position), name, path, hosts, listeners, place });
            }
        }
        let mut told = Vec::new();
        for (at, second) in kept.iter().enumerate() {
            for first in kept[..at].iter().filter(|first| first.meets(second)) {
                let mut pair = [first.owner, second.owner];
                pair.sort_unstable();
                if !told.contains(&pair) {
                    told.push(pair);
                    self.overwritten(first, second, targets);
                }
            }
        }
    }

    fn overwritten(&mut self, first: &Kept<'_>, second: &Kept<'_>, targets: &Targets) {
        // The one further down in the file is to change; of a split and an upstream the split.
        let (stays, changes) = match (first.owner, second.owner) {
            (None, Some(_)) => (second, first),
            (Some(_), Some(_)) if first.place.start > second.place.start => (second, first),
            _ => (first, second),
        };
        let of = |kept: &Kept<'_>| match kept.owner {
            Some(position) => format!("upstream `{}`", targets.upstreams[position]),
            None => "the split of this route".to_owned(),
        };
        let name = changes.name;
        let hint = match changes.owner {
            Some(position) => {
                let own = format!("{name}_{}", targets.upstreams[position]);
                format!("give it a cookie of its own: policy = {{ sticky_cookie = {{ name = \"{own}\" }} }}")
            }
            None => format!("give it a cookie of its own: split_by = {{ cookie = {{ name = \"{name}_split\" }} }}"),
        };
        let message = format!("{} and {} set one cookie, `{name}`, for the same host", of(changes), of(stays));
        let problem = self.note(Severity::Warning, Some(changes.place.clone()), message, &hint);
        problem.related = Some((stays.place.clone(), "the other cookie".to_owned()));
    }
}

impl Kept<'_> {
    /// Whether a browser may hold one of them only.
    fn meets(&self, other: &Self) -> bool {
        self.owner != other.owner
            && self.name == other.name
            && self.path == other.path
            && self.hosts.iter().any(|host| other.hosts.iter().any(|theirs| self.may_be_one(host, other, theirs)))
    }

    fn may_be_one(&self, host: &HostPattern, other: &Self, theirs: &HostPattern) -> bool {
        match (host, theirs) {
            // Listeners that share no port may well be for different hosts.
            (HostPattern::Any, _) | (_, HostPattern::Any) => {
                self.listeners.iter().any(|listener| other.listeners.contains(listener))
            }
            (HostPattern::Exact(one), HostPattern::Exact(other)) => one == other,
            (HostPattern::Exact(host), HostPattern::Suffix(suffix))
            | (HostPattern::Suffix(suffix), HostPattern::Exact(host)) => host.ends_with(suffix.as_str()),
            (HostPattern::Suffix(one), HostPattern::Suffix(other)) => {
                one.ends_with(other.as_str()) || other.ends_with(one.as_str())
            }
        }
    }
}
