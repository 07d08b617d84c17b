//! How evenly each policy spreads an office behind one address: the NAT hot spot, in virtual time.
//!
//! `cargo bench --bench skew`. The arrivals are those of `config/lab/nat-hotspot.toml`; over real sockets it is
//! `evenkeel lab run config/lab/nat-hotspot.toml`.

use evenkeel::lab::arrivals::schedule;
use evenkeel::lab::report::Report;
use evenkeel::lab::scenario::{Candidate, Limits, Scenario};
use evenkeel::lab::simulate::simulate;

/// Beside those of the scenario.
const OTHERS: [&str; 3] = ["random_two", "peak_ewma", "first"];

fn main() -> Result<(), String> {
    let text = include_str!("../config/lab/nat-hotspot.toml");
    let mut scenario = Scenario::read(text, Limits::VIRTUAL)?;
    scenario.policies.extend(OTHERS.map(|name| Candidate {
        name: name.to_owned(),
        policy: name.into(),
        weight: None,
        sessions: None,
        cache: None,
        upstream: toml::Table::new(),
    }));
    let arrivals = schedule(&scenario);
    let measured: Result<Vec<_>, String> =
        scenario.policies.iter().map(|policy| simulate(&scenario, policy, &arrivals)).collect();
    let rows = Report::of(&scenario, &measured?).rows();
    let widths: Vec<usize> =
        (0..rows[0].len()).map(|n| rows.iter().map(|row| row[n].len()).max().unwrap_or(0)).collect();
    for row in &rows {
        let name = format!("{:<1$}", row[0], widths[0]);
        let figures: Vec<String> =
            row.iter().zip(&widths).skip(1).map(|(text, width)| format!("{text:>0$}", *width)).collect();
        println!("{name}  {}", figures.join("  "));
    }
    Ok(())
}
