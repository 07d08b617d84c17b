use super::*;
use crate::config;
use crate::units::{parse_size, show_size};

#[test]
fn the_words_are_those_of_the_configuration() {
    let mut plan = fixture::plan();
    plan.admin.bind = Some("127.0.0.1:9191".parse().unwrap());
    let text = toml(&plan).unwrap();
    let table: ::toml::Table = text.parse().unwrap();
    assert_eq!(table["cores"].as_integer(), Some(2));
    assert_eq!(table["admin"]["bind"].as_str(), Some("127.0.0.1:9191"));
    assert_eq!(table["listener"][0]["max_header_bytes"].as_str(), Some("32KiB"));
    assert_eq!(table["listener"][0]["max_body"].as_str(), Some("unlimited"));
    assert_eq!(table["route"][0]["host"].as_str(), Some("*.example.com"));
    assert_eq!(table["route"][0]["listener"][0].as_str(), Some("main"));
    assert!(table["route"][1].get("host").is_none());
    assert_eq!(table["route"][1]["upstream"].as_str(), Some("api"));
    let shop = &table["upstream"]["shop"];
    assert_eq!(shop["policy"]["sticky_cookie"]["name"].as_str(), Some("evenkeel"));
    assert!(shop["policy"]["sticky_cookie"]["new_clients"]["least_requests"].as_table().unwrap().is_empty());
    assert_eq!(shop["check"]["http"]["path"].as_str(), Some("/healthz"));
    assert_eq!(shop["check"]["http"]["expect_status"].as_str(), Some("200-399"));
    assert_eq!(shop["pool"]["max_requests"].as_str(), Some("unlimited"));
    assert_eq!(shop["timeouts"]["request"].as_str(), Some("off"));
    assert_eq!(shop["drain"]["sessions_idle"].as_str(), Some("15m"));
    assert_eq!(table["upstream"]["api"]["check"].as_str(), Some("off"));
    assert_eq!(table["upstream"]["api"]["send_proxy"].as_str(), Some("v1"));
    assert_eq!(table["upstream"]["api"]["server"][0]["address"].as_str(), Some("unix:/run/x.sock"));
}

#[test]
fn upstreams_keep_their_order() {
    let text = toml(&fixture::plan()).unwrap();
    assert!(text.find("[upstream.shop").unwrap() < text.find("[upstream.api").unwrap(), "{text}");
}

#[test]
fn secrets_are_masked() {
    let mut plan = fixture::plan();
    plan.admin.token = Some("nor this".into());
    for text in [toml(&plan).unwrap(), json(&plan).unwrap()] {
        assert!(!text.contains("must not be seen") && !text.contains("nor this"), "{text}");
        assert_eq!(text.matches(MASK).count(), 2, "{text}");
    }
}

#[test]
fn sizes_read_back() {
    for bytes in [0, 1, 1023, 1024, 1536, 32 << 10, 1 << 20, 3 << 30, u64::MAX] {
        assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
    }
}

#[test]
fn what_is_shown_reads_back_as_the_same_plan() {
    let splits = "[[listener]]\nbind = ':1'\n[upstream.app]\nservers = ['a:1']\n[upstream.beta]\nservers = ['b:1']\n\
                  [[route]]\nsplit = [{ upstream = 'beta', weight = 5 }, { upstream = 'app', weight = 0 }]\n\
                  split_by = { cookie = { name = 'x', max_age = '36h' } }\n\
                  [[route]]\npath = '/x'\nsplit = [{ upstream = 'app' }]\nsplit_by = 'address'\n";
    for text in [include_str!("../../../config/demo.toml"), include_str!("../../../config/full.toml"), splits] {
        let mut plan = config::parse(text, "shown").unwrap().plan;
        for upstream in &mut plan.upstreams {
            // Masked keys are no keys.
            upstream.cookie_keys.clear();
        }
        let shown = toml(&plan).unwrap();
        match config::parse(&shown, "shown") {
            Ok(again) => assert_eq!(again.plan, plan, "{shown}"),
            Err(report) => panic!("{report}\n{shown}"),
        }
    }
}
