//! What can go wrong with one request, and the one table from that to a status.
//!
//! An error says its kind (what happened), its side (whose fault) and what of the request may have
//! reached a server, because that alone decides whether it may be sent again. Nothing in here names
//! a server's address: the text goes to clients.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use http::StatusCode;

/// Whose doing it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client sent something it should not have, or left.
    Client,
    /// A server failed.
    Upstream,
    /// evenkeel's own state: no route, draining, full.
    Proxy,
}

/// What of the request may have reached the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Certainly not a byte: it may be sent again whatever its method.
    Nothing,
    /// Perhaps: only an idempotent request may be sent again.
    Maybe,
    /// A part of the answer was there: it is never sent again.
    Answered,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $reason:literal, $status:literal, $side:ident;)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// Every kind, in the order of its number.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];
            /// How many kinds there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The short code in logs, metrics and the `Server-Timing` header of the answer.
            #[must_use]
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$name => $reason,)* }
            }

            /// The status that the client gets.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Whose doing it was.
            #[must_use]
            pub const fn side(self) -> Side {
                match self { $(Self::$name => Side::$side,)* }
            }
        }
    };
}

kinds! {
    /// The request is malformed or ambiguous.
    BadRequest => "bad_request", 400, Client;
    /// The request's head did not arrive in time.
    HeaderTimeout => "header_timeout", 408, Client;
    /// The request's body did not arrive in time.
    BodyTimeout => "body_timeout", 408, Client;
    /// The body is larger than allowed.
    BodyTooLarge => "body_too_large", 413, Client;
    /// The request line is longer than allowed.
    UriTooLong => "uri_too_long", 414, Client;
    /// An `Expect` other than `100-continue` (RFC 9110 §10.1.1).
    ExpectationFailed => "expectation_failed", 417, Client;
    /// The header section is larger than allowed.
    HeadersTooLarge => "headers_too_large", 431, Client;
    /// The client left before its answer was there; only ever logged.
    ClientGone => "client_gone", 499, Client;
    /// A method that a reverse proxy does not serve: CONNECT (RFC 9110 §9.3.6).
    MethodRefused => "method_refused", 501, Client;
    /// The listener sends its clients to https.
    HttpsRequired => "https_required", 308, Proxy;
    /// The client's address is not let in.
    Forbidden => "forbidden", 403, Client;
    /// The route asks for a name and a password, and these are none or wrong.
    Unauthorized => "unauthorized", 401, Client;
    /// Too many passwords wait to be verified.
    AuthBusy => "auth_busy", 503, Proxy;
    /// No route matches.
    NoRoute => "no_route", 404, Proxy;
    /// No server of the upstream can take the request.
    NoServer => "no_server", 503, Proxy;
    /// As many requests wait for the upstream's servers as may.
    QueueFull => "queue_full", 503, Proxy;
    /// No server of the upstream had room for the request in time.
    QueueTimeout => "queue_timeout", 503, Proxy;
    /// An operator has closed the upstream.
    Maintenance => "maintenance", 503, Proxy;
    /// evenkeel is stopping.
    Stopping => "stopping", 503, Proxy;
    /// A fault in evenkeel itself.
    Internal => "internal", 500, Proxy;
    /// The server refused the connection.
    ConnectRefused => "connect_refused", 502, Upstream;
    /// The server could not be reached for another reason.
    ConnectFailed => "connect_failed", 502, Upstream;
    /// The connection was not there in time.
    ConnectTimeout => "connect_timeout", 504, Upstream;
    /// TLS with the server failed: its certificate, or the handshake.
    UpstreamTls => "upstream_tls", 502, Upstream;
    /// The host name of the server has no address.
    Unresolved => "unresolved", 502, Upstream;
    /// The server closed or reset the connection before its answer.
    Reset => "reset", 502, Upstream;
    /// The server refused the HTTP/2 stream and has done nothing with it.
    StreamRefused => "stream_refused", 503, Upstream;
    /// The server's answer is malformed.
    BadAnswer => "bad_answer", 502, Upstream;
    /// The server did not begin to answer in time.
    FirstByteTimeout => "first_byte_timeout", 504, Upstream;
    /// The server paused for too long within its answer.
    BetweenBytesTimeout => "between_bytes_timeout", 504, Upstream;
    /// The request took longer than it may in all.
    RequestTimeout => "request_timeout", 504, Upstream;
    /// The server's answer ended before its announced length.
    Truncated => "truncated", 502, Upstream;
    /// The server was drained and the deadline for requests in flight has passed.
    Cut => "cut", 502, Upstream;
}

/// Why a request could not be served.
#[derive(Debug)]
pub struct ProxyError {
    /// What happened.
    pub kind: Kind,
    /// What of the request may have reached a server.
    pub sent: Sent,
    /// In the place of the kind's own words, with the seconds after which the client may try again.
    pub notice: Option<(Arc<str>, u32)>,
    /// In the place of the kind's own status.
    pub status: Option<StatusCode>,
    /// The cause, where there is one.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl ProxyError {
    /// An error before anything was sent to a server.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self { kind, sent: Sent::Nothing, notice: None, status: None, source: None }
    }

    /// An error of which it is known what may have reached the server.
    #[must_use]
    pub fn sent(kind: Kind, sent: Sent) -> Self {
        Self { kind, sent, notice: None, status: None, source: None }
    }

    /// The upstream is closed, for the reason that an operator gave.
    #[must_use]
    pub fn closed(message: &Arc<str>, retry_after: u32) -> Self {
        Self { notice: Some((Arc::clone(message), retry_after)), ..Self::new(Kind::Maintenance) }
    }

    /// The same with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The status that the client gets.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        let own = || StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.status.unwrap_or_else(own)
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.reason())
    }
}

impl StdError for ProxyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_lists_every_reason() {
        for kind in Kind::ALL {
            let row = format!("| `{}` | {} | ", kind.reason(), kind.status());
            assert!(include_str!("../README.md").contains(&row), "README.md lacks {row}");
        }
    }

    #[test]
    fn every_kind_has_its_own_reason_and_a_status_http_knows() {
        for (i, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, i);
            assert!(StatusCode::from_u16(kind.status()).is_ok());
            assert_eq!(Kind::ALL.iter().filter(|k| k.reason() == kind.reason()).count(), 1);
        }
    }
}
