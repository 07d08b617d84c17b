//! The report as one page that needs nothing but itself: no script, no request, light and dark.

mod cache;
mod servers;
mod setup;
mod sockets;
mod strategies;

use std::fmt::Write as _;

use super::svg::{Chart, Scale, escape};
use super::{EventReport, PolicyReport, Report, dash, millis, percent};

/// Size of a small chart.
pub(super) const WIDE: f64 = 360.0;
pub(super) const HIGH: f64 = 190.0;

/// More lines than this are one grey area.
const MOST_LINES: usize = 40;

/// Lines that can be told apart.
const COLOURS: usize = 8;

/// What the page may load: nothing but itself.
pub(super) const NOTHING_ELSE: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

pub(super) const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fcfcfd;--fg:#1c2330;--dim:#667085;--line:#e3e6ec;--card:#fff;--hot:#c8372d;--bar:#7a92b3;\
--c0:#2563a8;--c1:#c8372d;--c2:#2e8540;--c3:#8a4fbf;--c4:#b5651d;--c5:#0e7f86;--c6:#a8326e;--c7:#5b6470}\
@media(prefers-color-scheme:dark){:root{--bg:#14171c;--fg:#e6e9ef;--dim:#98a2b3;--line:#2b3038;--card:#1b1f26;--hot:#ff7a6b;--bar:#7c95b8;\
--c0:#6aa9f0;--c1:#ff7a6b;--c2:#6cc47f;--c3:#c39af0;--c4:#e6a35c;--c5:#57c2c9;--c6:#ef87b8;--c7:#aab4c2}}\
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}\
main{max-width:72rem;margin:0 auto;padding:2rem 1rem 4rem}h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .3rem}\
h3{font-size:.95rem;margin:0 0 .3rem;font-weight:600}p{margin:.3rem 0 .8rem;max-width:48rem}.dim{color:var(--dim)}\
.grid-of{display:grid;grid-template-columns:repeat(auto-fill,minmax(20rem,1fr));gap:1rem}.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.8rem}\
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line)}th,td{padding:.35rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\
th{font-weight:600;color:var(--dim);font-size:.85rem}th:first-child,td:first-child{text-align:left}.wrap th,.wrap td{white-space:normal}.wrap td:first-child{min-width:9rem}td.bad,p.bad{color:var(--hot);font-weight:600}\
main svg{width:100%;height:auto;display:block}.grid{stroke:var(--line)}.tick{fill:var(--dim);font-size:10px}.bar{fill:var(--bar)}.hot{fill:var(--hot)}\
.level{stroke:var(--fg);stroke-dasharray:4 3}.event{stroke:var(--dim);stroke-dasharray:2 3}.line{fill:none;stroke-width:1.2;stroke:var(--bar)}.wide{stroke-width:2}.dash{stroke-dasharray:5 3}\
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}.c6{stroke:var(--c6)}.c7{stroke:var(--c7)}.lhot{stroke:var(--hot);stroke-width:2}\
.key{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:.3rem 0 0;padding:0;list-style:none;font-size:.85rem}main .key svg{width:1.4rem;height:.6rem;display:inline-block;margin-right:.35rem}";

/// A page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut page = String::new();
    let title = escape(&report.title);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{NOTHING_ELSE}\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n<main>\n<h1>{title}</h1>\n"
    );
    if !report.about.is_empty() {
        let _ = writeln!(page, "<p>{}</p>", escape(&report.about));
    }
    setup::paragraphs(&mut page, report);
    strategies::table(&mut page, report);
    cache::section(&mut page, report);
    sockets::section(&mut page, report);
    table(&mut page, report);
    happened(&mut page, report);
    loads(&mut page, report);
    over_time(&mut page, report);
    latencies(&mut page, report);
    totals(&mut page, report);
    servers::tables(&mut page, report);
    let _ = write!(page, "</main>\n</html>\n");
    page
}

