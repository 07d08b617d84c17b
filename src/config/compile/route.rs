//! Routes: references resolved, host lists expanded, names made. Which requests a route takes is judged
//! in [`matching`], what becomes of them in [`action`].

mod action;
mod cookies;
mod hosts;
mod matching;
mod reach;
mod split;

use std::collections::HashMap;
use std::ops::Range;

use super::listener::listener_name;
use super::names::Seen;
use super::{Compiler, upstream};
use crate::config::plan::template::Variable;
use crate::config::plan::{
    Access, Action, Conditions, HeaderEdits, HostPattern, PathPattern, Rewrite, RouteFilters, RoutePlan, RouteTimeouts,
};
use crate::config::spec::{At, RouteSpec, Spec};
use crate::config::suggest;
use crate::path::Escapes;
use hosts::show_host;

/// Where requests to the same host and path go, by listener, with their conditions.
type Taken = HashMap<(usize, String, String), Vec<(Conditions, Range<usize>)>>;

/// What references may lead to, in the order of the Plan.
struct Targets {
    listeners: Vec<String>,
    upstreams: Vec<String>,
}

impl Compiler<'_> {
    pub(super) fn routes(&mut self, spec: &Spec) -> Vec<RoutePlan> {
        let targets = Targets {
            listeners: spec.listener.iter().map(|l| listener_name(l.get_ref()).unwrap_or_default()).collect(),
            upstreams: upstream::in_order(spec).into_iter().map(|(name, _)| name.get_ref().clone()).collect(),
        };
        if spec.route.is_empty() {
            return self.implied(&targets);
        }
        let given = self.given_names(spec);
        let mut names = Seen::default();
        let mut taken = Taken::new();
        let mut plans: Vec<(RoutePlan, Range<usize>)> = Vec::new();
        for entry in &spec.route {
            for mut plan in self.route(entry, &targets, &mut taken) {
                let base = plan.name.clone();
                let generated = entry.get_ref().name.is_none() || !given.contains_key(&base);
                let mut number = 2;
                while names.contains(&plan.name) || (generated && given.contains_key(&plan.name)) {
                    plan.name = format!("{base}#{number}");
                    number += 1;
                }
                names.insert(&plan.name, entry.span());
                plans.push((plan, entry.span()));
            }
        }
        self.unreachable(&plans);
        self.cookies(spec, &targets, &plans);
        let plans: Vec<RoutePlan> = plans.into_iter().map(|(plan, _)| plan).collect();
        self.unused(spec, &targets, &plans);
        plans
    }

    /// No route is written: with one upstream everything goes there.
    fn implied(&mut self, targets: &Targets) -> Vec<RoutePlan> {
        match targets.upstreams.len() {
            1 => vec![RoutePlan {
                name: "*/".to_owned(),
                listeners: (0..targets.listeners.len()).collect(),
                host: HostPattern::Any,
                path: PathPattern::Prefix("/".to_owned()),
                conditions: Conditions::default(),
                access: Access::default(),
                basic_auth: None,
                allow_escapes: Escapes::default(),
                action: Action::Upstream(0),
                rewrite: Rewrite::Keep,
                upstream_host: None,
                request_headers: HeaderEdits::default(),
                response_headers: HeaderEdits::default(),
                timeouts: RouteTimeouts::default(),
                max_body: None,
                filters: RouteFilters::default(),
            }],
            0 => Vec::new(),
            many => {
                let message = format!("no route, and {many} upstreams to choose from");
                let hint = format!("add `[[route]]` with `path = \"/\"` and `upstream = \"{}\"`", targets.upstreams[0]);
                self.lack(None, message, &hint);
                Vec::new()
            }
        }
    }

    /// The names that routes were given, each once.
    fn given_names(&mut self, spec: &Spec) -> HashMap<String, Range<usize>> {
        let mut given = HashMap::new();
        for name in spec.route.iter().filter_map(|route| route.get_ref().name.as_ref()) {
            self.name(name, "route");
            if let Some(first) = given.get(name.get_ref()) {
                let first: Range<usize> = Range::clone(first);
                let message = format!("two routes are called `{}`", name.get_ref());
                self.twice(name.span(), first, message, "give one of them another name");
            } else {
                given.insert(name.get_ref().clone(), name.span());
            }
        }
        given
    }

    /// One plan for each host.
    fn route(&mut self, entry: &At<RouteSpec>, targets: &Targets, taken: &mut Taken) -> Vec<RoutePlan> {
        let spec = entry.get_ref();
        let listeners = self.route_listeners(spec, targets);
        let path = self.route_path(&spec.path);
        let action = self.action(entry, targets, path.as_ref());
        let conditions = self.conditions(spec);
        let rewrite = self.rewrite(spec, path.as_ref());
        let plan = RoutePlan {
            name: String::new(),
            listeners,
            host: HostPattern::Any,
            path: path.clone().unwrap_or(PathPattern::Prefix("/".to_owned())),
            conditions,
            access: self.access(spec.allow.as_ref(), spec.deny.as_ref()),
            basic_auth: spec.basic_auth.as_ref().and_then(|auth| self.basic_auth(auth)),
            allow_escapes: self.allow_escapes(&spec.allow_escapes),
            action: action.clone().unwrap_or(Action::Upstream(0)),
            rewrite,
            upstream_host: self.upstream_host(spec.upstream_host.as_ref()),
            request_headers: self.header_edits(&spec.request_headers, Variable::REQUEST),
            response_headers: self.header_edits(&spec.response_headers, Variable::RESPONSE),
            timeouts: self.route_timeouts(&spec.timeouts),
            max_body: spec.max_body.map(|size| size.0),
            filters: self.filters(spec, &targets.upstreams),
        };
        if let Some(action) = &action {
            self.only_for_upstreams(spec, action);
        }
        let hosts = self.hosts(entry);
        let many = hosts.len() > 1;
        let mut plans = Vec::new();
        for (place, host) in hosts {
            let shown = show_host(&host);
            if path.is_some() {
                self.take(&plan, &shown, &place, taken);
            }
            let name = match &spec.name {
                Some(name) if many => format!("{}@{shown}", name.get_ref()),
                Some(name) => name.get_ref().clone(),
                None => format!("{shown}{}", plan.path),
            };
            if action.is_some() && path.is_some() {
                plans.push(RoutePlan { name, host, ..plan.clone() });
            }
        }
        plans
    }

    /// Notes that requests to a host and path go to this route; two of them cannot.
    fn take(&mut self, plan: &RoutePlan, host: &str, place: &Range<usize>, taken: &mut Taken) {
        for listener in &plan.listeners {
            let others = taken.entry((*listener, host.to_owned(), plan.path.to_string())).or_default();
            if let Some((_, first)) = others.iter().find(|(conditions, _)| *conditions == plan.conditions) {
                let message = format!("two routes are for {host}{} on the same listener", plan.path);
                let hint = "remove one, or change its host, path or listener";
                let first = first.clone();
                return self.twice(place.clone(), first, message, hint);
            }
            others.push((plan.conditions.clone(), place.clone()));
        }
    }

    fn route_listeners(&mut self, spec: &RouteSpec, targets: &Targets) -> Vec<usize> {
        let Some(named) = &spec.listener else { return (0..targets.listeners.len()).collect() };
        if named.get_ref().0.is_empty() {
            self.error(named.span(), "this route has no listener", "name one, or leave the key out for all");
        }
        let mut positions = Vec::new();
        for name in &named.get_ref().0 {
            match targets.listeners.iter().position(|known| known == name.get_ref()) {
                Some(position) if positions.contains(&position) => {
                    self.warn(name.span(), format!("listener `{name}` is there twice"), "remove one");
                }
                Some(position) => positions.push(position),
                None => self.unknown(name, "listener", &targets.listeners),
            }
        }
        positions
    }

    fn route_upstream(&mut self, entry: &At<RouteSpec>, targets: &Targets) -> Option<usize> {
        let Some(name) = &entry.get_ref().upstream else {
            let known = targets.upstreams.first().map_or("app", String::as_str);
            let hint = format!("add `upstream = \"{known}\"`, `split`, `redirect` or `respond`");
            self.lack(Some(entry.span()), "this route leads nowhere", &hint);
            return None;
        };
        let position = targets.upstreams.iter().position(|known| known == name.get_ref());
        if position.is_none() {
            self.unknown(name, "upstream", &targets.upstreams);
        }
        position
    }

    pub(super) fn unknown(&mut self, name: &At<String>, what: &str, known: &[String]) {
        if self.gaps.names {
            return;
        }
        let known: Vec<&str> = known.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        let hint = suggest::hint(name.get_ref(), &format!("{what}s"), &known).unwrap_or_default();
        self.error(name.span(), format!("unknown {what} `{name}`"), &hint);
    }

    fn allow_escapes(&mut self, names: &[At<String>]) -> Escapes {
        let mut allowed = Escapes::default();
        for name in names {
            match Escapes::NAMES.iter().find(|(_, known)| known == name.get_ref()) {
                Some((escapes, _)) => allowed = allowed.or(*escapes),
                None => {
                    let known = Escapes::NAMES.map(|(_, name)| name);
                    let hint = suggest::hint(name.get_ref(), "names", &known).unwrap_or_default();
                    self.error(name.span(), format!("unknown kind of escapes `{name}`"), &hint);
                }
            }
        }
        allowed
    }
}
