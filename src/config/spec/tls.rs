//! TLS of a listener.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{At, Time, nowhere, seconds};

/// `[listener.tls]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct TlsSpec {
    pub certificate: Option<At<CertificatesSpec>>,
    pub handshake_timeout: At<Time>,
}

impl Default for TlsSpec {
    fn default() -> Self {
        Self { certificate: None, handshake_timeout: nowhere(seconds(10)) }
    }
}

/// A certificate in two files: `{ chain = "...", key = "..." }`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct CertificateSpec {
    pub chain: Option<At<PathBuf>>,
    /// Absent: in the file of the chain.
    pub key: Option<At<PathBuf>>,
}

/// One entry: the name of a file that holds chain and key, or a table.
enum One {
    Path(PathBuf),
    Table(CertificateSpec),
}

impl One {
    fn at(self, span: Range<usize>) -> At<CertificateSpec> {
        let spec = match self {
            Self::Path(path) => CertificateSpec { chain: Some(At::new(span.clone(), path)), key: None },
            Self::Table(spec) => spec,
        };
        At::new(span, spec)
    }
}

impl<'de> Deserialize<'de> for One {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathOrTable;

        impl<'de> Visitor<'de> for PathOrTable {
            type Value = One;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a file, or a table with `chain` and `key`")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<One, E> {
                Ok(One::Path(PathBuf::from(path)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<One, A::Error> {
                CertificateSpec::deserialize(MapAccessDeserializer::new(map)).map(One::Table)
            }
        }

        deserializer.deserialize_any(PathOrTable)
    }
}

/// One certificate or a list of them, each with its place.
#[derive(Debug, Clone)]
pub struct CertificatesSpec(pub Vec<At<CertificateSpec>>);

impl<'de> Deserialize<'de> for CertificatesSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        enum Form {
            One(One),
            Many(Vec<At<One>>),
        }

        struct OneOrList;

        impl<'de> Visitor<'de> for OneOrList {
            type Value = Form;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a file, a table with `chain` and `key`, or a list of such")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<Form, E> {
                Ok(Form::One(One::Path(PathBuf::from(path))))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Form, A::Error> {
                CertificateSpec::deserialize(MapAccessDeserializer::new(map)).map(|spec| Form::One(One::Table(spec)))
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
                deserializer.deserialize_any(OneOrList)
            }
        }

        let form = At::<Form>::deserialize(deserializer)?;
        let span = form.span();
        Ok(Self(match form.into_inner() {
            Form::One(one) => vec![one.at(span)],
            Form::Many(list) => list
                .into_iter()
                .map(|one| {
                    let span = one.span();
                    one.into_inner().at(span)
                })
                .collect(),
        }))
    }
}
