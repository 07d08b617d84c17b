//! `status`: what the running evenkeel knows of its servers.

mod skew;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Method;

use super::client::{Client, PROMPT};
use super::console::Console;
use super::deploy::shown;
use super::exit::{Exit, Failure};
use super::table::{Cell, Row, Style, ago, count, render, thousands};
use super::{servers, service};
use crate::control::api::{
    CertificateStatus, ForgottenProxy, HotKeyStatus, PredecessorStatus, QueueStatus, ServerStatus, SlowStartStatus,
    Status, UpgradeStatus, UpstreamStatus,
};

/// `status`. With `--output json` the API's own words, so that nothing of a later version gets lost.
pub(super) async fn status(client: &Client, console: &mut Console) -> Result<Exit, Failure> {
    let answer = client.call(Method::GET, "/status", Bytes::new(), PROMPT).await?;
    let status: Status = answer.read(client)?;
    if console.json {
        console.write(&answer.body)?;
        if !answer.body.ends_with(b"\n") {
            console.write(b"\n")?;
        }
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        console.write(text(&status, i64::try_from(now).unwrap_or(i64::MAX), console.color).as_bytes())?;
    }
    Ok(Exit::Ok)
}

fn text(status: &Status, now: i64, color: bool) -> String {
    let mut out = format!(
        "{}  {} for {}, pid {}, generation {}, {}, {}\n",
        Style::Bold.paint(&format!("evenkeel {}", status.version), color),
        phase(&status.phase, color),
        ago(status.uptime_seconds),
        status.pid,
        status.generation,
        count(status.cores as u64, "core"),
        count(status.connections, "connection"),
    );
    if let Some(config) = &status.config {
        out.push_str(&format!("config     {config}\n"));
    }
    let listeners: Vec<String> = status
        .listeners
        .iter()
        .map(|l| if l.name == l.address { l.address.clone() } else { format!("{} ({})", l.address, l.name) })
        .collect();
    out.push_str(&format!("listening  {}\n", listeners.join(", ")));
    if let Some(UpgradeStatus { pid, ends_within_seconds, .. }) = status.upgrade {
        let left = ago(ends_within_seconds.max(0.0).ceil() as u64);
        let text = format!("upgrade    process {pid} gets ready to take over, within {left}");
        out.push_str(&format!("{}\n", Style::Warn.paint(&text, color)));
    }
    if let Some(before) = &status.predecessor {
        let text = format!("before     {}", predecessor(before));
        out.push_str(&format!("{}\n", Style::Warn.paint(&text, color)));
    }
    if let Some(peer) = &status.forgotten_proxy {
        let text = format!("warning    {}", forgotten(peer));
        out.push_str(&format!("{}\n", Style::Warn.paint(&text, color)));
    }
    if !status.certificates.is_empty() {
        out.push('\n');
        out.push_str(&certificates(&status.certificates, now, color));
    }
    for upstream in &status.upstreams {
        out.push('\n');
        out.push_str(&upstream_text(upstream, color));
    }
    out
}

/// What the process before this one still has.
fn predecessor(before: &PredecessorStatus) -> String {
    let PredecessorStatus { pid, version, seconds, connections, tunnels, in_flight, in_step: _, ends_within_seconds } =
        before;
    let time = |seconds: f64| ago(seconds.max(0.0).ceil() as u64);
    format!(
        "process {pid} (evenkeel {version}) drains for {}: {}, {} in flight, {}, ends within {}",
        time(*seconds),
        count(*connections, "connection"),
        in_flight,
        count(*tunnels, "tunnel"),
        time(*ends_within_seconds)
    )
}

/// A proxy that is not trusted.
fn forgotten(proxy: &ForgottenProxy) -> String {
    let ForgottenProxy { peer, share_percent, requests } = proxy;
    format!(
        "{share_percent:.0} % of {} came from {peer}, which says for whom it asks and is not trusted; if it is your \
         proxy, set trusted_proxies = [\"{peer}\"]",
        count(*requests, "request")
    )
}

/// An address that takes more than its share.
fn hot_key(hot: &HotKeyStatus) -> String {
    let HotKeyStatus { key, server, share_percent, requests_per_second, spread, seconds } = hot;
    format!(
        "hot for {}: {key} makes {share_percent:.1} % of the requests, {requests_per_second:.1} a second; {}",
        ago(seconds.max(0.0) as u64),
        if *spread {
            format!("its users are spread, since {server} was above its bound")
        } else {
            format!("all of it belongs to {server}")
        }
    )
}

