//! Toy servers as processes of their own, which can be killed and started again at their address.

use std::net::SocketAddr;
use std::path::Path;

use super::{Process, eventually};

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
    pid_file: std::path::PathBuf,
}

impl Service {
    /// Starts it with [`Self::script`], as hooks do.
    pub fn start(name: &str, dir: &Path) -> Self {
        let (place, address) = reserved();
        let pid_file = dir.join(format!("{name}.pid"));
        let service = Self { name: name.to_owned(), address, _place: place, pid_file };
        let mut command = std::process::Command::new("/bin/sh");
        command.arg(dir.join("restart.sh")).env("EVENKEEL_SERVER", name).env("EVENKEEL_ADDRESS", address.to_string());
        assert!(command.status().unwrap().success());
        eventually("it listens", || std::net::TcpStream::connect(address).ok());
        service
    }

    /// The script that kills the server whose name is in the environment, and starts another.
    pub fn script(dir: &Path) -> std::path::PathBuf {
        let file = dir.join("restart.sh");
        let text = format!(
            "#!/bin/sh\n\
             pid='{dir}'/\"$EVENKEEL_SERVER\".pid\n\
             [ ! -f \"$pid\" ] || kill -9 \"$(cat \"$pid\")\"\n\
             '{program}' origin --quiet --listen \"$EVENKEEL_ADDRESS\" --name \"$EVENKEEL_SERVER\" >/dev/null 2>&1 &\n\
             echo $! > \"$pid\"\n",
            dir = dir.display(),
            program = env!("CARGO_BIN_EXE_evenkeel"),
        );
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        file
    }

    pub fn pid(&self) -> i32 {
        std::fs::read_to_string(&self.pid_file).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
