//! `run`: the proxy itself. The only file of the command line that starts one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::admin::{self, AdminAddress};
use super::args::{Global, RunArgs};
use super::check;
use super::console::Console;
use super::exit::{Exit, Failure};
use super::logging;
use crate::config::plan::AdminPlan;
use crate::config::{self, Loaded, Plan};
use crate::control::{CommandError, Outcome, default_socket};
use crate::engine::{self, Activated, Adjust, Evenkeel, Inherited, Options, Program, StartError};

/// `run`: returns when the proxy has stopped, or another process has taken over from it.
pub(super) fn run(flags: &RunArgs, global: &Global, console: &mut Console) -> Result<Exit, Failure> {
    let failed = |what: &str, error: io::Error| Failure::new(Exit::Failure, format!("{what}: {error}"));
    let inherited = Inherited::from_parent().map_err(|error| failed("cannot take over", error))?;
    let regret = inherited.as_ref().map(Inherited::regret).transpose();
    let regret = regret.map_err(|error| failed("cannot take over", error))?;
    let activated = Activated::from_env().map_err(|error| Failure::new(Exit::Failure, error.to_string()))?;
    match begin(flags, global, (inherited, activated), console) {
        Ok(evenkeel) => {
            drop(regret);
            wait(evenkeel)
        }
        Err(failure) => {
            if let Some(regret) = regret {
                regret.say(failure.exit.refusal(), &failure.message);
            }
            Err(failure)
        }
    }
}

/// How this process was started, so that another can be: from the path that was typed, not from the file behind
/// it, which may be replaced.
fn program() -> Option<Program> {
    let mut args = std::env::args_os();
    let path = PathBuf::from(args.next()?);
    // What has no slash is looked for in PATH.
    let path = if path.components().count() > 1 { std::env::current_dir().ok()?.join(path) } else { path };
    Some(Program { path, args: args.collect() })
}

fn begin(
    flags: &RunArgs,
    global: &Global,
    (inherited, activated): (Option<Inherited>, Activated),
    console: &mut Console,
) -> Result<Evenkeel, Failure> {
    let (mut loaded, file) = if flags.listen.is_empty() {
        let file = check::file(global)?;
        (check::load(&file, console)?, Some(file))
    } else {
        let loaded = config::from_flags(&flags.listen, &flags.to)
            .map_err(|report| Failure::verbatim(Exit::Usage, report.render(console.color_err)))?;
        (loaded, None)
    };
    check::warn(&loaded, console);
    let told = AdminOverride::of(global)?;
    told.apply(&mut loaded.plan);
    if let Some(socket) = loaded.plan.admin.socket.as_deref().filter(|socket| *socket == default_socket::path()) {
        default_socket::prepare_directory(socket).map_err(|error| {
            let text = format!(
                "the admin socket {} cannot be made: {error}; name another place with --admin",
                socket.display()
            );
            Failure::new(Exit::CannotBind, text)
        })?;
    }
    logging::start(&loaded.plan.log, console)?;
    let options = Options {
        config: file,
        adjust: Some(Arc::new(move |plan: &mut Plan| told.apply(plan))),
        signals: true,
        program: program(),
        inherited,
        activated,
    };
    engine::start(loaded, options).map_err(|error| {
        let is_admin_taken = matches!(&error, StartError::Control(error) if error.is_admin_taken());
        let mut failure = not_started(error);
        if is_admin_taken {
            failure.message.push_str(". To run another evenkeel beside it choose another place with --admin");
        }
        failure
    })
}

/// Starts a proxy that obeys signals.
pub(super) fn start(loaded: Loaded, config: Option<PathBuf>, adjust: Option<Adjust>) -> Result<Evenkeel, Failure> {
    engine::start(loaded, Options { config, adjust, signals: true, ..Options::default() }).map_err(not_started)
}

fn not_started(error: StartError) -> Failure {
    match error {
        StartError::Control(CommandError::InvalidConfig { report }) => Failure::verbatim(Exit::InvalidConfig, report),
        error if error.is_bind() => Failure::new(Exit::CannotBind, error.to_string()),
        error => Failure::new(Exit::Failure, error.to_string()),
    }
}

/// Waits until a proxy was told to stop and has done so.
pub(super) fn wait(evenkeel: Evenkeel) -> Result<Exit, Failure> {
    match evenkeel.wait() {
        Outcome::Drained | Outcome::Deadline { .. } | Outcome::AtOnce { .. } => Ok(Exit::Ok),
        Outcome::Failed => Err(Failure::new(Exit::Failure, "the control plane failed; the log says why")),
    }
}

