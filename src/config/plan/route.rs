//! What a route is: which requests it takes, and what becomes of them.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use super::template::Template;
use super::{Access, BasicAuthPlan, RouteFilters, UpstreamPlan, UpstreamTimeouts};
use crate::balance::SplitBy;
use crate::path::Escapes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    Any,
    /// Lower case, without port and trailing dot.
    Exact(String),
    /// The part after the star of `*.example.com`, with its dot: `.example.com`.
    Suffix(String),
}

/// A regular expression, compiled; the same as another of the same text.
#[derive(Debug, Clone)]
pub struct Pattern(regex::Regex);

impl Pattern {
    /// The most bytes that a compiled expression may take.
    const LARGEST: usize = 1 << 20;

    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn new(text: &str) -> Result<Self, String> {
        let compiled = regex::RegexBuilder::new(text).size_limit(Self::LARGEST).build();
        compiled.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it is too large once compiled".to_owned(),
            // The library draws the place over several lines; the last says what it is.
            other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        })
    }

    #[must_use]
    pub fn regex(&self) -> &regex::Regex {
        &self.0
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// Which paths a route takes, in the form that [`crate::path`] makes.
#[derive(Debug, Clone, PartialEq)]
pub enum PathPattern {
    /// Ends where a segment ends; starts with `/`.
    Prefix(String),
    Exact(String),
    Regex(Pattern),
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prefix(path) => f.write_str(path),
            Self::Exact(path) => write!(f, "={path}"),
            Self::Regex(pattern) => write!(f, "~{}", pattern.as_str()),
        }
    }
}

/// What a value has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum ValuePattern {
    Exact(String),
    Regex(Pattern),
    Present,
    Absent,
}

/// What a request has to be beside its host and path. All of it has to hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conditions {
    /// One of them; empty: any.
    pub methods: Vec<Method>,
    pub headers: Vec<(HeaderName, ValuePattern)>,
    pub query: Vec<(String, ValuePattern)>,
    /// The client's address lies in one of them; empty: any.
    pub sources: Vec<IpNet>,
}

impl Conditions {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(!self.methods.is_empty())
            + self.headers.len()
            + self.query.len()
            + usize::from(!self.sources.is_empty())
    }

    /// Whether whatever meets `other` meets these.
    #[must_use]
    pub fn follow_from(&self, other: &Self) -> bool {
        (self.methods.is_empty() || self.methods == other.methods)
            && (self.sources.is_empty() || self.sources == other.sources)
            && self.headers.iter().all(|header| other.headers.contains(header))
            && self.query.iter().all(|query| other.query.contains(query))
    }
}

/// What becomes of the path before it is forwarded.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Rewrite {
    #[default]
    Keep,
    /// The route's prefix is taken off.
    Strip,
    /// The route's prefix is replaced.
    Prefix(String),
    /// Where the pattern matches, the whole path is replaced.
    Regex { pattern: Pattern, to: Template },
}

/// An upstream of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// Position of the upstream.
    pub upstream: usize,
    /// Share of the users.
    pub weight: u32,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// It goes to an upstream, by its position.
    Upstream(usize),
    /// It goes to one of several upstreams, by the user it comes from.
    Split {
        branches: Vec<Branch>,
        by: SplitBy,
    },
    Redirect {
        status: u16,
        to: Template,
    },
    Respond {
        status: u16,
        body: String,
        content_type: HeaderValue,
    },
}

impl Action {
    /// Positions of the upstreams that it leads to.
    pub fn upstreams(&self) -> impl Iterator<Item = usize> {
        let (one, several) = match self {
            Self::Upstream(position) => (Some(*position), &[][..]),
            Self::Split { branches, .. } => (None, &branches[..]),
            Self::Redirect { .. } | Self::Respond { .. } => (None, &[][..]),
        };
        one.into_iter().chain(several.iter().map(|branch| branch.upstream))
    }
}

/// A header's value: fixed, or made for each message.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Fixed(HeaderValue),
    Made(Template),
}

/// Changes to a header section, in this order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderEdits {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, Value)>,
    pub add: Vec<(HeaderName, Value)>,
}

impl HeaderEdits {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// Timeouts that take the place of the upstream's; none keeps its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub between_bytes: Option<Duration>,
    /// `Some(None)` is no limit.
    pub request: Option<Option<Duration>>,
    pub tunnel_idle: Option<Duration>,
}

impl RouteTimeouts {
    /// The upstream's plan with these in it; none where they change nothing.
    #[must_use]
    pub fn over(&self, upstream: &UpstreamPlan) -> Option<UpstreamPlan> {
        let own = upstream.timeouts;
        let timeouts = UpstreamTimeouts {
            connect: self.connect.unwrap_or(own.connect),
            first_byte: self.first_byte.unwrap_or(own.first_byte),
            between_bytes: self.between_bytes.unwrap_or(own.between_bytes),
            request: self.request.unwrap_or(own.request),
            tunnel_idle: self.tunnel_idle.unwrap_or(own.tunnel_idle),
            ..own
        };
        (timeouts != own).then(|| UpstreamPlan { timeouts, ..upstream.clone() })
    }
}

impl From<&str> for PathPattern {
    /// A prefix, which is what a path alone means.
    fn from(prefix: &str) -> Self {
        Self::Prefix(prefix.to_owned())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct RoutePlan {
    /// Unique and stable, for metrics and logs: the given name, or host and path.
    pub name: String,
    /// Positions of the listeners it serves.
    pub listeners: Vec<usize>,
    pub host: HostPattern,
    pub path: PathPattern,
    pub conditions: Conditions,
    /// Who may come. Who may not is refused; another route is not looked for.
    pub access: Access,
    /// None: nobody is asked who they are.
    pub basic_auth: Option<BasicAuthPlan>,
    /// Escapes that are let through although servers read them differently.
    pub allow_escapes: Escapes,
    pub action: Action,
    pub rewrite: Rewrite,
    /// What the server gets as `Host`; none: what the client sent.
    pub upstream_host: Option<HeaderValue>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub timeouts: RouteTimeouts,
    /// Largest request body in place of the listener's.
    pub max_body: Option<u64>,
    pub filters: RouteFilters,
}
