//! `litmus`: is a service stateless? Clients that go from server to server, beside clients that stay.
//!
//! Servers are asked directly, without a proxy between: what is seen is theirs. [`live`] asks a proxy instead what it
//! has seen of its own clients.

mod jar;
mod live;
mod report;
mod run;
mod script;
mod servers;
mod symptom;
mod verdict;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub(super) use self::live::live;

use tokio::time::{Instant, sleep};

use self::report::Report;
use self::run::{Group, Setup, clients, steps};
use self::script::Script;
use self::servers::Servers;
use super::args::{Global, LitmusArgs};
use super::console::Console;
use super::deploy::hook::{Hook, Place};
use super::deploy::interrupt::Interrupts;
use super::exit::{Exit, Failure};
use crate::units::show_duration;

/// How often a server that was restarted is asked whether it is well.
const LOOK: Duration = Duration::from_millis(50);

/// `litmus`.
pub(super) fn litmus(args: &LitmusArgs, global: &Global, console: &mut Console) -> Result<Exit, Failure> {
    let Some(file) = &args.script else { return Err(Failure::new(Exit::Usage, "name a script, or --live UPSTREAM")) };
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot read the script {name}: {error}")))?;
    let wrong = |error: String| Failure::new(Exit::InvalidConfig, format!("{name}: {}", error.trim_end()));
    let script = Script::read(&text).map_err(wrong)?;
    let mut servers = match &args.upstream {
        Some(upstream) => Servers::configured(upstream, global, console)?,
        None => Servers::listed(&args.server)?,
    };
    servers.health = script.health.clone().or(servers.health);
    let host = script.host.clone().unwrap_or_else(|| match servers.all[0].address.host() {
        Some(_) => servers.all[0].address.to_string(),
        None => "localhost".to_owned(),
    });
    let half = args.clients.unwrap_or(script.clients) as usize / 2;
    let setup = Arc::new(Setup { script, servers, host, at_once: usize::from(args.at_once) });
    super::block_on(async {
        let interrupts = Interrupts::watch();
        let report = run(&setup, half, args, &interrupts, console).await?;
        report.tell(console)?;
        Ok(report.verdict.exit())
    })
}

async fn run(
    setup: &Arc<Setup>,
    half: usize,
    args: &LitmusArgs,
    interrupts: &Interrupts,
    console: &mut Console,
) -> Result<Report, Failure> {
    let restart = args.restart_hook.as_ref().map(|_| setup.script.restart_before());
    console.confirm(&Report::heading(setup, half, restart))?;
    let fail = |why: String| Failure::new(Exit::Failure, why);
    let all = setup.script.steps.len();
    for server in &setup.servers.all {
        let there = interrupts.unless(server.is_there(setup.script.timeout)).await;
        there.map_err(|why| fail(format!("{}: {why}", server.shown())))?;
    }
    // Side by side: what happens to the servers meanwhile happens to both.
    let (mut both, mut pinned) = (clients(Group::Shuffled, half, 1), clients(Group::Pinned, half, half + 1));
    both.append(&mut pinned);
    both.sort_by_key(run::Client::turn);
    // A hook ends in good order by itself; everything else may be left at any moment.
    let go = async |clients: Vec<run::Client>, range: Range<usize>| {
        interrupts.unless(async { Ok(steps(setup, clients, range).await) }).await.map_err(fail)
    };
    let (_, mut seen) = go(both, 0..all).await?;
    let mut stayed = Vec::new();
    if let (Some(hook), Some(at)) = (&args.restart_hook, restart) {
        let (stay, before) = go(clients(Group::Restarted, half, 2 * half + 1), 0..at).await?;
        seen.extend(before);
        let began = Instant::now();
        for server in &setup.servers.all {
            let path = setup.servers.health.as_deref().unwrap_or("/");
            let keep = async { Ok(server.keep(path, &setup.host, setup.script.timeout).await) };
            let kept = interrupts.unless(keep).await.map_err(fail)?;
            renew(setup, server, hook, args, interrupts).await.map_err(fail)?;
            let name = &server.name;
            console.confirm(&match kept.map(|kept| kept.is_open()) {
                Some(true) => {
                    stayed.push(name.clone());
                    format!("{name}: the hook has ended, and a connection from before it is still open")
                }
                Some(false) => format!("{name}: the hook has ended, and a connection from before it is closed"),
                None => format!("{name}: the hook has ended, and it answers"),
            })?;
        }
        let paused = began.elapsed();
        seen.extend(go(stay, at..all).await?.1);
        // What ends by itself in so long a pause, such as a token of five minutes, no restart has lost. How long
        // it was is known only now.
        console.confirm(&format!("as many wait {} without a restart", show_duration(paused)))?;
        let (stay, before) = go(clients(Group::Waited, half, 3 * half + 1), 0..at).await?;
        seen.extend(before);
        let pause = async {
            sleep(paused).await;
            Ok(())
        };
        interrupts.unless(pause).await.map_err(fail)?;
        seen.extend(go(stay, at..all).await?.1);
    }
    let mut report = Report::of(setup, &seen, half, restart);
    report.doubt(&stayed);
    Ok(report)
}

/// Restarts a server, and waits until it is well.
async fn renew(
    setup: &Setup,
    server: &servers::Server,
    hook: &str,
    args: &LitmusArgs,
    interrupts: &Interrupts,
) -> Result<(), String> {
    let address = server.address.to_string();
    let place = Place { upstream: &setup.servers.upstream, name: &server.name, address: &address };
    let of = |why: String| format!("{}: {why}", server.name);
    Hook::Shell(hook).run(place, args.hook_within, interrupts).await.map_err(of)?;
    let until = Instant::now() + args.healthy_within;
    loop {
        let asked = server.is_well(setup.servers.health.as_deref(), &setup.host, setup.script.timeout);
        match interrupts.unless(asked).await {
            Ok(()) => return Ok(()),
            Err(why) if interrupts.times() > 0 => return Err(of(why)),
            Err(why) if Instant::now() >= until => {
                return Err(of(format!("was not well within {} ({why})", show_duration(args.healthy_within))));
            }
            Err(_) => sleep(LOOK).await,
        }
    }
}
