//! With a service manager: it is told what it has to know (sd_notify(3)), and may open the sockets
//! (sd_listen_fds(3)).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use crate::harness;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::upgrading::{Upgrading, gone, kill};
use harness::{Client, PATIENCE, Process, Running, Signal, app, command, origins};

const RR: &str = "\"round_robin\"";

/// What the service manager is told next.
#[track_caller]
fn told(manager: &UnixDatagram) -> String {
    let mut words = [0; 256];
    let length = manager.recv(&mut words).expect("some word");
    String::from_utf8_lossy(&words[..length]).into_owned()
}

#[test]
fn the_service_manager_is_told_who_is_main_and_what_it_does() {
    let origins = origins(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let evenkeel = Upgrading::with(&app(RR, &origins), |command| _ = command.env("NOTIFY_SOCKET", &path));
    assert_eq!(told(&manager), "READY=1");
    evenkeel.process.signal(Signal::HUP);
    assert!(told(&manager).starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(told(&manager), "READY=1");
    // It believes the main process alone: the new one speaks once it is that.
    let new = evenkeel.upgrade();
    assert_eq!([told(&manager), told(&manager)], [format!("MAINPID={new}"), "READY=1".to_owned()]);
    evenkeel.alone();
    let newest = evenkeel.upgrade();
    assert_eq!([told(&manager), told(&manager)], [format!("MAINPID={newest}"), "READY=1".to_owned()]);
    kill(newest, Signal::TERM);
    assert_eq!(told(&manager), "STOPPING=1");
    gone(newest);
}

#[test]
fn a_service_manager_may_listen_in_the_abstract() {
    let origins = origins(1);
    let name = format!("evenkeel-test-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = format!("@{name}");
    let evenkeel = Running::with(&app(RR, &origins), |command| _ = command.env("NOTIFY_SOCKET", name));
    assert_eq!(told(&manager), "READY=1");
    evenkeel.stop().ends(0);
    assert_eq!(told(&manager), "STOPPING=1");
}

/// Starts `command` with a socket as the service manager does: as descriptor 3, said to be for that process.
fn activated(command: &mut Command, socket: OwnedFd) {
    let mut shell = Command::new("sh");
    let script = "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\" 3<&0 </dev/null";
    shell.args(["-c", script]).arg(command.get_program()).args(command.get_args()).stdin(Stdio::from(socket));
    *command = shell;
}

/// A socket that listens as a service manager's does: nobody may join it.
fn listening() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn bound(address: SocketAddr, origins: &[harness::Origin]) -> String {
    format!("cores = 3\n[[listener]]\nname = \"main\"\nbind = \"{address}\"\n{}", app(RR, origins))
}

#[test]
fn a_socket_of_the_service_manager_is_used_by_all_cores_and_handed_on() {
    let origins = origins(1);
    let (socket, address) = listening();
    let ours = socket.try_clone().unwrap();
    let evenkeel = Upgrading::with(&bound(address, &origins), |command| activated(command, ours.into()));
    for _ in 0..2 {
        let clients: Vec<Client> = (0..20)
            .map(|_| {
                let mut client = Client::to(address);
                assert_eq!(client.get("/echo").status, 200);
                client
            })
            .collect();
        drop(clients);
        evenkeel.alone();
        evenkeel.upgrade();
    }
    evenkeel.alone();
    let last = evenkeel.pid();
    evenkeel.verb(&["stop"]).ends(0);
    gone(last);
    // Whoever comes now waits in the queue for the next one.
    let waiting = std::thread::spawn(move || Client::to(address).get("/echo").status);
    let next = Running::with(&bound(address, &origins), |command| activated(command, socket.into()));
    assert_eq!(waiting.join().unwrap(), 200);
    next.stop().ends(0);
}

#[test]
fn the_admin_socket_may_be_the_service_managers_and_stays_its_own() {
    let origins = origins(1);
    let mut kept = None;
    let evenkeel = Upgrading::with(&app(RR, &origins), |command| {
        let config = Path::new(command.get_args().last().unwrap()).to_owned();
        let socket = UnixListener::bind(config.with_file_name("admin.sock")).unwrap();
        kept = Some(socket.try_clone().unwrap());
        activated(command, socket.into());
    });
    evenkeel.upgrade();
    evenkeel.alone();
    let last = evenkeel.pid();
    evenkeel.verb(&["stop"]).ends(0);
    gone(last);
    assert!(evenkeel.socket().exists());
    // Nobody is there to answer: who still asked would wait.
    drop(kept);
}

#[test]
fn a_socket_that_nothing_in_the_configuration_wants_is_refused() {
    let origins = origins(1);
    let (socket, address) = listening();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("evenkeel.toml");
    let text = format!(
        "[admin]\nsocket = {:?}\n[[listener]]\nbind = \"127.0.0.1:0\"\n{}",
        dir.path().join("admin.sock"),
        app(RR, &origins)
    );
    std::fs::write(&config, text).unwrap();
    let mut command = command(&["run", "-c", config.to_str().unwrap()]);
    activated(&mut command, socket.into());
    let done = Process::of(&mut command).wait().ends(3);
    assert!(done.err.contains(&format!("the service manager has opened {address}, where nothing")), "{done:?}");
    assert!(!dir.path().join("admin.sock").exists());
}

#[test]
fn sockets_for_another_process_are_none_of_its_business() {
    let origins = origins(1);
    let evenkeel = Running::with(&app(RR, &origins), |command| {
        command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    });
    assert_eq!(evenkeel.client().get("/echo").status, 200);
    evenkeel.stop().ends(0);
}
