//! `why`: what became of a request, and the header with which a client may be told at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::args::Global;
use super::check;
use super::client::{Client, PROMPT};
use super::console::Console;
use super::exit::{Exit, Failure};
use super::table::{ago, count};
use super::target;
use crate::control::api::Explained;
use crate::debug_header::Key;

/// `why ID`.
pub(super) async fn why(client: &Client, id: &str, console: &mut Console) -> Result<Exit, Failure> {
    let explained: Vec<Explained> = client.get(&target::path_of_why(id), PROMPT).await?;
    if console.json {
        console.json_line(&explained)?;
        return Ok(Exit::Ok);
    }
    for explained in &explained {
        for line in told(explained) {
            console.line(&line)?;
        }
    }
    Ok(Exit::Ok)
}

/// `why --sign TIME`.
pub(super) fn sign(lasts: Duration, global: &Global, console: &mut Console) -> Result<Exit, Failure> {
    let loaded = check::load(&check::file(global)?, console)?;
    let Some(key) = &loaded.plan.debug.key else {
        let message = "there is no key to sign with: set `key` or `key_file` in [debug]";
        return Err(Failure::new(Exit::Failure, message));
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let expiry = now.saturating_add(lasts).as_secs();
    let value = Key::new(key).sign(expiry);
    if console.json {
        console.json_line(&json!({ "header": "X-Evenkeel-Debug", "value": value, "expires": expiry }))?;
    } else {
        console.line(&format!("X-Evenkeel-Debug: {value}"))?;
    }
    Ok(Exit::Ok)
}

fn told(explained: &Explained) -> Vec<String> {
    let Explained { request_id, seconds_ago, route, upstream, policy, servers, server, pin, .. } = explained;
    let why = explained.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let status = if explained.status == 0 { "no answer".to_owned() } else { format!("status {}", explained.status) };
    let mut lines = vec![format!(
        "request {request_id}, {} ago: {status}{why} after {:.1} ms",
        ago(seconds_ago.max(0.0) as u64),
        explained.duration_ms
    )];
    let mut row = |name: &str, text: String| lines.push(format!("  {name:<9} {text}"));
    row("route", route.clone().unwrap_or_else(|| "none".to_owned()));
    if let (Some(upstream), Some(policy)) = (upstream, policy) {
        row("upstream", format!("{upstream} ({policy}), {}", count(*servers as u64, "server")));
        row("server", server.clone().unwrap_or_else(|| "none".to_owned()));
        row("pin", pin.clone());
        if explained.spread {
            row("hot key", "spread: its users are placed one by one".to_owned());
        }
        let pairs = |list: &[(String, String)]| -> Vec<String> {
            list.iter().map(|(server, why)| format!("{server}: {why}")).collect()
        };
        for (name, list) in [("skipped", pairs(&explained.skipped)), ("tried", pairs(&explained.tried))] {
            row(name, if list.is_empty() { "none".to_owned() } else { list.join(", ") });
        }
        row("queued", format!("{:.1} ms", explained.queued_ms));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::capture;
    use crate::cli::fixture::{Api, json};

    fn explained() -> Explained {
        Explained {
            request_id: "a/b".into(),
            seconds_ago: 75.0,
            route: Some("shop".into()),
            upstream: Some("shop".into()),
            policy: Some("sticky_cookie".into()),
            servers: 4,
            server: Some("a".into()),
            pin: "kept 300s".into(),
            spread: false,
            skipped: vec![("b".into(), "draining".into()), ("c".into(), "ejected".into())],
            tried: vec![("d".into(), "reset".into())],
            queued_ms: 12.04,
            status: 200,
            reason: None,
            duration_ms: 31.26,
        }
    }

    #[tokio::test]
    async fn a_request_is_told_in_rows() {
        let api = Api::start(move |_| (200, json(&vec![explained()])));
        let (mut console, out, _) = capture::console();
        assert_eq!(why(&api.client, "a/b", &mut console).await, Ok(Exit::Ok));
        assert_eq!(
            out.read(),
            "request a/b, 1 min 15 s ago: status 200 after 31.3 ms\n  route     shop\n  \
             upstream  shop (sticky_cookie), 4 servers\n  server    a\n  pin       kept 300s\n  \
             skipped   b: draining, c: ejected\n  tried     d: reset\n  queued    12.0 ms\n"
        );
        assert_eq!(api.seen()[0].path, "/why/a%2Fb");
    }

    #[test]
    fn a_spread_key_is_a_reason() {
        let spread = told(&Explained { spread: true, ..explained() });
        assert_eq!(spread[5], "  hot key   spread: its users are placed one by one");
        assert!(!told(&explained()).iter().any(|line| line.contains("hot key")));
    }

    #[test]
    fn what_had_no_server_says_so() {
        let lost =
            Explained { status: 0, reason: Some("client_gone".into()), upstream: None, route: None, ..explained() };
        assert_eq!(
            told(&lost),
            ["request a/b, 1 min 15 s ago: no answer (client_gone) after 31.3 ms", "  route     none"]
        );
    }
}
