//! `lab`: policies measured against each other, over real sockets.

mod replay;

use std::fs;
use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::args::{Global, LabArgs, LabRunArgs, LabVerb};
use super::console::Console;
use super::exit::{Exit, Failure};
use super::table::{Cell, Row, Style, thousands};
use crate::config;
use crate::lab::arrivals::{self, Arrival};
use crate::lab::fleet;
use crate::lab::load::Meter;
use crate::lab::report::{Report, StrategiesReport, html};
use crate::lab::run::{self, Measured};
use crate::lab::scenario::{Candidate, Kept, Limits, Scenario, Strategies, targets};
use crate::lab::simulate;
use crate::lab::strategies::{self, Comparison};

/// How often progress is told.
const PACE: Duration = Duration::from_millis(200);
/// How long a server of the user's own may take until it is connected.
const PATIENCE: Duration = Duration::from_secs(5);

/// `lab`, with a verb of its own or without.
pub(super) fn lab(args: LabArgs, global: &Global, console: &mut Console) -> Result<Exit, Failure> {
    match args.verb {
        Some(LabVerb::Run(args)) => run(&args, console),
        Some(LabVerb::Simulate(args)) => simulate(&args, console),
        Some(LabVerb::Replay(args)) => replay::replay(&args, global, console),
        Some(LabVerb::Leash { directory }) => match fleet::leash::wait(&directory) {
            Ok(()) => Ok(Exit::Ok),
            Err(error) => Err(Failure::new(Exit::Usage, error.to_string())),
        },
        None => {
            let Some(scenario) = global.config.clone() else {
                let text =
                    "say which scenario: evenkeel lab --config my.toml --target 127.0.0.1:9001, or evenkeel lab run";
                return Err(Failure::new(Exit::Usage, text));
            };
            run(&LabRunArgs { scenario, wanted: args.wanted }, console)
        }
    }
}

/// `lab simulate`: the same in virtual time.
fn simulate(args: &LabRunArgs, console: &mut Console) -> Result<Exit, Failure> {
    if !args.wanted.target.is_empty() {
        return Err(Failure::new(Exit::Usage, "nothing is sent in virtual time: --target is for lab run"));
    }
    let scenario = read(args, Limits::VIRTUAL)?;
    let arrivals = arrivals::schedule(&scenario);
    let mut measured = Vec::new();
    for candidate in &scenario.policies {
        let began = Instant::now();
        let one = simulate::simulate(&scenario, candidate, &arrivals)
            .map_err(|error| Failure::new(Exit::InvalidConfig, format!("{}: {error}", args.scenario.display())))?;
        let (name, requests, took) = (&candidate.name, one.outcomes.len(), began.elapsed().as_secs_f64());
        console.confirm(&format!("{name}: {requests} requests in {took:.1} s"))?;
        measured.push(one);
    }
    let report = Report { simulated: true, ..Report::of(&scenario, &measured) };
    let out = args.wanted.out.clone().unwrap_or_else(|| default_out(&args.scenario));
    tell(&report, &out, console)?;
    Ok(Exit::Ok)
}

