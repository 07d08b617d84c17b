//! Toy servers as processes of their own, which can be killed and started again at their address.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Process, eventually, executable};

/// An address that stays ours while nobody listens there: sockets that share it have all said so, and
/// none gets it by chance.
pub fn reserved() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A toy server as a process.
pub fn origin_process(name: &str, address: SocketAddr) -> Process {
    Process::spawn(&["origin", "--quiet", "--listen", &address.to_string(), "--name", name])
}

/// A toy server that a hook restarts, as a service manager would: it is known by its pid file.
pub struct Service {
    pub name: String,
    pub address: SocketAddr,
    _place: socket2::Socket,
    dir: PathBuf,
}

impl Service {
    /// Starts it with [`Self::script`], as hooks do.
    pub fn start(name: &str, dir: &Path) -> Self {
        let (place, address) = reserved();
        let service = Self { name: name.to_owned(), address, _place: place, dir: dir.to_owned() };
        service.restart();
        service
    }

    /// One of each name, with their script.
    pub fn several(names: &[&str], dir: &Path) -> Vec<Self> {
        Self::script(dir);
        names.iter().map(|name| Self::start(name, dir)).collect()
    }

    /// As a server of `app` in the configuration.
    pub fn table(&self) -> String {
        format!("[[upstream.app.server]]\nname = \"{}\"\naddress = \"{}\"\n", self.name, self.address)
    }

    /// Kills it, if it runs, and starts it again.
    pub fn restart(&self) {
        let mut command = std::process::Command::new(self.dir.join("restart.sh"));
        command.env("EVENKEEL_SERVER", &self.name).env("EVENKEEL_ADDRESS", self.address.to_string());
        assert!(command.status().unwrap().success());
        eventually("it listens", || std::net::TcpStream::connect(self.address).ok());
    }

    /// What has arrived at it and at those before it in its place, a line each.
    pub fn arrivals(&self) -> PathBuf {
        self.dir.join(format!("{}.arrivals", self.name))
    }

    /// The script that kills the server whose name is in the environment, and starts another.
    pub fn script(dir: &Path) -> PathBuf {
        let file = dir.join("restart.sh");
        let text = format!(
            "#!/bin/bash\n\
             pid='{dir}'/\"$EVENKEEL_SERVER\".pid\n\
             [ ! -f \"$pid\" ] || kill -9 \"$(cat \"$pid\")\" 2>/dev/null\n\
             # Its address is free when nobody listens there: a process that was killed may take a moment to go.\n\
             while (exec 3<>\"/dev/tcp/${{EVENKEEL_ADDRESS/://}}\") 2>/dev/null; do sleep 0.01; done\n\
             '{program}' origin --quiet --listen \"$EVENKEEL_ADDRESS\" --name \"$EVENKEEL_SERVER\" \\\n\
               --arrivals '{dir}'/\"$EVENKEEL_SERVER\".arrivals >/dev/null 2>&1 &\n\
             echo $! > \"$pid\"\n",
            dir = dir.display(),
            program = env!("CARGO_BIN_EXE_evenkeel"),
        );
        executable(&file, &text);
        file
    }

    pub fn pid(&self) -> i32 {
        std::fs::read_to_string(self.dir.join(format!("{}.pid", self.name))).unwrap().trim().parse().unwrap()
    }

    /// Kills it as a crash would.
    pub fn kill(&self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}
