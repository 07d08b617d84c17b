//! `demo`: three toy servers with evenkeel in front of them, and three things to try.
//!
//! Everything is real: sockets, checks, the admin API. Only the servers are toys, and addresses that
//! are taken are replaced, so that it comes up on a machine where other things run.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use super::args::{DemoArgs, Global};
use super::console::Console;
use super::exit::{Exit, Failure};
use super::logging;
use super::run;
use crate::config::plan::{Address, AdminPlan};
use crate::config::{self, Plan};
use crate::lab::origin::Origin;

const CONFIG: &str = include_str!("../../config/demo.toml");
/// The servers by the names and addresses that the configuration gives them.
const SERVERS: [(&str, u16); 3] = [("a", 9001), ("b", 9002), ("c", 9003)];

/// `demo`: returns after Ctrl-C.
pub(super) fn demo(args: &DemoArgs, global: &Global, program: &str, console: &mut Console) -> Result<Exit, Failure> {
    let mut loaded = config::parse(CONFIG, "config/demo.toml")
        .map_err(|report| Failure::verbatim(Exit::InvalidConfig, report.render(console.color_err)))?;
    let origins = origins()?;
    let moved = origins.iter().map(|(home, origin)| (*home, origin.address())).collect();
    // What happens is on the page that follows; the log would bury it.
    loaded.plan.log.level = "warn".to_owned();
    adapt(&mut loaded.plan, args, global.admin_token.as_deref(), &moved);
    logging::start(&loaded.plan.log, console)?;

    let evenkeel = run::start(loaded, None, None).map_err(|mut failure| {
        if failure.exit == Exit::CannotBind {
            failure
                .message
                .push_str(". Choose other addresses with --listen and --admin-listen, or port 0 for free ones");
        }
        failure
    })?;
    let place = evenkeel.addresses().first().copied().unwrap_or(args.listen);
    let admin = evenkeel.admin().unwrap_or(args.admin_listen);
    let servers: Vec<(&str, SocketAddr)> =
        SERVERS.iter().zip(&origins).map(|((name, _), (_, origin))| (*name, origin.address())).collect();
    if console.json {
        console.json_line(&serde_json::json!({
            "url": run::url(place),
            "admin": run::url(admin),
            "servers": servers.iter().map(|(name, at)| (*name, at.to_string())).collect::<HashMap<_, _>>(),
        }))?;
    } else {
        console.write(guide(place, admin, &servers, program).as_bytes())?;
    }
    let exit = run::wait(evenkeel)?;
    // Only now: until evenkeel has stopped, requests may be in flight to them.
    drop(origins);
    console.confirm("stopped")?;
    Ok(exit)
}

/// Starts the servers, each at home or, where that is taken, on a free port.
fn origins() -> Result<Vec<(SocketAddr, Origin)>, Failure> {
    let mut origins = Vec::new();
    for (name, port) in SERVERS {
        let home = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let origin = match Origin::start_at(home, name) {
            Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
                Origin::start_at((Ipv4Addr::LOCALHOST, 0).into(), name)
            }
            other => other,
        };
        let origin = origin.map_err(|error| {
            Failure::new(Exit::CannotBind, format!("cannot start the toy server {name} on {home}: {error}"))
        })?;
        origins.push((home, origin));
    }
    Ok(origins)
}

/// Puts the addresses of this run in the place of those that the configuration names.
fn adapt(plan: &mut Plan, args: &DemoArgs, token: Option<&str>, moved: &HashMap<SocketAddr, SocketAddr>) {
    plan.admin = AdminPlan { socket: None, bind: Some(args.admin_listen), token: token.map(ToOwned::to_owned) };
    if let Some(listener) = plan.listeners.first_mut() {
        listener.bind = args.listen;
    }
    for server in plan.upstreams.iter_mut().flat_map(|u| &mut u.servers) {
        if let Address::Socket(address) = &mut server.address
            && let Some(now) = moved.get(address)
        {
            *address = *now;
        }
    }
}

