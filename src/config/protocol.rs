//! What is spoken with the servers of an upstream.
//!
//! The configured form is the running form, as with policies and checks.

use serde::de::MapAccess;
use serde::{Deserialize, Deserializer};

use super::spec::TimeOrOff;
use crate::named::{self, Named};

/// What is spoken with servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1, one request at a time on a connection.
    #[default]
    Http1,
    /// HTTP/2 in clear, without asking first (RFC 9113 §3.3).
    H2c(Http2),
    /// HTTP/2 over TLS (RFC 9113 §3.2).
    H2(Http2),
}

/// How HTTP/2 is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http2 {
    /// Most requests at once on one connection; fewer where the server allows fewer.
    pub max_streams: u32,
    /// How often a server is asked whether it is still there, requests or not.
    pub ping: TimeOrOff,
}

impl Default for Http2 {
    fn default() -> Self {
        // Servers may take pings for abuse (gRPC servers allow one in five minutes), so there are none
        // but where a request has waited in vain.
        Self { max_streams: 100, ping: TimeOrOff(None) }
    }
}

impl Protocol {
    /// The name that the configuration uses.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::H2c(_) => "h2c",
            Self::H2(_) => "h2",
        }
    }

    /// How HTTP/2 is spoken, where it is.
    #[must_use]
    pub fn http2(&self) -> Option<&Http2> {
        match self {
            Self::Http1 => None,
            Self::H2c(options) | Self::H2(options) => Some(options),
        }
    }
}

impl Named for Protocol {
    const WHAT: &'static str = "a protocol";
    const NAMES: &'static [&'static str] = &["http1", "h2c", "h2"];

    fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "http1" => Self::Http1,
            "h2c" => Self::H2c(Http2::default()),
            "h2" => Self::H2(Http2::default()),
            _ => return None,
        })
    }

    fn with_options<'de, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<Option<Self>, A::Error> {
        Ok(Some(match name {
            "http1" => {
                map.next_value::<NoOptions>()?;
                Self::Http1
            }
            "h2c" => Self::H2c(map.next_value()?),
            "h2" => Self::H2(map.next_value()?),
            _ => return Ok(None),
        }))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoOptions {}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named::deserialize(deserializer)
    }
}