fn table(page: &mut String, report: &Report) {
    if report.strategies.is_some() || report.cache_rows().or_else(|| report.socket_rows()).is_some() {
        page.push_str("<h2>Under load, with what happened meanwhile</h2>\n");
    }
    let _ = writeln!(
        page,
        "<div class=\"scroll\"><table><tr><th>Policy<th>Max / mean<th>Jain<th>p50<th>p90<th>p99<th>Failed{}</tr>",
        if report.sessions { "<th>Sessions lost" } else { "" }
    );
    for policy in &report.policies {
        if let Some(why) = &policy.not_run {
            let _ = writeln!(page, "<tr><td>{}<td class=\"bad\">not run: {}</tr>", escape(&policy.policy), escape(why));
            continue;
        }
        let show = |ms: Option<f64>| ms.map_or_else(dash, millis);
        let bad = |is: bool| if is { " class=\"bad\"" } else { "" };
        let _ = write!(
            page,
            "<tr><td>{}<td{}>{}<td>{}<td>{}<td>{}<td>{}<td{}>{}",
            escape(&policy.policy),
            bad(policy.max_over_mean.is_some_and(|x| x >= 2.0)),
            policy.max_over_mean.map_or_else(dash, |x| format!("{x:.2}")),
            policy.jain.map_or_else(dash, |x| format!("{x:.3}")),
            show(policy.latency.p50_ms),
            show(policy.latency.p90_ms),
            show(policy.latency.p99_ms),
            bad(policy.failed > 0),
            percent(policy.failed, policy.requests)
        );
        if let Some(lost) = policy.sessions_lost {
            let _ = write!(page, "<td{}>{lost}", bad(lost > 0));
        }
        page.push_str("</tr>\n");
    }
    page.push_str(
        "</table></div>\n<p class=\"dim\">Max / mean: how many times its fair share the busiest server got; 1 is even. \
         Jain's index: 1 is even, 1/n is everything on one. Latency counts from when a request was due. Failed: without an \
         answer, or with a 5xx.</p>\n",
    );
    for warning in &report.warnings {
        let _ = writeln!(page, "<p class=\"bad\">{}</p>", escape(warning));
    }
}

fn happened(page: &mut String, report: &Report) {
    let Some(told) = report.event_rows() else { return };
    page.push_str("<h2>What happened</h2>\n");
    rows(page, &told);
    page.push_str("<p class=\"dim\">Took: until the verb that did it was done, with the start of what was started.");
    if report.policies.iter().flat_map(|policy| &policy.events).any(|event| event.carried.is_some()) {
        page.push_str(
            " New carry their share after: from the event until a second begins in which the new servers together answer nine \
             tenths of their fair share or more.",
        );
    }
    page.push_str("</p>\n");
}

/// A table of texts, the first row its head.
pub(super) fn rows(page: &mut String, rows: &[Vec<String>]) {
    page.push_str("<div class=\"scroll\"><table>");
    for (n, row) in rows.iter().enumerate() {
        let tag = if n == 0 { "th" } else { "td" };
        // Heads are capitals on a terminal only.
        let show = |cell: &String| if n == 0 { sentence(cell) } else { escape(cell) };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}", show(cell))).collect();
        let _ = writeln!(page, "<tr>{cells}</tr>");
    }
    page.push_str("</table></div>\n");
}

/// A head of a terminal's table as a page has it.
fn sentence(head: &str) -> String {
    let mut letters = head.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    escape(&first.into_iter().chain(letters.map(|letter| letter.to_ascii_lowercase())).collect::<String>())
}

fn hottest(policy: &PolicyReport) -> Option<usize> {
    policy.max_over_mean.filter(|x| *x >= 1.5).and_then(|_| policy.busiest())
}

fn card(page: &mut String, policy: &PolicyReport, chart: &str) {
    let _ = writeln!(page, "<div class=\"card\"><h3>{}</h3>\n{chart}</div>", escape(&policy.policy));
}

/// The names of servers, or their numbers alone where there are many.
fn short(name: &str, of: usize) -> String {
    if of > 8 { name.trim_start_matches('s').to_owned() } else { name.to_owned() }
}

fn loads(page: &mut String, report: &Report) {
    page.push_str("<h2>Load per server</h2>\n<p>Requests that each server answered; the dashed line is its fair share");
    page.push_str(if report.policies.iter().all(PolicyReport::is_even) { "" } else { ", which goes by weight" });
    page.push_str(".</p>\n<div class=\"grid-of\">\n");
    for policy in &report.policies {
        card(page, policy, &load_of(policy, most_of_one(report)));
    }
    page.push_str("</div>\n");
}

