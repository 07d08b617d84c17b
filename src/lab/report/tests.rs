use super::*;
use crate::lab::run::Happened;
use crate::lab::scenario::Limits;

fn scenario() -> Scenario {
    Scenario::read(
        "title = 'A <b>title</b>'\nduration = '2s'\nsessions = true\n[servers]\ncount = 2\n\
         [[group]]\nname = 'g'\nusers = 5\nrate = 10\n[[policy]]\nname = 'p & q'\npolicy = 'round_robin'\n",
        Limits::REAL,
    )
    .unwrap()
}

fn outcome(at: f64, server: Option<u32>, status: Option<u16>, lost: bool) -> Outcome {
    Outcome { at, latency: 0.01 + at / 100.0, group: 0, user: 1, server, status, lost, ..Outcome::default() }
}

/// Six requests: four on s1, one on s2, one answered by nobody.
fn measured() -> Measured {
    let outcomes = vec![
        outcome(0.0, Some(1), Some(200), false),
        outcome(0.5, Some(1), Some(401), true),
        outcome(1.0, Some(1), Some(200), false),
        outcome(1.5, Some(1), Some(500), false),
        outcome(1.6, Some(2), Some(200), false),
        outcome(1.9, None, None, false),
    ];
    Measured {
        policy: "p & q".to_owned(),
        outcomes,
        events: vec![Happened { at: 1.0, took: 0.1, what: "s1 is killed".to_owned(), problem: None }],
        logged: BTreeMap::from([(1, 4), (2, 2)]),
        ..Measured::default()
    }
}

#[test]
fn figures_are_those_worked_out_by_hand() {
    let report = Report::of(&scenario(), &[measured()]);
    let policy = &report.policies[0];
    assert_eq!((policy.requests, policy.failed, policy.sessions_lost), (6, 2, Some(1)));
    // 4 and 1: max/mean 4 / 2.5, Jain 25 / (2 · 17).
    assert_eq!(policy.max_over_mean, Some(1.6));
    assert!((policy.jain.unwrap() - 25.0 / 34.0).abs() < 1e-9);
    let [one, two] = &policy.servers[..] else { panic!("{:?}", policy.servers) };
    assert_eq!((one.requests, one.logged, one.failed), (4, 4, 1));
    assert_eq!((two.requests, two.logged, two.failed), (1, 2, 0));
    assert!((one.share - 0.8).abs() < 1e-9);
    assert!((policy.latency.p50_ms.unwrap() - 20.0).abs() < 1e-9, "the third of six");
    let over_time = &policy.over_time;
    assert_eq!(over_time.servers[0].iter().sum::<u32>(), 4);
    assert_eq!((over_time.servers[0][0], over_time.servers[0][15], over_time.sessions_lost[15]), (1, 1, 1));
    assert_eq!(over_time.failed.iter().sum::<u32>(), 2);
    assert_eq!(report.rows()[1][..4], ["p & q", "1.60", "0.735", "s1 80 %"]);
}

#[test]
fn the_page_needs_nothing_but_itself_and_escapes_names() {
    let page = html::page(&Report::of(&scenario(), &[measured()]));
    assert!(page.contains("A &lt;b&gt;title&lt;/b&gt;") && page.contains("p &amp; q"));
    for outside in ["http://", "https://", "<script", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    let picture = html::picture(&Report::of(&scenario(), &[measured()]));
    assert_eq!((picture.matches("<svg ").count(), picture.matches("</svg>").count()), (2, 2));
    for (tag, count) in [("<svg viewBox=\"0 0 3", 2), ("<svg viewBox=\"0 0 7", 3)] {
        assert_eq!(page.matches(tag).count(), count, "{tag}");
    }
}
