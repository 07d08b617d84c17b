//! The `[admin]` table and nothing else of a configuration.
//!
//! The rest is not looked at, since verbs must reach a running evenkeel also while its file is being edited
//! and is not valid, and also for users who may not read the keys that it names. What could not be read is
//! no failure here: it is remembered, and told if nobody answers.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::{AdminAddress, reachable};

/// What a configuration says of the admin API.
#[derive(Debug, Default)]
pub(super) struct Peek {
    admin: Table,
    /// Why it may say more than that, as a sentence without its end.
    pub(super) doubt: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Table {
    socket: Option<PathBuf>,
    bind: Option<toml::Value>,
    token: Option<String>,
    token_file: Option<PathBuf>,
}

impl Peek {
    /// It says nothing, for that reason.
    pub(super) fn nothing(doubt: String) -> Self {
        Self { doubt: Some(doubt), ..Self::default() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The system does not give it.
    pub(super) fn read(file: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(file)?;
        let name = file.display();
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                return Ok(Self::nothing(format!("{name}:{line}: not valid TOML")));
            }
        };
        let (mut root, errors) = DeTable::parse_recoverable(text);
        let wrong: Vec<usize> = errors.iter().map(|error| line_of_error(text, error.span())).collect();
        let mut doubt = wrong.first().map(|line| format!("{name}:{line}: not valid TOML"));
        if text.trim().is_empty() {
            doubt = Some(format!("{name} is empty"));
        }
        let Some(found) = root.get_mut().remove("admin") else { return Ok(Self { doubt, ..Self::default() }) };
        let span = found.span();
        let admin = match found.into_inner() {
            DeValue::Table(mut table) => {
                remove_broken(text, &mut table, &wrong);
                Table::deserialize(Deserializer::from(Spanned::new(span, table))).ok()
            }
            _ => None,
        };
        if admin.is_none() && doubt.is_none() {
            doubt = Some(format!("`[admin]` of {name} cannot be understood"));
        }
        Ok(Self { admin: admin.unwrap_or_default(), doubt })
    }

    pub(super) fn address(&self) -> Option<AdminAddress> {
        if let Some(socket) = &self.admin.socket {
            return Some(AdminAddress::Unix(socket.clone()));
        }
        let bind: SocketAddr = match self.admin.bind.as_ref()? {
            toml::Value::Integer(port) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), u16::try_from(*port).ok()?),
            toml::Value::String(text) => text.parse().ok().or_else(|| {
                let port = text.trim_start_matches('*').trim_start_matches(':');
                Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.parse().ok()?))
            })?,
            _ => return None,
        };
        Some(AdminAddress::Tcp(SocketAddr::new(reachable(bind.ip()), bind.port()).to_string()))
    }

    pub(super) fn token(self) -> Option<String> {
        let Table { token, token_file, .. } = self.admin;
        token.or_else(|| Some(std::fs::read_to_string(token_file?).ok()?.trim().to_owned()))
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// What ends too early is wrong at the end of the file, where there is no line any more.
fn line_of_error(text: &str, span: Option<Range<usize>>) -> usize {
    let at = span.map_or(text.len(), |span| span.start);
    line_of(text, at.min(text.trim_end().len()))
}

/// Takes out what stands on a wrong line: the parser has guessed it, and a token is not sent to a guess.
fn remove_broken(text: &str, table: &mut DeTable<'_>, wrong: &[usize]) {
    let is_broken = |from: usize, to: usize| {
        let lines = line_of(text, from)..=line_of(text, to);
        wrong.iter().any(|line| lines.contains(line))
    };
    let broken = table.iter().filter(|(key, value)| is_broken(key.span().start, value.span().end));
    let broken: Vec<String> = broken.map(|(key, _)| key.get_ref().to_string()).collect();
    for key in broken {
        table.remove(key.as_str());
    }
}
