//! HTTP/2 clients: h2load of nghttp2, which every proxy's authors measure with.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::Result;
use crate::proxy::Proxy;
use crate::report::Cell;
use crate::scenario::Scenario;
use crate::tls::{CIPHER, GROUP, HOST};

/// Streams of each connection.
const STREAMS: u32 = 10;
/// Before the clock starts.
const WARM: Duration = Duration::from_millis(250);

/// Measures one scenario once.
pub(crate) async fn run(scenario: &Scenario, proxy: &Proxy, time: Duration) -> Result<Cell> {
    load(scenario, proxy, WARM).await?;
    let (start, cpu) = (Instant::now(), proxy.cpu()?);
    let requests = load(scenario, proxy, time).await?;
    // What opens the connections is in it: some handshakes among ten thousands of requests.
    let (elapsed, cpu) = (start.elapsed(), proxy.cpu()? - cpu);
    Ok(Cell::measured(cpu.as_secs_f64() * 1e6 / requests, requests / elapsed.as_secs_f64()))
}

/// Runs h2load for some time; how many requests were answered as they should be.
async fn load(scenario: &Scenario, proxy: &Proxy, time: Duration) -> Result<f64> {
    let mut command = Command::new("h2load");
    command
        .args(["--threads=1", &format!("--clients={}", scenario.connections)])
        .arg(format!("--max-concurrent-streams={STREAMS}"))
        .arg(format!("--duration={}ms", time.as_millis()))
        .args([&format!("--tls13-ciphers={CIPHER}"), &format!("--groups={GROUP}"), "--npn-list=h2"])
        .arg(format!("--connect-to={}", proxy.tls_address))
        .arg(format!("https://{HOST}{}", scenario.path))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.map_err(|error| format!("h2load (package nghttp2-client): {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |begin: &str| said.lines().find_map(|line| line.strip_prefix(begin));
    let wrong = || {
        let line = |begin| line(begin).unwrap_or("nothing");
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        format!("h2load: {}; status codes: {}; {told}", line("requests: "), line("status codes: "))
    };
    let requests = line("requests: ").ok_or_else(wrong)?;
    let counted = |what: &str| -> Option<f64> {
        requests.split(", ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    let (Some(done), Some(succeeded)) = (counted("done"), counted("succeeded")) else { return Err(wrong().into()) };
    let h2 = line("Application protocol: ").is_some_and(|protocol| protocol == "h2");
    if !h2 || succeeded <= 0.0 || done > succeeded {
        return Err(wrong().into());
    }
    Ok(succeeded)
}
