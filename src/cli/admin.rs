//! Where the running evenkeel's admin API is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use super::args::Global;
use super::exit::{Exit, Failure};
use crate::control::default_socket;

/// Where configuration is looked for when nobody names a file, in this order.
pub(super) const CONFIG_FILES: [&str; 2] = ["/etc/evenkeel/evenkeel.toml", "evenkeel.toml"];

/// An address of the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AdminAddress {
    Unix(PathBuf),
    /// `host:port`, as it also stands in the `Host` header.
    Tcp(String),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("{why}; write unix:/path, /path, http://host:port or host:port, such as http://127.0.0.1:9191")
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(wrong("a Unix socket needs its whole path"))
            };
        }
        // Also one from here: no host with a port begins or ends so.
        let is_path = text.starts_with(['/', '.']) || (text.ends_with(".sock") && !text.contains("://"));
        if is_path {
            let whole = std::path::absolute(text).map_err(|error| wrong(&error.to_string()))?;
            return Ok(Self::Unix(whole));
        }
        if text.starts_with("https://") {
            return Err(wrong("the admin API does not speak TLS"));
        }
        let authority = text.strip_prefix("http://").unwrap_or(text);
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '@', '?', '#']) || authority.contains(char::is_whitespace) {
            return Err(wrong("that is more than a host and a port"));
        }
        match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                let bracketed = host.starts_with('[') && host.ends_with(']');
                if host.contains(':') && !bracketed {
                    return Err(wrong("an IPv6 address stands in brackets, [::1]:9191"));
                }
                Ok(Self::Tcp(authority.to_owned()))
            }
            _ => Err(wrong("the port is missing")),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}

/// An admin API and what it wants to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Admin {
    pub address: AdminAddress,
    pub token: Option<String>,
}

/// Finds the admin API: what was said, else what the configuration says, else this user's own socket.
///
/// # Errors
/// When the directory of the default socket belongs to somebody else: who answers there is not to be
/// believed.
pub(super) fn find(global: &Global) -> Result<Admin, Failure> {
    if let Some(address) = &global.admin {
        return Ok(Admin { address: address.clone(), token: global.admin_token.clone() });
    }
    let (address, token) = match config_file(global.config.as_deref()).and_then(|file| Peek::read(&file)) {
        Some(admin) => (admin.address(), admin.token()),
        None => (None, None),
    };
    let token = global.admin_token.clone().or(token);
    if let Some(address) = address {
        return Ok(Admin { address, token });
    }
    let socket = default_socket::path();
    default_socket::check_directory(&socket).map_err(|error| {
        Failure::new(
            Exit::AdminUnreachable,
            format!("the default admin socket cannot be trusted: {error}. Say where the admin API is with --admin"),
        )
    })?;
    Ok(Admin { address: AdminAddress::Unix(socket), token })
}

/// The configuration in use: the one that was named, else the first of [`CONFIG_FILES`] that exists.
#[must_use]
pub(super) fn config_file(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_owned).or_else(|| CONFIG_FILES.iter().map(PathBuf::from).find(|file| file.exists()))
}

/// The `[admin]` table and nothing else of a configuration. The rest is not looked at, since verbs must
/// reach a running evenkeel also while its file is being edited and is not valid, and also for users
/// who may not read the keys that it names.
#[derive(Debug, Default, Deserialize)]
struct Peek {
    socket: Option<PathBuf>,
    bind: Option<toml::Value>,
    token: Option<String>,
    token_file: Option<PathBuf>,
}

impl Peek {
    fn read(file: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(file).ok()?;
        let mut table: toml::Table = text.parse().ok()?;
        table.remove("admin")?.try_into().ok()
    }

