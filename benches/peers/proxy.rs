//! The proxies: their configurations with the same duties, their processes, and what those cost.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};

use crate::backend::Backend;
use crate::tls::Certificate;
use crate::{Processors, Result, load};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Evenkeel,
    Nginx,
    Haproxy,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Evenkeel, Self::Nginx, Self::Haproxy];

    /// What prints its version.
    pub(crate) fn version_command(self, evenkeel: &Path) -> Command {
        let (program, argument) = match self {
            Self::Evenkeel => (evenkeel.to_owned(), "--version"),
            Self::Nginx => (found("nginx"), "-v"),
            Self::Haproxy => (found("haproxy"), "-v"),
        };
        let mut command = Command::new(program);
        command.arg(argument);
        command
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Evenkeel => "evenkeel",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let find = Self::ALL.into_iter().find(|kind| kind.to_string() == text);
        find.ok_or_else(|| "write evenkeel, nginx or haproxy".to_owned())
    }
}

/// Distributions keep servers where the path of ordinary users does not lead.
fn found(program: &str) -> PathBuf {
    let elsewhere = Path::new("/usr/sbin").join(program);
    if elsewhere.exists() { elsewhere } else { program.into() }
}

/// A running proxy; dropped, it is stopped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) tls_address: SocketAddr,
    child: Child,
    /// The child and its workers.
    processes: Vec<u32>,
}

impl Proxy {
    /// Starts it and waits until it answers.
    pub(crate) async fn start(
        kind: Kind,
        evenkeel: &Path,
        directory: &Path,
        servers: &[Backend; 2],
        certificate: &Certificate,
        processors: &Processors,
    ) -> Result<Self> {
        // Both held at once, so that they are two.
        let free = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
        let (address, tls_address) = (free[0].local_addr()?, free[1].local_addr()?);
        drop(free);
        let listen = Listen { address, tls_address, certificate };
        let directory = directory.join(format!("{kind}-{}", address.port()));
        fs::create_dir(&directory)?;
        let [a, b] = [servers[0].address, servers[1].address];
        let (text, file) = match kind {
            Kind::Evenkeel => (evenkeel_config(&listen, a, b, &directory), directory.join("evenkeel.toml")),
            Kind::Nginx => (nginx_config(&listen, a, b, &directory), directory.join("nginx.conf")),
            Kind::Haproxy => (haproxy_config(&listen, a, b), directory.join("haproxy.cfg")),
        };
        fs::write(&file, text)?;
        let mut command = match kind {
            Kind::Evenkeel => {
                let mut command = Command::new(evenkeel);
                command.arg("run").arg("-c").arg(&file);
                command
            }
            Kind::Nginx => {
                let mut command = Command::new(found("nginx"));
                command.arg("-p").arg(&directory).arg("-e").arg(directory.join("error.log")).arg("-c").arg(&file);
                command
            }
            Kind::Haproxy => {
                let mut command = Command::new(found("haproxy"));
                command.arg("-db").arg("-f").arg(&file);
                command
            }
        };
        let log = directory.join("output.log");
        let output = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = processors.starting(|| command.spawn());
        let child = child.map_err(|error| format!("cannot start {kind} ({:?}): {error}", command.get_program()))?;
        let mut proxy = Self { kind, address, tls_address, processes: vec![child.id()], child };
        proxy.wait(&log).await?;
        proxy.processes.extend(children(proxy.child.id())?);
        Ok(proxy)
    }

