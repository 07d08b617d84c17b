//! The proxy's own counters, read from `/metrics` at one moment.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;

use super::histogram::Histogram;
use crate::cli::client::{Client, PROMPT};
use crate::cli::exit::{Exit, Failure};

type Labels = BTreeMap<String, String>;

/// Every sample of `/metrics`.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    values: Vec<(String, Labels, f64)>,
}

impl Sample {
    pub(super) async fn take(client: &Client) -> Result<Self, Failure> {
        let answer = client.call(Method::GET, "/metrics", Bytes::new(), PROMPT).await?;
        answer.success(client)?;
        let sample = Self::of(&String::from_utf8_lossy(&answer.body));
        if sample.values.is_empty() {
            return Err(Failure::new(Exit::Failure, format!("{} has no metrics", client.address())));
        }
        Ok(sample)
    }

    pub(super) fn of(text: &str) -> Self {
        Self { values: text.lines().filter_map(parse).collect() }
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        with: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = (&'a Labels, f64)> {
        let all = self.values.iter().filter(move |(n, _, _)| n == name);
        all.filter(move |(_, of, _)| with.iter().all(|(k, v)| of.get(*k).is_some_and(|x| x == v)))
            .map(|(_, of, value)| (of, *value))
    }

    pub(super) fn sum(&self, name: &str, with: &[(&str, &str)]) -> f64 {
        self.matching(name, with).map(|(_, value)| value).sum()
    }

    pub(super) fn count(&self, name: &str, with: &[(&str, &str)]) -> u64 {
        self.sum(name, with).max(0.0).round() as u64
    }

    /// By the values of one label; what is 0 is left out.
    pub(super) fn counts_by(&self, label: &str, name: &str, with: &[(&str, &str)]) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (of, value) in self.matching(name, with).filter(|(_, value)| *value > 0.0) {
            if let Some(key) = of.get(label) {
                *counts.entry(key.clone()).or_insert(0) += value.round() as u64;
            }
        }
        counts
    }

    /// The sum of histograms; `name` without its `_bucket`.
    pub(super) fn histogram(&self, name: &str, with: &[(&str, &str)]) -> Histogram {
        let name = format!("{name}_bucket");
        let mut sum = Histogram::default();
        for (of, value) in self.matching(&name, with) {
            let bound = of.get("le").and_then(|le| le.parse::<f64>().ok()).unwrap_or(f64::INFINITY);
            sum.add(bound, value.max(0.0).round() as u64);
        }
        sum
    }

    /// Routes that lead to the upstream.
    pub(super) fn routes(&self, upstream: &str) -> Vec<&str> {
        let leads = |of: &&Labels| of.get("upstream").is_some_and(|u| u == upstream);
        let infos = self.values.iter().filter(|(name, _, _)| name == "evenkeel_route_info").map(|(_, of, _)| of);
        let mut routes: Vec<&str> = infos.filter(leads).filter_map(|of| of.get("route").map(String::as_str)).collect();
        routes.sort_unstable();
        routes.dedup();
        routes
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_with_what_is_escaped_in_them() {
        let (name, labels, value) = parse(r#"x{a="1,\"}",b="c d"} 2.5"#).unwrap();
        assert_eq!((name.as_str(), value), ("x", 2.5));
        assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("1,\"}", "c d"));
    }
}
