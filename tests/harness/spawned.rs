//! The real binary as a child process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use super::eventually;

/// The binary with these arguments, its output piped and its environment free of settings.
pub fn evenkeel(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("EVENKEEL_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A running child; killed when dropped.
pub struct Spawned {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Spawned {
    /// Starts it; what it writes to standard error is kept, the rest is read and forgotten.
    pub fn start(args: &[&str]) -> Self {
        let mut child = evenkeel(args).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (kept, out, err) = (Arc::clone(&said), child.stdout.take().unwrap(), child.stderr.take().unwrap());
        std::thread::spawn(move || std::io::copy(&mut BufReader::new(out), &mut std::io::sink()));
        std::thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                let mut said = kept.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        Self { child, said }
    }

    /// What it has written to standard error.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the end of a child process", || self.ended())
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.kill();
    }
}
