//! The part of a scenario that says what servers there are, and what each of them can do.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::{Candidate, Scenario, duration};

/// The servers, called s1, s2 and so on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Servers {
    /// As many as are named where they are the user's own.
    #[serde(default)]
    pub count: usize,
    /// Requests that a server works on at once; others wait for their turn. None is no limit.
    #[serde(default)]
    pub workers: Option<Each>,
    /// What the proxy is told of how much each can do.
    #[serde(default)]
    pub weight: Each,
    /// How long a request takes one worker.
    #[serde(default, deserialize_with = "duration")]
    pub work: Duration,
}

/// A number for each server: one that is the same for all, or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Each(Vec<u32>);

impl Default for Each {
    fn default() -> Self {
        Self(vec![1])
    }
}

impl Each {
    /// That of a server, counted from 1. One that is added later is like the last.
    #[must_use]
    pub fn of(&self, number: usize) -> u32 {
        self.0.get(number.saturating_sub(1)).or(self.0.last()).copied().unwrap_or(1)
    }

    /// Whether all are the same.
    #[must_use]
    pub fn is_even(&self) -> bool {
        self.0.windows(2).all(|pair| pair[0] == pair[1])
    }

    fn check(&self, key: &str, servers: usize, most: u32) -> Result<(), String> {
        if let Some(wrong) = self.0.iter().find(|number| !(1..=most).contains(*number)) {
            return Err(format!("{key} = {wrong}: write 1 to {most}"));
        }
        if self.0.len() > 1 && self.0.len() != servers {
            return Err(format!("{key} is a list of {}: write one number for each of {servers} servers", self.0.len()));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Each {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Each;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number for all servers, or a list with one for each")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Each, E> {
                let number = u32::try_from(number);
                number.map(|number| Each(vec![number])).map_err(|_| E::custom("that is no number of them"))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Each, A::Error> {
                let mut all = Vec::new();
                while let Some(number) = list.next_element()? {
                    all.push(number);
                }
                if all.is_empty() { Err(de::Error::custom("an empty list says nothing")) } else { Ok(Each(all)) }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl Servers {
    pub(super) fn check(&self, most: usize) -> Result<(), String> {
        let Self { count, workers, weight, .. } = self;
        if !(1..=most).contains(count) {
            return Err(format!("[servers] count = {count}: write 1 to {most}"));
        }
        if let Some(workers) = workers {
            let error = |error| format!("[servers] {error}; leave it out where there is no limit");
            workers.check("workers", *count, 65_535).map_err(error)?;
        }
        weight.check("weight", *count, 1000).map_err(|error| format!("[servers] {error}"))
    }
}

impl Scenario {
    /// The weights under a candidate.
    #[must_use]
    pub fn weights<'a>(&'a self, candidate: &'a Candidate) -> &'a Each {
        candidate.weight.as_ref().unwrap_or(&self.servers.weight)
    }

    /// The weights under the candidate of that name.
    #[must_use]
    pub fn weights_under(&self, name: &str) -> &Each {
        let candidate = self.policies.iter().find(|candidate| candidate.name == name);
        candidate.map_or(&self.servers.weight, |candidate| self.weights(candidate))
    }

    pub(super) fn check_candidates(&self) -> Result<(), String> {
        for (number, candidate) in self.policies.iter().enumerate() {
            let fail = |what: String| Err(format!("policy \"{}\": {what}", candidate.name));
            if self.policies[..number].iter().any(|other| other.name == candidate.name) {
                return fail("there are two of that name, which nobody could tell apart".to_owned());
            }
            if let Some(Err(error)) =
                candidate.weight.as_ref().map(|weight| weight.check("weight", self.servers.count, 1000))
            {
                return fail(error);
            }
            if self.websocket.is_some() && !self.weights(candidate).is_even() {
                return fail("connections are counted as if all servers had one weight: leave `weight` out".to_owned());
            }
        }
        Ok(())
    }
}
