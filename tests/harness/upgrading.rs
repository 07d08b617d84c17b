//! A row of processes, each of which takes over from the one before.

use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process};

use super::{Done, Running, eventually};

/// `evenkeel run`, started by a link that can be made to point to another program. All processes of the row end
/// with it.
pub struct Upgrading {
    running: Running,
    link: PathBuf,
    pids: Mutex<Vec<u32>>,
    _dir: tempfile::TempDir,
}

impl Deref for Upgrading {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

/// Whether that process is there and has not ended.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // One that has ended and that nobody has asked about yet is still listed.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits for the end of a process that may be nobody's child here.
#[track_caller]
pub fn gone(pid: u32) {
    eventually("the end of a process", || (!is_alive(pid)).then_some(()));
}

pub fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = kill_process(pid, signal);
}

impl Upgrading {
    /// As [`Running::start`] does.
    pub fn start(toml: &str) -> Self {
        Self::with(toml, |_| {})
    }

    /// The same with something changed about the command.
    pub fn with(toml: &str, change: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("evenkeel");
        symlink(env!("CARGO_BIN_EXE_evenkeel"), &link).unwrap();
        let running = Running::with(toml, |command| {
            let mut linked = Command::new(&link);
            linked.args(command.get_args()).stdin(std::process::Stdio::null());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => linked.env(name, value),
                    None => linked.env_remove(name),
                };
            }
            *command = linked;
            change(command);
        });
        let pids = Mutex::new(vec![running.process.pid()]);
        Self { running, link, pids, _dir: dir }
    }

    /// Makes the path of the program that of another one.
    pub fn replace_program(&self, by: &Path) {
        std::fs::remove_file(&self.link).unwrap();
        symlink(by, &self.link).unwrap();
    }

    /// The process that serves now.
    pub fn pid(&self) -> u32 {
        let pid = self.status().pid;
        let mut pids = self.pids.lock().unwrap();
        if !pids.contains(&pid) {
            pids.push(pid);
        }
        pid
    }

    /// Has another process take over, and gives its number.
    #[track_caller]
    pub fn upgrade(&self) -> u32 {
        let before = self.pid();
        let done = self.verb(&["upgrade"]);
        assert_eq!(done.code, Some(0), "{done:?}\n{}", self.process.err());
        let now = self.pid();
        assert_ne!(now, before);
        now
    }

    /// Has another process take over that cannot.
    #[track_caller]
    pub fn upgrade_fails(&self) -> Done {
        let before = self.pid();
        let done = self.verb(&["upgrade"]);
        assert_ne!(done.code, Some(0), "{done:?}");
        assert_eq!(self.pid(), before, "the old one goes on");
        done
    }

    /// Waits until the process before has ended.
    #[track_caller]
    pub fn alone(&self) {
        eventually("the process before has ended", || self.status().predecessor.is_none().then_some(()));
    }
}

impl Drop for Upgrading {
    fn drop(&mut self) {
        // A test that has failed may leave a process that nobody has asked for its number yet.
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.status()));
        let (mut pids, status) = (self.pids.get_mut().unwrap().clone(), asked.ok());
        pids.extend(status.iter().map(|status| status.pid));
        pids.extend(status.iter().filter_map(|status| Some(status.upgrade.as_ref()?.pid)));
        for pid in pids.into_iter().rev() {
            kill(pid, Signal::KILL);
        }
    }
}
