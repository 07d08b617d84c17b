//! How evenly requests were spread, and what other policies would have made of them.

use crate::cli::table::{Cell, Row, Style, ago, count, render, thousands};
use crate::control::api::{ShadowPolicyStatus, ShadowStatus, SkewStatus};

/// From here on a server has so much more than its share that somebody should know.
const UNEVEN: f64 = 2.0;
/// Of fewer requests for each server chance alone makes that much.
const FEW: u64 = 30;

/// One line.
pub(super) fn skew(skew: &SkewStatus, servers: usize, color: bool) -> String {
    let SkewStatus { seconds, requests, max_over_mean, jain, busiest } = skew;
    let text = format!(
        "skew: {busiest} got {max_over_mean:.2} times its share, Jain {jain:.3}, of {} in {}",
        count(*requests, "request"),
        ago(seconds.max(0.0) as u64)
    );
    let is_bad = *max_over_mean >= UNEVEN && *requests >= FEW * servers as u64;
    let style = if is_bad { Style::Warn } else { Style::Dim };
    style.paint(&text, color).into_owned()
}

/// A line and a table.
pub(super) fn shadow(shadow: &ShadowStatus, color: bool) -> String {
    let known = match shadow.known_by.as_str() {
        "session" => "by their sessions",
        "cookie" => "by a cookie of the application",
        _ => "by address and User-Agent",
    };
    let part = if shadow.clients_ratio < 1.0 {
        format!(", {:.2} % of all", shadow.clients_ratio * 100.0)
    } else {
        String::new()
    };
    let text = format!(
        "shadow: what each policy would have done in {}; {}{part}, known {known}",
        ago(shadow.seconds.max(0.0) as u64),
        count(shadow.clients, "client"),
    );
    let mut out = format!("  {}\n", Style::Dim.paint(&text, color));
    let mut heads = vec![Cell::word("POLICY", Style::Dim)];
    let numbers = ["REQUESTS", "MAX/MEAN", "JAIN", "MOVES/1000"];
    heads.extend(numbers.map(|head| Cell::number(head).styled(Style::Dim)));
    heads.push(Cell::word("BUSIEST", Style::Dim));
    heads.push(Cell::word("FIGURES", Style::Dim));
    let rows: Vec<Row> = std::iter::once(Row::Cells(heads)).chain(shadow.policies.iter().map(row)).collect();
    out.push_str(&render(&rows, "    ", color));
    out
}

fn row(policy: &ShadowPolicyStatus) -> Row {
    let dash = || "-".to_owned();
    let figures = match (policy.live, policy.approximate.as_slice()) {
        (true, _) => "live".to_owned(),
        (_, []) => "exact".to_owned(),
        (_, why) => format!("approximate: {}", why.join(", ")),
    };
    let uneven = policy.max_over_mean.is_some_and(|x| x >= UNEVEN);
    let skew = Cell::number(policy.max_over_mean.map_or_else(dash, |x| format!("{x:.2}")));
    Row::Cells(vec![
        Cell::word(&policy.policy, if policy.live { Style::Bold } else { Style::Plain }),
        Cell::number(thousands(policy.requests)),
        if uneven { skew.styled(Style::Warn) } else { skew },
        Cell::number(policy.jain.map_or_else(dash, |x| format!("{x:.3}"))),
        Cell::number(policy.moves_per_thousand.map_or_else(dash, |x| format!("{x:.1}"))),
        Cell::word(policy.busiest.clone().unwrap_or_else(dash), Style::Plain),
        Cell::word(figures, Style::Dim),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(policy: &str, live: bool, approximate: &[&str]) -> ShadowPolicyStatus {
        ShadowPolicyStatus {
            policy: policy.into(),
            live,
            approximate: approximate.iter().map(|why| (*why).to_owned()).collect(),
            requests: 1234,
            unplaced: 0,
            max_over_mean: Some(1.004),
            jain: Some(0.9996),
            busiest: Some("a".into()),
            moves_per_thousand: Some(501.26),
        }
    }

    #[test]
    fn what_others_would_have_done_is_a_table() {
        let hash = ShadowPolicyStatus {
            max_over_mean: Some(3.394),
            jain: Some(0.51),
            moves_per_thousand: Some(0.0),
            ..policy("ip_hash", false, &[])
        };
        let none = ShadowPolicyStatus {
            requests: 0,
            max_over_mean: None,
            jain: None,
            busiest: None,
            moves_per_thousand: None,
            ..policy("sticky_cookie", false, &["load", "clients"])
        };
        let status = ShadowStatus {
            seconds: 300.4,
            known_by: "address".into(),
            clients: 8_192,
            clients_ratio: 0.125,
            policies: vec![policy("round_robin", true, &[]), hash, none],
        };
        let text = shadow(&status, false);
        let expected = "  \
  shadow: what each policy would have done in 5 min; 8,192 clients, 12.50 % of all, known by address and User-Agent
    POLICY         REQUESTS  MAX/MEAN   JAIN  MOVES/1000  BUSIEST  FIGURES
    round_robin       1,234      1.00  1.000       501.3  a        live
    ip_hash           1,234      3.39  0.510         0.0  a        exact
    sticky_cookie         0         -      -           -  -        approximate: load, clients
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn skew_is_a_worry_where_it_is_no_chance() {
        let status = |requests, max_over_mean| SkewStatus {
            seconds: 62.0,
            requests,
            max_over_mean,
            jain: 0.5,
            busiest: "b".into(),
        };
        let text = skew(&status(12_345, 1.5), 3, false);
        assert_eq!(text, "skew: b got 1.50 times its share, Jain 0.500, of 12,345 requests in 1 min 2 s");
        let is_worry = |requests, skewed| skew(&status(requests, skewed), 3, true).contains("\x1b[33m");
        assert_eq!((is_worry(90, 2.0), is_worry(89, 3.0), is_worry(10_000, 1.9)), (true, false, false));
    }
}
