//! Children of the lab, each of which ends with whoever holds its [`Guard`].
//!
//! Guards do not outlive SIGKILL of the lab: what is left then is for the [leash](super::leash).

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::leash::Home;
use super::{PACE, PATIENCE};

/// A child that is ended when it is dropped.
#[derive(Debug)]
pub(super) struct Guard(Option<Child>);

impl Guard {
    pub(super) fn new(child: Child) -> Self {
        Self(Some(child))
    }

    /// None once it was ended.
    pub(super) fn child(&mut self) -> Option<&mut Child> {
        self.0.as_mut()
    }

    pub(super) fn id(&self) -> Option<u32> {
        self.0.as_ref().map(Child::id)
    }

    pub(super) fn is_gone(&mut self) -> bool {
        self.0.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Sends it a signal and waits for its end; nothing where it was ended already.
    pub(super) fn end(&mut self, signal: Signal) -> io::Result<()> {
        if let Some(mut child) = self.0.take() {
            kill_process(Pid::from_child(&child), signal)?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Kills every child that this process has, for an end that waits for nothing: no guard is dropped then.
pub fn end_all() {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    // A child that nobody has waited for keeps its id, so it is no other process by now.
    for children in threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok()) {
        for pid in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A directory with a short path, for sockets: these take about a hundred bytes of path, however long that of the
/// report is. Nobody else may look into it, and it goes with this.
#[derive(Debug)]
pub(super) struct Nook(PathBuf);

impl Nook {
    const PREFIX: &str = "evenkeel-lab-";

    /// Whether that is what one is called: nothing else is removed by name.
    pub(super) fn is_one(dir: &Path) -> bool {
        dir.is_absolute() && dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(Self::PREFIX))
    }

    pub(super) fn new() -> io::Result<Self> {
        /// More would leave no room for the names in it.
        const MOST: usize = 60;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let temp = Some(std::env::temp_dir()).filter(|temp| temp.is_absolute() && temp.as_os_str().len() <= MOST);
        let temp = temp.unwrap_or_else(|| PathBuf::from("/tmp"));
        loop {
            let name = format!("{}{}-{}", Self::PREFIX, std::process::id(), NEXT.fetch_add(1, Relaxed));
            let dir = temp.join(name);
            match fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => return Ok(Self(dir)),
                // Of a process with this id that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display()))),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Nook {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program, deaf to what the environment says of evenkeel, and to Ctrl-C: that is for the lab. It is of that process
/// group, or leads one of its own.
pub(super) fn clean(program: &Path, group: Option<u32>) -> Command {
    let mut command = Command::new(program);
    command.process_group(group.and_then(|group| i32::try_from(group).ok()).unwrap_or(0));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("EVENKEEL_")) {
        command.env_remove(name);
    }
    command
}

/// Resident memory of a process in bytes, as the kernel counts it.
///
/// # Errors
/// When it is gone.
pub fn resident(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other(format!("/proc/{pid}/status has no VmRSS")))
}

/// A Redis that keeps nothing on disk and listens on a Unix socket of the lab's own.
#[derive(Debug)]
pub(super) struct Redis {
    pub(super) guard: Guard,
    pub(super) socket: PathBuf,
}

impl Redis {
    const PROGRAM: &str = "redis-server";

    pub(super) fn is_installed() -> bool {
        let mut command = Command::new(Self::PROGRAM);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    pub(super) fn start(dir: &Path, home: &Home) -> io::Result<Self> {
        // Absolute: where Redis works, it changes to its own directory.
        let dir = fs::canonicalize(dir)?;
        let (socket, log) = (home.redis(), fs::File::create(dir.join("redis.log"))?);
        let mut command = home.command(Path::new(Self::PROGRAM));
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--unixsocket"]);
        command.arg(&socket).arg("--dir").arg(&dir);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut redis = Self { guard: Guard::new(child), socket };
        let began = Instant::now();
        while !redis.answers() {
            if redis.guard.is_gone() || began.elapsed() > PATIENCE {
                let said = fs::read_to_string(dir.join("redis.log")).unwrap_or_default();
                return Err(io::Error::other(format!("redis-server did not become ready:\n{}", said.trim_end())));
            }
            std::thread::sleep(PACE);
        }
        Ok(redis)
    }

    fn answers(&self) -> bool {
        let ping = || -> io::Result<bool> {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"+PONG")
        };
        ping().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nook_is_short_private_and_goes() {
        use std::os::unix::fs::PermissionsExt as _;
        let (one, two) = (Nook::new().unwrap(), Nook::new().unwrap());
        assert_ne!(one.0, two.0);
        assert!(one.path().join("redis.sock").as_os_str().len() < 107);
        assert!(Nook::is_one(one.path()) && !Nook::is_one(&std::env::temp_dir()));
        assert_eq!(fs::metadata(&one.0).unwrap().permissions().mode() & 0o777, 0o700);
        let path = one.0.clone();
        fs::write(one.path().join("redis.sock"), "").unwrap();
        drop(one);
        assert!(!path.exists() && two.0.exists());
    }

    #[test]
    fn this_process_has_memory_and_one_that_cannot_be_has_none() {
        assert!(resident(std::process::id()).unwrap() > 1 << 20);
        assert!(resident(u32::MAX).is_err());
    }
}
