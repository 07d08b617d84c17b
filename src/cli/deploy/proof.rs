//! What clients saw of a deploy, from the proxy's own counters: read before, at the turns, and after.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;
use super::sample::Sample;
use crate::error::{Kind, Side};

/// What the proxy has counted of an upstream up to one moment. The ledger of a deploy keeps some of these, so
/// that another command can end the proof.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    /// When the process began, in Unix seconds: then it has begun to count.
    process: f64,
    /// Answered on routes to the upstream.
    requests: u64,
    durations: Histogram,
    failed: BTreeMap<String, u64>,
    held: u64,
    kept: u64,
    moved: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
    /// By server: what one has counted goes with it.
    server_errors: BTreeMap<String, u64>,
    retried: BTreeMap<String, u64>,
    websockets_closed: BTreeMap<String, u64>,
    picks: BTreeMap<String, u64>,
}

impl Counts {
    pub(super) fn of(sample: &Sample, upstream: &str) -> Self {
        let ours = [("upstream", upstream)];
        let by_reason = |name: &str| sample.counts_by("reason", name, &ours);
        let by_server = |name: &str| sample.counts_by("server", name, &ours);
        let (mut requests, mut durations) = (0, Histogram::default());
        for route in sample.routes(upstream) {
            requests += sample.count("evenkeel_requests_total", &[("route", route)]);
            durations.merge(&sample.histogram("evenkeel_request_duration_seconds", &[("route", route)]));
        }
        let mut failed = sample.counts_by("reason", "evenkeel_errors_total", &[]);
        failed.retain(|reason, _| {
            let kind = Kind::ALL.iter().find(|kind| kind.reason() == reason);
            kind.is_some_and(|kind| kind.side() != Side::Client && kind.status() >= 500)
        });
        Self {
            process: sample.sum("evenkeel_process_start_time_seconds", &[]),
            requests,
            durations,
            failed,
            server_errors: sample.counts_by("server", "evenkeel_server_answers_total", &[ours[0], ("code", "5xx")]),
            retried: by_server("evenkeel_server_retries_total"),
            held: sample.count("evenkeel_upstream_queued_total", &ours),
            kept: sample.count("evenkeel_sticky_requests_kept_total", &ours),
            moved: by_reason("evenkeel_sessions_moved_total"),
            lost: by_reason("evenkeel_sessions_lost_total"),
            websockets_closed: by_server("evenkeel_server_websockets_closed_total"),
            picks: by_server("evenkeel_server_picks_total"),
        }
    }

    /// Takes over what servers had counted that are gone since `earlier`.
    pub(super) fn keep_gone(&mut self, earlier: &Self) {
        if self.is_anew(earlier) {
            return;
        }
        let keep = |now: &mut BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            for (server, count) in before {
                let kept = now.entry(server.clone()).or_insert(*count);
                *kept = (*kept).max(*count);
            }
        };
        keep(&mut self.server_errors, &earlier.server_errors);
        keep(&mut self.retried, &earlier.retried);
        keep(&mut self.websockets_closed, &earlier.websockets_closed);
        keep(&mut self.picks, &earlier.picks);
    }

    /// Whether another process has counted this than `before`. It began at 0.
    fn is_anew(&self, before: &Self) -> bool {
        self.process != before.process
    }

    /// What came since `before`.
    fn since(&self, before: &Self) -> Self {
        if self.is_anew(before) {
            return self.clone();
        }
        let by = |new: &BTreeMap<String, u64>, old: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
            let grown = |key: &String, count: &u64| count.saturating_sub(old.get(key).copied().unwrap_or(0));
            new.iter().map(|(key, count)| (key.clone(), grown(key, count))).filter(|(_, count)| *count > 0).collect()
        };
        Self {
            process: self.process,
            requests: self.requests.saturating_sub(before.requests),
            durations: self.durations.since(&before.durations),
            failed: by(&self.failed, &before.failed),
            server_errors: by(&self.server_errors, &before.server_errors),
            retried: by(&self.retried, &before.retried),
            held: self.held.saturating_sub(before.held),
            kept: self.kept.saturating_sub(before.kept),
            moved: by(&self.moved, &before.moved),
            lost: by(&self.lost, &before.lost),
            websockets_closed: by(&self.websockets_closed, &before.websockets_closed),
            picks: by(&self.picks, &before.picks),
        }
    }
}

/// What happened in some time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// Requests that waited for a server, in the queue or in a pause.
    pub(super) held: u64,
    /// Requests with a sticky cookie that reached the server it names.
    pub(super) sessions_kept: u64,
    /// Sticky sessions that went to another server.
    pub(super) sessions_moved: u64,
    pub(super) sessions_moved_by_reason: BTreeMap<String, u64>,
    /// Those of them that were in use and did not ask for it.
    pub(super) sessions_lost: u64,
    pub(super) sessions_lost_by_reason: BTreeMap<String, u64>,
    /// What a drain cut at its deadline; of all upstreams.
    pub(super) connections_cut: u64,
    /// WebSockets that were closed with code 1001.
    pub(super) websockets_closed: u64,
    /// Requests by server, and the busiest one's share over the mean.
    pub(super) requests_by_server: BTreeMap<String, u64>,
    pub(super) skew: Option<f64>,
    /// Whether evenkeel itself was restarted or upgraded: then nothing is known of the time before.
    pub(super) evenkeel_restarted: bool,
}

