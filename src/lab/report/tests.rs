use super::*;
use crate::lab::run::Happened;
use crate::lab::scenario::{Each, Limits};

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

/// 4 and 1 with weights of 4 and 1 are what weights ask for; with weights of 1 and 4 the fair shares are 1 and 4.
#[test]
fn shares_by_weight_are_those_worked_out_by_hand() {
    let told = |weight: &str| {
        let mut scenario = scenario();
        scenario.policies[0].weight = Some(toml::from_str::<BTreeMap<String, Each>>(weight).unwrap()["w"].clone());
        let mut report = Report::of(&scenario, &[measured()]);
        assert!(!report.policies[0].is_even());
        report.policies.remove(0)
    };
    let fair = told("w = [4, 1]");
    assert_eq!((fair.max_over_mean, fair.jain, fair.servers[0].of_fair_share), (Some(1.0), Some(1.0), Some(1.0)));
    let wrong = told("w = [1, 4]");
    let shares: Vec<f64> = wrong.servers.iter().filter_map(|server| server.of_fair_share).collect();
    assert_eq!((wrong.max_over_mean, shares, wrong.busiest()), (Some(4.0), vec![4.0, 0.25], Some(0)));
    assert_eq!((wrong.fair(&wrong.servers[0]), wrong.fair(&wrong.servers[1])), (1.0, 4.0));
    // Loads by weight are 4 and 1/4: Jain (17/4)² / (2 · (16 + 1/16)).
    assert!((wrong.jain.unwrap() - 18.0625 / 32.125).abs() < 1e-9);
}

/// What is read is at least 4.5 times as bright as what is behind it, or the other way round, and lines are three times
/// (WCAG 2.2, success criteria 1.4.3 and 1.4.11).
#[test]
fn the_page_can_be_read_in_light_and_in_dark() {
    let (light, dark) = html::STYLE.split_once("@media").unwrap();
    for theme in [light, dark.split_once("}}").unwrap().0] {
        let luminance = |name: &str| {
            let colour = theme.split_once(&format!("--{name}:#")).unwrap().1;
            let colour = colour.split([';', '}']).next().unwrap();
            let short = colour.len() == 3;
            let part = |at: usize| {
                let hex = if short { colour[at..=at].repeat(2) } else { colour[2 * at..2 * at + 2].to_owned() };
                let part = f64::from(u8::from_str_radix(&hex, 16).unwrap()) / 255.0;
                if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * part(0) + 0.7152 * part(1) + 0.0722 * part(2)
        };
        let contrast = |a: &str, b: &str| {
            let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
            if a > b { a / b } else { b / a }
        };
        for text in ["fg", "dim", "hot"] {
            for behind in ["bg", "card"] {
                assert!(contrast(text, behind) >= 4.5, "{text} on {behind}: {}", contrast(text, behind));
            }
        }
        for line in ["bar", "hot", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"] {
            assert!(contrast(line, "card") >= 3.0, "{line}: {}", contrast(line, "card"));
        }
    }
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