fn most_of_one(report: &Report) -> u64 {
    report.policies.iter().flat_map(|p| &p.servers).map(|s| s.requests).max().unwrap_or(1)
}

/// A bar for each server.
fn load_of(policy: &PolicyReport, most: u64) -> String {
    let n = policy.servers.len();
    let label = format!("{}: requests by server", policy.policy);
    let y = Scale::linear(most as f64 * 1.05);
    let mut chart = Chart::new(WIDE, HIGH, Scale::linear(n as f64), y, &label);
    chart.y_axis(|value| format!("{value:.0}"));
    let bars: Vec<(String, f64)> = policy.servers.iter().map(|s| (short(&s.server, n), s.requests as f64)).collect();
    chart.bars(&bars, hottest(policy));
    if policy.is_even() {
        let mean = bars.iter().map(|bar| bar.1).sum::<f64>() / n.max(1) as f64;
        chart.level(mean, &format!("mean: {mean:.0}"));
    } else {
        for (at, server) in policy.servers.iter().enumerate() {
            let fair = policy.fair(server);
            chart.mark(
                at,
                fair,
                &format!("{}: its fair share is {fair:.0}, by a weight of {}", server.server, server.weight),
            );
        }
    }
    chart.end()
}

/// The load of each server under each policy as a picture of its own, for documents.
#[must_use]
pub fn picture(report: &Report) -> String {
    const ACROSS: usize = 3;
    /// Room for the name above a chart.
    const ABOVE: f64 = 22.0;
    let rows = report.policies.len().div_ceil(ACROSS);
    let (wide, high) = (WIDE * ACROSS.min(report.policies.len()) as f64, (HIGH + ABOVE) * rows as f64);
    let title = escape(&report.title);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {high}\" font-family=\"system-ui,sans-serif\">\
         <title>{title}: requests by server under each policy</title>\n<style>{STYLE} .name{{fill:var(--fg);font-size:13px;font-weight:600}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"var(--card)\"/>\n"
    );
    for (n, policy) in report.policies.iter().enumerate() {
        let (x, y) = ((n % ACROSS) as f64 * WIDE, (n / ACROSS) as f64 * (HIGH + ABOVE));
        let _ = writeln!(
            text,
            "<text class=\"name\" x=\"{}\" y=\"{}\">{}</text>",
            x + 14.0,
            y + 17.0,
            escape(&policy.policy)
        );
        let place = format!("<svg x=\"{x}\" y=\"{}\" width=\"{WIDE}\" height=\"{HIGH}\" ", y + ABOVE);
        text.push_str(&load_of(policy, most_of_one(report)).replacen("<svg ", &place, 1));
    }
    text.push_str("</svg>\n");
    text
}

fn events(chart: &mut Chart, events: &[EventReport]) {
    for event in events {
        chart.event(event.at_seconds, &event.what);
    }
}

fn over_time(page: &mut String, report: &Report) {
    page.push_str("<h2>Load over time</h2>\n<p>Requests a second that each server answered, a line each.</p>\n<div class=\"grid-of\">\n");
    let servers = report.policies.iter().map(|policy| policy.servers.len()).max().unwrap_or(0);
    let rate = |count: u32, policy: &PolicyReport| f64::from(count) / policy.over_time.step_seconds;
    let most = report.policies.iter().flat_map(|p| p.over_time.servers.iter().flatten().map(|c| rate(*c, p)));
    let most = most.fold(1.0, f64::max);
    for policy in &report.policies {
        let label = format!("{}: requests a second by server, over time", policy.policy);
        let x = Scale::linear(report.duration_seconds);
        let mut chart = Chart::new(WIDE, HIGH, x, Scale::linear(most * 1.05), &label);
        chart.y_axis(|value| format!("{value:.0}"));
        chart.x_axis(|value| format!("{value} s"));
        events(&mut chart, &policy.events);
        let hot = hottest(policy);
        // The one that stands out is drawn last, above the others.
        let order = (0..policy.servers.len().min(MOST_LINES)).filter(|n| hot != Some(*n)).chain(hot);
        for n in order {
            let points = policy.over_time.servers[n].iter().enumerate();
            let points = points.map(|(i, c)| ((i as f64 + 0.5) * policy.over_time.step_seconds, rate(*c, policy)));
            let class = match (servers <= COLOURS, hot == Some(n)) {
                (true, is_hot) => format!("c{n}{}", if is_hot { " wide" } else { "" }),
                (false, true) => "lhot".to_owned(),
                (false, false) => String::new(),
            };
            chart.line(points, &class, &policy.servers[n].server);
        }
        card(page, policy, &chart.end());
    }
    page.push_str("</div>\n");
    key_of_servers(page, servers);
}

