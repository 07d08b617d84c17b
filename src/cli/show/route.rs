//! `[[route]]`, in the words that the configuration reads.

use std::collections::BTreeMap;

use serde::Serialize;

use super::access::BasicAuthView;
use super::choice::{self, Choice};
use super::filters;
use crate::config::Plan;
use crate::config::plan::{
    Access, Action, Branch, Conditions, HeaderEdits, HostPattern, PathPattern, Rewrite, RoutePlan, RouteTimeouts,
    Value, ValuePattern,
};
use crate::units::{show_duration, show_size};

/// A text, or a table with one key.
#[derive(Serialize)]
#[serde(untagged)]
enum Matching<'a> {
    Plain(&'a str),
    Exact { exact: &'a str },
    Regex { regex: &'a str },
    Present { present: bool },
}

#[derive(Serialize)]
pub(super) struct RouteView<'a> {
    /// None where it was made from host and path, which a name that is given may not look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    listener: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    method: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<String>,
    strip_prefix: bool,
    allow_escapes: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_body: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    split: Vec<BranchView<'a>>,
    path: Matching<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    header: BTreeMap<&'a str, Matching<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query: BTreeMap<&'a str, Matching<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split_by: Option<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect: Option<RedirectView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    respond: Option<RespondView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rewrite: Option<RewriteView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_headers: Option<HeadersView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_headers: Option<HeadersView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compress: Option<filters::Compress<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mirror: Option<filters::Mirror<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    error_pages: Vec<filters::ErrorPage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    basic_auth: Option<BasicAuthView<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    timeouts: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct BranchView<'a> {
    upstream: &'a str,
    weight: u32,
}

#[derive(Serialize)]
struct RedirectView<'a> {
    to: String,
    status: &'a u16,
}

#[derive(Serialize)]
struct RespondView<'a> {
    status: &'a u16,
    body: &'a str,
    content_type: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum RewriteView<'a> {
    Prefix { prefix: &'a str },
    Regex { regex: &'a str, to: String },
}

#[derive(Serialize)]
struct HeadersView<'a> {
    remove: Vec<&'a str>,
    set: BTreeMap<&'a str, String>,
    add: BTreeMap<&'a str, String>,
}

impl<'a> RouteView<'a> {
    pub(super) fn of(route: &'a RoutePlan, plan: &'a Plan) -> Self {
        let RoutePlan {
            name,
            listeners,
            host,
            path,
            conditions: Conditions { methods, headers, query, sources },
            access: Access { allow, deny },
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
        } = route;
        let (mut upstream, mut split, mut split_by, mut redirect, mut respond) = (None, Vec::new(), None, None, None);
        match action {
            Action::Upstream(position) => upstream = plan.upstreams.get(*position).map(|u| u.name.as_str()),
            Action::Split { branches, by } => {
                let branch = |branch: &Branch| {
                    let upstream = plan.upstreams.get(branch.upstream)?.name.as_str();
                    Some(BranchView { upstream, weight: branch.weight })
                };
                split = branches.iter().filter_map(branch).collect();
                split_by = Some(choice::split_by(by));
            }
            Action::Redirect { status, to } => redirect = Some(RedirectView { to: to.to_string(), status }),
            Action::Respond { status, body, content_type } => {
                respond = Some(RespondView { status, body, content_type: content_type.to_str().unwrap_or_default() });
            }
        }
        Self {
            name: Some(name.as_str()).filter(|name| !name.contains(['/', '*', '#', '~'])),
            listener: listeners.iter().filter_map(|i| plan.listeners.get(*i)).map(|l| l.name.as_str()).collect(),
            host: match host {
                HostPattern::Any => None,
                HostPattern::Exact(host) => Some(host.clone()),
                HostPattern::Suffix(suffix) => Some(format!("*{suffix}")),
            },
            method: methods.iter().map(http::Method::as_str).collect(),
            source: sources.iter().map(ToString::to_string).collect(),
            allow: allow.iter().map(ToString::to_string).collect(),
            deny: deny.iter().map(ToString::to_string).collect(),
            strip_prefix: *rewrite == Rewrite::Strip,
            allow_escapes: allow_escapes.names().collect(),
            upstream,
            split,
            split_by,
            upstream_host: upstream_host.as_ref().and_then(|host| host.to_str().ok()),
            max_body: max_body.map(show_size),
            path: match path {
                PathPattern::Prefix(path) => Matching::Plain(path),
                PathPattern::Exact(exact) => Matching::Exact { exact },
                PathPattern::Regex(pattern) => Matching::Regex { regex: pattern.as_str() },
            },
            header: headers.iter().map(|(name, value)| (name.as_str(), matching(value))).collect(),
            query: query.iter().map(|(name, value)| (name.as_str(), matching(value))).collect(),
            redirect,
            respond,
            rewrite: match rewrite {
                Rewrite::Keep | Rewrite::Strip => None,
                Rewrite::Prefix(prefix) => Some(RewriteView::Prefix { prefix }),
                Rewrite::Regex { pattern, to } => {
                    Some(RewriteView::Regex { regex: pattern.as_str(), to: to.to_string() })
                }
            },
            request_headers: headers_view(request_headers),
            response_headers: headers_view(response_headers),
            compress: filters.compress.as_ref().map(filters::Compress::of),
            mirror: filters.mirror.as_ref().map(|mirror| filters::Mirror::of(mirror, plan)),
            error_pages: filters.error_pages.iter().map(filters::ErrorPage::of).collect(),
            basic_auth: basic_auth.as_ref().map(BasicAuthView::of),
            timeouts: timeouts_view(timeouts),
        }
    }
}

fn matching(value: &ValuePattern) -> Matching<'_> {
    match value {
        ValuePattern::Exact(text) => Matching::Plain(text),
        ValuePattern::Regex(pattern) => Matching::Regex { regex: pattern.as_str() },
        ValuePattern::Present => Matching::Present { present: true },
        ValuePattern::Absent => Matching::Present { present: false },
    }
}

fn headers_view(edits: &HeaderEdits) -> Option<HeadersView<'_>> {
    let HeaderEdits { remove, set, add } = edits;
    fn values(list: &[(http::HeaderName, Value)]) -> BTreeMap<&str, String> {
        list.iter().map(|(name, value)| (name.as_str(), show_value(value))).collect()
    }
    let remove = remove.iter().map(http::HeaderName::as_str).collect();
    (!edits.is_empty()).then(|| HeadersView { remove, set: values(set), add: values(add) })
}

/// A fixed value may hold braces, which are doubled where they are read.
fn show_value(value: &Value) -> String {
    match value {
        Value::Fixed(fixed) => fixed.to_str().unwrap_or_default().replace('{', "{{").replace('}', "}}"),
        Value::Made(template) => template.to_string(),
    }
}

fn timeouts_view(timeouts: &RouteTimeouts) -> BTreeMap<&'static str, String> {
    let RouteTimeouts { connect, first_byte, between_bytes, request, tunnel_idle } = *timeouts;
    let request = request.map(|limit| limit.map_or_else(|| "off".to_owned(), show_duration));
    let times = [
        ("connect", connect.map(show_duration)),
        ("first_byte", first_byte.map(show_duration)),
        ("between_bytes", between_bytes.map(show_duration)),
        ("request", request),
        ("tunnel_idle", tunnel_idle.map(show_duration)),
    ];
    times.into_iter().filter_map(|(key, time)| Some((key, time?))).collect()
}