/// `lab run`: a scenario against each of its policies in turn, and a report of it.
fn run(args: &LabRunArgs, console: &mut Console) -> Result<Exit, Failure> {
    let scenario = read(args, Limits::REAL)?;
    let arrivals = arrivals::schedule(&scenario);
    descriptors(&scenario, &arrivals)?;
    scenario.targets.iter().try_for_each(|target| answers(target))?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot find this program: {error}")))?;
    let out = args.wanted.out.clone().unwrap_or_else(|| default_out(&args.scenario));
    fs::create_dir_all(&out).map_err(|error| unwritten(&out, &error))?;
    let meter = Arc::new(Meter::default());
    let candidates: Vec<&Candidate> = scenario.candidates().collect();
    let place = |number: usize| out.join(format!("run-{number}"));
    // All of them before anything is measured, which a refusal would be the end of.
    (1..=candidates.len()).try_for_each(|number| renew(&place(number)))?;
    if let Some(strategies) = &scenario.strategies {
        renew_compared(&out, &scenario, strategies)?;
    }
    stop_on_signal(&meter)?;

    let mut measured: Vec<Measured> = Vec::new();
    let mut problems = Vec::new();
    let count = candidates.len();
    for (number, candidate) in (1..).zip(candidates) {
        if meter.stop.load(Relaxed) {
            break;
        }
        let (dir, told) = (place(number), format!("{number}/{count} {}", candidate.name));
        let one = one(&program, &dir, &scenario, candidate, &arrivals, &meter, &told, console);
        measured.push(one.unwrap_or_else(|problem| {
            console.note(&format!("{told}: {problem}"));
            let why = problem.lines().next().unwrap_or_default().trim_end_matches(':').to_owned();
            problems.push(format!("{}: {problem}", candidate.name));
            Measured { policy: candidate.name.clone(), not_run: Some(why), ..Measured::default() }
        }));
    }
    let mut report = Report::of(&scenario, &measured);
    if let Some(strategies) = &scenario.strategies {
        match compare(&program, &out, &scenario, strategies, &meter, console) {
            Some(comparison) => {
                report.stopped |= comparison.stopped;
                let told = |problem: &String| format!("the ways of keeping sessions: {problem}");
                problems.extend(comparison.problems.iter().map(told));
                let all = StrategiesReport::of(&scenario, strategies, &measured, &report.policies, comparison);
                report.strategies = Some(all);
            }
            None => problems.push("the ways of keeping sessions: the comparison has panicked".to_owned()),
        }
    }
    report.problems = problems;
    tell(&report, &out, console)?;
    for policy in &report.policies {
        for event in policy.events.iter().filter(|event| event.problem.is_some()) {
            let problem = event.problem.as_deref().unwrap_or_default();
            console.note(&format!("{}: \"{}\" did not work: {problem}", policy.policy, event.what));
        }
    }
    if !report.problems.is_empty() {
        let problems = report.problems.join("\n");
        return Err(Failure::new(Exit::Failure, format!("not measured (the report has the rest):\n{problems}")));
    }
    if report.stopped {
        return Err(Failure::new(
            Exit::NotMet,
            "it was stopped before its end: the report has what was seen until then",
        ));
    }
    Ok(Exit::Ok)
}

/// Makes sure that there are as many descriptors as the load and the proxy need: where they end, requests fail that no
/// policy has had.
fn descriptors(scenario: &Scenario, arrivals: &[Arrival]) -> Result<(), Failure> {
    super::descriptors::raise();
    let needed = scenario.descriptors(arrivals);
    match super::descriptors::most() {
        Some(most) if most < needed => Err(Failure::new(
            Exit::Failure,
            format!(
                "this scenario needs about {} file descriptors, and has {}: raise `ulimit -n`, or have fewer users and \
                 requests",
                thousands(needed),
                thousands(most)
            ),
        )),
        _ => Ok(()),
    }
}

/// Whether somebody listens where the load is to go.
fn answers(target: &str) -> Result<(), Failure> {
    let connected = match target.strip_prefix("unix:") {
        Some(path) => UnixStream::connect(path).map(drop),
        None => connect(target),
    };
    connected.map_err(|error| Failure::new(Exit::Failure, format!("target {target}: {}", why(&error))))
}

/// Tries each address of a name.
fn connect(target: &str) -> io::Result<()> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in target.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Why nobody could be reached, without the number that the system has for it.
fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => format!("no answer within {} s", PATIENCE.as_secs()),
        // Such as "connection refused".
        kind if error.raw_os_error().is_some() => kind.to_string(),
        _ => error.to_string(),
    }
}

/// Makes room for what processes write.
fn renew(dir: &Path) -> Result<(), Failure> {
    if !dir.exists() {
        return Ok(());
    }
    // Logs of a run before would be added to. What is somebody else's is left alone.
    if !dir.join("proxy.toml").exists() {
        return Err(unwritten(dir, &"it is there and not of a run before; choose another --out"));
    }
    fs::remove_dir_all(dir).map_err(|error| unwritten(dir, &error))
}

/// Makes room for what the comparison's processes write.
fn renew_compared(out: &Path, scenario: &Scenario, strategies: &Strategies) -> Result<(), Failure> {
    for number in 1..=scenario.policies.len() {
        renew(&out.join(format!("side-by-side-{number}")))?;
        for count in &strategies.servers {
            renew(&out.join(format!("memory-{number}-{count}")))?;
        }
    }
    Ok(())
}

