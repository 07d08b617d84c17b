//! Exit codes, and the one shape in which a verb fails.

use std::fmt;

/// What the process tells the shell. The numbers are an interface: scripts and service managers
/// depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Ok = 0,
    Failure = 1,
    Usage = 2,
    InvalidConfig = 3,
    CannotBind = 4,
    AdminUnreachable = 5,
    NotMet = 6,
}

impl Exit {
    /// Every code, in order.
    pub(super) const ALL: [Self; 7] = [
        Self::Ok,
        Self::Failure,
        Self::Usage,
        Self::InvalidConfig,
        Self::CannotBind,
        Self::AdminUnreachable,
        Self::NotMet,
    ];

    /// The number.
    #[must_use]
    pub(super) fn code(self) -> u8 {
        self as u8
    }

    /// What it means, for the help text.
    #[must_use]
    pub(super) fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Failure => "failed at run time",
            Self::Usage => "wrong usage of the command line",
            Self::InvalidConfig => "the configuration is invalid",
            Self::CannotBind => "cannot bind an address",
            Self::AdminUnreachable => "the admin API cannot be reached",
            Self::NotMet => "the condition was not met: not ready, not drained in time",
        }
    }

    /// The `error` of a refusal that comes back as this code.
    #[must_use]
    pub(super) fn refusal(self) -> &'static str {
        match self {
            Self::InvalidConfig => "invalid_config",
            Self::CannotBind => "cannot_bind",
            _ => "internal",
        }
    }

    /// The code for a refusal of the admin API, by its `error`.
    #[must_use]
    pub(super) fn of_refusal(error: &str) -> Self {
        match error {
            "invalid_config" => Self::InvalidConfig,
            "cannot_bind" => Self::CannotBind,
            "bad_request" => Self::Usage,
            _ => Self::Failure,
        }
    }
}

/// A verb that did not succeed: what to say on standard error, and the code to end with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub exit: Exit,
    /// Empty when there is nothing to say, such as when the reader of our output went away.
    pub message: String,
    /// Whether the message is a text of its own (a report) that gets no `evenkeel: ` before it.
    pub verbatim: bool,
}

impl Failure {
    /// A failure told in one sentence.
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), verbatim: false }
    }

    /// A failure told by a text that is complete in itself.
    pub(super) fn verbatim(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), verbatim: true }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The end of every help page: exit codes and signals.
#[must_use]
pub(super) fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for exit in Exit::ALL {
        text.push_str(&format!("  {}  {}\n", exit.code(), exit.meaning()));
    }
    text.push_str(
        "\nSignals:\n  \
         HUP             read the configuration again\n  \
         USR1            reopen log files\n  \
         USR2            upgrade: have another process take over\n  \
         TERM, INT, QUIT finish what is in flight, then stop; a second one stops at once",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_lists_every_code() {
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.meaning());
            assert!(include_str!("../../README.md").contains(&row), "README.md lacks {row}");
        }
    }

    #[test]
    fn codes_are_the_documented_ones() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|e| e.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(Exit::of_refusal("invalid_config"), Exit::InvalidConfig);
        assert_eq!(Exit::of_refusal("cannot_bind"), Exit::CannotBind);
        assert_eq!(Exit::of_refusal("bad_request"), Exit::Usage, "a value that cannot be");
        for other in ["needs_restart", "not_found", "unauthorized", "busy", "new in a later version"] {
            assert_eq!(Exit::of_refusal(other), Exit::Failure, "{other}");
        }
    }
}
