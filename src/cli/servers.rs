//! Verbs that change servers: ready, disable, weight, and the first half of drain.

use serde::Serialize;

use super::client::{Client, PROMPT};
use super::console::Console;
use super::exit::{Exit, Failure};
use super::table::{ago, count};
use super::target::{self, Target};
use crate::control::api::{ServerChange, ServerStatus, Status};

/// A server with its upstream, as `--output json` writes it.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    pub upstream: &'a str,
    #[serde(flatten)]
    pub server: &'a ServerStatus,
}

/// `ready` and `disable`.
pub(super) async fn set_admin(
    client: &Client,
    names: &[String],
    admin: &str,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let change = ServerChange { admin: Some(admin.to_owned()), ..Default::default() };
    change_all(client, names, &change, console).await?;
    Ok(Exit::Ok)
}

/// `weight`.
pub(super) async fn set_weight(
    client: &Client,
    names: &[String],
    weight: u32,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let change = ServerChange { weight: Some(weight), ..Default::default() };
    for (target, server) in change_each(client, names, &change, console).await? {
        if console.json {
            console.json_line(&Line { upstream: &target.upstream, server: &server })?;
        }
        let configured = match server.configured_weight {
            same if same == server.weight => String::new(),
            other => format!(" (configured: {other})"),
        };
        console.confirm(&format!("{target} has weight {}{configured}", server.weight))?;
    }
    Ok(Exit::Ok)
}

/// Makes the same change to every named server, and says what each is now.
pub(super) async fn change_all(
    client: &Client,
    names: &[String],
    change: &ServerChange,
    console: &mut Console,
) -> Result<Vec<(Target, ServerStatus)>, Failure> {
    let changed = change_each(client, names, change, console).await?;
    for (target, server) in &changed {
        if console.json {
            console.json_line(&Line { upstream: &target.upstream, server })?;
        }
        console.confirm(&format!("{target} {}", state(server)))?;
    }
    Ok(changed)
}

/// Makes the same change to every named server; none is changed when one of the names is wrong. It says no more
/// than who is left without a server.
pub(super) async fn change_each(
    client: &Client,
    names: &[String],
    change: &ServerChange,
    console: &mut Console,
) -> Result<Vec<(Target, ServerStatus)>, Failure> {
    let status: Status = client.get("/status", PROMPT).await?;
    let mut changed = Vec::new();
    for target in target::resolve(&status, names)? {
        let server: ServerStatus = client.put(&target.path(), change, PROMPT).await?;
        changed.push((target, server));
    }
    warn_if_shut(&status, &changed, console);
    Ok(changed)
}

/// Says whose new clients have nowhere to go now. `before` is what was known before the change.
pub(super) fn warn_if_shut(before: &Status, changed: &[(Target, ServerStatus)], console: &mut Console) {
    let now = |target: &Target| changed.iter().find(|(other, _)| other == target).map(|(_, server)| server);
    for upstream in &before.upstreams {
        let name = &upstream.name;
        let takes_new = |server: &ServerStatus| {
            let target = Target { upstream: name.clone(), server: server.name.clone() };
            let server = now(&target).unwrap_or(server);
            server.admin == "ready" && server.weight > 0
        };
        if changed.iter().any(|(target, _)| target.upstream == *name) && !upstream.servers.iter().any(takes_new) {
            console.note(&format!(
                "warning: {name} has no server left that takes new clients: they get 503 until one does"
            ));
        }
    }
}

/// What a server is, as the rest of a sentence that begins with its name.
pub(super) fn state(server: &ServerStatus) -> String {
    match server.admin.as_str() {
        "draining" => format!("is draining: {}", left(server)),
        "drained" if server.in_flight == 0 => "is drained: it is safe to stop it".to_owned(),
        "disabled" if server.in_flight == 0 => "is disabled".to_owned(),
        "ready" if server.operational != "healthy" => {
            let why = server.last_check_error.as_ref().map(|e| format!(" ({e})")).unwrap_or_default();
            format!("is ready, and gets no new clients while it is {}{why}", server.operational)
        }
        other => format!("is {other}, {} in flight", server.in_flight),
    }
}

/// What still holds a drain, and for how long at most.
pub(super) fn left(server: &ServerStatus) -> String {
    let mut text = match (&server.drain, server.sessions) {
        (Some(drain), Some(_)) => format!("{} left, ", count(drain.sessions_left as u64, "session")),
        _ => String::new(),
    };
    text.push_str(&format!("{} in flight", server.in_flight));
    if let Some(drain) = &server.drain {
        text.push_str(&format!(", ends within {}", ago(drain.ends_within_seconds.max(0.0).ceil() as u64)));
        if let Some(over_in) = drain.sessions_over_in_seconds {
            text.push_str(&over(over_in));
        }
    }
    text
}

