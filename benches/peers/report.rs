//! What was measured, as a table for people and as JSON.

use std::error::Error;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::proxy::Kind;
use crate::scenario::{Budget, Scenario, Unit, Use};

/// One measurement of one scenario for one proxy.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    /// Microseconds of processor time per unit; KiB for memory.
    cost: f64,
    /// Units per second.
    rate: f64,
    error: Option<String>,
}

impl Cell {
    pub(crate) fn measured(cost: f64, rate: f64) -> Self {
        Self { cost, rate, error: None }
    }

    pub(crate) fn failed(error: &dyn Error) -> Self {
        Self { cost: f64::NAN, rate: f64::NAN, error: Some(error.to_string()) }
    }
}

/// Everything that was measured: rounds by scenario and proxy.
#[derive(Debug)]
pub(crate) struct Table {
    proxies: Vec<Kind>,
    rows: Vec<(&'static Scenario, Vec<Vec<Cell>>)>,
}

impl Table {
    pub(crate) fn new(proxies: &[Kind], scenarios: &[&'static Scenario]) -> Self {
        let rows = scenarios.iter().map(|scenario| (*scenario, vec![Vec::new(); proxies.len()])).collect();
        Self { proxies: proxies.to_vec(), rows }
    }

    pub(crate) fn add(&mut self, proxy: usize, scenario: &Scenario, cell: Cell) {
        if let Some((_, cells)) = self.rows.iter_mut().find(|(row, _)| row.name == scenario.name) {
            cells[proxy].push(cell);
        }
    }

    pub(crate) fn has_failures(&self) -> bool {
        self.rows.iter().flat_map(|(_, cells)| cells.iter().flatten()).any(|cell| cell.error.is_some())
    }

    /// The median cost and rate of each proxy; none where a round failed.
    fn medians(&self, cells: &[Vec<Cell>]) -> Vec<(Kind, Option<(f64, f64)>)> {
        let of = |rounds: &[Cell]| {
            let whole = !rounds.is_empty() && rounds.iter().all(|cell| cell.error.is_none());
            whole.then(|| (median(rounds.iter().map(|c| c.cost)), median(rounds.iter().map(|c| c.rate))))
        };
        self.proxies.iter().zip(cells).map(|(kind, rounds)| (*kind, of(rounds))).collect()
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(scenario, cells)| {
            let medians = self.medians(cells);
            let verdict = Verdict::of(scenario, &medians);
            let proxies = medians.iter().zip(cells).map(|((kind, median), rounds)| {
                let value = json!({
                    "median": median.map(|(cost, _)| cost),
                    "per_second": median.map(|(_, rate)| rate),
                    "rounds": rounds.iter().map(|cell| cell.cost).collect::<Vec<_>>(),
                    "errors": rounds.iter().filter_map(|cell| cell.error.as_deref()).collect::<Vec<_>>(),
                });
                (kind.to_string(), value)
            });
            json!({
                "scenario": scenario.name,
                "unit": unit(scenario),
                "proxies": proxies.collect::<serde_json::Map<_, _>>(),
                "ratio": verdict.ratio,
                "met": verdict.met,
            })
        });
        Value::Array(rows.collect())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut header = vec!["scenario".to_owned(), "unit".to_owned()];
        header.extend(self.proxies.iter().map(ToString::to_string));
        header.extend(["ratio", "budget", ""].map(str::to_owned));
        header.extend(self.proxies.iter().map(|kind| format!("{kind}/s")));
        let mut lines = vec![header];
        for (scenario, cells) in &self.rows {
            let medians = self.medians(cells);
            let verdict = Verdict::of(scenario, &medians);
            let mut line = vec![scenario.title.to_owned(), unit(scenario)];
            line.extend(medians.iter().map(|(_, m)| m.map_or("failed".to_owned(), |(cost, _)| short(cost))));
            line.push(verdict.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
            line.push(match scenario.budget {
                Budget::OfBestPeer(most) => format!("{most:.2}"),
                Budget::Kibibytes(most) => format!("{most:.0} KiB"),
            });
            line.push(verdict.met.map_or("-", |met| if met { "met" } else { "missed" }).to_owned());
            let no_rate = scenario.using == Use::Idle;
            line.extend(medians.iter().map(|(_, m)| match m {
                Some((_, rate)) if !no_rate => format!("{rate:.0}"),
                _ => "-".to_owned(),
            }));
            lines.push(line);
        }
        write_aligned(f, &lines)?;
        for (scenario, cells) in &self.rows {
            for (kind, rounds) in self.proxies.iter().zip(cells) {
                if let Some(error) = rounds.iter().find_map(|cell| cell.error.as_deref()) {
                    writeln!(f, "failed: {}, {kind}: {error}", scenario.name)?;
                }
            }
        }
        Ok(())
    }
}

/// Markdown, with columns that line up where it is read as text.
fn write_aligned(f: &mut fmt::Formatter<'_>, lines: &[Vec<String>]) -> fmt::Result {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0).max(3))
        .collect();
    for (row, line) in lines.iter().enumerate() {
        for (column, (text, width)) in line.iter().zip(&widths).enumerate() {
            if column < 2 { write!(f, "| {text:<width$} ")? } else { write!(f, "| {text:>width$} ")? }
        }
        writeln!(f, "|")?;
        if row == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(width + 1);
                if column < 2 { write!(f, "|{dashes}-")? } else { write!(f, "|{dashes}:")? }
            }
            writeln!(f, "|")?;
        }
    }
    Ok(())
}

