//! Verbs about the running process as a whole: reload, upgrade, stop, healthcheck.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::client::{Client, PROMPT};
use super::console::Console;
use super::exit::{Exit, Failure};
use super::table::count;
use crate::control::api::{Reloaded, Upgraded};

/// A reload reads files and resolves names before it answers.
const RELOAD: Duration = Duration::from_secs(60);

/// `reload`.
pub(super) async fn reload(client: &Client, console: &mut Console) -> Result<Exit, Failure> {
    let answer = client.call(Method::POST, "/reload", Bytes::new(), RELOAD).await?;
    let reloaded: Reloaded = answer.read(client)?;
    if console.json {
        console.json_line(&reloaded)?;
        return Ok(Exit::Ok);
    }
    for warning in &reloaded.warnings {
        console.note(warning.trim_end());
    }
    if reloaded.changes.is_empty() {
        console.confirm(&format!("nothing changed (generation {})", reloaded.generation))?;
    } else {
        console.confirm(&format!("reloaded (generation {}):", reloaded.generation))?;
        for change in &reloaded.changes {
            console.confirm(&format!("  {change}"))?;
        }
    }
    Ok(Exit::Ok)
}

/// A configuration may say that a new process has a year to get ready: who does not want to wait, leaves.
const UPGRADE: Duration = Duration::from_secs(366 * 24 * 3600);

/// `upgrade`: returns when another process serves, or could not.
pub(super) async fn upgrade(client: &Client, console: &mut Console) -> Result<Exit, Failure> {
    let answer = client.call(Method::POST, "/upgrade", Bytes::new(), UPGRADE).await?;
    let upgraded: Upgraded = answer.read(client)?;
    if console.json {
        console.json_line(&upgraded)?;
    }
    let Upgraded { pid, version, seconds, connections_left } = upgraded;
    let left = count(connections_left, "connection");
    console.confirm(&format!(
        "evenkeel {version} has taken over as process {pid} in {seconds:.1} s; the old process drains, with {left}"
    ))?;
    Ok(Exit::Ok)
}

/// `stop`: returns when evenkeel has begun to stop.
pub(super) async fn stop(client: &Client, console: &mut Console) -> Result<Exit, Failure> {
    client.call(Method::POST, "/stop", Bytes::new(), PROMPT).await?.success(client)?;
    if console.json {
        console.json_line(&serde_json::json!({ "stopping": true }))?;
    }
    console.confirm("evenkeel finishes what is in flight and stops")?;
    Ok(Exit::Ok)
}

/// `healthcheck`: whatever keeps evenkeel from saying that it is ready is the same to whoever asks.
pub(super) async fn healthcheck(client: &Client, timeout: Duration, console: &mut Console) -> Result<Exit, Failure> {
    let answer = client.call(Method::GET, "/readyz", Bytes::new(), timeout).await;
    let ready = match answer {
        Ok(answer) if answer.status.is_success() => Ok(()),
        Ok(answer) => Err(format!("not ready: {} {}", answer.status, String::from_utf8_lossy(&answer.body).trim())),
        Err(error) => Err(error.to_string()),
    };
    if console.json {
        console.json_line(&serde_json::json!({ "ready": ready.is_ok() }))?;
    }
    match ready {
        Ok(()) => {
            console.confirm("ready")?;
            Ok(Exit::Ok)
        }
        Err(why) => Err(Failure::new(Exit::NotMet, why.trim_end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::admin::Admin;
    use crate::cli::console::capture;
    use crate::cli::fixture::{Api, json};
    use crate::control::api::Refusal;

    #[tokio::test]
    async fn reload_lists_what_changed() {
        let reloaded = Reloaded {
            generation: 4,
            changes: vec!["upstream `shop`: server `c` added".into()],
            warnings: vec!["warning: unused".into()],
        };
        let api = Api::start(move |_| (200, json(&reloaded)));
        let (mut console, out, err) = capture::console();
        assert_eq!(reload(&api.client, &mut console).await, Ok(Exit::Ok));
        assert_eq!(out.read(), "reloaded (generation 4):\n  upstream `shop`: server `c` added\n");
        assert_eq!(err.read(), "warning: unused\n");
        assert_eq!((api.seen()[0].method.as_str(), api.seen()[0].path.as_str()), ("POST", "/reload"));
    }

    #[tokio::test]
    async fn a_refused_reload_shows_the_report_and_ends_with_3() {
        let refusal = Refusal {
            error: "invalid_config".into(),
            message: "The configuration is invalid.".into(),
            report: Some("error: unknown key\n --> evenkeel.toml:3:1\n".into()),
        };
        let api = Api::start(move |_| (422, json(&refusal)));
        let (mut console, out, err) = capture::console();
        let failure = reload(&api.client, &mut console).await.unwrap_err();
        assert_eq!(failure.exit, Exit::InvalidConfig);
        console.fail(&failure);
        assert_eq!((out.read().as_str(), err.read().as_str()), ("", "error: unknown key\n --> evenkeel.toml:3:1\n"));
    }

    #[tokio::test]
    async fn stop_asks_once() {
        let api = Api::start(|_| (202, String::new()));
        let (mut console, _, _) = capture::console();
        assert_eq!(stop(&api.client, &mut console).await, Ok(Exit::Ok));
        assert_eq!((api.seen()[0].method.as_str(), api.seen()[0].path.as_str()), ("POST", "/stop"));
    }

    #[tokio::test]
    async fn healthcheck_ends_with_0_or_6_and_nothing_else() {
        let (mut console, _, _) = capture::console();
        let api = Api::start(|_| (200, "ready".into()));
        assert_eq!(healthcheck(&api.client, PROMPT, &mut console).await, Ok(Exit::Ok));
        let api = Api::start(|_| (503, "draining\n".into()));
        let failure = healthcheck(&api.client, PROMPT, &mut console).await.unwrap_err();
        assert_eq!(
            (failure.exit, failure.message.as_str()),
            (Exit::NotMet, "not ready: 503 Service Unavailable draining")
        );
        let nobody = Client::new(Admin { address: "/nowhere/admin.sock".parse().unwrap(), token: None, doubt: None });
        assert_eq!(healthcheck(&nobody, PROMPT, &mut console).await.unwrap_err().exit, Exit::NotMet);
    }
}
