//! The real binary as a child process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, kill_process};

use super::api::Api;
use super::{Client, Proxy, Raw, eventually};

pub use rustix::process::Signal;

/// How a command ended and what it wrote.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    /// The answer as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Panics unless it ended with `code`.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// The binary, without what the environment of this process would tell it.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"EVENKEEL_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// The same command from a shell, after `setup` (such as `ulimit -n 64`).
pub fn under(setup: &str, command: &Command) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("{setup} && exec \"$0\" \"$@\"")]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null());
    shell
}

/// Runs the binary to its end.
pub fn cli(args: &[&str]) -> Done {
    run(&mut command(args))
}

/// `evenkeel run` with a file, where it is not expected to come up.
pub fn cli_with_file(toml: &str) -> Done {
    let dir = tempfile::tempdir().unwrap();
    let (config, socket) = (dir.path().join("evenkeel.toml"), dir.path().join("admin.sock"));
    std::fs::write(&config, Proxy::complete(toml, "127.0.0.1:0", &socket)).unwrap();
    cli(&["run", "-c", config.to_str().unwrap()])
}

/// Writes a program that can be run at once. Another process does it: a file that this one has open for writing is
/// so in every child of another thread, too, until that has become its own program, and cannot be run meanwhile.
pub fn executable(path: &Path, text: &str) {
    let mut write = Command::new("sh");
    write.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut writer = write.spawn().unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Done {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// A child process and what it has written so far. Killed when dropped.
pub struct Process {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    pub fn spawn(args: &[&str]) -> Self {
        Self::of(&mut command(args))
    }

    pub fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, first) = collect(child.stdout.take().unwrap());
        let (err, second) = collect(child.stderr.take().unwrap());
        Self { child, out, err, readers: vec![first, second] }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it has written to standard output so far.
    pub fn out(&self) -> String {
        self.out.lock().unwrap().clone()
    }

    /// What it has written to standard error so far.
    pub fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    /// Waits until standard error holds a line with `text`, and gives it.
    #[track_caller]
    pub fn says(&self, text: &str) -> String {
        let found = |all: String| all.lines().find(|line| line.contains(text)).map(str::to_owned);
        eventually(&format!("`{text}` in the log"), || found(self.err()))
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Done {
        let status = eventually("the end of the process", || self.ended());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Done { code: status.code(), out: self.out(), err: self.err() }
    }

    /// Kills it, and returns when it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // Linux tells it in hundredths of a second on every platform.
        Duration::from_millis(ticks * 10)
    }

    /// Memory in RAM, in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Memory in RAM once it no longer grows, in KiB: nothing tells when the last of what was sent is read.
    pub fn settled_rss_kib(&self) -> u64 {
        let (mut most, mut same) = (0, 0);
        eventually("memory no longer grows", || {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.rss_kib();
            same = if now > most { 0 } else { same + 1 };
            most = most.max(now);
            (same >= 10).then_some(most)
        })
    }

    /// How many descriptors are open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn collect(from: impl Read + Send + 'static) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&text);
    let reader = std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    (text, reader)
}

/// `evenkeel run` with a file of its own, serving.
pub struct Running {
    pub process: Process,
    pub address: SocketAddr,
    pub config: PathBuf,
    api: Api,
    dir: tempfile::TempDir,
}

impl Deref for Running {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Running {
    /// Starts it and waits until it is ready. `toml` is completed as for [`Proxy::start`].
    pub fn start(toml: &str) -> Self {
        Self::with(toml, |_| {})
    }

    /// The same with something changed about the command. `DIR` in the TOML is a directory of its own.
    pub fn with(toml: &str, change: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (socket, config) = (dir.path().join("admin.sock"), dir.path().join("evenkeel.toml"));
        let toml = toml.replace("DIR", dir.path().to_str().unwrap());
        std::fs::write(&config, Proxy::complete(&toml, "127.0.0.1:0", &socket)).unwrap();
        let mut command = command(&["run", "-c", config.to_str().unwrap()]);
        change(&mut command);
        let mut process = Process::of(&mut command);
        eventually("the admin socket", || {
            assert!(process.ended().is_none(), "{}", process.err());
            socket.exists().then_some(())
        });
        let api = Api::new(socket);
        let address = eventually("readiness", || {
            let ready = std::os::unix::net::UnixStream::connect(api.socket()).is_ok()
                && api.admin("GET", "/readyz", "").0 == 200;
            ready.then(|| api.status().listeners[0].address.parse().unwrap())
        });
        Self { process, address, config, api, dir }
    }

    /// Puts another configuration in its place, completed in the same way, and does not reload it.
    pub fn write(&self, toml: &str) {
        let toml = toml.replace("DIR", self.dir.path().to_str().unwrap());
        std::fs::write(&self.config, Proxy::complete(&toml, "127.0.0.1:0", self.api.socket())).unwrap();
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a verb against it.
    pub fn verb(&self, args: &[&str]) -> Done {
        let admin = self.socket().to_str().unwrap().to_owned();
        cli(&[args, &["--admin", &admin]].concat())
    }

    pub fn client(&self) -> Client {
        Client::to(self.address)
    }

    pub fn raw(&self) -> Raw {
        Raw::to(self.address)
    }

    /// Tells it to stop and waits for its end.
    #[track_caller]
    pub fn stop(self) -> Done {
        self.process.signal(Signal::TERM);
        self.process.wait()
    }
}
