use std::fmt::Write as _;

use super::line::{self, Line};
use super::world::{MOST_IN_FLIGHT, World};
use super::*;
use crate::named::Named;

fn replay(policies: &[&str], servers: &[(&str, u32)], log: &str) -> Replayed {
    let mut replay = Replay::new(Wanted {
        servers: servers.iter().map(|(name, weight)| Server { name: (*name).to_owned(), weight: *weight }).collect(),
        policies: policies.iter().map(|name| ((*name).to_owned(), Policy::by_name(name).unwrap())).collect(),
        upstream: Some("shop".to_owned()),
        took: Duration::from_millis(100),
    });
    replay.read(&mut log.as_bytes()).unwrap();
    replay.finish()
}

fn counts(outcome: &Outcome) -> Vec<u64> {
    outcome.servers.iter().map(|server| server.requests).collect()
}

fn json(second: u32, client: &str, more: &str) -> String {
    format!("{{\"time\":\"2026-11-21T20:15:{second:02}.000Z\",\"client\":\"{client}\",\"server\":\"a\"{more}}}\n")
}

#[test]
fn what_each_would_have_done_is_counted() {
    let mut log = String::new();
    for n in 0..60 {
        // Half are one office's.
        let client = if n % 2 == 0 { "10.0.0.1".to_owned() } else { format!("10.1.0.{n}") };
        log += &json(n, &client, ",\"upstream\":\"shop\",\"duration_ms\":10.0");
    }
    log += &json(1, "10.9.9.9", ",\"upstream\":\"other\"");
    log += "nonsense\n\n{\"time\":\"2026-11-21T20:15:00.000Z\",\"lines_lost\":5}\n";
    let told = replay(&["round_robin", "ip_hash", "sticky_cookie"], &[("a", 1), ("b", 2)], &log);
    assert_eq!((told.requests, told.left_out, told.lost, told.bad.lines), (60, 2, 5, 1));
    let first = told.bad.first.as_ref().unwrap();
    assert_eq!((first.number, first.text.as_str()), (62, "nonsense"));
    assert_eq!((told.clients, told.all_followed, told.without_duration), (31, true, 0));
    assert_eq!(told.to.unwrap() - told.from.unwrap(), 59.0);
    assert_eq!(counts(&told.policies[0]), [20, 40]);
    assert_eq!(told.policies[0].max_over_mean, Some(1.0));
    // The office came thirty times, and each time but the first it had been there before.
    assert!(told.policies.iter().all(|policy| policy.followed == 29));
    assert_eq!((told.policies[1].moves, told.policies[2].moves), (0, 0));
    assert!(told.policies[0].moves > 0);
    let hot = &told.hottest[0];
    assert_eq!((hot.address.to_string().as_str(), hot.requests, hot.share), ("10.0.0.1", 30, 0.5));
    assert_eq!(told.hottest.len(), 1, "who came once is not hot");
    let home = &hot.on["ip_hash"];
    let there = told.policies[1].servers.iter().find(|server| server.server == *home).unwrap();
    assert!(there.requests >= 30, "{there:?}");
    let logged = told.logged.as_ref().unwrap();
    assert_eq!((counts(logged), logged.moves, logged.max_over_mean), (vec![60], 0, Some(1.0)));
    assert_eq!(told.rows().len(), 5);
}

#[test]
fn feedback_knows_how_long_requests_took() {
    // Each second one that takes a minute, and one that is over at once.
    let mut log = String::new();
    for n in 0..40 {
        let took = if n % 2 == 0 { "60000.0" } else { "1.0" };
        log += &json(n, &format!("10.0.0.{n}"), &format!(",\"upstream\":\"shop\",\"duration_ms\":{took}"));
    }
    let told = replay(&["least_requests"], &[("a", 1), ("b", 1), ("c", 1), ("d", 1)], &log);
    let spread = counts(&told.policies[0]);
    assert!(spread.iter().all(|n| *n >= 5), "the long ones are five each: {spread:?}");
    assert_eq!(told.policies[0].approximate, ["load"]);
}