/// How many days before its end a certificate is shown as a worry; the log complains then, too.
const SOON: i64 = 14;

fn certificates(list: &[CertificateStatus], now: i64, color: bool) -> String {
    let heads = ["CERTIFICATE", "LISTENER", "KEY", "NAMES"].map(|head| Cell::word(head, Style::Plain));
    let mut heads = heads.to_vec();
    heads.push(Cell::number("DAYS LEFT"));
    let mut rows = vec![Row::Cells(heads.into_iter().map(|cell| cell.styled(Style::Dim)).collect())];
    for (at, one) in list.iter().enumerate() {
        let names = match one.names.as_slice() {
            [] => "-".to_owned(),
            [only] => only.clone(),
            [first, more @ ..] => format!("{first} and {} more", more.len()),
        };
        let left = one.expires.saturating_sub(now);
        let left = match left.div_euclid(86_400) {
            _ if left <= 0 => Cell::number("expired").styled(Style::Bad),
            days if days < SOON => Cell::number(days.to_string()).styled(Style::Warn),
            days => Cell::number(days.to_string()),
        };
        let words =
            [&one.certificate, &one.listener, &one.algorithm, &names].map(|word| Cell::word(word, Style::Plain));
        rows.push(Row::Cells(words.into_iter().chain([left]).collect()));
        // It is the listener's, and so said behind its last certificate only.
        let is_last = list.get(at + 1).is_none_or(|next| next.listener != one.listener);
        if let (Some(problem), true) = (&one.problem, is_last) {
            rows.push(Row::Remark(format!("newer files are not in use: {problem}"), Style::Bad));
        }
    }
    render(&rows, "", color)
}

fn phase(phase: &str, color: bool) -> String {
    let style = if phase == "serving" { Style::Good } else { Style::Warn };
    style.paint(phase, color).into_owned()
}

