//! The ways of keeping sessions: the table that is the answer, and memory as a chart.

use std::fmt::Write as _;

use super::super::strategies::{StrategiesReport, explained};
use super::{Chart, Report, Scale, colour, escape, key_of};
use crate::lab::strategies::MemoryAt;

pub(super) fn table(page: &mut String, report: &Report) {
    let Some(strategies) = &report.strategies else { return };
    page.push_str("<h2>Ways to keep a session</h2>\n<div class=\"scroll\"><table class=\"wrap\">");
    for (n, row) in strategies.rows().iter().enumerate() {
        page.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let text = match (n, column) {
                (0, 1..) => {
                    let way = &strategies.ways[column - 1];
                    format!("{}<br><span class=\"dim\">{}</span>", escape(&way.policy), explained(way.sessions))
                }
                _ => escape(cell),
            };
            let _ = write!(page, "<{}>{text}", if n == 0 { "th" } else { "td" });
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
    for note in strategies.notes() {
        let _ = writeln!(page, "<p class=\"dim\">{}</p>", escape(&note));
    }
    memory(page, strategies);
}

/// Memory of each server by the number of servers, a line for each way.
fn memory(page: &mut String, strategies: &StrategiesReport) {
    let mib = |memory: &MemoryAt| MemoryAt::mean(&memory.grown_bytes) / f64::from(1 << 20);
    let all = || strategies.ways.iter().flat_map(|way| &way.memory);
    let (most, widest) = (all().map(mib).fold(1.0, f64::max), all().map(|m| m.servers).max().unwrap_or(0));
    if widest == 0 {
        return;
    }
    page.push_str(
        "<h2>Memory as servers grow more</h2>\n<p>By how much each server's memory grew, by the number of servers, with the \
         same users.</p>\n<div class=\"card\">\n",
    );
    let label = "Memory of each server by the number of servers";
    let mut chart = Chart::new(760.0, 220.0, Scale::linear(widest as f64), Scale::linear(most * 1.05), label);
    chart.y_axis(|value| format!("{value} MiB"));
    chart.x_axis(|value| if value > 0.0 { format!("{value} servers") } else { "0".to_owned() });
    for (n, way) in strategies.ways.iter().enumerate() {
        let points = way.memory.iter().map(|memory| (memory.servers as f64, mib(memory)));
        chart.line(points, &colour(n), &way.policy);
    }
    page.push_str(&chart.end());
    key_of(page, strategies.ways.iter().map(|way| way.policy.as_str()));
    page.push_str("</div>\n");
}
