//! The pages, in headless Chromium where that is installed: each kind has its charts, says nothing to the console, asks
//! nobody for anything, and can be read in light and in dark. Those of sessions, caches and long connections are opened
//! where they are made.

use std::path::{Path, PathBuf};

use crate::harness::browser::{Theme, browse, look};
use crate::harness::{self, command};
use crate::runs::SCENARIO;
use crate::{Run, lab};

/// Opens a page; its elements. None where there is no Chromium.
#[track_caller]
pub(crate) fn open(page: &Path, labels: &[&str]) -> Option<String> {
    let profile = page.with_extension("profile");
    let (dom, told) = browse(page, &profile)?;
    // Its own policy turns every request into an error of the console.
    assert_eq!(told, "");
    for label in labels {
        assert!(dom.contains(&format!("aria-label=\"{label}\"")), "{label}: {dom}");
    }
    // Every chart has something in it.
    for chart in dom.split("<svg ").skip(1).filter(|chart| chart.contains("role=\"img\"")) {
        let chart = chart.split("</svg>").next().unwrap();
        let shapes = chart.matches("<rect class=").count() + chart.matches("<path class=").count();
        assert!(shapes > 0 && chart.contains("class=\"tick\""), "an empty chart: {chart}");
        assert!(!chart.contains("NaN") && !chart.contains("inf"), "{chart}");
    }
    let [light, dark] = [Theme::Light, Theme::Dark].map(|theme| look(page, &profile, theme).unwrap());
    assert!(light > 200.0 && dark < 60.0, "light and dark: {light} {dark}");
    Some(dom)
}

fn page(run: &Run) -> PathBuf {
    run.out.join("report.html")
}

#[test]
fn of_load_and_events() {
    let run = lab("run", &(SCENARIO.to_owned() + "[[event]]\nat = \"2s\"\ndo = { add = 1 }\n"));
    let page = page(&run);
    let labels =
        ["sticky: requests by server", "hash: requests a second by server, over time", "Sessions lost over time"];
    let Some(dom) = open(&page, &labels) else { return };
    assert!(dom.matches("role=\"img\"").count() >= 6, "{dom}");
    assert_eq!(dom.matches("<rect class=").count(), 2 * 4, "a bar for each server and policy");
    assert_eq!(dom.matches("<td>s2 is killed").count(), 2, "{dom}");
    // This test sees what it is looking for.
    let text = std::fs::read_to_string(&page).unwrap();
    std::fs::write(&page, text.replace("</main>", "<img src=\"http://127.0.0.1:9/x.png\"></main>")).unwrap();
    let (_, told) = browse(&page, &page.with_extension("profile")).unwrap();
    assert!(told.contains("Content Security Policy") || told.contains("violates"), "{told}");
}

#[test]
fn of_virtual_time() {
    let run = lab("simulate", &SCENARIO.replace("count = 3", "count = 3\nweight = [1, 2, 3]"));
    let Some(dom) = open(&page(&run), &["Distribution of latency by policy"]) else { return };
    // A bar chart and a line chart for each of two policies, latencies, sessions lost; nothing has failed.
    assert_eq!(dom.matches("role=\"img\"").count(), 6, "{dom}");
    assert_eq!(dom.matches("<rect class=").count(), 2 * 3, "a bar for each server and policy");
    assert!(dom.contains("its fair share is") && dom.contains("by a weight of 3"), "{dom}");
}

#[test]
fn of_the_replay_of_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, out) = (dir.path().join("access.log"), dir.path().join("out"));
    let line = |n: u32| {
        let client = if n.is_multiple_of(2) { "198.51.100.7".to_owned() } else { format!("203.0.113.{}", n % 200) };
        format!("{client} - - [21/Nov/2026:20:{:02}:{:02} +0000] \"GET / HTTP/1.1\" 200 6\n", n / 60, n % 60)
    };
    let text: String = (0..900).map(line).chain(["no <b>line</b> of a log\n".to_owned()]).collect();
    std::fs::write(&log, text).unwrap();
    let args = ["lab", "replay", log.to_str().unwrap(), "--servers", "6", "--out", out.to_str().unwrap()];
    harness::run(&mut command(&args)).ends(0);
    let labels = ["round_robin: requests by server", "ip_hash, max_load 1.25: requests by server"];
    let Some(dom) = open(&out.join("report.html"), &labels) else { return };
    assert_eq!(dom.matches("role=\"img\"").count(), 5, "a chart for each policy");
    assert_eq!(dom.matches("<rect class=").count(), 5 * 6, "a bar for each server");
    assert!(dom.contains("<td>198.51.100.7") && dom.contains("no &lt;b&gt;line&lt;/b&gt;"), "{dom}");
}
