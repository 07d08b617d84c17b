//! evenkeel as a process of its own, for what belongs to a process: memory, descriptors, its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Client, Proxy, Raw, Status, admin, eventually};

/// A running `evenkeel run`. Dropped, it is killed.
pub struct Child {
    process: std::process::Child,
    pub address: SocketAddr,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Child {
    pub fn start(toml: &str) -> Self {
        Self::start_under("", toml)
    }

    /// Starts it from a shell, after `setup` (such as `ulimit -n 64;`), and waits until it is ready.
    pub fn start_under(setup: &str, toml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (socket, config) = (dir.path().join("admin.sock"), dir.path().join("evenkeel.toml"));
        std::fs::write(&config, Proxy::complete(toml, "127.0.0.1:0", &socket)).unwrap();
        let process = Command::new("bash")
            .arg("-c")
            .arg(format!("{setup} exec {} run -c {}", env!("CARGO_BIN_EXE_evenkeel"), config.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = Self { process, address: ([127, 0, 0, 1], 0).into(), socket, _dir: dir };
        eventually("the process is ready", || {
            std::os::unix::net::UnixStream::connect(&child.socket).ok()?;
            (admin(&child.socket, "GET", "/readyz", "").0 == 200).then_some(())
        });
        child.address = child.status().listeners[0].address.parse().unwrap();
        child
    }

    pub fn client(&self) -> Client {
        Client::to(self.address)
    }

    pub fn raw(&self) -> Raw {
        Raw::to(self.address)
    }

    pub fn status(&self) -> Status {
        serde_json::from_str(&admin(&self.socket, "GET", "/status", "").1).unwrap()
    }

    /// Memory that is resident now, in bytes.
    pub fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.process.id())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// The sum of a metric's samples.
    pub fn metric(&self, name: &str) -> f64 {
        let text = admin(&self.socket, "GET", "/metrics", "").1;
        let is = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        text.lines().filter(is).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // Linux tells it in hundredths of a second on every platform.
        Duration::from_millis(ticks * 10)
    }

    /// Sends a signal by name.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; its exit code.
    pub fn wait(&mut self) -> i32 {
        self.process.wait().unwrap().code().unwrap_or(-1)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
