//! New servers beside the old ones for some users: compared in the same minutes, and undone when they are worse.
//!
//! Two things are compared, each as a rate: failures, and requests that took longer than the old servers'
//! 95th percentile. While it runs only a difference that is next to impossible by chance ends it, since it is
//! looked at each second; in the end a likely one does.

use std::time::Duration;

use http::Method;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::histogram::Histogram;
use super::proof::Counts;
use super::sample::Sample;
use crate::cli::args::{CanaryBy, DeployArgs};
use crate::cli::client::{Client, PROMPT};
use crate::cli::console::Console;
use crate::cli::stats::{Of, detectable, fisher};
use crate::cli::target;
use crate::control::api::{NewCanary, Status, UpstreamStatus};
use crate::units::show_duration;

/// How often the two are compared.
const LOOK: Duration = Duration::from_secs(1);
/// How often that is told where no line can be written over.
const TELL: Duration = Duration::from_secs(10);
/// What may happen by chance alone in one look of many, and in the last.
const ALPHA: (f64, f64) = (0.000_1, 0.01);

/// What servers have done since the canary began.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Doing {
    answers: u64,
    failures: u64,
    first_byte: Histogram,
}

impl Doing {
    fn of(sample: &Sample, upstream: &str, servers: &[String]) -> Self {
        let mut doing = Self::default();
        for server in servers {
            let ours = [("upstream", upstream), ("server", server.as_str())];
            let failed = ["evenkeel_server_failures_total", "evenkeel_server_connect_failures_total"];
            let failed: u64 = failed.iter().map(|name| sample.count(name, &ours)).sum();
            let errors = [("upstream", upstream), ("server", server.as_str()), ("code", "5xx")];
            doing.answers += sample.count("evenkeel_server_answers_total", &ours) + failed;
            doing.failures += sample.count("evenkeel_server_answers_total", &errors) + failed;
            doing.first_byte.merge(&sample.histogram("evenkeel_server_first_byte_seconds", &ours));
        }
        doing
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            answers: self.answers.saturating_sub(before.answers),
            failures: self.failures.saturating_sub(before.failures),
            first_byte: self.first_byte.since(&before.first_byte),
        }
    }

    fn failures(&self) -> Of {
        Of::new(self.failures, self.answers)
    }
}

/// One side of the comparison, for the proof.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Side {
    pub(super) requests: u64,
    pub(super) failures: u64,
    /// The bound of a bucket, each of which is twice the one before.
    pub(super) p95_ms: Option<f64>,
}

/// What was compared, and what could be seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Comparison {
    pub(super) percent: f64,
    pub(super) seconds: f64,
    pub(super) new: Side,
    pub(super) old: Side,
    /// How probable as many failures are on the new side by chance alone, and as many slow requests.
    pub(super) p_failures: f64,
    pub(super) p_slow: f64,
    /// Rates of failures that would have been seen with 80 % and with 20 %, if there are such.
    pub(super) seen_80: Option<f64>,
    pub(super) seen_20: Option<f64>,
    /// Why the new side is worse, if it is.
    pub(super) worse: Option<String>,
    /// Everything that was counted then: what new servers have counted goes with them.
    #[serde(skip)]
    pub(super) counts: Counts,
}

impl Comparison {
    fn between(new: &Doing, old: &Doing, alpha: f64, percent: f64, seconds: f64) -> Self {
        let side = |doing: &Doing| Side {
            requests: doing.answers,
            failures: doing.failures,
            p95_ms: doing.first_byte.quantile(0.95).map(|seconds| seconds * 1_000.0),
        };
        let p_failures = fisher(new.failures(), old.failures());
        // Where the old ones have no bound for most of theirs, nothing is slower.
        let (mut p_slow, mut slow) = (1.0, None);
        if let Some(bound) = old.first_byte.quantile(0.95) {
            let above = |doing: &Doing| Of::new(doing.first_byte.above(bound), doing.first_byte.all());
            let (of_new, of_old) = (above(new), above(old));
            p_slow = fisher(of_new, of_old);
            // The percentile itself has to be another, not only what is beyond it.
            let is_slower = new.first_byte.quantile(0.95).is_none_or(|p95| p95 > bound);
            if p_slow <= alpha && is_slower {
                slow = Some(format!(
                    "{:.1} % of requests took longer than {} there, which {:.1} % of those of the old servers did",
                    of_new.percent(),
                    millis(Some(bound * 1_000.0)),
                    of_old.percent()
                ));
            }
        }
        let failing = (p_failures <= alpha).then(|| {
            let (of_new, of_old) = (new.failures(), old.failures());
            format!(
                "{} of {} requests failed there ({:.2} %), and {} of {} on the old servers ({:.2} %)",
                of_new.hits,
                of_new.all,
                of_new.percent(),
                of_old.hits,
                of_old.all,
                of_old.percent()
            )
        });
        let seen = |power| detectable(new.answers, old.failures(), ALPHA.1, power);
        Self {
            counts: Counts::default(),
            percent,
            seconds,
            new: side(new),
            old: side(old),
            p_failures,
            p_slow,
            seen_80: seen(0.8),
            seen_20: seen(0.2),
            worse: failing.or(slow),
        }
    }

