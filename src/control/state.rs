//! What must survive a restart: one small file in the state directory.
//!
//! Written whole, to a temporary file that is then renamed, so a crash leaves the old file or the new
//! one. Fields that a version does not know are kept as they are, so going back a version loses
//! nothing. Losing the file costs sessions, never service: every failure is logged and evenkeel goes
//! on in memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::{info, warn};

use super::ledger::Ledgers;
use super::members::Members;

const FILE: &str = "state.json";

/// What is kept.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// Keys made by evenkeel itself, for upstreams that have none configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) cookie_keys: Vec<String>,
    /// What session tickets of listeners are sealed with, where that is not configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ticket_secrets: Vec<String>,
    /// A certificate for development with its key, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) self_signed: Option<String>,
    /// What operators said of servers.
    #[serde(default, skip_serializing_if = "Members::is_empty")]
    pub(super) members: Members,
    /// Who deploys which upstream.
    #[serde(default, skip_serializing_if = "Ledgers::is_empty")]
    pub(super) deploys: Ledgers,
    /// What other versions keep here.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The file of the [`State`], or memory where there is no directory.
#[derive(Debug)]
pub(super) struct Store {
    path: Option<PathBuf>,
    state: State,
    /// Whether the file is another process's to write.
    foreign: bool,
}

impl Store {
    fn new(path: Option<PathBuf>, state: State) -> Self {
        Self { path, state, foreign: false }
    }

    /// The store of a process that is to take over from another, with what that one keeps. Nothing is written
    /// before [`Self::take_over`].
    pub(super) fn inherit(directory: Option<&Path>, state: State) -> Self {
        let Self { path, .. } = Self::open(directory);
        Self { path, state, foreign: true }
    }

    /// What is kept.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// From now on the file is this process's to write. `last` is what the one before kept in the end; keys
    /// that this one had to make meanwhile are kept, too.
    pub(super) fn take_over(&mut self, mut last: State) {
        let made = std::mem::take(&mut self.state);
        if last.cookie_keys.is_empty() {
            last.cookie_keys = made.cookie_keys;
        }
        if last.ticket_secrets.is_empty() {
            last.ticket_secrets = made.ticket_secrets;
        }
        last.self_signed = last.self_signed.or(made.self_signed);
        self.state = last;
        self.foreign = false;
        self.keep("what was said before", "it will be forgotten at the next start");
    }

    /// Leaves the file to another process.
    pub(super) fn leave(&mut self) {
        self.foreign = true;
    }

    /// Takes it back from one that has failed.
    pub(super) fn take_back(&mut self) {
        if std::mem::take(&mut self.foreign) {
            self.keep("what was said", "it will be forgotten at the next start");
        }
    }

