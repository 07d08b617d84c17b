//! The README leads where it says: to its sections, and to files that are there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends so")]

use std::collections::BTreeSet;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn readme() -> String {
    std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap()
}

/// The text without blocks of code.
fn prose(readme: &str) -> String {
    readme.split("```").step_by(2).collect()
}

/// Every section, as a line of the contents.
fn sections(prose: &str) -> Vec<String> {
    let heads = prose.lines().filter_map(|line| line.strip_prefix("##"));
    heads
        .map(|head| {
            let (marks, title) = head.split_once(' ').unwrap();
            format!("{}- [{title}](#{})", "  ".repeat(marks.len()), anchor(title))
        })
        .collect()
}

/// The anchor that a heading gets where READMEs are shown.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn the_contents_list_every_section_in_its_order() {
    let prose = prose(&readme());
    let listed: Vec<_> =
        prose.lines().filter(|line| line.trim_start().starts_with("- [") && line.ends_with(')')).collect();
    let listed: Vec<_> = listed.into_iter().filter(|line| line.contains("](#")).collect();
    assert_eq!(listed, sections(&prose));
}

#[test]
fn links_lead_somewhere() {
    let prose = prose(&readme());
    let anchors: BTreeSet<_> = prose
        .lines()
        .filter(|line| line.starts_with("##"))
        .map(|line| anchor(line.trim_start_matches(['#', ' '])))
        .collect();
    for link in prose.split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0) {
        match link.strip_prefix('#') {
            Some(section) => assert!(anchors.contains(section), "there is no section #{section}"),
            None => assert!(Path::new(ROOT).join(link).exists(), "there is no {link}"),
        }
    }
}