fn guide(place: SocketAddr, admin: SocketAddr, servers: &[(&str, SocketAddr)], program: &str) -> String {
    let url = run::url(place);
    let admin = run::url(admin);
    let admin = admin.strip_prefix("http://").unwrap_or(&admin);
    let servers: Vec<String> = servers.iter().map(|(name, at)| format!("{name} ({at})")).collect();
    format!(
        "evenkeel listens on {url}, in front of the servers {servers}.

Try this in another terminal:

1. Round robin: every request goes to the next server, so a visit counter starts anew each time.
   for i in 1 2 3 4 5 6; do curl -s {url}/; done

2. Sticky: with a cookie you stay on one server, and it counts your visits.
   for i in 1 2 3; do curl -s -b jar -c jar {url}/sticky/; done

3. Drain the server you are on: you stay until you are done, new clients go elsewhere.
   mine=$(curl -s -b jar -c jar {url}/sticky/ | cut -c 8)
   {program} drain sticky/$mine --admin {admin}
   curl -s -b jar -c jar {url}/sticky/
   for i in 1 2 3 4 5 6; do curl -s {url}/sticky/; done
   {program} status --admin {admin}

Ctrl-C stops it.
",
        servers = servers.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::show;

    const ARGS: DemoArgs = DemoArgs {
        listen: SocketAddr::V4(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)),
        admin_listen: SocketAddr::V4(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1)),
    };

    #[test]
    fn addresses_of_this_run_take_the_place_of_the_configured_ones() {
        let mut plan = show::fixture::plan();
        let home: SocketAddr = "127.0.0.1:9001".parse().unwrap();
        let now: SocketAddr = "127.0.0.1:40000".parse().unwrap();
        let untouched = plan.upstreams[1].servers[0].clone();
        adapt(&mut plan, &ARGS, Some("t"), &HashMap::from([(home, now)]));
        assert_eq!(plan.listeners[0].bind, ARGS.listen);
        assert_eq!(plan.admin.bind, Some(ARGS.admin_listen));
        assert_eq!(plan.admin.token.as_deref(), Some("t"));
        assert_eq!(plan.upstreams[0].servers[0].address, Address::Socket(now));
        assert_eq!(plan.upstreams[1].servers[0], untouched);
    }

    #[test]
    fn every_server_of_the_configuration_is_started() {
        let mut plan = config::parse(CONFIG, "config/demo.toml").unwrap().plan;
        for upstream in ["turns", "sticky"] {
            let upstream = plan.upstreams.iter().find(|u| u.name == upstream).unwrap();
            let named: Vec<(&str, String)> =
                upstream.servers.iter().map(|s| (s.name.as_str(), s.address.to_string())).collect();
            assert_eq!(named, SERVERS.map(|(name, port)| (name, format!("127.0.0.1:{port}"))));
        }
        let origins = origins().unwrap();
        let moved: HashMap<_, _> = origins.iter().map(|(home, origin)| (*home, origin.address())).collect();
        adapt(&mut plan, &ARGS, None, &moved);
        for (server, (_, origin)) in plan.upstreams[0].servers.iter().zip(&origins) {
            assert_eq!(server.address, Address::Socket(origin.address()));
        }
    }

    #[test]
    fn servers_whose_ports_are_taken_move_to_free_ones() {
        let first = origins().unwrap();
        let second = origins().unwrap();
        for ((_, a), (_, b)) in first.iter().zip(&second) {
            assert_ne!(a.address(), b.address());
        }
    }

    #[test]
    fn the_guide_says_what_can_be_typed() {
        let text = guide(
            "0.0.0.0:8080".parse().unwrap(),
            "127.0.0.1:9191".parse().unwrap(),
            &[("a", "127.0.0.1:9001".parse().unwrap())],
            "target/release/evenkeel",
        );
        assert!(text.contains("curl -s -b jar -c jar http://127.0.0.1:8080/sticky/"), "{text}");
        let line = text.lines().find(|l| l.contains(" drain ")).unwrap().trim().replace("$mine", "a");
        assert_eq!(line, "target/release/evenkeel drain sticky/a --admin 127.0.0.1:9191");
        crate::cli::args::parse(line.split(' ')).unwrap();
    }
}
