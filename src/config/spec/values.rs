//! Values that may be written in more than one way. Each remembers nothing but its meaning; where it
//! stands is [`At`]'s business.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::At;
use crate::health::{Check, TcpCheck};
use crate::named::{self, Named};
use crate::units;

/// A duration: `"2s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        units::duration(deserializer).map(Self)
    }
}

/// A size in bytes: `"16KiB"` or `16384`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        units::size(deserializer).map(Self)
    }
}

/// A duration, or `"off"` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOrOff(pub Option<Duration>);

impl<'de> Deserialize<'de> for TimeOrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = TimeOrOff;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration in quotes, such as \"30s\", or \"off\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TimeOrOff, E> {
                if text == "off" {
                    return Ok(TimeOrOff(None));
                }
                units::parse_duration(text).map(|time| TimeOrOff(Some(time))).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Text)
    }
}

/// Something that is on with every option at its default (`true`), on with options (a table), or off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch<T>(pub Option<T>);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoolOrTable<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for BoolOrTable<T> {
            type Value = Switch<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a table of options")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Switch<T>, E> {
                Ok(Switch(on.then(T::default)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Switch<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|options| Switch(Some(options)))
            }
        }

        deserializer.deserialize_any(BoolOrTable(PhantomData))
    }
}

/// How often something may happen: a whole number, or `"unlimited"` (`u64::MAX`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrUnlimited;

        impl Visitor<'_> for NumberOrUnlimited {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 1, or \"unlimited\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Count, E> {
                u64::try_from(number).map(Count).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Count, E> {
                Ok(Count(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Count, E> {
                if text == "unlimited" {
                    return Ok(Count(u64::MAX));
                }
                Err(E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(NumberOrUnlimited)
    }
}

/// An address as written: a text, or a bare port as a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindText(pub String);

impl<'de> Deserialize<'de> for BindText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrPort;

        impl Visitor<'_> for TextOrPort {
            type Value = BindText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address in quotes, such as \"0.0.0.0:8080\", or a port")
            }

            fn visit_i64<E: de::Error>(self, port: i64) -> Result<BindText, E> {
                match u16::try_from(port) {
                    Ok(port) => Ok(BindText(format!(":{port}"))),
                    Err(_) => Err(E::custom(format!("{port} is not a port: write a number from 0 to 65535"))),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<BindText, E> {
                Ok(BindText(text.to_owned()))
            }
        }

        deserializer.deserialize_any(TextOrPort)
    }
}

/// One text or a list of them, each with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMany(pub Vec<At<String>>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        enum Form {
            One(String),
            Many(Vec<At<String>>),
        }

        struct TextOrList;

        impl<'de> Visitor<'de> for TextOrList {
            type Value = Form;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes, or a list of such texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Form, E> {
                Ok(Form::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Form, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Form::Many(list))
            }
        }

        impl<'de> Deserialize<'de> for Form {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextOrList)
            }
        }

        let form = At::<Form>::deserialize(deserializer)?;
        let span = form.span();
        Ok(match form.into_inner() {
            Form::One(text) => Self(vec![At::new(span, text)]),
            Form::Many(list) => Self(list),
        })
    }
}

/// A check, or `"off"` for none.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckOrOff(pub Option<Check>);

impl Default for CheckOrOff {
    fn default() -> Self {
        Self(Some(Check::Tcp(TcpCheck::default())))
    }
}

impl Named for CheckOrOff {
    const WHAT: &'static str = "a check";
    const NAMES: &'static [&'static str] = &["tcp", "http", "grpc", "off"];

    fn by_name(name: &str) -> Option<Self> {
        if name == "off" { Some(Self(None)) } else { Check::by_name(name).map(|check| Self(Some(check))) }
    }

    fn with_options<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Self>, A::Error> {
        Ok(Check::with_options(name, map)?.map(|check| Self(Some(check))))
    }
}

impl<'de> Deserialize<'de> for CheckOrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named::deserialize(deserializer)
    }
}

/// A text that no message and no log may show.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
