//! `origin`: one toy server in the foreground.

use std::fs::OpenOptions;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

use super::args::{CacheArg, KeepArg, OriginArgs};
use super::console::Console;
use super::exit::{Exit, Failure};
use crate::lab::origin::{CacheOptions, Keep, Options, Server, SessionOptions};

/// More than an application should keep in a session; a server holds up to a hundred thousand of them.
const MOST_OF_A_SESSION: usize = 64 << 10;

/// `origin`: serves until TERM or Ctrl-C, and writes a line for each request to standard output.
pub(super) fn origin(args: &OriginArgs, console: &mut Console) -> Result<Exit, Failure> {
    super::block_on(async {
        let mut options = Options::new(args.listen, &args.name);
        options.log = (!console.quiet).then(|| Box::new(io::stdout()) as Box<dyn io::Write + Send>);
        options.workers = args.workers.map(usize::from);
        options.work = args.work.unwrap_or_default();
        options.sessions = sessions(args)?;
        options.cache = cache(args)?;
        if let Some(file) = &args.arrivals {
            let opened = OpenOptions::new().append(true).create(true).open(file);
            options.arrivals = Some(Box::new(opened.map_err(|error| {
                Failure::new(Exit::Failure, format!("cannot write to {}: {error}", file.display()))
            })?));
        }
        let server = Server::bind(options)
            .map_err(|error| Failure::new(Exit::CannotBind, format!("cannot listen on {}: {error}", args.listen)))?;
        let stop =
            told_to_stop().map_err(|error| Failure::new(Exit::Failure, format!("cannot wait for signals: {error}")))?;
        if !console.quiet {
            console.note(&format!("server {} listens on http://{}", args.name, server.address()));
        }
        server.serve(stop).await;
        Ok(Exit::Ok)
    })
}

/// How sessions are to be kept.
fn sessions(args: &OriginArgs) -> Result<SessionOptions, Failure> {
    let needs = |what: &str| Failure::new(Exit::Usage, format!("--sessions {} needs {what}", args.sessions));
    let keep = match args.sessions {
        KeepArg::None => Keep::Nothing,
        KeepArg::Memory => Keep::Memory,
        KeepArg::Replicated => Keep::Replicated(args.peer.clone()),
        KeepArg::Store => Keep::Store(args.store.clone().ok_or_else(|| needs("--store"))?),
        KeepArg::Token => Keep::Token(args.token_key.clone().ok_or_else(|| needs("--token-key"))?.into_bytes()),
    };
    let size = usize::try_from(args.session_size).unwrap_or(usize::MAX);
    if size > MOST_OF_A_SESSION {
        return Err(Failure::new(Exit::Usage, "--session-size: 64 KiB at most".to_owned()));
    }
    Ok(SessionOptions { keep, size, life: args.session_life })
}

/// How items are to be kept; none where it has them itself.
fn cache(args: &OriginArgs) -> Result<Option<CacheOptions>, Failure> {
    let Some(items) = args.items else { return Ok(None) };
    let needs = || Failure::new(Exit::Usage, "--cache shared needs --store".to_owned());
    let shared = match args.cache {
        CacheArg::Own => None,
        CacheArg::Shared => Some(args.store.clone().ok_or_else(needs)?),
    };
    Ok(Some(CacheOptions { items, shared }))
}

/// Ready on TERM, INT or QUIT; handlers are set when this returns, not when it is first polled.
fn told_to_stop() -> io::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = quit.recv() => {}
        }
    })
}
