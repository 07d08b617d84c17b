//! Looks at a page with headless Chromium, where that is installed.

use std::path::Path;
use std::process::Command;

/// The page as Chromium has it once it is loaded, and what its console was told.
pub fn browse(page: &Path, profile: &Path) -> Option<(String, String)> {
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]);
    chromium.args(["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--dump-dom"]);
    chromium.arg(format!("--user-data-dir={}", profile.display())).arg(format!("file://{}", page.display()));
    let output = chromium.output().ok()?;
    let told = String::from_utf8_lossy(&output.stderr);
    let told = told.lines().filter(|line| line.contains("CONSOLE")).collect::<Vec<_>>().join("\n");
    Some((String::from_utf8_lossy(&output.stdout).into_owned(), told))
}
