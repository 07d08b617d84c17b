//! How many files and sockets a run has open at once: where there are too few, what fails is the lab and not a policy.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::Scenario;
use crate::lab::arrivals::Arrival;
use crate::lab::load::PATIENCE;

/// What a process has open beside its connections: the proxy wants that much for itself.
const OWN: u64 = 200;

impl Scenario {
    /// How many descriptors the process needs that needs most, which is the proxy: one for each connection of a client,
    /// and one for each to a server. A user keeps a connection, and has one more for each request that is under way.
    #[must_use]
    pub fn descriptors(&self, arrivals: &[Arrival]) -> u64 {
        let connections = if self.websocket.is_some() {
            self.groups.iter().map(|group| u64::from(group.users)).sum()
        } else {
            connections(arrivals)
        };
        2 * connections + OWN + 4 * self.most_servers() as u64
    }
}

/// Most connections at once, where nobody is answered before giving up.
fn connections(arrivals: &[Arrival]) -> u64 {
    // By user: how many are under way, and the most that were.
    let mut users: HashMap<(u16, u32), (u64, u64)> = HashMap::new();
    let mut under_way: VecDeque<&Arrival> = VecDeque::new();
    let mut most = 0;
    for arrival in arrivals {
        let over = |first: &Arrival| arrival.at.saturating_sub(first.at) > PATIENCE + Duration::from_millis(1);
        while let Some(first) = under_way.pop_front_if(|first| over(first)) {
            if let Some((now, _)) = users.get_mut(&(first.group, first.user)) {
                *now -= 1;
            }
        }
        under_way.push_back(arrival);
        most = most.max(under_way.len() as u64);
        let (now, peak) = users.entry((arrival.group, arrival.user)).or_default();
        *now += 1;
        *peak = (*peak).max(*now);
    }
    let peaks: u64 = users.values().map(|(_, peak)| peak).sum();
    peaks.min(users.len() as u64 + most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::arrivals::schedule;
    use crate::lab::scenario::Limits;

    fn needed(group: &str, duration: &str) -> u64 {
        let text = format!(
            "title = 't'\nduration = '{duration}'\n[servers]\ncount = 5\n[[group]]\nname = 'g'\n{group}\n\
             [[policy]]\nname = 'p'\npolicy = 'round_robin'\n"
        );
        let scenario = Scenario::read(&text, Limits::REAL).unwrap();
        scenario.descriptors(&schedule(&scenario)) - OWN - 20
    }

    #[test]
    fn connections_are_those_of_users_and_of_what_is_under_way() {
        // Everybody asks once or twice: as many as requests.
        let few = needed("users = 50000\nrate = 100", "10s");
        assert!((1800..2200).contains(&few), "{few}");
        // One who asks all the time: what is under way within ten seconds.
        let one = needed("users = 1\nrate = 100", "60s");
        assert!((1900..2400).contains(&one), "{one}");
        // Many who ask all the time.
        let many = needed("users = 1000\nrate = 100", "600s");
        assert!((3900..4400).contains(&many), "{many}");
    }
}
