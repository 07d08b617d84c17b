//! `[[route]]`: what a route may say, and the ways in which it may say it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{
    At, BasicAuthSpec, CompressSpec, ErrorPageSpec, MirrorSpec, OneOrMany, Size, Switch, Time, TimeOrOff, nowhere,
};
use crate::balance::SplitBy;

/// `[[route]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RouteSpec {
    pub name: Option<At<String>>,
    /// Absent: all listeners.
    pub listener: Option<At<OneOrMany>>,
    /// Absent: any host.
    pub host: Option<At<OneOrMany>>,
    pub path: At<MatchSpec>,
    /// Absent: any method.
    pub method: Option<At<OneOrMany>>,
    pub header: BTreeMap<At<String>, At<MatchSpec>>,
    pub query: BTreeMap<At<String>, At<MatchSpec>>,
    /// Absent: any address.
    pub source: Option<At<OneOrMany>>,
    /// Absent: everybody.
    pub allow: Option<At<OneOrMany>>,
    /// Absent: nobody.
    pub deny: Option<At<OneOrMany>>,
    /// Absent: nobody is asked who they are.
    pub basic_auth: Option<At<BasicAuthSpec>>,
    pub strip_prefix: At<bool>,
    pub rewrite: Option<At<RewriteSpec>>,
    pub allow_escapes: Vec<At<String>>,
    pub compress: Option<Switch<CompressSpec>>,
    pub mirror: Option<At<MirrorSpec>>,
    pub error_pages: Vec<At<ErrorPageSpec>>,
    pub upstream: Option<At<String>>,
    pub split: Option<At<Vec<At<BranchSpec>>>>,
    /// Absent: a cookie.
    pub split_by: Option<At<SplitBy>>,
    pub redirect: Option<At<Either<String, RedirectSpec>>>,
    pub respond: Option<At<Either<i64, RespondSpec>>>,
    pub upstream_host: Option<At<String>>,
    pub request_headers: HeadersSpec,
    pub response_headers: HeadersSpec,
    pub timeouts: RouteTimeoutsSpec,
    /// Absent: the listener's.
    pub max_body: Option<Size>,
}

impl Default for RouteSpec {
    fn default() -> Self {
        Self {
            name: None,
            listener: None,
            host: None,
            path: nowhere(MatchSpec::Plain("/".to_owned())),
            method: None,
            header: BTreeMap::new(),
            query: BTreeMap::new(),
            source: None,
            allow: None,
            deny: None,
            basic_auth: None,
            strip_prefix: nowhere(false),
            rewrite: None,
            allow_escapes: Vec::new(),
            compress: None,
            mirror: None,
            error_pages: Vec::new(),
            upstream: None,
            split: None,
            split_by: None,
            redirect: None,
            respond: None,
            upstream_host: None,
            request_headers: HeadersSpec::default(),
            response_headers: HeadersSpec::default(),
            timeouts: RouteTimeoutsSpec::default(),
            max_body: None,
        }
    }
}

/// One of `split = [{ upstream = "new", weight = 5 }, ...]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct BranchSpec {
    pub upstream: Option<At<String>>,
    pub weight: At<u32>,
}

impl Default for BranchSpec {
    fn default() -> Self {
        Self { upstream: None, weight: nowhere(1) }
    }
}

/// `rewrite = { prefix = "/v2" }`, or `{ regex = "...", to = "..." }`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RewriteSpec {
    pub prefix: Option<At<String>>,
    /// Absent: the one of `path`.
    pub regex: Option<At<String>>,
    pub to: Option<At<String>>,
}

/// `redirect = { to = "...", status = 301 }`, or the target alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RedirectSpec {
    pub to: Option<At<String>>,
    pub status: At<u16>,
}

impl Default for RedirectSpec {
    fn default() -> Self {
        Self { to: None, status: nowhere(302) }
    }
}

