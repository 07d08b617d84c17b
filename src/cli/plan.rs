//! `plan`: what a reload of another configuration would do.

use std::path::Path;
use std::time::Duration;

use http::Method;

use super::args::PlanArgs;
use super::client::Client;
use super::console::Console;
use super::exit::{Exit, Failure};
use super::table::{count, thousands};
use crate::config;
use crate::control::api::{NewPlan, Planned, PlannedClients, PlannedRemoval, PlannedUpstream};
use crate::units::show_duration;

/// Beside the time for which clients are looked at.
const READING: Duration = Duration::from_secs(60);

/// `plan`.
pub(super) async fn plan(client: &Client, args: &PlanArgs, console: &mut Console) -> Result<Exit, Failure> {
    let (name, text) = (args.file.display().to_string(), read(&args.file, console)?);
    let wanted = NewPlan { name, text, sample: Some(show_duration(args.sample)) };
    let planned: Planned = client.tell(Method::POST, "/plan", &wanted, args.sample + READING).await?;
    if console.json {
        console.json_line(&planned)?;
        return Ok(Exit::Ok);
    }
    for warning in &planned.warnings {
        console.note(warning.trim_end());
    }
    for line in told(&planned) {
        console.line(&line)?;
    }
    Ok(Exit::Ok)
}

/// The text of a configuration; what is wrong with its file is said as `check` says it.
fn read(file: &Path, console: &Console) -> Result<String, Failure> {
    let refused = |_| match config::load(file) {
        Err(report) => Failure::verbatim(Exit::InvalidConfig, report.render(console.color_err)),
        Ok(_) => Failure::new(Exit::Failure, format!("{} could not be read", file.display())),
    };
    std::fs::read_to_string(file).map_err(refused)
}

fn told(planned: &Planned) -> Vec<String> {
    let mut lines = Vec::new();
    if planned.changes.is_empty() && planned.needs_restart.is_empty() {
        return vec!["nothing would change".to_owned()];
    }
    if !planned.changes.is_empty() {
        lines.push(format!("a reload would make {}:", count(planned.changes.len() as u64, "change")));
        lines.extend(planned.changes.iter().map(|change| format!("  {change}")));
    }
    if !planned.needs_restart.is_empty() {
        lines.push("it would be refused as a whole: this needs `evenkeel upgrade`".to_owned());
        lines.extend(planned.needs_restart.iter().map(|field| format!("  {field}")));
    }
    for upstream in &planned.upstreams {
        lines.push(heading(upstream));
        lines.extend(consequences(upstream, planned.sample_seconds).into_iter().map(|line| format!("  {line}")));
    }
    lines.push("nothing was changed".to_owned());
    lines
}

fn heading(upstream: &PlannedUpstream) -> String {
    match &upstream.new_policy {
        Some(new) => format!("{} ({}, then {new})", upstream.name, upstream.policy),
        None => format!("{} ({})", upstream.name, upstream.policy),
    }
}

fn consequences(upstream: &PlannedUpstream, seconds: f64) -> Vec<String> {
    let mut lines = Vec::new();
    match &upstream.clients {
        Some(clients) => lines.extend(movers(upstream, clients, seconds)),
        None if upstream.sessions.is_none() => {
            lines.push(format!("no client moves: {} gives none a server of its own", upstream.policy));
        }
        None => {}
    }
    if let (Some(sessions), Some(moved)) = (upstream.sessions, upstream.sessions_moved) {
        lines.push(format!("{} of {} would move", thousands(moved as u64), count(sessions as u64, "cookie session")));
    }
    lines.extend(upstream.removed.iter().map(removal));
    lines
}

fn movers(upstream: &PlannedUpstream, clients: &PlannedClients, seconds: f64) -> Vec<String> {
    let PlannedClients { source, clients: seen, requests, moved_percent, margin_percent, requests_moved_percent } =
        clients;
    let margin = if *margin_percent > 0.0 { format!(" (± {margin_percent:.1})") } else { String::new() };
    let moves = format!("{} would move {moved_percent:.1} % of {} clients{margin}", cause(upstream), upstream.policy);
    if source == "live" {
        let of_requests = format!(", who make {requests_moved_percent:.1} % of the requests");
        let (seen, requests) = (count(*seen, "client"), count(*requests, "request"));
        return vec![format!("{moves}{of_requests}"), format!("by {seen} with {requests} seen in {seconds} s")];
    }
    let nobody = if seconds > 0.0 { "nobody came meanwhile" } else { "nobody was looked at" };
    vec![moves, format!("{nobody}: this is of {} made-up clients, not of yours", thousands(*seen))]
}

