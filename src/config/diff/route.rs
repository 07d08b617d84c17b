//! What changes in a route.

use super::{Diff, Event, Subject, count};
use crate::config::plan::{Action, Branch, HostPattern, MirrorPlan, Plan, RouteFilters, RoutePlan};

impl Diff {
    pub(super) fn route(&mut self, event: &Event<'_, RoutePlan>, old_plan: &Plan, new_plan: &Plan) {
        let Some((old, new)) = self.both(event, |r| Subject::Route(r.name.clone())) else { return };
        let RoutePlan {
            name,
            listeners,
            host,
            path,
            conditions,
            access,
            basic_auth,
            allow_escapes,
            action,
            rewrite,
            upstream_host,
            request_headers,
            response_headers,
            timeouts,
            max_body,
            filters,
        } = old;
        // Positions say nothing across two Plans; and a route for all listeners stays one when they change.
        let all = |plan: &Plan, listeners: &[usize]| listeners.len() == plan.listeners.len();
        let names = |plan: &Plan, listeners: &[usize]| {
            let mut names: Vec<_> = listeners.iter().map(|at| plan.listeners[*at].name.clone()).collect();
            names.sort();
            names
        };
        let same_listeners = all(old_plan, listeners) && all(new_plan, &new.listeners)
            || names(old_plan, listeners) == names(new_plan, &new.listeners);
        let mut fields = self.of(Subject::Route(name.clone()));
        fields.key("listener", same_listeners);
        fields.value("host", &show_host(host), &show_host(&new.host));
        fields.value("path", path, &new.path);
        let RouteFilters { compress, mirror, error_pages } = filters;
        // Positions say nothing across two Plans.
        let shown = |plan: &Plan, mirror: &Option<MirrorPlan>| {
            mirror.map(|m| (plan.upstreams[m.upstream].name.clone(), m.percent, m.max_body, m.max_in_flight))
        };
        fields.key("mirror", shown(old_plan, mirror) == shown(new_plan, &new.filters.mirror));
        fields.key("error_pages", *error_pages == new.filters.error_pages);
        fields.key("compress", *compress == new.filters.compress);
        fields.key("conditions", *conditions == new.conditions);
        fields.access(access, &new.access);
        fields.key("basic_auth", *basic_auth == new.basic_auth);
        fields.value("allow_escapes", allow_escapes, &new.allow_escapes);
        let (before, now) = (destination(action, old_plan), destination(&new.action, new_plan));
        if let (Action::Upstream(old), Action::Upstream(new)) = (action, &new.action) {
            fields.value("upstream", &old_plan.upstreams[*old].name, &new_plan.upstreams[*new].name);
        } else if let (
            Action::Split { branches: old_branches, by: old },
            Action::Split { branches: new_branches, by: new },
        ) = (action, &new.action)
        {
            fields.value("split", &shares(old_branches, old_plan), &shares(new_branches, new_plan));
            if old.name() == new.name() {
                fields.key("split_by options", old == new);
            } else {
                fields.value("split_by", &old.name(), &new.name());
            }
        } else if before == now {
            // The same words may stand for another body.
            fields.key("answer", *action == new.action);
        } else {
            fields.value("leads to", &before, &now);
        }
        fields.key("rewrite", *rewrite == new.rewrite);
        fields.key("upstream_host", *upstream_host == new.upstream_host);
        fields.key("request_headers", *request_headers == new.request_headers);
        fields.key("response_headers", *response_headers == new.response_headers);
        fields.key("timeouts", *timeouts == new.timeouts);
        let limit = |bytes: Option<u64>| bytes.map_or_else(|| "the listener's".to_owned(), count);
        fields.value("max_body", &limit(*max_body), &limit(new.max_body));
    }
}

/// Where a route leads, in a word or two.
fn destination(action: &Action, plan: &Plan) -> String {
    match action {
        Action::Upstream(position) => format!("upstream {}", plan.upstreams[*position].name),
        Action::Split { branches, .. } => format!("split {}", shares(branches, plan)),
        Action::Redirect { status, to } => format!("redirect {status} {to}"),
        Action::Respond { status, .. } => format!("respond {status}"),
    }
}

/// The upstreams of a split, each with its weight.
fn shares(branches: &[Branch], plan: &Plan) -> String {
    let share = |branch: &Branch| format!("{} {}", plan.upstreams[branch.upstream].name, branch.weight);
    branches.iter().map(share).collect::<Vec<_>>().join(", ")
}

fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Any => "any".to_owned(),
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}