/// Which colour is which server, where each has one of its own.
fn key_of_servers(page: &mut String, servers: usize) {
    if servers <= COLOURS {
        let names: Vec<String> = (1..=servers).map(|number| format!("s{number}")).collect();
        key_of(page, names.iter().map(String::as_str));
    }
}

/// The class of the n-th line: of those beyond what colours can tell apart, strokes.
fn colour(n: usize) -> String {
    format!("wide c{}{}", n % COLOURS, if n < COLOURS { "" } else { " dash" })
}

fn key(page: &mut String, report: &Report) {
    key_of(page, report.policies.iter().map(|policy| policy.policy.as_str()));
}

fn key_of<'a>(page: &mut String, names: impl Iterator<Item = &'a str>) {
    page.push_str("<ul class=\"key\">\n");
    for (n, name) in names.enumerate() {
        let _ = writeln!(
            page,
            "<li><svg viewBox=\"0 0 20 8\" aria-hidden=\"true\"><path class=\"line {}\" d=\"M0 4L20 4\"/></svg>{}</li>",
            colour(n),
            escape(name)
        );
    }
    page.push_str("</ul>\n");
}

fn latencies(page: &mut String, report: &Report) {
    page.push_str("<h2>Latency</h2>\n<p>The share of requests that were answered within a time, from when they were due.</p>\n<div class=\"card\">\n");
    let values = || report.policies.iter().flat_map(|p| &p.cdf).map(|point| point.0);
    let (low, high) = (values().fold(f64::MAX, f64::min).min(1e4), values().fold(1.0, f64::max));
    let y = Scale::linear(1.0);
    let mut chart = Chart::new(760.0, 260.0, Scale::log(low, high), y, "Distribution of latency by policy");
    chart.y_axis(|share| format!("{:.0} %", share * 100.0));
    chart.x_axis(millis);
    for (n, policy) in report.policies.iter().enumerate() {
        chart.line(policy.cdf.iter().copied(), &colour(n), &policy.policy);
    }
    page.push_str(&chart.end());
    key(page, report);
    page.push_str("</div>\n");
}

/// What has gone wrong, added up over time.
fn totals(page: &mut String, report: &Report) {
    let mut one = |title: &str, text: &str, of: &dyn Fn(&PolicyReport) -> &[u32]| {
        let total = |p: &PolicyReport| of(p).iter().map(|n| f64::from(*n)).sum::<f64>();
        let most = report.policies.iter().map(total).fold(0.0, f64::max);
        let _ = writeln!(page, "<h2>{title}</h2>\n<p>{text}</p>");
        if most == 0.0 {
            page.push_str("<p><b>None, under any policy.</b></p>\n");
            return;
        }
        page.push_str("<div class=\"card\">\n");
        let x = Scale::linear(report.duration_seconds);
        let mut chart = Chart::new(760.0, 220.0, x, Scale::linear(most * 1.05), title);
        chart.y_axis(|value| format!("{value:.0}"));
        chart.x_axis(|value| format!("{value} s"));
        if let Some(policy) = report.policies.first() {
            events(&mut chart, &policy.events);
        }
        for (n, policy) in report.policies.iter().enumerate() {
            let mut sum = 0.0;
            let points = of(policy).iter().enumerate().map(|(i, count)| {
                sum += f64::from(*count);
                ((i as f64 + 1.0) * policy.over_time.step_seconds, sum)
            });
            chart.line(std::iter::once((0.0, 0.0)).chain(points), &colour(n), &policy.policy);
        }
        page.push_str(&chart.end());
        key(page, report);
        page.push_str("</div>\n");
    };
    if report.sessions {
        let text =
            "Users who were logged out because the server that got their request did not know their session, added up.";
        one("Sessions lost over time", text, &|policy| &policy.over_time.sessions_lost);
    }
    one("Failed requests over time", "Requests without an answer, or with a 5xx, added up.", &|policy| {
        &policy.over_time.failed
    });
}
