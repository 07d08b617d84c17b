//! What a route changes of header sections, and the values of the variables in it.
//!
//! Names and fixed values were judged when the configuration was read. A made value that is no header
//! value is left out: nothing that a client sends can end a line early.

use http::{HeaderMap, HeaderValue, Request, header};

use super::check::{self, LONGEST_HOST};
use super::exchange::Exchange;
use crate::config::plan::template::{Values, Variable};
use crate::config::plan::{HeaderEdits, Value};

/// Where variables get their values from.
pub(super) struct Known<'a> {
    pub(super) exchange: &'a Exchange,
    /// The request, as long as it is there.
    pub(super) request: Option<Asking<'a>>,
    pub(super) captures: Option<&'a regex::Captures<'a>>,
}

/// What of a request variables name.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    headers: &'a HeaderMap,
}

impl<'a> Asking<'a> {
    pub(super) fn of<B>(request: &'a Request<B>) -> Self {
        let (method, uri) = (request.method().as_str(), request.uri());
        Self { method, path: uri.path(), query: uri.query(), headers: request.headers() }
    }
}

impl Values for Known<'_> {
    fn write(&self, variable: Variable, out: &mut String) {
        let exchange = self.exchange;
        let text = |value: Option<&HeaderValue>, out: &mut String| {
            out.push_str(value.and_then(|value| value.to_str().ok()).unwrap_or_default());
        };
        match variable {
            Variable::ClientIp => out.push_str(&exchange.client.to_string()),
            Variable::Scheme => out.push_str(if exchange.is_https { "https" } else { "http" }),
            Variable::RequestId => text(exchange.request_id.as_ref(), out),
            Variable::Route => out.push_str(exchange.route().map_or("", |route| &route.plan.name)),
            Variable::Upstream => out.push_str(exchange.upstream().map_or("", |upstream| upstream.name())),
            Variable::Server => out.push_str(exchange.claim.as_ref().map_or("", |claim| &claim.server().name)),
            Variable::Capture(group) => {
                out.push_str(self.captures.and_then(|c| c.get(group)).map_or("", |found| found.as_str()));
            }
            Variable::Host | Variable::Authority | Variable::Method | Variable::Path | Variable::Query => {
                let Some(asking) = self.request else { return };
                asking.write(variable, out);
            }
        }
    }
}

impl Asking<'_> {
    fn write(&self, variable: Variable, out: &mut String) {
        match variable {
            Variable::Host => out.push_str(check::routing_host(self.headers, &mut [0; LONGEST_HOST + 1])),
            Variable::Authority => {
                let host = self.headers.get(header::HOST).and_then(|host| host.to_str().ok());
                out.push_str(host.unwrap_or_default());
            }
            Variable::Method => out.push_str(self.method),
            Variable::Path => out.push_str(self.path),
            Variable::Query => {
                if let Some(query) = self.query {
                    out.push('?');
                    out.push_str(query);
                }
            }
            _ => {}
        }
    }
}

/// Values that were made before a section is changed, because they may be made of that section.
pub(super) struct Made<'a> {
    edits: &'a HeaderEdits,
    /// In the order of `set`, then `add`; none where it is no header value.
    values: Vec<Option<HeaderValue>>,
}

/// Makes the values of a route's changes.
pub(super) fn make<'a>(edits: &'a HeaderEdits, known: &Known<'_>) -> Made<'a> {
    let values = edits.set.iter().chain(&edits.add).map(|(_, value)| match value {
        Value::Fixed(fixed) => Some(fixed.clone()),
        Value::Made(template) => HeaderValue::try_from(template.render(known)).ok(),
    });
    Made { edits, values: values.collect() }
}

impl Made<'_> {
    /// Changes a section: what is removed, then what is set, then what is added.
    pub(super) fn apply(self, headers: &mut HeaderMap) {
        for name in &self.edits.remove {
            headers.remove(name);
        }
        let mut values = self.values.into_iter();
        for ((name, _), value) in self.edits.set.iter().zip(values.by_ref()) {
            match value {
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        }
        for ((name, _), value) in self.edits.add.iter().zip(values) {
            if let Some(value) = value {
                headers.append(name, value);
            }
        }
    }
}
