//! What is run for each server: in this command, with the rights of whoever gave it.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::interrupt::Interrupts;
use crate::cli::client;
use crate::units::show_duration;

/// How long a hook has to end by itself once it was told to.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked at whether a group of processes is gone: nothing tells of that.
const LOOK: Duration = Duration::from_millis(20);

/// A command line for each server.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) enum Hook<'a> {
    /// For a shell, with places to fill in.
    Shell(&'a str),
    Program(&'a Path),
}

/// The server that a hook is for.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Place<'a> {
    pub(in crate::cli) upstream: &'a str,
    pub(in crate::cli) name: &'a str,
    pub(in crate::cli) address: &'a str,
}

impl Hook<'_> {
    /// Runs it and waits for its end, which an interrupt hastens. It never goes on when this returns.
    ///
    /// # Errors
    /// Why the server must not be taken for restarted, as the rest of a sentence.
    pub(in crate::cli) async fn run(
        self,
        place: Place<'_>,
        within: Duration,
        interrupts: &Interrupts,
    ) -> Result<(), String> {
        if interrupts.times() > 0 {
            return Err(format!("{}, and its hook was not begun", interrupts.why()));
        }
        let mut child = self.spawn(place).map_err(|error| format!("the hook cannot be run: {error}"))?;
        let group = Group(child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())));
        let ended = tokio::select! {
            ended = timeout(within, child.wait()) => ended.ok(),
            () = interrupts.at_least(1) => {
                let how = end(&mut child, &group, interrupts, 2).await;
                return Err(format!("{}, and its hook {how}", interrupts.why()));
            }
        };
        match ended {
            Some(Ok(status)) => {
                group.keep();
                judge(status)
            }
            Some(Err(error)) => Err(format!("the hook cannot be waited for: {error}")),
            None => {
                let how = end(&mut child, &group, interrupts, 1).await;
                Err(format!("the hook did not end within {} and {how}", show_duration(within)))
            }
        }
    }

    fn spawn(self, place: Place<'_>) -> io::Result<Child> {
        let mut command = match self {
            Self::Shell(line) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(filled(line, place));
                shell
            }
            Self::Program(program) => Command::new(program),
        };
        // What it says belongs to nobody's answer: standard output may be read by a program.
        let out = io::stderr().as_fd().try_clone_to_owned()?;
        command
            .env("EVENKEEL_UPSTREAM", place.upstream)
            .env("EVENKEEL_SERVER", place.name)
            .env("EVENKEEL_ADDRESS", place.address)
            .stdin(Stdio::null())
            .stdout(Stdio::from(out))
            // Signals for this command are not for what it has begun to do: it passes on what is meant.
            .process_group(0)
            .kill_on_drop(true);
        command.spawn()
    }
}

/// Whether there is such a program, where it would be looked for.
pub(super) fn runnable(program: &Path) -> Result<(), String> {
    let look = |path: &Path| {
        let metadata = std::fs::metadata(path).map_err(|error| client::words(&error))?;
        match (metadata.is_file(), metadata.permissions().mode() & 0o111) {
            (false, _) => Err("it is no file".to_owned()),
            (true, 0) => Err("it is not executable (chmod +x)".to_owned()),
            (true, _) => Ok(()),
        }
    };
    if program.as_os_str().as_bytes().contains(&b'/') {
        return look(program);
    }
    // Without a PATH the system has one of its own.
    let Some(path) = std::env::var_os("PATH") else { return Ok(()) };
    if !program.as_os_str().is_empty() && std::env::split_paths(&path).any(|dir| look(&dir.join(program)).is_ok()) {
        return Ok(());
    }
    Err("PATH has no program of that name; write ./NAME for one in this directory".to_owned())
}

fn judge(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("the hook failed ({status})")) }
}

/// The processes of a hook. Those that are left are killed when it is dropped.
struct Group(Option<Pid>);

impl Group {
    /// Lets go of it: what a hook leaves behind, such as the server that it has started, is meant to stay.
    fn keep(mut self) {
        self.0 = None;
    }

    fn send(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, signal);
        }
    }

    async fn gone(&self) {
        while self.0.is_some_and(|pid| test_kill_process_group(pid).is_ok()) {
            sleep(LOOK).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.send(Signal::KILL);
    }
}

/// Ends a hook with all that it has started: gently at first, at once when told so. The answer says how it
/// ended.
async fn end(child: &mut Child, group: &Group, interrupts: &Interrupts, at_once: u32) -> &'static str {
    group.send(Signal::TERM);
    let ended = async {
        let _ = child.wait().await;
        group.gone().await;
    };
    tokio::select! {
        () = ended => return "was ended with TERM",
        () = sleep(GRACE) => {}
        () = interrupts.at_least(at_once) => {}
    }
    group.send(Signal::KILL);
    let _ = child.wait().await;
    "was killed"
}

/// Fills the places in.
fn filled(line: &str, place: Place<'_>) -> String {
    let mut text = line.to_owned();
    for (mark, value) in [("{name}", place.name), ("{address}", place.address), ("{upstream}", place.upstream)] {
        text = text.replace(mark, &quoted(value));
    }
    text
}

