//! Long connections: what each event did to them, who had them, and how many came back at once.

use super::super::sockets::SocketsReport;
use super::{Chart, HIGH, PolicyReport, Report, Scale, WIDE, card, colour, events, key};

pub(super) fn section(page: &mut String, report: &Report) {
    let Some(rows) = report.socket_rows() else { return };
    page.push_str("<h2>Long connections, event by event</h2>\n");
    super::rows(page, &rows);
    page.push_str(
        "<p class=\"dim\">Until the next event or the end. Closed 1001: with the frame that says so; cut: without it. Back: \
         from the end of a connection until its user had another. Worst second: connections that were opened in it. Max / \
         mean after: of the connections that servers have then.</p>\n",
    );
    over_time(page, report);
    storms(page, report);
}

fn all(report: &Report) -> impl Iterator<Item = (usize, &PolicyReport, &SocketsReport)> {
    let policies = report.policies.iter().enumerate();
    policies.filter_map(|(n, policy)| Some((n, policy, policy.sockets.as_ref()?)))
}

fn over_time(page: &mut String, report: &Report) {
    page.push_str(
        "<h2>Connections over time</h2>\n<p>Connections of each server, a line each.</p>\n<div class=\"grid-of\">\n",
    );
    let most = all(report).flat_map(|(_, _, sockets)| sockets.over_time.iter().flatten()).copied().max().unwrap_or(1);
    for (_, policy, sockets) in all(report) {
        let label = format!("{}: connections by server, over time", policy.policy);
        let y = Scale::linear(f64::from(most) * 1.05);
        let mut chart = Chart::new(WIDE, HIGH, Scale::linear(report.duration_seconds), y, &label);
        chart.y_axis(|value| format!("{value:.0}"));
        chart.x_axis(|value| format!("{value} s"));
        events(&mut chart, &policy.events);
        for (n, line) in sockets.over_time.iter().enumerate() {
            let points = line.iter().enumerate();
            let points =
                points.map(|(at, count)| ((at as f64 + 0.5) * policy.over_time.step_seconds, f64::from(*count)));
            chart.line(points, &format!("c{}", n % 8), &format!("s{}", n + 1));
        }
        card(page, policy, &chart.end());
    }
    page.push_str("</div>\n");
    super::key_of_servers(page, all(report).map(|(_, _, sockets)| sockets.over_time.len()).max().unwrap_or(0));
}

fn storms(page: &mut String, report: &Report) {
    page.push_str(
        "<h2>Who came back when</h2>\n<p>Connections that were opened again, by second.</p>\n<div class=\"card\">\n",
    );
    let most = all(report).flat_map(|(_, _, sockets)| &sockets.back_by_second).copied().max().unwrap_or(1);
    let (x, y) = (Scale::linear(report.duration_seconds), Scale::linear(f64::from(most) * 1.05));
    let mut chart = Chart::new(760.0, 220.0, x, y, "Connections opened again, by second");
    chart.y_axis(|value| format!("{value:.0}"));
    chart.x_axis(|value| format!("{value} s"));
    if let Some((_, policy, _)) = all(report).next() {
        events(&mut chart, &policy.events);
    }
    for (n, policy, sockets) in all(report) {
        let points = sockets.back_by_second.iter().enumerate();
        chart.line(points.map(|(at, count)| (at as f64 + 0.5, f64::from(*count))), &colour(n), &policy.policy);
    }
    page.push_str(&chart.end());
    key(page, report);
    page.push_str("</div>\n");
}
