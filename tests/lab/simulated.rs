//! The same arrivals in virtual time and over real sockets.

use serde_json::Value;

use crate::lab;

/// Servers without a limit: nothing that was left out of the simulation matters. Below is every policy that both can do.
const ALIKE: &str = r#"
title = "The same twice"
duration = "1s"
[servers]
count = 3
work = "5ms"
[[group]]
name = "office"
users = 20
addresses = 1
rate = 180
[[group]]
name = "homes"
users = 200
rate = 180
"#;

/// What follows from who asks, and what takes turns or lots.
const BY_WHOM: &str = r#"
[[policy]]
name = "ip_hash"
policy = "ip_hash"
[[policy]]
name = "hash"
policy = { hash = { by = { header = "X-User" } } }
[[policy]]
name = "first"
policy = "first"
[[policy]]
name = "round_robin"
policy = "round_robin"
[[policy]]
name = "shuffle"
policy = "shuffle"
[[policy]]
name = "sticky_cookie"
policy = "sticky_cookie"
"#;

/// What goes by how busy servers are.
const BY_LOAD: &str = r#"
[[policy]]
name = "least_requests"
policy = "least_requests"
[[policy]]
name = "random_two"
policy = "random_two"
[[policy]]
name = "peak_ewma"
policy = "peak_ewma"
[[policy]]
name = "ip_hash, max_load"
policy = { ip_hash = { max_load = 1.5 } }
[[policy]]
name = "ip_hash, spread"
policy = { ip_hash = { max_load = 1.5, hot_keys = "spread" } }
"#;

fn loads(policy: &Value) -> Vec<f64> {
    policy["servers"].as_array().unwrap().iter().map(|server| server["requests"].as_f64().unwrap()).collect()
}

#[test]
fn a_simulation_agrees_with_a_run_where_who_asks_decides() {
    agree(BY_WHOM);
}

/// Who has logged in has another key than before, and a server may have one request at a time. How many sessions are lost
/// goes by which servers their cookies happen to name, and how many requests the first server gets by how long they take.
#[test]
fn a_simulation_agrees_with_a_run_where_answers_and_limits_decide() {
    let text = "title = 'The same twice'\nduration = '2s'\nsessions = true\n[servers]\ncount = 3\nwork = '5ms'\n\
                [[group]]\nname = 'office'\nusers = 60\naddresses = 1\nrate = 150\n\
                [[policy]]\nname = 'cookie'\npolicy = { hash = { by = { cookie = 'sid' } } }\n\
                [[policy]]\nname = 'user'\npolicy = { hash = { by = { header = 'X-User' } } }\n\
                [[policy]]\nname = 'first'\npolicy = 'first'\nupstream = { max_requests = 1 }\n";
    let [real, simulated] = ["run", "simulate"].map(|verb| lab(verb, text));
    let (real, simulated) = (real.policies(), simulated.policies());
    let lost = |policy: &Value| policy["sessions_lost"].as_f64().unwrap();
    let skew = |policy: &Value| policy["max_over_mean"].as_f64().unwrap();
    // Each user loses two sessions until a cookie names the server of the address, one more or less.
    for policy in [&real[0], &simulated[0]] {
        assert!((40.0..=220.0).contains(&lost(policy)), "{policy}");
        assert!((1.2..2.9).contains(&skew(policy)), "{policy}");
    }
    assert_eq!((lost(&real[1]), lost(&simulated[1])), (0.0, 0.0));
    assert_eq!(loads(&real[1]), loads(&simulated[1]));
    for policy in [&real[2], &simulated[2]] {
        let loads = loads(policy);
        // As few as the load needs: without the limit the first would have all of it.
        assert!(skew(policy) < 2.5 && loads[1] > 0.0 && loads[2] > 0.0, "{loads:?}");
        assert_eq!(policy["failed"], 0);
    }
}

#[test]
fn a_simulation_agrees_with_a_run_where_load_decides() {
    agree(BY_LOAD);
}

/// What follows from who asks is the same to the request; what is drawn by lot is the same but for chance; what goes by
/// how busy servers are is between what it must not be worse than.
fn agree(policies: &str) {
    let [real, simulated] = ["run", "simulate"].map(|verb| lab(verb, &format!("{ALIKE}{policies}")));
    assert_eq!((&real.report["simulated"], &simulated.report["simulated"]), (&false.into(), &true.into()));
    let skew = |policy: &Value| policy["max_over_mean"].as_f64().unwrap();
    let by_address = lab("simulate", &format!("{ALIKE}[[policy]]\nname = 'p'\npolicy = 'ip_hash'\n"));
    let by_address = skew(&by_address.policies()[0]);
    assert!(by_address > 1.4, "{by_address}");
    for (real, simulated) in real.policies().iter().zip(simulated.policies()) {
        let name = real["policy"].as_str().unwrap();
        assert_eq!((name, &real["requests"]), (simulated["policy"].as_str().unwrap(), &simulated["requests"]));
        let all = real["requests"].as_f64().unwrap();
        // Two counts of that many, each drawn with a chance of one third: five standard deviations of their difference.
        let chance = 5.0 * (2.0 * all * (1.0 / 3.0) * (2.0 / 3.0)).sqrt();
        for (real, simulated) in loads(real).iter().zip(loads(simulated)) {
            let apart = (real - simulated).abs();
            match name {
                "ip_hash" | "hash" | "first" => assert!(apart < 0.5, "{name}: {real} {simulated}"),
                // Of each core's turns the last may be unfinished.
                "round_robin" => assert!(apart <= 4.0, "{name}: {real} {simulated}"),
                // Users keep the server that was drawn for them: of 220, and they ask unlike often.
                "sticky_cookie" => assert!(apart < 2.0 * chance, "{name}: {real} {simulated}"),
                "shuffle" | "random_two" | "least_requests" => assert!(apart < chance, "{name}: {real} {simulated}"),
                // These go by how long requests take and how many there are, which a busy machine changes.
                _ => assert!(*real > 0.0 && simulated > 0.0, "{name}: {real} {simulated}"),
            }
        }
        if name.starts_with("ip_hash, ") {
            // A bound takes something away from the office's server, and how much goes by what is in flight.
            assert!(skew(real) <= by_address && skew(simulated) <= by_address, "{real} {simulated}");
        }
    }
}

/// One worker each, hashed by address: each server gets the same requests in both, one after the other.
///
/// Nothing real is faster than the queue that it is: a request is sent when it is due or later, a worker takes its time
/// or more, and who waits in a queue waits for all before. So no latency over real sockets is below that in virtual time,
/// however fast or slow the machine; how far above it is says something about the machine alone. What virtual time says
/// is held to theory where it is worked out.
#[test]
fn no_real_server_is_faster_than_its_queue() {
    let text = "title = 'Queues'\nduration = '4s'\n[servers]\ncount = 2\nworkers = 1\nwork = '10ms'\n\
                [[group]]\nname = 'users'\nusers = 200\nrate = 130\n[[policy]]\nname = 'hash'\npolicy = 'ip_hash'\n";
    let [real, simulated] = ["run", "simulate"].map(|verb| lab(verb, text));
    let (real, simulated) = (&real.policies()[0], &simulated.policies()[0]);
    assert_eq!(loads(real), loads(simulated));
    for figure in ["p50_ms", "p90_ms", "p99_ms", "max_ms"] {
        let [real, simulated] = [real, simulated].map(|policy| policy["latency"][figure].as_f64().unwrap());
        // Two users who are due within a moment may arrive the other way round, and a timer has milliseconds.
        assert!(real > simulated - 2.0, "{figure}: {real} {simulated}");
    }
}
