//! What becomes of long connections when servers die, go and come.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{STEPS, dash, millis};
use crate::lab::run::Measured;
use crate::lab::scenario::{Action, Scenario};
use crate::lab::sockets::Connection;
use crate::lab::stats;

/// RFC 6455, section 7.4.1: the other side is going away.
const AWAY: u16 = 1001;

/// What was seen of the connections under one policy.
#[derive(Debug, Serialize)]
pub struct SocketsReport {
    pub opened: u64,
    /// Opened by server, as users saw it.
    pub opened_by_server: BTreeMap<String, u64>,
    pub messages: u64,
    /// That were sent and did not come back.
    pub messages_lost: u64,
    pub events: Vec<EventSockets>,
    /// Connections of each server at each step of time, in the order of the servers.
    pub over_time: Vec<Vec<u32>>,
    /// Connections that were opened again, by second.
    pub back_by_second: Vec<u32>,
}

/// What came of an event, until the next one or the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventSockets {
    pub what: String,
    pub at_seconds: f64,
    /// Ended by a close frame with code 1001.
    pub away: u64,
    /// Ended by another one.
    pub other_code: u64,
    /// Ended without a word.
    pub cut: u64,
    pub messages_lost: u64,
    /// From a connection's end until its user had the next one.
    pub back_p50_ms: Option<f64>,
    pub back_max_ms: Option<f64>,
    /// Connections that were opened in the worst second.
    pub worst_second: u64,
    /// Of the connections that servers had at the end of it.
    pub max_over_mean: Option<f64>,
}

impl SocketsReport {
    pub(super) fn of(scenario: &Scenario, measured: &Measured, numbers: &[u32]) -> Option<Self> {
        let connections = measured.sockets.as_ref()?;
        let end = scenario.duration.as_secs_f64();
        let mut opened_by_server: BTreeMap<String, u64> = numbers.iter().map(|n| (format!("s{n}"), 0)).collect();
        for server in connections.iter().filter_map(|c| c.server) {
            *opened_by_server.entry(format!("s{server}")).or_default() += 1;
        }
        let step = end / STEPS as f64;
        let of = |number: &u32| (0..STEPS).map(|n| held(connections, *number, (n as f64 + 0.5) * step)).collect();
        let back: Vec<f64> = again(connections).iter().map(|(_, opened)| *opened).collect();
        let mut back_by_second = vec![0; end.ceil().max(1.0) as usize];
        let last = back_by_second.len() - 1;
        back.iter().for_each(|at| back_by_second[(*at as usize).min(last)] += 1);
        Some(Self {
            opened: connections.len() as u64,
            opened_by_server,
            messages: connections.iter().map(|c| u64::from(c.sent)).sum(),
            messages_lost: connections.iter().map(|c| u64::from(c.lost)).sum(),
            events: events(scenario, measured, connections, end),
            over_time: numbers.iter().map(of).collect(),
            back_by_second,
        })
    }

    pub(super) const HEAD: [&str; 9] = [
        "POLICY",
        "EVENT",
        "CLOSED 1001",
        "CUT",
        "BACK P50",
        "BACK MAX",
        "WORST SECOND",
        "LOST MESSAGES",
        "MAX/MEAN AFTER",
    ];

    /// A row for each event.
    pub(super) fn rows(&self, policy: &str) -> Vec<Vec<String>> {
        let row = |event: &EventSockets| {
            vec![
                policy.to_owned(),
                event.what.clone(),
                event.away.to_string(),
                (event.cut + event.other_code).to_string(),
                event.back_p50_ms.map_or_else(dash, millis),
                event.back_max_ms.map_or_else(dash, millis),
                event.worst_second.to_string(),
                event.messages_lost.to_string(),
                event.max_over_mean.map_or_else(dash, |x| format!("{x:.2}")),
            ]
        };
        self.events.iter().map(row).collect()
    }
}

/// Connections that a server has at a moment.
fn held(connections: &[Connection], number: u32, at: f64) -> u32 {
    let is = |c: &&Connection| c.server == Some(number) && c.opened <= at && c.ended.is_none_or(|ended| at < ended.at);
    connections.iter().filter(is).count() as u32
}

/// When a user's connection ended and when the next one was open, for each that was followed by one.
fn again(connections: &[Connection]) -> Vec<(f64, f64)> {
    let mut last: BTreeMap<(u16, u32), f64> = BTreeMap::new();
    let mut all = Vec::new();
    // In the order in which they were opened.
    for connection in connections {
        let user = (connection.group, connection.user);
        if let Some(ended) = last.remove(&user) {
            all.push((ended, connection.opened));
        }
        if let Some(ended) = connection.ended {
            last.insert(user, ended.at);
        }
    }
    all
}

