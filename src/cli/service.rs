//! Verbs about upstreams as a whole: pause, resume, maintenance.

use super::args::{MaintenanceArgs, PauseArgs, ResumeArgs};
use super::client::{Client, PROMPT};
use super::console::Console;
use super::exit::{Exit, Failure};
use super::table::{ago, count};
use super::target;
use crate::control::api::{ServiceChange, ServiceStatus, Status, UpstreamStatus};
use crate::units::show_duration;

/// `pause`.
pub(super) async fn pause(client: &Client, args: &PauseArgs, console: &mut Console) -> Result<Exit, Failure> {
    let change = ServiceChange { lasts: Some(show_duration(args.lasts)), ..change("paused") };
    let upstreams = named(client, &args.upstreams).await?;
    tell(client, &upstreams, &change, console).await
}

/// `resume`.
pub(super) async fn resume(client: &Client, args: &ResumeArgs, console: &mut Console) -> Result<Exit, Failure> {
    let upstreams = if args.upstreams.is_empty() {
        let status: Status = client.get("/status", PROMPT).await?;
        status.upstreams.into_iter().filter(|u| u.service.is_some()).map(|u| u.name).collect()
    } else {
        named(client, &args.upstreams).await?
    };
    if upstreams.is_empty() {
        console.confirm("every upstream is open")?;
    }
    tell(client, &upstreams, &ServiceChange { rate: args.rate, ..change("open") }, console).await
}

/// `maintenance`.
pub(super) async fn maintenance(
    client: &Client,
    args: &MaintenanceArgs,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let change = ServiceChange {
        message: Some(args.message.clone()),
        retry_after: Some(show_duration(args.retry_after)),
        ..change("maintenance")
    };
    let upstreams = named(client, &args.upstreams).await?;
    tell(client, &upstreams, &change, console).await
}

fn change(service: &str) -> ServiceChange {
    ServiceChange { service: service.to_owned(), ..ServiceChange::default() }
}

/// The upstreams that were named, or all where none was; none is changed when one of the names is wrong.
async fn named(client: &Client, names: &[String]) -> Result<Vec<String>, Failure> {
    let status: Status = client.get("/status", PROMPT).await?;
    let all: Vec<String> = status.upstreams.into_iter().map(|upstream| upstream.name).collect();
    if names.is_empty() {
        return Ok(all);
    }
    match names.iter().find(|name| !all.contains(name)) {
        None => Ok(names.to_vec()),
        Some(name) => {
            let message = format!("there is no upstream `{name}`; there is {}", all.join(", "));
            Err(Failure::new(Exit::Failure, message))
        }
    }
}

async fn tell(
    client: &Client,
    upstreams: &[String],
    change: &ServiceChange,
    console: &mut Console,
) -> Result<Exit, Failure> {
    for name in upstreams {
        let upstream: UpstreamStatus = client.put(&target::path_of(name), change, PROMPT).await?;
        if console.json {
            console.json_line(&upstream)?;
        }
        let said = upstream.service.as_ref().map_or_else(|| "open".to_owned(), said);
        let waiting = upstream.queue.as_ref().map_or(0, |queue| queue.waiting);
        let waiting =
            if waiting > 0 { format!(", {} waiting", count(waiting.into(), "request")) } else { String::new() };
        console.confirm(&format!("{name} is {said}{waiting}"))?;
    }
    Ok(Exit::Ok)
}

/// What an operator said of an upstream, in words.
pub(super) fn said(service: &ServiceStatus) -> String {
    let ends = service
        .ends_within_seconds
        .map_or(String::new(), |seconds| format!(", open again within {}", ago(seconds.max(0.0).ceil() as u64)));
    let rate = service.rate.map_or(String::new(), |rate| format!(" {rate} requests a second"));
    match &service.message {
        Some(message) => format!("in maintenance: {message}"),
        None => format!("{}{rate}{ends}", service.state),
    }
}