/// One word for a shell, whatever is in it.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:@/-".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { upstream: "shop", name: "a", address: "10.0.0.1:3000" };

    #[test]
    fn places_are_filled_in_as_one_word_each() {
        assert_eq!(filled("systemctl restart shop@{name}", PLACE), "systemctl restart shop@a");
        assert_eq!(filled("x {upstream} {address}", PLACE), "x shop 10.0.0.1:3000");
        let odd = Place { name: "unix:/run/it's; rm -rf x", ..PLACE };
        assert_eq!(filled("x {name}", odd), "x 'unix:/run/it'\\''s; rm -rf x'");
    }

    #[tokio::test]
    async fn a_hook_that_fails_says_how() {
        let never = Interrupts::by_hand();
        let run = async |line: &str, within| Hook::Shell(line).run(PLACE, Duration::from_millis(within), &never).await;
        assert_eq!(
            run("test \"$EVENKEEL_SERVER $EVENKEEL_ADDRESS $EVENKEEL_UPSTREAM\" = 'a 10.0.0.1:3000 shop'", 9000).await,
            Ok(())
        );
        assert_eq!(run("exit 3", 9000).await, Err("the hook failed (exit status: 3)".to_owned()));
        let late = run("exec sleep 60", 50).await.unwrap_err();
        assert!(late.contains("did not end within 50ms and was ended with TERM"), "{late}");
        let missing = Hook::Program(Path::new("/nowhere/x")).run(PLACE, Duration::from_secs(9), &never);
        let missing = missing.await.unwrap_err();
        assert!(missing.contains("cannot be run"), "{missing}");
    }

    #[test]
    fn a_program_is_found_where_it_would_be_run_from() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "#!/bin/sh\n").unwrap();
        assert_eq!(runnable(Path::new("sh")), Ok(()));
        assert_eq!(runnable(Path::new("/bin/sh")), Ok(()));
        for (program, why) in [
            (dir.path().join("nope.sh"), "No such file"),
            (dir.path().to_owned(), "no file"),
            (plain, "not executable"),
            ("no-such-program".into(), "PATH has no"),
            ("".into(), "PATH has no"),
        ] {
            let refused = runnable(&program).unwrap_err();
            assert!(refused.contains(why), "{}: {refused}", program.display());
        }
    }

    #[tokio::test]
    async fn what_was_interrupted_begins_no_hook() {
        let dir = tempfile::tempdir().unwrap();
        let interrupts = Interrupts::by_hand();
        interrupts.lose("it was abandoned by somebody else".to_owned());
        let line = format!("touch '{}/ran'", dir.path().display());
        let ended = Hook::Shell(&line).run(PLACE, Duration::from_secs(60), &interrupts).await;
        assert_eq!(ended, Err("it was abandoned by somebody else, and its hook was not begun".to_owned()));
        assert!(!dir.path().join("ran").exists());
    }

    /// A line that says with a file that it runs, and its pid.
    fn line(dir: &Path, line: &str) -> String {
        format!("{line}; sleep 60 & echo $! > '{0}/new' && mv '{0}/new' '{0}/pid'; wait", dir.display())
    }

    async fn pid(dir: &Path) -> Pid {
        loop {
            if let Ok(text) = std::fs::read_to_string(dir.join("pid")) {
                return Pid::from_raw(text.trim().parse().unwrap()).unwrap();
            }
            sleep(LOOK).await;
        }
    }

    fn is_there(pid: Pid) -> bool {
        // One that has ended and that nobody has waited for yet is as good as gone.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[tokio::test]
    async fn an_interrupt_ends_all_that_a_hook_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let interrupts = Interrupts::by_hand();
        let line = line(dir.path(), "true");
        let hook = Hook::Shell(&line).run(PLACE, Duration::from_secs(60), &interrupts);
        let interrupt = async {
            let pid = pid(dir.path()).await;
            assert!(is_there(pid));
            interrupts.interrupt();
            pid
        };
        let (ended, pid) = tokio::join!(hook, interrupt);
        // Where nobody waits for orphans, they are not seen to end.
        assert!(ended.unwrap_err().starts_with("it was interrupted, and its hook was "));
        assert!(!is_there(pid), "the shell's child as well");
    }

    #[tokio::test]
    async fn a_second_interrupt_waits_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let interrupts = Interrupts::by_hand();
        // TERM is ignored, by what it starts as well.
        let line = line(dir.path(), "trap '' TERM");
        let began = std::time::Instant::now();
        let hook = Hook::Shell(&line).run(PLACE, Duration::from_secs(60), &interrupts);
        let interrupt = async {
            let pid = pid(dir.path()).await;
            interrupts.interrupt();
            sleep(LOOK * 5).await;
            assert!(is_there(pid), "it ignores TERM");
            interrupts.interrupt();
            pid
        };
        let (ended, pid) = tokio::join!(hook, interrupt);
        assert_eq!(ended, Err("it was interrupted, and its hook was killed".to_owned()));
        while is_there(pid) {
            sleep(LOOK).await;
        }
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
