//! TLS of a listener.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{At, Secret, Time, TimeOrOff, nowhere, seconds};

/// What stands in the place of a file for a certificate that evenkeel makes itself.
pub const SELF_SIGNED: &str = "self_signed";

/// `[listener.tls]`, or `tls = "self_signed"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default, expecting = "a table")]
pub struct TlsSpec {
    pub certificate: Option<At<CertificatesSpec>>,
    pub min_version: TlsVersionSpec,
    pub handshake_timeout: At<Time>,
    pub tickets: At<TimeOrOff>,
    pub ticket_secrets: Option<At<Vec<At<Secret>>>>,
    pub ticket_secret_file: Option<At<PathBuf>>,
    pub client_auth: Option<At<ClientAuthSpec>>,
}

impl Default for TlsSpec {
    fn default() -> Self {
        Self {
            certificate: None,
            min_version: TlsVersionSpec::Tls12,
            handshake_timeout: nowhere(seconds(10)),
            tickets: nowhere(TimeOrOff(Some(std::time::Duration::from_secs(12 * 3_600)))),
            ticket_secrets: None,
            ticket_secret_file: None,
            client_auth: None,
        }
    }
}

impl<'de> Deserialize<'de> for TlsSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = TlsSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table with `certificate`, or \"self_signed\"")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<TlsSpec, E> {
                if name != SELF_SIGNED {
                    return Err(E::invalid_value(de::Unexpected::Str(name), &self));
                }
                let chain = Some(nowhere(PathBuf::from(name)));
                let certificates = CertificatesSpec(vec![nowhere(CertificateSpec { chain, key: None })]);
                Ok(TlsSpec { certificate: Some(nowhere(certificates)), ..TlsSpec::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TlsSpec, A::Error> {
                // The one that was derived.
                TlsSpec::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(NameOrTable)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TlsVersionSpec {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// `client_auth` of `[listener.tls]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ClientAuthSpec {
    pub ca: Option<At<PathBuf>>,
    pub mode: ClientAuthModeSpec,
    pub crl: Option<At<PathBuf>>,
}

impl Default for ClientAuthSpec {
    fn default() -> Self {
        Self { ca: None, mode: ClientAuthModeSpec::Required, crl: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthModeSpec {
    Required,
    Optional,
}

/// `hsts`: how long browsers insist on TLS, or a table that says more.
#[derive(Debug, Clone, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default, expecting = "a table")]
pub struct HstsSpec {
    pub max_age: At<Time>,
    pub include_subdomains: bool,
    pub preload: bool,
}

impl Default for HstsSpec {
    fn default() -> Self {
        Self { max_age: nowhere(seconds(365 * 86_400)), include_subdomains: false, preload: false }
    }
}

impl<'de> Deserialize<'de> for HstsSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeOrTable;

        impl<'de> Visitor<'de> for TimeOrTable {
            type Value = HstsSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration in quotes, such as \"365d\", or a table")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HstsSpec, E> {
                let max_age = nowhere(Time(crate::units::parse_duration(text).map_err(E::custom)?));
                Ok(HstsSpec { max_age, ..HstsSpec::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HstsSpec, A::Error> {
                HstsSpec::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(TimeOrTable)
    }
}

/// `redirect_to_https`: whether, or a table that says where to and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default, expecting = "a table")]
pub struct RedirectToHttpsSpec {
    #[serde(skip)]
    pub on: bool,
    pub port: At<u16>,
    pub status: At<u16>,
    pub acme: bool,
}

impl Default for RedirectToHttpsSpec {
    fn default() -> Self {
        Self { on: true, port: nowhere(443), status: nowhere(308), acme: true }
    }
}

impl<'de> Deserialize<'de> for RedirectToHttpsSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoolOrTable;

        impl<'de> Visitor<'de> for BoolOrTable {
            type Value = RedirectToHttpsSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or a table with `port`, `status` or `acme`")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<RedirectToHttpsSpec, E> {
                Ok(RedirectToHttpsSpec { on, ..RedirectToHttpsSpec::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RedirectToHttpsSpec, A::Error> {
                RedirectToHttpsSpec::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(BoolOrTable)
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
