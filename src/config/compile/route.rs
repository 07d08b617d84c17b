//! Routes: references resolved, host lists expanded, names made.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::ops::Range;

use super::listener::listener_name;
use super::names::Seen;
use super::server::is_host_name;
use super::{Compiler, upstream};
use crate::config::plan::{HostPattern, RouteFilters, RoutePlan};
use crate::config::spec::{At, RouteSpec, Spec};
use crate::config::suggest;
use crate::path::{self, Escapes};

/// Where requests to the same host and path go, by listener.
type Taken = HashMap<(usize, String, String), Range<usize>>;

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
        let mut plans: Vec<RoutePlan> = Vec::new();
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
                plans.push(plan);
            }
        }
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
                path: "/".to_owned(),
                strip_prefix: false,
                allow_escapes: Escapes::default(),
                upstream: 0,
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
        let upstream = self.route_upstream(entry, targets);
        let path_is_right = self.route_path(&spec.path);
        let allow_escapes = self.allow_escapes(&spec.allow_escapes);
        let filters = self.filters(spec, &targets.upstreams);
        let hosts = self.hosts(entry);
        let many = hosts.len() > 1;
        let mut plans = Vec::new();
        for (place, host) in hosts {
            let shown = show_host(&host);
            let path = spec.path.get_ref();
            for listener in &listeners {
                let key = (*listener, shown.clone(), path.clone());
                if let Some(first) = taken.get(&key).cloned() {
                    let message = format!("two routes are for {shown}{path} on the same listener");
                    self.twice(place.clone(), first, message, "remove one, or change its host, path or listener");
                    break;
                }
                taken.insert(key, place.clone());
            }
            let name = match &spec.name {
                Some(name) if many => format!("{}@{shown}", name.get_ref()),
                Some(name) => name.get_ref().clone(),
                None => format!("{shown}{path}"),
            };
            if let (Some(upstream), true) = (upstream, path_is_right) {
                let (listeners, path, strip_prefix) = (listeners.clone(), path.clone(), spec.strip_prefix);
                plans.push(RoutePlan {
                    name,
                    listeners,
                    host,
                    path,
                    strip_prefix,
                    allow_escapes,
                    upstream,
                    filters: filters.clone(),
                });
            }
        }
        plans
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
            self.lack(Some(entry.span()), "this route has no `upstream`", &format!("add `upstream = \"{known}\"`"));
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

    fn route_path(&mut self, path: &At<String>) -> bool {
        let text = path.get_ref();
        let (message, hint) = if !text.starts_with('/') {
            let shown = text.escape_debug();
            (format!("the path `{shown}` does not start with `/`"), format!("write \"/{shown}\""))
        } else if let Some(bad) = text.chars().find(|c| matches!(c, '?' | '#' | '*')) {
            (format!("a path is a plain prefix, without `{bad}`"), "write the part that all of them share".to_owned())
        } else {
            match path::clean(text, true) {
                Ok(cleaned) if cleaned == path::Cleaned::default() => return true,
                Ok(path::Cleaned { escapes, path, compared }) if escapes == Escapes::default() => {
                    let form = compared.or(path).unwrap_or_default();
                    let message = format!("the path `{}` is not in the form that is compared", text.escape_debug());
                    (message, format!("write \"{form}\""))
                }
                Ok(_) => {
                    let message = format!("the path `{text}` has escapes that servers read differently");
                    (
                        message,
                        "write a path without escaped slashes, escapes of escapes and bytes that are not UTF-8"
                            .to_owned(),
                    )
                }
                Err(why) => (why.to_owned(), "write a path that a request can have".to_owned()),
            }
        };
        self.error(path.span(), message, &hint);
        false
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

    fn hosts(&mut self, entry: &At<RouteSpec>) -> Vec<(Range<usize>, HostPattern)> {
        let spec = entry.get_ref();
        let Some(named) = &spec.host else {
            let place = if spec.path.span() == (0..0) { entry.span() } else { spec.path.span() };
            return vec![(place, HostPattern::Any)];
        };
        if named.get_ref().0.is_empty() {
            self.error(named.span(), "this route has no host", "name one, or leave the key out for any");
        }
        let mut hosts = Vec::new();
        for text in &named.get_ref().0 {
            match parse_host(text.get_ref()) {
                Ok(host) => hosts.push((text.span(), host)),
                Err((message, hint)) => self.error(text.span(), message, hint),
            }
        }
        hosts
    }

    fn unused(&mut self, spec: &Spec, targets: &Targets, plans: &[RoutePlan]) {
        if self.gaps.any || plans.len() < spec.route.len() {
            return;
        }
        for (position, (name, _)) in upstream::in_order(spec).into_iter().enumerate() {
            let copied = |route: &RoutePlan| route.filters.mirror.is_some_and(|mirror| mirror.upstream == position);
            if plans.iter().all(|route| route.upstream != position && !copied(route)) {
                let message = format!("upstream `{name}` is never used");
                self.warn(name.span(), message, "name it in a route, or remove it");
            }
        }
        for (position, listener) in spec.listener.iter().enumerate() {
            if plans.iter().all(|route| !route.listeners.contains(&position)) {
                let message =
                    format!("no route is for listener `{}`: it answers 404 only", targets.listeners[position]);
                self.warn(listener.span(), message, "name it in a route, or remove it");
            }
        }
    }
}

fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Any => "*".to_owned(),
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

/// Reads `shop.example.com`, `*.example.com`, an IP address, or `*` for any.
fn parse_host(text: &str) -> Result<HostPattern, (String, &'static str)> {
    let lower = text.trim().to_lowercase();
    let host = lower.strip_suffix('.').unwrap_or(&lower);
    if host == "*" {
        return Ok(HostPattern::Any);
    }
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(address) = address.unwrap_or(host).parse::<Ipv6Addr>() {
        return Ok(HostPattern::Exact(format!("[{address}]")));
    }
    let suffix = host.strip_prefix('*').filter(|rest| rest.starts_with('.'));
    let plain = suffix.map_or(host, |suffix| &suffix[1..]);
    let shown = text.escape_debug();
    if !plain.is_ascii() {
        return Err((
            format!("the host `{shown}` is not ASCII"),
            "write its form for the wire, which starts with xn--",
        ));
    }
    if plain.contains('/') {
        return Err((
            format!("the host `{shown}` has a path or a scheme"),
            "write the host alone; a prefix goes to `path`",
        ));
    }
    if plain.contains('*') {
        return Err((format!("in the host `{shown}` a star is not the first label"), "write \"*.example.com\""));
    }
    if plain.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
        return Err((format!("the host `{shown}` has a port"), "write the host alone; ports belong to listeners"));
    }
    if !is_host_name(plain) {
        return Err((format!("`{shown}` is not a host name"), "write \"shop.example.com\" or \"*.example.com\""));
    }
    Ok(match suffix {
        Some(suffix) => HostPattern::Suffix(suffix.to_owned()),
        None => HostPattern::Exact(plain.to_owned()),
    })
}
