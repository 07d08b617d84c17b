//! Virtual time: queues as theory has them, sessions, limits.

use super::*;
use crate::lab::arrivals::schedule;
use crate::lab::scenario::Limits;

fn run(text: &str) -> Measured {
    let scenario = Scenario::read(text, Limits::VIRTUAL).unwrap();
    simulate(&scenario, &scenario.policies[0], &schedule(&scenario)).unwrap()
}

fn text(policy: &str, servers: &str, events: &str) -> String {
    format!(
        "title = 't'\nduration = '20s'\nsessions = true\n[servers]\n{servers}\n[[group]]\nname = 'g'\nusers = 200\n\
         rate = 100\n[[policy]]\nname = 'p'\npolicy = '{policy}'\n{events}"
    )
}

/// One worker, 5 ms of work, 100 requests a second at random moments: a queue of the kind M/D/1 with half its
/// capacity in use, whose mean wait is ρ/(2(1−ρ)) of the work, 2.5 ms (Pollaczek and Khinchine).
#[test]
fn queues_are_as_long_as_theory_says() {
    let servers = "count = 1\nworkers = 1\nwork = '5ms'";
    let measured = run(&text("round_robin", servers, "").replace("'20s'", "'600s'"));
    let mean = measured.outcomes.iter().map(|o| o.latency).sum::<f64>() / measured.outcomes.len() as f64;
    assert!((mean - 0.0075).abs() < 0.0003, "{mean}");
}

/// The same queue's distribution by Erlang, whose values are worked out by hand: with D the work and λ the rate,
/// P(wait ≤ t) = (1−ρ) Σ (−λ(t−kD))ᵏ/k! · e^(λ(t−kD)), k from 0 to t/D. With ρ = ½: nobody waits in half of all cases;
/// for t < D it is ½·e^(λt), so 75 % wait no longer than ln(1.5)/λ = 4.055 ms; and for 99 % it takes 16.68 ms.
#[test]
fn quantiles_of_waits_are_those_of_theory() {
    let servers = "count = 1\nworkers = 1\nwork = '5ms'";
    let measured = run(&text("round_robin", servers, "").replace("'20s'", "'600s'"));
    let mut all: Vec<f64> = measured.outcomes.iter().map(|o| o.latency * 1000.0).collect();
    all.sort_by(f64::total_cmp);
    let at = |q: f64| crate::lab::stats::quantile(&all, q).unwrap();
    let share = |ms: f64| all.iter().filter(|latency| **latency <= ms).count() as f64 / all.len() as f64;
    assert!((share(5.0 + 1e-6) - 0.5).abs() < 0.01, "{}", share(5.0));
    assert!((at(0.75) - 9.055).abs() < 0.15, "{}", at(0.75));
    assert!((at(0.99) - 21.68).abs() < 0.7, "{}", at(0.99));
}

/// Four fifths of the capacity in use: ρ/(2(1−ρ)) of the work is twice the work.
#[test]
fn busier_queues_are_as_long_as_theory_says() {
    let servers = "count = 1\nworkers = 1\nwork = '8ms'";
    let measured = run(&text("round_robin", servers, "").replace("'20s'", "'600s'"));
    let mean = measured.outcomes.iter().map(|o| o.latency).sum::<f64>() / measured.outcomes.len() as f64;
    assert!((mean - 0.024).abs() < 0.0012, "{mean}");
}

/// By weight a server of weight 3 gets three times as much, and with as many workers does it in the same time.
#[test]
fn heavy_servers_get_more_and_do_more() {
    let servers = "count = 2\nweight = [1, 3]\nworkers = [1, 3]\nwork = '15ms'";
    let counts = |policy: &str| {
        let measured =
            run(&text(policy, servers, "").replace("rate = 100", "rate = 200").replace("users = 200", "users = 5000"));
        let waited = measured.outcomes.iter().map(|o| o.latency).sum::<f64>() / measured.outcomes.len() as f64;
        assert!(waited < 0.1, "{policy}: {waited}");
        measured.logged[&2] as f64 / measured.logged.values().sum::<u64>() as f64
    };
    for policy in ["round_robin", "ip_hash", "sticky_cookie"] {
        assert!((counts(policy) - 0.75).abs() < 0.02, "{policy}: {}", counts(policy));
    }
}

