//! What becomes of a request: where it goes or how it is answered, and what is changed on the way.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, StatusCode, header};

use super::super::Compiler;
use super::Targets;
use crate::config::plan::template::{Template, Variable};
use crate::config::plan::{Action, HeaderEdits, PathPattern, Pattern, Rewrite, RouteTimeouts, Value};
use crate::config::spec::{At, Either, HeadersSpec, RedirectSpec, RespondSpec, RouteSpec, RouteTimeoutsSpec};

const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// Names that say how a message is framed, or that belong to one connection: they are not a user's to
/// write.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
];

impl Compiler<'_> {
    /// What becomes of a request; none where that is wrong.
    pub(super) fn action(
        &mut self,
        entry: &At<RouteSpec>,
        targets: &Targets,
        path: Option<&PathPattern>,
    ) -> Option<Action> {
        let spec = entry.get_ref();
        let said = [
            spec.upstream.as_ref().map(|u| (u.span(), "upstream")),
            spec.split.as_ref().map(|s| (s.span(), "split")),
            spec.redirect.as_ref().map(|r| (r.span(), "redirect")),
            spec.respond.as_ref().map(|r| (r.span(), "respond")),
        ];
        let said: Vec<_> = said.into_iter().flatten().collect();
        if let (Some(by), None) = (&spec.split_by, &spec.split) {
            self.warn(by.span(), "`split_by` does nothing without `split`", "remove it");
        }
        if let [(first, one), (second, other), ..] = &*said {
            let message = format!("this route has `{one}` and `{other}`");
            let problem =
                self.note(crate::config::report::Severity::Error, Some(second.clone()), message, "keep one of them");
            problem.related = Some((first.clone(), "the other one".to_owned()));
            return None;
        }
        if let Some(branches) = &spec.split {
            return self.split(branches, spec.split_by.as_ref(), targets);
        }
        if let Some(redirect) = &spec.redirect {
            return self.redirect(redirect, path);
        }
        if let Some(respond) = &spec.respond {
            return self.respond(respond);
        }
        self.route_upstream(entry, targets).map(Action::Upstream)
    }

    fn redirect(&mut self, redirect: &At<Either<String, RedirectSpec>>, path: Option<&PathPattern>) -> Option<Action> {
        let (place, to, status) = match redirect.get_ref() {
            Either::Alone(to) => (redirect.span(), to.as_str(), 302),
            Either::Table(table) => {
                let Some(to) = &table.to else {
                    self.lack(
                        Some(redirect.span()),
                        "this redirect leads nowhere",
                        "add `to = \"https://{host}{path}{query}\"`",
                    );
                    return None;
                };
                let status = *table.status.get_ref();
                if !REDIRECTS.contains(&status) {
                    let message = format!("{status} is not the status of a redirect");
                    self.error(table.status.span(), message, "write 301, 302, 303, 307 or 308");
                }
                (to.span(), to.get_ref().as_str(), status)
            }
        };
        let at = At::new(place, to.to_owned());
        let to = self.template(&at, Variable::REDIRECT, path.and_then(groups))?;
        let text = at.get_ref();
        let starts = ["/", "http://", "https://", "{scheme}://", "{path}"];
        let is_right = starts.iter().any(|start| text.starts_with(start))
            && !text.starts_with("//")
            && text.bytes().all(|b| b.is_ascii_graphic());
        if !is_right {
            let message = format!("`{}` is not a target of a redirect", text.escape_debug());
            self.error(at.span(), message, "write a path or a URL, such as \"https://{host}{path}{query}\"");
            return None;
        }
        // What a client wrote must not become a part of the host.
        let host = text.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
        if host.match_indices('{').any(|(brace, _)| host[brace + 1..].starts_with(|c: char| c.is_ascii_digit())) {
            self.error(at.span(), "a group of the regular expression is part of the host", "write a slash before it");
            return None;
        }
        Some(Action::Redirect { status, to })
    }

    fn respond(&mut self, respond: &At<Either<i64, RespondSpec>>) -> Option<Action> {
        let (place, status, body, kind) = match respond.get_ref() {
            Either::Alone(status) => (respond.span(), *status, "", None),
            Either::Table(table) => {
                let kind = HeaderValue::from_str(table.content_type.get_ref());
                if kind.is_err() {
                    let message = format!("`{}` is not a content type", table.content_type.get_ref().escape_debug());
                    self.error(table.content_type.span(), message, "write one such as \"text/plain; charset=utf-8\"");
                }
                (table.status.span(), i64::from(*table.status.get_ref()), &*table.body, kind.ok())
            }
        };
        let known = u16::try_from(status).ok().filter(|s| (200..=599).contains(s) && StatusCode::from_u16(*s).is_ok());
        let Some(status) = known else {
            self.error(place, format!("{status} is not the status of an answer"), "write a number from 200 to 599");
            return None;
        };
        if matches!(status, 204 | 205 | 304) && !body.is_empty() {
            self.error(
                place,
                format!("an answer of status {status} has no body"),
                "remove the body, or write another status",
            );
        }
        let content_type = kind.unwrap_or(HeaderValue::from_static("text/plain; charset=utf-8"));
        Some(Action::Respond { status, body: body.to_owned(), content_type })
    }

    pub(super) fn rewrite(&mut self, spec: &RouteSpec, path: Option<&PathPattern>) -> Rewrite {
        let is_prefix = matches!(path, Some(PathPattern::Prefix(_)) | None);
        if *spec.strip_prefix.get_ref() {
            if let Some(rewrite) = &spec.rewrite {
                self.error(rewrite.span(), "this route has `strip_prefix` and `rewrite`", "keep one of them");
            } else if !is_prefix {
                self.error(spec.strip_prefix.span(), "this route has no prefix to strip", "write `rewrite` instead");
            } else if path.is_some_and(|path| *path == PathPattern::Prefix("/".to_owned())) {
                let message = "`strip_prefix` strips nothing in a route for every path";
                self.warn(spec.strip_prefix.span(), message, "give the route a `path`, or remove it");
            }
            return Rewrite::Strip;
        }
        let Some(rewrite) = &spec.rewrite else { return Rewrite::Keep };
        let keys = rewrite.get_ref();
        match (&keys.prefix, &keys.to) {
            (Some(prefix), None) if keys.regex.is_none() => {
                let text = prefix.get_ref();
                if !is_prefix {
                    self.error(
                        prefix.span(),
                        "this route has no prefix to replace",
                        "write `rewrite = { regex = \"...\", to = \"...\" }`",
                    );
                } else if !crate::path::clean(text, true).is_ok_and(|c| c == crate::path::Cleaned::default())
                    || text.contains('?')
                {
                    let message = format!("`{}` is not a path", text.escape_debug());
                    self.error(prefix.span(), message, "write one that starts with `/`, in its shortest form");
                }
                Rewrite::Prefix(text.clone())
            }
            (None, Some(to)) => {
                let pattern = match (&keys.regex, path) {
                    (Some(regex), _) => self.pattern(regex, regex.get_ref()),
                    (None, Some(PathPattern::Regex(pattern))) => Some(pattern.clone()),
                    (None, _) => {
                        self.lack(
                            Some(rewrite.span()),
                            "this `rewrite` has no regular expression",
                            "add `regex = \"^/old/(.*)$\"`, or give the route `path = { regex = \"...\" }`",
                        );
                        None
                    }
                };
                let Some(pattern) = pattern else { return Rewrite::Keep };
                if !to.get_ref().starts_with(['/', '{']) || to.get_ref().contains(['?', '#']) {
                    let message = format!("`{}` is not a path", to.get_ref().escape_debug());
                    self.error(to.span(), message, "write one that starts with `/`, such as \"/new/{1}\"");
                }
                match self.template(to, Variable::REWRITE, Some(pattern.regex().captures_len() - 1)) {
                    Some(to) => Rewrite::Regex { pattern, to },
                    None => Rewrite::Keep,
                }
            }
            _ => {
                self.error(
                    rewrite.span(),
                    "this `rewrite` says not one thing",
                    "write { prefix = \"...\" } or { regex = \"...\", to = \"...\" }",
                );
                Rewrite::Keep
            }
        }
    }

    fn template(&mut self, text: &At<String>, allowed: &[Variable], captures: Option<usize>) -> Option<Template> {
        match Template::parse(text.get_ref(), allowed, captures) {
            Ok(template) => Some(template),
            Err((message, hint)) => {
                self.error(text.span(), message, &hint);
                None
            }
        }
    }

    pub(super) fn header_edits(&mut self, spec: &HeadersSpec, allowed: &[Variable]) -> HeaderEdits {
        let remove = spec.remove.iter().filter_map(|name| self.own_header(name)).collect();
        HeaderEdits { remove, set: self.header_values(&spec.set, allowed), add: self.header_values(&spec.add, allowed) }
    }

    fn header_values(
        &mut self,
        map: &BTreeMap<At<String>, At<String>>,
        allowed: &[Variable],
    ) -> Vec<(HeaderName, Value)> {
        let mut values = Vec::new();
        for (name, text) in map {
            let name = self.own_header(name);
            let value = self.template(text, allowed, None).and_then(|template| match template.fixed() {
                Some(fixed) => self.header_value(text, fixed).map(Value::Fixed),
                // What stands around the variables has to be right as well.
                None => self.header_value(text, text.get_ref()).map(|_| Value::Made(template)),
            });
            if let (Some(name), Some(value)) = (name, value) {
                values.push((name, value));
            }
        }
        values
    }

    pub(super) fn header_value(&mut self, place: &At<String>, text: &str) -> Option<HeaderValue> {
        let value = HeaderValue::from_str(text);
        if value.is_err() {
            let message = format!("`{}` is not the value of a header", text.escape_debug());
            self.error(place.span(), message, "write ASCII characters, without line breaks");
        }
        value.ok()
    }

    /// A name that a user may write, or remove.
    fn own_header(&mut self, name: &At<String>) -> Option<HeaderName> {
        let parsed = self.header_name(name)?;
        if !FRAMING.contains(&parsed.as_str()) {
            return Some(parsed);
        }
        let hint = if parsed == header::HOST {
            "write `upstream_host = \"...\"` in the route"
        } else {
            "remove it: it says how a message is framed, or belongs to one connection"
        };
        self.error(name.span(), format!("`{parsed}` cannot be changed"), hint);
        None
    }

    pub(super) fn upstream_host(&mut self, host: Option<&At<String>>) -> Option<HeaderValue> {
        let host = host?;
        let text = host.get_ref();
        let is_right = text.parse::<http::uri::Authority>().is_ok_and(|a| a.as_str() == text && !text.contains('@'));
        if !is_right {
            let message = format!("`{}` is not a host with an optional port", text.escape_debug());
            self.error(host.span(), message, "write one such as \"app.internal\"");
        }
        HeaderValue::from_str(text).ok()
    }

    pub(super) fn route_timeouts(&mut self, spec: &RouteTimeoutsSpec) -> RouteTimeouts {
        let request = spec
            .request
            .as_ref()
            .map(|time| time.get_ref().0.map(|limit| self.positive_at(time.span(), limit, "request")));
        RouteTimeouts {
            connect: spec.connect.as_ref().map(|time| self.positive(time, "connect")),
            first_byte: spec.first_byte.as_ref().map(|time| self.positive(time, "first_byte")),
            between_bytes: spec.between_bytes.as_ref().map(|time| self.positive(time, "between_bytes")),
            request,
            tunnel_idle: spec.tunnel_idle.as_ref().map(|time| self.positive(time, "tunnel_idle")),
        }
    }

    /// Keys that only a request that is forwarded has a use for.
    pub(super) fn only_for_upstreams(&mut self, spec: &RouteSpec, action: &Action) {
        if action.upstreams().next().is_some() {
            return;
        }
        let keys = [
            (spec.rewrite.as_ref().map(At::span), "rewrite"),
            (spec.strip_prefix.get_ref().then(|| spec.strip_prefix.span()), "strip_prefix"),
            (spec.upstream_host.as_ref().map(At::span), "upstream_host"),
        ];
        for (place, key) in keys.into_iter().filter_map(|(place, key)| Some((place?, key))) {
            self.warn(place, format!("`{key}` does nothing in a route that leads to no upstream"), "remove it");
        }
    }
}

/// How many groups a path's regular expression has.
fn groups(path: &PathPattern) -> Option<usize> {
    match path {
        PathPattern::Regex(pattern) => Some(groups_of(pattern)),
        PathPattern::Prefix(_) | PathPattern::Exact(_) => None,
    }
}

fn groups_of(pattern: &Pattern) -> usize {
    pattern.regex().captures_len() - 1
}
