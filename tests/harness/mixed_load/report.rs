//! What a load has found.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Kind;

/// Of one kind.
#[derive(Debug, Default)]
pub struct Count {
    pub answered: usize,
    /// What failed, when and why.
    pub failed: Vec<String>,
    /// The longest from when a request was due to the end of its answer.
    pub slowest: Duration,
}

#[derive(Debug, Default)]
pub struct Report {
    pub took: Duration,
    pub kinds: BTreeMap<Kind, Count>,
    /// GETs that met the close of their kept connection, and were sent again.
    pub races: Vec<String>,
    /// Kept connections that were closed while nothing was asked.
    pub closed_between: usize,
    /// Answers that said that their connection ends.
    pub announced: usize,
    /// WebSockets that were closed with code 1001.
    pub away: usize,
    /// Ids of POSTs that were answered with 200.
    pub delivered: Vec<String>,
    /// Ids of POSTs that reached servers more than once.
    pub twice: Vec<String>,
    /// Ids of POSTs that were answered with 200 and reached nobody.
    pub undelivered: Vec<String>,
}

impl Report {
    pub fn answered(&self) -> usize {
        self.kinds.values().map(|count| count.answered).sum()
    }

    /// What failed, of these kinds.
    pub fn failed(&self, of: impl Fn(Kind) -> bool) -> Vec<String> {
        let kinds = self.kinds.iter().filter(|(kind, _)| of(**kind));
        kinds.flat_map(|(kind, count)| count.failed.iter().map(move |what| format!("{kind:?} {what}"))).collect()
    }

    /// Panics unless nobody has noticed anything: every request was answered, and no POST was delivered
    /// twice.
    #[track_caller]
    pub fn unnoticed(&self) {
        println!("{self}");
        self.no_post_twice();
        let failed = self.failed(|_| true);
        assert!(failed.is_empty(), "{} failed: {:#?}\n{self}", failed.len(), &failed[..failed.len().min(20)]);
        let kinds = super::LOAD.iter().map(|(kind, ..)| kind);
        for kind in kinds {
            assert!(self.kinds.get(kind).is_some_and(|count| count.answered > 0), "none of {kind:?}: {self}");
        }
    }

    /// Panics where a POST was delivered twice, or answered and not delivered.
    #[track_caller]
    pub fn no_post_twice(&self) {
        assert!(self.twice.is_empty(), "delivered twice: {:?}\n{self}", self.twice);
        assert!(self.undelivered.is_empty(), "answered and not delivered: {:?}\n{self}", self.undelivered);
    }

    /// Compares with what arrived at servers.
    pub(super) fn look_at(&mut self, arrivals: &[PathBuf], load: &str) {
        let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
        for file in arrivals {
            let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            for id in text.lines().filter_map(id_of_post).filter(|id| id.starts_with(&format!("{load}-"))) {
                *arrived.entry(id.to_owned()).or_default() += 1;
            }
        }
        self.twice = arrived.iter().filter(|(_, times)| **times > 1).map(|(id, _)| id.clone()).collect();
        self.undelivered = self.delivered.iter().filter(|id| !arrived.contains_key(*id)).cloned().collect();
    }
}

/// The id in `a #3 POST /sink?id=17 - …`.
fn id_of_post(line: &str) -> Option<&str> {
    let target = line.split_once(" POST ")?.1.split(' ').next()?;
    target.split_once("?id=")?.1.split('&').next()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: usize = self.kinds.values().map(|count| count.failed.len()).sum();
        writeln!(
            f,
            "{} answered and {failed} failed in {:.1} s; POSTs delivered twice: {}, answered and not delivered: {}",
            self.answered(),
            self.took.as_secs_f64(),
            self.twice.len(),
            self.undelivered.len()
        )?;
        for (kind, count) in &self.kinds {
            let (answered, failed) = (count.answered, count.failed.len());
            writeln!(f, "  {kind:?}: {answered} answered, {failed} failed, slowest {:.3?}", count.slowest)?;
        }
        write!(
            f,
            "  {} kept connections ended with an answer that said so, {} between two; {} GETs met that and were sent \
             again; {} WebSockets closed with 1001",
            self.announced,
            self.closed_between,
            self.races.len(),
            self.away
        )
    }
}
