//! Looks at a page with headless Chromium, where that is installed.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A page that is not there by then never will be.
const PATIENCE: Duration = Duration::from_secs(120);

/// The page as Chromium has it once it is loaded, and what its console was told; none where Chromium is not installed.
///
/// # Panics
/// When it is not installed and everything is to be looked at, and when it does not end.
pub fn browse(page: &Path, profile: &Path) -> Option<(String, String)> {
    // Files, because nobody reads a pipe before the end.
    let (dom, told) = (profile.with_extension("dom"), profile.with_extension("told"));
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]);
    chromium.args(["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--dump-dom"]);
    chromium.arg(format!("--user-data-dir={}", profile.display())).arg(format!("file://{}", page.display()));
    chromium.stdin(Stdio::null()).stdout(File::create(&dom).unwrap()).stderr(File::create(&told).unwrap());
    let Ok(mut child) = chromium.spawn() else {
        return super::installed(None, "chromium");
    };
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            let told = String::from_utf8_lossy(&fs::read(&told).unwrap()).into_owned();
            panic!("chromium did not end within {PATIENCE:?} with {}: {told}", page.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let read = |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
    let told = read(&told).lines().filter(|line| line.contains("CONSOLE")).collect::<Vec<_>>().join("\n");
    Some((read(&dom), told))
}