    /// Opens the store of `directory`; without one it is kept in memory.
    pub(super) fn open(directory: Option<&Path>) -> Self {
        let Some(directory) = directory else { return Self::new(None, State::default()) };
        if let Err(error) = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory) {
            warn!(directory = %directory.display(), %error, "the state directory cannot be made: state is kept in memory only");
            return Self::new(None, State::default());
        }
        let path = directory.join(FILE);
        match read(&path) {
            Ok(state) => Self::new(Some(path), state),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let aside = directory.join(format!("{FILE}.broken"));
                warn!(file = %path.display(), %error, aside = %aside.display(), "the state file cannot be understood: it is put aside, and sessions may move");
                let _ = fs::rename(&path, aside);
                Self::new(Some(path), State::default())
            }
            Err(error) => {
                // Perhaps readable again tomorrow: nothing may be written over it.
                warn!(file = %path.display(), %error, "the state file cannot be read: state is kept in memory only");
                Self::new(None, State::default())
            }
        }
    }

    /// The keys kept, made by `make` if there are none.
    ///
    /// # Errors
    /// What `make` says.
    pub(super) fn cookie_keys<E>(&mut self, make: impl FnOnce() -> Result<String, E>) -> Result<Vec<String>, E> {
        if self.state.cookie_keys.is_empty() {
            self.state.cookie_keys.push(make()?);
            match self.path.as_ref().filter(|_| !self.foreign) {
                None => {
                    info!(
                        "no cookie key is configured: one was made that lasts until evenkeel stops, and other replicas will not honour its cookies"
                    );
                }
                Some(path) => match write(path, &self.state) {
                    Ok(()) => {
                        info!(file = %path.display(), "no cookie key is configured: one was made and kept; other replicas will not honour its cookies");
                    }
                    Err(error) => {
                        warn!(file = %path.display(), %error, "the cookie key cannot be kept: sessions will move at the next start");
                    }
                },
            }
        }
        Ok(self.state.cookie_keys.clone())
    }

    /// The ticket secrets kept, made by `make` if there are none.
    ///
    /// # Errors
    /// What `make` says.
    pub(super) fn ticket_secrets<E>(&mut self, make: impl FnOnce() -> Result<String, E>) -> Result<Vec<String>, E> {
        if self.state.ticket_secrets.is_empty() {
            self.state.ticket_secrets.push(make()?);
            self.keep("the ticket secret", "clients will shake hands anew at the next start");
        }
        Ok(self.state.ticket_secrets.clone())
    }

    /// The certificate for development kept, made by `make` if there is none.
    ///
    /// # Errors
    /// What `make` says.
    pub(super) fn self_signed<E>(&mut self, make: impl FnOnce() -> Result<String, E>) -> Result<String, E> {
        if let Some(made) = &self.state.self_signed {
            return Ok(made.clone());
        }
        let made = make()?;
        self.state.self_signed = Some(made.clone());
        self.keep("the certificate for development", "another one will be made at the next start");
        Ok(made)
    }

    /// Where it is kept; none in memory.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What operators said of servers.
    pub(super) fn members(&self) -> Members {
        self.state.members.clone()
    }

    /// Keeps what operators said of servers.
    pub(super) fn keep_members(&mut self, members: &Members) {
        if self.state.members != *members {
            self.state.members.clone_from(members);
            self.keep("what operators said of servers", "it will be forgotten at the next start");
        }
    }

    /// Deploys that had begun.
    pub(super) fn deploys(&self) -> Ledgers {
        self.state.deploys.clone()
    }

    /// Keeps how far deploys are.
    pub(super) fn keep_deploys(&mut self, deploys: &Ledgers) {
        self.state.deploys.clone_from(deploys);
        self.keep("how far deploys are", "it will be forgotten at the next start");
    }

    fn keep(&self, what: &str, otherwise: &str) {
        if self.foreign {
            return;
        }
        if let Some(path) = &self.path
            && let Err(error) = write(path, &self.state)
        {
            warn!(file = %path.display(), %error, "{what} cannot be kept: {otherwise}");
        }
    }
}

fn read(path: &Path) -> io::Result<State> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, state: &State) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(state)?;
    bytes.push(b'\n');
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The rename itself lasts only once the directory is on disk.
        match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn keys(store: &mut Store, fresh: &str) -> Vec<String> {
        store.cookie_keys(|| Ok::<_, std::convert::Infallible>(fresh.to_owned())).unwrap()
    }

    #[test]
    fn a_key_is_made_once_and_kept_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        assert_eq!(keys(&mut Store::open(Some(&inner)), "first"), ["first"]);
        assert_eq!(keys(&mut Store::open(Some(&inner)), "second"), ["first"]);
        let mode = fs::metadata(inner.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 1);
    }

    #[test]
    fn without_a_directory_it_is_kept_in_memory() {
        let mut store = Store::open(None);
        assert_eq!(keys(&mut store, "first"), ["first"]);
        assert_eq!(keys(&mut store, "second"), ["first"]);
    }

    #[test]
    fn what_other_versions_keep_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), r#"{"drains":{"shop":["a"]}}"#).unwrap();
        keys(&mut Store::open(Some(dir.path())), "k");
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(text.contains("drains") && text.contains("cookie_keys"), "{text}");
    }

    #[test]
    fn a_broken_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(keys(&mut Store::open(Some(dir.path())), "new"), ["new"]);
        assert_eq!(fs::read_to_string(dir.path().join("state.json.broken")).unwrap(), "{");
        assert_eq!(keys(&mut Store::open(Some(dir.path())), "third"), ["new"]);
    }
}