/// What the command line or the environment says about the admin API. It stands above the
/// configuration, also after a reload: one environment can then serve a proxy and its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AdminOverride {
    place: Option<Place>,
    token: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Socket(PathBuf),
    Bind(SocketAddr),
}

impl AdminOverride {
    fn of(global: &Global) -> Result<Self, Failure> {
        let token = global.admin_token.clone();
        let place = match &global.admin {
            None => None,
            Some(AdminAddress::Unix(path)) => Some(Place::Socket(path.clone())),
            Some(AdminAddress::Tcp(authority)) => Some(Place::Bind(bindable(authority)?)),
        };
        if let Some(Place::Bind(address)) = &place
            && !address.ip().is_loopback()
            && token.is_none()
        {
            let text = format!("--admin {address}: who can reach it could stop servers, so it needs --admin-token");
            return Err(Failure::new(Exit::Usage, text));
        }
        Ok(Self { place, token })
    }

    fn apply(&self, plan: &mut Plan) {
        match &self.place {
            Some(Place::Socket(path)) => {
                plan.admin = AdminPlan { socket: Some(path.clone()), bind: None, token: plan.admin.token.take() };
            }
            Some(Place::Bind(address)) => {
                plan.admin = AdminPlan { socket: None, bind: Some(*address), token: plan.admin.token.take() };
            }
            None if plan.admin.socket.is_none() && plan.admin.bind.is_none() => {
                plan.admin.socket = Some(default_socket::path());
            }
            None => {}
        }
        if self.token.is_some() {
            plan.admin.token.clone_from(&self.token);
        }
    }
}

fn bindable(authority: &str) -> Result<SocketAddr, Failure> {
    if let Some(port) = authority.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    authority.parse().map_err(|_| {
        let text = format!("--admin {authority}: to serve the admin API there, write an IP address and a port");
        Failure::new(Exit::Usage, text)
    })
}

/// `http://host:port` at which a client on this machine finds a listener.
pub(super) fn url(address: SocketAddr) -> String {
    format!("http://{}", SocketAddr::new(admin::reachable(address.ip()), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;
    use crate::cli::show::fixture::plan;

    fn told(line: &[&str]) -> Result<AdminOverride, Failure> {
        AdminOverride::of(&args::parse([&["evenkeel", "run"], line].concat()).unwrap().global)
    }

    #[test]
    fn the_admin_api_is_served_where_the_command_line_says() {
        let mut plan = plan();
        plan.admin.token = Some("from the file".into());
        plan.admin.socket = Some("/in/the/file.sock".into());
        let before = plan.clone();
        told(&[]).unwrap().apply(&mut plan);
        assert_eq!(plan, before);
        plan.admin = AdminPlan::default();
        told(&[]).unwrap().apply(&mut plan);
        assert_eq!(plan.admin.socket.as_deref(), Some(default_socket::path().as_path()));
        plan = before;

        told(&["--admin", "/x.sock"]).unwrap().apply(&mut plan);
        assert_eq!((plan.admin.socket.as_deref(), plan.admin.bind), (Some("/x.sock".as_ref()), None));
        assert_eq!(plan.admin.token.as_deref(), Some("from the file"));

        told(&["--admin", "localhost:9191", "--admin-token", "t"]).unwrap().apply(&mut plan);
        assert_eq!((plan.admin.socket.as_deref(), plan.admin.bind), (None, "127.0.0.1:9191".parse().ok()));
        assert_eq!(plan.admin.token.as_deref(), Some("t"));
    }

    #[test]
    fn an_open_admin_api_needs_a_token() {
        assert_eq!(told(&["--admin", "0.0.0.0:9191"]).unwrap_err().exit, Exit::Usage);
        assert!(told(&["--admin", "0.0.0.0:9191", "--admin-token", "t"]).is_ok());
        assert_eq!(told(&["--admin", "example.com:9191"]).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn the_exit_code_says_why_it_did_not_start() {
        let taken = CommandError::CannotBind {
            what: "listener `main`".into(),
            address: "127.0.0.1:80".into(),
            source: io::ErrorKind::AddrInUse.into(),
        };
        assert_eq!(not_started(taken.into()).exit, Exit::CannotBind);
        let invalid = not_started(CommandError::InvalidConfig { report: "error: no".into() }.into());
        assert_eq!((invalid.exit, invalid.message.as_str()), (Exit::InvalidConfig, "error: no"));
        assert_eq!(not_started(StartError::DataPlane(io::Error::other("no"))).exit, Exit::Failure);
    }

    #[test]
    fn urls_can_be_called() {
        assert_eq!(url("0.0.0.0:8080".parse().unwrap()), "http://127.0.0.1:8080");
        assert_eq!(url("[::]:8080".parse().unwrap()), "http://[::1]:8080");
    }
}