/// The ways of keeping sessions, beside what the runs under load have shown; none where it has panicked.
fn compare(
    program: &Path,
    out: &Path,
    scenario: &Scenario,
    strategies: &Strategies,
    meter: &Arc<Meter>,
    console: &mut Console,
) -> Option<Comparison> {
    let (told, steps) = std::sync::mpsc::channel::<String>();
    std::thread::scope(|scope| {
        let measuring = scope.spawn(move || {
            let tell = |step: &str| _ = told.send(step.to_owned());
            strategies::measure(program, out, scenario, strategies, meter, &tell)
        });
        // Ends when that does.
        for step in steps {
            // Nobody who listens is no reason to lose what is measured.
            let _ = console.confirm(&step);
        }
        measuring.join().ok()
    })
}

fn unwritten(what: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, format!("cannot write {}: {error}", what.display()))
}

/// Writes the report and shows its table.
fn tell(report: &Report, out: &Path, console: &mut Console) -> Result<(), Failure> {
    fs::create_dir_all(out).map_err(|error| unwritten(out, &error))?;
    let (json, page) = (out.join("report.json"), out.join("report.html"));
    let text = serde_json::to_string_pretty(report).map_err(|error| unwritten(&json, &error))?;
    fs::write(&json, text + "\n").map_err(|error| unwritten(&json, &error))?;
    fs::write(&page, html::page(report)).map_err(|error| unwritten(&page, &error))?;
    let picture = out.join("load.svg");
    fs::write(&picture, html::picture(report)).map_err(|error| unwritten(&picture, &error))?;
    if console.json {
        console.json_line(report)?;
    } else {
        show(report, console)?;
        console.confirm(&format!("report: {}\nfigures: {}", page.display(), json.display()))?;
    }
    Ok(())
}

/// The scenario with the policies that are wanted, each of which makes a configuration that is right.
fn read(args: &LabRunArgs, limits: Limits) -> Result<Scenario, Failure> {
    let name = args.scenario.display();
    let text = fs::read_to_string(&args.scenario)
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot read the scenario {name}: {error}")))?;
    let wrong = |error: String| Failure::new(Exit::InvalidConfig, format!("{name}: {}", error.trim_end()));
    targets::check(&args.wanted.target).map_err(|error| Failure::new(Exit::Usage, format!("--target {error}")))?;
    let mut scenario = Scenario::read_for(&text, &args.wanted.target, limits).map_err(wrong)?;
    if let Some(seed) = args.wanted.seed {
        scenario.seed = seed;
    }
    if !args.wanted.policy.is_empty() {
        let names: Vec<String> = scenario.policies.iter().map(|p| p.name.clone()).collect();
        if let Some(unknown) = args.wanted.policy.iter().find(|policy| !names.contains(policy)) {
            let names = names.join("\", \"");
            return Err(Failure::new(
                Exit::Usage,
                format!("there is no policy \"{unknown}\" in it; there is \"{names}\""),
            ));
        }
        // What others are compared with stays.
        let compares = scenario.strategies.is_some();
        let baseline = |policy: &Candidate| compares && policy.sessions == Some(Kept::None);
        scenario.policies.retain(|policy| args.wanted.policy.contains(&policy.name) || baseline(policy));
    }
    for candidate in &scenario.policies {
        let own = scenario.targets.iter().cloned();
        let addresses = own.chain(scenario.targets.is_empty().then(|| "127.0.0.1:1".to_owned()));
        let servers: Vec<(String, String)> =
            (1..).zip(addresses).map(|(n, at): (u32, _)| (format!("s{n}"), at)).collect();
        let text = fleet::configuration(&scenario, candidate, &servers);
        if let Err(report) = config::parse(&text, &format!("the configuration for \"{}\"", candidate.name)) {
            return Err(wrong(format!("policy \"{}\" makes a configuration that is wrong:\n{report}", candidate.name)));
        }
    }
    Ok(scenario)
}

fn default_out(scenario: &Path) -> PathBuf {
    let stem = scenario.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    PathBuf::from(format!("evenkeel-lab-{stem}"))
}

