//! The scenarios of `config/lab`: each is right, short enough, and does what it is for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel::lab::scenario::{Limits, Scenario};
use toml::Value;

use crate::{counted, lab};

/// Each file with its text.
fn shipped() -> Vec<(PathBuf, String)> {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config/lab")).unwrap();
    let paths = files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "toml"));
    let all: Vec<_> = paths.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect();
    assert!(all.len() >= 11, "{all:?}");
    all
}

fn is_virtual(text: &str) -> bool {
    text.contains("evenkeel lab simulate")
}

/// What is planned of each, all phases of all policies, with some seconds for what has to start: below two minutes.
#[test]
fn each_can_be_read_and_takes_less_than_two_minutes() {
    for (path, text) in shipped() {
        let limits = if is_virtual(&text) { Limits::VIRTUAL } else { Limits::REAL };
        let scenario = Scenario::read(&text, limits).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let planned = scenario.planned();
        assert!(planned < Duration::from_secs(120), "{}: it takes {planned:?}", path.display());
    }
}

/// Two seconds of it with one policy, where everything happens as much earlier.
fn shortened(text: &str) -> String {
    let mut scenario: toml::Table = toml::from_str(text).unwrap();
    let seconds = |text: &str| -> f64 {
        let (number, unit) = text.split_at(text.find(char::is_alphabetic).unwrap());
        number.parse::<f64>().unwrap() * if unit == "ms" { 0.001 } else { 1.0 }
    };
    let factor = 2.0 / seconds(scenario["duration"].as_str().unwrap());
    let shorten = |table: &mut toml::Table, keys: &[&str]| {
        for key in keys {
            if let Some(Value::String(text)) = table.get_mut(*key) {
                *text = format!("{}ms", (seconds(text) * factor * 1000.0).round());
            }
        }
    };
    shorten(&mut scenario, &["duration"]);
    for key in ["event", "group"] {
        let tables = scenario.get_mut(key).and_then(Value::as_array_mut);
        tables.into_iter().flatten().for_each(|table| shorten(table.as_table_mut().unwrap(), &["at", "from", "until"]));
    }
    scenario["policy"].as_array_mut().unwrap().truncate(1);
    // The table of ways to keep sessions has a test of its own, and takes more than one policy.
    if scenario.remove("strategies").is_some() {
        scenario["policy"][0].as_table_mut().unwrap().remove("sessions");
    }
    toml::to_string(&scenario).unwrap()
}

/// Each that is for real sockets runs, and its figures are those of the servers' own logs.
#[test]
fn each_runs_and_agrees_with_the_logs_of_its_servers() {
    let real: Vec<_> = shipped().into_iter().filter(|(_, text)| !is_virtual(text)).collect();
    // They wait most of the time: three at once take no longer than one.
    std::thread::scope(|scope| {
        for some in real.chunks(real.len().div_ceil(3)) {
            scope.spawn(move || some.iter().for_each(|(path, text)| agrees(path, text)));
        }
    });
}

fn agrees(path: &Path, text: &str) {
    let run = lab("run", &shortened(text));
    let (policy, logs) = (&run.policies()[0], counted(&run.logs(0)));
    let told = path.display();
    assert!(policy["requests"].as_u64().unwrap() > 50, "{told}: {policy}");
    for server in policy["servers"].as_array().unwrap() {
        let (name, answered) = (server["server"].as_str().unwrap(), server["requests"].as_u64().unwrap());
        assert_eq!(server["logged"].as_u64().unwrap(), logs[name], "{told}: {name}");
        assert!(answered <= logs[name], "{told}: {name}: {answered} of {}", logs[name]);
    }
    let all = policy["servers"].as_array().unwrap().iter().map(|server| server["requests"].as_u64().unwrap());
    let unanswered = policy["requests"].as_u64().unwrap() - all.sum::<u64>();
    assert!(unanswered <= policy["failed"].as_u64().unwrap(), "{told}: {policy}");
}

/// The one for virtual time, with a thousandth of its million.
#[test]
fn the_million_is_worked_out() {
    let (_, text) = shipped().into_iter().find(|(_, text)| is_virtual(text)).unwrap();
    let smaller = shortened(&text).replace("30000", "300").replace("20000", "200");
    let run = lab("simulate", &smaller);
    let policy = &run.policies()[0];
    assert!(policy["requests"].as_u64().unwrap() > 500, "{policy}");
    assert_eq!(policy["servers"].as_array().unwrap().len(), 1000);
}
