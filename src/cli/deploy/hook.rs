//! What is run for each server: in this command, with the rights of whoever gave it.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a hook has to end by itself once nobody waits for it.
const GRACE: Duration = Duration::from_secs(5);

/// A command line for each server.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hook<'a> {
    /// For a shell, with places to fill in.
    Shell(&'a str),
    Program(&'a Path),
}

/// The server that a hook is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) upstream: &'a str,
    pub(super) name: &'a str,
    pub(super) address: &'a str,
}

impl Hook<'_> {
    /// Runs it and waits for its end.
    ///
    /// # Errors
    /// Why the server must not be taken for restarted, as the rest of a sentence.
    pub(super) async fn run(self, place: Place<'_>, within: Duration) -> Result<(), String> {
        let mut child = self.spawn(place).map_err(|error| format!("the hook cannot be run: {error}"))?;
        match timeout(within, child.wait()).await {
            Ok(Ok(status)) => judge(status),
            Ok(Err(error)) => Err(format!("the hook cannot be waited for: {error}")),
            Err(_) => {
                end(&mut child).await;
                Err(format!("the hook did not end within {}", crate::units::show_duration(within)))
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
            .kill_on_drop(true);
        command.spawn()
    }
}

fn judge(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("the hook failed ({status})")) }
}

async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
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
        let run = async |line: &str, within| Hook::Shell(line).run(PLACE, Duration::from_millis(within)).await;
        assert_eq!(
            run("test \"$EVENKEEL_SERVER $EVENKEEL_ADDRESS $EVENKEEL_UPSTREAM\" = 'a 10.0.0.1:3000 shop'", 9000).await,
            Ok(())
        );
        assert_eq!(run("exit 3", 9000).await, Err("the hook failed (exit status: 3)".to_owned()));
        let late = run("exec sleep 60", 50).await.unwrap_err();
        assert!(late.contains("did not end within 50ms"), "{late}");
        let missing = Hook::Program(Path::new("/nowhere/x")).run(PLACE, Duration::from_secs(9)).await.unwrap_err();
        assert!(missing.contains("cannot be run"), "{missing}");
    }
}
