//! Cookies that overwrite each other: a browser keeps one of a name, a domain and a path (RFC 6265 §5.3),
//! whatever the port, and has no notion of upstreams.

use std::ops::Range;

use super::super::{Compiler, upstream};
use super::Targets;
use crate::balance::SplitBy;
use crate::balance::hot::{HotKeys, Spread};
use crate::balance::sticky_cookie::Carrier;
use crate::config::plan::{Action, HostPattern, LITMUS_COOKIE, RoutePlan};
use crate::config::report::Severity;
use crate::config::spec::{LitmusBySpec, Spec};

/// Who sets a cookie; with the position of the upstream. Of two the one further down here is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// Its name is nobody's choice.
    Litmus(usize),
    Sessions(usize),
    Split,
    HotKeys(usize),
}

impl Owner {
    /// Whether two are content with one cookie: in it is a number, which each takes as it finds it.
    fn shares(self, other: Self) -> bool {
        matches!((self, other), (Self::HotKeys(_), Self::HotKeys(_)) | (Self::Litmus(_), Self::Litmus(_)))
    }
}

/// A cookie that answers of a route may set.
struct Kept<'a> {
    owner: Owner,
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
                kept.push(Kept { owner: Owner::Split, name, path: "/", hosts, listeners, place });
            }
            for position in route.action.upstreams() {
                let Some((_, upstream)) = upstreams.get(position) else { continue };
                let policy = upstream.policy.get_ref();
                let hosts = || vec![host.clone()];
                if let HotKeys::Spread(Spread { cookie, .. }) = policy.hot_keys() {
                    let (owner, place) = (Owner::HotKeys(position), upstream.policy.span());
                    kept.push(Kept { owner, name: cookie, path: "/", hosts: hosts(), listeners, place });
                }
                if upstream.litmus.get_ref().0.as_ref().is_some_and(|litmus| litmus.by == LitmusBySpec::Cookie) {
                    let (owner, place) = (Owner::Litmus(position), upstream.litmus.span());
                    kept.push(Kept { owner, name: LITMUS_COOKIE, path: "/", hosts: hosts(), listeners, place });
                }
                let Some(options) = policy.sticky() else { continue };
                if options.carrier() != Carrier::Own {
                    // The application's cookie is its own business.
                    continue;
                }
                let hosts = match &options.domain {
                    Some(domain) => {
                        let domain = domain.to_lowercase();
                        vec![HostPattern::Suffix(format!(".{domain}")), HostPattern::Exact(domain)]
                    }
                    None => hosts(),
                };
                let (name, path, place) = (&*options.name, &*options.path, upstream.policy.span());
                kept.push(Kept { owner: Owner::Sessions(position), name, path, hosts, listeners, place });
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
        let order = |kept: &Kept<'_>| match kept.owner {
            // Of two of a kind the one further down in the file is to change.
            Owner::Sessions(_) => (Owner::Sessions(0), kept.place.start),
            owner => (owner, 0),
        };
        let (stays, changes) = if order(first) > order(second) { (second, first) } else { (first, second) };
        let of = |kept: &Kept<'_>| match kept.owner {
            Owner::Sessions(position) => format!("upstream `{}`", targets.upstreams[position]),
            Owner::Split => "the split of this route".to_owned(),
            Owner::HotKeys(position) => format!("`hot_keys` of upstream `{}`", targets.upstreams[position]),
            Owner::Litmus(position) => format!("`litmus` of upstream `{}`", targets.upstreams[position]),
        };
        let name = changes.name;
        let own = match changes.owner {
            Owner::Sessions(position) | Owner::Litmus(position) => {
                format!("policy = {{ sticky_cookie = {{ name = \"{name}_{}\" }} }}", targets.upstreams[position])
            }
            Owner::Split => format!("split_by = {{ cookie = {{ name = \"{name}_split\" }} }}"),
            Owner::HotKeys(_) => format!("hot_keys = {{ spread = {{ cookie = \"{name}_hot\" }} }}"),
        };
        let hint = format!("give it a cookie of its own: {own}");
        let message = format!("{} and {} set one cookie, `{name}`, for the same host", of(changes), of(stays));
        let problem = self.note(Severity::Warning, Some(changes.place.clone()), message, &hint);
        problem.related = Some((stays.place.clone(), "the other cookie".to_owned()));
    }
}

impl Kept<'_> {
    /// Whether a browser may hold one of them only.
    fn meets(&self, other: &Self) -> bool {
        self.owner != other.owner
            && !self.owner.shares(other.owner)
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
