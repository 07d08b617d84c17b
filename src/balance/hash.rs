//! The same key of a request, the same server: a room, a user, a shard, the path of what is cached.
//!
//! Which server a key belongs to is looked up in [`super::slots`], so every evenkeel with the same names
//! and weights says the same. A request without the key goes by its client's address, as with `ip_hash`:
//! one server would get all of them otherwise.

use std::net::IpAddr;

use serde::de::MapAccess;
use serde::{Deserialize, Deserializer, de};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::hot::{HotKeys, Key};
use super::ip_hash::{self, IpHash};
use super::max_load::{self, MaxLoad};
use super::slots::SEED;
use super::sticky_cookie;
use super::{Member, Scratch, View};
use crate::named::{self, Named};

/// `hash`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hash {
    /// What of a request is its key.
    pub by: HashBy,
    /// A server that would get more than this times its share of the requests in flight passes keys on;
    /// 1 to 100. None is no bound.
    #[serde(deserialize_with = "max_load::read")]
    pub max_load: Option<MaxLoad>,
    /// What is done about a key that takes more than its share of the requests.
    pub hot_keys: HotKeys,
}

/// What of a request is its key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HashBy {
    /// The path, without the query: each server's cache holds its part.
    #[default]
    Path,
    /// One part of the path: `/rooms/42` has the parts 1, `rooms`, and 2, `42`.
    PathSegment(u8),
    /// A header's first value.
    Header(http::HeaderName),
    /// The first parameter of that name in the query, as it is written.
    Query(String),
    /// A cookie's value.
    Cookie(String),
}

impl HashBy {
    /// The name that the configuration uses.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::PathSegment(_) => "path_segment",
            Self::Header(_) => "header",
            Self::Query(_) => "query",
            Self::Cookie(_) => "cookie",
        }
    }

    /// The hash of a request's key; none where it has no such key, or an empty one.
    #[must_use]
    pub fn key(&self, path: &str, query: Option<&str>, headers: &http::HeaderMap) -> Option<u64> {
        let key = match self {
            Self::Path => path.as_bytes(),
            Self::PathSegment(number) => {
                path.split('/').filter(|part| !part.is_empty()).nth(usize::from(*number) - 1)?.as_bytes()
            }
            Self::Header(name) => headers.get(name)?.as_bytes(),
            Self::Query(name) => value_in(query?, name)?.as_bytes(),
            Self::Cookie(name) => {
                let lines = headers.get_all(http::header::COOKIE);
                sticky_cookie::find(lines.iter().map(http::HeaderValue::as_bytes), name)?
            }
        };
        (!key.is_empty()).then(|| hash(key))
    }
}

/// The hash of a key.
#[must_use]
pub fn hash(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, SEED)
}

/// The first value of that name in a query.
fn value_in<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

impl Named for HashBy {
    const WHAT: &'static str = "a key of requests";
    const NAMES: &'static [&'static str] = &["path", "path_segment", "header", "query", "cookie"];

    /// All but the path need to be told which one.
    fn by_name(name: &str) -> Option<Self> {
        (name == "path").then_some(Self::Path)
    }

    fn with_options<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Self>, A::Error> {
        Ok(Some(match name {
            "path_segment" => {
                let number: i64 = map.next_value()?;
                let segment = u8::try_from(number).ok().filter(|number| (1..=32).contains(number));
                Self::PathSegment(segment.ok_or_else(|| {
                    de::Error::custom(format!("part {number} of a path: they are counted from 1, write 1 to 32"))
                })?)
            }
            "header" => {
                let name: String = map.next_value()?;
                let parsed = name.parse().map_err(|_| de::Error::custom(format!("`{name}` is not a header's name")))?;
                Self::Header(parsed)
            }
            "query" => Self::Query(not_empty(map.next_value()?, "parameter")?),
            "cookie" => Self::Cookie(not_empty(map.next_value()?, "cookie")?),
            _ => return Ok(None),
        }))
    }
}

fn not_empty<E: de::Error>(name: String, what: &str) -> Result<String, E> {
    if name.is_empty() { Err(E::custom(format!("the name of the {what} is empty"))) } else { Ok(name) }
}

impl<'de> Deserialize<'de> for HashBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named::deserialize(deserializer)
    }
}

/// The owners of keys, and of addresses for requests without one.
#[derive(Debug, Clone)]
pub struct Table {
    owners: ip_hash::Table,
}

impl Hash {
    pub(super) fn table(&self, members: &[Member], previous: Option<&Table>) -> Table {
        let addresses = IpHash { max_load: self.max_load, ..IpHash::default() };
        Table { owners: addresses.table(members, previous.map(|table| &table.owners)) }
    }
}

impl Table {
    pub(super) fn pick(
        &self,
        key: Option<u64>,
        client: IpAddr,
        scratch: &mut Scratch,
        view: &impl View,
    ) -> Option<usize> {
        match key {
            Some(key) => self.owners.pick_key(key, scratch, view),
            None => self.owners.pick(client, scratch, view),
        }
    }

    /// The same for a hash that stands for a key already.
    pub(super) fn pick_key(&self, hash: u64, scratch: &mut Scratch, view: &impl View) -> Option<usize> {
        self.owners.pick_key(hash, scratch, view)
    }

    /// What a request goes by.
    pub(super) fn key(&self, key: Option<u64>, client: IpAddr) -> Key {
        key.map_or_else(|| self.owners.key(client), Key::Value)
    }

    /// The server that a key belongs to among those that are `usable`, whatever its load.
    pub(super) fn home(&self, key: Key, usable: impl Fn(usize) -> bool) -> Option<usize> {
        self.owners.home(key, usable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderName, HeaderValue};

    #[test]
    fn keys_are_read_from_where_they_are() {
        let mut headers = HeaderMap::new();
        headers.insert("x-room", HeaderValue::from_static("42"));
        headers.insert("cookie", HeaderValue::from_static("a=1; room=42"));
        let key = |by: HashBy, path: &str, query: Option<&str>| by.key(path, query, &headers);
        let expected = Some(hash(b"42"));
        assert_eq!(key(HashBy::Header(HeaderName::from_static("x-room")), "/", None), expected);
        assert_eq!(key(HashBy::Cookie("room".to_owned()), "/", None), expected);
        assert_eq!(key(HashBy::Query("room".to_owned()), "/", Some("xroom=1&room=42&room=7")), expected);
        assert_eq!(key(HashBy::PathSegment(2), "/rooms/42/chat", Some("x")), expected);
        assert_eq!(key(HashBy::Path, "42", None), expected);
        for (by, path, query) in [
            (HashBy::PathSegment(3), "/rooms/42/", None),
            (HashBy::Query("room".to_owned()), "/", Some("room=")),
            (HashBy::Query("room".to_owned()), "/", None),
            (HashBy::Cookie("other".to_owned()), "/", None),
        ] {
            assert_eq!(key(by.clone(), path, query), None, "{by:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        #[derive(Debug, Deserialize)]
        struct File {
            by: HashBy,
        }
        let read = |text: &str| toml::from_str::<File>(text).map(|f| f.by).map_err(|e| e.to_string());
        assert_eq!(read("by = 'path'"), Ok(HashBy::Path));
        assert_eq!(read("by = { path_segment = 2 }"), Ok(HashBy::PathSegment(2)));
        for (text, says) in [
            ("by = { path_segment = 0 }", "they are counted from 1"),
            ("by = { header = 'x y' }", "`x y` is not a header's name"),
            ("by = { cookie = '' }", "the name of the cookie is empty"),
            ("by = 'header'", "unknown variant `header`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
