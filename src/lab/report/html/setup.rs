//! What was tried: the servers, who asked, and how.

use std::fmt::Write as _;

use super::super::Report;
use super::escape;

/// Numbers of servers in words: one that all have, a short list, or the least and the most.
fn brief(all: &[u32], show: impl Fn(u32) -> String) -> String {
    let (least, most) = (all.iter().min().copied().unwrap_or(0), all.iter().max().copied().unwrap_or(0));
    if least == most {
        show(least)
    } else if all.len() <= 16 {
        all.iter().map(|number| show(*number)).collect::<Vec<_>>().join(", ")
    } else {
        format!("{} to {}", show(least), show(most))
    }
}

pub(super) fn paragraphs(page: &mut String, report: &Report) {
    let is_long = report.policies.iter().any(|policy| policy.sockets.is_some());
    let groups: Vec<String> = report
        .groups
        .iter()
        .map(|g| {
            let behind = if g.addresses == g.users {
                "an address each".to_owned()
            } else if g.addresses == 1 {
                "one address".to_owned()
            } else {
                format!("{} addresses", g.addresses)
            };
            // Who keeps a connection comes once.
            let rate = if is_long { "come a second" } else { "requests/s" };
            format!("{}: {} users, {behind}, {} {rate}", escape(&g.name), g.users, g.rate)
        })
        .collect();
    let each = match (&report.workers, report.work_ms > 0.0) {
        (Some(workers), _) => {
            let most = |workers: u32| format!("{:.0}", f64::from(workers) * 1000.0 / report.work_ms);
            format!(
                " with {} workers of {} ms a request: {} requests/s at most each",
                brief(workers, |workers| workers.to_string()),
                report.work_ms,
                brief(workers, most)
            )
        }
        (None, true) => format!(" that take {} ms a request", report.work_ms),
        (None, false) => String::new(),
    };
    let stopped = if report.stopped { " <b>Stopped before its end.</b>" } else { "" };
    let how = if report.simulated { "worked out in virtual time by" } else { "over real sockets through" };
    let _ = writeln!(
        page,
        "<p class=\"dim\">{} servers{each}. {}. {:.0} s for each policy, open loop, seed {}, {how} evenkeel {}.{stopped}</p>",
        report.servers,
        groups.join("; "),
        report.duration_seconds,
        report.seed,
        report.version
    );
    for problem in &report.problems {
        let _ = writeln!(page, "<p><b>Not measured:</b> {}</p>", escape(problem));
    }
}