#[test]
fn sessions_are_lost_where_nobody_keeps_them() {
    let lost =
        |policy: &str, events: &str| run(&text(policy, "count = 4", events)).outcomes.iter().filter(|o| o.lost).count();
    assert_eq!((lost("sticky_cookie", ""), lost("ip_hash", "")), (0, 0));
    assert!(lost("round_robin", "") > 500);
    let kill = "[[event]]\nat = '10s'\ndo = { kill = 2 }\n";
    // A quarter of two hundred users, give or take.
    assert!((25..=80).contains(&lost("sticky_cookie", kill)), "{}", lost("sticky_cookie", kill));
}

/// An office with forty requests in flight, of which its server may have twenty: with the bound alone its users
/// are sent about, and spread each stays somewhere and so keeps a session.
#[test]
fn users_of_a_spread_office_stay_where_they_are() {
    let lost = |hot_keys: &str| {
        let policy = format!("policy = {{ ip_hash = {{ max_load = 2, hot_keys = '{hot_keys}' }} }}");
        let text = text("p", "count = 4\nworkers = 30\nwork = '100ms'", "").replace("policy = 'p'", &policy);
        let measured = run(&text.replace("users = 200\nrate = 100", "users = 200\naddresses = 1\nrate = 400"));
        let later = || measured.outcomes.iter().filter(|o| o.at > 5.0);
        later().filter(|o| o.lost).count() as f64 / later().count() as f64
    };
    let (bounded, spread) = (lost("report"), lost("spread"));
    assert!(bounded > 0.2 && spread < 0.02, "{bounded} {spread}");
}

#[test]
fn the_same_seed_gives_the_same_outcomes() {
    let text = text("least_requests", "count = 4\nworkers = 1\nwork = '20ms'", "");
    assert_eq!(run(&text).outcomes, run(&text).outcomes);
}

#[test]
fn what_needs_a_drain_is_refused() {
    let scenario = text("round_robin", "count = 2", "[[event]]\nat = '1s'\ndo = 'deploy'\n");
    let scenario = Scenario::read(&scenario, Limits::VIRTUAL).unwrap();
    let refused = simulate(&scenario, &scenario.policies[0], &[]).unwrap_err();
    assert!(refused.contains("use `lab run`"), "{refused}");
}

fn counts(measured: &Measured) -> Vec<u64> {
    measured.logged.values().copied().collect()
}

fn with(policy: &str, upstream: &str, servers: &str) -> String {
    text("p", servers, "").replace("policy = 'p'", &format!("policy = {policy}\nupstream = {{ {upstream} }}"))
}

/// Who finds a server full goes to the next. Of a server that has one request at a time and gets a of them in the time of
/// one, a/(1+a) are turned away, however long each takes (Erlang's loss formula, which holds for M/G/1/1).
#[test]
fn the_first_server_is_filled_up_before_the_next_as_theory_says() {
    let servers = "count = 8\nwork = '10ms'";
    let measured = run(&with("'first'", "max_requests = 1", servers).replace("'20s'", "'600s'"));
    let counts = counts(&measured);
    let share = counts[0] as f64 / counts.iter().sum::<u64>() as f64;
    assert!((share - 0.5).abs() < 0.01, "{share}");
    assert!(counts.windows(2).all(|pair| pair[0] >= pair[1]), "{counts:?}");
    // Nobody needs the last ones, and nobody waits.
    assert!(measured.outcomes.iter().all(|o| o.status != Some(503) && o.latency < 0.0101));
    let without = run(&with("'first'", "max_requests = 'unlimited'", servers));
    assert_eq!(without.logged[&1] as usize, without.outcomes.len());
}