/// Ten minutes with a request of half a second each second, the later half first, and a line of next year within.
#[test]
fn a_log_that_goes_back_in_time_leaves_nothing_in_flight() {
    let line = |at: &str, n: u32| {
        format!(
            "{{\"time\":\"{at}\",\"client\":\"10.0.{}.{}\",\"upstream\":\"shop\",\"server\":\"a\",\"duration_ms\":500.0}}\n",
            n / 250,
            n % 250
        )
    };
    let mut log = String::new();
    for n in (300..600).chain(0..300) {
        log += &line(&format!("2026-11-21T20:{:02}:{:02}.000Z", n / 60, n % 60), n);
        if n == 100 {
            log += &line("2027-11-21T20:00:00.000Z", n);
        }
    }
    log += &line("9999-12-31T23:59:59.000Z", 1);
    log += &line("1970-01-01T00:00:00.000Z", 1);
    // Long, and ended a moment ago: that is how a log is, and nothing goes back.
    let late = line("2026-11-21T20:00:00.000Z", 1).replace("500.0", "600000.0");
    log += &(line("2026-11-21T20:10:00.000Z", 1) + &late);
    log += "{\"time\":\"2026-11-21T20:15:00.000Z\",\"lines_lost\":18446744073709551615}\n".repeat(2).as_str();
    let policies = ["least_requests", "peak_ewma"].map(|name| (name.to_owned(), Policy::by_name(name).unwrap()));
    let servers = ["a", "b"].map(|name| Server { name: name.to_owned(), weight: 1 }).to_vec();
    let wanted = Wanted { servers, policies: policies.to_vec(), upstream: None, took: Duration::ZERO };
    let mut replay = Replay::new(wanted);
    let (mut most, mut sent) = (0, 0);
    for line in log.lines() {
        replay.read(&mut line.as_bytes()).unwrap();
        most = most.max(replay.worlds.iter().map(|world| world.ends.len()).max().unwrap());
        sent += 1;
        for world in &replay.worlds {
            let in_flight: u32 = world.servers.iter().map(|state| state.in_flight).sum();
            assert_eq!(in_flight as usize, world.ends.len(), "line {sent}");
        }
    }
    let told = replay.finish();
    assert_eq!((told.back, told.requests, told.lost), (3, 605, u64::MAX));
    assert!(most <= 3, "{most} were in flight at once");
}

#[test]
fn what_is_in_flight_is_bounded() {
    let policy = Policy::by_name("least_requests").unwrap();
    let servers = [Server { name: "a".to_owned(), weight: 1 }];
    let mut world = World::new(&policy, &servers);
    let logged = json(0, "10.0.0.1", ",\"upstream\":\"shop\"");
    let Ok(Line::Request(logged)) = line::read(logged.as_bytes()) else { panic!("{logged}") };
    for _ in 0..MOST_IN_FLIGHT + 2 {
        world.send(&logged, Duration::ZERO, Duration::MAX, None);
    }
    assert_eq!((world.ends.len(), world.servers[0].in_flight as usize), (MOST_IN_FLIGHT, MOST_IN_FLIGHT));
}

#[test]
fn a_line_without_an_end_is_bad_and_the_next_is_read() {
    let good = "10.0.0.1 - - [21/Nov/2026:20:15:00 +0000] \"GET / HTTP/1.1\" 200 1\n";
    let mut log = good.to_owned();
    let _ = writeln!(log, "{}", "x".repeat(200_000));
    log += good;
    let told = replay(&["round_robin"], &[("a", 1)], &log);
    assert_eq!((told.requests, told.bad.lines, told.without_duration), (2, 1, 2));
    assert!(told.logged.is_none() && told.bad.first.unwrap().why.contains("64 KiB"));
}

#[test]
fn a_key_that_a_log_does_not_have_is_told() {
    let policy = toml::from_str::<BTreeMap<String, Policy>>(
        "p = { hash = { by = { header = 'x-room' }, hot_keys = 'spread' } }",
    )
    .unwrap();
    let wanted = Wanted {
        servers: vec![Server { name: "a".to_owned(), weight: 1 }],
        policies: vec![("hash".to_owned(), policy["p"].clone())],
        upstream: None,
        took: Duration::ZERO,
    };
    let mut replay = Replay::new(wanted);
    replay.read(&mut json(0, "10.0.0.1", ",\"upstream\":\"x\"").as_bytes()).unwrap();
    assert_eq!(replay.finish().policies[0].approximate, ["key", "hot_keys"]);
}

/// Without a duration a line's time may be that of the beginning of a request that took hours, such as a tunnel's. A
/// hundred of them in a row are another log.
#[test]
fn a_long_request_without_a_duration_does_not_turn_the_clock_back() {
    let line = |hour: u32, second: u32| {
        format!("10.0.0.{second} - - [21/Nov/2026:{hour:02}:00:{second:02} +0000] \"GET / HTTP/1.1\" 200 1\n")
    };
    let wanted = || Wanted {
        servers: vec![Server { name: "a".to_owned(), weight: 1 }],
        policies: vec![("p".to_owned(), Policy::by_name("least_requests").unwrap())],
        upstream: None,
        took: Duration::from_secs(30),
    };
    let after = |log: &str| {
        let mut replay = Replay::new(wanted());
        replay.read(&mut log.as_bytes()).unwrap();
        (replay.now.as_secs() % 86_400, replay.worlds[0].servers[0].in_flight, replay.finish().back)
    };
    let noon = 12 * 3600;
    let busy = line(12, 0) + &line(12, 1);
    assert_eq!(after(&busy), (noon + 1, 2, 0));
    // It began three hours ago and is written now: the others are still in flight.
    assert_eq!(after(&(busy.clone() + &line(9, 0))), (noon + 1, 3, 0));
    assert_eq!(after(&(busy.clone() + &line(9, 0) + &line(12, 10))), (noon + 10, 4, 0));
    // Also when many tunnels end, as long as something else comes between.
    let many = line(9, 0).repeat(LATE_IN_A_ROW as usize - 1);
    assert_eq!(after(&(busy.clone() + &many + &line(12, 2) + &many)).2, 0);
    let (now, in_flight, back) = after(&(busy + &many + &line(9, 1)));
    assert_eq!((now, in_flight, back), (9 * 3600 + 1, 1, 1), "that is an older log");
}