/// Ctrl-C, TERM and a terminal that goes end the load; the report is written all the same. A second one ends everything.
fn stop_on_signal(meter: &Arc<Meter>) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let fail = |error: io::Error| Failure::new(Exit::Failure, format!("cannot wait for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
    let guard = runtime.enter();
    let mut term = signal(SignalKind::terminate()).map_err(fail)?;
    let mut int = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(fail)?;
    drop(guard);
    let meter = Arc::clone(meter);
    std::thread::spawn(move || {
        runtime.block_on(async {
            for _ in 0..2 {
                let second = meter.stop.load(Relaxed);
                let signal = tokio::select! {
                    _ = term.recv() => Signal::TERM,
                    _ = int.recv() => Signal::INT,
                    _ = hangup.recv() => Signal::HUP,
                };
                if second {
                    fleet::end_all();
                    std::process::exit(128 + signal.as_raw());
                }
                meter.stop.store(true, Relaxed);
            }
        });
    });
    Ok(())
}

/// One policy, with its progress told meanwhile.
#[expect(clippy::too_many_arguments, reason = "all of them are the run's, and each is used once")]
fn one(
    program: &Path,
    dir: &Path,
    scenario: &Scenario,
    candidate: &Candidate,
    arrivals: &[Arrival],
    meter: &Arc<Meter>,
    place: &str,
    console: &mut Console,
) -> Result<Measured, String> {
    let (sent, failed) = (meter.sent.load(Relaxed), meter.failed.load(Relaxed));
    let measured = std::thread::scope(|scope| {
        let running = scope.spawn(|| run::run(program, dir, scenario, candidate, arrivals, meter));
        let began = Instant::now();
        let mut told = Instant::now();
        while !running.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            if console.live && told.elapsed() >= PACE {
                told = Instant::now();
                let (sent, failed) = (meter.sent.load(Relaxed) - sent, meter.failed.load(Relaxed) - failed);
                let _ = console.refresh(&format!("{place} {} {failed} failed", bar(sent, arrivals.len())));
            }
        }
        running.join().map(|measured| (measured, began.elapsed()))
    });
    let (measured, took) = measured.map_err(|_| "the run has panicked".to_owned())?;
    let measured = measured.map_err(|error| error.to_string())?;
    let _ = console.confirm(&format!("{place}: {} requests in {:.1} s", measured.outcomes.len(), took.as_secs_f64()));
    Ok(measured)
}

/// How much of it is done.
fn bar(done: usize, all: usize) -> String {
    const WIDE: usize = 30;
    let full = done * WIDE / all.max(1);
    format!("[{}{}] {done}/{all}", "#".repeat(full), " ".repeat(WIDE.saturating_sub(full)))
}

fn show(report: &Report, console: &mut Console) -> Result<(), Failure> {
    table(&report.rows(), console)?;
    for line in report.legend() {
        console.write(format!("{}\n", Style::Dim.paint(line, console.color)).as_bytes())?;
    }
    for warning in &report.warnings {
        console.write(format!("{}\n", Style::Warn.paint(warning, console.color)).as_bytes())?;
    }
    for rows in [report.event_rows(), report.cache_rows(), report.socket_rows()].into_iter().flatten() {
        console.write(b"\n")?;
        table(&rows, console)?;
    }
    if let Some(strategies) = &report.strategies {
        console.write(b"\n")?;
        table(&strategies.rows(), console)?;
        for note in strategies.notes() {
            console.write(format!("{note}\n").as_bytes())?;
        }
    }
    Ok(())
}

fn table(rows: &[Vec<String>], console: &mut Console) -> Result<(), Failure> {
    let cell = |(column, text): (usize, &String), head: bool| {
        let style = if head { Style::Bold } else { Style::Plain };
        if column == 0 { Cell::word(text, style) } else { Cell::number(text).styled(style) }
    };
    let rows: Vec<Row> = rows
        .iter()
        .enumerate()
        .map(|(n, row)| Row::Cells(row.iter().enumerate().map(|c| cell(c, n == 0)).collect()))
        .collect();
    let color = console.color;
    console.write(super::table::render(&rows, "", color).as_bytes())
}