fn unit(scenario: &Scenario) -> String {
    match scenario.unit {
        Unit::Exchange(what) => format!("µs per {what}"),
        Unit::MebibyteDown => "µs per MiB".to_owned(),
        Unit::Connection => "KiB each".to_owned(),
    }
}

fn short(cost: f64) -> String {
    if cost < 100.0 { format!("{cost:.1}") } else { format!("{cost:.0}") }
}

/// How evenkeel stands to the better peer; none where one of them is missing or failed.
struct Verdict {
    ratio: Option<f64>,
    met: Option<bool>,
}

impl Verdict {
    fn of(scenario: &Scenario, medians: &[(Kind, Option<(f64, f64)>)]) -> Self {
        let cost = |wanted: bool| {
            let costs = medians.iter().filter(move |(kind, _)| (*kind == Kind::Evenkeel) == wanted);
            costs.filter_map(|(_, median)| median.map(|(cost, _)| cost)).min_by(f64::total_cmp)
        };
        let own = cost(true);
        let ratio = own.zip(cost(false)).map(|(own, peer)| own / peer);
        let met = match scenario.budget {
            // What the table shows is what counts: 1.004 is shown and taken as 1.00.
            Budget::OfBestPeer(most) => ratio.map(|ratio| (ratio * 100.0).round() <= (most * 100.0).round()),
            Budget::Kibibytes(most) => own.map(|own| own <= most),
        };
        Self { ratio, met }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The day, the machine and the versions: numbers mean nothing without them.
pub(crate) fn machine(proxies: &[Kind], evenkeel: &Path) -> String {
    let first_line = |mut command: Command| {
        let output = command.output().ok()?;
        // nginx tells its version on standard error.
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        Some(String::from_utf8_lossy(&text).lines().next()?.trim().to_owned())
    };
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments);
        first_line(command).unwrap_or_default()
    };
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let mut text = format!("{}, {model}, {}\n", run("date", &["-u", "+%F"]), run("uname", &["-sr"]));
    for kind in proxies {
        let version = first_line(kind.version_command(evenkeel)).unwrap_or_else(|| "unknown version".to_owned());
        text += &format!("{kind}: {version}\n");
    }
    text.push('\n');
    text
}