/// When sessions are over, after what else is said of them.
pub(super) fn over(seconds: f64) -> String {
    format!(" (sessions over in {} if nobody comes back)", ago(seconds.ceil() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::capture;
    use crate::cli::fixture::{self, Api, json};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&n| n.to_owned()).collect()
    }

    #[tokio::test]
    async fn every_target_is_changed_by_its_path() {
        let api = Api::start(|seen| match seen.path.as_str() {
            "/status" => (200, json(&fixture::status())),
            _ => (200, json(&ServerStatus { admin: "disabled".into(), ..fixture::server("a", "127.0.0.1:1") })),
        });
        let (mut console, out, _) = capture::console();
        let done = set_admin(&api.client, &names(&["shop/a", "unix:/run/x.sock"]), "disabled", &mut console).await;
        assert_eq!(done, Ok(Exit::Ok));
        assert_eq!(out.read(), "shop/a is disabled\napi/unix:/run/x.sock is disabled\n");
        let seen = api.seen();
        assert_eq!(seen[1].path, "/upstreams/shop/servers/a");
        assert_eq!(seen[1].body, r#"{"admin":"disabled"}"#);
        assert_eq!(seen[2].path, "/upstreams/api/servers/unix%3A%2Frun%2Fx.sock");
    }

    #[tokio::test]
    async fn nothing_is_changed_when_one_name_is_wrong() {
        let api = Api::start(|_| (200, json(&fixture::status())));
        let (mut console, _, _) = capture::console();
        let failure = set_weight(&api.client, &names(&["shop/a", "shop/z"]), 5, &mut console).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Failure);
        assert_eq!(api.seen().len(), 1, "only /status was asked");
    }

    #[tokio::test]
    async fn weight_tells_what_is_configured() {
        let api = Api::start(|seen| match seen.path.as_str() {
            "/status" => (200, json(&fixture::status())),
            _ => (200, json(&ServerStatus { weight: 5, ..fixture::server("a", "127.0.0.1:1") })),
        });
        let (mut console, out, _) = capture::console();
        set_weight(&api.client, &names(&["shop/a"]), 5, &mut console).await.unwrap();
        assert_eq!(out.read(), "shop/a has weight 5 (configured: 1)\n");
        assert_eq!(api.seen()[1].body, r#"{"weight":5}"#);
        console.json = true;
        set_weight(&api.client, &names(&["shop/a"]), 5, &mut console).await.unwrap();
        let line = out.read().lines().last().unwrap().to_owned();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((value["upstream"].as_str(), value["name"].as_str()), (Some("shop"), Some("a")));
    }

    #[tokio::test]
    async fn who_is_left_without_a_server_is_told() {
        let api = Api::start(|seen| match seen.path.as_str() {
            "/status" => (200, json(&fixture::status())),
            path => {
                let admin = if seen.body.contains("disabled") { "disabled" } else { "ready" };
                let weight = if seen.body.contains("weight") { 0 } else { 1 };
                let name = if path.ends_with("/a") { "a" } else { "unix:/run/x.sock" };
                (200, json(&ServerStatus { admin: admin.into(), weight, ..fixture::server(name, "127.0.0.1:1") }))
            }
        });
        let warning = "warning: shop has no server left that takes new clients: they get 503 until one does\n";
        for (line, said) in [
            // `shop/b` drains already; `api` has another one.
            (&["shop/a"][..], warning.to_owned()),
            (&["api/a"], String::new()),
            (&["api/a", "shop/a", "unix:/run/x.sock"], format!("{warning}{}", warning.replace("shop", "api"))),
        ] {
            let (mut console, _, err) = capture::console();
            set_admin(&api.client, &names(line), "disabled", &mut console).await.unwrap();
            assert_eq!(err.read(), said, "{line:?}");
        }
        let (mut console, _, err) = capture::console();
        set_admin(&api.client, &names(&["shop/a"]), "ready", &mut console).await.unwrap();
        assert_eq!(err.read(), "");
        set_weight(&api.client, &names(&["shop/a"]), 0, &mut console).await.unwrap();
        assert_eq!(err.read(), warning);
    }

    #[test]
    fn states_are_told_in_words() {
        let server = |admin: &str, operational: &str, in_flight| ServerStatus {
            admin: admin.into(),
            operational: operational.into(),
            in_flight,
            ..fixture::server("a", "127.0.0.1:1")
        };
        assert_eq!(state(&server("drained", "healthy", 0)), "is drained: it is safe to stop it");
        assert_eq!(state(&server("drained", "healthy", 2)), "is drained, 2 in flight");
        assert_eq!(state(&server("ready", "healthy", 1)), "is ready, 1 in flight");
        assert_eq!(
            state(&ServerStatus { last_check_error: Some("refused".into()), ..server("ready", "unhealthy", 0) }),
            "is ready, and gets no new clients while it is unhealthy (refused)"
        );
        assert_eq!(state(&fixture::draining(3, 2)), "is draining: 3 sessions left, 2 in flight, ends within 14 min");
        let mut quiet = fixture::draining(3, 2);
        quiet.drain.as_mut().unwrap().sessions_over_in_seconds = Some(239.5);
        assert_eq!(
            left(&quiet),
            "3 sessions left, 2 in flight, ends within 14 min (sessions over in 4 min if nobody comes back)"
        );
    }
}