impl Span {
    pub(super) fn between(before: &Counts, after: &Counts, seconds: f64) -> Self {
        let new = after.since(before);
        let millis = |part| new.durations.quantile(part).map(|seconds| seconds * 1000.0);
        Self { seconds, requests: new.requests, p50_ms: millis(0.5), p99_ms: millis(0.99) }
    }
}

impl Toll {
    pub(super) fn between(before: &Counts, after: &Counts, servers: &[String]) -> Self {
        let new = after.since(before);
        let total = |by: &BTreeMap<String, u64>| by.values().sum::<u64>();
        let mut requests_by_server = new.picks;
        for server in servers {
            requests_by_server.entry(server.clone()).or_insert(0);
        }
        Self {
            failed: total(&new.failed),
            connections_cut: new.failed.get(Kind::Cut.reason()).copied().unwrap_or(0),
            failed_by_reason: new.failed,
            server_errors: total(&new.server_errors),
            retried: total(&new.retried),
            held: new.held,
            sessions_kept: new.kept,
            sessions_moved: total(&new.moved),
            sessions_moved_by_reason: new.moved,
            sessions_lost: total(&new.lost),
            sessions_lost_by_reason: new.lost,
            websockets_closed: total(&new.websockets_closed),
            skew: skew(&requests_by_server),
            requests_by_server,
            evenkeel_restarted: after.is_anew(before),
        }
    }
}

/// The busiest server's share over the mean; none without requests.
pub(super) fn skew(requests: &BTreeMap<String, u64>) -> Option<f64> {
    let (most, all) = requests.values().fold((0, 0), |(most, all), n| (most.max(*n), all + n));
    (all > 0).then(|| most as f64 * requests.len() as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> Counts {
        Counts::of(&Sample::of(text), "shop")
    }

    const BEFORE: &str = "# HELP x y\n\
        evenkeel_process_start_time_seconds 17\n\
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
        let span = Span::between(&counts(BEFORE), &counts(&after), 2.0);
        assert_eq!(span, Span { seconds: 2.0, requests: 100, p50_ms: Some(1.0), p99_ms: Some(10.0) });
        let none = Span::between(&counts(BEFORE), &counts(BEFORE), 1.0);
        assert_eq!((none.requests, none.p50_ms), (0, None));
        // Another process has counted from 0.
        let anew = after.replace("seconds 17", "seconds 18");
        assert_eq!(Span::between(&counts(BEFORE), &counts(&anew), 2.0).requests, 110);
        assert!(Toll::between(&counts(BEFORE), &counts(&anew), &[]).evenkeel_restarted);
    }

    #[test]
    fn a_toll_counts_what_was_nobodys_wish() {
        let after = "evenkeel_errors_total{reason=\"no_server\"} 2\nevenkeel_errors_total{reason=\"client_gone\"} 9\n\
             evenkeel_errors_total{reason=\"no_route\"} 4\nevenkeel_errors_total{reason=\"cut\"} 1\n\
             evenkeel_upstream_queued_total{upstream=\"shop\"} 7\n\
             evenkeel_server_picks_total{upstream=\"shop\",server=\"a\"} 30\n\
             evenkeel_server_picks_total{upstream=\"shop\",server=\"b\"} 10\n\
             evenkeel_server_picks_total{upstream=\"api\",server=\"a\"} 99\n\
             evenkeel_sessions_moved_total{upstream=\"shop\",reason=\"drained\"} 3\n\
             evenkeel_sessions_lost_total{upstream=\"shop\",reason=\"drained\"} 2\n";
        let toll = Toll::between(&counts(""), &counts(after), &["a".to_owned(), "b".to_owned()]);
        assert_eq!((toll.failed, toll.sessions_moved, toll.sessions_lost, toll.skew), (3, 3, 2, Some(1.5)));
        assert_eq!((toll.held, toll.connections_cut), (7, 1));
        assert_eq!(toll.failed_by_reason, [("no_server".to_owned(), 2), ("cut".to_owned(), 1)].into());
        assert_eq!(toll.sessions_lost_by_reason, [("drained".to_owned(), 2)].into());
    }

    /// A server that was taken away takes its counters along.
    #[test]
    fn what_a_server_counted_that_is_gone_is_not_forgotten() {
        let with = "evenkeel_server_answers_total{upstream=\"shop\",server=\"f\",code=\"5xx\"} 6\n\
             evenkeel_server_picks_total{upstream=\"shop\",server=\"f\"} 13\n\
             evenkeel_server_picks_total{upstream=\"shop\",server=\"a\"} 20\n";
        let mut last = counts("evenkeel_server_picks_total{upstream=\"shop\",server=\"a\"} 25\n");
        last.keep_gone(&counts(with));
        let toll = Toll::between(&counts(""), &last, &["a".to_owned()]);
        assert_eq!((toll.server_errors, &toll.requests_by_server["f"], &toll.requests_by_server["a"]), (6, &13, &25));
    }

    #[test]
    fn counts_are_read_as_they_were_written() {
        let counts = counts(BEFORE);
        let text = serde_json::to_string(&counts).unwrap();
        assert_eq!(serde_json::from_str::<Counts>(&text).unwrap(), counts);
    }
}
