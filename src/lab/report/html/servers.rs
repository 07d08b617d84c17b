//! Server by server, and group by group: the figures behind the charts.

use std::fmt::Write as _;

use super::super::{Report, dash, millis, percent};
use super::escape;

/// More servers than this are in the JSON file only.
const MOST_ROWS: usize = 200;

pub(super) fn tables(page: &mut String, report: &Report) {
    page.push_str("<h2>Server by server</h2>\n");
    for policy in &report.policies {
        let _ = writeln!(
            page,
            "<details><summary>{}</summary><div class=\"scroll\"><table><tr><th>Server<th>Weight<th>Answered<th>In its own log<th>Share<th>Of its fair share<th>p50<th>p99<th>5xx</tr>",
            escape(&policy.policy)
        );
        for server in policy.servers.iter().take(MOST_ROWS) {
            let show = |ms: Option<f64>| ms.map_or_else(dash, millis);
            let _ = writeln!(
                page,
                "<tr><td>{}<td>{}<td>{}<td>{}<td>{:.1} %<td>{}<td>{}<td>{}<td>{}</tr>",
                escape(&server.server),
                server.weight,
                server.requests,
                server.logged,
                server.share * 100.0,
                server.of_fair_share.map_or_else(dash, |times| format!("{times:.2}")),
                show(server.latency.p50_ms),
                show(server.latency.p99_ms),
                server.failed
            );
        }
        page.push_str("</table></div>\n<table><tr><th>Group<th>Requests<th>Failed<th>p50<th>p99</tr>\n");
        for group in &policy.groups {
            let show = |ms: Option<f64>| ms.map_or_else(dash, millis);
            let _ = writeln!(
                page,
                "<tr><td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
                escape(&group.group),
                group.requests,
                percent(group.failed, group.requests),
                show(group.latency.p50_ms),
                show(group.latency.p99_ms)
            );
        }
        page.push_str("</table>\n");
        for event in policy.events.iter().filter_map(|e| e.problem.as_ref().map(|problem| (&e.what, problem))) {
            let _ = writeln!(page, "<p><b>{} did not work:</b> {}</p>", escape(event.0), escape(event.1));
        }
        page.push_str("</details>\n");
    }
}