fn upstream_text(upstream: &UpstreamStatus, color: bool) -> String {
    let mut out = format!("{}  {}", Style::Bold.paint(&upstream.name, color), upstream.policy);
    if upstream.failing_open {
        let mark = "FAILING OPEN: no server is healthy, every ready one gets traffic";
        out.push_str(&format!("  {}", Style::Bad.paint(mark, color)));
    }
    out.push('\n');
    if let Some(service) = &upstream.service {
        out.push_str(&format!("  {}\n", Style::Warn.paint(&service::said(service), color)));
    }
    if let Some(litmus) = &upstream.litmus {
        let mut text =
            format!("litmus: {} % of users are moved on purpose, {} so far", litmus.percent, litmus.shuffled.users);
        if let Some(why) = litmus.nobody() {
            text.push_str(&format!("; {why}"));
        }
        out.push_str(&format!("  {}\n", Style::Warn.paint(&text, color)));
    }
    if let Some(canary) = &upstream.canary {
        out.push_str(&format!("  {}\n", Style::Warn.paint(&shown::canary(canary), color)));
    }
    if let Some(deploy) = &upstream.deploy {
        let (first, wrong) = shown::lines(&upstream.name, deploy);
        out.push_str(&format!("  {}\n", Style::Warn.paint(&first, color)));
        for line in wrong {
            out.push_str(&format!("    {}\n", Style::Bad.paint(&line, color)));
        }
    }
    for hot in &upstream.hot_keys {
        out.push_str(&format!("  {}\n", Style::Warn.paint(&hot_key(hot), color)));
    }
    if let Some(queue) = &upstream.queue {
        out.push_str(&format!("  {}\n", queued(queue, color)));
    }
    // Of one server there is nothing to say.
    if let Some(skew) = upstream.skew.as_ref().filter(|_| upstream.servers.len() > 1) {
        out.push_str(&format!("  {}\n", skew::skew(skew, upstream.servers.len(), color)));
    }
    // Only sticky upstreams have sessions; a column of dashes would say nothing.
    let sessions = upstream.servers.iter().any(|s| s.sessions.is_some());
    let mut heads = vec!["SERVER", "ADDRESS", "STATE", "WEIGHT", "IN-FLIGHT", "TUNNELS"];
    heads.extend(sessions.then_some("SESSIONS"));
    heads.extend(["REQUESTS", "P50", "P99"]);
    let head = |(i, text): (usize, &str)| {
        let cell = if i < 3 { Cell::word(text, Style::Plain) } else { Cell::number(text) };
        cell.styled(Style::Dim)
    };
    let mut rows = vec![Row::Cells(heads.into_iter().enumerate().map(head).collect())];
    for server in &upstream.servers {
        rows.push(Row::Cells(cells(server, sessions)));
        if server.admin == "draining" {
            let since = server.drain.as_ref().map(|d| format!(" for {}", ago(d.seconds.max(0.0) as u64)));
            let text = format!("draining{}: {}", since.unwrap_or_default(), servers::left(server));
            rows.push(Row::Remark(text, Style::Warn));
        }
        if server.set_by == "server" {
            rows.push(Row::Remark("it has asked for its drain itself".to_owned(), Style::Dim));
        }
        if server.leaving {
            rows.push(Row::Remark("taken out once it is drained".to_owned(), Style::Warn));
        } else if server.added {
            rows.push(Row::Remark("added by an operator: not in the configuration".to_owned(), Style::Dim));
        }
        if server.backup {
            rows.push(Row::Remark("backup: for clients that no other server can take".to_owned(), Style::Dim));
        }
        if let Some(ejection) = &server.ejection {
            let since = ago(ejection.seconds.max(0.0) as u64);
            let left = ago(ejection.ends_within_seconds.max(0.0).ceil() as u64);
            let number =
                if ejection.number > 1 { format!(", number {} in a row", ejection.number) } else { String::new() };
            let text = format!("ejected for {since}: {}, returns within {left}{number}", ejection.reason);
            rows.push(Row::Remark(text, Style::Warn));
        }
        if server.on_trial {
            let text = "on trial after its ejection: its next failure ejects it again".to_owned();
            rows.push(Row::Remark(text, Style::Dim));
        }
        if let Some(SlowStartStatus { percent, max_requests, ends_within_seconds }) = server.slow_start {
            let left = ago(ends_within_seconds.max(0.0).ceil() as u64);
            let most = max_requests.map(|most| format!(", {} at once", thousands(most.into()))).unwrap_or_default();
            let text = format!("slow start: {percent} % of its share{most}, all of it within {left}");
            rows.push(Row::Remark(text, Style::Dim));
        }
        if let Some(error) = &server.last_check_error {
            rows.push(Row::Remark(format!("last check: {error}"), Style::Dim));
        }
    }
    if !upstream.removed.is_empty() {
        let text = format!("removed by an operator: {}", upstream.removed.join(", "));
        rows.push(Row::Remark(text, Style::Warn));
    }
    out.push_str(&render(&rows, "  ", color));
    if let Some(shadow) = &upstream.shadow {
        out.push_str(&skew::shadow(shadow, color));
    }
    out
}

/// Who waits for a server.
fn queued(queue: &QueueStatus, color: bool) -> String {
    let mut text = format!("queue: {} of {} waiting", thousands(queue.waiting.into()), thousands(queue.size.into()));
    let parts = [(queue.queued, "queued"), (queue.timeouts, "timed out"), (queue.overflows, "refused")];
    for (number, what) in parts.into_iter().filter(|(number, _)| *number > 0) {
        text.push_str(&format!(", {} {what}", thousands(number)));
    }
    let style = if queue.waiting > 0 { Style::Warn } else { Style::Dim };
    style.paint(&text, color).into_owned()
}

fn cells(server: &ServerStatus, sessions: bool) -> Vec<Cell> {
    let weight = if server.weight == server.configured_weight {
        server.weight.to_string()
    } else {
        format!("{} of {}", server.weight, server.configured_weight)
    };
    let millis = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
    let mut cells = vec![
        Cell::word(&server.name, Style::Plain),
        Cell::word(&server.address, Style::Plain),
        state(server),
        Cell::number(weight),
        Cell::number(match server.max_requests {
            Some(most) => format!("{} of {}", thousands(server.in_flight.into()), thousands(most.into())),
            None => thousands(server.in_flight.into()),
        }),
        Cell::number(thousands(server.tunnels)),
    ];
    if sessions {
        cells.push(Cell::number(server.sessions.map_or_else(|| "-".to_owned(), |n| thousands(n as u64))));
    }
    cells.extend([
        Cell::number(thousands(server.requests)),
        Cell::number(millis(server.p50_ms)),
        Cell::number(millis(server.p99_ms)),
    ]);
    cells
}

