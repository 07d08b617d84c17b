//! What came of a log's replay, as one page that needs nothing but itself.

use std::fmt::Write as _;

use super::html::{HIGH, NOTHING_ELSE, STYLE, WIDE};
use super::svg::{Chart, Scale, escape};
use crate::lab::replay::{Outcome, Replayed};

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
    table(&mut page, &told.rows());
    page.push_str(
        "<p class=\"dim\">Max / mean: how many times its share, by weight, the busiest server got; 1 is even. Jain's index: 1 is \
         even, 1/n is everything on one. Moves: of a thousand requests of clients that had been there before, those that went to \
         another server.</p>\n<h2>Load per server</h2>\n<div class=\"grid-of\">\n",
    );
    let all = || told.logged.iter().chain(&told.policies);
    let most = all().flat_map(|outcome| &outcome.servers).map(|server| server.requests).max().unwrap_or(1);
    for outcome in all() {
        let _ =
            writeln!(page, "<div class=\"card\"><h3>{}</h3>\n{}</div>", escape(&outcome.policy), load(outcome, most));
    }
    page.push_str("</div>\n");
    let hot = told.hot_rows();
    if !hot.is_empty() {
        page.push_str("<h2>Hottest addresses</h2>\n<p>And the server that policies by address put them on.</p>\n");
        table(&mut page, &hot);
    }
    page.push_str("</main>\n</html>\n");
    page
}

fn table(page: &mut String, rows: &[Vec<String>]) {
    page.push_str("<div class=\"scroll\"><table>");
    for (number, row) in rows.iter().enumerate() {
        let cell = if number == 0 { "th" } else { "td" };
        page.push_str("<tr>");
        for text in row {
            let _ = write!(page, "<{cell}>{}", escape(text));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
}

/// A bar for each server.
fn load(outcome: &Outcome, most: u64) -> String {
    let label = format!("{}: requests by server", outcome.policy);
    let bars: Vec<(String, f64)> = outcome.servers.iter().map(|s| (s.server.clone(), s.requests as f64)).collect();
    let across = Scale::linear(bars.len() as f64);
    let mut chart = Chart::new(WIDE, HIGH, across, Scale::linear(most as f64 * 1.05), &label);
    chart.y_axis(|value| format!("{value:.0}"));
    let busiest = outcome.busiest.as_ref().filter(|_| outcome.max_over_mean.is_some_and(|x| x >= 1.5));
    let hottest = busiest.and_then(|name| outcome.servers.iter().position(|server| server.server == *name));
    chart.bars(&bars, hottest);
    let mean = bars.iter().map(|bar| bar.1).sum::<f64>() / bars.len().max(1) as f64;
    chart.level(mean, &format!("mean: {mean:.0}"));
    chart.end()
}
