//! evenkeel, nginx and HAProxy side by side: processor time per unit of work.
//!
//! One process holds the load and the servers and is pinned to one processor; each proxy has one
//! worker, pinned to another. All proxies run throughout; measurements go round them in turn, so that
//! what disturbs the machine disturbs all of them. Run it with `benches/peers/run`.

mod backend;
mod http2;
mod load;
mod proxy;
mod report;
mod scenario;
mod tls;

use std::error::Error;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::signal::unix::{SignalKind, signal};

use backend::Backend;
use proxy::{Kind, Proxy};
use report::{Cell, Table};
use scenario::{MEMORY, SCENARIOS, Scenario, Use};
use tls::Certificate;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Compares evenkeel with nginx and HAProxy on this machine.
#[derive(Debug, Parser)]
#[command(name = "peers")]
struct Options {
    /// Measure; without it nothing is done, so that `cargo bench` stays short.
    #[arg(long)]
    run: bool,
    /// How often each scenario is measured for each proxy; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long one measurement takes, in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only these scenarios, by name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Which proxies run.
    #[arg(long, value_delimiter = ',', default_values_t = Kind::ALL)]
    proxies: Vec<Kind>,
    /// The evenkeel binary.
    #[arg(long, default_value = "target/release/evenkeel")]
    evenkeel: PathBuf,
    /// Write every single measurement to this file as well.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        // `cargo test --benches` and `cargo bench FILTER` pass what is meant for other harnesses.
        Err(error) if !std::env::args().any(|argument| argument == "--run") && error.use_stderr() => {
            return hint();
        }
        Err(error) => error.exit(),
    };
    if !options.run {
        return hint();
    }
    match measure(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn hint() -> ExitCode {
    println!("peers: compares evenkeel with nginx and HAProxy for some minutes; start it with benches/peers/run");
    ExitCode::SUCCESS
}

/// Whether everything was measured without an error.
fn measure(options: &Options) -> Result<bool> {
    let scenarios = chosen(&options.only)?;
    if !(0.05..=60.0).contains(&options.seconds) {
        return Err("--seconds: write 0.05 to 60".into());
    }
    let processors = Processors::find()?;
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    processors.stay_on_load()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut ended = signal(SignalKind::terminate())?;
        // Whichever ends first: proxies are stopped and files removed as what held them is dropped.
        tokio::select! {
            done = rounds(options, &scenarios, &processors) => done,
            _ = interrupted.recv() => Err("interrupted".into()),
            _ = ended.recv() => Err("ended".into()),
        }
    })
}

fn chosen(only: &[String]) -> Result<Vec<&'static Scenario>> {
    let names = || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    if only.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let find = |name: &String| SCENARIOS.iter().find(|scenario| scenario.name == *name);
    only.iter().map(|name| find(name).ok_or_else(|| format!("--only {name}: write {}", names()).into())).collect()
}

async fn rounds(options: &Options, scenarios: &[&'static Scenario], processors: &Processors) -> Result<bool> {
    let directory = tempfile::Builder::new().prefix("peers-").tempdir()?;
    let servers = [Backend::start(b'a')?, Backend::start(b'b')?];
    let certificate = Certificate::make(directory.path())?;
    let connector = certificate.connector()?;
    let start = |kind| Proxy::start(kind, &options.evenkeel, directory.path(), &servers, &certificate, processors);
    let mut proxies = Vec::new();
    for &kind in &options.proxies {
        proxies.push(start(kind).await?);
    }
    let mut table = Table::new(&options.proxies, scenarios);
    let time = Duration::from_secs_f64(options.seconds);
    for round in 0..options.rounds as usize {
        for scenario in scenarios.iter().filter(|scenario| scenario.name != MEMORY) {
            for turn in 0..proxies.len() {
                let which = (turn + round) % proxies.len();
                let proxy = &proxies[which];
                progress(&format!("round {} of {}: {}, {}", round + 1, options.rounds, scenario.name, proxy.kind));
                let measured = match scenario.using {
                    Use::Http2 => http2::run(scenario, proxy, time).await,
                    _ => load::run(scenario, proxy, &connector, time).await,
                };
                let cell = match measured {
                    Ok(cell) => cell,
                    Err(error) => Cell::failed(&*error),
                };
                table.add(which, scenario, cell);
            }
        }
    }
    drop(proxies);
    for scenario in scenarios.iter().filter(|scenario| scenario.name == MEMORY) {
        for (which, &kind) in options.proxies.iter().enumerate() {
            progress(&format!("memory, {kind}"));
            // A proxy that has worked keeps memory for the next peak; a fresh one shows what it needs.
            let proxy = start(kind).await?;
            let cell = match load::idle(&proxy).await {
                Ok(cell) => cell,
                Err(error) => Cell::failed(&*error),
            };
            table.add(which, scenario, cell);
        }
    }
    progress("");
    print!("{}", report::machine(&options.proxies, &options.evenkeel));
    print!("{table}");
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&table.json())?)?;
    }
    Ok(!table.has_failures())
}

/// One line on a terminal that the next one replaces; nothing elsewhere.
fn progress(text: &str) {
    use std::io::IsTerminal as _;
    let mut error = io::stderr();
    if error.is_terminal() {
        // What is shown while it runs is not worth an error.
        let _ = write!(error, "\r\x1b[K{text}");
        let _ = error.flush();
    }
}

/// Which processor is whose.
#[derive(Debug)]
struct Processors {
    proxies: CpuSet,
    load: CpuSet,
}

impl Processors {
    /// The first processor this process may use is the proxies', the second the load's.
    fn find() -> Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut each = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).map(|cpu| {
            let mut set = CpuSet::new();
            set.set(cpu);
            set
        });
        match (each.next(), each.next()) {
            (Some(proxies), Some(load)) => Ok(Self { proxies, load }),
            _ => Err("two processors are needed: one for the proxies, one for the load".into()),
        }
    }

    fn stay_on_load(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.load)?)
    }

    /// Runs what starts a process, which keeps the processor of the thread that started it.
    fn starting<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        sched_setaffinity(None, &self.proxies)?;
        let started = start();
        self.stay_on_load()?;
        started
    }
}
