//! `lab replay`: an access log again, under each policy.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use super::unwritten;
use crate::balance::Policy;
use crate::cli::args::{Global, LabReplayArgs};
use crate::cli::check;
use crate::cli::console::Console;
use crate::cli::exit::{Exit, Failure};
use crate::cli::show;
use crate::cli::table::{Cell, Row, Style, ago, count, render};
use crate::config::plan::UpstreamPlan;
use crate::lab::replay::{Replay, Replayed, Server, Wanted};
use crate::lab::report::replay::page;
use crate::units;

/// Where nobody says how many there are.
const SERVERS: u32 = 4;
/// What policies are asked where nobody names any.
const POLICIES: [&str; 5] =
    ["round_robin", "least_requests", "sticky_cookie", "ip_hash", "{ ip_hash = { max_load = 1.25 } }"];
/// What a file begins with that gzip has compressed (RFC 1952 §2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// `lab replay`.
pub(in crate::cli) fn replay(args: &LabReplayArgs, global: &Global, console: &mut Console) -> Result<Exit, Failure> {
    let mut replay = Replay::new(wanted(args, global, console)?);
    for log in &args.logs {
        let unread = |error: io::Error| Failure::new(Exit::Failure, format!("cannot read {}: {error}", log.display()));
        let mut log = open(log).map_err(unread)?;
        replay.read(&mut *log).map_err(unread)?;
    }
    let told = replay.finish();
    if told.requests == 0 {
        return Err(Failure::new(Exit::Failure, nothing(&told)));
    }
    if let Some(out) = &args.out {
        write(&told, out)?;
    }
    if console.json {
        console.json_line(&told)?;
    } else {
        show(&told, args, console)?;
    }
    Ok(Exit::Ok)
}

/// The servers and the policies that are to be tried.
fn wanted(args: &LabReplayArgs, global: &Global, console: &Console) -> Result<Wanted, Failure> {
    let wrong = |text: String| Failure::new(Exit::Usage, text);
    let took = units::parse_duration(&args.took).map_err(|error| wrong(format!("--took {}: {error}", args.took)))?;
    let mut policies: Vec<(String, Policy)> = Vec::new();
    let mut add = |policy: Policy, text: Option<&str>| {
        if policies.iter().any(|(_, known)| *known == policy) {
            return;
        }
        let name = text.map_or_else(|| show::label(&policy), label);
        let namesakes = policies.iter().filter(|(known, _)| known.split('#').next() == Some(&*name)).count();
        policies.push((if namesakes == 0 { name } else { format!("{name}#{}", namesakes + 1) }, policy));
    };
    for text in &args.policy {
        add(policy(text).map_err(|error| wrong(format!("--policy {text}: {error}")))?, Some(text));
    }
    let upstream = upstream(args, global, console)?;
    let name = upstream.as_ref().map(|plan| plan.name.clone());
    let servers = match upstream {
        Some(plan) => {
            if args.policy.is_empty() {
                add(plan.policy, None);
                plan.shadow.into_iter().flat_map(|shadow| shadow.policies).for_each(|policy| add(policy, None));
            }
            let servers = plan.servers.into_iter().filter(|server| !server.backup && server.weight > 0);
            servers.map(|server| Server { name: server.name, weight: server.weight }).collect()
        }
        None => (1..=args.servers.unwrap_or(SERVERS))
            .map(|n| Server { name: format!("s{n}"), weight: 1 })
            .collect::<Vec<_>>(),
    };
    if servers.is_empty() {
        return Err(wrong("the upstream has no server that takes new clients".to_owned()));
    }
    if args.policy.is_empty() {
        for text in POLICIES {
            add(policy(text).map_err(|error| Failure::new(Exit::Failure, error))?, Some(text));
        }
    }
    Ok(Wanted { servers, policies, upstream: name, took })
}

/// The upstream that is named, or the only one of a configuration that is.
fn upstream(args: &LabReplayArgs, global: &Global, console: &Console) -> Result<Option<UpstreamPlan>, Failure> {
    if args.upstream.is_none() && (global.config.is_none() || args.servers.is_some()) {
        return Ok(None);
    }
    let file = check::file(global)?;
    let mut upstreams = check::load(&file, console)?.plan.upstreams;
    let names: Vec<String> = upstreams.iter().map(|plan| format!("`{}`", plan.name)).collect();
    let (names, file) = (names.join(", "), file.display());
    let wrong = |text: String| Err(Failure::new(Exit::Usage, text));
    match &args.upstream {
        Some(name) => match upstreams.into_iter().find(|plan| plan.name == *name) {
            Some(plan) => Ok(Some(plan)),
            None => wrong(format!("there is no upstream `{name}` in {file}; there is {names}")),
        },
        None if upstreams.len() == 1 => Ok(upstreams.pop()),
        None if upstreams.is_empty() => {
            wrong(format!("there is no upstream in {file}: say how many servers with --servers"))
        }
        None => wrong(format!("say which upstream of {file} with --upstream: {names}")),
    }
}

