//! What came of a log's replay, as one page that needs nothing but itself.

use std::fmt::Write as _;

use super::html::{HIGH, NOTHING_ELSE, STYLE, WIDE, rows};
use super::svg::{Chart, Scale, escape};
use crate::lab::replay::{Outcome, Replayed, Server};

/// A page.
#[must_use]
pub fn page(told: &Replayed) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Replay of an access log</title>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{NOTHING_ELSE}\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n<main>\n\
         <h1>Replay of an access log</h1>\n"
    );
    let span = told.to.zip(told.from).map_or(0.0, |(to, from)| to - from);
    let _ = writeln!(
        page,
        "<p class=\"dim\">{} requests of {} clients in {span:.0} s, on {} servers, worked out by evenkeel {}. {} lines left out, {} bad.</p>",
        told.requests,
        told.clients,
        told.servers.len(),
        told.version,
        told.left_out,
        told.bad.lines
    );
    if let Some(first) = &told.bad.first {
        let text = escape(&first.text);
        let _ = writeln!(
            page,
            "<p class=\"dim\">The first bad line is line {}, {}: <code>{text}</code></p>",
            first.number, first.why
        );
    }
    if told.back > 0 {
        let _ = writeln!(page, "<p class=\"dim\">Times that the log goes back in time: {}.</p>", told.back);
    }
    rows(&mut page, &told.rows());
    page.push_str(
        "<p class=\"dim\">Max / mean: how many times its share, by weight, the busiest server got; 1 is even. Jain's index: 1 is \
         even, 1/n is everything on one. Moves: of a thousand requests of clients that had been there before, those that went to \
         another server. Figures: what of them is an estimate, where the log does not have it: how busy servers are (load), who \
         keeps a cookie (clients), what a hash goes by (key), which addresses are spread (hot_keys).</p>\n\
         <h2>Load per server</h2>\n<p>Requests that each server would have got; the dashed line is its fair share, by \
         weight.</p>\n<div class=\"grid-of\">\n",
    );
    let all = || told.logged.iter().chain(&told.policies);
    let most = all().flat_map(|outcome| &outcome.servers).map(|server| server.requests).max().unwrap_or(1);
    for outcome in all() {
        let _ = writeln!(
            page,
            "<div class=\"card\"><h3>{}</h3>\n{}</div>",
            escape(&outcome.policy),
            load(outcome, &told.servers, most)
        );
    }
    page.push_str("</div>\n");
    let hot = told.hot_rows();
    if !hot.is_empty() {
        page.push_str("<h2>Hottest addresses</h2>\n<p>And the server that policies by address put them on.</p>\n");
        rows(&mut page, &hot);
    }
    page.push_str("</main>\n</html>\n");
    page
}

/// A bar for each server.
fn load(outcome: &Outcome, servers: &[Server], most: u64) -> String {
    let label = format!("{}: requests by server", outcome.policy);
    let bars: Vec<(String, f64)> = outcome.servers.iter().map(|s| (s.server.clone(), s.requests as f64)).collect();
    let across = Scale::linear(bars.len() as f64);
    let mut chart = Chart::new(WIDE, HIGH, across, Scale::linear(most as f64 * 1.05), &label);
    chart.y_axis(|value| format!("{value:.0}"));
    let busiest = outcome.busiest.as_ref().filter(|_| outcome.max_over_mean.is_some_and(|x| x >= 1.5));
    let hottest = busiest.and_then(|name| outcome.servers.iter().position(|server| server.server == *name));
    chart.bars(&bars, hottest);
    // As logged, there may be servers of which nobody has said how heavy they are.
    let weight = |name: &str| servers.iter().find(|server| server.name == name).map_or(1, |server| server.weight);
    let (all, weights) = outcome.servers.iter().fold((0, 0), |(r, w), s| (r + s.requests, w + weight(&s.server)));
    for (n, share) in outcome.servers.iter().enumerate() {
        let fair = all as f64 * f64::from(weight(&share.server)) / f64::from(weights.max(1));
        chart.mark(n, fair, &format!("{}: its fair share is {fair:.0}", share.server));
    }
    chart.end()
}
