//! Which requests a route takes: its path and its conditions.

use std::ops::Range;

use std::collections::BTreeMap;

use http::{HeaderName, Method};

use super::super::Compiler;
use crate::config::plan::{Conditions, PathPattern, Pattern, ValuePattern};
use crate::config::spec::{At, MatchSpec, OneOrMany, RouteSpec};
use crate::path::{self, Cleaned, Escapes};

impl Compiler<'_> {
    /// The path of a route; none where it is wrong.
    pub(super) fn route_path(&mut self, path: &At<MatchSpec>) -> Option<PathPattern> {
        match path.get_ref() {
            MatchSpec::Plain(text) | MatchSpec::Prefix(text) => {
                self.plain_path(path.span(), text).then(|| PathPattern::Prefix(text.clone()))
            }
            MatchSpec::Exact(text) => self.plain_path(path.span(), text).then(|| PathPattern::Exact(text.clone())),
            MatchSpec::Regex(text) => self.pattern(path, text).map(PathPattern::Regex),
            MatchSpec::Present(_) => {
                self.error(path.span(), "a path is always present", "write a prefix, such as \"/\"");
                None
            }
        }
    }

    /// Whether a path may be compared with those of requests.
    pub(in crate::config::compile) fn plain_path(&mut self, place: Range<usize>, text: &str) -> bool {
        let (message, hint) = if !text.starts_with('/') {
            let shown = text.escape_debug();
            (format!("the path `{shown}` does not start with `/`"), format!("write \"/{shown}\""))
        } else if let Some(bad) = text.chars().find(|c| matches!(c, '?' | '#' | '*')) {
            (format!("a path is a plain prefix, without `{bad}`"), "write the part that all of them share".to_owned())
        } else {
            match path::clean(text, true) {
                Ok(cleaned) if cleaned == Cleaned::default() => return true,
                Ok(Cleaned { escapes, path, compared }) if escapes == Escapes::default() => {
                    let form = compared.or(path).unwrap_or_default();
                    let message = format!("the path `{}` is not in the form that is compared", text.escape_debug());
                    (message, format!("write \"{form}\""))
                }
                Ok(_) => {
                    let message = format!("the path `{text}` has escapes that servers read differently");
                    let hint = "write a path without escaped slashes, escapes of escapes and bytes that are not UTF-8";
                    (message, hint.to_owned())
                }
                Err(why) => (why.to_owned(), "write a path that a request can have".to_owned()),
            }
        };
        self.error(place, message, &hint);
        false
    }

    pub(super) fn pattern<T>(&mut self, place: &At<T>, text: &str) -> Option<Pattern> {
        match Pattern::new(text) {
            Ok(pattern) => Some(pattern),
            Err(why) => {
                let message = format!("`{}` is not a regular expression: {why}", text.escape_debug());
                self.error(place.span(), message, "write one in the syntax of the Rust crate `regex`");
                None
            }
        }
    }

    pub(super) fn conditions(&mut self, spec: &RouteSpec) -> Conditions {
        let methods = spec.method.as_ref().map(|list| self.methods(list)).unwrap_or_default();
        let sources = spec.source.as_ref().map(|list| self.networks(list, "source")).unwrap_or_default();
        let headers = self.values(&spec.header).into_iter();
        let headers = headers.filter_map(|(name, value)| self.header_name(&name).map(|name| (name, value))).collect();
        let query = self.values(&spec.query).into_iter().map(|(name, value)| (name.into_inner(), value)).collect();
        Conditions { methods, headers, query, sources }
    }

    fn methods(&mut self, list: &At<OneOrMany>) -> Vec<Method> {
        if list.get_ref().0.is_empty() {
            self.error(list.span(), "this route has no method", "name one, or leave the key out for any");
        }
        let mut methods = Vec::new();
        for name in &list.get_ref().0 {
            match Method::from_bytes(name.get_ref().as_bytes()) {
                // Methods are compared with case (RFC 9110 §9.1).
                Ok(method) if !name.get_ref().bytes().any(|b| b.is_ascii_lowercase()) => methods.push(method),
                _ => {
                    let message = format!("`{}` is not a method", name.get_ref().escape_debug());
                    self.error(name.span(), message, "write it in capitals, such as \"GET\"");
                }
            }
        }
        methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        methods.dedup();
        methods
    }

    fn values(&mut self, map: &BTreeMap<At<String>, At<MatchSpec>>) -> Vec<(At<String>, ValuePattern)> {
        let mut values = Vec::new();
        for (name, value) in map {
            let pattern = match value.get_ref() {
                MatchSpec::Plain(text) | MatchSpec::Exact(text) => ValuePattern::Exact(text.clone()),
                MatchSpec::Present(true) => ValuePattern::Present,
                MatchSpec::Present(false) => ValuePattern::Absent,
                MatchSpec::Regex(text) => match self.pattern(value, text) {
                    Some(pattern) => ValuePattern::Regex(pattern),
                    None => continue,
                },
                MatchSpec::Prefix(text) => {
                    let hint = format!("write {{ regex = \"^{}\" }}", regex::escape(text).escape_debug());
                    self.error(value.span(), "only paths have prefixes", &hint);
                    continue;
                }
            };
            values.push((name.clone(), pattern));
        }
        values
    }

    pub(super) fn header_name(&mut self, name: &At<String>) -> Option<HeaderName> {
        let parsed = HeaderName::from_bytes(name.get_ref().as_bytes());
        if parsed.is_err() {
            let message = format!("`{}` is not the name of a header", name.get_ref().escape_debug());
            self.error(name.span(), message, "write letters, digits and dashes, such as \"X-Name\"");
        }
        parsed.ok()
    }
}
