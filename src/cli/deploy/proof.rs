//! What clients saw of a deploy, from the proxy's own counters: read before, at the turns, and after.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use serde::Serialize;

use crate::cli::client::{Client, PROMPT};
use crate::cli::exit::{Exit, Failure};
use crate::error::{Kind, Side};

/// All samples of `/metrics` that matter here, at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    values: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// What happened between two samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Span {
    pub(super) seconds: f64,
    /// Requests answered on routes to the upstream.
    pub(super) requests: u64,
    /// Median and 99th percentile of the time from a request's head to the last byte of its answer;
    /// upper bounds, none without requests.
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

/// What happened while servers were restarted.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Toll {
    /// Requests that evenkeel answered with an error of its own, or broke off, through no fault of a client;
    /// of all upstreams.
    pub(super) failed: u64,
    pub(super) failed_by_reason: BTreeMap<String, u64>,
    /// Answers with a 5xx status that servers of the upstream gave.
    pub(super) server_errors: u64,
    /// Requests sent again to another server.
    pub(super) retried: u64,
    /// Requests with a sticky cookie that reached the server it names.
    pub(super) sessions_kept: u64,
    /// Sticky sessions that went to another server.
    pub(super) sessions_moved: u64,
    /// Those of them that were in use and did not ask for it.
    pub(super) sessions_lost: u64,
    /// Requests by server, and the busiest one's share over the mean.
    pub(super) requests_by_server: BTreeMap<String, u64>,
    pub(super) skew: Option<f64>,
}

impl Sample {
    pub(super) async fn take(client: &Client) -> Result<Self, Failure> {
        let answer = client.call(Method::GET, "/metrics", Bytes::new(), PROMPT).await?;
        answer.success(client)?;
        let text = String::from_utf8_lossy(&answer.body);
        let sample = Self { values: text.lines().filter_map(parse).collect() };
        if sample.values.is_empty() {
            return Err(Failure::new(Exit::Failure, format!("{} has no metrics", client.address())));
        }
        Ok(sample)
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matching = |of: &BTreeMap<String, String>| labels.iter().all(|(k, v)| of.get(*k).is_some_and(|x| x == v));
        self.values.iter().filter(|(n, of, _)| n == name && matching(of)).map(|(_, _, value)| value).sum()
    }

    /// Routes that lead to the upstream.
    fn routes(&self, upstream: &str) -> Vec<&str> {
        let leads = |of: &BTreeMap<String, String>| of.get("upstream").is_some_and(|u| u == upstream);
        let infos = self.values.iter().filter(|(name, of, _)| name == "evenkeel_route_info" && leads(of));
        let mut routes: Vec<&str> = infos.filter_map(|(_, of, _)| of.get("route").map(String::as_str)).collect();
        routes.sort_unstable();
        routes.dedup();
        routes
    }

    fn buckets(&self, upstream: &str) -> BTreeMap<u64, f64> {
        let routes = self.routes(upstream);
        let mut buckets = BTreeMap::new();
        for (name, of, value) in &self.values {
            let ours = of.get("route").is_some_and(|route| routes.contains(&route.as_str()));
            if name == "evenkeel_request_duration_seconds_bucket" && ours {
                let bound = of.get("le").and_then(|le| le.parse::<f64>().ok()).unwrap_or(f64::INFINITY);
                // Positive floats order as their bits do.
                *buckets.entry(bound.to_bits()).or_insert(0.0) += value;
            }
        }
        buckets
    }

    fn requests(&self, upstream: &str) -> f64 {
        self.routes(upstream).iter().map(|route| self.sum("evenkeel_requests_total", &[("route", route)])).sum()
    }
}

/// One line of the Prometheus text format.
fn parse(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let (key, value) = line.rsplit_once(' ')?;
    let (name, rest) = key.split_once('{').unwrap_or((key, ""));
    let mut labels = BTreeMap::new();
    let mut rest = rest.trim_end_matches('}');
    while let Some((label, after)) = rest.split_once("=\"") {
        let end = end_of_value(after)?;
        labels.insert(label.to_owned(), after[..end].replace("\\\"", "\"").replace("\\\\", "\\"));
        rest = after[end + 1..].trim_start_matches(',');
    }
    Some((name.to_owned(), labels, value.parse().ok()?))
}

fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

impl Span {
    pub(super) fn between(before: &Sample, after: &Sample, upstream: &str, seconds: f64) -> Self {
        let (old, mut new) = (before.buckets(upstream), after.buckets(upstream));
        for (bound, value) in &mut new {
            *value -= old.get(bound).copied().unwrap_or(0.0);
        }
        let all = new.values().copied().fold(0.0, f64::max);
        let quantile = |q: f64| {
            let (bound, _) = new.iter().find(|(_, count)| all > 0.0 && **count >= q * all)?;
            Some(f64::from_bits(*bound) * 1000.0).filter(|ms| ms.is_finite())
        };
        let requests = whole(after.requests(upstream) - before.requests(upstream));
        Self { seconds, requests, p50_ms: quantile(0.5), p99_ms: quantile(0.99) }
    }
}