fn events(scenario: &Scenario, measured: &Measured, connections: &[Connection], end: f64) -> Vec<EventSockets> {
    let again = again(connections);
    let mut servers = scenario.servers.count;
    let mut all = Vec::new();
    for (n, event) in measured.events.iter().enumerate() {
        match scenario.events.get(n).map(|planned| planned.action) {
            Some(Action::Add(more)) => servers += more,
            Some(Action::Remove(fewer)) => servers -= fewer,
            _ => {}
        }
        let until = measured.events.get(n + 1).map_or(end, |next| next.at);
        let within = event.at..until;
        let over = || connections.iter().filter_map(|c| Some((c, c.ended.filter(|ended| within.contains(&ended.at))?)));
        let count = |is: &dyn Fn(Option<u16>) -> bool| over().filter(|(_, ended)| is(ended.code)).count() as u64;
        let mut gaps: Vec<f64> = again
            .iter()
            .filter(|(ended, _)| within.contains(ended))
            .map(|(ended, opened)| (opened - ended) * 1000.0)
            .collect();
        gaps.sort_by(f64::total_cmp);
        let opened: Vec<f64> = connections.iter().map(|c| c.opened).filter(|at| within.contains(at)).collect();
        let in_a_second = |(n, at): (usize, &f64)| opened[n..].partition_point(|other| *other < at + 1.0);
        let loads: Vec<f64> =
            (1..=servers as u32).map(|server| f64::from(held(connections, server, until - 0.01))).collect();
        all.push(EventSockets {
            what: event.what.clone(),
            at_seconds: event.at,
            away: count(&|code| code == Some(AWAY)),
            other_code: count(&|code| code.is_some_and(|code| code != AWAY)),
            cut: count(&|code| code.is_none()),
            messages_lost: over().map(|(c, _)| u64::from(c.lost)).sum(),
            back_p50_ms: stats::quantile(&gaps, 0.5),
            back_max_ms: gaps.last().copied(),
            worst_second: opened.iter().enumerate().map(in_a_second).max().unwrap_or(0) as u64,
            max_over_mean: stats::max_over_mean(&loads),
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::run::Happened;
    use crate::lab::scenario::Limits;
    use crate::lab::sockets::Ended;

    fn connection(user: u32, server: u32, opened: f64, ended: Option<(f64, Option<u16>)>, lost: u32) -> Connection {
        let ended = ended.map(|(at, code)| Ended { at, code });
        Connection { group: 0, user, server: Some(server), opened, ended, sent: 10, lost }
    }

    /// Three users on two servers; at 1 s s1 dies under two of them, who are both back on s2; at 3 s s2 lets one go.
    #[test]
    fn events_by_hand() {
        let scenario = Scenario::read(
            "title = 't'\nduration = '4s'\n[websocket]\nmessage = '1s'\nreconnect = '1s'\n[servers]\ncount = 2\n\
             [[group]]\nname = 'g'\nusers = 3\nrate = 10\n[[policy]]\nname = 'p'\npolicy = 'round_robin'\n\
             [[event]]\nat = '1s'\ndo = { kill = 1 }\n[[event]]\nat = '3s'\ndo = 'deploy'\n",
            Limits::REAL,
        )
        .unwrap();
        let happened = |at: f64, what: &str| Happened { at, took: 0.1, what: what.to_owned(), problem: None };
        let measured = Measured {
            events: vec![happened(1.0, "s1 is killed"), happened(3.0, "deploy")],
            sockets: Some(vec![
                connection(0, 1, 0.0, Some((1.0, None)), 1),
                connection(1, 1, 0.1, Some((1.0, None)), 0),
                connection(2, 2, 0.2, None, 0),
                connection(0, 2, 1.5, None, 0),
                connection(1, 2, 2.6, Some((3.1, Some(1001))), 0),
                connection(1, 1, 3.3, None, 0),
            ]),
            ..Measured::default()
        };
        let report = SocketsReport::of(&scenario, &measured, &[1, 2]).unwrap();
        assert_eq!((report.opened, report.messages, report.messages_lost), (6, 60, 1));
        assert_eq!(report.opened_by_server, BTreeMap::from([("s1".to_owned(), 3), ("s2".to_owned(), 3)]));
        assert_eq!(report.back_by_second, [0, 1, 1, 1]);
        let [kill, deploy] = &report.events[..] else { panic!("{:?}", report.events) };
        assert_eq!((kill.away, kill.cut, kill.messages_lost, kill.worst_second), (0, 2, 1, 1));
        assert_eq!((kill.back_p50_ms, kill.back_max_ms), (Some(500.0), Some(1600.0)));
        assert_eq!(kill.max_over_mean, Some(2.0), "all three on one of two");
        assert_eq!((deploy.away, deploy.cut, deploy.messages_lost), (1, 0, 0));
        assert!((deploy.max_over_mean.unwrap() - 2.0 / 1.5).abs() < 1e-9, "two and one");
        // The middle of the first of 60 steps of 4 s is at 0.033 s: one is open on s1.
        assert_eq!((report.over_time[0][0], report.over_time[1][0], report.over_time[1][59]), (1, 0, 2));
    }
}