    fn address(&self) -> Option<AdminAddress> {
        if let Some(socket) = &self.socket {
            return Some(AdminAddress::Unix(socket.clone()));
        }
        let bind: SocketAddr = match self.bind.as_ref()? {
            toml::Value::Integer(port) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), u16::try_from(*port).ok()?),
            toml::Value::String(text) => text.parse().ok().or_else(|| {
                let port = text.trim_start_matches('*').trim_start_matches(':');
                Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.parse().ok()?))
            })?,
            _ => return None,
        };
        Some(AdminAddress::Tcp(SocketAddr::new(reachable(bind.ip()), bind.port()).to_string()))
    }

    fn token(self) -> Option<String> {
        self.token.or_else(|| Some(std::fs::read_to_string(self.token_file?).ok()?.trim().to_owned()))
    }
}

/// The address at which a client on the same machine finds a listener bound to `ip`.
#[must_use]
pub(super) fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;

    fn global(line: &[&str]) -> Global {
        args::parse([&["evenkeel", "status"], line].concat()).unwrap().global
    }

    #[test]
    fn addresses_read() {
        for (text, shown) in [
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("unix:///run/x.sock", "unix:/run/x.sock"),
            ("/run/x.sock", "unix:/run/x.sock"),
            ("http://127.0.0.1:9191", "http://127.0.0.1:9191"),
            ("http://localhost:9191/", "http://localhost:9191"),
            ("127.0.0.1:9191", "http://127.0.0.1:9191"),
            ("[::1]:9191", "http://[::1]:9191"),
        ] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), shown, "{text}");
        }
        for text in ["adm.sock", "./adm.sock", "run/adm.sock"] {
            let whole = std::env::current_dir().unwrap().join(text.trim_start_matches("./"));
            assert_eq!(text.parse::<AdminAddress>().unwrap(), AdminAddress::Unix(whole), "{text}");
        }
        for text in
            ["", "unix:x.sock", "https://127.0.0.1:9191", "127.0.0.1", "http://127.0.0.1:9191/status", "::1:9191"]
        {
            let error = text.parse::<AdminAddress>().unwrap_err();
            assert!(error.contains("http://127.0.0.1:9191"), "{text}: {error}");
        }
        for text in [":9191", "127.0.0.1:0", "127.0.0.1:99999", "a b:1", "user@host:1"] {
            assert!(text.parse::<AdminAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_said_wins_then_the_file_then_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("evenkeel.toml");
        let path = file.to_str().unwrap();

        // The rest of the file is invalid on purpose.
        std::fs::write(&file, "cores = \"many\"\n[admin]\nbind = \"0.0.0.0:9292\"\ntoken = \"t\"\n").unwrap();
        let found = find(&global(&["-c", path])).unwrap();
        assert_eq!(found, Admin { address: "127.0.0.1:9292".parse().unwrap(), token: Some("t".into()) });
        let found = find(&global(&["-c", path, "--admin", "/x.sock", "--admin-token", "u"])).unwrap();
        assert_eq!(found, Admin { address: "/x.sock".parse().unwrap(), token: Some("u".into()) });

        std::fs::write(&file, "[admin]\nbind = \"127.0.0.1:1\"\nsocket = \"/y.sock\"\n").unwrap();
        assert_eq!(find(&global(&["-c", path])).unwrap().address, "/y.sock".parse().unwrap());

        let secret = dir.path().join("token");
        std::fs::write(&secret, "from a file\n").unwrap();
        for bind in ["9292", "\":9292\"", "\"[::]:9292\""] {
            std::fs::write(&file, format!("[admin]\nbind = {bind}\ntoken_file = {secret:?}\n")).unwrap();
            let found = find(&global(&["-c", path])).unwrap();
            assert_eq!(found, Admin { address: "[::1]:9292".parse().unwrap(), token: Some("from a file".into()) });
        }

        for text in ["", "this is no TOML", "[admin]\n"] {
            std::fs::write(&file, text).unwrap();
            let found = find(&global(&["-c", path])).unwrap();
            assert_eq!(found.address, AdminAddress::Unix(default_socket::path()), "{text}");
        }
    }
}
