//! Looks at a page with headless Chromium, where that is installed.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A page that is not there by then never will be.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the user of a browser prefers.
#[derive(Debug, Clone, Copy)]
pub enum Theme {
    Light,
    Dark,
}

/// The page as Chromium has it once it is loaded, and what its console was told; none where Chromium is not installed.
///
/// # Panics
/// When it is not installed and everything is to be looked at, and when it does not end.
pub fn browse(page: &Path, profile: &Path) -> Option<(String, String)> {
    chromium(page, profile, &["--dump-dom"])
}

/// How bright the corner of the page is, 0 to 255; none where Chromium is not installed.
///
/// # Panics
/// As [`browse`], and when there is no picture.
pub fn look(page: &Path, profile: &Path, theme: Theme) -> Option<f64> {
    let picture = profile.with_extension("png");
    let scheme = match theme {
        Theme::Dark => "--blink-settings=preferredColorScheme=0",
        Theme::Light => "--blink-settings=preferredColorScheme=1",
    };
    let to = format!("--screenshot={}", picture.display());
    chromium(page, profile, &[scheme, &to, "--window-size=800,600"])?;
    Some(corner(&fs::read(&picture).unwrap()))
}

fn chromium(page: &Path, profile: &Path, args: &[&str]) -> Option<(String, String)> {
    // Files, because nobody reads a pipe before the end.
    let (dom, told) = (profile.with_extension("dom"), profile.with_extension("told"));
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]);
    chromium.args(["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]).args(args);
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

/// The mean of red, green and blue of the first pixel of a PNG. Each filter of a row leaves it as it is, since there is
/// nothing to the left and nothing above (PNG, third edition, §9.2).
fn corner(png: &[u8]) -> f64 {
    let mut packed = Vec::new();
    let mut rest = &png[8..];
    while let [a, b, c, d, kind @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if kind.starts_with(b"IDAT") {
            packed.extend_from_slice(&kind[4..4 + length]);
        }
        // The name of a chunk, its data, and its checksum.
        rest = &kind[4 + length + 4..];
    }
    let mut pixel = [0; 4];
    flate2::read::ZlibDecoder::new(&*packed).read_exact(&mut pixel).unwrap();
    pixel[1..].iter().map(|colour| f64::from(*colour)).sum::<f64>() / 3.0
}