    /// How far it is.
    fn progress(&self) -> String {
        let side =
            |side: &Side| format!("{} requests, {} failed, p95 {}", side.requests, side.failures, millis(side.p95_ms));
        format!("new {}; old {}", side(&self.new), side(&self.old))
    }

    /// What could and could not have been seen.
    pub(super) fn limits(&self) -> String {
        let requests = self.new.requests;
        match (self.seen_80, self.seen_20) {
            (Some(likely), Some(unlikely)) => format!(
                "with {requests} requests on the new servers a failure rate of {} would have been seen (with 80 % \
                 probability), one of {} hardly (20 %); a p95 within the same power of two is the same",
                rate(likely),
                rate(unlikely)
            ),
            _ => {
                format!("with {requests} requests on the new servers no failure rate could have been told from chance")
            }
        }
    }
}

fn rate(part: f64) -> String {
    let percent = part * 100.0;
    if percent < 1.0 { format!("{percent:.2} %") } else { format!("{percent:.1} %") }
}

fn millis(bound: Option<f64>) -> String {
    bound.map_or_else(|| "unknown".to_owned(), |ms| format!("≤ {ms:.1} ms"))
}

/// What a canary needs to know.
pub(super) struct Canary<'a> {
    pub(super) client: &'a Client,
    pub(super) args: &'a DeployArgs,
    pub(super) percent: f64,
    pub(super) new: Vec<String>,
    pub(super) old: Vec<String>,
}

impl Canary<'_> {
    fn path(&self) -> String {
        format!("{}/canary", target::path_of(&self.args.upstream))
    }

    /// Sends some users to the new servers.
    pub(super) async fn begin(&self, console: &mut Console) -> Result<(), String> {
        let by = self.args.by.map(|by| match by {
            CanaryBy::Cookie => "cookie".to_owned(),
            CanaryBy::Address => "address".to_owned(),
        });
        let (servers, allow) = (self.new.clone(), self.args.allow.clone());
        let canary = NewCanary { servers, percent: self.percent, allow, by };
        let begun = self.client.put::<UpstreamStatus>(&self.path(), &canary, PROMPT).await;
        begun.map_err(|error| error.to_string())?;
        let lasts = show_duration(self.args.lasts);
        let _ = console.confirm(&format!("canary: {} % of users meet the new servers for {lasts}", self.percent));
        Ok(())
    }

    /// Sends everybody back.
    pub(super) async fn end(&self, console: &mut Console) {
        let path = self.path();
        match self
            .client
            .call(Method::DELETE, &path, bytes::Bytes::new(), PROMPT)
            .await
            .map(|answer| answer.success(self.client))
        {
            Ok(Ok(())) => console.note("the canary has ended: its users go back to the old servers"),
            Ok(Err(error)) | Err(error) => console.note(&format!("the canary cannot be ended: {error}")),
        }
    }

    /// Compares until the time is over. `told` is what was seen last, whatever ends it; the error is why the
    /// new servers must not be kept.
    pub(super) async fn compare(&self, told: &mut Option<Comparison>, console: &mut Console) -> Result<(), String> {
        let both = async || {
            let sample = Sample::take(self.client).await.map_err(|failure| failure.message)?;
            let of = |servers: &[String]| Doing::of(&sample, &self.args.upstream, servers);
            Ok::<_, String>((of(&self.new), of(&self.old), Counts::of(&sample, &self.args.upstream)))
        };
        let (new, old, _) = both().await?;
        let began = Instant::now();
        let (end, mut tell) = (began + self.args.lasts, began + TELL);
        loop {
            let now = Instant::now();
            let is_last = now >= end;
            let alpha = if is_last { ALPHA.1 } else { ALPHA.0 };
            let (new_now, old_now, counts) = both().await?;
            self.is_there().await?;
            let seconds = now.duration_since(began).as_secs_f64();
            let (new_now, old_now) = (new_now.since(&new), old_now.since(&old));
            let seen = Comparison::between(&new_now, &old_now, alpha, self.percent, seconds);
            let seen = Comparison { counts, ..seen };
            let text = format!("canary, {} left: {}", show_seconds(end.duration_since(now)), seen.progress());
            if console.live {
                let _ = console.progress(&text);
            } else if now >= tell && !is_last {
                tell += TELL;
                let _ = console.confirm(&text);
            }
            let (worse, nothing) = (seen.worse.clone(), seen.new.requests == 0);
            *told = Some(seen);
            if let Some(worse) = worse {
                return Err(format!("the new servers are worse: {worse}"));
            }
            if is_last {
                let nothing =
                    nothing.then(|| "no request came to the new servers: there is nothing to compare".to_owned());
                return nothing.map_or(Ok(()), Err);
            }
            sleep_until(end.min(now + LOOK)).await;
        }
    }

    /// Whether users still meet the new servers.
    async fn is_there(&self) -> Result<(), String> {
        let status: Status = self.client.get("/status", PROMPT).await.map_err(|error| error.to_string())?;
        let upstream = status.upstreams.iter().find(|upstream| upstream.name == self.args.upstream);
        match upstream.and_then(|upstream| upstream.canary.as_ref()) {
            Some(_) => Ok(()),
            None => Err("the canary was ended by somebody else, or with the process that held it".to_owned()),
        }
    }
}

