//! Servers of unlike size, and servers that come: what the report says of shares is what the servers have logged.

use crate::{Run, arrived, counted, lab};

/// Each policy with weights of 1, 1 and 4, as many workers, and half of what they can do.
const WEIGHTS: &str = r#"
title = "Unlike servers, small"
duration = "3s"
[servers]
count = 3
weight = [1, 1, 4]
workers = [1, 1, 4]
work = "10ms"
[[group]]
name = "users"
users = 400
rate = 200
[[policy]]
name = "turns"
policy = "round_robin"
[[policy]]
name = "hash"
policy = "ip_hash"
[[policy]]
name = "turns, all alike"
policy = "round_robin"
weight = 1
"#;

/// The skew by weight is what each server has logged, divided by its share of all that was logged.
#[test]
fn shares_by_weight_are_those_that_servers_have_logged() {
    let run = lab("run", WEIGHTS);
    for (number, policy) in run.policies().iter().enumerate() {
        let weights = if number == 2 { [1.0; 3] } else { [1.0, 1.0, 4.0] };
        let logs = counted(&run.logs(number));
        let all: u64 = logs.values().sum();
        let mut most: f64 = 0.0;
        for ((server, requests), weight) in logs.iter().zip(weights) {
            let told = &policy["servers"].as_array().unwrap().iter().find(|one| one["server"] == **server).unwrap();
            assert_eq!(told["weight"].as_f64().unwrap(), weight);
            let fair = all as f64 * weight / weights.iter().sum::<f64>();
            let (by_log, told) = (*requests as f64 / fair, told["of_fair_share"].as_f64().unwrap());
            // A request that nobody waited for any more is logged and was not answered.
            assert!((by_log - told).abs() < 0.05, "{server}: {by_log} {told}");
            most = most.max(by_log);
        }
        let told = policy["max_over_mean"].as_f64().unwrap();
        assert!((told - most).abs() < 0.05, "{told} {most}");
    }
    let of = |policy: usize, server: &str| counted(&run.logs(policy))[server] as f64;
    // In turn, by weight: four times as many, but for turns that are not over on each core.
    assert!((of(0, "s3") - 4.0 * of(0, "s1")).abs() <= 16.0, "{:?}", counted(&run.logs(0)));
    assert!((of(2, "s3") - of(2, "s1")).abs() <= 4.0, "{:?}", counted(&run.logs(2)));
    // By address: 400 of them, two thirds on the big one, give or take five standard deviations.
    let share = of(1, "s3") / counted(&run.logs(1)).values().sum::<u64>() as f64;
    assert!((share - 2.0 / 3.0).abs() < 0.15, "{share}");
}

const OUT: &str = r#"
title = "Scaling out, small"
duration = "6s"
[servers]
count = 2
[[group]]
name = "users"
users = 60
rate = 120
[upstream]
slow_start = "0s"
[[event]]
at = "2s"
do = { add = 1 }
[[policy]]
name = "turns"
policy = "round_robin"
[[policy]]
name = "sticky"
policy = "sticky_cookie"
"#;

/// In turn, a new server has its share as soon as it is there; with cookies it waits for new users, and none come. Both
/// figures are looked up in what the servers have logged themselves.
#[test]
fn a_new_server_carries_its_share_when_its_log_says_so() {
    let Run { out, report, said, _dir } = lab("run", OUT);
    assert!(said.contains("NEW CARRY THEIR SHARE AFTER"), "{said}");
    let event = |policy: usize| &report["policies"][policy]["events"][0];
    let times = |policy: usize| arrived(&out.join(format!("run-{}", policy + 1)));
    for policy in 0..2 {
        assert_eq!(event(policy)["carried"]["servers"][0], "s3");
        assert!((event(policy)["carried"]["fair_share"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-9);
    }

    let after = event(0)["carried"]["after_seconds"].as_f64().unwrap();
    let logs = times(0);
    let (all, new) = (logs.values().flatten(), &logs["s3"]);
    let (first, last) = (new.iter().copied().fold(f64::MAX, f64::min), all.clone().copied().fold(0.0, f64::max));
    let began = all.copied().fold(f64::MAX, f64::min);
    // Nothing reached it before the event, and its first request came no later than the second that is told, and the
    // second of that moment itself; the first request of all is a moment after the beginning.
    let at = event(0)["at_seconds"].as_f64().unwrap();
    assert!(first - began > at - 0.5, "{} before {at}", first - began);
    let share = |from: f64, until: f64| {
        let of = |times: &[f64]| times.iter().filter(|at| (from..=until).contains(*at)).count() as f64;
        of(new) / logs.values().map(|times| of(times)).sum::<f64>().max(1.0)
    };
    // From then on a third of all is its own: it takes turns.
    let carried = share(first, last);
    assert!((carried - 1.0 / 3.0).abs() < 0.03, "{carried} since its first request");
    // The report counts by when requests were due, which a busy machine sends later: it may say less, never much more.
    let by_log = first - began - at;
    assert!(after <= by_log + 1.0, "told {after}, by its own log {by_log}");

    let sticky = times(1);
    // Whoever had a cookie kept it: only who came first after the event is new there.
    let strangers = sticky["s3"].len() as f64 / sticky.values().map(Vec::len).sum::<usize>() as f64;
    assert!(strangers < 0.2, "{strangers}");
    assert_eq!(event(1)["carried"]["after_seconds"], serde_json::Value::Null, "{}", event(1));
}
