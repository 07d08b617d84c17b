//! TLS with the servers of an upstream.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::tls::CertificateSpec;
use super::{At, nowhere};

/// `true` for TLS with every option at its default, `false` for none, or a table.
#[derive(Debug, Clone, Default)]
pub struct TlsOrNot(pub Option<UpstreamTlsSpec>);

/// `[upstream.NAME.tls]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct UpstreamTlsSpec {
    /// Absent: the host of the server's address.
    pub server_name: Option<At<String>>,
    /// Absent: those of the system.
    pub ca: Option<At<PathBuf>>,
    pub certificate: Option<At<CertificateSpec>>,
    pub verify: At<bool>,
}

impl Default for UpstreamTlsSpec {
    fn default() -> Self {
        Self { server_name: None, ca: None, certificate: None, verify: nowhere(true) }
    }
}

impl<'de> Deserialize<'de> for TlsOrNot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoolOrTable;

        impl<'de> Visitor<'de> for BoolOrTable {
            type Value = TlsOrNot;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or a table of options")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<TlsOrNot, E> {
                Ok(TlsOrNot(on.then(UpstreamTlsSpec::default)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TlsOrNot, A::Error> {
                UpstreamTlsSpec::deserialize(MapAccessDeserializer::new(map)).map(|spec| TlsOrNot(Some(spec)))
            }
        }

        deserializer.deserialize_any(BoolOrTable)
    }
}
