//! Pages in the place of the answers that evenkeel makes itself.

use std::fmt;
use std::path::PathBuf;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::At;

/// One of `error_pages`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ErrorPageSpec {
    pub status: Option<At<Statuses>>,
    pub file: Option<At<PathBuf>>,
    /// Absent: by the ending of the file's name.
    pub content_type: Option<At<String>>,
    pub intercept: bool,
}

/// One status or a list of them, each a number or a text (`"404"`, `"5xx"`), with its place.
#[derive(Debug, Clone)]
pub struct Statuses(pub Vec<At<String>>);

/// What `error_pages` may have as a status.
#[derive(Debug)]
enum Form {
    One(String),
    Many(Vec<At<Self>>),
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StatusOrList;

        impl<'de> Visitor<'de> for StatusOrList {
            type Value = Form;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status such as 404 or \"5xx\", or a list of such")
            }

            fn visit_i64<E: de::Error>(self, status: i64) -> Result<Form, E> {
                Ok(Form::One(status.to_string()))
            }

            fn visit_str<E: de::Error>(self, status: &str) -> Result<Form, E> {
                Ok(Form::One(status.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Form, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Form::Many(list))
            }
        }

        deserializer.deserialize_any(StatusOrList)
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = At::<Form>::deserialize(deserializer)?;
        let mut all = Vec::new();
        // A list in a list says nothing else than one list.
        let mut rest = vec![form];
        while let Some(form) = rest.pop() {
            let span = form.span();
            match form.into_inner() {
                Form::One(status) => all.push(At::new(span, status)),
                Form::Many(list) => rest.extend(list.into_iter().rev()),
            }
        }
        Ok(Self(all))
    }
}