impl Toll {
    pub(super) fn between(before: &Sample, after: &Sample, upstream: &str, servers: &[String]) -> Self {
        let grown = |name: &str, labels: &[(&str, &str)]| whole(after.sum(name, labels) - before.sum(name, labels));
        let of_upstream = |name: &str| grown(name, &[("upstream", upstream)]);
        let failed_by_reason: BTreeMap<String, u64> = Kind::ALL
            .iter()
            .filter(|kind| kind.side() != Side::Client && kind.status() >= 500)
            .map(|kind| (kind.reason().to_owned(), grown("evenkeel_errors_total", &[("reason", kind.reason())])))
            .filter(|(_, count)| *count > 0)
            .collect();
        let requests_by_server: BTreeMap<String, u64> = servers
            .iter()
            .map(|s| (s.clone(), grown("evenkeel_server_picks_total", &[("upstream", upstream), ("server", s)])))
            .collect();
        let (most, all) = requests_by_server.values().fold((0, 0), |(most, all), n| (n.max(&most).to_owned(), all + n));
        let skew = (all > 0).then(|| most as f64 * servers.len() as f64 / all as f64);
        Self {
            failed: failed_by_reason.values().sum(),
            failed_by_reason,
            server_errors: grown("evenkeel_server_answers_total", &[("upstream", upstream), ("code", "5xx")]),
            retried: of_upstream("evenkeel_server_retries_total"),
            sessions_kept: of_upstream("evenkeel_sticky_requests_kept_total"),
            sessions_moved: of_upstream("evenkeel_sessions_moved_total"),
            sessions_lost: of_upstream("evenkeel_sessions_lost_total"),
            requests_by_server,
            skew,
        }
    }
}

/// A counter that went backwards was reset: nothing is known then.
fn whole(difference: f64) -> u64 {
    difference.max(0.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(text: &str) -> Sample {
        Sample { values: text.lines().filter_map(parse).collect() }
    }

    const BEFORE: &str = "# HELP x y\n\
        evenkeel_route_info{listener=\"l\",route=\"r\",upstream=\"shop\"} 1\n\
        evenkeel_route_info{listener=\"l\",route=\"other\",upstream=\"api\"} 1\n\
        evenkeel_requests_total{route=\"r\",code=\"2xx\"} 10\n\
        evenkeel_requests_total{route=\"other\",code=\"2xx\"} 5\n\
        evenkeel_request_duration_seconds_bucket{route=\"r\",le=\"0.001\"} 10\n\
        evenkeel_request_duration_seconds_bucket{route=\"r\",le=\"0.01\"} 10\n\
        evenkeel_request_duration_seconds_bucket{route=\"r\",le=\"+Inf\"} 10\n";

    #[test]
    fn spans_count_what_came_between() {
        let after = BEFORE
            .replace("\"2xx\"} 10", "\"2xx\"} 110")
            .replace("\"2xx\"} 5", "\"2xx\"} 500")
            .replace("le=\"0.001\"} 10", "le=\"0.001\"} 70")
            .replace("le=\"0.01\"} 10", "le=\"0.01\"} 109")
            .replace("+Inf\"} 10", "+Inf\"} 110");
        let span = Span::between(&sample(BEFORE), &sample(&after), "shop", 2.0);
        assert_eq!(span, Span { seconds: 2.0, requests: 100, p50_ms: Some(1.0), p99_ms: Some(10.0) });
        let none = Span::between(&sample(BEFORE), &sample(BEFORE), "shop", 1.0);
        assert_eq!((none.requests, none.p50_ms), (0, None));
    }

    #[test]
    fn a_toll_counts_what_was_nobodys_wish() {
        let after = "evenkeel_errors_total{reason=\"no_server\"} 2\nevenkeel_errors_total{reason=\"client_gone\"} 9\n\
             evenkeel_errors_total{reason=\"no_route\"} 4\n\
             evenkeel_server_picks_total{upstream=\"shop\",server=\"a\"} 30\n\
             evenkeel_server_picks_total{upstream=\"shop\",server=\"b\"} 10\n\
             evenkeel_server_picks_total{upstream=\"api\",server=\"a\"} 99\n\
             evenkeel_sessions_moved_total{upstream=\"shop\",reason=\"drained\"} 3\n\
             evenkeel_sessions_lost_total{upstream=\"shop\",reason=\"drained\"} 2\n";
        let toll = Toll::between(&sample(""), &sample(after), "shop", &["a".to_owned(), "b".to_owned()]);
        assert_eq!((toll.failed, toll.sessions_moved, toll.sessions_lost, toll.skew), (2, 3, 2, Some(1.5)));
        assert_eq!(toll.failed_by_reason, [("no_server".to_owned(), 2)].into());
    }

    #[test]
    fn labels_are_read_with_what_is_escaped_in_them() {
        let (name, labels, value) = parse(r#"x{a="1,\"}",b="c d"} 2.5"#).unwrap();
        assert_eq!((name.as_str(), value), ("x", 2.5));
        assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("1,\"}", "c d"));
    }
}