    async fn wait(&mut self, log: &Path) -> Result<()> {
        let start = Instant::now();
        while !load::answers(self.address).await {
            let ended = self.child.try_wait()?;
            if ended.is_some() || start.elapsed() > Duration::from_secs(10) {
                let said = fs::read_to_string(log).unwrap_or_default();
                let how = ended.map_or_else(|| "does not answer".to_owned(), |status| format!("ended with {status}"));
                return Err(format!("{} {how}:\n{said}", self.kind).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Processor time of all its threads so far, to the nanosecond.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let mut sum = 0;
        for process in &self.processes {
            for thread in fs::read_dir(format!("/proc/{process}/task"))? {
                // A thread that ends between the two calls has no file any more.
                let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
                sum += number(text.split(' ').next())?;
            }
        }
        Ok(Duration::from_nanos(sum))
    }

    /// Resident memory of all its processes, in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let mut sum = 0;
        for process in &self.processes {
            let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
            sum += number(line.and_then(|line| line.split_whitespace().next()))? * 1024;
        }
        Ok(sum)
    }
}

fn number(text: Option<&str>) -> io::Result<u64> {
    text.and_then(|text| text.parse().ok()).ok_or_else(|| io::Error::other("the system's numbers cannot be read"))
}

/// Processes that were started by that one.
fn children(parent: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end while the directory is read.
        let Ok(text) = fs::read_to_string(format!("/proc/{process}/stat")) else { continue };
        // The name in parentheses may hold anything; state and parent follow it.
        let after = text.rsplit_once(')').map_or("", |(_, after)| after);
        if after.split_whitespace().nth(1) == Some(parent.to_string().as_str()) {
            children.push(process);
        }
    }
    Ok(children)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        // The second TERM ends what still drains. KILL ends nginx's master alone, so it comes last.
        for signal in [Signal::TERM, Signal::TERM, Signal::KILL] {
            if kill_process(pid, signal).is_err() {
                return;
            }
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(2) {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// What every proxy listens on: in clear, and under TLS with both versions of HTTP.
struct Listen<'a> {
    address: SocketAddr,
    tls_address: SocketAddr,
    certificate: &'a Certificate,
}

fn evenkeel_config(listen: &Listen<'_>, a: SocketAddr, b: SocketAddr, directory: &Path) -> String {
    let upstream = |name: &str, policy: &str| {
        format!(
            "[upstream.{name}]\npolicy = \"{policy}\"\nservers = [\"{a}\", \"{b}\"]\ncheck = \"off\"\n\
             pool = {{ max_idle = 1024 }}\n\n"
        )
    };
    let common = "backlog = 4096\nforwarded = \"x_forwarded\"\nrequest_id = false\n";
    format!(
        "cores = 1\n\n[admin]\nsocket = \"{}\"\n\n\
         [[listener]]\nbind = \"{}\"\n{common}\n[[listener]]\nbind = \"{}\"\n{common}\
         tls = {{ certificate = {{ chain = {:?}, key = {:?} }} }}\n\n\
         [[route]]\nupstream = \"plain\"\n\n\
         [[route]]\npath = \"/sticky/\"\nupstream = \"sticky\"\n\n\
         [[route]]\npath = \"/hash/\"\nupstream = \"hash\"\n\n{}{}{}",
        directory.join("admin.sock").display(),
        listen.address,
        listen.tls_address,
        listen.certificate.chain,
        listen.certificate.key,
        upstream("plain", "round_robin"),
        upstream("sticky", "sticky_cookie"),
        upstream("hash", "ip_hash"),
    )
}

fn nginx_config(listen: &Listen<'_>, a: SocketAddr, b: SocketAddr, directory: &Path) -> String {
    let directory = directory.display();
    // Its temporary files belong to root's directory, so the worker must be root as well.
    let user = if getuid().is_root() { "user root;" } else { "" };
    let upstream = |name: &str, policy: &str| {
        format!(
            "upstream {name} {{ {policy} server {a}; server {b}; \
             keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 60s; }}\n"
        )
    };
    let forwarded = "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr; \
                     proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;";
    format!(
        "{user}\ndaemon off;\nworker_processes 1;\nworker_rlimit_nofile 20000;\npid {directory}/pid;\n\
         error_log {directory}/error.log crit;\nevents {{ worker_connections 16384; }}\nhttp {{\n\
         access_log off;\nkeepalive_requests 1000000000;\nkeepalive_timeout 60s;\nclient_max_body_size 0;\n\
         client_body_temp_path {directory}/body;\nproxy_temp_path {directory}/proxy;\n\
         fastcgi_temp_path {directory}/fastcgi;\nscgi_temp_path {directory}/scgi;\nuwsgi_temp_path {directory}/uwsgi;\n\
         {}{}{}\
         proxy_http_version 1.1;\nproxy_request_buffering off;\nproxy_max_temp_file_size 0;\n\
         server {{\nlisten {} backlog=4096;\nlisten {} ssl http2 backlog=4096;\n\
         ssl_certificate {};\nssl_certificate_key {};\nssl_protocols TLSv1.3;\n{forwarded}\nproxy_set_header Connection \"\";\n\
         location / {{ proxy_pass http://plain; }}\n\
         location /sticky/ {{ proxy_pass http://sticky; }}\n\
         location /hash/ {{ proxy_pass http://hash; }}\n\
         location = /ws {{ proxy_pass http://plain; {forwarded} \
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }}\n}}\n}}\n",
        upstream("plain", ""),
        upstream("sticky", "hash $cookie_sticky consistent;"),
        upstream("hash", "ip_hash;"),
        listen.address,
        listen.tls_address,
        listen.certificate.chain.display(),
        listen.certificate.key.display(),
    )
}

fn haproxy_config(listen: &Listen<'_>, a: SocketAddr, b: SocketAddr) -> String {
    let front = |name: &str, bind: &str, scheme: &str| {
        format!(
            "frontend {name}\n  bind {bind} backlog 4096\n\
             \x20 http-request set-header X-Forwarded-For %[src]\n\
             \x20 http-request set-header X-Forwarded-Proto {scheme}\n\
             \x20 http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
             \x20 use_backend sticky if {{ path_beg /sticky/ }}\n\
             \x20 use_backend hash if {{ path_beg /hash/ }}\n  default_backend plain\n"
        )
    };
    let certificate = listen.certificate.both.display();
    let tls = format!("{} ssl crt {certificate} alpn h2,http/1.1 ssl-min-ver TLSv1.3", listen.tls_address);
    format!(
        "global\n  nbthread 1\n  maxconn 7500\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout tunnel 1h\n\
         \x20 http-reuse always\n{}{}\
         backend plain\n  balance roundrobin\n  server a {a}\n  server b {b}\n\
         backend sticky\n  balance roundrobin\n  cookie sticky insert indirect nocache\n\
         \x20 server a {a} cookie a\n  server b {b} cookie b\n\
         backend hash\n  balance source\n  server a {a}\n  server b {b}\n",
        front("front", &listen.address.to_string(), "http"),
        front("front_tls", &tls, "https"),
    )
}