/// Both fields of the state in as few words as tell them.
fn state(server: &ServerStatus) -> Cell {
    let healthy = server.operational == "healthy";
    match (server.admin.as_str(), healthy) {
        ("ready", true) => Cell::word("healthy", Style::Good),
        ("ready", false) => {
            let style = if server.operational == "starting" { Style::Warn } else { Style::Bad };
            Cell::word(&server.operational, style)
        }
        // A disabled server is not checked: what it was before says nothing.
        ("disabled", _) => Cell::word("disabled", Style::Dim),
        (admin, true) => Cell::word(admin, Style::Warn),
        (admin, false) => Cell::word(format!("{admin}, {}", server.operational), Style::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::capture;
    use crate::cli::fixture::{self, Api, json};
    use crate::control::api::EjectionStatus;

    #[test]
    fn people_get_a_table() {
        let text = text(&fixture::status(), 0, false);
        let expected = "\
evenkeel 0.1.0  serving for 3 min 5 s, pid 42, generation 3, 2 cores, 7 connections
config     /etc/evenkeel/evenkeel.toml
listening  0.0.0.0:8080 (main)

shop  sticky_cookie
  SERVER  ADDRESS         STATE        WEIGHT  IN-FLIGHT  TUNNELS  SESSIONS  REQUESTS     P50      P99
  a       127.0.0.1:9001  healthy   10 of 100          3        0        12    12,345  1.2 ms  18.0 ms
  b       127.0.0.1:9002  draining          1          2        0         3         0       -        -
    draining for 12 s: 3 sessions left, 2 in flight, ends within 14 min

api  round_robin  FAILING OPEN: no server is healthy, every ready one gets traffic
  queue: 3 of 100 waiting, 1,234 queued, 2 timed out
  SERVER            ADDRESS           STATE      WEIGHT  IN-FLIGHT  TUNNELS  REQUESTS  P50  P99
  a                 127.0.0.1:9011    unhealthy       1    0 of 20        0         0    -    -
    last check: connection refused
  unix:/run/x.sock  unix:/run/x.sock  healthy         1          0        0         0    -    -
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn the_processes_before_and_after_are_shown_while_they_are_there() {
        let before = PredecessorStatus {
            pid: 41,
            version: "0.1.0".into(),
            seconds: 12.0,
            connections: 3,
            tunnels: 1,
            in_flight: 2,
            in_step: true,
            ends_within_seconds: 47.2,
        };
        let next = UpgradeStatus { pid: 43, seconds: 1.0, ends_within_seconds: 59.0 };
        let status = Status { predecessor: Some(before), upgrade: Some(next), ..fixture::status() };
        let lines = text(&status, 0, false);
        let lines: Vec<&str> = lines.lines().skip(3).take(2).collect();
        assert_eq!(
            lines,
            [
                "upgrade    process 43 gets ready to take over, within 59 s",
                "before     process 41 (evenkeel 0.1.0) drains for 12 s: 3 connections, 2 in flight, 1 tunnel, ends within 48 s"
            ]
        );
    }

    #[test]
    fn certificates_say_how_long_they_last() {
        let certificate = |listener: &str, names: &[&str], expires, problem: Option<&str>| CertificateStatus {
            listener: listener.into(),
            certificate: "/tls/site.pem".into(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            algorithm: "ecdsa".into(),
            expires,
            problem: problem.map(str::to_owned),
        };
        let day = 86_400;
        let broken = Some("/tls/site.key: the key is encrypted");
        let list = vec![
            certificate("main", &["a.example", "b.example", "c.example"], 90 * day, broken),
            certificate("main", &["d.example"], 3 * day + 5, broken),
            certificate("other", &[], -1, None),
        ];
        let status = Status { certificates: list, ..fixture::status() };
        let shown = text(&status, 0, false);
        let expected = "
CERTIFICATE    LISTENER  KEY    NAMES                 DAYS LEFT
/tls/site.pem  main      ecdsa  a.example and 2 more         90
/tls/site.pem  main      ecdsa  d.example                     3
  newer files are not in use: /tls/site.key: the key is encrypted
/tls/site.pem  other     ecdsa  -                       expired

shop  sticky_cookie
";
        assert!(shown.contains(expected), "{shown}");
        assert!(text(&status, 0, true).contains("\x1b[31mexpired"));
    }

    #[test]
    fn an_ejected_server_says_why_and_one_that_starts_slowly_how_far_it_is() {
        let mut status = fixture::status();
        let server = &mut status.upstreams[0].servers[0];
        server.operational = "ejected".into();
        let (reason, number) = ("5 failures in a row".to_owned(), 2);
        server.ejection = Some(EjectionStatus { reason, seconds: 12.3, ends_within_seconds: 47.1, number });
        status.upstreams[1].servers[1].backup = true;
        status.upstreams[1].servers[1].slow_start =
            Some(SlowStartStatus { percent: 40, max_requests: Some(8), ends_within_seconds: 5.2 });
        let shown = text(&status, 0, false);
        assert!(shown.contains("\n    backup: for clients that no other server can take\n"), "{shown}");
        assert!(shown.contains("\n    slow start: 40 % of its share, 8 at once, all of it within 6 s\n"), "{shown}");
        let expected = "\n    ejected for 12 s: 5 failures in a row, returns within 48 s, number 2 in a row\n";
        assert!(shown.contains(expected) && shown.contains("ejected "), "{shown}");
    }

    #[test]
    fn hot_addresses_and_a_forgotten_proxy_are_shown() {
        let mut status = fixture::status();
        let peer = "10.0.0.5".to_owned();
        status.forgotten_proxy = Some(ForgottenProxy { peer, share_percent: 97.2, requests: 1_234 });
        let hot = |key: &str, spread| HotKeyStatus {
            key: key.to_owned(),
            server: "b".to_owned(),
            share_percent: 31.25,
            requests_per_second: 120.0,
            spread,
            seconds: 12.3,
        };
        status.upstreams[0].hot_keys = vec![hot("192.0.2.7", true), hot("2001:db8::/64", false)];
        let shown = text(&status, 0, false);
        for line in [
            "\nwarning    97 % of 1,234 requests came from 10.0.0.5, which says for whom it asks and is not trusted; \
             if it is your proxy, set trusted_proxies = [\"10.0.0.5\"]\n",
            "\n  hot for 12 s: 192.0.2.7 makes 31.2 % of the requests, 120.0 a second; its users are spread, since b was \
             above its bound\n",
            "\n  hot for 12 s: 2001:db8::/64 makes 31.2 % of the requests, 120.0 a second; all of it belongs to b\n",
        ] {
            assert!(shown.contains(line), "{line}: {shown}");
        }
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let colored = text(&fixture::status(), 0, true);
        assert!(colored.contains("\x1b[31mFAILING OPEN"), "{colored}");
        assert!(colored.contains("\x1b[32mhealthy\x1b[0m"), "{colored}");
        assert!(!text(&fixture::status(), 0, false).contains('\x1b'));
    }

    #[test]
    fn both_fields_of_a_state_are_told() {
        let cell = |admin: &str, operational: &str| {
            let server = ServerStatus {
                admin: admin.into(),
                operational: operational.into(),
                ..fixture::server("a", "127.0.0.1:1")
            };
            render(&[Row::Cells(vec![state(&server)])], "", false).trim_end().to_owned()
        };
        assert_eq!(cell("ready", "starting"), "starting");
        assert_eq!(cell("draining", "unhealthy"), "draining, unhealthy");
        assert_eq!(cell("drained", "healthy"), "drained");
        assert_eq!(cell("disabled", "starting"), "disabled");
    }

    #[tokio::test]
    async fn json_is_the_api_s_own() {
        let mut value = serde_json::to_value(fixture::status()).unwrap();
        value["of_a_later_version"] = true.into();
        let body = json(&value);
        let api = Api::start({
            let body = body.clone();
            move |_| (200, body.clone())
        });
        let (mut console, out, _) = capture::console();
        console.json = true;
        assert_eq!(status(&api.client, &mut console).await, Ok(Exit::Ok));
        assert_eq!(out.read(), format!("{body}\n"));
    }
}
