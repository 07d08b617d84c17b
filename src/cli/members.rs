//! Verbs that change which servers there are: add and remove.

use std::time::Duration;

use http::Method;
use tokio::time::{Instant, sleep};

use super::args::{AddArgs, DrainArgs};
use super::client::{Client, ClientError, PROMPT};
use super::console::Console;
use super::exit::{Exit, Failure};
use super::servers::{self, Line};
use super::target::{self, Target};
use crate::control::api::{Deadlines, NewServer, ServerStatus, Status};
use crate::units::show_duration;

/// How long one question waits for the end of a drain.
const ROUND: Duration = Duration::from_secs(1);
/// How often a server is asked about that is about to be gone.
const PACE: Duration = Duration::from_millis(50);

/// `add`.
pub(super) async fn add(client: &Client, args: &AddArgs, console: &mut Console) -> Result<Exit, Failure> {
    let status: Status = client.get("/status", PROMPT).await?;
    let (upstream, name) = place(&status, &args.target)?;
    let AddArgs { target: _, address, weight, backup, max_requests } = args.clone();
    let server = NewServer { name, address, weight, backup, max_requests, standby: false };
    let path = target::path_of_servers(&upstream);
    let added: ServerStatus = client.tell(Method::POST, &path, &server, PROMPT).await?;
    if console.json {
        console.json_line(&Line { upstream: &upstream, server: &added })?;
    }
    let place = format!("{upstream}/{}", added.name);
    console.confirm(&format!("{place} is in service at {}: it {}", added.address, servers::state(&added)))?;
    warn_if_forgetful(&status, console);
    Ok(Exit::Ok)
}

/// Which upstream is meant, and the name of the server if one is said.
fn place(status: &Status, target: &str) -> Result<(String, Option<String>), Failure> {
    let is_upstream = |name: &str| status.upstreams.iter().any(|u| u.name == name);
    if is_upstream(target) {
        return Ok((target.to_owned(), None));
    }
    if let Some((upstream, server)) = target.split_once('/')
        && is_upstream(upstream)
    {
        return Ok((upstream.to_owned(), Some(server.to_owned())));
    }
    let names: Vec<&str> = status.upstreams.iter().map(|u| u.name.as_str()).collect();
    let message = format!("`{target}` names no upstream: write UPSTREAM/SERVER; there is {}", names.join(", "));
    Err(Failure::new(Exit::Failure, message))
}

/// `remove`.
pub(super) async fn remove(client: &Client, args: &DrainArgs, console: &mut Console) -> Result<Exit, Failure> {
    let status: Status = client.get("/status", PROMPT).await?;
    let targets = target::resolve(&status, &args.targets.targets)?;
    let show = |time: Option<Duration>| time.map(show_duration);
    let deadlines = Deadlines {
        in_flight: show(args.deadlines.in_flight),
        sessions_max: show(args.deadlines.sessions_max),
        sessions_idle: show(args.deadlines.sessions_idle),
    };
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let mut changed = Vec::with_capacity(targets.len());
    for target in &targets {
        let server: ServerStatus = client.tell(Method::DELETE, &target.path(), &deadlines, PROMPT).await?;
        if console.json {
            console.json_line(&Line { upstream: &target.upstream, server: &server })?;
        }
        if !args.wait {
            console.confirm(&format!("{target} is taken out once it is drained; it {}", servers::state(&server)))?;
        }
        changed.push((target.clone(), server));
    }
    servers::warn_if_shut(&status, &changed, console);
    if args.wait {
        for target in &targets {
            wait_until_gone(client, target, deadline).await?;
            console.confirm(&format!("{target} is gone: it is safe to stop it"))?;
        }
    }
    warn_if_forgetful(&status, console);
    Ok(Exit::Ok)
}

async fn wait_until_gone(client: &Client, target: &Target, deadline: Option<Instant>) -> Result<(), Failure> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let round = left.map_or(ROUND, |left| left.min(ROUND));
        let path = format!("{}?wait=drained&timeout={}ms", target.path(), round.as_millis().max(1));
        let server = match client.get::<ServerStatus>(&path, PROMPT + round).await {
            Ok(server) => server,
            Err(ClientError::Refused { refusal: Some(refusal), .. }) if refusal.error == "not_found" => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if !server.leaving {
            return Err(Failure::new(Exit::NotMet, format!("{target} was made ready again before it was gone")));
        }
        if left.is_some_and(|left| left.is_zero()) {
            let message = format!("{target} is not gone yet: {}; its drain goes on", servers::left(&server));
            return Err(Failure::new(Exit::NotMet, message));
        }
        sleep(PACE).await;
    }
}

/// Says what the next start will not know.
fn warn_if_forgetful(status: &Status, console: &mut Console) {
    if status.state.is_none() {
        console.note("this is forgotten at a restart: set `state_dir` to keep it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::capture;
    use crate::cli::fixture::{self, Api, json};

    #[test]
    fn a_place_is_an_upstream_and_perhaps_a_name() {
        let status = fixture::status();
        for (typed, upstream, name) in [
            ("shop", "shop", None),
            ("shop/c", "shop", Some("c")),
            ("api/unix:/run/y.sock", "api", Some("unix:/run/y.sock")),
        ] {
            assert_eq!(place(&status, typed), Ok((upstream.to_owned(), name.map(str::to_owned))), "{typed}");
        }
        let failure = place(&status, "shpo/c").unwrap_err();
        assert!(format!("{failure:?}").contains("there is shop, api"), "{failure:?}");
    }

    #[tokio::test]
    async fn what_is_added_is_told() {
        let api = Api::start(|seen| match seen.path.as_str() {
            "/status" => (200, json(&fixture::status())),
            _ => (201, json(&ServerStatus { added: true, ..fixture::server("c", "127.0.0.1:9003") })),
        });
        let (mut console, out, _) = capture::console();
        let args = AddArgs {
            target: "shop/c".to_owned(),
            address: Some("127.0.0.1:9003".to_owned()),
            weight: Some(5),
            backup: true,
            max_requests: Some(9),
        };
        assert_eq!(add(&api.client, &args, &mut console).await, Ok(Exit::Ok));
        assert_eq!(out.read(), "shop/c is in service at 127.0.0.1:9003: it is ready, 0 in flight\n");
        let seen = api.seen();
        assert_eq!(seen[1].path, "/upstreams/shop/servers");
        assert_eq!(
            seen[1].body,
            r#"{"name":"c","address":"127.0.0.1:9003","weight":5,"backup":true,"max_requests":9}"#
        );
    }
}
