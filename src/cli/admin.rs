//! Where the running evenkeel's admin API is.

mod peek;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use self::peek::Peek;
use super::args::Global;
use super::client;
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
            // Whole, so that it can be looked for: what was connected to may be named from here.
            Self::Unix(path) => {
                let whole = std::path::absolute(path);
                write!(f, "unix:{}", whole.as_ref().unwrap_or(path).display())
            }
            Self::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}

/// An admin API and what it wants to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Admin {
    pub address: AdminAddress,
    pub token: Option<String>,
    /// Why it may be elsewhere, as sentences without the last one's end.
    pub doubt: Option<String>,
}

/// Finds the admin API: what was said, else what the configuration says, else this user's own socket.
///
/// # Errors
/// When a configuration was named and cannot be read. When the directory of the default socket belongs to
/// somebody else: who answers there is not to be believed.
pub(super) fn find(global: &Global) -> Result<Admin, Failure> {
    if let Some(address) = &global.admin {
        return Ok(Admin { address: address.clone(), token: global.admin_token.clone(), doubt: None });
    }
    let admin = peek(global)?;
    let (address, doubt) = (admin.address(), admin.doubt.clone());
    let token = global.admin_token.clone().or_else(|| admin.token());
    if let Some(address) = address {
        let from_here = match &address {
            AdminAddress::Unix(path) if path.is_relative() => {
                let text = "`[admin] socket` is a relative path, which is taken from the working directory of each \
                            command: write the whole path";
                Some(text.to_owned())
            }
            _ => None,
        };
        let doubts: Vec<String> = doubt.into_iter().chain(from_here).collect();
        let doubt = (!doubts.is_empty()).then(|| doubts.join(". "));
        return Ok(Admin { address, token, doubt });
    }
    let doubt = doubt.map(|doubt| format!("{doubt}, so the default socket was asked"));
    let socket = default_socket::path();
    default_socket::check_directory(&socket).map_err(|error| {
        Failure::new(
            Exit::AdminUnreachable,
            format!("the default admin socket cannot be trusted: {error}. Say where the admin API is with --admin"),
        )
    })?;
    Ok(Admin { address: AdminAddress::Unix(socket), token, doubt })
}

/// What the configuration says. Only one that was named has to be there.
fn peek(global: &Global) -> Result<Peek, Failure> {
    let Some(file) = config_file(global.config.as_deref()) else { return Ok(Peek::default()) };
    let error = match Peek::read(&file) {
        Ok(admin) => return Ok(admin),
        Err(error) => client::words(&error),
    };
    let text = format!("{} cannot be read ({error})", file.display());
    if global.config.is_some() {
        let text = format!(
            "the configuration {text}. It was named by -c or EVENKEEL_CONFIG to find the admin API: name another, or \
             say where the admin API is with --admin"
        );
        return Err(Failure::new(Exit::InvalidConfig, text));
    }
    Ok(Peek::nothing(text))
}

/// The configuration in use: the one that was named, else the first of [`CONFIG_FILES`] that exists.
#[must_use]
pub(super) fn config_file(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_owned).or_else(|| CONFIG_FILES.iter().map(PathBuf::from).find(|file| file.exists()))
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
        assert_eq!(found, Admin { address: "127.0.0.1:9292".parse().unwrap(), token: Some("t".into()), doubt: None });
        let found = find(&global(&["-c", path, "--admin", "/x.sock", "--admin-token", "u"])).unwrap();
        assert_eq!(found, Admin { address: "/x.sock".parse().unwrap(), token: Some("u".into()), doubt: None });

        std::fs::write(&file, "[admin]\nbind = \"127.0.0.1:1\"\nsocket = \"/y.sock\"\n").unwrap();
        assert_eq!(find(&global(&["-c", path])).unwrap().address, "/y.sock".parse().unwrap());

        let secret = dir.path().join("token");
        std::fs::write(&secret, "from a file\n").unwrap();
        for bind in ["9292", "\":9292\"", "\"[::]:9292\""] {
            std::fs::write(&file, format!("[admin]\nbind = {bind}\ntoken_file = {secret:?}\n")).unwrap();
            let found = find(&global(&["-c", path])).unwrap();
            let token = Some("from a file".into());
            assert_eq!(found, Admin { address: "[::1]:9292".parse().unwrap(), token, doubt: None });
        }

        let asked = ", so the default socket was asked";
        for (text, doubt) in [
            ("[admin]\n", None),
            ("", Some(format!("{path} is empty{asked}"))),
            ("\nthis is no TOML", Some(format!("{path}:2: not valid TOML{asked}"))),
            ("[admin]\nsocket = \"/y.so\n", Some(format!("{path}:2: not valid TOML{asked}"))),
            ("admin = 5\n", Some(format!("`[admin]` of {path} cannot be understood{asked}"))),
        ] {
            std::fs::write(&file, text).unwrap();
            let found = find(&global(&["-c", path])).unwrap();
            assert_eq!((found.address, found.doubt), (AdminAddress::Unix(default_socket::path()), doubt), "{text}");
        }
        std::fs::write(&file, b"a = 1\n\xff").unwrap();
        assert_eq!(find(&global(&["-c", path])).unwrap().doubt, Some(format!("{path}:2: not valid TOML{asked}")));
    }

    #[test]
    fn a_file_that_is_being_edited_still_says_where_to_ask() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("evenkeel.toml");
        let path = file.to_str().unwrap();
        std::fs::write(&file, "[admin]\nsocket = \"/y.sock\"\ntoken = \"t\"\n\n[log]\nfoo = [\n").unwrap();
        let found = find(&global(&["-c", path])).unwrap();
        let doubt = Some(format!("{path}:6: not valid TOML"));
        assert_eq!(found, Admin { address: "/y.sock".parse().unwrap(), token: Some("t".into()), doubt });

        std::fs::write(&file, "[admin]\nsocket = \"admin.sock\"\n").unwrap();
        let found = find(&global(&["-c", path])).unwrap();
        let whole = std::env::current_dir().unwrap().join("admin.sock");
        assert_eq!(found.address.to_string(), format!("unix:{}", whole.display()));
        assert!(found.doubt.unwrap().starts_with("`[admin] socket` is a relative path"));
    }

    #[test]
    fn a_file_that_was_named_has_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        for (path, why) in [("", "Is a directory"), ("nope.toml", "No such file or directory")] {
            let path = dir.path().join(path);
            let failure = find(&global(&["-c", path.to_str().unwrap()])).unwrap_err();
            assert_eq!(failure.exit, Exit::InvalidConfig);
            assert!(failure.message.contains(&format!("{} cannot be read ({why})", path.display())), "{failure:?}");
            assert!(find(&global(&["-c", path.to_str().unwrap(), "--admin", "/x.sock"])).is_ok());
        }
    }
}
