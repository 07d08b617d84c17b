use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::cli::args::{DeadlineArgs, TargetArgs};
use crate::cli::console::capture;
use crate::cli::fixture::{self, Api, json};
use crate::control::api::Refusal;

async fn run(client: &Client, args: &DrainArgs, console: &mut Console) -> Result<Exit, Failure> {
    let rhythm = Rhythm { round: Duration::from_millis(20), pace: Duration::from_millis(1) };
    drain_in(rhythm, client, args, console).await
}

fn arguments(targets: &[&str], wait: bool, timeout: Option<Duration>) -> DrainArgs {
    DrainArgs {
        targets: TargetArgs { targets: targets.iter().map(|&t| t.to_owned()).collect() },
        wait,
        timeout,
        deadlines: DeadlineArgs { in_flight: None, sessions_max: None, sessions_idle: None },
    }
}

fn drained() -> ServerStatus {
    ServerStatus { admin: "drained".into(), drain: None, ..fixture::draining(0, 0) }
}

/// An API whose answers about servers are these, one after the other; the last one stays.
fn api(answers: Vec<(u16, String)>) -> Api {
    let next = AtomicUsize::new(0);
    Api::start(move |seen| match seen.path.as_str() {
        "/status" => (200, json(&fixture::status())),
        _ => answers[next.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1)].clone(),
    })
}

fn is(server: &ServerStatus) -> (u16, String) {
    (200, json(server))
}

#[tokio::test]
async fn without_wait_it_is_told_and_left_to_itself() {
    let api = api(vec![is(&fixture::draining(3, 2))]);
    let (mut console, out, _) = capture::console();
    let mut args = arguments(&["shop/b"], false, None);
    args.deadlines.in_flight = Some(Duration::from_secs(30));
    args.deadlines.sessions_idle = Some(Duration::from_secs(900));
    assert_eq!(run(&api.client, &args, &mut console).await, Ok(Exit::Ok));
    assert_eq!(out.read(), "shop/b is draining: 3 sessions left, 2 in flight, ends within 14 min\n");
    let seen = api.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[1].method.as_str(), seen[1].path.as_str()), ("PUT", "/upstreams/shop/servers/b"));
    assert_eq!(seen[1].body, r#"{"admin":"draining","in_flight":"30s","sessions_idle":"15m"}"#);
}

#[tokio::test]
async fn wait_returns_when_nothing_is_left_and_tells_each_change_once() {
    let api = api(vec![
        is(&fixture::draining(3, 2)),
        is(&fixture::draining(3, 2)),
        is(&fixture::draining(1, 0)),
        // Drained is not yet safe while something is being cut.
        is(&ServerStatus { in_flight: 1, ..drained() }),
        is(&drained()),
    ]);
    let (mut console, out, _) = capture::console();
    assert_eq!(run(&api.client, &arguments(&["b"], true, None), &mut console).await, Ok(Exit::Ok));
    assert_eq!(
        out.read(),
        "shop/b is draining: 3 sessions left, 2 in flight, ends within 14 min\n\
         shop/b is draining: 1 session left, 0 in flight, ends within 14 min\n\
         shop/b is drained, 1 in flight\n\
         shop/b is drained: it is safe to stop it\n"
    );
    assert!(api.seen()[2].path.starts_with("/upstreams/shop/servers/b?wait=drained&timeout="));
}

#[tokio::test]
async fn on_a_terminal_one_line_is_written_over() {
    let api = api(vec![is(&fixture::draining(12, 0)), is(&fixture::draining(1, 0)), is(&drained())]);
    let (mut console, out, _) = capture::console();
    console.live = true;
    assert_eq!(run(&api.client, &arguments(&["b"], true, None), &mut console).await, Ok(Exit::Ok));
    assert_eq!(
        out.read(),
        "\rshop/b is draining: 12 sessions left, 0 in flight, ends within 14 min\
         \rshop/b is draining: 1 session left, 0 in flight, ends within 14 min  \
         \nshop/b is drained: it is safe to stop it\n"
    );
}

#[tokio::test]
async fn the_timeout_ends_with_6_and_says_what_is_left() {
    let api = api(vec![is(&fixture::draining(3, 2))]);
    let (mut console, _, _) = capture::console();
    let args = arguments(&["shop/b"], true, Some(Duration::from_millis(30)));
    let failure = run(&api.client, &args, &mut console).await.unwrap_err();
    assert_eq!(failure.exit, Exit::NotMet);
    assert_eq!(
        failure.message,
        "not drained within 30ms: shop/b (3 sessions left, 2 in flight, ends within 14 min). The drain goes on"
    );
}

#[tokio::test]
async fn several_servers_end_together() {
    let answered = AtomicUsize::new(0);
    let api = Api::start(move |seen| match seen.path.as_str() {
        "/status" => (200, json(&fixture::status())),
        path if path.contains("/servers/a") || answered.fetch_add(1, Ordering::Relaxed) >= 2 => is(&drained()),
        _ => is(&fixture::draining(1, 1)),
    });
    let (mut console, out, _) = capture::console();
    let args = arguments(&["shop/a", "shop/b"], true, None);
    assert_eq!(run(&api.client, &args, &mut console).await, Ok(Exit::Ok));
    assert_eq!(
        out.read(),
        "shop/a is drained: it is safe to stop it\n\
         shop/b is draining: 1 session left, 1 in flight, ends within 14 min\n\
         shop/b is drained: it is safe to stop it\n"
    );
    let asked_about_a = api.seen().iter().filter(|s| s.path.contains("servers/a?wait")).count();
    assert_eq!(asked_about_a, 0, "what is done is not asked about again");
}

#[tokio::test]
async fn a_drain_that_somebody_ends_is_not_met() {
    let ready = ServerStatus { admin: "ready".into(), drain: None, ..fixture::draining(1, 1) };
    let revived = api(vec![is(&fixture::draining(1, 1)), is(&ready)]);
    let (mut console, _, _) = capture::console();
    let failure = run(&revived.client, &arguments(&["b"], true, None), &mut console).await.unwrap_err();
    assert_eq!(
        (failure.exit, failure.message.as_str()),
        (Exit::NotMet, "shop/b was made ready again before it was drained")
    );

    let refusal = Refusal { error: "not_found".into(), message: "No such server.".into(), report: None };
    let removed = api(vec![is(&fixture::draining(1, 1)), (404, json(&refusal))]);
    let failure = run(&removed.client, &arguments(&["b"], true, None), &mut console).await.unwrap_err();
    assert_eq!(failure.exit, Exit::NotMet);
}