/// `respond = { status = 200, body = "...", content_type = "..." }`, or the status alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RespondSpec {
    pub status: At<u16>,
    pub body: String,
    pub content_type: At<String>,
}

impl Default for RespondSpec {
    fn default() -> Self {
        Self {
            status: nowhere(200),
            body: String::new(),
            content_type: nowhere("text/plain; charset=utf-8".to_owned()),
        }
    }
}

/// `request_headers` and `response_headers`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct HeadersSpec {
    pub set: BTreeMap<At<String>, At<String>>,
    pub add: BTreeMap<At<String>, At<String>>,
    pub remove: Vec<At<String>>,
}

/// `[route.timeouts]`; absent: the upstream's.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct RouteTimeoutsSpec {
    pub connect: Option<At<Time>>,
    pub first_byte: Option<At<Time>>,
    pub between_bytes: Option<At<Time>>,
    pub request: Option<At<TimeOrOff>>,
    pub tunnel_idle: Option<At<Time>>,
}

/// What something has to be: a text, or a table with one key that says in which way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MatchSpec {
    /// A text alone: what is usual for the key.
    Plain(String),
    Prefix(String),
    Exact(String),
    Regex(String),
    Present(bool),
}

const WAYS: &[&str] = &["prefix", "exact", "regex", "present"];

impl<'de> Deserialize<'de> for MatchSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrWay;

        impl<'de> Visitor<'de> for TextOrWay {
            type Value = MatchSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes, or a table such as { regex = \"...\" }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MatchSpec, E> {
                Ok(MatchSpec::Plain(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MatchSpec, A::Error> {
                let Some(way) = map.next_key::<String>()? else {
                    return Err(de::Error::custom("the table is empty: write one of prefix, exact, regex, present"));
                };
                let value = match &*way {
                    "prefix" => MatchSpec::Prefix(map.next_value()?),
                    "exact" => MatchSpec::Exact(map.next_value()?),
                    "regex" => MatchSpec::Regex(map.next_value()?),
                    "present" => MatchSpec::Present(map.next_value()?),
                    _ => return Err(de::Error::unknown_variant(&way, WAYS)),
                };
                match map.next_key::<String>()? {
                    None => Ok(value),
                    Some(second) => Err(de::Error::custom(format!("`{way}` and `{second}`: there is one way only"))),
                }
            }
        }

        deserializer.deserialize_any(TextOrWay)
    }
}

/// A value alone, or a table with that value and more.
#[derive(Debug, Clone)]
pub enum Either<T, O> {
    Alone(T),
    Table(O),
}

/// What may stand alone in the place of a table.
pub trait Alone: Sized {
    const EXPECTED: &'static str;

    fn of_text(_: &str) -> Option<Self> {
        None
    }

    fn of_number(_: i64) -> Option<Self> {
        None
    }
}

impl Alone for String {
    const EXPECTED: &'static str = "text in quotes, or a table";

    fn of_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Alone for i64 {
    const EXPECTED: &'static str = "a number, or a table";

    fn of_number(number: i64) -> Option<Self> {
        Some(number)
    }
}

impl<'de, T: Alone, O: Deserialize<'de>> Deserialize<'de> for Either<T, O> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AloneOrTable<T, O>(PhantomData<(T, O)>);

        impl<'de, T: Alone, O: Deserialize<'de>> Visitor<'de> for AloneOrTable<T, O> {
            type Value = Either<T, O>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                let value = T::of_text(text).ok_or_else(|| E::invalid_type(de::Unexpected::Str(text), &self))?;
                Ok(Either::Alone(value))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                let value =
                    T::of_number(number).ok_or_else(|| E::invalid_type(de::Unexpected::Signed(number), &self))?;
                Ok(Either::Alone(value))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                O::deserialize(MapAccessDeserializer::new(map)).map(Either::Table)
            }
        }

        deserializer.deserialize_any(AloneOrTable(PhantomData))
    }
}