fn show_seconds(time: Duration) -> String {
    crate::cli::table::ago(time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doing(answers: u64, failures: u64, slow: u64) -> Doing {
        let mut first_byte = Histogram::default();
        for (bound, count) in
            [(0.001, answers - slow), (0.002, answers - slow), (0.004, answers), (f64::INFINITY, answers)]
        {
            first_byte.add(bound, count);
        }
        Doing { answers, failures, first_byte }
    }

    fn compare(new: &Doing, old: &Doing) -> Comparison {
        Comparison::between(new, old, ALPHA.1, 5.0, 60.0)
    }

    #[test]
    fn new_servers_that_fail_are_worse() {
        let seen = compare(&doing(100, 10, 0), &doing(2_000, 4, 0));
        let worse = seen.worse.clone().unwrap();
        assert_eq!(worse, "10 of 100 requests failed there (10.00 %), and 4 of 2000 on the old servers (0.20 %)");
        // As many failures as the old ones have are no news, and fewer are none.
        assert_eq!(compare(&doing(100, 1, 0), &doing(2_000, 20, 0)).worse, None);
        assert_eq!(compare(&doing(100, 0, 0), &doing(2_000, 20, 0)).worse, None);
        // One of one might be chance where failures happen.
        assert_eq!(compare(&doing(1, 1, 0), &doing(50, 3, 0)).worse, None);
    }

    #[test]
    fn new_servers_that_are_slow_are_worse() {
        let seen = compare(&doing(200, 0, 40), &doing(2_000, 0, 60));
        assert_eq!((seen.new.p95_ms, seen.old.p95_ms), (Some(4.0), Some(1.0)));
        let worse = seen.worse.unwrap();
        assert!(worse.contains("20.0 % of requests took longer than ≤ 1.0 ms there, which 3.0 %"), "{worse}");
        assert_eq!(compare(&doing(200, 0, 8), &doing(2_000, 0, 60)).worse, None, "p95 is the same");
    }

    #[test]
    fn it_says_what_it_could_not_see() {
        let seen = compare(&doing(412, 0, 0), &doing(8_000, 0, 0));
        let limits = seen.limits();
        let expected = "with 412 requests on the new servers a failure rate of 0.73 % would have been seen (with 80 % \
             probability), one of 0.20 % hardly (20 %); a p95 within the same power of two is the same";
        assert_eq!(limits, expected);
        // Two failures of 412 beside none of 8,000 are enough: one pair of many has probability (412/8412)².
        let pair = |p: f64| 1.0 - (1.0 - p).powi(412) - 412.0 * p * (1.0 - p).powi(411);
        assert!((pair(seen.seen_80.unwrap()) - 0.8).abs() < 1e-6 && (pair(seen.seen_20.unwrap()) - 0.2).abs() < 1e-6);
        let none = compare(&doing(1, 0, 0), &doing(2, 0, 0)).limits();
        assert!(none.contains("no failure rate could have been told from chance"), "{none}");
    }

    #[test]
    fn counts_are_those_of_its_servers() {
        let text = "evenkeel_server_answers_total{upstream=\"app\",server=\"c\",code=\"2xx\"} 90\n\
            evenkeel_server_answers_total{upstream=\"app\",server=\"c\",code=\"5xx\"} 6\n\
            evenkeel_server_answers_total{upstream=\"app\",server=\"a\",code=\"5xx\"} 70\n\
            evenkeel_server_failures_total{upstream=\"app\",server=\"c\"} 3\n\
            evenkeel_server_connect_failures_total{upstream=\"app\",server=\"c\"} 1\n\
            evenkeel_server_first_byte_seconds_bucket{upstream=\"app\",server=\"c\",le=\"0.001\"} 96\n\
            evenkeel_server_first_byte_seconds_bucket{upstream=\"app\",server=\"c\",le=\"+Inf\"} 96\n";
        let doing = Doing::of(&Sample::of(text), "app", &["c".to_owned(), "d".to_owned()]);
        assert_eq!((doing.failures(), doing.first_byte.all()), (Of::new(10, 100), 96));
    }
}
