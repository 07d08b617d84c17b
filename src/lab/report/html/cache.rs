//! What caches had, and what the store behind them had to bear.

use std::fmt::Write as _;

use super::super::cache::CacheReport;
use super::{Chart, Report, Scale, colour, escape, events, key};

pub(super) fn section(page: &mut String, report: &Report) {
    let Some(rows) = report.cache_rows() else { return };
    page.push_str("<h2>The cache, and the store behind it</h2>\n");
    super::rows(page, &rows);
    page.push_str(
        "<p class=\"dim\">Store before, store peak: requests a second that servers sent to the store in the seconds before \
         servers were added (the mean), and in the worst second after that; by the store's own log.</p>\n",
    );
    let before = |(_, policy, cache): (usize, &str, &CacheReport)| {
        Some(format!("{} {:.0}/s", escape(policy), cache.store_peak_before?))
    };
    let before: Vec<String> = caches(report).filter_map(before).collect();
    if !before.is_empty() {
        let _ = writeln!(page, "<p class=\"dim\">In the worst second before that: {}.</p>", before.join("; "));
    }
    load(page, report);
    hit_rates(page, report);
}

fn caches(report: &Report) -> impl Iterator<Item = (usize, &str, &CacheReport)> {
    let policies = report.policies.iter().enumerate();
    policies.filter_map(|(n, policy)| Some((n, policy.policy.as_str(), policy.cache.as_ref()?)))
}

/// Requests to the store over time.
fn load(page: &mut String, report: &Report) {
    let most = caches(report).flat_map(|(_, _, cache)| &cache.store_by_second).copied().max().unwrap_or(1);
    page.push_str("<h2>Load of the store over time</h2>\n<p>Requests a second for items that a cache did not have, as they came to the store.</p>\n<div class=\"card\">\n");
    let (x, y) = (Scale::linear(report.duration_seconds), Scale::linear(f64::from(most) * 1.05));
    let mut chart = Chart::new(760.0, 260.0, x, y, "Requests a second to the store, over time");
    chart.y_axis(|value| format!("{value:.0}"));
    chart.x_axis(|value| format!("{value} s"));
    if let Some(policy) = report.policies.iter().find(|policy| policy.cache.is_some()) {
        events(&mut chart, &policy.events);
    }
    for (n, policy, cache) in caches(report) {
        let points = cache.store_by_second.iter().enumerate();
        chart.line(points.map(|(n, count)| (n as f64 + 0.5, f64::from(*count))), &colour(n), policy);
    }
    page.push_str(&chart.end());
    key(page, report);
    page.push_str("</div>\n");
}

/// What each server's cache had.
fn hit_rates(page: &mut String, report: &Report) {
    page.push_str("<h2>Hit rate per server</h2>\n<div class=\"scroll\"><table><tr><th>Policy");
    let most = caches(report).map(|(_, _, cache)| cache.servers.len()).max().unwrap_or(0);
    for n in 1..=most {
        let _ = write!(page, "<th>s{n}");
    }
    page.push_str("</tr>\n");
    for (_, policy, cache) in caches(report) {
        let _ = write!(page, "<tr><td>{}", escape(policy));
        for (_, _, rate) in &cache.servers {
            let _ = write!(page, "<td>{}", rate.map_or_else(super::dash, |rate| format!("{:.0} %", rate * 100.0)));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
}