/// What makes clients move, as far as it can be said in a few words.
fn cause(upstream: &PlannedUpstream) -> String {
    let (replaced, removed): (Vec<_>, Vec<_>) =
        upstream.removed.iter().partition(|removal| removal.replaced_by.is_some());
    let names =
        |of: Vec<&PlannedRemoval>| -> Vec<String> { of.into_iter().map(|removal| removal.name.clone()).collect() };
    let (replaced, removed) = (names(replaced), names(removed));
    let part = |what: &str, names: &[String]| (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")));
    let parts = [
        part("adding", &upstream.added),
        part("removing", &removed),
        part("replacing", &replaced),
        part("the weight of", &upstream.weighed),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if upstream.new_policy.is_some() || parts.is_empty() { "this".to_owned() } else { parts.join(" and ") }
}

fn removal(removal: &PlannedRemoval) -> String {
    let PlannedRemoval { name, replaced_by, in_flight, tunnels, cut_after_seconds, sessions } = removal;
    let plain = u64::from(*in_flight).saturating_sub(*tunnels);
    let work = format!("{} and {}", count(plain, "request"), count(*tunnels, "tunnel"));
    let sessions = match sessions {
        Some(sessions) if *sessions > 0 => {
            format!(
                "; its {} move at once, unless `evenkeel drain` empties it first",
                count(*sessions as u64, "session")
            )
        }
        _ => String::new(),
    };
    let goes = replaced_by.as_ref().map_or_else(|| "goes".to_owned(), |address| format!("is replaced by {address}"));
    format!("{name} {goes}: {work} in flight now are cut after {cut_after_seconds} s{sessions}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::capture;
    use crate::cli::fixture::{Api, json};

    fn planned() -> Planned {
        Planned {
            changes: vec!["upstream shop: server d added".into()],
            needs_restart: vec!["listener main: backlog".into()],
            warnings: Vec::new(),
            sample_seconds: 10.0,
            upstreams: vec![PlannedUpstream {
                name: "shop".into(),
                policy: "ip_hash".into(),
                new_policy: None,
                added: vec!["d".into()],
                weighed: Vec::new(),
                removed: Vec::new(),
                clients: Some(PlannedClients {
                    source: "live".into(),
                    clients: 1_234,
                    requests: 5_678,
                    moved_percent: 24.8,
                    margin_percent: 0.0,
                    requests_moved_percent: 23.1,
                }),
                sessions: None,
                sessions_moved: None,
            }],
        }
    }

    #[tokio::test]
    async fn a_plan_is_told_in_sentences() {
        let api = Api::start(move |_| (200, json(&planned())));
        let (mut console, out, _) = capture::console();
        let dir = tempfile::tempdir().unwrap();
        let args = PlanArgs { file: dir.path().join("new.toml"), sample: Duration::from_secs(10) };
        std::fs::write(&args.file, "# all of it\n").unwrap();
        assert_eq!(plan(&api.client, &args, &mut console).await, Ok(Exit::Ok));
        assert_eq!(
            out.read(),
            "a reload would make 1 change:\n  upstream shop: server d added\n\
             it would be refused as a whole: this needs `evenkeel upgrade`\n  listener main: backlog\n\
             shop (ip_hash)\n  adding d would move 24.8 % of ip_hash clients, who make 23.1 % of the requests\n  \
             by 1,234 clients with 5,678 requests seen in 10 s\nnothing was changed\n"
        );
        let seen = api.seen();
        assert_eq!(seen[0].path, "/plan");
        assert!(
            seen[0].body.contains("# all of it") && seen[0].body.contains("\"sample\":\"10s\""),
            "{}",
            seen[0].body
        );
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let mut planned = planned();
        let upstream = &mut planned.upstreams[0];
        if let Some(clients) = &mut upstream.clients {
            (clients.source, clients.margin_percent) = ("synthetic".into(), 0.6);
        }
        upstream.removed = vec![PlannedRemoval {
            name: "c".into(),
            replaced_by: None,
            in_flight: 4,
            tunnels: 1,
            cut_after_seconds: 30.0,
            sessions: Some(45),
        }];
        let lines = consequences(upstream, 10.0);
        assert_eq!(
            lines,
            [
                "adding d and removing c would move 24.8 % of ip_hash clients (± 0.6)",
                "nobody came meanwhile: this is of 1,234 made-up clients, not of yours",
                "c goes: 3 requests and 1 tunnel in flight now are cut after 30 s; its 45 sessions move at once, unless \
                 `evenkeel drain` empties it first",
            ]
        );
        upstream.removed[0].replaced_by = Some("10.0.0.9:80".into());
        let lines = consequences(upstream, 10.0);
        assert!(lines[0].starts_with("adding d and replacing c would move "), "{lines:?}");
        assert!(lines[2].starts_with("c is replaced by 10.0.0.9:80: 3 requests and 1 tunnel in flight"), "{lines:?}");
        upstream.clients = None;
        (upstream.policy, upstream.removed) = ("round_robin".into(), Vec::new());
        assert_eq!(consequences(upstream, 0.0), ["no client moves: round_robin gives none a server of its own"]);
        (upstream.sessions, upstream.sessions_moved) = (Some(120), Some(0));
        assert_eq!(consequences(upstream, 0.0), ["0 of 120 cookie sessions would move"]);
        let nothing = Planned { changes: Vec::new(), needs_restart: Vec::new(), upstreams: Vec::new(), ..planned };
        assert_eq!(told(&nothing), ["nothing would change"]);
    }
}
