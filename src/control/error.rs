//! Why a command was refused, and how the admin API says so.

use std::io;

use http::StatusCode;

use super::api::Refusal;

/// What cannot listen where that is the admin API.
pub(super) const ADMIN_API: &str = "the admin API";

/// Why a command, a reload or the start was refused. Nothing of a refused command was applied.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The configuration has errors; the report is rendered for people.
    #[error("the configuration is invalid and was not applied")]
    InvalidConfig { report: String },
    /// The new configuration changes what only a restart can change.
    #[error("not applied: {} cannot change while evenkeel runs, restart it for that", .fields.join(", "))]
    NeedsRestart { fields: Vec<String> },
    /// No such upstream, server or path.
    #[error("{what}")]
    NotFound { what: String },
    /// The command itself makes no sense.
    #[error("{message}")]
    BadRequest { message: String },
    /// The command's body is larger than any command is.
    #[error("the body is larger than {most_kib} KiB")]
    TooLarge { most_kib: usize },
    /// The path exists, the method does not.
    #[error("{message}")]
    MethodNotAllowed { message: String },
    /// The bearer token is missing or wrong.
    #[error("send the admin token as `Authorization: Bearer …`")]
    Unauthorized,
    /// A browser was made to send this request on behalf of a foreign page.
    #[error("{message}")]
    Forbidden { message: String },
    /// An address cannot be listened on.
    #[error("{what} cannot listen on {address}: {}{}", words(.source), advice(address, .source))]
    CannotBind { what: String, address: String, source: io::Error },
    /// The new process of an upgrade could not take over: this one goes on.
    #[error("not upgraded, the old process goes on: {message}")]
    Upgrade { message: String },
    /// Another process has taken over from this one, and takes the command.
    #[error("another process has taken over: ask again")]
    HandedOver,
    /// evenkeel is stopping, or cannot take the command now.
    #[error("{message}")]
    Busy { message: String },
    /// Somebody else is at it.
    #[error("{message}")]
    Conflict { message: String },
    /// The system refused something that evenkeel cannot do without.
    #[error("{doing}: {}", words(.source))]
    System { doing: &'static str, source: io::Error },
}

/// The system's words without the number it adds.
fn words(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// What is usually behind it.
fn advice(address: &str, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied if address.starts_with("unix:") => {
            " (the user that runs evenkeel may not write there)"
        }
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        io::ErrorKind::AddrInUse => " (another process listens there)",
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has it)",
        _ => "",
    }
}

impl CommandError {
    /// Whether another process has the place at which the admin API is to answer.
    #[must_use]
    pub fn is_admin_taken(&self) -> bool {
        let Self::CannotBind { what, source, .. } = self else { return false };
        what == ADMIN_API && source.kind() == io::ErrorKind::AddrInUse
    }

    pub(super) fn stopping() -> Self {
        Self::Busy { message: "evenkeel is stopping".to_owned() }
    }

    pub(super) fn no_upstream(upstream: &str) -> Self {
        Self::NotFound { what: format!("there is no upstream `{upstream}`") }
    }

    pub(super) fn no_server(upstream: &str, server: &str) -> Self {
        Self::NotFound { what: format!("upstream `{upstream}` has no server `{server}`") }
    }

    /// The status that the admin API answers with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidConfig { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NeedsRestart { .. } | Self::CannotBind { .. } | Self::Conflict { .. } => StatusCode::CONFLICT,
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::BadRequest { .. } => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::Busy { .. } | Self::HandedOver => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upgrade { .. } => StatusCode::CONFLICT,
            Self::System { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What the admin API answers with.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let error = match self {
            Self::InvalidConfig { .. } => "invalid_config",
            Self::NeedsRestart { .. } => "needs_restart",
            Self::NotFound { .. } => "not_found",
            Self::BadRequest { .. } | Self::TooLarge { .. } | Self::MethodNotAllowed { .. } => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden { .. } => "forbidden",
            Self::CannotBind { .. } => "cannot_bind",
            Self::Busy { .. } => "busy",
            Self::Conflict { .. } => "conflict",
            Self::Upgrade { .. } => "upgrade_failed",
            Self::HandedOver => "handed_over",
            Self::System { .. } => "internal",
        };
        let report = match self {
            Self::InvalidConfig { report } => Some(report.clone()),
            _ => None,
        };
        Refusal { error: error.to_owned(), message: self.to_string(), report }
    }
}