/// A policy as a configuration has it: a name, or a table of one key.
fn policy(text: &str) -> Result<Policy, String> {
    #[derive(Deserialize)]
    struct Wrapped {
        policy: Policy,
    }
    let quoted = if text.trim_start().starts_with('{') { text.to_owned() } else { format!("{text:?}") };
    let read: Result<Wrapped, _> = toml::from_str(&format!("policy = {quoted}"));
    read.map(|wrapped| wrapped.policy).map_err(|error| error.message().to_owned())
}

/// What a policy is called that was written so: `{ ip_hash = { max_load = 1.25 } }` is "ip_hash, max_load 1.25".
fn label(text: &str) -> String {
    let is_bracket = |c: char| c == '{' || c == '}' || c.is_whitespace();
    let mut parts = text.splitn(2, '=').map(|part| part.trim_matches(is_bracket));
    let name = parts.next().unwrap_or_default().to_owned();
    let options = parts.next().unwrap_or_default().replace(['=', '{', '}'], " ");
    let options = options.split_whitespace().collect::<Vec<_>>().join(" ");
    if options.is_empty() { name } else { format!("{name}, {options}") }
}

/// A log, unpacked if it is compressed; `-` is standard input.
fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut log: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path)?))
    };
    // A pipe may give less than two bytes at first: what was looked at is put in front again.
    let mut magic = Vec::with_capacity(GZIP.len());
    (&mut log).take(GZIP.len() as u64).read_to_end(&mut magic)?;
    let is_gzip = magic == GZIP;
    let whole = io::Cursor::new(magic).chain(log);
    Ok(if is_gzip { Box::new(BufReader::new(MultiGzDecoder::new(whole))) } else { Box::new(whole) })
}

fn write(told: &Replayed, out: &PathBuf) -> Result<(), Failure> {
    fs::create_dir_all(out).map_err(|error| unwritten(out, &error))?;
    let (json, html) = (out.join("report.json"), out.join("report.html"));
    let text = serde_json::to_string_pretty(told).map_err(|error| unwritten(&json, &error))?;
    fs::write(&json, text + "\n").map_err(|error| unwritten(&json, &error))?;
    fs::write(&html, page(told)).map_err(|error| unwritten(&html, &error))
}

/// Why there is nothing to tell.
fn nothing(told: &Replayed) -> String {
    if told.bad.lines > 0 {
        format!("no line is a request of an access log: {}", bad(told))
    } else if told.left_out > 0 {
        format!("no request of the log is for these servers: {} left out", count(told.left_out, "line"))
    } else {
        "there is no request in it: the log is empty".to_owned()
    }
}

fn bad(told: &Replayed) -> String {
    let lines = count(told.bad.lines, "bad line");
    match &told.bad.first {
        Some(first) => format!("{lines}, the first is line {}, {}: {}", first.number, first.why, first.text),
        None => lines,
    }
}

fn show(told: &Replayed, args: &LabReplayArgs, console: &mut Console) -> Result<(), Failure> {
    let span = told.to.zip(told.from).map_or(0.0, |(to, from)| to - from);
    let mut out = format!(
        "{} of {} in {}, on {}\n",
        count(told.requests, "request"),
        count(told.clients as u64, "client"),
        ago(span.max(0.0) as u64),
        count(told.servers.len() as u64, "server"),
    );
    for (number, what) in [
        (told.left_out, "left out: they are of no server, or of another upstream"),
        (told.lost, "lost, as the log says itself"),
    ] {
        if number > 0 {
            out.push_str(&format!("{} {what}\n", count(number, "line")));
        }
    }
    if told.bad.lines > 0 {
        out.push_str(&format!("{}\n", Style::Warn.paint(&bad(told), console.color)));
    }
    if told.without_duration > 0 {
        let took = &args.took;
        out.push_str(&format!("{} without a duration: taken for {took}\n", count(told.without_duration, "request")));
    }
    if told.back > 0 {
        let text = format!("the log goes back in time {}: what was in flight is forgotten", count(told.back, "time"));
        out.push_str(&format!("{}\n", Style::Warn.paint(&text, console.color)));
    }
    if !told.all_followed {
        out.push_str("more clients than can be followed: moves are those of the first ones\n");
    }
    for (rows, words) in [(told.rows(), [0, 3, 5].as_slice()), (told.hot_rows(), &[0, 3])] {
        if rows.is_empty() {
            continue;
        }
        let cell = |(column, text): (usize, &String), head: bool| {
            let style = if head { Style::Dim } else { Style::Plain };
            if words.contains(&column) { Cell::word(text, style) } else { Cell::number(text).styled(style) }
        };
        let row =
            |(n, row): (usize, &Vec<String>)| Row::Cells(row.iter().enumerate().map(|c| cell(c, n == 0)).collect());
        let rows: Vec<Row> = rows.iter().enumerate().map(row).collect();
        out.push('\n');
        out.push_str(&render(&rows, "", console.color));
    }
    if let Some(dir) = &args.out {
        out.push_str(&format!("\nreport: {}\n", dir.join("report.html").display()));
    }
    console.write(out.as_bytes())
}
