//! What a route does to answers and beside them.

use super::ErrorPagePlan;

/// Filters of a route; each is off unless it is there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteFilters {
    pub compress: Option<CompressPlan>,
    pub mirror: Option<MirrorPlan>,
    /// These come before those of the listener.
    pub error_pages: Vec<ErrorPagePlan>,
}

/// Which requests are copied, and where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorPlan {
    /// Position of the upstream.
    pub upstream: usize,
    /// Share of the requests, 1 to 100.
    pub percent: u32,
    /// Requests with a larger body are not copied.
    pub max_body: u64,
    /// Most copies at once, over all cores.
    pub max_in_flight: usize,
}

/// Which answers are compressed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompressPlan {
    /// In the order in which they are preferred; at least one.
    pub encodings: Vec<Encoding>,
    pub level: Level,
    /// Answers of which is known that they are smaller are left alone.
    pub min_size: u64,
    /// Media types in lower case: `text/html`, `text/*`, `application/*+json`.
    pub types: Vec<String>,
}

/// A content coding (RFC 9110 §8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Zstd,
    Br,
    Gzip,
}

impl Encoding {
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Br, Self::Gzip];

    /// Its name in headers and in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }
}

/// How much work goes into a smaller answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Fast,
    Balanced,
    Small,
}

impl Level {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Balanced => "balanced",
            Self::Small => "small",
        }
    }
}
