//! What is measured of live traffic goes along when another process takes over.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use std::time::Duration;

use evenkeel::balance::litmus::Group;
use evenkeel::balance::split::User;
use evenkeel::control::api::{HotKeyStatus, LitmusStatus, UpstreamStatus};

use crate::harness::upgrading::Upgrading;
use crate::harness::{Client, Crowd, eventually, origins, upstream};

const OFFICE: [u8; 4] = [127, 7, 7, 7];

fn app(evenkeel: &Upgrading) -> UpstreamStatus {
    evenkeel.status().upstreams[0].clone()
}

fn user(evenkeel: &Upgrading, number: u64) -> Client {
    evenkeel.client().with("cookie", &format!("evenkeel_litmus={number:016x}"))
}

fn ask(client: &mut Client) -> String {
    client.get("/count").server().to_owned()
}

/// In an order of its own: which core has told of something is nobody's business.
fn sorted(mut litmus: LitmusStatus) -> LitmusStatus {
    litmus.evidence.sort_by_key(|evidence| format!("{evidence:?}"));
    litmus
}

#[test]
fn litmus_and_shadows_go_on() {
    let origins = origins(3);
    let more = "litmus = { percent = 50, cookies = [\"sid\"] }\nshadow = [\"ip_hash\", \"sticky_cookie\"]\n";
    let config = |cores: usize| format!("cores = {cores}\n{}", upstream("app", "\"round_robin\"", more, &origins));
    let evenkeel = Upgrading::start(&config(2));
    let numbers = |group| (1..).filter(move |n| Group::of(User::of_number(*n), 50) == Some(group)).take(6);
    // Nobody is logged in: whoever is in part has a symptom.
    let mut last = Vec::new();
    for group in Group::ALL {
        for number in numbers(group) {
            let mut client = user(&evenkeel, number);
            last.push((number, group, (0..4).map(|_| ask(&mut client)).last().unwrap()));
        }
    }
    evenkeel.client().get("/count");
    for cores in [1, 3] {
        let before = app(&evenkeel);
        let litmus = before.litmus.clone().unwrap();
        assert!(
            litmus.shuffled.users == 6 && litmus.control.users == 6 && litmus.shuffled.requests >= 18,
            "{litmus:?}"
        );
        assert!(litmus.cookie.as_ref().unwrap().set == 1 && !litmus.evidence.is_empty(), "{litmus:?}");
        evenkeel.write(&config(cores));
        evenkeel.upgrade();
        let after = app(&evenkeel);
        let (was, is) = (sorted(litmus), sorted(after.litmus.unwrap()));
        // With fewer cores there is room for less of what gave it away.
        assert!(is.evidence.iter().all(|evidence| was.evidence.contains(evidence)) && !is.evidence.is_empty());
        assert_eq!(LitmusStatus { evidence: Vec::new(), ..was.clone() }, LitmusStatus { evidence: Vec::new(), ..is });

        let (mut shadow, mut now) = (before.shadow.unwrap(), after.shadow.unwrap());
        assert!(now.seconds >= shadow.seconds, "{now:?}");
        (shadow.seconds, now.seconds) = (0.0, 0.0);
        assert!(shadow.clients == 1 && shadow.policies.iter().all(|policy| policy.requests >= 49), "{shadow:?}");
        assert_eq!(now, shadow);
        let of = |skew: &Option<evenkeel::control::api::SkewStatus>| skew.as_ref().unwrap().requests;
        assert_eq!(of(&after.skew), of(&before.skew));
        let asked = now.policies[1].requests as f64;
        assert_eq!(evenkeel.metric("evenkeel_shadow_requests_total", &["policy=\"ip_hash\""]), asked);

        // Who was somewhere is not there again, or is: and that counts.
        let counted = was.shuffled.requests + was.control.requests;
        for (number, group, last) in &mut last {
            let now = ask(&mut user(&evenkeel, *number));
            assert_eq!(now == *last, *group == Group::Control, "{number}: {last}, {now}");
            *last = now;
        }
        let litmus = app(&evenkeel).litmus.unwrap();
        assert_eq!(litmus.shuffled.requests + litmus.control.requests, counted + 12);
        assert_eq!(litmus.shuffled.users + litmus.control.users, 12);
        evenkeel.alone();
    }
    // Another experiment is not the same one.
    evenkeel.write(&config(2).replace("percent = 50", "percent = 40"));
    evenkeel.upgrade();
    assert_eq!(app(&evenkeel).litmus.unwrap().shuffled.users, 0);
}

#[test]
fn an_address_that_is_spread_stays_so() {
    let origins = origins(3);
    origins.iter().for_each(|origin| origin.behave(|b| b.delay = Duration::from_millis(10)));
    let policy = "{ ip_hash = { max_load = 1.25, hot_keys = \"spread\" } }";
    let evenkeel = Upgrading::start(&format!("cores = 2\n{}", upstream("app", policy, "", &origins)));
    let crowd = Crowd::following((0..24).map(|_| evenkeel.client().from(OFFICE)).collect());
    let spread = || -> Option<HotKeyStatus> {
        app(&evenkeel).hot_keys.into_iter().find(|hot| hot.key == "127.7.7.7" && hot.spread)
    };
    // A machine that stalls for longer than what counts as lately forgets it.
    let mut attempts = 0..3;
    loop {
        attempts.next().expect("three attempts are enough");
        let before = eventually("the office is spread", || spread().filter(|hot| hot.seconds > 1.0));
        evenkeel.upgrade();
        // At once: whoever begins anew has to look twice, a second apart.
        if let Some(after) = spread().filter(|after| after.seconds >= before.seconds) {
            assert_eq!(after.server, before.server);
            break;
        }
        evenkeel.alone();
    }
    // Its server has got no hotter: it was named once.
    assert_eq!(evenkeel.process.err().matches("a hot address: it makes").count(), 1);
    drop(crowd);
}