/// Twice as much as there is room for: one is served, five wait, and the others are told so at once.
#[test]
fn those_who_find_no_room_wait_and_the_queue_has_its_end() {
    let servers = "count = 1\nwork = '20ms'";
    let upstream = |queue: &str| with("'round_robin'", &format!("max_requests = 1, queue = {{ {queue} }}"), servers);
    let full = run(&upstream("size = 5"));
    let refused = |measured: &Measured| measured.outcomes.iter().filter(|o| o.status == Some(503)).count() as f64;
    let share = refused(&full) / full.outcomes.len() as f64;
    assert!((0.45..0.55).contains(&share), "{share}");
    assert!(full.outcomes.iter().filter(|o| o.status == Some(503)).all(|o| o.latency == 0.0 && o.server.is_none()));
    let longest = full.outcomes.iter().map(|o| o.latency).fold(0.0, f64::max);
    assert!(longest > 0.1 && longest <= 0.12 + 1e-9, "{longest}");
    let late = run(&upstream("timeout = '50ms'"));
    assert!(refused(&late) > 500.0, "{}", refused(&late));
    for outcome in &late.outcomes {
        let is_late = outcome.status == Some(503);
        let patience = if is_late { (outcome.latency - 0.05).abs() < 1e-9 } else { outcome.latency <= 0.0701 };
        assert!(patience, "{outcome:?}");
    }
}

/// Who belongs to a server waits for it, and another's clients are served meanwhile.
#[test]
fn who_belongs_to_a_server_waits_for_that_one() {
    let servers = "count = 3\nwork = '5ms'";
    let bounded = run(&with("'ip_hash'", "max_requests = 1", servers));
    let free = run(&with("'ip_hash'", "max_requests = 100", servers));
    assert_eq!(counts(&bounded), counts(&free));
    let waited = |measured: &Measured| measured.outcomes.iter().filter(|o| o.latency > 0.0051).count();
    assert!(waited(&bounded) > 50 && waited(&free) == 0, "{}", waited(&bounded));
}

/// Until there is a session, a hash by its cookie goes by the address: so a session begins at the server of the address,
/// and its cookie names another server three times out of four.
#[test]
fn a_hash_by_the_cookie_of_a_session_loses_sessions() {
    let lost = |by: &str| {
        let text = with(&format!("{{ hash = {{ by = {by} }} }}"), "", "count = 4\nwork = '1ms'");
        let measured = run(&text.replace("users = 200", "users = 2000\naddresses = 1"));
        let lost = measured.outcomes.iter().filter(|o| o.lost).count() as f64;
        let most = measured.logged.values().max().copied().unwrap_or(0) as f64;
        (lost / measured.outcomes.len() as f64, most / measured.outcomes.len() as f64)
    };
    let (by_cookie, most) = lost("{ cookie = 'sid' }");
    // Of 2,000 visits the first of each user is a login, which is never lost.
    assert!((0.15..0.4).contains(&by_cookie) && most > 0.6, "{by_cookie} {most}");
    let (by_user, even) = lost("{ header = 'X-User' }");
    assert!(by_user == 0.0 && even < 0.3, "{by_user} {even}");
    // Logins are one path, what follows is another.
    let (by_path, _) = lost("'path'");
    assert!(by_path > 0.15, "{by_path}");
    let (by_query, most) = lost("{ query = 'user' }");
    assert!(by_query > 0.15 && most > 0.4, "{by_query} {most}");
}

/// A cookie that is learned is the session's own: whoever has lost that has no place either.
#[test]
fn a_learned_cookie_leads_to_where_the_session_is() {
    let pinned = |cookie: &str| {
        let policy = format!("{{ sticky_cookie = {{ learn = '{cookie}' }} }}");
        run(&with(&policy, "", "count = 4\nwork = '1ms'")).outcomes.iter().filter(|o| o.lost).count()
    };
    assert!(pinned("sid") == 0 && pinned("other") > 500, "{} {}", pinned("sid"), pinned("other"));
}
