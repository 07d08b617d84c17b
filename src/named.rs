//! The one shape every choice in the TOML has: a name alone, or a table with one key.
//!
//! `policy = "round_robin"` takes the defaults; `policy = { ip_hash = { ipv4_prefix = 24 } }` sets
//! options. Written by hand because untagged and internally tagged enums buffer the value and so lose
//! the line and column that an error has to name. A leaf: it knows nothing of the rest of the crate.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{self, DeserializeSeed, MapAccess, Visitor};

/// An enum whose TOML form is a name, or a one-key table from that name to its options.
pub trait Named: Sized {
    /// What the value is, for messages: `a policy`.
    const WHAT: &'static str;
    /// Every name that is understood, in the order in which messages list them.
    const NAMES: &'static [&'static str];
    /// The variant of that name with every option at its default.
    fn by_name(name: &str) -> Option<Self>;
    /// The variant of that name with options read from `options`.
    fn with_options<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Self>, A::Error>;
}

/// Reads a [`Named`] value; call it from a `Deserialize` implementation.
pub fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(NamedVisitor(PhantomData))
}

struct NamedVisitor<T>(PhantomData<T>);

impl<'de, T: Named> Visitor<'de> for NamedVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: one of {}, or a table with one of them as its only key", T::WHAT, T::NAMES.join(", "))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<T, E> {
        T::by_name(name).ok_or_else(|| de::Error::unknown_variant(name, T::NAMES))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let Some(name) = map.next_key_seed(Key)? else {
            return Err(de::Error::custom(format!("{} is missing: write one of {}", T::WHAT, T::NAMES.join(", "))));
        };
        let value = T::with_options(&name, &mut map)?.ok_or_else(|| de::Error::unknown_variant(&name, T::NAMES))?;
        if let Some(second) = map.next_key_seed(Key)? {
            return Err(de::Error::custom(format!("`{name}` and `{second}`: {} has one name only", T::WHAT)));
        }
        Ok(value)
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        <String as serde::Deserialize>::deserialize(deserializer)
    }
}
